//! The final file set of an image: what a client would have on disk after unpacking every layer.
//!
//! A [`FileSet`] is a list of names, sorted by path bytes, that refer to inodes. A hard-link group is
//! an inode with several names, so no stage of the pipeline can lose the fact that these names are
//! one file.

use std::ops::{Index, Range};

use crate::base::error::{Error, Result};
use crate::base::limits::MAX_PATH;
use crate::base::text::{escape, shorten};
use crate::model::index::{InodeId, SourceId};

/// A modification time as seconds and nanoseconds since 1970-01-01. Before that date the seconds are
/// negative and the nanoseconds still count forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// Extended attributes, sorted by name, without duplicates. Names and values are bytes.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// The location of a regular file's bytes in the content sources (see [`crate::model::content`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// One run of bytes.
    Span {
        /// Number of the source.
        source: SourceId,
        /// Offset of the first byte in the source.
        offset: u64,
    },
    /// A sparse file: runs of bytes with zeros between and after them.
    Sparse(Box<SparseMap>),
}

impl Location {
    /// Returns the number of the source.
    pub fn source(&self) -> SourceId {
        match self {
            Self::Span { source, .. } => *source,
            Self::Sparse(map) => map.source,
        }
    }
}

/// The stored runs of a sparse file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    /// Number of the source.
    pub source: SourceId,
    /// Offset of the first stored byte in the source. The runs are stored one after the other.
    pub offset: u64,
    /// For each run its offset in the file, and the number of bytes stored before it; ascending.
    runs: Box<[(u64, u64)]>,
    /// Total bytes of all runs.
    stored: u64,
}

/// A stored run of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Offset in the file.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Total bytes of the runs before it.
    pub stored: u64,
}

impl SparseMap {
    /// Creates a map of runs `(offset in the file, length)`, which must be ascending, must not overlap,
    /// and must end within the file's size.
    pub fn new(source: SourceId, offset: u64, mut runs: Vec<(u64, u64)>) -> Self {
        let mut stored = 0;
        for (_, len) in &mut runs {
            stored += std::mem::replace(len, stored);
        }
        Self { source, offset, runs: runs.into_boxed_slice(), stored }
    }

    /// Returns the number of runs.
    #[expect(clippy::len_without_is_empty, reason = "it would not be used")]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    fn run(&self, i: usize) -> Run {
        let (at, stored) = self.runs[i];
        let end = self.runs.get(i + 1).map_or(self.stored, |next| next.1);
        Run { at, len: end - stored, stored }
    }

    /// Returns the runs that overlap `range`, in order; finds them by binary search.
    pub(crate) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = Run> {
        // The last run that begins at or before the range may reach into it.
        let first = self.runs.partition_point(|run| run.0 <= range.start).saturating_sub(1);
        (first..self.runs.len())
            .map(|i| self.run(i))
            .skip_while(move |run| run.at + run.len <= range.start)
            .take_while(move |run| run.at < range.end)
    }
}

/// A regular file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 hash of the bytes, with holes as zeros.
    pub hash: [u8; 32],
    /// Location of the bytes.
    pub location: Location,
}

/// The type of an inode, with the data that only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file.
    File(FileData),
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The unchanged text of the link.
        target: Box<[u8]>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl InodeKind {
    /// Returns the name of the type for messages and tables.
    pub fn word(&self) -> &'static str {
        match self {
            InodeKind::File(_) => "file",
            InodeKind::Dir => "directory",
            InodeKind::Symlink { .. } => "symlink",
            InodeKind::Fifo => "fifo",
            InodeKind::CharDevice { .. } => "character device",
            InodeKind::BlockDevice { .. } => "block device",
        }
    }

    /// Whether type and content are the same, regardless of the location of the bytes.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (InodeKind::File(a), InodeKind::File(b)) => a.size == b.size && a.hash == b.hash,
            (a, b) => a == b,
        }
    }
}

/// A file of any type without its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Type and content.
    pub kind: InodeKind,
    /// Permission bits with set-user-ID, set-group-ID and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes; `None` when there are none.
    pub xattrs: Option<Box<Xattrs>>,
}

impl Inode {
    /// Whether two inodes are the same, regardless of the location of the bytes.
    pub fn same(&self, other: &Self) -> bool {
        self.mtime == other.mtime && self.kind.same(&other.kind) && self.same_metadata(other)
    }

    /// Whether mode, owner and extended attributes are the same.
    pub(crate) fn same_metadata(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
            && self.xattrs == other.xattrs
    }
}

/// A name and the inode that it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the root, without a leading or trailing slash; empty for the root itself.
    /// It may contain any bytes except NUL.
    pub path: Box<[u8]>,
    /// The inode.
    pub inode: InodeId,
}

