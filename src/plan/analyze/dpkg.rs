//! dpkg: the package database of Debian and Ubuntu, and the one of distroless images, which has a file
//! for each package.
//!
//! Packages of one source are built and updated together, so the component is the source package.

use std::collections::BTreeMap;

use super::{Claims, ComponentKind, Installation, Owner};
use crate::base::limits::MAX_PACKAGES;
use crate::model::fileset::{Mtime, base_name};

/// The list of packages.
pub(crate) const STATUS: &[u8] = b"var/lib/dpkg/status";
/// The folder of files about each of them.
pub(crate) const INFO: &[u8] = b"var/lib/dpkg/info";
const DISTROLESS: &[u8] = b"var/lib/dpkg/status.d";

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    if let Some(status) = claims.text(STATUS) {
        let sources = sources(&status);
        for entry in set.below(INFO) {
            let Some(list) = base_name(&entry.path).strip_suffix(b".list") else { continue };
            // `libc6:amd64.list` if the package can be installed for several architectures.
            let package = list.split(|b| *b == b':').next().unwrap_or(list);
            let Some(source) = sources.get(package) else { continue };
            let Some(mut owner) = owner(source) else { continue };
            // dpkg writes the list when it unpacks the package.
            owner.installation =
                Some(Installation { time: set.inode(entry).mtime, record: Some(entry.inode) });
            if let Some(paths) = claims.text(&entry.path) {
                for path in paths.split(|b| *b == b'\n') {
                    claims.claim_listed(b"", path, &mut owner);
                }
            }
        }
    }
    for entry in set.below(DISTROLESS) {
        let Some(base) = entry.path.strip_suffix(b".md5sums") else { continue };
        let (Some(sums), Some(status)) = (claims.text(&entry.path), claims.text(base)) else {
            continue;
        };
        let first = sources(&status).into_values().next();
        let Some(mut owner) = first.and_then(owner) else { continue };
        // Bazel unpacks packages reproducibly, and nothing is installed.
        let never = Mtime { secs: i64::MAX, nanos: 0 };
        owner.installation = Some(Installation { time: never, record: None });
        for line in sums.split(|b| *b == b'\n') {
            // 32 digits, two spaces, the path.
            if let Some(path) = line.get(34..) {
                claims.claim_listed(b"", path, &mut owner);
            }
        }
    }
}

fn owner(source: &[u8]) -> Option<Owner> {
    Owner::new("deb", source, ComponentKind::OsPackage)
}

/// Parses paragraphs of `Field: value` lines. Returns the source name of each package.
fn sources(status: &[u8]) -> BTreeMap<&[u8], &[u8]> {
    let mut found = BTreeMap::new();
    let (mut package, mut source): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    for line in status.split(|b| *b == b'\n').chain([&b""[..]]) {
        if line.is_empty() {
            if let Some(package) = package.take() {
                // `Source: gcc-12 (12.2.0-14)` if the source has a different version.
                let source = source.unwrap_or(package);
                let name = source.split(|b| *b == b' ').next().unwrap_or(source);
                found.insert(package, name);
                if found.len() == MAX_PACKAGES {
                    break;
                }
            }
            source = None;
        } else if let Some(value) = line.strip_prefix(b"Package:") {
            package = Some(value.trim_ascii());
        } else if let Some(value) = line.strip_prefix(b"Source:") {
            source = Some(value.trim_ascii()).filter(|s| !s.is_empty());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn files_belong_to_the_source_package_through_merged_folders() {
        let (owners, notes) = Fixture::default()
            .file(
                "var/lib/dpkg/status",
                "Package: libc6\nStatus: install ok installed\nSource: glibc\nDescription: x\n y\n\nPackage: bash\n",
            )
            .file("var/lib/dpkg/info/libc6:amd64.list", "/.\n/lib\n/lib/libc.so.6\n/etc/../etc/x\n")
            .file("var/lib/dpkg/info/bash.list", "/bin/bash\n/nothing/here\n")
            .file("var/lib/dpkg/info/gone.list", "/etc/passwd\n")
            .symlink("lib", "usr/lib")
            .symlink("bin", "usr/bin")
            .file("usr/lib/libc.so.6", "x")
            .file("usr/bin/bash", "x")
            .file("etc/passwd", "x")
            .owners(&[]);
        for want in [
            "usr/lib/libc.so.6=deb:glibc",
            "usr/bin/bash=deb:bash",
            "lib=deb:glibc",
            "etc/passwd=dir:etc",
        ] {
            assert!(owners.iter().any(|o| o == want), "{want} in {owners:?}");
        }
        assert!(notes.is_empty());
    }

    #[test]
    fn distroless_images_have_a_database_file_for_each_package() {
        let (owners, _) = Fixture::default()
            .file("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 1\n")
            .file(
                "var/lib/dpkg/status.d/tzdata.md5sums",
                "d41d8cd98f00b204e9800998ecf8427e  usr/share/zoneinfo/UTC\nshort\n",
            )
            .file("usr/share/zoneinfo/UTC", "x")
            .owners(&[]);
        assert!(owners.contains(&"usr/share/zoneinfo/UTC=deb:tzdata".to_owned()), "{owners:?}");
    }
}
