//! Modification times that other files record.
//!
//! All changes of modification times go through [`retime`]: those of `--mtime`, and those that carry
//! times over from a previous image. A recorded time that matched its file still matches, and one
//! that didn't still doesn't. For this the file keeps its time or, where that is safe, the recorded
//! time changes too. The table of formats is in `formats`; docs/TIMES.md explains it.

mod formats;
mod parse;
mod python;
mod relations;
mod rule;
mod values;

pub(crate) use python::timeless;
pub(crate) use rule::Rule;
pub use rule::apply;
pub(crate) use rule::apply_above;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use crate::base::error::Result;
use crate::base::limits::MAX_COMPILED_PYTHON;
use crate::base::text::count;
use crate::model::content::{Budget, SpoolWriter};
use crate::model::fileset::{Inode, InodeKind, Location, Mtime};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;
use relations::Relations;

/// Result of a change of times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Number of files and directories that kept their time, by the format that records it.
    pub by: BTreeMap<&'static str, u64>,
    /// Number of compiled Python files that got their source's new time.
    pub restamped: u64,
}

impl Held {
    /// Adds the counts of another change.
    pub fn add(&mut self, other: &Self) {
        for (by, count) in &other.by {
            *self.by.entry(by).or_default() += count;
        }
        self.restamped += other.restamped;
    }

    /// Returns a line for the summary, if any time was held.
    pub fn note(&self) -> Option<String> {
        let all: u64 = self.by.values().sum();
        let by: Vec<_> = self.by.iter().map(|(by, n)| format!("{by} ({n})")).collect();
        (all > 0).then(|| {
            format!("kept {} that other files record: {}", count(all, "timestamp"), by.join(", "))
        })
    }
}

/// Returns the time that a compiled Python file gets. The hash is of the file with its source's new
/// time in it. `None` if the file must stay as it is, so that its source keeps its time.
pub(crate) type Restamp<'a> = dyn Fn(InodeId, &Inode, &[u8; 32]) -> Option<Mtime> + 'a;

/// Sets the times of inodes to those in `after`, except times that other files record. Compiled files
/// that record a new time are added to the contents. Their own time is chosen by `restamp`, or is the
/// one in `after` without it.
///
/// # Errors
/// If a file that records times can't be read, or the spool can't be written.
pub(crate) fn retime(
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
    relations.hold_all_if_exhausted();
    while relations.hold_conflicts() || compiled.hold_conflicts(&mut relations) {}
    let held = relations.count();
    let stamps = compiled.stamps(&relations);
    let after = relations.after;
    let Rootfs { files, contents } = rootfs;
    let mut spool = SpoolWriter::new(budget);
    let mut replaced = Vec::new();
    for (id, stamp) in &stamps {
        let InodeKind::File(file) = &files[*id].kind else { continue };
        let bytes = stamp.apply(contents.read(file, MAX_COMPILED_PYTHON)?);
        replaced.push((*id, spool.size(), *blake3::hash(&bytes).as_bytes()));
        spool.write_all(&bytes)?;
    }
    if !replaced.is_empty() {
        let source = contents.add(Arc::new(spool.finish()?));
        for (id, offset, new_hash) in replaced {
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

/// The low 32 bits of an inode's time in seconds, as most formats record it.
fn seconds(inode: &Inode) -> u32 {
    inode.mtime.secs as u32
}

#[cfg(test)]
mod tests;
