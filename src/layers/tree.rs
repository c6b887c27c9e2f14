//! Application of layers, one above the other.
//!
//! Each layer is applied in two steps, as the
//! [spec](https://github.com/opencontainers/image-spec/blob/main/layer.md) has it: first all
//! whiteouts, which act on lower layers only, whatever their place in the tar; then the entries,
//! where a later one of the same path wins.
//!
//! Where the spec is silent the rule is what containerd and umoci do on disk: symlinks in the
//! directory part of a path are followed inside the root, a directory on a directory only takes
//! new attributes, everything else is replaced, and a hard link's own header sets the metadata of
//! its inode ([`set_by_link`]).

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::hidden::{Hidden, HiddenFile, How};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_IMPLIED, MAX_PATH, MAX_SYMLINKS};
use crate::layers::changeset::{Change, ChangeKind, set_by_link};
use crate::model::fileset::{
    Entry, FileSet, Inode, InodeId, InodeKind, Mtime, display, join, parent, parts,
};

/// A list of changes is made smaller whenever so many are done.
const FREED: usize = 1 << 14;

/// Applies layers, lowest first, each with the name that messages give it.
///
/// # Errors
/// When the layers contradict each other.
pub fn apply<'a>(
    layers: impl IntoIterator<Item = (&'a str, Vec<Change>)>,
) -> Result<(FileSet, Hidden)> {
    let (files, hidden, _) = Tree::default().apply_all(layers)?;
    Ok((files, hidden))
}

/// The file set in the making.
#[derive(Default)]
pub(super) struct Tree {
    names: BTreeMap<Box<[u8]>, InodeId>,
    inodes: Vec<Inode>,
    /// The layer that made each inode.
    made_in: Vec<u32>,
    layer: u32,
    /// Names that the layer being applied takes away; its hard links may still point at them, as
    /// clients that go entry by entry would have it.
    taken: BTreeMap<Box<[u8]>, InodeId>,
    hidden: Hidden,
    /// Bytes of the paths of implied directories, and of what symlinks add to others.
    implied_bytes: usize,
    /// Regular files and bytes that layers brought in.
    seen: (u64, u64),
    /// Every name of a regular file that was lost, as it happened, if somebody wants to know.
    losses: Option<Vec<Loss>>,
}

/// A name that went.
struct Loss {
    path: Box<[u8]>,
    inode: InodeId,
    by: u32,
    how: How,
}

impl Tree {
    /// One that lists what is hidden.
    pub(super) fn listing() -> Self {
        Self { losses: Some(Vec::new()), ..Self::default() }
    }

    pub(super) fn apply_all<'a>(
        mut self,
        layers: impl IntoIterator<Item = (&'a str, Vec<Change>)>,
    ) -> Result<(FileSet, Hidden, Vec<HiddenFile>)> {
        for (name, changes) in layers {
            self.apply(changes).with_context(|| name)?;
        }
        self.finish()
    }

