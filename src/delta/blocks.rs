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
        for block in &mut kept {
            block.0 = u64::MAX;
        }
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

    /// So many bytes, each its own number's.
    struct Long(u64);

    impl ReadAt for Long {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            assert!(offset + buf.len() as u64 <= self.0);
            buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (at % 251) as u8);
            Ok(())
        }

        fn size(&self) -> u64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_in_the_file(
            reads in prop::collection::vec((0..8 * BLOCKS, 0..2 * BLOCK, 0..2 * BLOCK), 30)
        ) {
            let size = 8 * BLOCKS * BLOCK - 5;
            let mut blocks = Blocks::new(Region::new(Arc::new(Long(size)), 0, size), None);
            let mut bytes = Vec::new();
            for (block, into, n) in reads {
                // Few places in the room, so that blocks take each other's.
                let at = (block & !0x7f) * BLOCK + into;
                let read = blocks.read(at, n as usize, &mut bytes);
                prop_assert_eq!(read.is_ok(), at + n <= size || n == 0);
                if read.is_ok() {
                    prop_assert_eq!(bytes.len() as u64, n);
                    prop_assert!(bytes.iter().zip(at..).all(|(byte, at)| *byte == (at % 251) as u8));
                }
            }
        }
    }
}
