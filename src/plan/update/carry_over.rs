//! Carries modification times over from the previous image.
//!
//! A file that differs only in its modification time keeps the time of the previous image, unless
//! another file records the new one: see [`recorded_times`](crate::plan::recorded_times). A compiled
//! Python file that differs only in the recorded time of its source is replaced by the previous one.

use std::sync::Arc;

use serde::Serialize;

use crate::base::error::Result;
use crate::model::content::Budget;
use crate::model::fileset::{FileSet, Inode, InodeKind, Mtime};
use crate::model::index::InodeId;
use crate::model::mtime::MtimePolicy;
use crate::model::rootfs::Rootfs;
use crate::plan::recorded_times::{Held, Rule, retime};

/// Counts of what was carried over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CarriedOver {
    /// Non-directories that keep the previous modification time.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories that keep the previous modification time.
    pub directories: u64,
    /// Compiled Python files that keep their previous bytes, with the previous time of their source.
    pub bytecode: u64,
}

impl CarriedOver {
    /// Adds the numbers of another image.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.directories += other.directories;
        self.bytecode += other.bytecode;
    }
}

/// Carries times over from `old` to `new`, except those that `policy` would change and those that other
/// files record. The inodes that are `fixed` keep their times; that list may end before the last inode.
/// Compiled Python files that change are added to the contents of `new`.
///
/// # Errors
/// If a file that records times can't be read, or the spool of `budget` can't be written.
pub(crate) fn carry_over(
    new: &mut Rootfs,
    budget: &Arc<Budget>,
    old: &FileSet,
    policy: MtimePolicy,
    fixed: &[bool],
) -> Result<(CarriedOver, Held)> {
    let counterparts = counterparts(&new.files, old);
    let rule = Rule::new(policy, new)?;
    // The time of the counterpart, if an inode may have it.
    let carried = |id: InodeId, kind: &InodeKind, now: &Inode| {
        let counterpart = counterparts[id.index()].filter(|_| fixed.get(id.index()) != Some(&true));
        let counterpart = &old[counterpart?];
        let same = kind.same(&counterpart.kind) && now.same_metadata(counterpart);
        (same && rule.apply(id, counterpart) == counterpart.mtime).then_some(counterpart.mtime)
    };
    let before: Vec<Mtime> = new.files.inodes().iter().map(|inode| inode.mtime).collect();
    let after =
        new.files.inodes().iter().enumerate().map(|(id, inode)| {
            carried(InodeId::new(id), &inode.kind, inode).unwrap_or(inode.mtime)
        });
    let after = after.collect();
    let restamp = |id: InodeId, inode: &Inode, hash: &[u8; 32]| {
        let mut kind = inode.kind.clone();
        if let InodeKind::File(file) = &mut kind {
            file.hash = *hash;
        }
        carried(id, &kind, inode)
    };
    let mut held = retime(new, budget, after, Some(&restamp))?;
    // These hold their source's previous time, and count here alone.
    let bytecode = std::mem::take(&mut held.restamped);
    let mut carried = CarriedOver { bytecode, ..CarriedOver::default() };
    for (inode, _) in new.files.inodes().iter().zip(before).filter(|(i, before)| i.mtime != *before)
    {
        match &inode.kind {
            InodeKind::Dir => carried.directories += 1,
            InodeKind::File(file) => {
                carried.files += 1;
                carried.bytes += file.size;
            }
            _ => carried.files += 1,
        }
    }
    Ok((carried, held))
}

/// Returns for each new inode the old one that has exactly the same names.
fn counterparts(new: &FileSet, old: &FileSet) -> Vec<Option<InodeId>> {
    let old_counts = old.link_counts();
    let counterpart = |names: &Vec<u32>| {
        let mut found = None;
        for name in names {
            let at = old.position(&new.entries()[*name as usize].path)?;
            let id = old.entries()[at].inode;
            if found.is_some_and(|f| f != id) {
                return None;
            }
            found = Some(id);
        }
        found.filter(|id| old_counts[id.index()] as usize == names.len())
    };
    new.names().iter().map(counterpart).collect()
}
