//! Comparison of two file sets, with every difference as data.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::ReadImage;
use crate::base::error::{Error, Result};
use crate::model::content::Budget;
use crate::model::fileset::{Entry, FileSet, InodeKind, display};
use crate::model::index::InodeId;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::Platform;
use crate::plan::recorded_times::{self, Held};
use crate::plan::update::{CarriedOver, carry_over};

/// A difference between two file sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path, with unprintable bytes escaped.
    pub path: String,
    /// What differs: `only in the first`, `content`, `mode`, `mtime`, …
    pub what: &'static str,
    /// The value in the first file set, for people.
    pub first: String,
    /// The value in the second file set.
    pub second: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)?;
        if self.first.is_empty() && self.second.is_empty() {
            return Ok(());
        }
        write!(f, ": {} / {}", self.first, self.second)
    }
}

/// What can differ, and how people call it, the gravest first.
const KINDS: [(&str, &str); 12] = [
    ("only in the first", "missing from the second"),
    ("only in the second", "added by the second"),
    ("type", "type"),
    ("size", "content"),
    ("content", "content"),
    ("link target", "link target"),
    ("device", "device number"),
    ("hard link group", "hard links"),
    ("mode", "mode"),
    ("owner", "owner"),
    ("xattrs", "extended attributes"),
    ("mtime", "modification time"),
];

impl Difference {
    /// Returns what kind of difference it is, in the order of gravity.
    pub fn kind(&self) -> usize {
        KINDS.iter().position(|(what, _)| *what == self.what).unwrap_or(KINDS.len())
    }
}

/// What a comparison of two images, or of two indexes, came to.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Number of paths in the first.
    pub paths: usize,
    /// The times that were allowed to differ.
    pub carried_over: CarriedOver,
    /// Times that would have been changed or carried over if other files did not record them.
    pub held: Held,
    /// All differences, by platform and path.
    pub differences: Vec<Difference>,
}

impl Verification {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }

    /// Returns how many differences there are of each kind, the gravest kind first.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut found = [0; KINDS.len() + 1];
        self.differences.iter().for_each(|d| found[d.kind()] += 1);
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for ((_, name), found) in KINDS.iter().zip(found) {
            match counts.last_mut().filter(|last| last.0 == *name) {
                Some(last) => last.1 += found,
                None => counts.push((name, found)),
            }
        }
        counts.retain(|(_, found)| *found > 0);
        counts
    }
}

/// The differences in times that don't count.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// What a split with this rule changes.
    pub mtime: MtimePolicy,
    /// What a split with that rule carries over from a previous image.
    pub carried: bool,
}

/// Compares images platform by platform. The files of `first` are changed as a split could have changed
/// them: by the allowed rule, and if that is allowed, to the times of `second`.
///
/// # Errors
/// If they are not for the same platforms, or a file can't be read.
pub fn verify(
    first: &mut [ReadImage],
    second: &[ReadImage],
    allowed: Allowed,
) -> Result<Verification> {
    let platforms =
        |images: &[ReadImage]| images.iter().map(|i| i.platform.clone()).collect::<Vec<_>>();
    let (here, there) = (platforms(first), platforms(second));
    let unlike = || {
        let names =
            |all: &[Platform]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Error::not_found(format!(
            "the first has {}, the second {}; choose one with --platform",
            names(&here),
            names(&there)
        ))
    };
    if first.len() != second.len() {
        return Err(unlike());
    }
    let mut all = Verification::default();
    // Files that are rewritten for the comparison go to disk: memory is for the two images.
    let on_disk = Budget::new(0, None);
    for (at, ReadImage { flat, .. }) in first.iter_mut().enumerate() {
        let counterpart = Platform::counterpart(&here, at, &there).ok_or_else(unlike)?;
        let other = &second[counterpart].flat.rootfs.files;
        all.held.add(&recorded_times::apply(allowed.mtime, &mut flat.rootfs, &on_disk)?);
        if allowed.carried {
            // What the second carried over from its previous image is what the first would carry over
            // from the second.
            let (carried_over, held) =
                carry_over(&mut flat.rootfs, &on_disk, other, allowed.mtime, &[])?;
            all.held.add(&held);
            all.carried_over.add(carried_over);
        }
        all.paths += flat.rootfs.files.entries().len();
        all.differences.extend(compare(&flat.rootfs.files, other));
    }
    Ok(all)
}

/// Returns all differences, in path order.
pub fn compare(first: &FileSet, second: &FileSet) -> Vec<Difference> {
    let mut out = Vec::new();
    let (leader1, leader2) = (leaders(first), leaders(second));
    let (mut a, mut b) = (first.entries().iter().peekable(), second.entries().iter().peekable());
    let only = |e: &Entry, what| Difference {
        path: display(&e.path),
        what,
        first: String::new(),
        second: String::new(),
    };
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(x), Some(y)) if x.path == y.path => {
                compare_entries((first, x, &leader1), (second, y, &leader2), &mut out);
                a.next();
                b.next();
            }
            (Some(x), y) if y.is_none_or(|y| x.path < y.path) => {
                out.push(only(x, "only in the first"));
                a.next();
            }
            (_, y) => {
                out.extend(y.map(|y| only(y, "only in the second")));
                b.next();
            }
        }
    }
}

/// Returns the first name of each inode with several names, which identifies the group.
fn leaders(set: &FileSet) -> BTreeMap<InodeId, &Entry> {
    let counts = set.link_counts();
    let mut leaders = BTreeMap::new();
    for e in set.entries().iter().filter(|e| counts[e.inode.index()] > 1) {
        leaders.entry(e.inode).or_insert(e);
    }
    leaders
}

