//! Random layer stacks against a second, simple implementation of the spec, and some of them
//! against umoci. The seed is printed; `RELAYER_SEED` repeats a run, `RELAYER_STACKS` sets how
//! many there are.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use relayer::content::Budget;
use relayer::fileset::Kind;
use relayer::flatten::flatten;
use relayer::layer::Limits;
use relayer::progress::Silent;
use relayer::transport::open::LayerBlob;

use super::image::{Image, Item, digest, layer};
use super::tool;

/// A small random number generator (splitmix64): the same numbers for a seed on every machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What is at a path, in the model: a number names the inode.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Dir(u32),
    File(u64),
    Link(String),
}

/// The file set as nested maps: slow, and nothing like the sorted list of the code under test.
#[derive(Default, Clone)]
struct Model {
    node: Option<Node>,
    children: BTreeMap<String, Model>,
}

/// Inode number to content and mode.
type Inodes = BTreeMap<u64, (Vec<u8>, u32)>;

impl Model {
    fn at(&mut self, path: &str) -> &mut Model {
        path.split('/').fold(self, |m, part| m.children.entry(part.into()).or_default())
    }

    fn find(&self, path: &str) -> Option<&Model> {
        path.split('/').try_fold(self, |m, part| m.children.get(part))
    }

    fn remove(&mut self, path: &str) {
        match path.split_once('/') {
            None => drop(self.children.remove(path)),
            Some((dir, rest)) => {
                if let Some(m) = self.children.get_mut(dir) {
                    m.remove(rest);
                }
            }
        }
    }

    fn list(&self, prefix: &str, out: &mut BTreeMap<String, Node>) {
        for (name, child) in &self.children {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            out.insert(path.clone(), child.node.clone().unwrap());
            child.list(&path, out);
        }
    }
}

/// A stack of layers, and what it must become.
pub struct Stack {
    pub layers: Vec<Vec<Item>>,
    model: Model,
    inodes: Inodes,
}

pub fn stack(random: &mut Random) -> Stack {
    let mut s = Stack { layers: Vec::new(), model: Model::default(), inodes: Inodes::new() };
    for _ in 0..=random.below(5) {
        let lower = s.model.clone();
        let mut entries = Vec::new();
        let mut markers = Vec::new();
        let mut next = lower.clone();
        // Whiteouts first in the model; in the tar they stand anywhere.
        let mut paths = BTreeMap::new();
        lower.list("", &mut paths);
        let paths: Vec<(String, Node)> = paths.into_iter().collect();
        for _ in 0..random.below(4) {
            if paths.is_empty() {
                break;
            }
            let (path, node) = &paths[random.below(paths.len())];
            if random.below(3) == 0 && matches!(node, Node::Dir(_)) {
                if next.find(path).is_some() {
                    next.at(path).children.clear();
                }
                markers.push(Item::opaque(path));
            } else {
                next.remove(path);
                markers.push(Item::whiteout(path));
            }
        }
        for _ in 0..=random.below(10) {
            add(random, &mut next, &mut s.inodes, &mut entries);
        }
        for m in markers {
            let at = random.below(entries.len() + 1);
            entries.insert(at, m);
        }
        s.layers.push(entries);
        s.model = next;
    }
    s
}

/// Adds an entry at a random path, with all of its parents.
fn add(random: &mut Random, model: &mut Model, inodes: &mut Inodes, entries: &mut Vec<Item>) {
    let names = ["a", "b", "c", "a-b", "wh.x"];
    let depth = 1 + random.below(3);
    let parts: Vec<&str> = (0..depth).map(|_| names[random.below(names.len())]).collect();
    for d in 1..depth {
        // Not through symlinks: where those lead is the subject of other tests.
        let dir = parts[..d].join("/");
        let mode = 0o700 + random.below(64) as u32;
        let here = model.at(&dir);
        if !matches!(here.node, Some(Node::Dir(_))) {
            here.children.clear();
        }
        here.node = Some(Node::Dir(mode));
        entries.push(Item::dir(&dir).mode(mode));
    }
    let path = parts.join("/");
    let kind = random.below(10);
    let mut files = BTreeMap::new();
    model.list("", &mut files);
    let files: Vec<(String, u64)> = files
        .into_iter()
        .filter_map(|(p, n)| match n {
            Node::File(id) if p != path && !p.starts_with(&format!("{path}/")) => Some((p, id)),
            _ => None,
        })
        .collect();
    let here = model.at(&path);
    match kind {
        0..=1 => {
            let mode = 0o700 + random.below(64) as u32;
            if !matches!(here.node, Some(Node::Dir(_))) {
                here.children.clear();
            }
            here.node = Some(Node::Dir(mode));
            entries.push(Item::dir(format!("{path}/")).mode(mode));
        }
        2 => {
            here.children.clear();
            here.node = Some(Node::Link("a/b".into()));
            entries.push(Item::symlink(&path, "a/b"));
        }
        3..=5 if !files.is_empty() => {
            let (target, id) = &files[random.below(files.len())];
            here.children.clear();
            here.node = Some(Node::File(*id));
            // As real archives have it. Where a link's header says something else, docker and
            // containerd apply it and umoci does not.
            entries.push(Item::link(&path, target).mode(inodes[id].1));
        }
        _ => {
            let id = random.next();
            let data = id.to_string().repeat(1 + random.below(3)).into_bytes();
            let mode = 0o600 + random.below(64) as u32;
            here.children.clear();
            here.node = Some(Node::File(id));
            entries.push(Item::file(&path, &data).mode(mode));
            inodes.insert(id, (data, mode));
        }
    }
}

