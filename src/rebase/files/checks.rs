//! What a build would do otherwise than the merge of paths, since the steps of the image's build were
//! commands over many files, or used files that the new base changed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Merge, Pick, is_directory, same};
use crate::base::error::{Context, Result};
use crate::base::limits::MAX_TEXT;
use crate::model::fileset::{
    Entry, FileSet, Inode, InodeKind, base_name, display, join, parent, parts,
};
use crate::plan::analyze::DPKG_STATUS;
use crate::rebase::databases::{derived, is_input};
use crate::rebase::{MergeItem, Outdated, Reason};

/// Files that `useradd` and `adduser` use.
const FOR_USERS: [&str; 5] = [
    "etc/login.defs",
    "etc/default/useradd",
    "etc/adduser.conf",
    "etc/adduser-pool.conf",
    "etc/useradd",
];
/// What a home is made from.
const SKELETON: &str = "etc/skel/";
/// Settings of dpkg: which paths of packages are left out, among others.
const FOR_PACKAGES: [&str; 2] = ["etc/dpkg/dpkg.cfg", "etc/dpkg/dpkg.cfg.d/"];

const PASSWD: &[u8] = b"etc/passwd";
const GROUP: &[u8] = b"etc/group";

/// The names in a list of users or groups, with their IDs and the whole line.
type Names = BTreeMap<Vec<u8>, (Option<u32>, Vec<u8>)>;

/// Returns the extension of a file's name with its dot, or the whole name if it has none.
fn sort(path: &[u8]) -> &[u8] {
    let name = base_name(path);
    match name.iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => &name[dot..],
        _ => name,
    }
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent(path), |dir| parent(dir))
}

/// Returns what the new base adds, of a sort of which the app removed all files that the old base has in
/// the nearest folder with any: `find -name '*.txt' -delete` would remove it too.
pub(super) fn swept([old, app, new]: [&FileSet; 3]) -> BTreeSet<&[u8]> {
    let is_file = |files: &FileSet, path: &[u8]| files.get(path).is_some_and(|i| !is_directory(i));
    let gone = |entry: &&Entry| app.position(&entry.path).is_none() && is_file(old, &entry.path);
    let sorts: BTreeSet<&[u8]> =
        old.entries().iter().filter(gone).map(|entry| sort(&entry.path)).collect();
    let added: Vec<&[u8]> = new
        .entries()
        .iter()
        .map(|entry| &*entry.path)
        .filter(|path| sorts.contains(sort(path)) && is_file(new, path))
        .filter(|path| old.position(path).is_none() && app.position(path).is_none())
        .collect();
    let dirs: BTreeSet<&[u8]> = added.iter().flat_map(|path| ancestors(path)).collect();
    let mut left: BTreeMap<(&[u8], &[u8]), bool> = BTreeMap::new();
    if !added.is_empty() {
        let of_sort = |e: &&Entry| sorts.contains(sort(&e.path)) && is_file(old, &e.path);
        for entry in old.entries().iter().filter(of_sort) {
            let stays = app.position(&entry.path).is_some();
            for dir in ancestors(&entry.path).filter(|dir| dirs.contains(dir)) {
                *left.entry((dir, sort(&entry.path))).or_default() |= stays;
            }
        }
    }
    let is_swept = |path: &&[u8]| {
        let nearest = ancestors(path).find_map(|dir| left.get(&(dir, sort(path))));
        nearest == Some(&false)
    };
    added.into_iter().filter(is_swept).collect()
}

