//! A cache of blocks of an old file.

use std::io;
use std::ops::Range;

use crate::model::content::{ReadAt, Region};

/// Bytes of a block.
const BLOCK: u64 = 1 << 16;
/// Maximum number of cached blocks.
const BLOCKS: u64 = 1024;
/// Maximum bytes of cached blocks.
pub(super) const MAX_BYTES: u64 = BLOCK * BLOCKS;

/// Reads short ranges of a file, each near earlier ones.
pub(super) struct BlockCache {
    file: Region,
    /// The number of the block in each slot; block `n` goes to slot `n` modulo their count.
    numbers: Vec<u64>,
    /// The blocks' bytes.
    bytes: Vec<u8>,
    /// The last range that spans several blocks.
    joined: Vec<u8>,
}

impl BlockCache {
    /// Caches blocks of `file`, in the memory of a cache that is no longer used.
    pub(super) fn new(file: Region, unused: Option<Self>) -> Self {
        let count = file.size().div_ceil(BLOCK).clamp(1, BLOCKS) as usize;
        let size = count * BLOCK as usize;
        let bytes = unused.map(|unused| unused.bytes).filter(|bytes| bytes.len() >= size);
        let bytes = bytes.unwrap_or_else(|| vec![0; size]);
        Self { file, numbers: vec![u64::MAX; count], bytes, joined: Vec::new() }
    }

    /// Reads `n` bytes at `offset`: returns a buffer, and their range in it.
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

    /// Returns a block's bytes; the last block may be shorter.
    fn block(&mut self, number: u64) -> io::Result<&[u8]> {
        let at = (number % self.numbers.len() as u64) as usize;
        let start = number * BLOCK;
        let size = self.file.size().saturating_sub(start).min(BLOCK) as usize;
        let block = &mut self.bytes[at * BLOCK as usize..][..size];
        if self.numbers[at] != number {
            // Invalid until it was read.
            self.numbers[at] = u64::MAX;
            self.file.read_exact_at(block, start)?;
            self.numbers[at] = number;
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// A file of this size, whose bytes follow from their offsets.
    struct Pattern(u64);

    impl ReadAt for Pattern {
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
        fn ranges_are_read_as_they_are_in_the_file(
            reads in prop::collection::vec((0..8 * BLOCKS, 0..2 * BLOCK, 0..2 * BLOCK), 30)
        ) {
            let size = 8 * BLOCKS * BLOCK - 5;
            let mut blocks = BlockCache::new(Region::new(Arc::new(Pattern(size)), 0, size), None);
            for (block, into, n) in reads {
                // Few slots, so that blocks replace each other.
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
