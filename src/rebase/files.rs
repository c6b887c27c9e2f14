//! The three-way merge of file sets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::discriminant;
use std::sync::Arc;

use super::databases::{self, derived};
use super::owners::Owners;
use super::packages;
use super::{Judge, KeepRule, MergeItem, Merged, Outdated, Reason, Side, three_way};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_TEXT;
use crate::model::content::{Contents, Source};
use crate::model::fileset::{
    Entry, FileData, FileSet, Inode, InodeKind, Location, Xattrs, display, parent,
};
use crate::model::index::{InodeId, SourceId};
use crate::model::rootfs::Rootfs;

mod checks;

/// Where the inode of a path is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pick {
    App(InodeId),
    New(InodeId),
    /// It was made of both: a position in [`Merge::made`].
    Made(usize),
}

/// Merges the file sets of the old base, the app and the new base.
///
/// # Errors
/// If a file that is merged can't be read, or is larger than the limit.
pub(super) fn merge(
    old: &Rootfs,
    app: &Rootfs,
    new: &Rootfs,
    keep: &[KeepRule],
) -> Result<Merged<Rootfs>> {
    let sides = [old, app, new];
    let mut merge = Merge {
        sides,
        emptied: emptied(&old.files, &app.files),
        swept: checks::swept(sides.map(|side| &side.files)),
        outdated: Vec::new(),
        app_names: app.files.names(),
        linked: HashMap::new(),
        judge: Judge::new(keep),
        picks: BTreeMap::new(),
        made: Vec::new(),
        made_of: HashMap::new(),
        texts: Vec::new(),
    };
    if merge.judge.needs_owners() {
        merge.judge.owners = Owners::new([app, new, old])?;
    }
    let mut paths: Vec<&[u8]> =
        sides.iter().flat_map(|side| side.files.entries()).map(|e| e.path.as_ref()).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in &paths {
        if let Some(pick) = merge.pick(path)? {
            merge.picks.insert(path, pick);
        }
    }
    merge.connect(&paths);
    merge.check(&paths)?;
    let mut rootfs = Rootfs::default();
    if merge.judge.conflicts.is_empty() {
        rootfs = merge.build()?;
        packages::check(&rootfs, [app, new], &mut merge.judge)?;
    }
    // For a rule about a package, they were named when they were found.
    if !merge.judge.conflicts.is_empty() && !merge.judge.needs_owners() {
        merge.name_packages()?;
    }
    Ok(Merged { outdated: merge.outdated, ..merge.judge.finish(rootfs) })
}

struct Merge<'a> {
    /// The old base, the app, the new base.
    sides: [&'a Rootfs; 3],
    /// Directories that the app emptied.
    emptied: BTreeSet<&'a [u8]>,
    /// What the new base adds, and the app would have removed.
    swept: BTreeSet<&'a [u8]>,
    /// The names of each of the app's inodes.
    app_names: Vec<Vec<u32>>,
    /// The name of an inode of the app under which the old base has it too.
    linked: HashMap<InodeId, Option<&'a [u8]>>,
    judge: Judge<'a>,
    picks: BTreeMap<&'a [u8], Pick>,
    made: Vec<Inode>,
    /// The inodes of the app and of the new base that one was made of, so that links stay.
    made_of: HashMap<(InodeId, InodeId), Pick>,
    outdated: Vec<Outdated>,
    /// Merged texts; their files have offsets in it.
    texts: Vec<u8>,
}

/// Returns the directories of the old base that the app has without any of what was in them.
fn emptied<'a>(old: &'a FileSet, app: &FileSet) -> BTreeSet<&'a [u8]> {
    let mut dirs: BTreeMap<&[u8], bool> = BTreeMap::new();
    for entry in old.entries() {
        let Some(dir) = parent(&entry.path) else { continue };
        *dirs.entry(dir).or_default() |= app.position(&entry.path).is_some();
    }
    let is_dir = |path: &[u8]| path.is_empty() || app.get(path).is_some_and(is_directory);
    dirs.into_iter().filter(|(dir, left)| !left && is_dir(dir)).map(|(dir, _)| dir).collect()
}