    /// Applies one layer.
    fn apply(&mut self, changes: Vec<Change>) -> Result<()> {
        self.layer += 1;
        self.taken.clear();
        // What this layer puts in the place of a symlink hides whatever lay behind that.
        let put = OnceCell::new();
        let puts = |path: &[u8]| {
            let all = || -> BTreeSet<&[u8]> {
                let put = changes.iter().filter(|c| matches!(c.kind, ChangeKind::Add(_)));
                put.map(|c| &*c.path).collect()
            };
            put.get_or_init(all).contains(path)
        };
        for change in &changes {
            let itself = match change.kind {
                ChangeKind::Whiteout => true,
                ChangeKind::Opaque => false,
                _ => continue,
            };
            self.whiteout(&change.path, itself, &puts)
                .with_context(|| format!("whiteout of {}", display(&change.path)))?;
        }
        let mut changes = changes;
        changes.reverse();
        while let Some(Change { path, kind: what }) = changes.pop() {
            // The tree takes as much as the list gives back.
            if changes.len().is_multiple_of(FREED) {
                changes.shrink_to(changes.len());
            }
            match what {
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

    /// Takes away what lower layers have below a path, and the path itself unless it is opaque.
    /// `replaced` tells what the same layer puts in place of symlinks on the way.
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
        let mut gone = self.remove_below(&at, how);
        if itself
            && !at.is_empty()
            && let Some((path, id)) = self.names.remove_entry(&at[..])
        {
            self.lose(&path, id, how);
            gone.push((path, id));
        }
        self.taken.extend(gone);
        Ok(())
    }

    fn put(&mut self, path: &[u8], inode: Inode) -> Result<()> {
        if path.is_empty() && !matches!(inode.kind, InodeKind::Dir) {
            return Err(Error::malformed("the root must be a directory"));
        }
        let at = self.place_of(path)?;
        self.imply(at.len().saturating_sub(path.len()))?;
        self.make_parents(&at)?;
        // Children stay only when a directory comes upon a directory.
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
        // As on disk: what is in the way goes first, even if that is the target.
        self.remove_below(&at, How::Overwritten);
        if let Some(old) = self.names.remove(&at) {
            self.lose(&at, old, How::Overwritten);
        }
        let from = self.place_of(target)?;
        let id = *self.names.get(&from).or(self.taken.get(&from)).ok_or_else(|| {
            Error::malformed(format!("a hard link to {}, which is not there", display(target)))
        })?;
        let inode = &mut self.inodes[id as usize];
        if matches!(inode.kind, InodeKind::Dir) {
            return Err(Error::malformed(format!("a hard link to directory {}", display(target))));
        }
        set_by_link(inode, like);
        self.made_in[id as usize] = self.layer;
        self.names.insert(at, id);
        Ok(())
    }

    /// Gives an inode a name, which another may have had.
    fn name(&mut self, path: Box<[u8]>, id: InodeId) {
        if self.losses.is_none() {
            self.names.insert(path, id);
        } else if let Some(old) = self.names.insert(path.clone(), id) {
            self.lose(&path, old, How::Overwritten);
        }
    }

    fn lose(&mut self, path: &[u8], inode: InodeId, how: How) {
        if let Some(losses) = &mut self.losses
            && matches!(self.inodes[inode as usize].kind, InodeKind::File(_))
        {
            losses.push(Loss { path: path.into(), inode, by: self.layer - 1, how });
        }
    }

    /// Puts a file where only this layer's hard links find it.
    fn unnamed(&mut self, path: &[u8], inode: Inode) {
        let id = self.add(inode);
        self.taken.insert(path.into(), id);
        self.lose(path, id, How::Deleted);
    }

    /// Counts bytes of paths that no layer states.
    fn imply(&mut self, bytes: usize) -> Result<()> {
        self.implied_bytes += bytes;
        if self.implied_bytes <= MAX_IMPLIED {
            return Ok(());
        }
        Err(Error::limit(format!(
            "paths of directories without an entry, and what symlinks make paths longer, come to \
             more than {MAX_IMPLIED} bytes"
        )))
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        if let InodeKind::File(file) = &inode.kind {
            self.seen.0 += 1;
            self.seen.1 += file.size;
        }
        self.inodes.push(inode);
        self.made_in.push(self.layer);
        (self.inodes.len() - 1) as InodeId
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(|inode| matches!(inode.kind, InodeKind::Dir))
    }

    fn get(&self, path: &[u8]) -> Option<&Inode> {
        self.names.get(path).map(|id| &self.inodes[*id as usize])
    }

    /// Takes away everything below a directory; gives what was there.
    fn remove_below(&mut self, dir: &[u8], how: How) -> Vec<(Box<[u8]>, InodeId)> {
        if !self.is_dir(dir) {
            return Vec::new();
        }
        let mut prefix = dir.to_vec();
        if !dir.is_empty() {
            prefix.push(b'/');
        }
        let gone: Vec<_> = self
            .names
            .range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, id)| (path.clone(), *id))
            .collect();
        for (path, id) in &gone {
            self.names.remove(path);
            self.lose(path, *id, how);
        }
        gone
    }

