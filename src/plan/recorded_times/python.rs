//! Python's compiled files, as far as they note the time of their source.

use std::collections::BTreeMap;

use super::relations::Relations;
use super::{Restamp, seconds};
use crate::base::error::{Context, Result};
use crate::base::limits::MAX_COMPILED_PYTHON;
use crate::model::fileset::{InodeKind, Mtime, base_name, display, parent};
use crate::model::index::InodeId;

/// What summaries call it.
const BY: &str = "compiled Python";
/// Bytes of the longest header.
const HEADER: usize = 16;

/// What a compiled file says of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// The low 32 bits of its modification time in seconds, at this offset in the header.
    Mtime { mtime: u32, at: usize },
    /// A hash of its content, or nothing: times don't matter.
    None,
    /// A form that is not known.
    Unknown,
}

impl Stamp {
    /// Reads the beginning of a file. The forms by magic number are in
    /// `Lib/importlib/_bootstrap_external.py` of Python; the newest one is PEP 552.
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
            // Python 2, and 3 before 3.7; from 3.3 on the source's size follows.
            20121..=62211 | 3000..3392 => Self::Mtime { mtime: word(4), at: 4 },
            _ => Self::Unknown,
        }
    }
}

/// Path of the source that a compiled file stands for (PEP 3147, and the older place beside it);
/// `None` for other files.
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

/// A compiled file that notes the time of a source which is to have another.
struct Compiled {
    id: InodeId,
    /// Hard links may make it the compiled file of several.
    sources: Vec<InodeId>,
    /// What it notes, and where in the file.
    stamp: u32,
    at: usize,
    /// What it would note, and the time that it takes then.
    next: (u32, Mtime),
    /// The time that it has otherwise.
    plain: Mtime,
}

/// A time to be written into a file.
pub(super) struct NewStamp {
    at: usize,
    secs: u32,
}

impl NewStamp {
    /// The file with that time in it.
    pub(super) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(place) = bytes.get_mut(self.at..self.at + 4) {
            place.copy_from_slice(&self.secs.to_le_bytes());
        }
        bytes
    }
}

/// All compiled files whose sources are to have other times.
pub(super) struct AllCompiled(Vec<Compiled>);

/// Finds the compiled files, and holds the sources of those that can't hold another time.
pub(super) fn find(r: &mut Relations<'_>, restamp: Option<&Restamp<'_>>) -> Result<AllCompiled> {
    let mut sources: BTreeMap<InodeId, (usize, Vec<InodeId>)> = BTreeMap::new();
    for (at, entry) in r.files().entries().iter().enumerate() {
        let Some(source) = source_of(&entry.path).filter(|_| r.file(entry).is_some()) else {
            continue;
        };
        // Python asks for the time of what a symlink points at.
        if let Some(source) = r.at(&source) {
            sources.entry(entry.inode).or_insert_with(|| (at, Vec::new())).1.push(source);
        }
    }
    let mut all = Vec::new();
    for (id, (at, sources)) in sources {
        if !sources.iter().any(|source| r.moves(*source)) {
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

/// Whether the kernel would miss what was changed.
fn is_signed(r: &Relations<'_>, id: InodeId) -> bool {
    let names = [&b"security.ima"[..], b"security.evm"];
    r.inode(id).xattrs.iter().flat_map(|x| x.iter()).any(|(name, _)| names.contains(&&**name))
}

impl Compiled {
    /// Asks whether the file may hold its source's new time; if not, the source keeps its own.
    fn prepare(mut self, r: &mut Relations<'_>, restamp: Option<&Restamp<'_>>) -> Result<Self> {
        let Some(secs) = self.in_step(r).next().map(|source| r.after[source.index()].secs as u32)
        else {
            return Ok(self);
        };
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

    /// The sources whose time it notes.
    fn in_step(&self, r: &Relations<'_>) -> impl Iterator<Item = InodeId> {
        let is = |source: &InodeId| seconds(r.inode(*source)) == self.stamp;
        self.sources.iter().copied().filter(is).collect::<Vec<_>>().into_iter()
    }

    fn hold(&self, r: &mut Relations<'_>) -> bool {
        let moves = self.sources.iter().any(|source| r.moves(*source));
        r.hold_all(self.sources.iter().copied(), BY);
        moves
    }

    /// What it is to note.
    fn now(&self, r: &Relations<'_>) -> u32 {
        self.in_step(r).next().map_or(self.stamp, |source| r.after[source.index()].secs as u32)
    }

    /// Holds its sources if it would not be in step, or out of step, with each as it is now.
    fn settle(&mut self, r: &mut Relations<'_>) -> bool {
        let now = self.now(r);
        let fits = |source: &InodeId| {
            let was = seconds(r.inode(*source)) == self.stamp;
            was == (r.after[source.index()].secs as u32 == now)
        };
        let known = now == self.stamp || now == self.next.0;
        let stays = !r.is_long() && known && self.sources.iter().all(fits);
        let held = !stays && self.hold(r);
        // A file that keeps its note keeps its time too, unless that changes anyway.
        let back = self.now(r) == self.stamp && self.next.1 != self.plain;
        if back {
            self.next.1 = self.plain;
            r.release(self.id, self.plain);
        }
        held || back
    }
}

impl AllCompiled {
    /// Holds what would come into step or out of it; whether there was something.
    pub(super) fn settle(&mut self, r: &mut Relations<'_>) -> bool {
        let mut any = false;
        for compiled in &mut self.0 {
            any |= compiled.settle(r);
        }
        any
    }

    /// The files that are to hold another time.
    pub(super) fn stamps(&self, r: &Relations<'_>) -> Vec<(InodeId, NewStamp)> {
        let changed = self.0.iter().filter(|c| c.now(r) != c.stamp);
        changed.map(|c| (c.id, NewStamp { at: c.at, secs: c.now(r) })).collect()
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
