//! Differences between two builds that nothing depends on: times.
//!
//! What is the same but for its modification time keeps the time of the previous image. Python's
//! compiled files hold the time of their source; a source and its compiled files are taken
//! together or not at all, so that Python finds them in step, or out of step, as it would have.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bytecode::{HEADER, Stamp, source_of};
use crate::content::Contents;
use crate::error::{Context, Result};
use crate::fileset::{FileData, FileSet, InodeId, Kind, Location, Mtime, display};
use crate::mtime::MtimePolicy;

/// How much was evened out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Evened {
    /// Regular files, symlinks and others that keep the previous modification time.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Directories that keep it.
    pub directories: u64,
    /// Compiled Python files that keep their previous bytes with their source's previous time.
    pub bytecode: u64,
}

/// Whether there are compiled Python files.
pub fn has_bytecode(files: &FileSet) -> bool {
    files.entries().iter().any(|e| source_of(&e.path).is_some())
}

/// Evens out `new` against `old`, but for times that `policy` would change. The contents of `old` are
/// added to `contents` if needed.
pub fn even_out(
    new: &mut FileSet,
    contents: &mut Contents,
    old: &FileSet,
    old_contents: &Contents,
    policy: MtimePolicy,
) -> Result<Evened> {
    let twins = twins(new, old);
    let mut evening = Evening {
        new,
        contents,
        old,
        old_contents,
        policy,
        mtimes: BTreeMap::new(),
        bytecode: BTreeMap::new(),
    };
    let mut held = vec![false; evening.new.inodes().len()];
    evening.bytecode(&twins, &mut held)?;
    for (id, twin) in twins.iter().enumerate() {
        let Some(twin) = *twin else { continue };
        let (a, b) = (&evening.new.inodes()[id], &old.inodes()[twin as usize]);
        let other = a.mtime != b.mtime && evening.allowed(b.mtime);
        if !held[id] && other && a.kind.same(&b.kind) && a.same_metadata(b) {
            evening.mtimes.insert(id as InodeId, b.mtime);
        }
    }
    let Evening { mtimes, bytecode, .. } = evening;
    let mut evened = Evened { bytecode: bytecode.len() as u64, ..Evened::default() };
    if !bytecode.is_empty() {
        let first = contents.append(old_contents);
        for (id, mut file) in bytecode {
            match &mut file.location {
                Location::Span { source, .. } => *source += first,
                Location::Sparse(map) => map.source += first,
            }
            new.inode_mut(id).kind = Kind::File(file);
        }
    }
    for (id, mtime) in mtimes {
        let inode = new.inode_mut(id);
        inode.mtime = mtime;
        match &inode.kind {
            Kind::Dir => evened.directories += 1,
            Kind::File(file) => {
                evened.files += 1;
                evened.bytes += file.size;
            }
            _ => evened.files += 1,
        }
    }
    Ok(evened)
}

/// For each new inode the old one that has exactly the same names.
fn twins(new: &FileSet, old: &FileSet) -> Vec<Option<InodeId>> {
    let old_counts = old.link_counts();
    let twin = |names: &Vec<u32>| {
        let mut found = None;
        for name in names {
            let at = old.position(&new.entries()[*name as usize].path)?;
            let id = old.entries()[at].inode;
            if found.is_some_and(|f| f != id) {
                return None;
            }
            found = Some(id);
        }
        found.filter(|id| old_counts[*id as usize] as usize == names.len())
    };
    new.names().iter().map(twin).collect()
}

struct Evening<'a> {
    new: &'a FileSet,
    contents: &'a Contents,
    old: &'a FileSet,
    old_contents: &'a Contents,
    policy: MtimePolicy,
    mtimes: BTreeMap<InodeId, Mtime>,
    /// New inodes that take an old file's bytes.
    bytecode: BTreeMap<InodeId, FileData>,
}

