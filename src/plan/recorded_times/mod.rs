//! Times that other files record.
//!
//! Whoever changes modification times, whether by rule or because a previous image has others, goes
//! through [`retime`]. What records the time of another file finds it in step, or out of step, as
//! it was before: the file that it records keeps its time, or, where that is safe, the note is
//! changed with it. `formats` is the one table of what records what; docs/TIMES.md explains it.

mod formats;
mod parse;
mod python;
mod relations;
mod values;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use crate::base::error::Result;
use crate::base::limits::MAX_COMPILED_PYTHON;
use crate::model::content::{Budget, SpoolWriter};
use crate::model::fileset::{Inode, InodeKind, Location, Mtime};
use crate::model::index::InodeId;
use crate::model::mtime::MtimePolicy;
use crate::model::rootfs::Rootfs;
use relations::Relations;

/// What came of a change of times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Files and directories that kept their time because a file of this sort records it.
    pub by: BTreeMap<&'static str, u64>,
    /// Compiled Python files that hold their source's new time.
    pub restamped: u64,
}

impl Held {
    /// Adds what came of another change.
    pub fn add(&mut self, other: &Self) {
        for (by, count) in &other.by {
            *self.by.entry(by).or_default() += count;
        }
        self.restamped += other.restamped;
    }

    /// A line for people, if something was held back.
    pub fn note(&self) -> Option<String> {
        let all: u64 = self.by.values().sum();
        let by: Vec<_> = self.by.iter().map(|(by, n)| format!("{by} ({n})")).collect();
        (all > 0).then(|| {
            format!(
                "{all} times stay as they are, since other files record them: {}",
                by.join(", ")
            )
        })
    }
}

/// The time that a compiled Python file takes, given its hash with its source's new time in it;
/// `None` if it must stay as it is, and its source's time with it.
pub type Restamp<'a> = dyn Fn(InodeId, &Inode, &[u8; 32]) -> Option<Mtime> + 'a;

/// Gives every inode the time that `policy` makes of its own, but for those that other files
/// record.
///
/// # Errors
/// When a file that records times can't be read, or the spool can't be written.
pub fn apply(policy: MtimePolicy, rootfs: &mut Rootfs, budget: &Arc<Budget>) -> Result<Held> {
    let after = rootfs.files.inodes().iter().map(|inode| policy.apply(inode.mtime)).collect();
    retime(rootfs, budget, after, None)
}

/// Gives inodes the times in `after`, but for those that other files record. Files that have to
/// hold another time are added to its contents, and have the time in `after` where there is no `restamp`.
///
/// # Errors
/// When a file that records times can't be read, or the spool can't be written.
pub fn retime(
    rootfs: &mut Rootfs,
    budget: &Arc<Budget>,
    after: Vec<Mtime>,
    restamp: Option<&Restamp<'_>>,
) -> Result<Held> {
    if rootfs.files.inodes().iter().zip(&after).all(|(inode, after)| inode.mtime == *after) {
        return Ok(Held::default());
    }
    let mut relations = Relations::new(rootfs, after);
    let mut compiled = python::find(&mut relations, restamp)?;
    formats::find(&mut relations)?;
    relations.hold_unknown();
    while relations.settle() || compiled.settle(&mut relations) {}
    let held = relations.count();
    let stamps = compiled.stamps(&relations);
    let after = relations.after;
    let Rootfs { files, contents } = rootfs;
    let mut spool = SpoolWriter::new(budget);
    let mut exchanged = Vec::new();
    for (id, stamp) in &stamps {
        let InodeKind::File(file) = &files[*id].kind else { continue };
        let bytes = stamp.apply(contents.read(file, MAX_COMPILED_PYTHON)?);
        exchanged.push((*id, spool.size(), *blake3::hash(&bytes).as_bytes()));
        spool.write_all(&bytes)?;
    }
    if !exchanged.is_empty() {
        let source = contents.add(Arc::new(spool.finish()?));
        for (id, offset, new_hash) in exchanged {
            if let InodeKind::File(file) = &mut files.inode_mut(id).kind {
                file.hash = new_hash;
                file.location = Location::Span { source, offset };
            }
        }
    }
    for (id, after) in after.into_iter().enumerate() {
        files.inode_mut(InodeId::new(id)).mtime = after;
    }
    Ok(Held { by: held, restamped: stamps.len() as u64 })
}

/// The low 32 bits of an inode's time in seconds, as most formats have them.
fn seconds(inode: &Inode) -> u32 {
    inode.mtime.secs as u32
}

#[cfg(test)]
mod tests;