fn is_directory(inode: &Inode) -> bool {
    matches!(inode.kind, InodeKind::Dir)
}

/// Whether it is a directory as builders create it for a file in it.
fn is_default_dir(inode: &Inode) -> bool {
    let owner = (inode.uid, inode.gid);
    is_directory(inode) && inode.mode == 0o755 && owner == (0, 0) && inode.xattrs.is_none()
}

/// Whether two paths have the same, but for times.
fn same(a: Option<&Inode>, b: Option<&Inode>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.kind.same(&b.kind) && a.same_metadata(b),
        (None, None) => true,
        _ => false,
    }
}

impl<'a> Merge<'a> {
    fn inode(&self, pick: Pick) -> &Inode {
        match pick {
            Pick::App(id) => &self.sides[1].files[id],
            Pick::New(id) => &self.sides[2].files[id],
            Pick::Made(at) => &self.made[at],
        }
    }

    /// Returns what a side has at a path.
    fn of_side(&self, side: Side, path: &[u8]) -> Option<Pick> {
        match side {
            Side::App => self.sides[1].files.id(path).map(Pick::App),
            Side::Base => self.sides[2].files.id(path).map(Pick::New),
        }
    }

    /// Decides a conflict about a path. Without a decision the result does not matter.
    fn decide(&mut self, path: &[u8], reason: Reason) -> Option<Pick> {
        let side = self.judge.decide(MergeItem::Path(path.into()), reason);
        self.of_side(side.unwrap_or(Side::Base), path)
    }

    /// Returns what the result has at a path, regardless of its parents.
    fn pick(&mut self, path: &'a [u8]) -> Result<Option<Pick>> {
        let [old, app, new] = self.sides.map(|side| side.files.get(path));
        if same(app, old) {
            let is_added = old.is_none() && new.is_some();
            if is_added && parent(path).is_some_and(|dir| self.emptied.contains(dir)) {
                return Ok(self.decide(path, Reason::AppEmptied));
            }
            if is_added && self.swept.contains(path) {
                return Ok(self.decide(path, Reason::AppSwept));
            }
            return Ok(self.of_side(Side::Base, path));
        }
        if old.is_none() && new.is_none() {
            return Ok(self.added(path));
        }
        if same(new, old) || same(app, new) {
            let side = if same(app, new) { Side::Base } else { Side::App };
            return Ok(self.of_side(side, path));
        }
        let (Some(app), Some(new)) = (app, new) else {
            return Ok(self.decide(path, Reason::of(app.is_some(), new.is_some())));
        };
        let alike = discriminant(&app.kind) == discriminant(&new.kind);
        let ancestor =
            old.filter(|old| alike && discriminant(&old.kind) == discriminant(&app.kind));
        self.both(path, ancestor, app, new)
    }

    /// Returns what the app added at a path: a new name of a file of the old base is one of the new base's.
    fn added(&mut self, path: &[u8]) -> Option<Pick> {
        let [old, app, new] = self.sides;
        let id = app.files.id(path)?;
        let of = *self.linked.entry(id).or_insert_with(|| {
            let names = self.app_names[id.index()].iter();
            let mut names = names.map(|at| &*app.files.entries()[*at as usize].path);
            names.find(|name| same(old.files.get(name), Some(&app.files[id])))
        });
        match of.map(|of| new.files.id(of)) {
            None => Some(Pick::App(id)),
            Some(Some(to)) if !is_directory(&new.files[to]) => Some(Pick::New(to)),
            Some(_) => self.decide(path, Reason::BaseRemoved),
        }
    }

