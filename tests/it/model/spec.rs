//! What layers become, written from the image spec's layer.md a second time: a map of paths that
//! is searched from end to end for every rule. It shares no code with the flattening under test.
//!
//! Where the spec leaves something open, or stock clients are known to differ, the layer is noted
//! as one that they don't agree on: see [`Agreement`] and docs/FIDELITY.md.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::view::{File, View};
use crate::image::Item;

/// Who shows an image as the model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Agreement {
    /// The spec; no client is asked.
    Spec,
    /// umoci too.
    Umoci,
    /// Docker and containerd on overlayfs too.
    All,
}

/// The files while layers are applied.
#[derive(Clone)]
pub struct Tree {
    names: BTreeMap<Vec<u8>, usize>,
    files: Vec<File>,
    /// The layer that made each of the files.
    made_in: Vec<usize>,
    layer: usize,
    /// What the layers below have, by kind.
    lower: BTreeMap<Vec<u8>, u8>,
    /// What the current layer has put so far, and its markers: whether they are opaque.
    put: BTreeSet<Vec<u8>>,
    markers: Vec<(Vec<u8>, bool)>,
    pub agreement: Agreement,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            files: Vec::new(),
            made_in: Vec::new(),
            layer: 0,
            lower: BTreeMap::new(),
            put: BTreeSet::new(),
            markers: Vec::new(),
            agreement: Agreement::All,
        }
    }
}

type Outcome<T = ()> = Result<T, &'static str>;

impl Tree {
    /// Applies layers, lowest first.
    pub fn of(layers: &[Vec<Item>]) -> Outcome<Self> {
        let mut tree = Self::default();
        for layer in layers {
            tree.begin();
            for marker in layer.iter().filter(|i| is_marker(i)) {
                tree.mark(marker)?;
            }
            for item in layer {
                tree.add(item)?;
            }
        }
        Ok(tree)
    }

    /// Begins the next layer. All of its markers come first, since they act on what lies below;
    /// then every item in the tar's order, markers included.
    pub fn begin(&mut self) {
        self.layer += 1;
        self.put.clear();
        self.markers.clear();
        self.lower = self.names.iter().map(|(n, id)| (n.clone(), self.files[*id].kind)).collect();
    }

    /// Applies a marker.
    pub fn mark(&mut self, item: &Item) -> Outcome {
        let path = clean(&item.path);
        let (path, opaque) = marker(&path).unwrap_or((path, true));
        let at = self.place(&path)?;
        if at != path {
            return Err("a marker behind a symlink");
        }
        if opaque {
            let is_symlink = self.get(&at).is_some_and(|f| f.kind == b'2');
            if is_symlink {
                return Err("a symlink is opaque");
            }
        } else {
            self.names.remove(&at);
        }
        self.names.retain(|name, _| !is_below(name, &at));
        Ok(())
    }

    /// Applies an item; a marker is only looked at for what clients make of its place.
    pub fn add(&mut self, item: &Item) -> Outcome {
        let path = clean(&item.path);
        if let Some((path, opaque)) = marker(&path) {
            self.judge_marker(&path, opaque);
            return Ok(());
        }
        let at = self.place(&path)?;
        if at != path {
            self.agreed_by(Agreement::Umoci);
        }
        self.parents(&at)?;
        self.judge_place(&at, item.kind);
        if item.kind == b'1' {
            return self.link(at, item);
        }
        if at.is_empty() && item.kind != b'5' {
            return Err("the root is a directory");
        }
        if item.kind == b'2' && item.link.is_empty() {
            return Err("a symlink to nothing");
        }
        let file = file(item);
        if file.xattrs.len() < item.xattrs.len() {
            self.agreed_by(Agreement::Spec);
        }
        if !(item.kind == b'5' && self.is_dir(&at)) {
            self.names.retain(|name, _| !is_below(name, &at));
        }
        self.insert(at, file);
        Ok(())
    }

    fn link(&mut self, at: Vec<u8>, item: &Item) -> Outcome {
        if at.is_empty() {
            return Err("the root is a directory");
        }
        let wanted = clean(&item.link);
        let target = self.place(&wanted)?;
        let before = self.names.clone();
        self.names.retain(|name, _| *name != at && !is_below(name, &at));
        let Some(&id) = self.names.get(&target) else {
            self.names = before;
            return Err("a hard link to nothing");
        };
        if self.files[id].kind == b'5' {
            self.names = before;
            return Err("a hard link to a directory");
        }
        let mut agreed = Agreement::All;
        if self.made_in[id] != self.layer || target != wanted || !self.put.contains(&target) {
            agreed = Agreement::Umoci;
        }
        let like = file(item);
        let linked = &mut self.files[id];
        let mut new = linked.clone();
        new.owner = like.owner;
        if linked.kind != b'2' {
            (new.mode, new.mtime) = (like.mode, like.mtime);
        }
        if linked.xattrs.contains_key(CAPABILITY) && !like.xattrs.contains_key(CAPABILITY) {
            // Docker and containerd set the owner, which drops it.
            agreed = agreed.min(Agreement::Umoci);
            if new.owner != linked.owner {
                new.xattrs.remove(CAPABILITY);
            }
        }
        // Clients set what a header has, and take nothing away.
        new.xattrs.extend(like.xattrs);
        if *linked != new {
            *linked = new;
            agreed = Agreement::Spec;
        }
        self.agreed_by(agreed);
        self.made_in[id] = self.layer;
        self.put.insert(at.clone());
        self.names.insert(at, id);
        Ok(())
    }

