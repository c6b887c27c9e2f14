//! Compiled Python files that record the time of their source.

use std::collections::BTreeMap;

use super::relations::Relations;
use super::{Restamp, seconds};
use crate::base::error::{Context, Result};
use crate::base::limits::MAX_COMPILED_PYTHON;
use crate::model::fileset::{InodeKind, Mtime, base_name, display, parent};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;

/// Name of the format in summaries.
const BY: &str = "compiled Python";
/// Size of the longest header in bytes.
const HEADER: usize = 16;

/// What a compiled file records of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// The low 32 bits of the source's modification time in seconds, at offset `at` of the header.
    Mtime { mtime: u32, at: usize },
    /// No time, but a hash of the content or nothing.
    None,
    /// An unknown format.
    Unknown,
}

impl Stamp {
    /// Parses the beginning of a file. `Lib/importlib/_bootstrap_external.py` of Python lists the
    /// formats by magic number. PEP 552 describes the newest.
    fn read(head: &[u8]) -> Self {
        let Some(header) = head.first_chunk::<HEADER>() else { return Self::Unknown };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let magic = u16::from_le_bytes([header[0], header[1]]);
        if &header[2..4] != b"\r\n" {
            return Self::Unknown;
        }
        match magic {
            3392..4000 if word(4) & 1 == 1 => Self::None,
            3392..4000 if word(4) == 0 => Self::Mtime { mtime: word(8), at: 8 },
            // Python 2, and 3 before 3.7. Since 3.3 the source's size follows.
            20121..=62211 | 3000..3392 => Self::Mtime { mtime: word(4), at: 4 },
            _ => Self::Unknown,
        }
    }
}

/// Returns the path of a compiled file's source: that of PEP 3147, or in the same folder as in older
/// versions. `None` for other files.
fn source_of(path: &[u8]) -> Option<Vec<u8>> {
    let name = base_name(path);
    let stem = name.strip_suffix(b".pyc").or(name.strip_suffix(b".pyo"))?;
    let dir = parent(path)?;
    let (dir, stem) = if base_name(dir) == b"__pycache__" {
        (parent(dir)?, stem.split(|b| *b == b'.').next()?)
    } else {
        (dir, stem)
    };
    let mut source = dir.to_vec();
    if !source.is_empty() {
        source.push(b'/');
    }
    source.extend_from_slice(stem);
    source.extend_from_slice(b".py");
    Some(source)
}

/// A compiled file whose source's time is about to change.
struct Compiled {
    id: InodeId,
    /// Through hard links a file may have several sources.
    sources: Vec<InodeId>,
    /// The recorded time, and its offset in the file.
    stamp: u32,
    at: usize,
    /// The time that it would record, and the time that the file itself would get then.
    next: (u32, Mtime),
    /// The file's time if the recorded time stays.
    plain: Mtime,
}

/// A time to write into a file.
pub(super) struct NewStamp {
    at: usize,
    secs: u32,
}

impl NewStamp {
    /// Returns the file with the new time in it.
    pub(super) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(place) = bytes.get_mut(self.at..self.at + 4) {
            place.copy_from_slice(&self.secs.to_le_bytes());
        }
        bytes
    }
}

/// All compiled files whose sources' times are about to change.
pub(super) struct AllCompiled(Vec<Compiled>);

/// Returns the hash of each compiled file without the time that it records.
///
/// # Errors
/// If a file can't be read.
pub(crate) fn timeless(rootfs: &Rootfs) -> Result<BTreeMap<InodeId, [u8; 32]>> {
    let mut hashes = BTreeMap::new();
    for entry in rootfs.files.entries() {
        let InodeKind::File(file) = &rootfs.files.inode(entry).kind else { continue };
        if source_of(&entry.path).is_none() || file.size > MAX_COMPILED_PYTHON {
            continue;
        }
        let bytes = rootfs.contents.read(file, MAX_COMPILED_PYTHON);
        let bytes = bytes.with_context(|| format!("reading {}", display(&entry.path)))?;
        if let Stamp::Mtime { at, .. } = Stamp::read(&bytes) {
            let bytes = NewStamp { at, secs: 0 }.apply(bytes);
            hashes.insert(entry.inode, *blake3::hash(&bytes).as_bytes());
        }
    }
    Ok(hashes)
}

/// Finds the compiled files. Holds the sources of files that can't be changed.
pub(super) fn find(r: &mut Relations<'_>, restamp: Option<&Restamp<'_>>) -> Result<AllCompiled> {
    let mut sources: BTreeMap<InodeId, (usize, Vec<InodeId>)> = BTreeMap::new();
    for (at, entry) in r.files().entries().iter().enumerate() {
        let Some(source) = source_of(&entry.path).filter(|_| r.file(entry).is_some()) else {
            continue;
        };
        // Python uses the time of a symlink's target.
        if let Some(source) = r.lookup(&source) {
            sources.entry(entry.inode).or_insert_with(|| (at, Vec::new())).1.push(source);
        }
    }
    let mut all = Vec::new();
    for (id, (at, sources)) in sources {
        if !sources.iter().any(|source| r.will_change(*source)) {
            continue;
        }
        let entry = &r.files().entries()[at];
        let stamp = match r.file(entry) {
            Some(file) if file.size <= MAX_COMPILED_PYTHON && !is_signed(r, id) => {
                Stamp::read(&r.head(entry, HEADER as u64)?)
            }
            _ => Stamp::Unknown,
        };
        let plain = r.after[id.index()];
        match stamp {
            Stamp::None => {}
            Stamp::Unknown => r.hold_all(sources, BY),
            Stamp::Mtime { mtime: stamp, at } => {
                let found = Compiled { id, sources, stamp, at, next: (stamp, plain), plain };
                all.push(
                    found
                        .prepare(r, restamp)
                        .with_context(|| format!("reading {}", display(&entry.path)))?,
                );
            }
        }
    }
    Ok(AllCompiled(all))
}

