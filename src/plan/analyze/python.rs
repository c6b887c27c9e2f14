//! Python packages, found by the lists of files that installers write to `*.dist-info/RECORD`, and
//! compiled modules, which are assigned to the component of their source.

use super::{Claims, ComponentKind, Owner, UNOWNED};
use crate::model::fileset::{base_name, parent};

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.entries() {
        let name = base_name(&entry.path);
        let stem = name.strip_suffix(b".dist-info").or_else(|| name.strip_suffix(b".egg-info"));
        let Some(stem) = stem else { continue };
        // `numpy-2.1.0`, or without a version; the version has no dash.
        let mut parts = stem.split(|b| *b == b'-');
        let package = parts.next().unwrap_or(stem);
        let site = parent(&entry.path).unwrap_or_default();
        let name = normal(package);
        let kind = ComponentKind::LanguagePackage;
        let Some(mut owner) = Owner::new("python", name.as_bytes(), kind) else { continue };
        claims.claim_for(entry, &mut owner);
        if let (Some(component), Some(version)) = (owner.id, parts.next()) {
            claims.versioned(component, version);
        }
        for file in set.below(&entry.path) {
            claims.claim_for(file, &mut owner);
        }
        let below = |name: &[u8]| [&entry.path[..], name].join(&b'/');
        if let Some(record) = claims.text(&below(b"RECORD")) {
            for line in record.split(|b| *b == b'\n') {
                if let Some(path) = first_field(line).and_then(|field| join(site, &field)) {
                    claims.claim_listed(b"", &path, &mut owner);
                }
            }
        } else if let Some(top) = claims.text(&below(b"top_level.txt")) {
            for module in top.split(|b| *b == b'\n').map(<[u8]>::trim_ascii) {
                let Some(path) = join(site, module).filter(|_| !module.is_empty()) else {
                    continue;
                };
                claims.claim_listed(b"", &[&path[..], b".py"].concat(), &mut owner);
                let below = set.below(&path);
                if claims.afford(below.len()) {
                    for file in below {
                        claims.claim_for(file, &mut owner);
                    }
                }
            }
        }
    }
}

/// Assigns `X/__pycache__/Y.*.pyc` to the owner of `X/Y.py`: they change together, and installers that
/// compile list only the sources.
pub(super) fn claim_bytecode(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.entries() {
        if !claims.is_free(entry) || !entry.path.ends_with(b".pyc") {
            continue;
        }
        let Some(dir) = parent(&entry.path).filter(|d| base_name(d) == b"__pycache__") else {
            continue;
        };
        let module = base_name(&entry.path).split(|b| *b == b'.').next().unwrap_or_default();
        let mut source = parent(dir).unwrap_or_default().to_vec();
        if !source.is_empty() {
            source.push(b'/');
        }
        source.extend_from_slice(module);
        source.extend_from_slice(b".py");
        let Some(i) = set.position(&source) else { continue };
        let owner = claims.owner[set.entries()[i].inode.index()];
        if owner != UNOWNED {
            claims.claim(entry, owner);
        }
    }
}

/// Normalises a package name as defined by PEP 503.
fn normal(name: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(name).chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

/// Returns the first field of a CSV line (RFC 4180), unquoted.
fn first_field(line: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        let field = line.split(|b| *b == b',').next()?.trim_ascii_end();
        return (!field.is_empty()).then(|| field.to_vec());
    };
    let mut field = Vec::new();
    let mut bytes = quoted.iter().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'"' if bytes.peek() == Some(&&b'"') => {
                field.push(b'"');
                bytes.next();
            }
            b'"' => return Some(field),
            b => field.push(*b),
        }
    }
    None
}