    /// The files as they are now.
    pub fn view(&self) -> View {
        let mut names: BTreeMap<usize, Vec<&Vec<u8>>> = BTreeMap::new();
        for (name, id) in &self.names {
            names.entry(*id).or_default().push(name);
        }
        let mut view = View::new();
        for (id, names) in names {
            for name in &names {
                let first = (names.len() > 1).then(|| names[0].clone());
                view.insert((*name).clone(), File { first, ..self.files[id].clone() });
            }
        }
        view
    }

    /// Names of files that a hard link may go to.
    pub fn linkable(&self) -> Vec<&Vec<u8>> {
        self.names.iter().filter(|(_, id)| self.files[**id].kind != b'5').map(|(n, _)| n).collect()
    }

    /// All names but the root's.
    pub fn names(&self) -> Vec<&Vec<u8>> {
        self.names.keys().filter(|n| !n.is_empty()).collect()
    }

    pub fn get(&self, path: &[u8]) -> Option<&File> {
        self.names.get(path).map(|id| &self.files[*id])
    }

    /// Whether the current layer has an entry of its own there.
    pub fn has_put(&self, path: &[u8]) -> bool {
        self.put.contains(path)
    }

    pub fn is_dir(&self, path: &[u8]) -> bool {
        self.get(path).map_or(path.is_empty(), |f| f.kind == b'5')
    }

    fn insert(&mut self, at: Vec<u8>, file: File) {
        self.put.insert(at.clone());
        self.names.insert(at, self.files.len());
        self.files.push(file);
        self.made_in.push(self.layer);
    }

    fn agreed_by(&mut self, whom: Agreement) {
        self.agreement = self.agreement.min(whom);
    }

    /// Makes the directories above a path that are missing.
    fn parents(&mut self, at: &[u8]) -> Outcome {
        let parts: Vec<&[u8]> = at.split(|b| *b == b'/').collect();
        for n in 1..parts.len() {
            let dir = parts[..n].join(&b'/');
            if !self.put.contains(&dir) {
                // Docker gives such a directory other attributes.
                self.agreed_by(Agreement::Umoci);
            }
            if self.is_dir(&dir) {
                continue;
            }
            if let Some(id) = self.names.get(&dir)
                && self.made_in[*id] == self.layer
            {
                return Err("it lies below a file of the same layer");
            }
            if self.names.contains_key(&dir) {
                // A file gives way, which umoci refuses.
                self.agreed_by(Agreement::Spec);
            }
            let mut made = file(&Item::dir(&dir).mtime("0"));
            made.implied = true;
            let put = self.put.clone();
            self.insert(dir, made);
            self.put = put;
        }
        Ok(())
    }

    /// Where a path leads: symlinks above its last part are followed within the root.
    fn place(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let Some(slash) = path.iter().rposition(|b| *b == b'/') else { return Ok(path.to_vec()) };
        let split = |p: &[u8]| -> Vec<Vec<u8>> { p.split(|b| *b == b'/').map(Vec::from).collect() };
        let mut todo = VecDeque::from(split(&path[..slash]));
        let (mut at, mut hops) = (Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                at.truncate(at.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&at, &part);
            match self.get(&next).filter(|f| f.kind == b'2') {
                None => at = next,
                Some(link) => {
                    hops += 1;
                    if hops > 40 {
                        return Err("a loop of symlinks");
                    }
                    if link.data.starts_with(b"/") {
                        at.clear();
                    }
                    split(&link.data).into_iter().rev().for_each(|p| todo.push_front(p));
                }
            }
        }
        Ok(join(&at, &path[slash + 1..]))
    }

