//! Content-defined chunking: where a file is cut depends only on the bytes around the cut, so that
//! an insertion changes only the chunks it touches.
//!
//! `FastCDC` of 2020 ([paper](https://ieeexplore.ieee.org/document/9055082)). docs/STORE.md has
//! the measurements behind the sizes.

use std::io::Read;

use fastcdc::v2020::StreamCDC;

use crate::base::error::{Error, Result};

/// Minimum size of a chunk in bytes; only the last chunk of a file may be smaller.
pub const MIN: usize = 16 << 10;
/// Target size of a chunk in bytes.
pub const AVERAGE: usize = 64 << 10;
/// Maximum size of a chunk in bytes.
pub const MAX: usize = 256 << 10;

/// Returns the chunks of a file, in order. An empty file has none.
pub fn chunks(file: impl Read) -> impl Iterator<Item = Result<Vec<u8>>> {
    StreamCDC::new(file, MIN, AVERAGE, MAX)
        .map(|chunk| chunk.map(|c| c.data).map_err(|e| Error::from(std::io::Error::from(e))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().update(b"noise").finalize_xof();
        let mut out = vec![0; bytes];
        reader.fill(&mut out);
        out
    }

    fn sizes(bytes: &[u8]) -> Vec<usize> {
        chunks(bytes).map(|c| c.unwrap().len()).collect()
    }

    #[test]
    fn the_cuts_stay_as_they_are() {
        // A store shares by chunks: with other cuts it would store everything again.
        let bytes = noise(1 << 20);
        assert_eq!(sizes(&bytes), GOLDEN);
        assert_eq!(chunks(&bytes[..]).map(|c| c.unwrap()).collect::<Vec<_>>().concat(), bytes);
        assert!(sizes(b"").is_empty());
        assert_eq!(sizes(b"x"), [1]);
    }

    const GOLDEN: [usize; 15] = [
        74076, 101_526, 32578, 48426, 83135, 41775, 40289, 102_718, 58575, 52916, 40424, 115_622,
        67724, 122_128, 66664,
    ];

    #[test]
    fn an_insertion_changes_the_chunks_it_touches() {
        let old = noise(4 << 20);
        let mut new = old.clone();
        new.splice(2_000_000..2_000_000, *b"inserted");
        let list = |b: &[u8]| chunks(b).map(|c| c.unwrap()).collect::<Vec<_>>();
        let (old, new) = (list(&old), list(&new));
        let other = new.iter().filter(|c| !old.contains(c)).count();
        assert!(other <= 2, "{other} of {}", new.len());
    }
}