/// Returns a path in RECORD as a path from the root. It may be relative to the folder of packages, with
/// `..` for scripts, or absolute; `None` if it leaves the root.
fn join(site: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let base: &[u8] = if path.starts_with(b"/") { b"" } else { site };
    for part in crate::model::fileset::parts(base).chain(crate::model::fileset::parts(path)) {
        if part == b".." {
            kept.pop()?;
        } else {
            kept.push(part);
        }
    }
    Some(kept.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn a_record_lists_what_belongs_to_a_package() {
        let site = "opt/venv/lib/python3.11/site-packages";
        let record = "numpy/__init__.py,sha256=x,10\r\n../../../bin/f2py,,\n\"numpy/a,\"\"b\"\".py\",,\n/usr/share/numpy.1,,\n../../../../../../../etc/passwd,,\n\"broken\nnumpy.libs/libblas.so,,\n";
        let (owners, notes) = Fixture::default()
            .file(&format!("{site}/NumPy_Core-2.1.dist-info/RECORD"), record)
            .file(&format!("{site}/NumPy_Core-2.1.dist-info/METADATA"), "x")
            .file(&format!("{site}/numpy/__init__.py"), "x")
            .file(&format!("{site}/numpy/a,\"b\".py"), "x")
            .file(&format!("{site}/numpy/__pycache__/__init__.cpython-311.pyc"), "x")
            .file(&format!("{site}/numpy/__pycache__/gone.cpython-311.pyc"), "x")
            .file(&format!("{site}/numpy.libs/libblas.so"), "x")
            .file("opt/venv/bin/f2py", "x")
            .file("usr/share/numpy.1", "x")
            .file("etc/passwd", "x")
            .owners(&[]);
        let of = |path: &str| {
            let prefix = format!("{path}=");
            owners.iter().find_map(|o| o.strip_prefix(&prefix)).map(str::to_owned)
        };
        let ours = Some("python:numpy-core".to_owned());
        for path in ["METADATA", "RECORD"] {
            assert!(of(&format!("{site}/NumPy_Core-2.1.dist-info/{path}")).is_some());
        }
        assert_eq!(of(&format!("{site}/numpy/__init__.py")), ours);
        assert_eq!(of(&format!("{site}/numpy/a,\\\"b\\\".py")), ours);
        assert_eq!(of(&format!("{site}/numpy.libs/libblas.so")), ours);
        assert_eq!(of(&format!("{site}/numpy/__pycache__/__init__.cpython-311.pyc")), ours);
        assert_ne!(of(&format!("{site}/numpy/__pycache__/gone.cpython-311.pyc")), ours);
        assert_eq!(of("opt/venv/bin/f2py"), ours);
        assert_eq!(of("usr/share/numpy.1"), ours);
        assert_eq!(of("etc/passwd"), Some("dir:etc".into()));
        assert!(notes.is_empty());
    }

    #[test]
    fn a_high_later_number_of_a_version_tells_of_frequent_releases() {
        let rootfs = Fixture::default()
            .file("v/boto3-1.40.43.dist-info/METADATA", "x")
            .file("v/fastapi-0.118.0.dist-info/METADATA", "x")
            .file("v/scipy-1.16.2.dist-info/METADATA", "x")
            .file("v/certifi-2025.8.3.dist-info/METADATA", "x")
            .file("v/none.egg-info/PKG-INFO", "x")
            .file("srv/node_modules/lucide/package.json", r#"{"version":"0.544.0"}"#)
            .file("srv/node_modules/next/package.json", r#"{"version":"15.5.4"}"#)
            .file("srv/node_modules/odd/package.json", r#"{"version":7}"#)
            .build();
        let analysis = super::super::analyze(&rootfs, &[]).unwrap();
        let rapid = analysis.components.iter().filter(|c| c.rapid).map(|c| c.name.as_str());
        assert_eq!(rapid.collect::<Vec<_>>(), ["npm:lucide", "python:boto3", "python:fastapi"]);
    }

    #[test]
    fn eggs_go_by_their_top_modules() {
        let (owners, _) = Fixture::default()
            .file("usr/lib/python3/x.egg-info/top_level.txt", "x\n\n../../../etc\n")
            .file("usr/lib/python3/x/a.py", "x")
            .file("usr/lib/python3/x.py", "x")
            .file("etc/hosts", "x")
            .owners(&[]);
        assert!(owners.contains(&"usr/lib/python3/x/a.py=python:x".to_owned()), "{owners:?}");
        assert!(owners.contains(&"usr/lib/python3/x.py=python:x".to_owned()), "{owners:?}");
    }

    #[test]
    fn names_are_compared_as_pep_503_says() {
        assert_eq!(normal(b"Foo.__Bar-baz"), "foo-bar-baz");
        assert_eq!(first_field(b"\"open"), None);
    }
}
