//! alpm, the package database of Arch Linux: one folder per package, with the files `desc` and `files`.

use super::{Claims, ComponentKind, Owner};
use crate::model::fileset::parent;

const LOCAL: &[u8] = b"var/lib/pacman/local";

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.below(LOCAL) {
        let Some(dir) = entry.path.strip_suffix(b"/desc").filter(|d| parent(d) == Some(LOCAL))
        else {
            continue;
        };
        let Some(desc) = claims.text(&entry.path) else { continue };
        let base = section(&desc, b"%BASE%").next();
        let Some(name) = base.or_else(|| section(&desc, b"%NAME%").next()) else { continue };
        let Some(mut owner) = Owner::new("alpm", name, ComponentKind::OsPackage) else { continue };
        if let Some(files) = claims.text(&[dir, b"/files"].concat()) {
            for path in section(&files, b"%FILES%") {
                claims.claim_listed(b"", path, &mut owner);
            }
        }
    }
}

/// Returns the lines from a heading to the next blank line.
fn section<'a>(text: &'a [u8], heading: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    text.split(|b| *b == b'\n')
        .skip_while(move |line| *line != heading)
        .skip(1)
        .take_while(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn files_belong_to_the_base_package() {
        let (owners, _) = Fixture::default()
            .file("var/lib/pacman/local/gcc-libs-14/desc", "%NAME%\ngcc-libs\n\n%BASE%\ngcc\n\n")
            .file(
                "var/lib/pacman/local/gcc-libs-14/files",
                "%FILES%\nusr/\nusr/lib/libgcc.so\n\n%BACKUP%\netc/x\n",
            )
            .file("usr/lib/libgcc.so", "x")
            .file("etc/x", "x")
            .owners(&[]);
        assert!(owners.contains(&"usr/lib/libgcc.so=alpm:gcc".to_owned()), "{owners:?}");
        assert!(owners.contains(&"etc/x=dir:etc".to_owned()), "{owners:?}");
    }
}
