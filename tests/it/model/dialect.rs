//! One entry in any of the forms that writers of tar have used.

use super::random::Random;
use crate::image::{Item, padded, pax_record};

/// A header block in the making.
struct Head([u8; 512]);

impl Head {
    fn new(kind: u8) -> Self {
        let mut block = [0; 512];
        block[156] = kind;
        Self(block)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A number, as one of the ways in which writers have put it.
    fn number(&mut self, at: usize, width: usize, n: u64, random: &mut Random) {
        let digits = format!("{n:o}");
        assert!(digits.len() < width, "{n} does not fit");
        let text = match random.below(4) {
            0 => format!("{digits:>w$} ", w = width - 1),
            1 if digits.len() + 2 <= width => format!("{digits:>w$} \0", w = width - 2),
            _ => format!("{digits:0>w$}\0", w = width - 1),
        };
        self.put(at, text.as_bytes());
    }

    /// A number in base 256.
    fn base_256(&mut self, at: usize, width: usize, n: i64) {
        for i in 0..width {
            let shift = 8 * (width - 1 - i) as u32;
            self.0[at + i] = if shift < 64 { (n >> shift) as u8 } else { (n >> 63) as u8 };
        }
        self.0[at] |= 0x80;
    }

    fn finish(mut self) -> Vec<u8> {
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

const SMALL_ID: u64 = 0o7_777_777;
const SMALL: u64 = 0o77_777_777_777;

/// Whether the fields of the oldest header hold all of it, names aside.
fn is_plain(item: &Item) -> bool {
    let time: Option<u64> = item.mtime.parse().ok();
    item.xattrs.is_empty()
        && item.owner.0.max(item.owner.1) <= SMALL_ID
        && time.is_some_and(|t| t <= SMALL)
}

/// The bytes of an item, headers and data.
fn encode(item: &Item, any: bool, random: &mut Random) -> Vec<u8> {
    let whole: Option<i64> = item.mtime.parse().ok();
    let short = item.path.len() <= 100 && item.link.len() <= 100;
    let special = matches!(item.kind, b'3' | b'4' | b'6');
    let holes = item.kind == b'0' && item.data.windows(512).any(|w| w.iter().all(|b| *b == 0));
    match random.below(8) {
        0 if is_plain(item) && short && !special => v7(item, random),
        1 | 2 if is_plain(item) && item.link.len() <= 100 => match prefixed(&item.path) {
            Some(split) => ustar(item, split, random),
            None => pax(item, random),
        },
        3 | 4 if item.xattrs.is_empty() && whole.is_some() => {
            gnu(item, any && holes && random.one_in(2), random)
        }
        5 if holes => sparse(item, random),
        _ => pax(item, random),
    }
}

/// Prefix and name of ustar.
fn prefixed(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let cut = |i: &usize| path[*i] == b'/' && *i > 0 && *i <= 155 && path.len() - i - 1 <= 100;
    let at = (0..path.len() - 1).find(cut)?;
    Some((&path[..at], &path[at + 1..]))
}

/// The fields that all forms have; `size` is of what is stored.
fn common(item: &Item, kind: u8, size: u64, random: &mut Random) -> Head {
    let mut head = Head::new(kind);
    // Some writers put the type of the file into the mode as well.
    let special = matches!(item.kind, b'3' | b'4' | b'6');
    let extra = if !special && random.one_in(4) { 0o100_000 } else { 0 };
    head.number(100, 8, u64::from(item.mode | extra), random);
    for (at, id) in [(108, item.owner.0), (116, item.owner.1)] {
        head.number(at, 8, if id > SMALL_ID { 0 } else { id }, random);
    }
    head.number(124, 12, size, random);
    let time = item.mtime.parse().ok().filter(|t: &u64| *t <= SMALL);
    head.number(136, 12, time.unwrap_or(0), random);
    head
}

fn name(head: &mut Head, item: &Item) {
    head.put(0, &item.path[..item.path.len().min(100)]);
    head.put(157, &item.link[..item.link.len().min(100)]);
}

fn posix(head: &mut Head, item: &Item, random: &mut Random) {
    head.put(257, b"ustar\x0000");
    head.put(265, b"somebody");
    head.put(297, b"some group");
    devices(head, item, random);
}

fn devices(head: &mut Head, item: &Item, random: &mut Random) {
    // Only devices have them; others hold zeros or nothing.
    if matches!(item.kind, b'3' | b'4') || random.one_in(2) {
        head.number(329, 8, u64::from(item.device.0), random);
        head.number(337, 8, u64::from(item.device.1), random);
    }
}

fn with_data(head: Head, item: &Item) -> Vec<u8> {
    [head.finish(), padded(item.data.clone())].concat()
}

/// Before POSIX: no magic; a directory is a name with a slash at its end.
fn v7(item: &Item, random: &mut Random) -> Vec<u8> {
    let slash = item.path.ends_with(b"/");
    let kind = match item.kind {
        b'5' if slash => *random.of(b"\x005"),
        b'0' => *random.of(b"\x000"),
        kind => kind,
    };
    let mut head = common(item, kind, item.data.len() as u64, random);
    name(&mut head, item);
    with_data(head, item)
}

fn ustar(item: &Item, (prefix, base): (&[u8], &[u8]), random: &mut Random) -> Vec<u8> {
    let mut head = common(item, item.kind, item.data.len() as u64, random);
    posix(&mut head, item, random);
    head.put(0, base);
    head.put(345, prefix);
    head.put(157, &item.link);
    with_data(head, item)
}

/// GNU's: long names in entries of their own, large numbers in base 256.
fn gnu(item: &Item, sparse: bool, random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, text) in [(b'L', &item.path), (b'K', &item.link)] {
        if text.len() > 100 || !text.is_empty() && random.one_in(8) {
            let mut head = Head::new(kind);
            head.put(0, b"././@LongLink");
            head.number(124, 12, text.len() as u64 + 1, random);
            head.put(257, b"ustar  \0");
            out.extend(head.finish());
            out.extend(padded([&text[..], b"\0"].concat()));
        }
    }
    let (runs, stored) =
        if sparse { runs(&item.data, random) } else { (Vec::new(), item.data.clone()) };
    let kind = if sparse { b'S' } else { item.kind };
    let mut head = common(item, kind, stored.len() as u64, random);
    name(&mut head, item);
    head.put(257, b"ustar  \0");
    devices(&mut head, item, random);
    for (at, id) in [(108, item.owner.0), (116, item.owner.1)] {
        if id > SMALL_ID || random.one_in(6) {
            head.base_256(at, 8, id.cast_signed());
        }
    }
    let time: i64 = item.mtime.parse().unwrap();
    if !(0..=SMALL.cast_signed()).contains(&time) || random.one_in(6) {
        head.base_256(136, 12, time);
    }
    if random.one_in(6) {
        head.base_256(124, 12, (stored.len() as u64).cast_signed());
    }
    let mut more = Vec::new();
    if sparse {
        let run = |head: &mut Head, at: usize, (from, len): (usize, usize), random: &mut Random| {
            head.number(at, 12, from as u64, random);
            head.number(at + 12, 12, len as u64, random);
        };
        for (i, r) in runs.iter().take(4).enumerate() {
            run(&mut head, 386 + 24 * i, *r, random);
        }
        head.0[482] = u8::from(runs.len() > 4);
        head.number(483, 12, item.data.len() as u64, random);
        let rest = runs.get(4..).unwrap_or_default();
        for (n, part) in rest.chunks(21).enumerate() {
            let mut block = Head([0; 512]);
            for (i, r) in part.iter().enumerate() {
                run(&mut block, 24 * i, *r, random);
            }
            block.0[504] = u8::from(rest.len() > 21 * (n + 1));
            more.extend(block.0);
        }
    }
    [out, head.finish(), more, padded(stored)].concat()
}

/// Records for all that is unusual, and for other things as they please.
fn records(item: &Item, random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let mut record = |key: &str, value: &[u8]| records.push((key.to_owned(), value.to_vec()));
    if random.one_in(6) {
        // Taken back, or said again.
        record("linkpath", b"elsewhere");
        record("linkpath", b"");
        record("mtime", b"17");
        record("comment", b"a newline\nand = a sign");
    }
    if item.link.len() > 100 || !item.link.is_empty() && random.one_in(4) {
        record("linkpath", &item.link);
    }
    for (key, id) in [("uid", item.owner.0), ("gid", item.owner.1)] {
        if id > SMALL_ID || random.one_in(6) {
            record(key, id.to_string().as_bytes());
        }
    }
    record("mtime", item.mtime.as_bytes());
    if random.one_in(3) {
        record("atime", b"1500000000.5");
        record("ctime", b"1500000001");
        record("uname", "jürgen".as_bytes());
        record("LIBARCHIVE.creationtime", b"1");
    }
    for (name, value) in &item.xattrs {
        if random.one_in(8) {
            record(&format!("SCHILY.xattr.{name}"), b"what a later record replaces");
        }
        record(&format!("SCHILY.xattr.{name}"), value);
    }
    records
}

fn extended(records: &[(String, Vec<u8>)], kind: u8, random: &mut Random) -> Vec<u8> {
    let text: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k.as_bytes(), v)).collect();
    let mut head = Head::new(kind);
    head.put(0, b"./PaxHeaders.7/x");
    head.number(100, 8, 0o644, random);
    head.number(124, 12, text.len() as u64, random);
    head.put(257, b"ustar\x0000");
    [head.finish(), padded(text)].concat()
}

