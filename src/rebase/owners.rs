//! Which package of the system a path belongs to, as its database lists it.

use std::collections::BTreeMap;

use super::MergeItem;
use crate::base::error::{Context, Result};
use crate::base::limits::{MAX_LOOKUPS, MAX_TEXT, MAX_TEXTS};
use crate::model::fileset::{FileSet, InodeKind, base_name, display, join};
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{APK_INSTALLED, DPKG_INFO, DPKG_STATUS};

/// The package of each file that a database lists.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_path: BTreeMap<Box<[u8]>, String>,
}

impl Owners {
    /// Reads the databases of some images. What several list belongs to the package of the first.
    ///
    /// # Errors
    /// If a database can't be read.
    pub(super) fn new(images: [&Rootfs; 3]) -> Result<Self> {
        let mut all = Self::default();
        for rootfs in images {
            all.add(rootfs)?;
        }
        Ok(all)
    }

    fn add(&mut self, rootfs: &Rootfs) -> Result<()> {
        let (mut left, mut lookups) = (MAX_TEXTS, MAX_LOOKUPS);
        for entry in rootfs.files.below(DPKG_INFO) {
            let Some(list) = base_name(&entry.path).strip_suffix(b".list") else { continue };
            let package = name(list);
            let Some(text) = text(rootfs, &entry.path, &mut left)? else { continue };
            for path in text.split(|b| *b == b'\n') {
                self.claim(
                    &rootfs.files,
                    path.strip_prefix(b"/").unwrap_or(path),
                    &package,
                    &mut lookups,
                );
            }
        }
        for path in APK_INSTALLED {
            let Some(text) = text(rootfs, path, &mut left)? else { continue };
            let (mut package, mut dir) = (String::new(), &b""[..]);
            for line in text.split(|b| *b == b'\n') {
                match line.get(..2) {
                    Some(b"P:") => package = name(&line[2..]),
                    Some(b"F:") => dir = &line[2..],
                    Some(b"R:") => {
                        self.claim(&rootfs.files, &join(dir, &line[2..]), &package, &mut lookups);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Notes the package of a file, which may be in a folder that is a link: `/bin/sh`.
    fn claim(&mut self, files: &FileSet, path: &[u8], package: &str, lookups: &mut u64) {
        let found = match files.get(path) {
            Some(_) => Some(path.to_vec()),
            None => files.resolve_within(path, lookups),
        };
        let Some(path) = found else { return };
        if files.get(&path).is_some_and(|inode| !matches!(inode.kind, InodeKind::Dir)) {
            self.by_path.entry(path.into()).or_insert_with(|| package.to_owned());
        }
    }

    /// Returns the package of a path, or that of a record of a package database.
    pub(super) fn of(&self, subject: &MergeItem) -> Option<String> {
        match subject {
            MergeItem::Record(path, record)
                if **path == *DPKG_STATUS || APK_INSTALLED.contains(&&**path) =>
            {
                Some(name(record.as_bytes()))
            }
            MergeItem::Path(path) => {
                let of_info = path.strip_prefix(DPKG_INFO).and_then(|name| name.strip_prefix(b"/"));
                let of_info = of_info.and_then(|file| {
                    file.iter().rposition(|b| *b == b'.').map(|dot| name(&file[..dot]))
                });
                of_info.or_else(|| self.by_path.get(path).cloned())
            }
            _ => None,
        }
    }
}

/// Returns the name of a package without its architecture: `libc6:amd64`.
pub(super) fn name(text: &[u8]) -> String {
    let end = text.iter().position(|b| *b == b':').unwrap_or(text.len());
    display(&text[..end]).trim_start_matches('/').to_owned()
}

/// Reads a text as long as there is room left; `None` if the path is no file.
pub(super) fn text(rootfs: &Rootfs, path: &[u8], left: &mut u64) -> Result<Option<Vec<u8>>> {
    let Some(InodeKind::File(file)) = rootfs.files.get(path).map(|inode| &inode.kind) else {
        return Ok(None);
    };
    if file.size > *left {
        return Ok(None);
    }
    *left -= file.size;
    let read = rootfs.contents.read(file, MAX_TEXT);
    read.map(Some).with_context(|| format!("reading {}", display(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::analyze::fixture::Fixture;

    #[test]
    fn files_belong_to_packages_through_folders_that_are_links() {
        let rootfs = Fixture::default()
            .file("var/lib/dpkg/info/libc6:amd64.list", "/.\n/lib\n/lib/libc.so.6\n/none\n")
            .file("lib/apk/db/installed", "P:musl\nF:\nR:top\nF:lib\nR:ld.so\n\n")
            .symlink("lib64", "usr/lib")
            .file("usr/lib/libc.so.6", "x")
            .file("lib/libc.so.6", "x")
            .file("lib/ld.so", "x")
            .file("top", "x")
            .build();
        let empty = Rootfs::default();
        let owners = Owners::new([&rootfs, &empty, &empty]).unwrap();
        let of = |path: &str| owners.of(&MergeItem::Path(path.as_bytes().into()));
        for (path, package) in [
            ("lib/libc.so.6", Some("libc6")),
            ("lib/ld.so", Some("musl")),
            ("top", Some("musl")),
            ("lib", None),
            ("var/lib/dpkg/info/python3.11:amd64.postinst", Some("python3.11")),
        ] {
            assert_eq!(of(path).as_deref(), package, "{path}");
        }
        let record = MergeItem::Record(DPKG_STATUS.into(), "libc6:amd64".into());
        assert_eq!(owners.of(&record).as_deref(), Some("libc6"));
    }
}
