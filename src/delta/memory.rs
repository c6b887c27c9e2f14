//! Memory of the work on a delta: each piece of work reserves what it takes before it begins.

use std::sync::Arc;

use super::blocks;
use super::matches::{SEARCHED, SeedIndex};
use super::{MAX_REFERENCE, PART, WINDOW_LOG};
use crate::base::error::Result;
use crate::base::limits::{DELTA_SHARE, DELTA_WORK_SHARE};
use crate::format::codec::Compression;
use crate::format::codec::zstd_prefix::{self, Parameters};
use crate::model::content::{Budget, Reservation, SharedMemory};

/// Bytes of the blocks of an old file that are cached while the file is patched.
const BLOCKS: u64 = blocks::MAX_BYTES;
/// Bytes of tables of a file that is patched: addresses, fields, models.
const TABLES: u64 = 4 << 20;

/// Log2 of the entries of zstd's tables at least: smaller ones save nothing.
const SMALLEST: u32 = 17;

/// The memory of the work on a delta, and how parts are compressed.
pub(super) struct WorkMemory {
    pub(super) budget: Arc<Budget>,
    memory: Arc<SharedMemory>,
    /// What one piece of work may take.
    most: u64,
    parameters: Parameters,
}

/// Creates a budget for [`make`](super::make) of which most memory is for work.
pub fn budget(memory: u64) -> Arc<Budget> {
    Budget::with_reserved(memory, memory / DELTA_SHARE.1 * DELTA_SHARE.0, None)
}

impl WorkMemory {
    /// Divides the memory that `budget` reserved. The images were read, so the size of their indexes
    /// is known. Parts are compressed at zstd `level`.
    pub(super) fn new(budget: &Arc<Budget>, level: i32) -> Self {
        let most = budget.memory() / DELTA_WORK_SHARE.1 * DELTA_WORK_SHARE.0;
        // Index or not, one piece of work must fit.
        let memory = SharedMemory::new(budget.reserved_after_index().max(most));
        let parameters = parameters(level, most);
        Self { budget: Arc::clone(budget), memory, most, parameters }
    }

    /// Waits for memory; see [`SharedMemory`].
    pub(super) fn reserve(&self, bytes: u64) -> Reservation {
        self.memory.reserve(bytes)
    }

    /// Whether a file can be patched in this memory. It depends on nothing but `--memory` and the sizes,
    /// since the bytes of the delta depend on it.
    pub(super) fn can_patch(&self, new: u64, old: u64) -> bool {
        matching(new, old) <= self.most
    }

    /// Returns how many threads compress a layer, to find how it was compressed; `noted` is what the image
    /// says.
    pub(super) fn workers(&self, noted: Option<&Compression>) -> u32 {
        let each = noted.unwrap_or(&Compression::None).memory_per_worker();
        let affordable = self.most / (2 * each);
        (rayon::current_num_threads() as u64).clamp(1, affordable.max(1)) as u32
    }

    /// Returns the memory to compress a part.
    pub(super) fn part(&self, plain: u64, reference: u64) -> u64 {
        self.parameters.memory(plain, reference)
    }

    /// Compresses a part.
    pub(super) fn compress(&self, plain: &[u8], reference: &[u8]) -> Result<Vec<u8>> {
        zstd_prefix::compress(plain, reference, self.parameters)
    }
}

/// Returns how to compress parts at a level, so that a full part takes at most `most` bytes. It depends
/// on nothing else.
fn parameters(level: i32, most: u64) -> Parameters {
    let with = |log| {
        let own = Parameters::of(level, WINDOW_LOG);
        Parameters { table_log: log, long_table_log: log, ..own }
    };
    let fits = |p: &Parameters| p.memory(PART, MAX_REFERENCE) <= most;
    let smaller = (SMALLEST..=WINDOW_LOG).rev().map(Some);
    let mut all = std::iter::once(None).chain(smaller).map(with);
    all.find(fits).unwrap_or(with(Some(SMALLEST)))
}

/// Returns the memory to find the matches of a file.
pub(super) fn matching(new: u64, old: u64) -> u64 {
    // The last summand is for matches, of which a program has one in some hundred bytes.
    old + SeedIndex::memory(old) + new.min(SEARCHED) + TABLES + new / 16
}

/// Returns the memory to code the differences of a file whose matches were found.
pub(super) fn coding(new: u64, old: u64) -> u64 {
    old.min(BLOCKS) + TABLES + new / 8
}

/// Returns the memory to read a patched file, without its patch.
pub(super) fn reading() -> u64 {
    BLOCKS + TABLES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::defaults;

    #[test]
    fn by_default_programs_of_150_mib_are_patched_and_tables_are_those_of_the_level() {
        let work = |memory| WorkMemory::new(&budget(memory), defaults::DELTA_LEVEL);
        let (usual, small) = (work(defaults::MEMORY), work(128 << 20));
        assert!(usual.can_patch(150 << 20, 150 << 20));
        assert_eq!(usual.parameters.table_log, None);
        assert!(small.can_patch(30 << 20, 30 << 20) && !small.can_patch(40 << 20, 40 << 20));
        assert!(small.parameters.table_log >= Some(18), "{:?}", small.parameters);
        for work in [usual, small] {
            assert!(work.part(PART, MAX_REFERENCE) <= work.most);
            assert!(work.memory.capacity() <= work.budget.memory());
        }
    }
}
