//! What old layers hold and the new image does not show.

use std::collections::BTreeMap;

use super::OldLayer;
use crate::layers::changeset::{Change, What};
use crate::model::fileset::{FileData, FileSet, Inode, Kind, base_name, display, join, parent};
use crate::model::path_pattern::PathPattern;

/// A file in an old layer that is not seen any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its path.
    pub path: Box<[u8]>,
    /// Its bytes.
    pub bytes: u64,
    /// Position of its layer in the previous image.
    pub layer: usize,
    /// Whether the path is gone, and not just something else now.
    pub deleted: bool,
    /// The file, where it can be known.
    pub file: Option<FileData>,
}

/// Files in old layers that are not what the new file set has there.
pub fn dead(new: &FileSet, previous: &[OldLayer]) -> Vec<Dead> {
    let mut dead = Vec::new();
    // The file at each path, the layer that has its bytes, and whether it is dead there.
    let mut known: BTreeMap<&[u8], (&FileData, usize, bool)> = BTreeMap::new();
    for (layer, old) in previous.iter().enumerate() {
        for Change { path, what } in &old.changes {
            let now = at(new, path);
            let shown = |file: &FileData| {
                now.is_some_and(|now| {
                    matches!(&now.kind, Kind::File(f) if f.hash == file.hash && f.size == file.size)
                })
            };
            let (bytes, file) = match what {
                What::Put(Inode { kind: Kind::File(file), .. }) => {
                    (file.size, Some((file, layer, !shown(file))))
                }
                // Its bytes count under the first name; but this one may be the one that is known.
                What::Link { target, .. } => (0, known.get(&**target).copied()),
                What::Put(_) => {
                    known.remove(&**path);
                    continue;
                }
                // Links of this layer may still point at what it takes away.
                What::Whiteout | What::Opaque | What::Unnamed(_) => continue,
            };
            if file.map_or(now.is_none(), |(file, ..)| !shown(file)) {
                let found = |layer| Dead {
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

/// What a path names, with symlinks followed in its directory part.
pub fn at<'a>(set: &'a FileSet, path: &[u8]) -> Option<&'a Inode> {
    set.get(path).or_else(|| {
        let dir = set.resolve(parent(path)?)?;
        set.get(&join(&dir, base_name(path)))
    })
}

impl Dead {
    /// For people.
    pub fn path(&self) -> String {
        display(&self.path)
    }
}

/// What a pattern of `--purge` met, from nothing to what it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    /// Nothing, which may be a slip.
    Nothing,
    /// Only what the new image shows, such as this path.
    Shown(String),
    /// Something that only the previous image has.
    Gone,
}

/// What a pattern meets.
pub fn met(pattern: &PathPattern, new: &FileSet, previous: &[OldLayer], dead: &[Dead]) -> Met {
    let mut old = previous.iter().flat_map(|l| &l.changes);
    let put = |c: &Change| matches!(c.what, What::Put(_) | What::Link { .. });
    if dead.iter().any(|d| pattern.matches(&d.path)) {
        Met::Gone
    } else if let Some(shown) = new.entries().iter().find(|e| pattern.matches(&e.path)) {
        Met::Shown(display(&shown.path))
    } else if old.any(|c| put(c) && pattern.matches(&c.path)) {
        Met::Gone
    } else {
        Met::Nothing
    }
}
