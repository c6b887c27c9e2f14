//! Blocks of an old file that were read last.

use std::io;

use crate::content::{ReadAt, Region};

/// Bytes of a block.
const BLOCK: u64 = 1 << 16;
/// Blocks that are kept.
const BLOCKS: u64 = 1024;

/// Reads a file whose short runs are asked for near those before.
pub(super) struct Blocks {
    file: Region,
    /// The number of each block and its bytes; it lies at its number, modulo their count.
    kept: Vec<(u64, Vec<u8>)>,
}

impl Blocks {
    /// Takes the room of those of another file.
    pub(super) fn new(file: Region, room: Option<Self>) -> Self {
        let empty = || vec![(u64::MAX, Vec::new()); BLOCKS as usize];
        let mut kept = room.map_or_else(empty, |room| room.kept);
        kept.iter_mut().for_each(|block| block.0 = u64::MAX);
        Self { file, kept }
    }

    /// Puts so many bytes from `offset` on in place of those in `bytes`.
    pub(super) fn read(
        &mut self,
        mut offset: u64,
        n: usize,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        bytes.clear();
        while bytes.len() < n {
            let number = offset / BLOCK;
            let (known, block) = &mut self.kept[(number % BLOCKS) as usize];
            if *known != number {
                let start = number * BLOCK;
                // Bad until it is read.
                *known = u64::MAX;
                block.resize(self.file.size().saturating_sub(start).min(BLOCK) as usize, 0);
                self.file.read_exact_at(block, start)?;
                *known = number;
            }
            let from = block.get((offset % BLOCK) as usize..).unwrap_or_default();
            let from = &from[..from.len().min(n - bytes.len())];
            if from.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(from);
            offset += from.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_in_the_file(reads in prop::collection::vec((0u64..1 << 24, 0usize..1 << 17), 30)) {
            let all: Vec<u8> = (0..1u32 << 22).flat_map(|i| i.to_le_bytes()).collect();
            let end = all.len() - 5;
            let mut blocks = Blocks::new(Region::new(Arc::new(all.clone()), 0, end as u64), None);
            let mut bytes = Vec::new();
            for (at, n) in reads {
                let there = blocks.read(at, n, &mut bytes).is_ok();
                prop_assert_eq!(there, at as usize + n <= end || n == 0);
                if there {
                    prop_assert_eq!(&bytes, &all[at as usize..at as usize + n]);
                }
            }
        }
    }
}
