//! What Go's `compress/flate` chooses at level 1: go-containerregistry's default, and so that of
//! ko, crane and kaniko.

use super::deflate::{MAX_MATCH, WINDOW};
use super::predict::match_len;
use super::sections::{Pairs, Search, eight, emit};

const BITS: u32 = 14;
/// The search ends so many bytes before the section does.
const MARGIN: usize = 15;

/// The last place of each hash of four bytes, one up; 0 is none.
pub(super) struct GoFast {
    places: Vec<u32>,
    from: usize,
}

impl Default for GoFast {
    fn default() -> Self {
        Self { places: vec![0; 1 << BITS], from: 0 }
    }
}

fn four(data: &[u8], at: usize) -> u32 {
    eight(data, at) as u32
}

impl GoFast {
    /// Enters a place, and gives the one before if it begins with the same four bytes.
    fn enter(&mut self, data: &[u8], at: usize) -> Option<usize> {
        let bytes = four(data, at);
        let entry = &mut self.places[(bytes.wrapping_mul(0x1e35_a7bd) >> (32 - BITS)) as usize];
        let of = (std::mem::replace(entry, at as u32 + 1) as usize).checked_sub(1)?;
        (of >= self.from && at - of <= WINDOW && four(data, of) == bytes).then_some(of)
    }
}

impl Search for GoFast {
    fn reset(&mut self, from: usize) {
        self.places.fill(0);
        self.from = from;
    }

    fn search(&mut self, data: &[u8], begin: usize, pairs: &mut Pairs) {
        if data.len() - begin < 17 {
            return;
        }
        let limit = data.len() - MARGIN;
        let mut next = begin;
        'outer: loop {
            // The longer nothing is found, the larger the steps.
            let mut skip = 32;
            let (mut at, mut found);
            loop {
                at = next;
                next = at + (skip >> 5);
                skip += skip >> 5;
                if next > limit {
                    return;
                }
                found = self.enter(data, at);
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
                self.enter(data, at - 1);
                found = self.enter(data, at);
            }
            next = at + 1;
        }
    }
}
