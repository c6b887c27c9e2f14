//! Constraints on a change of times: which times must stay, and which must keep their order.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::values::{Candidates, TimeForm};
use crate::base::error::{Context, Result};
use crate::base::limits::{MAX_LOOKUPS, MAX_TIME_PAIRS, MAX_TIME_STEPS, TEXT_PER_LOOKUP};
use crate::model::fileset::{
    Entry, FileData, FileSet, Inode, InodeKind, Mtime, base_name, display, join, parent,
};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;

/// A change of times and the constraints on it.
pub(super) struct Relations<'a> {
    pub(super) rootfs: &'a Rootfs,
    /// The new time of each inode. A held inode has its old time here.
    pub(super) after: Vec<Mtime>,
    /// Inodes whose new time may become later, so that files stay newer than others. Empty, or of all.
    may_rise: Vec<bool>,
    /// Held inodes, with the format that holds each.
    held: BTreeMap<InodeId, &'static str>,
    /// Compiled file, source, format: the first is stale if the second is newer.
    pairs: Vec<(InodeId, InodeId, &'static str)>,
    /// Groups of inodes that must keep their order.
    orders: Vec<(Vec<InodeId>, &'static str)>,
    rounds: u32,
    /// Number of paths that may still be looked up.
    pub(super) lookups: Cell<u64>,
    /// Pairs of an action and a path that are done.
    seen: BTreeSet<(&'static str, Vec<u8>)>,
    /// Emacs's sources and byte code by name, if they were needed.
    lisp_sources: Option<BTreeMap<Vec<u8>, Vec<InodeId>>>,
}

impl<'a> Relations<'a> {
    pub(super) fn new(rootfs: &'a Rootfs, after: Vec<Mtime>) -> Self {
        Self {
            rootfs,
            after,
            may_rise: Vec::new(),
            held: BTreeMap::new(),
            pairs: Vec::new(),
            orders: Vec::new(),
            rounds: 0,
            lookups: Cell::new(MAX_LOOKUPS),
            seen: BTreeSet::new(),
            lisp_sources: None,
        }
    }

    pub(super) fn files(&self) -> &'a FileSet {
        &self.rootfs.files
    }

    /// Returns the inode that a path leads to, following symlinks as the kernel does.
    pub(super) fn lookup(&self, path: &[u8]) -> Option<InodeId> {
        let direct = self.position(path).map(|at| self.files().entries()[at].inode);
        let is = |kind: fn(&InodeKind) -> bool| move |id: &InodeId| kind(&self.inode(*id).kind);
        if direct.as_ref().is_some_and(is(|kind| !matches!(kind, InodeKind::Symlink { .. }))) {
            return direct;
        }
        // If its folder is no symlink, the path doesn't exist.
        let dir = parent(path).filter(|_| direct.is_none() && base_name(path) != b"..");
        let dir = dir.and_then(|dir| self.position(dir)).map(|at| self.files().entries()[at].inode);
        if dir.as_ref().is_some_and(is(|kind| matches!(kind, InodeKind::Dir))) {
            return None;
        }
        let at = self.position(&self.resolve(path)?)?;
        Some(self.files().entries()[at].inode)
    }

    /// Like `lookup`, but doesn't follow a symlink in the last component.
    pub(super) fn lookup_no_follow(&self, path: &[u8]) -> Option<InodeId> {
        let at = self.position(path).or_else(|| {
            let dir = self.resolve(parent(path)?)?;
            self.position(&join(&dir, base_name(path)))
        });
        at.map(|at| self.files().entries()[at].inode)
    }

    /// Returns the position of a path in the file set.
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

    /// Counts text that was read towards the limit of lookups. A file may have many names and is read
    /// for each, and compressed text may expand to many times its size.
    pub(super) fn count_text(&self, bytes: usize) {
        self.lookups.set(self.lookups.get().saturating_sub((bytes / TEXT_PER_LOOKUP) as u64));
    }

    /// Whether the limit of lookups is reached.
    pub(super) fn is_exhausted(&self) -> bool {
        self.lookups.get() == 0
    }

    /// Holds all times if the limit of lookups is reached.
    pub(super) fn hold_all_if_exhausted(&mut self) {
        if self.is_exhausted() {
            let all = (0..self.after.len()).map(InodeId::new);
            self.hold_all(all, "files that name too many paths");
        }
    }

    /// Returns the inode that `name` in the folder of `path` leads to.
    pub(super) fn sibling(&self, path: &[u8], name: &[u8]) -> Option<InodeId> {
        self.lookup(&join(parent(path)?, name))
    }

    pub(super) fn inode(&self, id: InodeId) -> &'a Inode {
        &self.files()[id]
    }

    /// Returns the regular file of an entry, if it is one.
    pub(super) fn file(&self, entry: &Entry) -> Option<&'a FileData> {
        match &self.inode(entry.inode).kind {
            InodeKind::File(file) => Some(file),
            _ => None,
        }
    }

    /// Lets the new times of these inodes become later.
    pub(super) fn let_rise(&mut self, may_rise: Vec<bool>) {
        self.may_rise = may_rise;
    }

    /// Whether a time is about to change or may yet become later.
    fn is_open(&self, id: InodeId) -> bool {
        self.will_change(id) || self.may_rise.get(id.index()).is_some_and(|may| *may)
    }

    /// Whether a time is about to change.
    pub(super) fn will_change(&self, id: InodeId) -> bool {
        self.inode(id).mtime != self.after[id.index()]
    }

    /// Returns the entries directly in a folder.
    pub(super) fn children(&self, dir: &[u8]) -> impl Iterator<Item = &'a Entry> {
        let dir = dir.to_vec();
        self.files().below(&dir).iter().filter(move |e| parent(&e.path) == Some(&dir))
    }

    /// Reads at most `max_bytes` bytes from the start of a file.
    pub(super) fn head(&self, entry: &Entry, max_bytes: u64) -> Result<Vec<u8>> {
        let Some(file) = self.file(entry) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; file.size.min(max_bytes) as usize];
        let read = self.rootfs.contents.read_at(file, &mut bytes, 0);
        read.with_context(|| format!("reading {}", display(&entry.path)))?;
        self.count_text(bytes.len());
        Ok(bytes)
    }

    /// Whether this is the first call with this action and path.
    pub(super) fn is_first(&mut self, action: &'static str, path: &[u8]) -> bool {
        self.seen.insert((action, path.to_vec()))
    }

    /// Returns Emacs's sources and byte code of this name.
    pub(super) fn lisp_sources(&mut self, name: &[u8]) -> Vec<InodeId> {
        let files = self.files();
        let all = self.lisp_sources.get_or_insert_with(|| {
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

    /// Makes an inode keep its time.
    pub(super) fn hold(&mut self, id: InodeId, by: &'static str) {
        if let Some(may) = self.may_rise.get_mut(id.index()) {
            *may = false;
        }
        if self.will_change(id) {
            self.after[id.index()] = self.inode(id).mtime;
            self.held.entry(id).or_insert(by);
        }
    }

    pub(super) fn hold_all(&mut self, ids: impl IntoIterator<Item = InodeId>, by: &'static str) {
        for id in ids {
            self.hold(id, by);
        }
    }

    /// Sets the new time of an inode, unless that is held.
    pub(super) fn set_unless_held(&mut self, id: InodeId, time: Mtime) {
        if !self.held.contains_key(&id) {
            self.after[id.index()] = time;
        }
    }

    /// Holds the times of a folder and everything below it.
    pub(super) fn hold_below(&mut self, dir: &[u8], by: &'static str) {
        if !self.is_first("hold", dir) {
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

    /// Holds `id` if its time equals a recorded one, or would become equal to it.
    pub(super) fn hold_if_equal(&mut self, id: InodeId, secs: u32, by: &'static str) {
        let is = |time: Mtime| time.secs as u32 == secs;
        if is(self.inode(id).mtime) || is(self.after[id.index()]) {
            self.hold(id, by);
        }
    }

    /// Calls `keep_staleness` for each source.
    pub(super) fn keep_staleness_all(
        &mut self,
        compiled: &Entry,
        by: &'static str,
        sources: impl IntoIterator<Item = InodeId>,
    ) {
        for source in sources {
            self.keep_staleness(compiled.inode, source, by);
        }
    }

    /// Requires that `compiled` stays stale or stays fresh. It is stale if `source` is newer.
    pub(super) fn keep_staleness(&mut self, compiled: InodeId, source: InodeId, by: &'static str) {
        if compiled == source || !(self.is_open(compiled) || self.is_open(source)) {
            return;
        }
        if self.pairs.len() < MAX_TIME_PAIRS * self.files().entries().len() {
            self.pairs.push((compiled, source, by));
        } else {
            self.hold(compiled, by);
            self.hold(source, by);
        }
    }

    /// Requires that the times of these inodes keep their order.
    pub(super) fn keep_order(&mut self, ids: Vec<InodeId>, by: &'static str) {
        if ids.iter().any(|id| self.is_open(*id)) {
            self.orders.push((ids, by));
        }
    }

    /// Holds the inodes of `scope` whose old or new time is a number in the first `max_bytes` bytes of
    /// `entry`.
    pub(super) fn hold_values(
        &mut self,
        entry: &Entry,
        max_bytes: u64,
        form: TimeForm,
        scope: &mut Candidates,
        by: &'static str,
    ) -> Result<()> {
        use std::io::Read as _;
        let Some(file) = self.file(entry).filter(|_| !scope.is_empty()) else { return Ok(()) };
        let bytes = self.rootfs.contents.open(file).take(max_bytes);
        let found = scope.scan(bytes, form);
        self.hold_all(found.with_context(|| format!("reading {}", display(&entry.path)))?, by);
        Ok(())
    }

    /// Whether the limit of rounds is reached. From then on everything that could conflict is held,
    /// since a long chain would need a round for each of its links.
    pub(super) fn is_round_limit_reached(&self) -> bool {
        self.rounds > MAX_TIME_STEPS
    }

    /// Holds times that would violate a constraint. Returns whether there were any.
    pub(super) fn hold_conflicts(&mut self) -> bool {
        self.rounds += 1;
        let hold_all = self.is_round_limit_reached();
        let mut any = false;
        for (compiled, source, by) in std::mem::take(&mut self.pairs) {
            if !hold_all && self.staleness_stays(compiled, source) {
                self.pairs.push((compiled, source, by));
                continue;
            }
            any = true;
            if !hold_all && self.raise_pair(compiled, source) {
                self.pairs.push((compiled, source, by));
                continue;
            }
            self.hold(compiled, by);
            self.hold(source, by);
        }
        for (ids, by) in std::mem::take(&mut self.orders) {
            if !hold_all && self.order_stays(&ids) {
                self.orders.push((ids, by));
                continue;
            }
            any = true;
            if !hold_all && self.raise_in_order(&ids) {
                self.orders.push((ids, by));
                continue;
            }
            self.hold_all(ids, by);
        }
        any
    }

    /// Makes a new time later, if it may be. Returns whether it is `to` or later now.
    fn raise(&mut self, id: InodeId, to: Mtime) -> bool {
        let now = &mut self.after[id.index()];
        let done = *now >= to || self.may_rise.get(id.index()).is_some_and(|may| *may);
        *now = if done { (*now).max(to) } else { *now };
        done
    }

    /// Raises the one that must not be older. Returns whether the pair keeps its staleness now.
    fn raise_pair(&mut self, compiled: InodeId, source: InodeId) -> bool {
        let of = |id: InodeId| self.after[id.index()];
        let raised = if self.inode(source).mtime > self.inode(compiled).mtime {
            self.raise(source, next_second(of(compiled)))
        } else {
            self.raise(compiled, of(source))
        };
        raised && self.staleness_stays(compiled, source)
    }

    /// Raises the times of a group, from the oldest on. Returns whether it has its order now.
    fn raise_in_order(&mut self, ids: &[InodeId]) -> bool {
        let mut ids = ids.to_vec();
        ids.sort_by_key(|id| self.inode(*id).mtime);
        let mut least = None;
        let same = |a: &InodeId, b: &InodeId| self.inode(*a).mtime == self.inode(*b).mtime;
        let groups: Vec<Vec<InodeId>> = ids.chunk_by(same).map(<[_]>::to_vec).collect();
        for group in groups {
            let latest = group.iter().map(|id| self.after[id.index()]).max();
            let to = latest.max(least).unwrap_or_default();
            if !group.iter().all(|id| self.raise(*id, to)) {
                return false;
            }
            least = Some(next_second(to));
        }
        self.order_stays(&ids)
    }

    /// Whether the source is newer after the change exactly if it is newer before. This must hold for
    /// whole times and for seconds alone, since some programs compare only seconds.
    fn staleness_stays(&self, compiled: InodeId, source: InodeId) -> bool {
        let stale =
            |compiled: Mtime, source: Mtime| (source > compiled, source.secs > compiled.secs);
        let before = stale(self.inode(compiled).mtime, self.inode(source).mtime);
        before == stale(self.after[compiled.index()], self.after[source.index()])
    }

    fn order_stays(&self, ids: &[InodeId]) -> bool {
        let mut times: Vec<(Mtime, Mtime)> =
            ids.iter().map(|id| (self.inode(*id).mtime, self.after[id.index()])).collect();
        times.sort_unstable();
        times.windows(2).all(|pair| {
            let ((a, x), (b, y)) = (pair[0], pair[1]);
            a.cmp(&b) == x.cmp(&y)
        })
    }

    /// Returns the raised times. Held inodes get back what they were about to become.
    pub(super) fn raised(self, mut before: Vec<Mtime>) -> Vec<Mtime> {
        for (id, before) in before.iter_mut().enumerate() {
            if !self.held.contains_key(&InodeId::new(id)) {
                *before = self.after[id];
            }
        }
        before
    }

    /// Returns the number of held inodes by format.
    pub(super) fn count(&self) -> BTreeMap<&'static str, u64> {
        let mut by = BTreeMap::new();
        for format in self.held.values() {
            *by.entry(*format).or_default() += 1;
        }
        by
    }
}

/// The second after a time. Some programs compare only seconds.
pub(super) fn next_second(time: Mtime) -> Mtime {
    Mtime { secs: time.secs.saturating_add(1), nanos: 0 }
}
