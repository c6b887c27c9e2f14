//! Random stacks of layers.

use super::dialect;
use super::random::Random;
use super::spec::{
    Agreement, Tree, clean, is_below, is_marker, join, marker, parent, time, time_text,
};
use super::view::View;
use crate::image::{Image, Item};

/// What a stack may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taste {
    /// What every client shows alike.
    Careful,
    /// Whatever the spec settles, as long as a disk can hold it.
    Bold,
    /// What only exists as a tar: times that no file system has, attributes on symlinks.
    Wild,
}

/// Layers, and what they must become.
#[derive(Clone)]
pub struct Stack {
    pub layers: Vec<Vec<Item>>,
    pub tree: Tree,
    taste: Taste,
}

impl Stack {
    pub fn new(random: &mut Random, taste: Taste) -> Self {
        loop {
            let mut layers = Vec::new();
            let mut tree = Tree::default();
            for _ in 0..=random.below(5) {
                layers.push(layer(random, &mut tree, taste));
            }
            // Seldom the place of a marker in the tar decides where its path leads.
            if let Ok(tree) = Tree::of(&layers) {
                return Self { layers, tree, taste };
            }
        }
    }

    /// A later version of the image: most of it as before, times moved.
    pub fn next(&self, random: &mut Random) -> Self {
        let (moved, mut layers, mut tree) = (random.below(3) > 0, Vec::new(), Tree::default());
        for old in &self.layers {
            let mut new = Vec::new();
            tree.begin();
            for item in old {
                if is_marker(item) {
                    let _ = tree.mark(item);
                }
            }
            for item in old {
                let mut item = item.clone();
                if moved && !random.one_in(8) {
                    let (secs, nanos) = time(&item.mtime);
                    item.mtime = time_text((secs + 1000, nanos));
                }
                if item.kind == b'0' && marker(&clean(&item.path)).is_none() && random.one_in(6) {
                    item.data = content(random);
                }
                let gone = item.kind != b'5' && random.one_in(10);
                let mut next = tree.clone();
                if !gone && next.add(&item).is_ok() {
                    tree = next;
                    new.push(item);
                }
            }
            layers.push(new);
        }
        if random.one_in(2) {
            layers.push(layer(random, &mut tree, self.taste));
        }
        let tree = Tree::of(&layers);
        // A whiteout that goes can leave something in the way: then all stays.
        tree.map_or_else(|_| self.clone(), |tree| Self { layers, tree, taste: self.taste })
    }

    pub fn view(&self) -> View {
        self.tree.view()
    }

    /// As an image, each entry in a form of its own; in `any`, or in one that all clients take.
    pub fn image(&self, any: bool, random: &mut Random) -> Image {
        Image::new(self.layers.iter().map(|l| dialect::layer(l, any, random)).collect())
    }
}

const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"a-b", b"a.b", b"wh.x", "é".as_bytes(), b"d"];
const ODD: [&[u8]; 12] = [
    b"caf\xe9\xff",
    b"new\nline",
    b"tab\t",
    b" blanks ",
    b"-dash",
    b"back\\slash",
    b"quote'\"$(x)",
    b"...",
    b"wh..wh.x",
    b"\x1b[31m",
    b"*?",
    b"CASE",
];

fn name(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0..=3 => random.of(&ODD).to_vec(),
        4 => vec![b'n'; 255],
        5 | 6 => vec![b'l'; 90 + random.below(30)],
        _ => random.of(&NAMES).to_vec(),
    }
}

/// A path as writers put it.
fn spell(random: &mut Random, path: &[u8], is_dir: bool) -> Vec<u8> {
    if path.is_empty() {
        return random.of(&[&b"./"[..], b"/", b"."]).to_vec();
    }
    let mut out = match random.below(8) {
        0 | 1 => [b"./", path].concat(),
        2 => [b"/", path].concat(),
        3 => path.split(|b| *b == b'/').collect::<Vec<_>>().join(&b"//"[..]),
        _ => path.to_vec(),
    };
    if is_dir && random.below(3) > 0 {
        out.push(b'/');
    }
    out
}

fn content(random: &mut Random) -> Vec<u8> {
    let word = format!("{:x} ", random.next()).into_bytes();
    let size = *random.of(&[0, 1, 17, 511, 512, 513, 1024, 3000]);
    let mut data: Vec<u8> = word.iter().copied().cycle().take(size).collect();
    if random.one_in(5) {
        // Holes, and something between them.
        for _ in 0..=random.below(30) {
            data.resize(data.len() + 512 * (1 + random.below(3)), 0);
            data.resize(data.len() + 512 * random.below(2), b'x');
        }
        data.truncate(data.len() - random.below(data.len().min(600)));
    }
    data
}

fn mode(random: &mut Random) -> u32 {
    *random.of(&[0o644, 0o755, 0o600, 0o4755, 0o2755, 0o6711, 0o1777, 0, 0o444, 0o7777])
}

