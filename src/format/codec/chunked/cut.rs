//! Cuts a file into chunks.

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut, select_masks};

use crate::base::chunker::{AVERAGE, MAX, MIN};

/// Minimum size of a hole in bytes. A hole is a chunk of zeros. Fewer zeros are not worth a row in the
/// table of contents.
const HOLE: usize = MIN;
/// Maximum size of a hole in bytes. Longer ones are split.
const MAX_HOLE: usize = 1 << 20;
/// Number of bytes that must be in the buffer for a cut, so that cuts don't depend on the sizes of
/// reads.
const LOOKAHEAD: usize = MAX_HOLE;
const BUFFER: usize = 4 * LOOKAHEAD;

/// Cuts one file by its content. An insertion moves no cut before it and few cuts after it.
pub(super) struct Cutter<R> {
    data: R,
    buf: Vec<u8>,
    /// Offset in `buf` of the first byte that is not cut yet.
    at: usize,
    ended: bool,
}

/// A piece of a file.
pub(super) struct Chunk<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether all bytes are zero.
    pub(super) hole: bool,
}

impl<R: Read> Cutter<R> {
    pub(super) fn new(data: R) -> Self {
        Self { data, buf: Vec::new(), at: 0, ended: false }
    }

    /// Returns the next chunk, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk<'_>>> {
        if !self.ended && self.buf.len() - self.at < LOOKAHEAD {
            self.buf.drain(..self.at);
            self.at = 0;
            let room = (BUFFER - self.buf.len()) as u64;
            self.ended = self.data.by_ref().take(room).read_to_end(&mut self.buf)? < room as usize;
        }
        let rest = &self.buf[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (bytes, hole) = first(rest);
        self.at += bytes;
        Ok(Some(Chunk { bytes: &self.buf[self.at - bytes..self.at], hole }))
    }
}

/// Returns the size of the first chunk in bytes, and whether it is a hole.
fn first(rest: &[u8]) -> (usize, bool) {
    let data = match find_hole(&rest[..rest.len().min(MAX + HOLE)]) {
        Some(0) => {
            let zeros = rest.iter().take(MAX_HOLE).take_while(|b| **b == 0).count();
            return (zeros, true);
        }
        Some(start) => &rest[..start],
        None => rest,
    };
    let (mask_s, mask_l) = select_masks(AVERAGE, Normalization::Level2);
    let (_, bytes) = cut(data, MIN, AVERAGE, MAX, mask_s, mask_l, mask_s << 1, mask_l << 1);
    (bytes, false)
}

/// Returns the offset of the first run of at least [`HOLE`] zeros.
fn find_hole(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(window) = bytes.get(start..start + HOLE) {
        match window.iter().rposition(|b| *b != 0) {
            Some(last) => start += last + 1,
            None => return Some(start),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    fn noise(bytes: usize, seed: &[u8]) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut out);
        out
    }

    /// A reader that sometimes returns a single byte, as pipes do.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let most = if self.0.len().is_multiple_of(3) { 1 } else { 70_000 };
            let most = buf.len().min(most);
            self.0.read(&mut buf[..most])
        }
    }

    fn chunks(data: &[u8]) -> Vec<(usize, bool, Digest)> {
        let mut cutter = Cutter::new(Slow(data));
        let mut all = Vec::new();
        let mut joined = Vec::new();
        while let Some(chunk) = cutter.next().unwrap() {
            assert!(chunk.bytes.len() <= if chunk.hole { MAX_HOLE } else { MAX });
            assert!(!chunk.hole || chunk.bytes.iter().all(|b| *b == 0));
            joined.extend_from_slice(chunk.bytes);
            all.push((chunk.bytes.len(), chunk.hole, Digest::of(chunk.bytes)));
        }
        assert!(joined == data);
        all
    }

    /// Cut points affect the output: a library update that moves them changes digests.
    #[test]
    fn the_cuts_are_known() {
        let data = noise(1 << 20, b"cuts");
        let sizes: Vec<usize> = chunks(&data).iter().map(|c| c.0).collect();
        let known = [
            73_882, 67_982, 93_081, 25_944, 72_513, 105_766, 92_060, 101_511, 96_930, 68_035,
            66_834, 65_537, 28_842, 29_804, 46_891, 12_964,
        ];
        assert_eq!(sizes, known);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let old = noise(10 << 20, b"file");
        let mut new = old.clone();
        new.splice(5_000_000..5_000_000, *b"inserted");
        let known = chunks(&old);
        let fresh = chunks(&new).iter().filter(|c| !known.contains(c)).count();
        assert!((1..=3).contains(&fresh), "{fresh} of {}", known.len());
    }

    #[test]
    fn holes_are_separate_chunks_at_every_offset() {
        let (a, b) = (noise(100_000, b"a"), noise(50_001, b"b"));
        for zeros in [HOLE - 1, HOLE, HOLE + 1, MAX_HOLE, MAX_HOLE + HOLE + 5, 5_000_000] {
            let data = [&a[..], &vec![0; zeros], &b].concat();
            let found = chunks(&data);
            let holes: usize = found.iter().filter(|c| c.1).map(|c| c.0).sum();
            let most = if zeros < HOLE { 0 } else { zeros };
            // The rest of a long hole may be too short for a chunk.
            assert!(holes <= most && holes + HOLE > most, "{holes} of {zeros}");
            // Data after a hole is cut like a file of its own.
            if zeros == HOLE {
                assert_eq!(
                    found.iter().filter(|c| !c.1).count(),
                    chunks(&a).len() + chunks(&b).len()
                );
            }
        }
        assert_eq!(chunks(&[0; HOLE]).len(), 1);
        assert!(chunks(&[]).is_empty());
    }
}