    /// Makes the directories above `path` that are missing. A lower layer's file in their place
    /// gives way, as on an overlay; one of the same layer is a contradiction.
    fn make_parents(&mut self, path: &[u8]) -> Result<()> {
        let mut missing = Vec::new();
        let mut up = parent(path);
        while let Some(dir) = up.filter(|dir| !dir.is_empty()) {
            match self.names.get(dir) {
                Some(id) if matches!(self.inodes[*id as usize].kind, InodeKind::Dir) => break,
                Some(id) if self.made_in[*id as usize] == self.layer => {
                    return Err(Error::malformed(format!(
                        "it lies below {}, which the same layer makes a {}",
                        display(dir),
                        self.inodes[*id as usize].kind.word()
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

    /// Where an entry of this path goes.
    fn place_of(&self, path: &[u8]) -> Result<Box<[u8]>> {
        // Without anything replaced there is always a place.
        Ok(self.resolve_parent(path, &|_| false)?.unwrap_or_else(|| path.into()))
    }

    /// The path with symlinks followed in its directory part; `None` when one of them is replaced.
    fn resolve_parent(
        &self,
        path: &[u8],
        replaced: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Box<[u8]>>> {
        let dir = parent(path).unwrap_or_default();
        // Nearly always the directory is there under its own name.
        if dir.is_empty() || self.is_dir(dir) {
            return Ok(Some(path.into()));
        }
        let name = &path[dir.len() + 1..];
        let Some(at) = self.resolve(dir, replaced)? else { return Ok(None) };
        Ok(Some(follow(&at, name)?.into()))
    }

    /// The path with all symlinks followed inside the root; parts that are not there stay as they
    /// are. `None` when one of the symlinks is replaced.
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
                return Err(Error::malformed(format!("{} is a loop of symlinks", display(path))));
            }
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(parts(target).rev());
        }
        Ok(Some(done.into()))
    }

    fn finish(mut self) -> Result<(FileSet, Hidden, Vec<HiddenFile>)> {
        let mut new_id: Vec<Option<InodeId>> = vec![None; self.inodes.len()];
        let mut kept = 0;
        let mut entries = Vec::with_capacity(self.names.len());
        for (path, id) in self.names {
            let inode = *new_id[id as usize].get_or_insert_with(|| {
                kept += 1;
                kept - 1
            });
            entries.push(Entry { path, inode });
        }
        // What is hidden went with the last name it lost; of several that one layer took, any would
        // do, and the first is the same whatever the tar's order.
        let mut losses = self.losses.unwrap_or_default();
        losses.retain(|loss| new_id[loss.inode as usize].is_none());
        losses.sort_by(|a, b| {
            (a.inode, Reverse(a.by), &a.path).cmp(&(b.inode, Reverse(b.by), &b.path))
        });
        losses.dedup_by_key(|loss| loss.inode);
        let list = losses.into_iter().filter_map(|Loss { path, inode, by, how }| {
            match &self.inodes[inode as usize].kind {
                InodeKind::File(file) => Some(HiddenFile { path, file: file.clone(), by, how }),
                _ => None,
            }
        });
        let list = list.collect();
        let mut inodes: Vec<Option<Inode>> = vec![None; kept as usize];
        let (mut files, mut bytes) = self.seen;
        for (inode, new) in self.inodes.into_iter().zip(new_id) {
            let Some(new) = new else { continue };
            if let InodeKind::File(file) = &inode.kind {
                files -= 1;
                bytes -= file.size;
            }
            inodes[new as usize] = Some(inode);
        }
        self.hidden.files = files;
        self.hidden.bytes = bytes;
        let set = FileSet::new(entries, inodes.into_iter().flatten().collect())?;
        Ok((set, self.hidden, list))
    }
}

/// A name in a directory, as symlinks led there.
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
