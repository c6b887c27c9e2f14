//! Dead files: what old layers hold and the new image does not use.

use std::collections::BTreeMap;

use super::OldLayer;
use crate::layers::changeset::{Change, ChangeKind};
use crate::model::fileset::{
    FileData, FileSet, Inode, InodeKind, base_name, display, join, parent,
};
use crate::model::path_pattern::PathPattern;

/// A file in an old layer that the new image has deleted or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadFile {
    /// Its path.
    pub path: Box<[u8]>,
    /// Its size in bytes; 0 for further names of a file.
    pub bytes: u64,
    /// Position of its layer in the previous image.
    pub layer: usize,
    /// Whether the path was deleted, not replaced.
    pub deleted: bool,
    /// The file, if it can be determined.
    pub file: Option<FileData>,
}

/// Returns the files in old layers that differ from what the new file set has at their paths.
pub(crate) fn dead_files(new: &FileSet, previous: &[OldLayer]) -> Vec<DeadFile> {
    let mut dead = Vec::new();
    // The file at each path, the layer that has its bytes, and whether it is dead there.
    let mut known: BTreeMap<&[u8], (&FileData, usize, bool)> = BTreeMap::new();
    for (layer, old) in previous.iter().enumerate() {
        for Change { path, kind: what } in &old.changes {
            let now = find_following_parent(new, path);
            let shown = |file: &FileData| {
                now.is_some_and(|now| {
                    matches!(&now.kind, InodeKind::File(f) if f.hash == file.hash && f.size == file.size)
                })
            };
            let (bytes, file) = match what {
                ChangeKind::Add(Inode { kind: InodeKind::File(file), .. }) => {
                    (file.size, Some((file, layer, !shown(file))))
                }
                // The bytes count under the first name, but a user may know the file by this one.
                ChangeKind::Link { target, .. } => (0, known.get(&**target).copied()),
                ChangeKind::Add(_) => {
                    known.remove(&**path);
                    continue;
                }
                // Later links of this layer may still name what it removes.
                ChangeKind::Whiteout | ChangeKind::Opaque | ChangeKind::Unnamed(_) => continue,
            };
            if file.map_or(now.is_none(), |(file, ..)| !shown(file)) {
                let found = |layer| DeadFile {
                    path: path.clone(),
                    bytes,
                    layer,
                    deleted: now.is_none(),
                    file: file.map(|(file, ..)| file.clone()),
                };
                dead.push(found(layer));
                if let Some((_, below, true)) = file
                    && below != layer
                {
                    dead.push(found(below));
                }
            }
            match file {
                Some(file) => known.insert(path, file),
                None => known.remove(&**path),
            };
        }
    }
    dead
}

/// Returns the inode at a path, following symlinks in its directory part.
pub(crate) fn find_following_parent<'a>(set: &'a FileSet, path: &[u8]) -> Option<&'a Inode> {
    set.get(path).or_else(|| {
        let dir = set.resolve(parent(path)?)?;
        set.get(&join(&dir, base_name(path)))
    })
}

impl DeadFile {
    /// Returns the path for messages.
    pub(crate) fn path(&self) -> String {
        display(&self.path)
    }
}

/// What a pattern of `--purge` matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PurgeMatch {
    /// Nothing, which may be a typing error.
    Nothing,
    /// Only paths that the new image still has, such as this one.
    Shown(String),
    /// A path that only the previous image has.
    Purged,
}

/// Returns what a pattern matches.
pub(crate) fn purge_match(
    pattern: &PathPattern,
    new: &FileSet,
    previous: &[OldLayer],
    dead: &[DeadFile],
) -> PurgeMatch {
    let mut old = previous.iter().flat_map(|l| &l.changes);
    let put = |c: &Change| matches!(c.kind, ChangeKind::Add(_) | ChangeKind::Link { .. });
    if dead.iter().any(|d| pattern.matches(&d.path)) {
        PurgeMatch::Purged
    } else if let Some(shown) = new.entries().iter().find(|e| pattern.matches(&e.path)) {
        PurgeMatch::Shown(display(&shown.path))
    } else if old.any(|c| put(c) && pattern.matches(&c.path)) {
        PurgeMatch::Purged
    } else {
        PurgeMatch::Nothing
    }
}