impl Evening<'_> {
    /// Whether this time may be carried over.
    fn allowed(&self, old: Mtime) -> bool {
        self.policy.apply(old) == old
    }

    /// Decides on sources that have compiled files, and marks those that must stay as they are.
    fn bytecode(&mut self, twins: &[Option<InodeId>], held: &mut [bool]) -> Result<()> {
        let mut by_source: BTreeMap<InodeId, Vec<InodeId>> = BTreeMap::new();
        for entry in self.new.entries() {
            let Some(source) = source_of(&entry.path) else { continue };
            if !matches!(self.new.inode(entry).kind, Kind::File(_)) {
                continue;
            }
            // Python asks for the time of what a symlink points at.
            let source = self.new.resolve(&source).and_then(|path| self.new.position(&path));
            let Some(source) = source else { continue };
            by_source.entry(self.new.entries()[source].inode).or_default().push(entry.inode);
        }
        for (source, compiled) in by_source {
            let all = self.source(source, &compiled, twins)?;
            held[source as usize] = all.is_none();
            for (id, file, mtime) in all.unwrap_or_default() {
                self.bytecode.insert(id, file);
                self.mtimes.insert(id, mtime);
            }
        }
        Ok(())
    }

    /// The compiled files to exchange if `source` takes its previous time; `None` if it must not.
    fn source(
        &self,
        source: InodeId,
        compiled: &[InodeId],
        twins: &[Option<InodeId>],
    ) -> Result<Option<Vec<(InodeId, FileData, Mtime)>>> {
        let Some(twin) = twins[source as usize] else { return Ok(None) };
        let (now, before) = (seconds(self.new, source), seconds(self.old, twin));
        let (new, old) = (&self.new.inodes()[source as usize], &self.old.inodes()[twin as usize]);
        if new.mtime == old.mtime {
            return Ok(Some(Vec::new()));
        }
        if !new.kind.same(&old.kind) || !new.same_metadata(old) || !self.allowed(old.mtime) {
            return Ok(None);
        }
        let mut exchanged = Vec::new();
        for id in compiled {
            let Kind::File(file) = &self.new.inodes()[*id as usize].kind else { continue };
            match self.stamp(self.contents, file, *id)? {
                Stamp::None => {}
                Stamp::Unknown => return Ok(None),
                // Out of step: it must not come into step by chance.
                Stamp::Mtime { mtime, .. } if mtime != now => {
                    if mtime == before {
                        return Ok(None);
                    }
                }
                Stamp::Mtime { at, .. } => {
                    let Some(old) = twins[*id as usize] else { return Ok(None) };
                    let old = &self.old.inodes()[old as usize];
                    let Kind::File(old_file) = &old.kind else { return Ok(None) };
                    if !old.same_metadata(&self.new.inodes()[*id as usize])
                        || !self.allowed(old.mtime)
                        || !self.equal_but_stamp(file, old_file, at, before)?
                    {
                        return Ok(None);
                    }
                    exchanged.push((*id, old_file.clone(), old.mtime));
                }
            }
        }
        Ok(Some(exchanged))
    }

    fn stamp(&self, contents: &Contents, file: &FileData, id: InodeId) -> Result<Stamp> {
        let mut head = [0; HEADER];
        if file.size < HEADER as u64 {
            return Ok(Stamp::Unknown);
        }
        contents.read_at(file, &mut head, 0).context(|| {
            let named = self.new.entries().iter().find(|e| e.inode == id);
            format!("reading {}", named.map_or_else(String::new, |e| display(&e.path)))
        })?;
        Ok(Stamp::read(&head))
    }

    /// Whether two compiled files differ in nothing but the stamp at `at`, which is `before` in
    /// the old one.
    fn equal_but_stamp(
        &self,
        new: &FileData,
        old: &FileData,
        at: usize,
        before: u32,
    ) -> Result<bool> {
        /// A compiled file is smaller.
        const MOST: u64 = 64 << 20;
        if new.size != old.size || new.size > MOST {
            return Ok(false);
        }
        let mut a = self.contents.read(new, MOST)?;
        let b = self.old_contents.read(old, MOST)?;
        if Stamp::read(&b) != (Stamp::Mtime { mtime: before, at }) {
            return Ok(false);
        }
        a[at..at + 4].copy_from_slice(&before.to_le_bytes());
        Ok(a == b)
    }
}

/// What a compiled file would hold of this inode's time.
fn seconds(set: &FileSet, id: InodeId) -> u32 {
    set.inodes()[id as usize].mtime.secs as u32
}
