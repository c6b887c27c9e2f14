//! Blocks of an old file that were read last.

use std::io;
use std::ops::Range;

use crate::model::content::{ReadAt, Region};

/// Bytes of a block.
const BLOCK: u64 = 1 << 16;
/// Blocks that are kept.
const BLOCKS: u64 = 1024;

/// Reads a file whose short runs are asked for near those before.
pub(super) struct Blocks {
    file: Region,
    /// The number of each block that is kept; it lies at its number, modulo their count.
    known: Vec<u64>,
    /// Their bytes.
    kept: Vec<u8>,
    /// What lies in more than one.
    joined: Vec<u8>,
}

impl Blocks {
    /// Takes the room of those of another file.
    pub(super) fn new(file: Region, room: Option<Self>) -> Self {
        let count = file.size().div_ceil(BLOCK).clamp(1, BLOCKS) as usize;
        let bytes = count * BLOCK as usize;
        let kept = room.map(|room| room.kept).filter(|kept| kept.len() >= bytes);
        let kept = kept.unwrap_or_else(|| vec![0; bytes]);
        Self { file, known: vec![u64::MAX; count], kept, joined: Vec::new() }
    }

    /// Bytes of the file, and which of them are the `n` from `offset` on.
    pub(super) fn read(&mut self, offset: u64, n: usize) -> io::Result<(&[u8], Range<usize>)> {
        let into = (offset % BLOCK) as usize;
        if into + n <= BLOCK as usize {
            let block = self.block(offset / BLOCK)?;
            let range = into..into + n;
            return match block.get(range.clone()) {
                Some(_) => Ok((block, range)),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        while joined.len() < n {
            let at = offset + joined.len() as u64;
            let block = self.block(at / BLOCK)?;
            let from = block.get((at % BLOCK) as usize..).unwrap_or_default();
            if from.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            joined.extend_from_slice(&from[..from.len().min(n - joined.len())]);
        }
        self.joined = joined;
        Ok((&self.joined, 0..n))
    }

    /// A block's bytes, of which the last has fewer.
    fn block(&mut self, number: u64) -> io::Result<&[u8]> {
        let at = (number % self.known.len() as u64) as usize;
        let start = number * BLOCK;
        let bytes = self.file.size().saturating_sub(start).min(BLOCK) as usize;
        let block = &mut self.kept[at * BLOCK as usize..][..bytes];
        if self.known[at] != number {
            // Bad until it is read.
            self.known[at] = u64::MAX;
            self.file.read_exact_at(block, start)?;
            self.known[at] = number;
        }
        Ok(block)
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
            for (block, into, n) in reads {
                // Few places in the room, so that blocks take each other's.
                let at = (block & !0x7f) * BLOCK + into;
                let read = blocks.read(at, n as usize);
                prop_assert_eq!(read.is_ok(), at + n <= size);
                if let Ok((bytes, range)) = read {
                    prop_assert_eq!(range.len() as u64, n);
                    prop_assert!(bytes[range].iter().zip(at..).all(|(byte, at)| *byte == (at % 251) as u8));
                }
            }
        }
    }
}