/// The final file set, sorted by path. Every parent of an entry is an entry and a directory. The root
/// is an exception: it has an entry only if the image gives it attributes.
#[derive(Debug, Clone, Default)]
pub struct FileSet {
    entries: Vec<Entry>,
    inodes: Vec<Inode>,
}

impl FileSet {
    /// Creates a file set.
    ///
    /// # Errors
    /// If paths are not sorted or not distinct, a parent is missing or not a directory, an inode is
    /// out of range, or a directory has two names. Such a set can't be written.
    pub fn new(entries: Vec<Entry>, inodes: Vec<Inode>) -> Result<Self> {
        let set = Self { entries, inodes };
        let mut dir_seen = vec![false; set.inodes.len()];
        for (i, e) in set.entries.iter().enumerate() {
            let show = || display(&e.path);
            if i > 0 && set.entries[i - 1].path >= e.path {
                return Err(Error::malformed(format!("{} is out of order", show())));
            }
            let inode = set
                .inodes
                .get(e.inode.index())
                .ok_or_else(|| Error::malformed(format!("{} has no inode", show())))?;
            if matches!(inode.kind, InodeKind::Dir)
                && std::mem::replace(&mut dir_seen[e.inode.index()], true)
            {
                return Err(Error::malformed(format!("directory {} has two names", show())));
            }
            match parent(&e.path) {
                Some(p) if !p.is_empty() => match set.get(p) {
                    Some(inode) if matches!(inode.kind, InodeKind::Dir) => {}
                    _ => {
                        return Err(Error::malformed(format!(
                            "the parent of {} is not a directory",
                            show()
                        )));
                    }
                },
                _ => {}
            }
        }
        Ok(set)
    }

    /// Returns all names, sorted by path bytes.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns all inodes, in no particular order.
    pub fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// Returns the inode of an entry.
    pub fn inode(&self, entry: &Entry) -> &Inode {
        &self.inodes[entry.inode.index()]
    }

    /// Returns the position of a path in [`entries`](Self::entries).
    pub fn position(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|e| e.path.as_ref().cmp(path)).ok()
    }

    /// Returns the inode at a path, without following symlinks.
    pub fn get(&self, path: &[u8]) -> Option<&Inode> {
        self.id(path).map(|id| &self[id])
    }

    /// Returns the number of the inode at a path, without following symlinks.
    pub(crate) fn id(&self, path: &[u8]) -> Option<InodeId> {
        self.position(path).map(|i| self.entries[i].inode)
    }

    /// Returns all entries below a directory, at any depth.
    pub fn below(&self, dir: &[u8]) -> &[Entry] {
        if dir.is_empty() {
            let root = usize::from(self.entries.first().is_some_and(|e| e.path.is_empty()));
            return &self.entries[root..];
        }
        let mut prefix = dir.to_vec();
        prefix.push(b'/');
        let start = self.entries.partition_point(|e| e.path.as_ref() < prefix.as_slice());
        // '/' + 1: the first byte string after all that begin with the prefix.
        *prefix.last_mut().unwrap_or(&mut 0) = b'/' + 1;
        let end = self.entries.partition_point(|e| e.path.as_ref() < prefix.as_slice());
        &self.entries[start..end]
    }

    /// Follows symlinks in every part of `path`, as a process chrooted into the file set would.
    /// Returns `None` if a part is missing or is not a directory, or if there is a loop.
    pub fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.resolve_within(path, &mut { u64::MAX })
    }

    /// Does the same with at most `lookups` lookups, and subtracts those that were made.
    pub(crate) fn resolve_within(&self, path: &[u8], lookups: &mut u64) -> Option<Vec<u8>> {
        let mut done: Vec<u8> = Vec::new();
        let mut todo: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                let up = parent(&done).unwrap_or_default().len();
                done.truncate(up);
                continue;
            }
            let next = join(&done, &part);
            *lookups = lookups.checked_sub(1)?;
            match &self.get(&next)?.kind {
                InodeKind::Symlink { target } => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    todo.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
                InodeKind::Dir => done = next,
                _ if todo.is_empty() => done = next,
                _ => return None,
            }
        }
        Some(done)
    }

    /// Returns the number of names of each inode.
    pub(crate) fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.inodes.len()];
        for e in &self.entries {
            counts[e.inode.index()] += 1;
        }
        counts
    }

    /// Returns the positions of each inode's names, in order.
    pub fn names(&self) -> Vec<Vec<u32>> {
        let mut names = vec![Vec::new(); self.inodes.len()];
        for (i, e) in self.entries.iter().enumerate() {
            names[e.inode.index()].push(i as u32);
        }
        names
    }

    /// Returns an inode for changes; its type must stay the same.
    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Returns the set without the names that `drop` selects, and without inodes that have no name left.
    ///
    /// # Errors
    /// As for [`new`](Self::new): a directory that is not empty can't be dropped.
    pub fn without(self, drop: impl Fn(&Entry, &Inode) -> bool) -> Result<Self> {
        let mut new_id: Vec<Option<InodeId>> = vec![None; self.inodes.len()];
        let mut inodes = Vec::new();
        let mut entries = Vec::new();
        for mut entry in self.entries {
            let inode = &self.inodes[entry.inode.index()];
            if drop(&entry, inode) {
                continue;
            }
            entry.inode = *new_id[entry.inode.index()].get_or_insert_with(|| {
                inodes.push(inode.clone());
                InodeId::new(inodes.len() - 1)
            });
            entries.push(entry);
        }
        Self::new(entries, inodes)
    }
}

