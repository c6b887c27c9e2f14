//! Simulates Go's `compress/flate` at level 1, the default of go-containerregistry and so of ko, crane
//! and kaniko.

use super::deflate::{MAX_MATCH, WINDOW};
use super::predict::match_len;
use super::sections::{Pairs, Search, eight, emit};

/// Bits of the hash.
const BITS: u32 = 14;
/// The search ends this many bytes before the end of the section.
const MARGIN: usize = 15;

/// The search of Go's level 1.
pub(super) struct GoFast {
    /// The last position of each hash of four bytes plus 1; 0 is none.
    table: Vec<u32>,
    from: usize,
}

impl Default for GoFast {
    fn default() -> Self {
        Self { table: vec![0; 1 << BITS], from: 0 }
    }
}

fn four(data: &[u8], at: usize) -> u32 {
    eight(data, at) as u32
}

impl GoFast {
    /// Inserts a position, and returns the one before it if that begins with the same four bytes.
    fn insert(&mut self, data: &[u8], at: usize) -> Option<usize> {
        let bytes = four(data, at);
        let entry = &mut self.table[(bytes.wrapping_mul(0x1e35_a7bd) >> (32 - BITS)) as usize];
        let of = (std::mem::replace(entry, at as u32 + 1) as usize).checked_sub(1)?;
        (of >= self.from && at - of <= WINDOW && four(data, of) == bytes).then_some(of)
    }
}

impl Search for GoFast {
    fn reset(&mut self, from: usize) {
        self.table.fill(0);
        self.from = from;
    }

    fn search(&mut self, data: &[u8], begin: usize, pairs: &mut Pairs) {
        if data.len() - begin < 17 {
            return;
        }
        let limit = data.len() - MARGIN;
        let mut next = begin;
        'outer: loop {
            // Steps grow while nothing is found.
            let mut skip = 32;
            let (mut at, mut found);
            loop {
                at = next;
                next = at + (skip >> 5);
                skip += skip >> 5;
                if next > limit {
                    return;
                }
                found = self.insert(data, at);
                if found.is_some() {
                    break;
                }
            }
            while let Some(of) = found {
                let most = data.len().min(at + MAX_MATCH);
                let len = 4 + match_len(&data[at + 4..most], &data[of + 4..]);
                emit(pairs, at, of, len);
                at += len;
                if at >= limit {
                    break 'outer;
                }
                self.insert(data, at - 1);
                found = self.insert(data, at);
            }
            next = at + 1;
        }
    }
}
