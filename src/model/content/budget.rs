//! The memory limit of a run, and the temporary files for what exceeds it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::WindowBudget;
use super::spool::{SEGMENT, STEP, Segment, Slot};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{CONTENTS_SHARE, INDEX_SHARE, MIN_INDEX};
use crate::base::temporary;

/// Number of temporary files, in which segments take turns: one thread at a time can write to a file.
const FILES: usize = 4;

/// The memory of a run, shared by file indexes, decoder windows and spools. Spools can move to
/// temporary files, indexes can't: when an index grows, spools are moved.
pub struct Budget {
    memory: u64,
    /// Bytes that the owner of the budget uses itself while no decoder runs.
    reserved: u64,
    windows: Arc<WindowBudget>,
    /// Bytes of indexes.
    index: AtomicU64,
    /// Memory for spools; negative while an index has more than was free.
    left: AtomicI64,
    /// Segments in memory, the oldest first.
    resident: Mutex<VecDeque<Weak<Slot>>>,
    dir: Option<PathBuf>,
    overflow: [OnceLock<File>; FILES],
    next: AtomicU64,
    /// Segments of the files whose spools are gone.
    free: Mutex<Vec<u64>>,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("memory", &self.memory).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data is consistent between any two operations, so a poisoned lock does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// Creates a budget of `memory` bytes with temporary files in `dir`; by default in `TMPDIR`, else
    /// `/var/tmp` (`/tmp` is memory on many systems).
    pub fn new(memory: u64, dir: Option<PathBuf>) -> Arc<Self> {
        Self::with_reserved(memory, 0, dir)
    }

    /// Creates a budget of which the caller uses `reserved` bytes itself while no decoder runs.
    pub(crate) fn with_reserved(memory: u64, reserved: u64, dir: Option<PathBuf>) -> Arc<Self> {
        let own = reserved;
        let reserved = reserved.max(WindowBudget::share(memory));
        let spools = memory.saturating_sub(reserved) / CONTENTS_SHARE.1 * CONTENTS_SHARE.0;
        Arc::new(Self {
            memory,
            reserved: own,
            windows: WindowBudget::new(memory),
            index: AtomicU64::new(0),
            left: AtomicI64::new(i64::try_from(spools).unwrap_or(i64::MAX)),
            resident: Mutex::default(),
            dir,
            overflow: Default::default(),
            next: AtomicU64::new(0),
            free: Mutex::default(),
        })
    }

    /// Returns the memory for decoder windows.
    pub fn windows(&self) -> &Arc<WindowBudget> {
        &self.windows
    }

    /// Returns all memory.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Returns the memory that the caller may use itself, less that of indexes.
    pub(crate) fn reserved_after_index(&self) -> u64 {
        self.reserved.saturating_sub(self.index.load(Ordering::Relaxed))
    }

    /// Returns the memory that indexes leave.
    pub(crate) fn remaining_after_index(&self) -> u64 {
        self.memory.saturating_sub(self.index.load(Ordering::Relaxed))
    }

    /// Counts bytes of an index, and moves spools to temporary files if necessary.
    ///
    /// # Errors
    /// If indexes take too much of the memory, or a temporary file fails.
    pub fn add_index(&self, bytes: u64) -> Result<()> {
        let most = (self.memory / INDEX_SHARE.1 * INDEX_SHARE.0).max(MIN_INDEX);
        if self.index.fetch_add(bytes, Ordering::Relaxed) + bytes > most {
            return Err(Error::limit(format!(
                "its paths, attributes and links take more than {} MiB of memory; a larger \
                 --memory allows more",
                most >> 20
            )));
        }
        self.left.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
        while self.left.load(Ordering::Relaxed) < 0 {
            let Some(slot) = lock(&self.resident).pop_front() else { break };
            if let Some(slot) = slot.upgrade() {
                slot.evict(self)?;
            }
        }
        Ok(())
    }

    /// Releases bytes of an index.
    pub(crate) fn remove_index(&self, bytes: u64) {
        self.index.fetch_sub(bytes, Ordering::Relaxed);
        self.left.fetch_add(bytes.cast_signed(), Ordering::Relaxed);
    }

    /// Stores up to [`SEGMENT`] bytes: in memory if possible.
    pub(super) fn store(&self, bytes: &mut Vec<u8>) -> Result<Arc<Slot>> {
        let enough = |left: i64| left.checked_sub(STEP).filter(|left| *left >= 0);
        let fits = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok();
        if !fits {
            let segment = Segment::File(self.write(bytes)?);
            bytes.clear();
            return Ok(Slot::new(segment));
        }
        let slot = Slot::new(Segment::Memory(std::mem::take(bytes).into_boxed_slice()));
        let mut resident = lock(&self.resident);
        // Removes entries of dropped spools before the list grows.
        if resident.len() == resident.capacity() {
            resident.retain(|slot| slot.strong_count() > 0);
        }
        resident.push_back(Arc::downgrade(&slot));
        Ok(slot)
    }

    /// Writes a segment to a temporary file and returns its place: the offset in all files together.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<u64> {
        let free = lock(&self.free).pop();
        let at = free.unwrap_or_else(|| self.next.fetch_add(SEGMENT as u64, Ordering::Relaxed));
        self.file(at)?.write_all_at(bytes, at).with_context(|| {
            format!(
                "writing to a temporary file in {}, the folder given by TMPDIR",
                self.folder().display()
            )
        })?;
        Ok(at)
    }

    /// Releases the memory of a segment.
    pub(super) fn release_memory(&self) {
        self.left.fetch_add(STEP, Ordering::Relaxed);
    }

    /// Releases the place of a segment in the files.
    pub(super) fn release_space(&self, at: u64) {
        lock(&self.free).push(at);
    }

    fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(temporary::default_folder)
    }

    /// Returns the temporary file of the segment at a place. It has no name, so that nothing remains however
    /// the process ends, and holes where the segments of the other files are.
    pub(super) fn file(&self, at: u64) -> Result<&File> {
        let overflow = &self.overflow[(at / SEGMENT as u64) as usize % FILES];
        if overflow.get().is_none() {
            let dir = self.folder();
            let file = tempfile::tempfile_in(&dir).with_context(|| {
                format!(
                    "creating a temporary file in {}, the folder given by TMPDIR",
                    dir.display()
                )
            })?;
            // If another thread was faster, its file is used.
            let _ = overflow.set(file);
        }
        overflow.get().ok_or_else(|| Error::malformed("no temporary file"))
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> (i64, u64, bool) {
        let next = self.next.load(Ordering::Relaxed);
        let has_file = self.overflow.iter().any(|file| file.get().is_some());
        (self.left.load(Ordering::Relaxed), next, has_file)
    }
}