fn pax(item: &Item, random: &mut Random) -> Vec<u8> {
    let mut records = records(item, random);
    let mut shown = item.clone();
    if item.path.len() > 100 || random.one_in(4) {
        records.push(("path".into(), item.path.clone()));
        shown.path = b"what/the/record/replaces".to_vec();
    }
    let mut size = item.data.len() as u64;
    if random.one_in(5) {
        records.push(("size".into(), size.to_string().into_bytes()));
        size = 0;
    }
    let mut head = common(&shown, item.kind, size, random);
    name(&mut head, &shown);
    posix(&mut head, item, random);
    [extended(&records, b'x', random), head.finish(), padded(item.data.clone())].concat()
}

/// GNU's sparse files in PAX.
fn sparse(item: &Item, random: &mut Random) -> Vec<u8> {
    let mut records = records(item, random);
    let (runs, mut stored) = runs(&item.data, random);
    let mut record = |key: &str, value: Vec<u8>| records.push((format!("GNU.sparse.{key}"), value));
    let number = |n: usize| n.to_string().into_bytes();
    let form = random.below(3);
    match form {
        0 => {
            record("size", number(item.data.len()));
            record("numblocks", number(runs.len()));
            for (from, len) in &runs {
                record("offset", number(*from));
                record("numbytes", number(*len));
            }
        }
        1 => {
            let map: Vec<String> = runs.iter().map(|(from, len)| format!("{from},{len}")).collect();
            record("size", number(item.data.len()));
            record("numblocks", number(runs.len()));
            record("map", map.join(",").into_bytes());
            record("name", item.path.clone());
        }
        _ => {
            let lines: String = runs.iter().map(|(from, len)| format!("{from}\n{len}\n")).collect();
            record("major", number(1));
            record("minor", number(0));
            record("name", item.path.clone());
            record("realsize", number(item.data.len()));
            stored = [padded(format!("{}\n{lines}", runs.len()).into_bytes()), stored].concat();
        }
    }
    if form == 0 && item.path.len() > 100 {
        records.push(("path".into(), item.path.clone()));
    }
    let shown = if form == 0 {
        item.clone()
    } else {
        Item { path: b"GNUSparseFile.0/x".to_vec(), ..item.clone() }
    };
    let mut head = common(&shown, b'0', stored.len() as u64, random);
    name(&mut head, &shown);
    posix(&mut head, item, random);
    [extended(&records, b'x', random), head.finish(), padded(stored)].concat()
}