type Side<'a> = (&'a FileSet, &'a Entry, &'a BTreeMap<InodeId, &'a Entry>);

fn compare_entries(first: Side<'_>, second: Side<'_>, out: &mut Vec<Difference>) {
    let (a, b) = (first.0.inode(first.1), second.0.inode(second.1));
    let path = || display(&first.1.path);
    let mut differ = |what, first: String, second: String| {
        if first != second {
            out.push(Difference { path: path(), what, first, second });
        }
    };
    if a.kind.word() != b.kind.word() {
        differ("type", a.kind.word().into(), b.kind.word().into());
        return;
    }
    match (&a.kind, &b.kind) {
        (InodeKind::File(x), InodeKind::File(y)) => {
            differ("size", x.size.to_string(), y.size.to_string());
            if x.size == y.size {
                let short =
                    |hash: &[u8; 32]| format!("blake3:{}", crate::model::digest::hex(&hash[..8]));
                differ("content", short(&x.hash), short(&y.hash));
            }
        }
        (InodeKind::Symlink { target: x }, InodeKind::Symlink { target: y }) => {
            differ("link target", x.escape_ascii().to_string(), y.escape_ascii().to_string());
        }
        (x, y) => {
            let numbers = |kind: &InodeKind| match kind {
                InodeKind::CharDevice { major, minor }
                | InodeKind::BlockDevice { major, minor } => {
                    format!("{major},{minor}")
                }
                _ => String::new(),
            };
            differ("device", numbers(x), numbers(y));
        }
    }
    differ("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    differ("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    let time = |i: &crate::model::fileset::Inode| format!("{}.{:09}", i.mtime.secs, i.mtime.nanos);
    differ("mtime", time(a), time(b));
    let xattrs = |i: &crate::model::fileset::Inode| {
        let list = i.xattrs.iter().flat_map(|x| x.iter());
        list.map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    differ("xattrs", xattrs(a), xattrs(b));
    let group = |(_, e, leaders): Side<'_>| {
        leaders.get(&e.inode).map_or_else(String::new, |leader| display(&leader.path))
    };
    differ("hard link group", group(first), group(second));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::{FileData, Inode, Location, Mtime};
    use crate::model::index::SourceId;

    /// Files by name and inode, all of one size.
    fn set(names: &[(&str, usize)], change: impl Fn(&mut Inode)) -> FileSet {
        let count = names.iter().map(|n| n.1 + 1).max().unwrap_or(0);
        let location = Location::Span { source: SourceId::new(0), offset: 0 };
        let mut inode = Inode {
            kind: InodeKind::File(FileData { size: 1, hash: [0; 32], location }),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: None,
        };
        change(&mut inode);
        let entries = names
            .iter()
            .map(|(p, i)| Entry { path: p.as_bytes().into(), inode: InodeId::new(*i) })
            .collect();
        FileSet::new(entries, vec![inode; count]).unwrap()
    }

    type Edit = fn(&mut Inode);

    fn what(a: &FileSet, b: &FileSet) -> Vec<String> {
        compare(a, b).iter().map(|d| format!("{} {}", d.path, d.what)).collect()
    }

    #[test]
    fn equal_sets_have_no_difference_whatever_their_inode_numbers() {
        let same = |_: &mut Inode| ();
        let a = set(&[("a", 0), ("b", 1), ("c", 0)], same);
        let b = set(&[("a", 1), ("b", 0), ("c", 1)], same);
        assert!(compare(&a, &b).is_empty());
    }

    #[test]
    fn every_attribute_counts() {
        let a = set(&[("a", 0)], |_| ());
        let cases: [(&str, Edit); 7] = [
            ("mode", |i| i.mode = 0o4755),
            ("owner", |i| i.gid = 5),
            ("mtime", |i| i.mtime.nanos = 1),
            ("xattrs", |i| {
                i.xattrs = Some(Box::new(vec![(b"user.a"[..].into(), b"1"[..].into())]));
            }),
            ("type", |i| i.kind = InodeKind::Fifo),
            ("size", |i| {
                if let InodeKind::File(f) = &mut i.kind {
                    f.size = 2;
                }
            }),
            ("content", |i| {
                if let InodeKind::File(f) = &mut i.kind {
                    f.hash[0] = 2;
                }
            }),
        ];
        for (name, change) in cases {
            assert_eq!(what(&a, &set(&[("a", 0)], change)), [format!("/a {name}")]);
        }
    }

    #[test]
    fn differences_are_counted_by_kind_and_the_gravest_come_first() {
        let a = set(&[("a", 0), ("b", 1), ("c", 2)], |_| ());
        let b = set(&[("a", 0), ("b", 1), ("d", 2)], |i| {
            (i.mtime.secs, i.mode) = (5, 0o600);
            if let InodeKind::File(file) = &mut i.kind {
                file.size = 2;
            }
        });
        let found = Verification { differences: compare(&a, &b), ..Verification::default() };
        let counts = [
            ("missing from the second", 1),
            ("added by the second", 1),
            ("content", 2),
            ("mode", 2),
            ("modification time", 2),
        ];
        assert_eq!(found.counts(), counts);
        assert!(found.differences.iter().all(|d| d.kind() < KINDS.len()));
    }

    #[test]
    fn missing_names_and_broken_groups_are_seen() {
        let same = |_: &mut Inode| ();
        let a = set(&[("a", 0), ("b", 0), ("c", 1)], same);
        let b = set(&[("a", 0), ("b", 1), ("d", 2)], same);
        assert_eq!(
            what(&a, &b),
            [
                "/a hard link group",
                "/b hard link group",
                "/c only in the first",
                "/d only in the second"
            ]
        );
    }
}