    /// Merges what both sides have at a path. `old` is the ancestor if it has the same type.
    fn both(
        &mut self,
        path: &'a [u8],
        old: Option<&'a Inode>,
        app: &'a Inode,
        new: &'a Inode,
    ) -> Result<Option<Pick>> {
        let ids = [1, 2].map(|side| self.sides[side].files.id(path));
        let key = ids[0].zip(ids[1]);
        if let Some(pick) = key.and_then(|key| self.made_of.get(&key)) {
            return Ok(Some(*pick));
        }
        let mut made = self.of_new(new);
        let before = self.judge.conflicts.len();
        let content = if app.kind.same(&new.kind) || old.is_some_and(|o| app.kind.same(&o.kind)) {
            Some(Side::Base)
        } else if old.is_some_and(|old| new.kind.same(&old.kind)) {
            Some(Side::App)
        } else {
            None
        };
        match content {
            Some(Side::Base) => {}
            Some(Side::App) => (made.kind, made.mtime) = (app.kind.clone(), app.mtime),
            None => match self.text(path, [old, Some(app), Some(new)])? {
                Some(file) => {
                    (made.kind, made.mtime) = (InodeKind::File(file), app.mtime.max(new.mtime));
                }
                None => match derived(path) {
                    Some(_) => {
                        (made.kind, made.mtime) = (app.kind.clone(), app.mtime);
                    }
                    None => return Ok(self.decide(path, Reason::BothChanged)),
                },
            },
        }
        if !metadata(&mut made, old, app, new) {
            // A record that is a conflict is reported as such.
            if self.judge.conflicts.len() > before {
                return Ok(None);
            }
            return Ok(self.decide(path, Reason::BothChanged));
        }
        self.made.push(made);
        let pick = Pick::Made(self.made.len() - 1);
        if let Some(key) = key {
            self.made_of.insert(key, pick);
        }
        Ok(Some(pick))
    }

    /// Returns an inode of the new base for the merged contents: its sources follow those of the app.
    fn of_new(&self, inode: &Inode) -> Inode {
        moved(inode, self.sides[1].contents.sources().len())
    }

    /// Merges the texts of a database; returns `None` for other files.
    fn text(&mut self, path: &[u8], inodes: [Option<&Inode>; 3]) -> Result<Option<FileData>> {
        if databases::format(path).is_none() {
            return Ok(None);
        }
        let mut texts = [Vec::new(), Vec::new(), Vec::new()];
        for ((text, inode), side) in texts.iter_mut().zip(inodes).zip(self.sides) {
            match inode.map(|inode| &inode.kind) {
                None => {}
                Some(InodeKind::File(file)) => {
                    let read = side.contents.read(file, MAX_TEXT);
                    *text = read.with_context(|| format!("reading {}", display(path)))?;
                }
                Some(_) => return Ok(None),
            }
        }
        let texts = [0, 1, 2].map(|i| texts[i].as_slice());
        let Some(merged) = databases::merge(path, texts, &mut self.judge) else { return Ok(None) };
        // The source of texts follows those of the app and of the new base.
        let source =
            self.sides[2].contents.sources().len() + self.sides[1].contents.sources().len();
        let location =
            Location::Span { source: SourceId::new(source), offset: self.texts.len() as u64 };
        let hash = *blake3::hash(&merged).as_bytes();
        self.texts.extend_from_slice(&merged);
        Ok(Some(FileData { size: merged.len() as u64, hash, location }))
    }

    /// Makes every parent a directory, or finds that this is a conflict.
    fn connect(&mut self, paths: &[&'a [u8]]) {
        for path in paths {
            let mut child = *path;
            while let Some(pick) = self.picks.get(child).copied() {
                let Some(dir) = parent(child).filter(|dir| !dir.is_empty()) else { break };
                let reason = match self.picks.get(dir).map(|pick| is_directory(self.inode(*pick))) {
                    Some(true) => break,
                    None if matches!(pick, Pick::New(_)) => Reason::AppEmptied,
                    None => Reason::BaseRemoved,
                    Some(false) => Reason::NoDirectory,
                };
                let revived =
                    self.of_side(Side::App, dir).filter(|pick| is_default_dir(self.inode(*pick)));
                match revived.filter(|_| reason == Reason::BaseRemoved) {
                    Some(revived) => {
                        self.picks.insert(dir, revived);
                    }
                    None => self.take_side(dir, reason, paths),
                }
                // What is there now may need its own parent.
                child = dir;
            }
        }
    }

    /// Takes a directory and everything below it from the side that a rule names.
    fn take_side(&mut self, dir: &'a [u8], reason: Reason, paths: &[&'a [u8]]) {
        let decided = self.judge.decide(MergeItem::Path(dir.into()), reason);
        let start = paths.partition_point(|path| *path < dir);
        for path in &paths[start..] {
            let Some(below) = path.strip_prefix(dir) else { break };
            if !below.is_empty() && below[0] != b'/' {
                continue;
            }
            match decided.and_then(|side| self.of_side(side, path)) {
                Some(pick) => self.picks.insert(path, pick),
                None => self.picks.remove(path),
            };
        }
    }