impl<'a> Merge<'a> {
    /// Finds conflicts that no path shows, and adds notes.
    pub(super) fn check(&mut self, paths: &[&'a [u8]]) -> Result<()> {
        let changed: Vec<&[u8]> = {
            let [old, _, new] = self.sides.map(|side| &side.files);
            let is_changed = |path: &&&[u8]| !same(old.get(path), new.get(path));
            paths.iter().filter(is_changed).copied().collect()
        };
        self.check_recursive(&changed);
        self.check_set_id(&changed);
        self.check_settings(&changed)?;
        self.check_ids()?;
        self.note_derived(&changed);
        self.find_compiled();
        self.find_copies();
        Ok(())
    }

    /// Finds what the new base adds to a directory of which the app changed mode or owner, and that of all
    /// that is in it.
    fn check_recursive(&mut self, changed: &[&'a [u8]]) {
        let [old, app, _] = self.sides.map(|side| &side.files);
        let differs = |path: &[u8]| -> Option<bool> {
            let (before, after) = (old.get(path)?, app.get(path)?);
            let link = matches!(before.kind, InodeKind::Symlink { .. });
            let differ =
                (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid);
            (!link).then_some(differ)
        };
        let mut dirs: BTreeMap<&[u8], bool> = BTreeMap::new();
        for path in changed {
            let Some(dir) = parent(path).filter(|dir| differs(dir) == Some(true)) else { continue };
            let is_added = old.position(path).is_none() && app.position(path).is_none();
            if !is_added {
                continue;
            }
            let all = *dirs.entry(dir).or_insert_with(|| {
                let children = old.below(dir).iter().filter(|e| parent(&e.path) == Some(dir));
                let mut some = false;
                let all = children.filter_map(|e| differs(&e.path)).all(|d| {
                    some = true;
                    d
                });
                all && some
            });
            if all {
                self.judge.decide(MergeItem::Path((*path).into()), Reason::AllChanged);
            }
        }
    }

    /// Finds set-ID files that the new base adds if the app has none of those of the old base any more.
    fn check_set_id(&mut self, changed: &[&'a [u8]]) {
        let [old, app, new] = self.sides.map(|side| &side.files);
        let has = |files: &FileSet, path: &[u8]| {
            let file = |inode: &&Inode| matches!(inode.kind, InodeKind::File(_));
            files.get(path).filter(file).is_some_and(|inode| inode.mode & 0o6000 != 0)
        };
        let mut before = old.entries().iter().map(|e| &*e.path).filter(|path| has(old, path));
        let Some(first) = before.next() else { return };
        let none_left = std::iter::once(first)
            .chain(before)
            .all(|path| app.position(path).is_some() && !has(app, path));
        for path in changed.iter().filter(|_| none_left) {
            if has(new, path) && !has(old, path) && app.position(path).is_none() {
                self.judge.decide(MergeItem::Path((*path).into()), Reason::AllChanged);
            }
        }
    }

    /// Reads a list of users or groups.
    fn names(&self, side: usize, path: &[u8]) -> Result<Names> {
        let rootfs = self.sides[side];
        let Some(InodeKind::File(file)) = rootfs.files.get(path).map(|inode| &inode.kind) else {
            return Ok(Names::new());
        };
        let text = rootfs.contents.read(file, MAX_TEXT);
        let text = text.with_context(|| format!("reading {}", display(path)))?;
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let one = |line: &[u8]| {
            let mut columns = line.split(|b| *b == b':');
            let name = columns.next().unwrap_or_default().to_vec();
            let id = columns.nth(1).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
            (name, (id, line.to_vec()))
        };
        Ok(lines.map(one).collect())
    }

    /// Finds settings that the new base changed and that the app's build used in their old form.
    fn check_settings(&mut self, changed: &[&'a [u8]]) -> Result<()> {
        let [old, app, new] = self.sides.map(|side| &side.files);
        let (users, before) = (self.names(1, PASSWD)?, self.names(0, PASSWD)?);
        let added: Vec<_> = users.iter().filter(|(name, _)| !before.contains_key(*name)).collect();
        let has_home = |line: &[u8]| {
            let home = line.split(|b| *b == b':').nth(5).unwrap_or_default();
            let home: Vec<_> = parts(home).collect();
            let home = home.join(&b'/');
            !home.is_empty() && app.position(&home).is_some() && old.position(&home).is_none()
        };
        let homes = added.iter().any(|(_, (_, line))| has_home(line));
        let packages = !same(old.get(DPKG_STATUS), app.get(DPKG_STATUS));
        let is_of = |path: &[u8], names: &[&str]| {
            names
                .iter()
                .map(|name| name.as_bytes())
                .any(|name| path == name || name.ends_with(b"/") && path.starts_with(name))
        };
        for path in changed {
            let used = !added.is_empty() && is_of(path, &FOR_USERS)
                || homes && is_of(path, &[SKELETON])
                || packages && is_of(path, &FOR_PACKAGES);
            if used && !same(app.get(path), new.get(path)) && same(app.get(path), old.get(path)) {
                self.judge.decide(MergeItem::Path((*path).into()), Reason::Used);
            }
        }
        Ok(())
    }

    /// Finds users and groups whose ID a build would choose otherwise, and those whose files have the old
    /// one.
    fn check_ids(&mut self) -> Result<()> {
        for (path, is_user) in [(PASSWD, true), (GROUP, false)] {
            let [old, app, new] =
                [self.names(0, path)?, self.names(1, path)?, self.names(2, path)?];
            let item = |name: &[u8]| {
                MergeItem::Record(path.into(), String::from_utf8_lossy(name).into_owned())
            };
            // IDs below 100 are fixed.
            let range = |id: &Option<u32>| id.filter(|id| *id >= 100).map(|id| id >= 1000);
            let of_new =
                new.iter().filter(|(name, _)| !old.contains_key(*name) && !app.contains_key(*name));
            let ranges: BTreeSet<bool> = of_new.filter_map(|(_, (id, _))| range(id)).collect();
            for (name, (id, _)) in app.iter().filter(|(name, _)| !old.contains_key(*name)) {
                if !new.contains_key(name) && range(id).is_some_and(|r| ranges.contains(&r)) {
                    self.judge.decide(item(name), Reason::BothAdded);
                }
            }
            let picks = self.picks.values().filter(|pick| !matches!(pick, Pick::New(_)));
            let inodes = picks.map(|pick| self.inode(*pick));
            let ids: BTreeSet<u32> = inodes.map(|i| if is_user { i.uid } else { i.gid }).collect();
            for (name, (id, _)) in &old {
                let (Some(id), Some((Some(now), _))) = (id, new.get(name)) else { continue };
                if id != now && ids.contains(id) {
                    self.judge.decide(item(name), Reason::OldId);
                }
            }
        }
        Ok(())
    }

    /// Adds notes on derived files of the app whose sources the new base changed, one for each command.
    fn note_derived(&mut self, changed: &[&'a [u8]]) {
        /// Maximum number of files of one command that are compared with all changes.
        const MOST: usize = 64;
        let [old, app, new] = self.sides.map(|side| &side.files);
        let mut notes: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
        for (path, pick) in &self.picks {
            let Some(command) = derived(path).filter(|command| !command.is_empty()) else {
                continue;
            };
            let of_app =
                app.get(path).is_some_and(|inode| self.inode(*pick).kind.same(&inode.kind));
            // What the new base adds to ld.so.conf counts only after a run of ldconfig, which leaves no trace if
            // it has nothing to do.
            let settings = *path == b"etc/ld.so.cache"
                && same(old.get(path), new.get(path))
                && changed.iter().any(|source| source.starts_with(b"etc/ld.so.conf"));
            let is_candidate = settings || of_app && !same(old.get(path), app.get(path));
            let count = tried.entry(command).or_default();
            if !is_candidate || *count >= MOST {
                continue;
            }
            *count += 1;
            if changed.iter().any(|source| source == path || is_input(path, source)) {
                notes.entry(command).or_default().push(path);
            }
        }
        self.judge.notes.extend(notes.iter().map(|(command, paths)| {
            let names: Vec<_> = paths.iter().map(|path| display(path)).collect();
            format!(
                "run {command} to update {}: the new base changed what it is made from",
                names.join(", ")
            )
        }));
    }

    /// Finds compiled Python files of the app whose source is another one now.
    fn find_compiled(&mut self) {
        let old = &self.sides[0].files;
        for (path, pick) in &self.picks {
            let Some(name) = base_name(path).strip_suffix(b".pyc") else { continue };
            let Some(dir) = parent(path).filter(|_| matches!(pick, Pick::App(_))) else { continue };
            let Some(dot) = name.iter().position(|b| *b == b'.') else { continue };
            let of = parent(dir).filter(|_| base_name(dir) == b"__pycache__");
            let source = of.map(|of| join(of, &[&name[..dot], b".py"].concat()));
            let Some(source) = source.filter(|source| old.position(source).is_some()) else {
                continue;
            };
            let now = self.picks.get(&*source).map(|pick| self.inode(*pick));
            if !now.zip(old.get(&source)).is_some_and(|(now, old)| now.kind.same(&old.kind)) {
                self.outdated.push(Outdated { path: (*path).into(), source: source.into() });
            }
        }
    }

    /// Finds files of the app with the contents of another file of the old base or of the app, which has
    /// others in the result.
    fn find_copies(&mut self) {
        let [old, app, _] = self.sides.map(|side| &side.files);
        let hash = |inode: &Inode| match &inode.kind {
            InodeKind::File(file) if file.size > 0 => Some(file.hash),
            _ => None,
        };
        let mut changed: BTreeMap<[u8; 32], &[u8]> = BTreeMap::new();
        for (files, entry) in
            [old, app].iter().flat_map(|f| f.entries().iter().map(move |e| (f, e)))
        {
            let is_base = old.position(&entry.path).is_some();
            let Some(was) = hash(files.inode(entry)).filter(|_| is_base) else { continue };
            let now = self.picks.get(&*entry.path).and_then(|pick| hash(self.inode(*pick)));
            let in_app = app.get(&entry.path).and_then(hash);
            // What the app itself changed had its old contents at some step of the build only.
            if now != Some(was) && (now != in_app || derived(&entry.path).is_none()) {
                changed.entry(was).or_insert(&entry.path);
            }
        }
        // A copy made between two changes of the app is equal to neither.
        let mut names: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        let edited = |path: &&&[u8]| old.get(path).and_then(hash) != app.get(path).and_then(hash);
        for path in changed.values().filter(edited).filter(|path| derived(path).is_none()) {
            names.insert(base_name(path), path);
        }
        for (path, pick) in &self.picks {
            let Pick::App(id) = pick else { continue };
            let Some(was) = hash(&app[*id]).filter(|_| derived(path).is_none()) else { continue };
            let name = base_name(path);
            let ends = [&b""[..], b".bak", b".orig", b".old", b".save", b"~", b"-"];
            let mut bare = ends.iter().filter_map(|end| name.strip_suffix(*end));
            let is_added = old.position(path).is_none();
            let alike = || bare.find_map(|name| names.get(name)).filter(|_| is_added);
            let of = changed.get(&was).filter(|of| *of != path).or_else(alike);
            if let Some(of) = of.filter(|of| *of != path) {
                self.outdated.push(Outdated { path: (*path).into(), source: (*of).into() });
            }
        }
    }
}
