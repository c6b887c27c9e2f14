//! What is known of the times of a file set: which must stay, and which must stay in order.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::values::{Candidates, Form};
use crate::base::error::{Context, Result};
use crate::base::limits::{MAX_LOOKUPS, MAX_TIME_PAIRS, MAX_TIME_STEPS, TEXT_PER_LOOKUP};
use crate::model::fileset::{
    Entry, FileData, FileSet, Inode, InodeKind, Mtime, base_name, display, join, parent,
};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;

/// A change of times, and what stands against it.
pub(super) struct Relations<'a> {
    pub(super) rootfs: &'a Rootfs,
    /// For each inode the time that it is to have; that it has when it is held.
    pub(super) after: Vec<Mtime>,
    /// Why an inode is held.
    held: BTreeMap<InodeId, &'static str>,
    /// What counts as old when the second is newer than the first.
    pairs: Vec<(InodeId, InodeId, &'static str)>,
    /// What must keep its order.
    orders: Vec<(Vec<InodeId>, &'static str)>,
    rounds: u32,
    /// How many paths may still be looked for.
    pub(super) lookups: Cell<u64>,
    /// What was looked at, in which way, and need not be again.
    seen: BTreeSet<(&'static str, Vec<u8>)>,
    /// Emacs's sources and byte code by name.
    lisp: Option<BTreeMap<Vec<u8>, Vec<InodeId>>>,
}

impl<'a> Relations<'a> {
    pub(super) fn new(rootfs: &'a Rootfs, after: Vec<Mtime>) -> Self {
        Self {
            rootfs,
            after,
            held: BTreeMap::new(),
            pairs: Vec::new(),
            orders: Vec::new(),
            rounds: 0,
            lookups: Cell::new(MAX_LOOKUPS),
            seen: BTreeSet::new(),
            lisp: None,
        }
    }

    pub(super) fn files(&self) -> &'a FileSet {
        &self.rootfs.files
    }

    /// The inode that a path leads to, with symlinks followed as a process would.
    pub(super) fn at(&self, path: &[u8]) -> Option<InodeId> {
        let direct = self.position(path).map(|at| self.files().entries()[at].inode);
        let is = |kind: fn(&InodeKind) -> bool| move |id: &InodeId| kind(&self.inode(*id).kind);
        if direct.as_ref().is_some_and(is(|kind| !matches!(kind, InodeKind::Symlink { .. }))) {
            return direct;
        }
        // Without a symlink on the way what is not there by this name is not there.
        let dir = parent(path).filter(|_| direct.is_none() && base_name(path) != b"..");
        let dir = dir.and_then(|dir| self.position(dir)).map(|at| self.files().entries()[at].inode);
        if dir.as_ref().is_some_and(is(|kind| matches!(kind, InodeKind::Dir))) {
            return None;
        }
        let at = self.position(&self.resolve(path)?)?;
        Some(self.files().entries()[at].inode)
    }

    /// The same, without following the last part.
    pub(super) fn named(&self, path: &[u8]) -> Option<InodeId> {
        let at = self.position(path).or_else(|| {
            let dir = self.resolve(parent(path)?)?;
            self.position(&join(&dir, base_name(path)))
        });
        at.map(|at| self.files().entries()[at].inode)
    }

    /// Where a path stands in the file set.
    pub(super) fn position(&self, path: &[u8]) -> Option<usize> {
        self.lookups.set(self.lookups.get().checked_sub(1)?);
        self.files().position(path)
    }

    fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut lookups = self.lookups.get();
        let found = self.files().resolve_within(path, &mut lookups);
        self.lookups.set(lookups);
        found
    }

    /// Counts text that is read as lookups: a file may have many names, and unpack to many times its
    /// bytes.
    pub(super) fn count_text(&self, bytes: usize) {
        self.lookups.set(self.lookups.get().saturating_sub((bytes / TEXT_PER_LOOKUP) as u64));
    }

    /// Whether nothing more is looked for, since files name too many paths.
    pub(super) fn is_exhausted(&self) -> bool {
        self.lookups.get() == 0
    }

    /// Holds everything where not all could be looked for.
    pub(super) fn hold_unknown(&mut self) {
        if self.is_exhausted() {
            let all = (0..self.after.len()).map(InodeId::new);
            self.hold_all(all, "files that name too many paths");
        }
    }

    /// The inode that `name`, in the same folder as `path`, leads to.
    pub(super) fn beside(&self, path: &[u8], name: &[u8]) -> Option<InodeId> {
        self.at(&join(parent(path)?, name))
    }

    pub(super) fn inode(&self, id: InodeId) -> &'a Inode {
        &self.files()[id]
    }

    /// The regular file that an entry names.
    pub(super) fn file(&self, entry: &Entry) -> Option<&'a FileData> {
        match &self.inode(entry.inode).kind {
            InodeKind::File(file) => Some(file),
            _ => None,
        }
    }

    /// Whether a time is to be another.
    pub(super) fn moves(&self, id: InodeId) -> bool {
        self.inode(id).mtime != self.after[id.index()]
    }

    /// What is directly in a folder.
    pub(super) fn children(&self, dir: &[u8]) -> impl Iterator<Item = &'a Entry> {
        let dir = dir.to_vec();
        self.files().below(&dir).iter().filter(move |e| parent(&e.path) == Some(&dir))
    }

    /// The beginning of a file: all of it, or `most` bytes.
    pub(super) fn head(&self, entry: &Entry, most: u64) -> Result<Vec<u8>> {
        let Some(file) = self.file(entry) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; file.size.min(most) as usize];
        let read = self.rootfs.contents.read_at(file, &mut bytes, 0);
        read.with_context(|| format!("reading {}", display(&entry.path)))?;
        self.count_text(bytes.len());
        Ok(bytes)
    }

    /// Whether `what` is done with this path or name for the first time.
    pub(super) fn once(&mut self, what: &'static str, path: &[u8]) -> bool {
        self.seen.insert((what, path.to_vec()))
    }

    /// Emacs's sources and byte code of this name.
    pub(super) fn lisp(&mut self, name: &[u8]) -> Vec<InodeId> {
        let files = self.files();
        let all = self.lisp.get_or_insert_with(|| {
            let mut all: BTreeMap<Vec<u8>, Vec<InodeId>> = BTreeMap::new();
            for entry in files.entries() {
                let ends = [&b".el"[..], b".elc", b".el.gz"];
                let stem = ends.iter().find_map(|end| base_name(&entry.path).strip_suffix(*end));
                if let Some(stem) = stem {
                    all.entry(stem.to_vec()).or_default().push(entry.inode);
                }
            }
            all
        });
        all.get(name).cloned().unwrap_or_default()
    }

    /// Keeps a time.
    pub(super) fn hold(&mut self, id: InodeId, by: &'static str) {
        if self.moves(id) {
            self.after[id.index()] = self.inode(id).mtime;
            self.held.entry(id).or_insert(by);
        }
    }

    pub(super) fn hold_all(&mut self, ids: impl IntoIterator<Item = InodeId>, by: &'static str) {
        for id in ids {
            self.hold(id, by);
        }
    }

    /// Gives a time that is not held another one.
    pub(super) fn release(&mut self, id: InodeId, time: Mtime) {
        if !self.held.contains_key(&id) {
            self.after[id.index()] = time;
        }
    }

    /// Keeps the times of a folder and all in it.
    pub(super) fn hold_below(&mut self, dir: &[u8], by: &'static str) {
        if !self.once("hold", dir) {
            return;
        }
        let files = self.files();
        if let Some(dir) = files.position(dir) {
            self.hold(files.entries()[dir].inode, by);
        }
        for entry in files.below(dir) {
            self.hold(entry.inode, by);
        }
    }

    /// Something records this time for `id`: it must be so afterwards exactly if it is now.
    pub(super) fn equal(&mut self, id: InodeId, secs: u32, by: &'static str) {
        let is = |time: Mtime| time.secs as u32 == secs;
        if is(self.inode(id).mtime) || is(self.after[id.index()]) {
            self.hold(id, by);
        }
    }

    /// The file `made` counts as old once one of `of` is newer.
    pub(super) fn older_than_any(
        &mut self,
        made: &Entry,
        by: &'static str,
        of: impl IntoIterator<Item = InodeId>,
    ) {
        for of in of {
            self.not_older(made.inode, of, by);
        }
    }

    /// `made` counts as old once `of` is newer.
    pub(super) fn not_older(&mut self, made: InodeId, of: InodeId, by: &'static str) {
        if made == of || !(self.moves(made) || self.moves(of)) {
            return;
        }
        if self.pairs.len() < MAX_TIME_PAIRS * self.files().entries().len() {
            self.pairs.push((made, of, by));
        } else {
            self.hold(made, by);
            self.hold(of, by);
        }
    }

    /// Which of these are newer than which must stay so.
    pub(super) fn order(&mut self, ids: Vec<InodeId>, by: &'static str) {
        if ids.iter().any(|id| self.moves(*id)) {
            self.orders.push((ids, by));
        }
    }

    /// Holds back those of `scope` whose time, now or then, `entry` holds in its first `most` bytes.
    pub(super) fn values(
        &mut self,
        entry: &Entry,
        most: u64,
        form: Form,
        scope: &mut Candidates,
        by: &'static str,
    ) -> Result<()> {
        use std::io::Read as _;
        let Some(file) = self.file(entry).filter(|_| !scope.is_empty()) else { return Ok(()) };
        let bytes = self.rootfs.contents.open(file).take(most);
        let found = scope.scan(bytes, form);
        self.hold_all(found.with_context(|| format!("reading {}", display(&entry.path)))?, by);
        Ok(())
    }

    /// Whether chains have become too long to go along them step by step.
    pub(super) fn is_long(&self) -> bool {
        self.rounds > MAX_TIME_STEPS
    }

    /// Holds what would come out of order; whether there was something.
    pub(super) fn settle(&mut self) -> bool {
        self.rounds += 1;
        let whole = self.is_long();
        let mut any = false;
        for (made, of, by) in std::mem::take(&mut self.pairs) {
            if !whole && self.in_order(made, of) {
                self.pairs.push((made, of, by));
                continue;
            }
            any = true;
            self.hold(made, by);
            self.hold(of, by);
        }
        for (ids, by) in std::mem::take(&mut self.orders) {
            if !whole && self.all_in_order(&ids) {
                self.orders.push((ids, by));
                continue;
            }
            any = true;
            self.hold_all(ids, by);
        }
        any
    }

    /// Whether the second is newer than the first afterwards exactly if it is now; also for who
    /// looks at seconds only.
    fn in_order(&self, made: InodeId, of: InodeId) -> bool {
        let old = |made: Mtime, of: Mtime| (of > made, of.secs > made.secs);
        let (a, b) = (self.inode(made).mtime, self.inode(of).mtime);
        old(a, b) == old(self.after[made.index()], self.after[of.index()])
    }

    fn all_in_order(&self, ids: &[InodeId]) -> bool {
        let mut times: Vec<(Mtime, Mtime)> =
            ids.iter().map(|id| (self.inode(*id).mtime, self.after[id.index()])).collect();
        times.sort_unstable();
        times.windows(2).all(|pair| {
            let ((a, x), (b, y)) = (pair[0], pair[1]);
            a.cmp(&b) == x.cmp(&y)
        })
    }

    /// How many are held, by what records them.
    pub(super) fn count(&self) -> BTreeMap<&'static str, u64> {
        let mut by = BTreeMap::new();
        for format in self.held.values() {
            *by.entry(*format).or_default() += 1;
        }
        by
    }
}