    /// States for each conflict the package that it belongs to.
    fn name_packages(&mut self) -> Result<()> {
        let [old, app, new] = self.sides;
        let owners = Owners::new([app, new, old])?;
        for conflict in &mut self.judge.conflicts {
            conflict.package = owners.of(&conflict.subject);
        }
        Ok(())
    }

    fn build(&mut self) -> Result<Rootfs> {
        let [_, app, new] = self.sides;
        let mut sources: Vec<Source> = app.contents.sources().to_vec();
        sources.extend_from_slice(new.contents.sources());
        sources.push(Arc::new(std::mem::take(&mut self.texts)));
        let (mut entries, mut inodes) = (Vec::new(), Vec::new());
        let mut ids: HashMap<Pick, InodeId> = HashMap::new();
        for (path, pick) in &self.picks {
            let inode = *ids.entry(*pick).or_insert_with(|| {
                inodes.push(match pick {
                    Pick::New(_) => self.of_new(self.inode(*pick)),
                    _ => self.inode(*pick).clone(),
                });
                InodeId::new(inodes.len() - 1)
            });
            entries.push(Entry { path: (*path).into(), inode });
        }
        let files = FileSet::new(entries, inodes)
            .map_err(|e: Error| e.context("merging the files of the image and the new base"))?;
        Ok(Rootfs { files, contents: Contents::new(sources) })
    }
}

/// Returns an inode whose content is in sources that have `shift` others before them.
fn moved(inode: &Inode, shift: usize) -> Inode {
    let mut inode = inode.clone();
    if let InodeKind::File(file) = &mut inode.kind {
        let source = match &mut file.location {
            Location::Span { source, .. } => source,
            Location::Sparse(map) => &mut map.source,
        };
        *source = SourceId::new(source.index() + shift);
    }
    inode
}

/// Merges mode, owner, group and each extended attribute into `made`; returns whether that is possible.
fn metadata(made: &mut Inode, old: Option<&Inode>, app: &Inode, new: &Inode) -> bool {
    let number = |of: fn(&Inode) -> u32| {
        let side = three_way(&old.map(of), &Some(of(app)), &Some(of(new)))?;
        Some(if side == Side::App { of(app) } else { of(new) })
    };
    let attributes = || {
        let map = |inode: Option<&Inode>| -> BTreeMap<Box<[u8]>, Box<[u8]>> {
            inode.and_then(|i| i.xattrs.as_deref()).into_iter().flatten().cloned().collect()
        };
        let [old, app, new] = [old, Some(app), Some(new)].map(map);
        let names: BTreeSet<_> = old.keys().chain(app.keys()).chain(new.keys()).collect();
        let mut merged = Xattrs::new();
        for name in names {
            let side = three_way(&old.get(name), &app.get(name), &new.get(name))?;
            let value = if side == Side::App { app.get(name) } else { new.get(name) };
            merged.extend(value.map(|value| (name.clone(), value.clone())));
        }
        Some(merged)
    };
    let (bits, owner, group) = (number(|i| i.mode), number(|i| i.uid), number(|i| i.gid));
    let (Some(bits), Some(owner), Some(group), Some(xattrs)) = (bits, owner, group, attributes())
    else {
        return false;
    };
    (made.mode, made.uid, made.gid) = (bits, owner, group);
    made.xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs));
    true
}

#[cfg(test)]
mod tests;