/// Compares what flatten makes of a stack with the model.
fn check(s: &Stack, seed: u64) {
    let tars: Vec<Vec<u8>> = s.layers.iter().map(|l| layer(l)).collect();
    let blobs: Vec<LayerBlob> = tars
        .iter()
        .enumerate()
        .map(|(i, tar)| {
            let (name, diff_id) = (format!("layer {}", i + 1), digest(tar).parse().unwrap());
            LayerBlob::undescribed(name, diff_id, Arc::new(tar.clone()), u64::MAX).unwrap()
        })
        .collect();
    let budget = Budget::new(1 << 20, None);
    let flat = flatten(&blobs, Some(&budget), &Limits::new(1 << 30, 1 << 20), &Silent)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let mut want = BTreeMap::new();
    s.model.list("", &mut want);
    let set = &flat.files;
    let paths: Vec<String> =
        set.entries().iter().map(|e| String::from_utf8(e.path.to_vec()).unwrap()).collect();
    assert!(
        paths.iter().eq(want.keys()),
        "seed {seed}: {paths:?}\nbut the model has {:?}",
        want.keys()
    );
    let mut groups: BTreeMap<u64, u32> = BTreeMap::new();
    for (entry, (path, node)) in set.entries().iter().zip(&want) {
        let inode = set.inode(entry);
        let place = format!("seed {seed}, {path}");
        match (&inode.kind, node) {
            (Kind::Dir, Node::Dir(mode)) => assert_eq!(inode.mode, *mode, "{place}"),
            (Kind::Symlink { target }, Node::Link(to)) => {
                assert_eq!(&**target, to.as_bytes(), "{place}");
            }
            (Kind::File(file), Node::File(id)) => {
                let (data, mode) = &s.inodes[id];
                assert_eq!(flat.contents.read(file, 1 << 20).unwrap(), *data, "{place}");
                assert_eq!(inode.mode, *mode, "{place}");
                // The same file in the model is the same inode, and no other is.
                assert_eq!(*groups.entry(*id).or_insert(entry.inode), entry.inode, "{place}");
            }
            (found, wanted) => panic!("{place}: {} and not {wanted:?}", found.word()),
        }
    }
    let mut inodes: Vec<u32> = groups.values().copied().collect();
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), groups.len(), "seed {seed}: files joined that are two");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
}

pub fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    setting("RELAYER_SEED", time.as_secs())
}

#[test]
fn random_stacks_are_what_the_spec_says() {
    let seed = seed();
    println!("RELAYER_SEED={seed}");
    for i in 0..setting("RELAYER_STACKS", 4000) {
        let seed = seed.wrapping_add(i);
        check(&stack(&mut Random(seed)), seed);
    }
}

#[test]
fn random_stacks_are_what_umoci_unpacks() {
    let seed = seed();
    println!("RELAYER_SEED={seed}");
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut done = 0;
    for i in 0..60 {
        let s = stack(&mut Random(seed.wrapping_add(i)));
        // umoci goes entry by entry: markers must come first for it.
        let mut layers = s.layers.clone();
        for items in &mut layers {
            let marker = |i: &Item| i.path.windows(4).any(|w| w == b".wh.");
            items.sort_by_key(|i| !marker(i));
        }
        let image = Image::new(layers.iter().map(|l| layer(l)).collect());
        let _ = fs::remove_dir_all(at("in"));
        let _ = fs::remove_dir_all(at("out"));
        image.write_layout(&at("in"), super::image::Codec::Plain);
        fs::create_dir_all(at("a")).unwrap();
        fs::create_dir_all(at("b")).unwrap();
        let source = format!("oci:{}", at("in").display());
        tool::split(&[&source, "-o", &format!("oci:{}:x", at("out").display()), "--target", "3"]);
        let want = tool::unpack(&at("in"), &at("a"));
        let got = tool::unpack(&at("out"), &at("b"));
        tool::same_tree(&want, &got, &format!("RELAYER_SEED={}", seed.wrapping_add(i)));
        done += 1;
    }
    assert_eq!(done, 60);
}