impl Index<InodeId> for FileSet {
    type Output = Inode;

    fn index(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }
}

/// Returns the directory part of a path: `None` for the root, empty for entries of the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|b| *b == b'/').map_or(&[], |i| &path[..i]))
}

/// Returns the path of a name in a directory: the inverse of [`parent`] and [`base_name`].
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

/// Returns the last part of a path.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
}

/// Returns the parts of a path that are neither empty nor `.`.
pub(crate) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".")
}

/// Formats a path for people: with a leading `/`, unprintable bytes escaped, and at most about 200
/// characters.
pub fn display(path: &[u8]) -> String {
    // Escaping is limited to the longest valid path; longer ones come from damaged input.
    let part = if path.len() > 4 * MAX_PATH { &path[..4 * MAX_PATH] } else { path };
    let text = part.escape_ascii().to_string();
    format!("/{}", shorten(&text, 183))
}

/// Formats a text from an image for people: escapes control characters, invisible characters and those
/// that change the direction of text.
pub(crate) fn printable(text: &str) -> String {
    escape(text, &[]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        assert_eq!(printable("a\x1b[2J\u{9b}\n\u{202e}"), "a\\u{1b}[2J\\u{9b}\\n\\u{202e}");
        assert_eq!(printable("\"it's\" a\u{308}bc 日本 \\"), "\"it's\" a\u{308}bc 日本 \\");
    }

    fn set(items: &[(&str, Option<&str>)]) -> FileSet {
        let mut entries = Vec::new();
        let mut inodes = Vec::new();
        for (path, link) in items {
            let kind =
                link.map_or(InodeKind::Dir, |t| InodeKind::Symlink { target: t.as_bytes().into() });
            entries.push(Entry { path: path.as_bytes().into(), inode: InodeId::new(inodes.len()) });
            inodes.push(Inode {
                kind,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: Mtime::default(),
                xattrs: None,
            });
        }
        FileSet::new(entries, inodes).unwrap()
    }

    #[test]
    fn below_finds_children_but_not_neighbours() {
        let s = set(&[("a", None), ("a-b", None), ("a/b", None), ("a/b/c", None), ("a0", None)]);
        let below: Vec<_> = s.below(b"a").iter().map(|e| e.path.as_ref()).collect();
        assert_eq!(below, [&b"a/b"[..], b"a/b/c"]);
        assert_eq!(s.below(b"").len(), 5);
    }

    #[test]
    fn resolve_follows_links_inside_the_root() {
        let s = set(&[
            ("bin", Some("usr/bin")),
            ("loop", Some("loop")),
            ("usr", None),
            ("usr/bin", None),
            ("usr/bin/x", Some("../../../usr/./bin")),
        ]);
        assert_eq!(s.resolve(b"bin/x").as_deref(), Some(&b"usr/bin"[..]));
        assert_eq!(s.resolve(b"loop/a"), None);
        assert_eq!(s.resolve(b"none"), None);
    }

    #[test]
    fn a_set_that_cannot_be_written_is_refused() {
        let dir = |path: &[u8], inode| Entry { path: path.into(), inode: InodeId::new(inode) };
        let inode = set(&[("a", None)]).inodes()[0].clone();
        assert!(FileSet::new(vec![dir(b"b", 0), dir(b"a", 1)], vec![inode.clone(); 2]).is_err());
        assert!(FileSet::new(vec![dir(b"a/b", 0)], vec![inode.clone()]).is_err());
        assert!(FileSet::new(vec![dir(b"a", 0), dir(b"b", 0)], vec![inode]).is_err());
    }

    #[test]
    fn display_is_printable_and_short() {
        assert_eq!(display(b"a\nb\xff"), "/a\\nb\\xff");
        assert!(display(&[b'x'; 5000]).chars().count() < 200);
    }
}