/// Where a file is not zero, by blocks, and those bytes.
fn runs(data: &[u8], random: &mut Random) -> (Vec<(usize, usize)>, Vec<u8>) {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut stored = Vec::new();
    for (i, block) in data.chunks(512).enumerate() {
        if block.iter().all(|b| *b == 0) {
            continue;
        }
        stored.extend(block);
        match runs.last_mut().filter(|(from, len)| from + len == 512 * i) {
            Some((_, len)) if random.below(3) > 0 => *len += block.len(),
            _ => runs.push((512 * i, block.len())),
        }
    }
    // A file that ends in a hole has an empty run there.
    if random.one_in(2) || runs.is_empty() {
        runs.push((data.len(), 0));
    }
    (runs, stored)
}

/// A layer's tar of some items; unless in `any` form, without what containerd refuses, sparse files
/// in GNU's oldest way, and umoci, global headers.
pub fn layer(items: &[Item], any: bool, random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        if any && random.one_in(12) {
            let comment =
                [("comment".to_owned(), b"0123".to_vec()), ("mtime".to_owned(), b"1".to_vec())];
            out.extend(extended(&comment, b'g', random));
        }
        out.extend(encode(item, any, random));
    }
    // The end is marked by two blocks of zeros, filled up to a record by some, left out by others.
    match random.below(4) {
        0 if !items.is_empty() => {}
        1 => out.resize((out.len() + 1024).next_multiple_of(10_240), 0),
        _ => out.extend([0; 1024]),
    }
    out
}
