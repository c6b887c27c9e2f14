//! Differences between two builds that nothing depends on: times.
//!
//! What is the same but for its modification time keeps the time of the previous image, unless
//! another file remembers the new one: see [`recorded_times`](crate::plan::recorded_times). A compiled
//! Python file that is the previous one but for its source's time becomes that one.

use std::sync::Arc;

use serde::Serialize;

use crate::base::error::Result;
use crate::model::content::{Budget, Contents};
use crate::model::fileset::{FileSet, Inode, InodeId, Kind, Mtime};
use crate::model::mtime::MtimePolicy;
use crate::plan::recorded_times::{Held, retime};

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

/// Evens out `new` against `old`, but for times that `policy` would change and those that other
/// files remember. Compiled Python files that become the previous ones are added to `contents`.
pub fn even_out(
    new: &mut FileSet,
    contents: &mut Contents,
    budget: &Arc<Budget>,
    old: &FileSet,
    policy: MtimePolicy,
) -> Result<(Evened, Held)> {
    let twins = twins(new, old);
    // The time of the twin, if an inode may have it.
    let carried = |id: InodeId, kind: &Kind, now: &Inode| {
        let twin = &old.inodes()[twins[id as usize]? as usize];
        let same = kind.same(&twin.kind) && now.same_metadata(twin);
        (same && policy.apply(twin.mtime) == twin.mtime).then_some(twin.mtime)
    };
    let before: Vec<Mtime> = new.inodes().iter().map(|inode| inode.mtime).collect();
    let after = new
        .inodes()
        .iter()
        .enumerate()
        .map(|(id, inode)| carried(id as InodeId, &inode.kind, inode).unwrap_or(inode.mtime));
    let after = after.collect();
    let restamp = |id: InodeId, inode: &Inode, hash: &[u8; 32]| {
        let mut kind = inode.kind.clone();
        if let Kind::File(file) = &mut kind {
            file.hash = *hash;
        }
        carried(id, &kind, inode)
    };
    let mut held = retime(new, contents, budget, after, Some(&restamp))?;
    // These hold their source's previous time, and count here alone.
    let bytecode = std::mem::take(&mut held.restamped);
    let mut evened = Evened { bytecode, ..Evened::default() };
    for (inode, _) in new.inodes().iter().zip(before).filter(|(i, before)| i.mtime != *before) {
        match &inode.kind {
            Kind::Dir => evened.directories += 1,
            Kind::File(file) => {
                evened.files += 1;
                evened.bytes += file.size;
            }
            _ => evened.files += 1,
        }
    }
    Ok((evened, held))
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
