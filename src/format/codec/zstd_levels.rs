//! The memory that zstd's levels take.

/// What a level of zstd takes by itself for more than 256 KiB (`clevels.h` of zstd): log2 of the window, and
/// of the entries of both tables; the strategy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub(super) window: u32,
    chain: u32,
    hash: u32,
    strategy: u32,
}

/// [`Level`] of each level from 1 on.
const LEVELS: [[u32; 4]; 22] = [
    [19, 13, 14, 1],
    [20, 15, 16, 1],
    [21, 16, 17, 2],
    [21, 18, 18, 2],
    [21, 18, 19, 3],
    [21, 18, 19, 4],
    [21, 19, 20, 4],
    [21, 19, 20, 5],
    [22, 20, 21, 5],
    [22, 21, 22, 5],
    [22, 21, 22, 5],
    [22, 22, 23, 5],
    [22, 22, 22, 6],
    [22, 22, 23, 6],
    [22, 23, 23, 6],
    [22, 22, 22, 7],
    [23, 23, 22, 7],
    [23, 23, 22, 8],
    [23, 24, 22, 9],
    [25, 25, 23, 9],
    [26, 26, 24, 9],
    [27, 27, 25, 9],
];

/// Bytes that a compressor takes beside its tables.
pub(super) const BESIDE: u64 = 3 << 20;

impl Level {
    /// Returns that of a level.
    pub(super) fn of(level: i32) -> Self {
        let at = (level.max(1).unsigned_abs() as usize).min(LEVELS.len()) - 1;
        let [window, chain, hash, strategy] = LEVELS[at];
        Self { window, chain, hash, strategy }
    }

    /// Returns the bytes of both tables for a window. `log` is that of their entries, if it is not the
    /// level's.
    pub(super) fn tables(self, window: u32, log: Option<u32>) -> u64 {
        let table = |own: u32| 4u64 << log.unwrap_or(own).min(window + 1);
        table(self.chain) + table(self.hash)
    }

    /// Returns the bytes of the table of long matches in a window. `log` is that of its entries, if it is
    /// not the level's.
    pub(super) fn long_table(self, window: u32, log: Option<u32>) -> u64 {
        9 << log.unwrap_or(window.saturating_sub(7 - self.strategy / 3)).min(window)
    }
}
