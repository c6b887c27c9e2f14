//! Finds the distances at which a match is possible, so that a distance can be coded as its rank.

use super::deflate::WINDOW;

/// Bits of the hash.
const BITS: u32 = 15;
/// Maximum number of positions with the same hash that are tried.
const TRIES: usize = 1 << 10;

/// An index of three-byte sequences in the window.
pub(super) struct Finder {
    /// The last position of each hash, and for each position the one before it with the same hash,
    /// plus 1; 0 is none.
    heads: Vec<u32>,
    previous: Vec<u32>,
    next: usize,
}

impl Default for Finder {
    fn default() -> Self {
        Self { heads: vec![0; 1 << BITS], previous: vec![0; WINDOW], next: 0 }
    }
}

fn hash(data: &[u8], at: usize) -> usize {
    let three = data[at..at + 3].iter().fold(0, |h: u32, b| h << 8 | u32::from(*b));
    (three.wrapping_mul(0x9e37_79b1) >> (32 - BITS)) as usize
}

impl Finder {
    /// Returns the distances at which the `len` bytes at `at` occur, nearest first.
    pub(super) fn distances<'a>(
        &'a mut self,
        data: &'a [u8],
        at: usize,
        len: usize,
    ) -> impl Iterator<Item = usize> + 'a {
        self.next = self.next.max(at.saturating_sub(WINDOW));
        for place in self.next..at {
            let head = &mut self.heads[hash(data, place)];
            self.previous[place % WINDOW] = std::mem::replace(head, place as u32 + 1);
        }
        self.next = at;
        let sought = &data[at..at + len];
        let mut last = at + 1;
        let mut place = self.heads[hash(data, at)] as usize;
        let places = std::iter::from_fn(move || {
            let here = place;
            if here == 0 || here >= last || at + 1 - here > WINDOW {
                return None;
            }
            last = here;
            place = self.previous[(here - 1) % WINDOW] as usize;
            Some(here - 1)
        });
        places.take(TRIES).filter(move |of| data[*of..*of + len] == *sought).map(move |of| at - of)
    }
}
