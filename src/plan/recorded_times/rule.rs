//! What a rule for modification times makes of each inode of a file set.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::relations::{Relations, next_second};
use super::{Held, formats, retime};
use crate::base::error::Result;
use crate::model::content::Budget;
use crate::model::fileset::{Inode, InodeKind, Mtime};
use crate::model::index::InodeId;
use crate::model::mtime::MtimePolicy;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{self, Installation};

/// A rule for modification times, applied to a file set.
pub(crate) struct Rule {
    policy: MtimePolicy,
    installations: BTreeMap<InodeId, Installation>,
}

impl Rule {
    /// Finds out what the rule must know about the files.
    ///
    /// # Errors
    /// If a package database can't be read.
    pub(crate) fn new(policy: MtimePolicy, rootfs: &Rootfs) -> Result<Self> {
        let installations = match policy {
            MtimePolicy::Stable => analyze::installations(rootfs)?,
            _ => BTreeMap::new(),
        };
        Ok(Self { policy, installations })
    }

    /// Returns the time that replaces the one of `inode`, which is the inode with this number or like it.
    pub(crate) fn apply(&self, id: InodeId, inode: &Inode) -> Mtime {
        self.policy.apply(inode, self.installations.get(&id).map(|i| i.time))
    }

    /// Whether the time of an inode comes from a package.
    fn is_packaged(&self, id: InodeId, inode: &Inode) -> bool {
        let installed = self.installations.get(&id);
        !matches!(inode.kind, InodeKind::Dir) && installed.is_some_and(|i| inode.mtime < i.time)
    }

    /// Gives records of installations a time after that of their package's files. By that the files
    /// are recognised again if the result is split.
    fn date_records(&self, rootfs: &Rootfs, fixed: &[bool], after: &mut [Mtime]) {
        for (id, Installation { record, .. }) in &self.installations {
            let inode = &rootfs.files[*id];
            let record = record.filter(|record| fixed.get(record.index()) != Some(&true));
            if let Some(record) = record.filter(|_| self.is_packaged(*id, inode)) {
                let time = &mut after[record.index()];
                *time = (*time).max(next_second(inode.mtime));
            }
        }
    }
}

/// Applies `policy` to the time of every inode, except times that other files record.
///
/// # Errors
/// If a file that records times can't be read, or the spool can't be written.
pub fn apply(policy: MtimePolicy, rootfs: &mut Rootfs, budget: &Arc<Budget>) -> Result<Held> {
    apply_above(policy, &[], rootfs, budget)
}

/// Does the same as [`apply`], but the inodes that are `fixed` keep their times. The list may end before
/// the last inode.
///
/// # Errors
/// Those of [`apply`].
pub(crate) fn apply_above(
    policy: MtimePolicy,
    fixed: &[bool],
    rootfs: &mut Rootfs,
    budget: &Arc<Budget>,
) -> Result<Held> {
    let rule = Rule::new(policy, rootfs)?;
    let is_fixed = |id: InodeId| fixed.get(id.index()) == Some(&true);
    let inodes = || rootfs.files.inodes().iter().enumerate().map(|(i, n)| (InodeId::new(i), n));
    let time = |(id, inode): (InodeId, &Inode)| {
        if is_fixed(id) { inode.mtime } else { rule.apply(id, inode) }
    };
    let mut after: Vec<Mtime> = inodes().map(time).collect();
    if policy != MtimePolicy::Stable {
        return retime(rootfs, budget, after, None);
    }
    rule.date_records(rootfs, fixed, &mut after);
    // A held time is the installation's, and so another one in each build. So what must not be older
    // than another file gets a later time where possible.
    let may_rise =
        inodes().map(|(id, inode)| !is_fixed(id) && !rule.is_packaged(id, inode)).collect();
    let mut relations = Relations::new(rootfs, after.clone());
    relations.let_rise(may_rise);
    formats::find(&mut relations)?;
    while relations.hold_conflicts() {}
    let after = relations.raised(after);
    let restamp = |id: InodeId, inode: &Inode, hash: &[u8; 32]| {
        let mut restamped = inode.clone();
        if let InodeKind::File(file) = &mut restamped.kind {
            file.hash = *hash;
        }
        Some(rule.apply(id, &restamped))
    };
    retime(rootfs, budget, after, Some(&restamp))
}