    /// On an overlay a marker is a file of its layer, in a directory of its layer; umoci goes from
    /// entry to entry.
    fn judge_marker(&mut self, path: &[u8], opaque: bool) {
        let dir = if opaque { path } else { parent(path) };
        let mut above = Some(dir);
        while let Some(dir) = above.filter(|d| !d.is_empty()) {
            if !self.put.contains(dir) || !self.is_dir(dir) {
                self.agreed_by(Agreement::Spec);
            }
            above = Some(parent(dir));
        }
        if dir.is_empty() && opaque {
            self.agreed_by(Agreement::Spec);
        }
        let marker = (path.to_vec(), opaque);
        let hides = |(above, opaque): &(Vec<u8>, bool), path| {
            is_below(path, above) || !opaque && path == above
        };
        // Docker refuses a path that a layer has twice. An overlay lists a whiteout in a directory
        // that has nothing below it, as a file that isn't there.
        let needless = self.markers.iter().any(|m| hides(m, path) || hides(&marker, &m.0));
        let lower = self.lower.get(parent(path)).is_some_and(|kind| *kind == b'5');
        if self.markers.contains(&marker) || needless || !opaque && !dir.is_empty() && !lower {
            self.agreed_by(Agreement::Spec);
        }
        let put =
            |p: &Vec<u8>| p == path || is_below(p, path) || is_below(path, p) && !self.is_dir(p);
        if !opaque && self.put.iter().any(put) {
            self.agreed_by(Agreement::Spec);
        }
        self.markers.push(marker);
    }

    /// What an overlay can't show: a path that is taken away and put in one layer. And clients give
    /// a directory its time when the layer is done, whatever has taken its place.
    fn judge_place(&mut self, at: &[u8], kind: u8) {
        if self.markers.iter().any(|(m, opaque)| !opaque && (m == at || is_below(at, m))) {
            self.agreed_by(Agreement::Spec);
        }
        if self.put.contains(at) {
            // Docker refuses a path that a layer has twice.
            self.agreed_by(Agreement::Umoci);
            if kind != b'5' && self.is_dir(at) {
                self.agreed_by(Agreement::Spec);
            }
        }
    }
}

const CAPABILITY: &str = "security.capability";

/// Attributes that storage drivers keep for themselves; in a layer they are no content.
fn is_of_driver(name: &str) -> bool {
    let prefixes =
        ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "security.fuseoverlayfs."];
    name == "user.containers.override_stat" || prefixes.iter().any(|p| name.starts_with(p))
}

/// Whether a directory says of itself, as overlayfs does, that it hides what lies below.
fn is_opaque(item: &Item) -> bool {
    item.kind == b'5' && item.xattrs.iter().any(|(k, v)| k == "trusted.overlay.opaque" && v == b"y")
}

/// What an item is on a disk.
pub fn file(item: &Item) -> File {
    let xattrs = item.xattrs.iter().filter(|(name, _)| !is_of_driver(name)).cloned().collect();
    File {
        kind: item.kind,
        mode: if item.kind == b'2' { 0o777 } else { item.mode },
        owner: item.owner,
        mtime: time(&item.mtime),
        data: if item.kind == b'2' { item.link.clone() } else { item.data.clone() },
        device: if matches!(item.kind, b'3' | b'4') { item.device } else { (0, 0) },
        xattrs,
        first: None,
        implied: false,
    }
}

/// Seconds, rounded down, and nanoseconds.
pub fn time(text: &str) -> (i64, u32) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: u32 = format!("{fraction:0<9}").parse().unwrap();
    let secs: i64 = whole.parse().unwrap();
    if whole.starts_with('-') && nanos > 0 {
        (secs - 1, 1_000_000_000 - nanos)
    } else {
        (secs, nanos)
    }
}

/// The text of a time.
pub fn time_text((secs, nanos): (i64, u32)) -> String {
    match (secs, nanos) {
        (_, 0) => secs.to_string(),
        (..0, _) => {
            let secs = (secs + 1).to_string();
            let sign = if secs == "0" { "-" } else { "" };
            format!("{sign}{secs}.{:09}", 1_000_000_000 - nanos)
        }
        _ => format!("{secs}.{nanos:09}"),
    }
}

/// A path without what means nothing.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        if part == b".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join(&b'/')
}

/// Whether an item takes away what lower layers have.
pub fn is_marker(item: &Item) -> bool {
    is_opaque(item) || marker(&clean(&item.path)).is_some()
}

/// What a marker hides, and whether it is an opaque one.
pub fn marker(path: &[u8]) -> Option<(Vec<u8>, bool)> {
    let dir = parent(path);
    let name = &path[dir.len()..];
    let name = name.strip_prefix(b"/").unwrap_or(name);
    if name == b".wh..wh..opq" {
        return Some((dir.to_vec(), true));
    }
    name.strip_prefix(b".wh.").map(|hidden| (join(dir, hidden), false))
}

pub fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0)]
}

pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    if dir.is_empty() {
        !path.is_empty()
    } else {
        path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
    }
}