/// Whether the file has a signature that a change would break.
fn is_signed(r: &Relations<'_>, id: InodeId) -> bool {
    let names = [&b"security.ima"[..], b"security.evm"];
    r.inode(id).xattrs.iter().flat_map(|x| x.iter()).any(|(name, _)| names.contains(&&**name))
}

impl Compiled {
    /// Decides whether the file gets its source's new time. If it doesn't, the source keeps its time.
    fn prepare(mut self, r: &mut Relations<'_>, restamp: Option<&Restamp<'_>>) -> Result<Self> {
        let secs = self.new_secs(r);
        if secs == self.stamp {
            return Ok(self);
        }
        let time = match (restamp, &r.inode(self.id).kind) {
            (Some(restamp), InodeKind::File(file)) => {
                let stamp = NewStamp { at: self.at, secs };
                let bytes = stamp.apply(r.rootfs.contents.read(file, MAX_COMPILED_PYTHON)?);
                restamp(self.id, r.inode(self.id), blake3::hash(&bytes).as_bytes())
            }
            _ => Some(self.plain),
        };
        if let Some(time) = time {
            self.next = (secs, time);
            r.after[self.id.index()] = time;
        } else {
            self.hold(r);
        }
        Ok(self)
    }

    /// Holds the times of the sources. Returns whether any of them was about to change.
    fn hold(&self, r: &mut Relations<'_>) -> bool {
        let any = self.sources.iter().any(|source| r.will_change(*source));
        r.hold_all(self.sources.iter().copied(), BY);
        any
    }

    /// Returns the time to record: the new time of the first source whose time it records now.
    fn new_secs(&self, r: &Relations<'_>) -> u32 {
        let matches = |source: &&InodeId| seconds(r.inode(**source)) == self.stamp;
        let source = self.sources.iter().find(matches);
        source.map_or(self.stamp, |source| r.after[source.index()].secs as u32)
    }

    /// Holds the sources if the recorded time would begin or cease to match one of them. Returns
    /// whether anything changed.
    fn hold_conflicts(&mut self, r: &mut Relations<'_>) -> bool {
        let secs = self.new_secs(r);
        let fits = |source: &InodeId| {
            let matched = seconds(r.inode(*source)) == self.stamp;
            matched == (r.after[source.index()].secs as u32 == secs)
        };
        let known = secs == self.stamp || secs == self.next.0;
        let stays = !r.is_round_limit_reached() && known && self.sources.iter().all(fits);
        let held = !stays && self.hold(r);
        // If the recorded time stays, the file gets the time that it has without `restamp`.
        let reset = self.new_secs(r) == self.stamp && self.next.1 != self.plain;
        if reset {
            self.next.1 = self.plain;
            r.set_unless_held(self.id, self.plain);
        }
        held || reset
    }
}

impl AllCompiled {
    /// Holds the sources of all conflicting files. Returns whether anything changed.
    pub(super) fn hold_conflicts(&mut self, r: &mut Relations<'_>) -> bool {
        let mut any = false;
        for compiled in &mut self.0 {
            any |= compiled.hold_conflicts(r);
        }
        any
    }

    /// Returns the files whose recorded time changes.
    pub(super) fn stamps(&self, r: &Relations<'_>) -> Vec<(InodeId, NewStamp)> {
        let changed = self.0.iter().filter(|c| c.new_secs(r) != c.stamp);
        changed.map(|c| (c.id, NewStamp { at: c.at, secs: c.new_secs(r) })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found() {
        for (path, want) in [
            (&b"a/__pycache__/x.cpython-311.pyc"[..], Some(&b"a/x.py"[..])),
            (b"a/__pycache__/x.cpython-311.opt-1.pyc", Some(b"a/x.py")),
            (b"__pycache__/x.cpython-311.pyc", Some(b"x.py")),
            (b"a/x.pyc", Some(b"a/x.py")),
            (b"a/x.pyo", Some(b"a/x.py")),
            (b"a/x.py", None),
        ] {
            assert_eq!(source_of(path).as_deref(), want, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn headers_of_every_age_are_read() {
        let head = |magic: u16, words: [u32; 3]| {
            let mut head = magic.to_le_bytes().to_vec();
            head.extend(b"\r\n");
            for w in words {
                head.extend(w.to_le_bytes());
            }
            Stamp::read(&head)
        };
        assert_eq!(head(3495, [0, 7, 9]), Stamp::Mtime { mtime: 7, at: 8 });
        assert_eq!(head(3495, [1, 7, 9]), Stamp::None);
        assert_eq!(head(3495, [3, 7, 9]), Stamp::None);
        assert_eq!(head(3495, [4, 7, 9]), Stamp::Unknown);
        assert_eq!(head(3379, [7, 9, 0]), Stamp::Mtime { mtime: 7, at: 4 });
        assert_eq!(head(62211, [7, 9, 0]), Stamp::Mtime { mtime: 7, at: 4 });
        assert_eq!(head(112, [0, 7, 9]), Stamp::Unknown);
        assert_eq!(Stamp::read(b"short"), Stamp::Unknown);
    }
}
