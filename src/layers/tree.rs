//! Applies layers, lowest first.
//!
//! Each layer is applied in two steps, as the
//! [spec](https://github.com/opencontainers/image-spec/blob/main/layer.md) requires: first all
//! whiteouts, which act on lower layers only, wherever they are in the tar; then the entries, where a
//! later one of the same path wins.
//!
//! Where the spec is silent, the rules follow what containerd and umoci do on disk: symlinks in the
//! directory part of a path are followed inside the root, a directory on a directory only sets new
//! attributes, everything else is replaced, and a hard link's own header sets the metadata of its
//! inode ([`set_by_link`]).

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::hidden::{HiddenCounts, HiddenFile, How};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_IMPLIED, MAX_PATH, MAX_SYMLINKS};
use crate::layers::changeset::{Change, ChangeKind, set_by_link};
use crate::model::fileset::{
    Entry, FileSet, Inode, InodeKind, Mtime, display, join, parent, parts,
};
use crate::model::index::{InodeId, LayerIndex};

/// Number of applied changes after which the memory of their list is released.
const SHRINK_INTERVAL: usize = 1 << 14;

/// Applies layers, lowest first, each with its name for messages.
///
/// # Errors
/// If the layers contradict each other.
pub fn apply<'a>(
    layers: impl IntoIterator<Item = (&'a str, Vec<Change>)>,
) -> Result<(FileSet, HiddenCounts)> {
    let (files, hidden, _) = Tree::default().apply_all(layers)?;
    Ok((files, hidden))
}

/// The file set while layers are applied to it.
#[derive(Default)]
pub(super) struct Tree {
    names: BTreeMap<Box<[u8]>, InodeId>,
    inodes: Vec<Inode>,
    /// The layer that created each inode.
    made_in: Vec<LayerIndex>,
    /// The current layer.
    layer: LayerIndex,
    /// Names that whiteouts of the current layer removed. Its hard links may still refer to them,
    /// since for clients that go entry by entry they may still exist.
    removed: BTreeMap<Box<[u8]>, InodeId>,
    hidden: HiddenCounts,
    /// Bytes of the paths of implied directories, and bytes by which symlinks make other paths longer.
    implied_bytes: usize,
    /// Number and bytes of the regular files in all layers.
    seen: (u64, u64),
    /// Every lost name of a regular file, in order; `None` unless hidden files are to be listed.
    losses: Option<Vec<Loss>>,
}

/// A name that was removed or replaced.
struct Loss {
    path: Box<[u8]>,
    inode: InodeId,
    by: LayerIndex,
    how: How,
}

impl Tree {
    /// Returns an empty tree that lists hidden files.
    pub(super) fn listing() -> Self {
        Self { losses: Some(Vec::new()), ..Self::default() }
    }

    pub(super) fn apply_all<'a>(
        mut self,
        layers: impl IntoIterator<Item = (&'a str, Vec<Change>)>,
    ) -> Result<(FileSet, HiddenCounts, Vec<HiddenFile>)> {
        for (at, (name, changes)) in layers.into_iter().enumerate() {
            self.layer = LayerIndex::new(at);
            self.apply(changes).with_context(|| name)?;
        }
        self.finish()
    }

    /// Applies one layer.
    fn apply(&mut self, changes: Vec<Change>) -> Result<()> {
        self.removed.clear();
        // Where this layer replaces a symlink, its whiteouts do not act on the symlink's target.
        let added = OnceCell::new();
        let adds = |path: &[u8]| {
            let all = || -> BTreeSet<&[u8]> {
                let added = changes.iter().filter(|c| matches!(c.kind, ChangeKind::Add(_)));
                added.map(|c| &*c.path).collect()
            };
            added.get_or_init(all).contains(path)
        };
        for change in &changes {
            let itself = match change.kind {
                ChangeKind::Whiteout => true,
                ChangeKind::Opaque => false,
                _ => continue,
            };
            self.whiteout(&change.path, itself, &adds)
                .with_context(|| format!("whiteout of {}", display(&change.path)))?;
        }
        let mut changes = changes;
        changes.reverse();
        while let Some(Change { path, kind }) = changes.pop() {
            // The tree grows as the list shrinks, so the list's memory is released on the way.
            if changes.len().is_multiple_of(SHRINK_INTERVAL) {
                changes.shrink_to(changes.len());
            }
            match kind {
                ChangeKind::Add(inode) => self.put(&path, inode),
                ChangeKind::Link { target, metadata: like } => self.link(&path, &target, &like),
                ChangeKind::Unnamed(inode) => {
                    self.unnamed(&path, inode);
                    Ok(())
                }
                ChangeKind::Whiteout | ChangeKind::Opaque => Ok(()),
            }
            .with_context(|| display(&path))?;
        }
        Ok(())
    }

