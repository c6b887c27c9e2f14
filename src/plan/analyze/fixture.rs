//! Small file sets for tests.

use std::sync::Arc;

use super::*;
use crate::model::content::Contents;
use crate::model::fileset::{FileData, FileSet, Location, Mtime, Xattrs};
use crate::model::index::SourceId;

/// Builds a file set in memory and creates missing parents.
#[derive(Default)]
pub(crate) struct Fixture {
    items: BTreeMap<Vec<u8>, (InodeKind, Option<Xattrs>)>,
    bytes: Vec<u8>,
}

impl Fixture {
    pub(crate) fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.raw_file(path.as_bytes(), bytes.as_ref(), None)
    }

    pub(crate) fn raw_file(mut self, path: &[u8], bytes: &[u8], xattrs: Option<Xattrs>) -> Self {
        let location = Location::Span { source: SourceId::new(0), offset: self.bytes.len() as u64 };
        self.bytes.extend_from_slice(bytes);
        let hash = *blake3::hash(bytes).as_bytes();
        let kind = InodeKind::File(FileData { size: bytes.len() as u64, hash, location });
        self.items.insert(path.to_vec(), (kind, xattrs));
        self
    }

    pub(crate) fn dir(mut self, path: &str) -> Self {
        self.items.insert(path.into(), (InodeKind::Dir, None));
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        self.items
            .insert(path.into(), (InodeKind::Symlink { target: target.as_bytes().into() }, None));
        self
    }

    pub(crate) fn build(mut self) -> Rootfs {
        let paths: Vec<Vec<u8>> = self.items.keys().cloned().collect();
        for path in paths {
            let mut dir = parent(&path);
            while let Some(d) = dir.filter(|d| !d.is_empty()) {
                self.items.entry(d.to_vec()).or_insert((InodeKind::Dir, None));
                dir = parent(d);
            }
        }
        let (mut entries, mut inodes) = (Vec::new(), Vec::new());
        for (path, (kind, xattrs)) in self.items {
            entries.push(Entry { path: path.into(), inode: InodeId::new(inodes.len()) });
            let mtime = Mtime::default();
            let xattrs = xattrs.map(Box::new);
            let mode = if matches!(kind, InodeKind::Dir) { 0o755 } else { 0o644 };
            inodes.push(Inode { kind, mode, uid: 0, gid: 0, mtime, xattrs });
        }
        let files = FileSet::new(entries, inodes).unwrap();
        Rootfs { files, contents: Contents::new(vec![Arc::new(self.bytes)]) }
    }

    /// `path=component`, for everything but directories.
    pub(crate) fn owners(self, churn: &[&str]) -> (Vec<String>, Vec<String>) {
        let rootfs = self.build();
        let set = &rootfs.files;
        let rules: Vec<ChurnRule> = churn.iter().map(|r| r.parse().unwrap()).collect();
        let analysis = analyze(&rootfs, &rules).unwrap();
        let line = |e: &Entry| {
            let name = &analysis.owner_of(e.inode).name;
            format!("{}={name}", e.path.escape_ascii())
        };
        let files = set.entries().iter().filter(|e| !matches!(set.inode(e).kind, InodeKind::Dir));
        (files.map(line).collect(), analysis.notes)
    }
}
