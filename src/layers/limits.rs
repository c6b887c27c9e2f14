//! Limits on reading an image.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::changeset::{Change, ChangeKind};
use crate::base::error::{Error, Result};
use crate::base::limits::{ENTRY_BYTES, MAX_ENTRIES, RUN_BYTES};
use crate::model::content::{Budget, WindowBudget};
use crate::model::fileset::{FileData, Inode, InodeKind, Location, parent};
use crate::transport::image::{LayerBlob, expanded_limit, too_dense};

/// Limits on the expanded size of an image and the memory of its index, shared by all of its layers. The
/// memory is counted until this is dropped.
pub struct Limits {
    bytes: AtomicU64,
    entries: AtomicU64,
    index: AtomicU64,
    max_bytes: u64,
    /// What the ratio allows.
    max_expanded: u64,
    budget: Arc<Budget>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

impl Limits {
    /// Allows at most `max_size` bytes of uncompressed layers and sparse files, and an index that `budget`
    /// has memory for.
    pub fn new(max_size: u64, layers: &[LayerBlob], budget: &Arc<Budget>) -> Self {
        let stored = layers.iter().fold(0u64, |sum, l| sum.saturating_add(l.source.size()));
        Self {
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            index: AtomicU64::new(0),
            max_bytes: max_size,
            max_expanded: expanded_limit(stored),
            budget: Arc::clone(budget),
        }
    }

    /// Room for the windows of decoders.
    pub(super) fn windows(&self) -> &Arc<WindowBudget> {
        self.budget.windows()
    }

    /// Memory for the bytes of files.
    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn add_bytes(&self, n: u64) -> Result<()> {
        let bytes = self.bytes.fetch_add(n, Ordering::Relaxed).saturating_add(n);
        if bytes > self.max_bytes {
            return Err(Error::limit(format!(
                "the image expands to more than {} bytes; --max-size allows more",
                self.max_bytes
            )));
        }
        if bytes > self.max_expanded {
            return Err(too_dense());
        }
        Ok(())
    }

    /// Counts an entry and the bytes that the index needs for it.
    pub(super) fn add_entry(&self, bytes: u64) -> Result<()> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= MAX_ENTRIES {
            return Err(Error::limit(format!("the image has more than {MAX_ENTRIES} entries")));
        }
        self.index.fetch_add(bytes, Ordering::Relaxed);
        self.budget.add_index(bytes)
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.budget.remove_index(self.index.load(Ordering::Relaxed));
    }
}

/// Returns the bytes that the index needs for a change, with all copies that exist at the same time.
pub(super) fn index_bytes(change: &Change) -> u64 {
    let (more, inode) = match &change.kind {
        ChangeKind::Add(inode) | ChangeKind::Unnamed(inode) => match &inode.kind {
            InodeKind::Symlink { target } => (2 * target.len(), Some(inode)),
            InodeKind::File(FileData { location: Location::Sparse(map), .. }) => {
                (48 + RUN_BYTES * map.len(), Some(inode))
            }
            _ => (0, Some(inode)),
        },
        ChangeKind::Link { target, metadata: like } => (target.len(), Some(like)),
        ChangeKind::Whiteout | ChangeKind::Opaque => (0, None),
    };
    let xattrs = inode.and_then(|i| i.xattrs.as_deref()).into_iter().flatten();
    let xattrs: usize = xattrs.map(|(name, value)| 96 + 2 * (name.len() + value.len())).sum();
    // The path stands in the index, and may be the name of a component and in a report.
    ENTRY_BYTES + (3 * change.path.len() + more + xattrs) as u64
}

/// The directories that the entries of a layer name or imply.
#[derive(Default)]
pub(super) struct Implied(HashSet<u64>);

impl Implied {
    /// Returns the bytes that the index needs for directories that this change is the first to imply.
    pub(super) fn of(&mut self, change: &Change) -> u64 {
        // A hash is enough: a collision only affects a limit.
        let number = |path: &[u8]| {
            let mut hasher = DefaultHasher::new();
            hasher.write(path);
            hasher.finish()
        };
        if let ChangeKind::Add(Inode { kind: InodeKind::Dir, .. }) = &change.kind {
            self.0.insert(number(&change.path));
        }
        let mut bytes = 0;
        let mut up = parent(&change.path);
        while let Some(dir) = up.filter(|dir| !dir.is_empty() && self.0.insert(number(dir))) {
            bytes += ENTRY_BYTES + 3 * dir.len() as u64;
            up = parent(dir);
        }
        bytes
    }
}