    /// Removes everything that lower layers have below a path, and with `itself` also the path.
    /// `replaced` returns whether the same layer replaces a symlink on the way.
    fn whiteout(
        &mut self,
        path: &[u8],
        itself: bool,
        replaced: &dyn Fn(&[u8]) -> bool,
    ) -> Result<()> {
        self.hidden.whiteouts += 1;
        let at = if itself {
            self.resolve_parent(path, replaced)?
        } else {
            self.resolve(path, replaced)?
        };
        let Some(at) = at else { return Ok(()) };
        let how = if itself { How::Deleted } else { How::Opaque };
        let mut removed = self.remove_below(&at, how);
        if itself
            && !at.is_empty()
            && let Some((path, id)) = self.names.remove_entry(&at[..])
        {
            self.lose(&path, id, how);
            removed.push((path, id));
        }
        self.removed.extend(removed);
        Ok(())
    }

    fn put(&mut self, path: &[u8], inode: Inode) -> Result<()> {
        if path.is_empty() && !matches!(inode.kind, InodeKind::Dir) {
            return Err(Error::malformed("the root must be a directory"));
        }
        let at = self.place_of(path)?;
        self.imply(at.len().saturating_sub(path.len()))?;
        self.make_parents(&at)?;
        // Children stay only when a directory replaces a directory.
        let keep = matches!(inode.kind, InodeKind::Dir) && self.is_dir(&at);
        if !keep {
            self.remove_below(&at, How::Overwritten);
        }
        let id = self.add(inode);
        self.name(at, id);
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8], like: &Inode) -> Result<()> {
        let at = self.place_of(path)?;
        self.imply(at.len().saturating_sub(path.len()))?;
        if at.is_empty() {
            return Err(Error::malformed("the root must be a directory"));
        }
        self.make_parents(&at)?;
        // As on disk, whatever the link replaces is removed first, even if it is the link's target.
        self.remove_below(&at, How::Overwritten);
        if let Some(old) = self.names.remove(&at) {
            self.lose(&at, old, How::Overwritten);
        }
        let from = self.place_of(target)?;
        let id = *self.names.get(&from).or(self.removed.get(&from)).ok_or_else(|| {
            Error::malformed(format!(
                "it is a hard link to {}, which does not exist",
                display(target)
            ))
        })?;
        let inode = &mut self.inodes[id.index()];
        if matches!(inode.kind, InodeKind::Dir) {
            return Err(Error::malformed(format!(
                "it is a hard link to the directory {}",
                display(target)
            )));
        }
        set_by_link(inode, like);
        self.made_in[id.index()] = self.layer;
        self.names.insert(at, id);
        Ok(())
    }

    /// Gives an inode a name, which another inode may have had.
    fn name(&mut self, path: Box<[u8]>, id: InodeId) {
        if self.losses.is_none() {
            self.names.insert(path, id);
        } else if let Some(old) = self.names.insert(path.clone(), id) {
            self.lose(&path, old, How::Overwritten);
        }
    }

    fn lose(&mut self, path: &[u8], inode: InodeId, how: How) {
        if let Some(losses) = &mut self.losses
            && matches!(self.inodes[inode.index()].kind, InodeKind::File(_))
        {
            losses.push(Loss { path: path.into(), inode, by: self.layer, how });
        }
    }

    /// Adds a file that only hard links of this layer can refer to.
    fn unnamed(&mut self, path: &[u8], inode: Inode) {
        let id = self.add(inode);
        self.removed.insert(path.into(), id);
        self.lose(path, id, How::Deleted);
    }

    /// Counts bytes of paths that no layer states.
    fn imply(&mut self, bytes: usize) -> Result<()> {
        self.implied_bytes += bytes;
        if self.implied_bytes <= MAX_IMPLIED {
            return Ok(());
        }
        Err(Error::limit(format!(
            "the paths of directories without an entry, and the bytes by which symlinks make paths \
             longer, exceed {MAX_IMPLIED} bytes"
        )))
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        if let InodeKind::File(file) = &inode.kind {
            self.seen.0 += 1;
            self.seen.1 += file.size;
        }
        self.inodes.push(inode);
        self.made_in.push(self.layer);
        InodeId::new(self.inodes.len() - 1)
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(|inode| matches!(inode.kind, InodeKind::Dir))
    }

    fn get(&self, path: &[u8]) -> Option<&Inode> {
        self.names.get(path).map(|id| &self.inodes[id.index()])
    }

    /// Removes everything below a directory, and returns it.
    fn remove_below(&mut self, dir: &[u8], how: How) -> Vec<(Box<[u8]>, InodeId)> {
        if !self.is_dir(dir) {
            return Vec::new();
        }
        let mut prefix = dir.to_vec();
        if !dir.is_empty() {
            prefix.push(b'/');
        }
        let removed: Vec<_> = self
            .names
            .range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, id)| (path.clone(), *id))
            .collect();
        for (path, id) in &removed {
            self.names.remove(path);
            self.lose(path, *id, how);
        }
        removed
    }

    /// Creates the missing directories above `path`. A file of a lower layer in their place is
    /// replaced, as on an overlay; one of the same layer is a contradiction.
    fn make_parents(&mut self, path: &[u8]) -> Result<()> {
        let mut missing = Vec::new();
        let mut up = parent(path);
        while let Some(dir) = up.filter(|dir| !dir.is_empty()) {
            match self.names.get(dir) {
                Some(id) if matches!(self.inodes[id.index()].kind, InodeKind::Dir) => break,
                Some(id) if self.made_in[id.index()] == self.layer => {
                    return Err(Error::malformed(format!(
                        "it is below {}, which is a {} in the same layer",
                        display(dir),
                        self.inodes[id.index()].kind.word()
                    )));
                }
                _ => {}
            }
            missing.push(dir);
            up = parent(dir);
        }
        for dir in missing.into_iter().rev() {
            self.hidden.implied_directories += 1;
            self.imply(dir.len())?;
            let mtime = Mtime::default();
            let made =
                Inode { kind: InodeKind::Dir, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: None };
            let id = self.add(made);
            self.name(dir.into(), id);
        }
        Ok(())
    }

    /// Returns the path at which an entry of this path is stored.
    fn place_of(&self, path: &[u8]) -> Result<Box<[u8]>> {
        // The result is `None` only where a symlink is replaced.
        Ok(self.resolve_parent(path, &|_| false)?.unwrap_or_else(|| path.into()))
    }

    /// Returns the path with symlinks followed in its directory part; `None` if one of them is
    /// replaced.
    fn resolve_parent(
        &self,
        path: &[u8],
        replaced: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Box<[u8]>>> {
        let dir = parent(path).unwrap_or_default();
        // In nearly all cases the directory exists under its own name.
        if dir.is_empty() || self.is_dir(dir) {
            return Ok(Some(path.into()));
        }
        let name = &path[dir.len() + 1..];
        let Some(at) = self.resolve(dir, replaced)? else { return Ok(None) };
        Ok(Some(follow(&at, name)?.into()))
    }

    /// Returns the path with all symlinks followed inside the root; parts that do not exist stay as
    /// they are. `None` if one of the symlinks is replaced.
    fn resolve(&self, path: &[u8], replaced: &dyn Fn(&[u8]) -> bool) -> Result<Option<Box<[u8]>>> {
        let mut done: Vec<u8> = Vec::new();
        let mut todo: Vec<&[u8]> = parts(path).rev().collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                done.truncate(parent(&done).unwrap_or_default().len());
                continue;
            }
            let next = follow(&done, part)?;
            let Some(Inode { kind: InodeKind::Symlink { target }, .. }) = self.get(&next) else {
                done = next;
                continue;
            };
            if replaced(&next) {
                return Ok(None);
            }
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(Error::malformed(format!(
                    "{} leads through more than {MAX_SYMLINKS} symlinks, which are likely a loop",
                    display(path)
                )));
            }
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(parts(target).rev());
        }
        Ok(Some(done.into()))
    }

    fn finish(mut self) -> Result<(FileSet, HiddenCounts, Vec<HiddenFile>)> {
        let mut new_id: Vec<Option<InodeId>> = vec![None; self.inodes.len()];
        let mut kept = 0;
        let mut entries = Vec::with_capacity(self.names.len());
        for (path, id) in self.names {
            let inode = *new_id[id.index()].get_or_insert_with(|| {
                kept += 1;
                InodeId::new(kept - 1)
            });
            entries.push(Entry { path, inode });
        }
        // A file is hidden when it loses its last name. If one layer removed several names, the first
        // in order of paths is reported, which does not depend on the tar's order.
        let mut losses = self.losses.unwrap_or_default();
        losses.retain(|loss| new_id[loss.inode.index()].is_none());
        losses.sort_by(|a, b| {
            (a.inode, Reverse(a.by), &a.path).cmp(&(b.inode, Reverse(b.by), &b.path))
        });
        losses.dedup_by_key(|loss| loss.inode);
        let list = losses.into_iter().filter_map(|Loss { path, inode, by, how }| {
            match &self.inodes[inode.index()].kind {
                InodeKind::File(file) => Some(HiddenFile { path, file: file.clone(), by, how }),
                _ => None,
            }
        });
        let list = list.collect();
        let mut inodes: Vec<Option<Inode>> = vec![None; kept];
        let (mut files, mut bytes) = self.seen;
        for (inode, new) in self.inodes.into_iter().zip(new_id) {
            let Some(new) = new else { continue };
            if let InodeKind::File(file) = &inode.kind {
                files -= 1;
                bytes -= file.size;
            }
            inodes[new.index()] = Some(inode);
        }
        self.hidden.files = files;
        self.hidden.bytes = bytes;
        let set = FileSet::new(entries, inodes.into_iter().flatten().collect())?;
        Ok((set, self.hidden, list))
    }
}

/// Returns the path of a name in a directory that symlinks may have led to.
fn follow(dir: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let path = join(dir, name);
    if path.len() > MAX_PATH {
        return Err(Error::malformed(format!(
            "symlinks make a path longer than the {MAX_PATH} bytes that Linux allows"
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