fn owner(random: &mut Random) -> (u64, u64) {
    let mut id = || {
        *random.of(&[0, 0, 0, 1, 1000, 65_534, 2_097_151, 2_097_152, 2_000_000_000, 4_294_967_294])
    };
    (id(), id())
}

fn mtime(random: &mut Random, taste: Taste) -> String {
    let times = [
        "0",
        "1",
        "1600000000",
        "1600000001",
        "1600000000.5",
        "1600000000.000000001",
        "4102444800",
        "8589934591",
        "8589934592",
        "-1",
        "-1.5",
        "-86400.25",
        "978498245.123456789",
    ];
    let wild = ["1099511627776", "-99999999999", "68719476736.75", "-0.000000001"];
    if taste == Taste::Wild && random.one_in(4) { random.of(&wild) } else { random.of(&times) }
        .to_string()
}

fn xattrs(random: &mut Random, kind: u8, taste: Taste) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(&str, Vec<u8>)> = Vec::new();
    let regular = matches!(kind, b'0' | b'5');
    if random.below(4) > 0 {
        return Vec::new();
    }
    if regular || taste == Taste::Wild {
        found.push(("user.text", "é".into()));
        found.push(("user.bin", b"\x00\n=\xff\n".to_vec()));
    }
    if taste == Taste::Wild {
        // Go's reader takes it for a record that is taken back.
        found.push(("user.empty", Vec::new()));
    }
    if kind == b'0' {
        let version_2 =
            [1, 0, 0, 2, random.below(256) as u8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        found.push(("security.capability", version_2.to_vec()));
    }
    found.push(("trusted.own", b"1".to_vec()));
    if taste != Taste::Careful && random.one_in(3) {
        let of_driver = [
            "trusted.overlay.origin",
            "trusted.overlay.redirect",
            "user.overlay.opaque",
            "user.fuseoverlayfs.opaque",
        ];
        let on_any = if regular { &of_driver[..] } else { &of_driver[..2] };
        found.push((*random.of(on_any), b"y".to_vec()));
    }
    found.retain(|_| random.below(2) == 0);
    found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn with_metadata(random: &mut Random, taste: Taste, item: Item) -> Item {
    let kind = item.kind;
    Item {
        mode: if kind == b'5' && random.below(3) > 0 { 0o755 } else { mode(random) },
        owner: owner(random),
        mtime: mtime(random, taste),
        xattrs: xattrs(random, kind, taste),
        ..item
    }
}

/// An item with the attributes that a path has now.
fn again(tree: &Tree, path: &[u8], item: Item) -> Item {
    let Some(file) = tree.get(path) else { return item };
    // Not every kind of file can have every attribute.
    let same = item.kind == b'1' || item.kind == file.kind;
    Item {
        mode: file.mode,
        owner: file.owner,
        mtime: time_text(file.mtime),
        xattrs: file.xattrs.iter().filter(|_| same).map(|(k, v)| (k.clone(), v.clone())).collect(),
        ..item
    }
}

/// Adds items unless they contradict each other, or clients would do so.
fn propose(tree: &mut Tree, out: &mut Vec<Item>, items: Vec<Item>, taste: Taste) {
    let mut next = tree.clone();
    let fits = items.iter().all(|item| next.add(item).is_ok());
    if fits && (taste != Taste::Careful || next.agreement == Agreement::All) {
        *tree = next;
        out.extend(items);
    }
}

/// Entries of the directories above a path that the layer does not have yet.
fn parents(random: &mut Random, tree: &Tree, path: &[u8], taste: Taste) -> Vec<Item> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let dirs = (1..parts.len()).map(|n| parts[..n].join(&b'/'));
    let missing: Vec<_> = dirs.filter(|dir| !(tree.has_put(dir) && tree.is_dir(dir))).collect();
    let mut item = |dir: Vec<u8>| {
        let item = Item::dir(spell(random, &dir, true));
        if tree.is_dir(&dir) && random.below(4) > 0 {
            again(tree, &dir, item)
        } else {
            with_metadata(random, taste, item)
        }
    };
    missing.into_iter().map(&mut item).collect()
}

fn any_path(random: &mut Random, tree: &Tree) -> Vec<u8> {
    let names = tree.names();
    if !names.is_empty() && random.one_in(3) {
        return (*random.of(&names)).clone();
    }
    let dirs: Vec<_> = names
        .into_iter()
        .filter(|n| tree.get(n).is_some_and(|f| matches!(f.kind, b'5' | b'2')))
        .collect();
    let mut path =
        if dirs.is_empty() || random.one_in(3) { Vec::new() } else { (*random.of(&dirs)).clone() };
    let depth = if random.one_in(60) { 12 } else { 1 + random.below(2) };
    for _ in 0..depth {
        let name = name(random);
        if path.len() + name.len() < 1200 {
            path = join(&path, &name);
        }
    }
    if path.is_empty() { b"a".to_vec() } else { path }
}

