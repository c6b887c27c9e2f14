//! npm packages: folders below `node_modules` with a `package.json`.
//!
//! A file belongs to the innermost package around it. All copies of a package, of any version, are one
//! component, because they change in the same commits of the lock file.

use super::{Claims, ComponentKind};
use crate::model::fileset::{base_name, parent, parts};

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    let mut folders: Vec<&[u8]> = Vec::new();
    for entry in set.entries() {
        let Some(dir) = entry.path.strip_suffix(b"/package.json") else { continue };
        if package(dir).is_some() {
            folders.push(dir);
        }
    }
    // The deepest packages come first, so that an outer package does not claim their files.
    folders.sort_by_cached_key(|dir| (std::cmp::Reverse(parts(dir).count()), *dir));
    for dir in folders {
        let Some(name) = package(dir) else { continue };
        let name = format!("npm:{}", String::from_utf8_lossy(name));
        let component = claims.component(name, ComponentKind::LanguagePackage);
        let manifest = claims.text(&[dir, b"/package.json"].concat());
        if let Some(version) = manifest.and_then(|text| version(&text)) {
            claims.versioned(component, version.as_bytes());
        }
        if let Some(i) = set.position(dir) {
            claims.claim(&set.entries()[i], component);
        }
        for file in set.below(dir) {
            claims.claim(file, component);
        }
    }
}

/// Returns the version in a `package.json`; `None` if that is not valid.
fn version(text: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Package {
        version: String,
    }
    serde_json::from_slice::<Package>(text).ok().map(|package| package.version)
}

/// Returns the package in a folder: `node_modules/NAME` or `node_modules/@SCOPE/NAME`.
fn package(dir: &[u8]) -> Option<&[u8]> {
    let up = parent(dir)?;
    if base_name(up) == b"node_modules" {
        return Some(base_name(dir)).filter(|name| !name.starts_with(b"@"));
    }
    let scoped = base_name(up).starts_with(b"@") && base_name(parent(up)?) == b"node_modules";
    scoped.then(|| &dir[up.len() - base_name(up).len()..])
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn files_belong_to_the_innermost_package() {
        let (owners, _) = Fixture::default()
            .file("srv/node_modules/a/package.json", "not even json")
            .file("srv/node_modules/a/lib/x.js", "x")
            .file("srv/node_modules/a/test/package.json", "{}")
            .file("srv/node_modules/a/node_modules/b/package.json", "{}")
            .file("srv/node_modules/a/node_modules/b/i.js", "x")
            .file("srv/node_modules/@s/c/package.json", "{}")
            .file("srv/node_modules/@s/c/i.js", "x")
            .file("srv/node_modules/no-package/i.js", "x")
            .owners(&[]);
        assert_eq!(
            owners,
            [
                "srv/node_modules/@s/c/i.js=npm:@s/c",
                "srv/node_modules/@s/c/package.json=npm:@s/c",
                "srv/node_modules/a/lib/x.js=npm:a",
                "srv/node_modules/a/node_modules/b/i.js=npm:b",
                "srv/node_modules/a/node_modules/b/package.json=npm:b",
                "srv/node_modules/a/package.json=npm:a",
                "srv/node_modules/a/test/package.json=npm:a",
                "srv/node_modules/no-package/i.js=dir:srv/node_modules/no-package",
            ]
        );
    }
}