fn item(random: &mut Random, tree: &Tree, path: &[u8], taste: Taste) -> Item {
    let spelled = spell(random, path, false);
    let targets: Vec<Vec<u8>> = tree
        .linkable()
        .into_iter()
        .filter(|t| t.as_slice() != path && (taste != Taste::Careful || tree.has_put(t)))
        .cloned()
        .collect();
    let new = match random.below(14) {
        0 | 1 => Item::dir(spell(random, path, true)),
        2 => {
            let target = match random.below(5) {
                0 => b"/a".to_vec(),
                1 => b"../b".to_vec(),
                2 => vec![b't'; 99 + random.below(120)],
                3 => b"nowhere\n\xff".to_vec(),
                _ => any_path(random, tree),
            };
            Item::symlink(spelled, target)
        }
        3..=5 if !targets.is_empty() => {
            let target = random.of(&targets).clone();
            let link = Item::link(spelled, spell(random, &target, false));
            if taste != Taste::Careful && random.one_in(4) {
                // A header of its own: docker and containerd apply it, umoci does not.
                return Item { xattrs: Vec::new(), ..with_metadata(random, taste, link) };
            }
            return again(tree, &target, link);
        }
        6 => Item::new(spelled, b'6'),
        7 => Item {
            device: *random.of(&[(1, 3), (7, 300), (4095, 7)]),
            ..Item::new(spelled, *random.of(b"34"))
        },
        _ => Item::file(spelled, content(random)),
    };
    // Now and then only the attributes change, or only the content.
    if random.one_in(4) { again(tree, path, new) } else { with_metadata(random, taste, new) }
}

fn layer(random: &mut Random, tree: &mut Tree, taste: Taste) -> Vec<Item> {
    let lower: Vec<Vec<u8>> = tree.names().into_iter().cloned().collect();
    tree.begin();
    let (mut markers, mut drivers): (Vec<(Vec<u8>, Item)>, _) = (Vec::new(), Vec::new());
    for _ in 0..random.below(4) {
        let path = if lower.is_empty() || taste != Taste::Careful && random.one_in(6) {
            any_path(random, tree)
        } else {
            random.of(&lower).clone()
        };
        let dir = parent(&path);
        if taste != Taste::Careful && tree.is_dir(&path) && random.one_in(8) {
            let opaque =
                Item::dir(spell(random, &path, true)).xattr("trusted.overlay.opaque", b"y");
            if tree.mark(&opaque).is_ok() {
                drivers.push(opaque);
            }
            continue;
        }
        let (dir, name): (&[u8], &[u8]) = if tree.is_dir(&path) && random.one_in(3) {
            (&path, b".wh..wh..opq")
        } else {
            (dir, &[b".wh.", path[dir.len()..].strip_prefix(b"/").unwrap_or(&path)].concat())
        };
        let marker = Item::file(spell(random, &join(dir, name), false), "");
        // Careful: a marker needs its directory, which another must not take away.
        let hidden = |item: &Item| self::marker(&clean(&item.path)).unwrap_or_default().0;
        let meets =
            |other: &Vec<u8>| *other == path || is_below(other, &path) || is_below(&path, other);
        if taste == Taste::Careful && markers.iter().any(|(_, other)| meets(&hidden(other))) {
            continue;
        }
        let mut next = tree.clone();
        if name.len() <= 255 && next.mark(&marker).is_ok() {
            *tree = next;
            markers.push((dir.to_vec(), marker));
        }
    }
    let mut out = Vec::new();
    for opaque in drivers {
        propose(tree, &mut out, vec![opaque], taste);
    }
    if random.one_in(8) {
        let root = Item::dir(spell(random, b"", true));
        let root = with_metadata(random, taste, root);
        propose(tree, &mut out, vec![root], taste);
    }
    if taste == Taste::Careful {
        for (dir, _) in &markers {
            let above = parents(random, tree, &join(dir, b"x"), taste);
            propose(tree, &mut out, above, taste);
        }
    }
    for _ in 0..=random.below(10) {
        let path = any_path(random, tree);
        let mut items = if taste == Taste::Careful || random.below(3) > 0 {
            parents(random, tree, &path, taste)
        } else {
            Vec::new()
        };
        items.push(item(random, tree, &path, taste));
        let hidden = |m: &(Vec<u8>, Item)| {
            let (hidden, opaque) = self::marker(&clean(&m.1.path)).unwrap_or_default();
            !opaque && (hidden == path || is_below(&path, &hidden))
        };
        if taste == Taste::Careful && markers.iter().any(hidden) {
            continue;
        }
        propose(tree, &mut out, items, taste);
    }
    for (dir, marker) in markers {
        // Careful: behind the entries of its directories, of which the deepest is the last.
        let mut first = 0;
        if taste == Taste::Careful {
            first = out
                .iter()
                .position(|i: &Item| i.kind == b'5' && clean(&i.path) == dir)
                .map_or(0, |at| at + 1);
        }
        let at = first + random.below(out.len() + 1 - first);
        out.insert(at, marker);
    }
    out
}
