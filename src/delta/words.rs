//! Words of tables: they often grow by as much as others did.

use super::symbols::{Nibble, Prob};
use crate::base::range_coder::Coder;

/// Sizes that were grown by last.
const RECENT: usize = 6;
/// Log2 of how many neighbourhoods are remembered.
const NEAR: u32 = 14;
/// What can be told of a word: the same, as its neighbours, as a recent one, otherwise.
const SYMBOLS: usize = RECENT + 3;

/// What is known of words.
pub(super) struct Words {
    same: Vec<Prob>,
    probs: Vec<Nibble>,
    last: (usize, usize),
    recent: [u32; RECENT],
    /// What words of about the same value grew by, by the hash of that.
    near: Vec<(u32, u32)>,
}

impl Words {
    pub(super) fn new() -> Self {
        Self {
            same: vec![Prob::default(); SYMBOLS * SYMBOLS * 2],
            probs: vec![Nibble::default(); SYMBOLS * SYMBOLS * 2],
            last: (0, 0),
            recent: [0; RECENT],
            near: vec![(u32::MAX, 0); 1 << NEAR],
        }
    }

    fn slot(old: u32) -> usize {
        ((old >> 10).wrapping_mul(0x9e37_79b1) >> (32 - NEAR)) as usize
    }

    /// Tells a word by the old one; nothing if it grew by what none did.
    pub(super) fn code(&mut self, coder: &mut impl Coder, old: u32, new: u32) -> Option<u32> {
        let near = Some(self.near[Self::slot(old)]).filter(|n| n.0 == old >> 10).map(|n| n.1);
        let growth = new.wrapping_sub(old);
        let symbol = match growth {
            0 => 0,
            _ if near == Some(growth) => 1,
            _ => self.recent.iter().position(|r| *r == growth).map_or(SYMBOLS - 1, |i| i + 2),
        };
        let context = (self.last.0 * SYMBOLS + self.last.1) * 2 + usize::from(near.is_some());
        // Most are the same.
        let symbol = if coder.bit(&mut self.same[context], symbol > 0) {
            self.probs[context].code(coder, symbol.wrapping_sub(1)) + 1
        } else {
            0
        };
        self.last = (self.last.1, symbol);
        let growth = match symbol {
            0 => return Some(old),
            1 => near.unwrap_or(0),
            _ => *self.recent.get(symbol - 2)?,
        };
        let new = old.wrapping_add(growth);
        self.grew(old, new);
        Some(new)
    }

    /// Notes what a word that was told otherwise has become.
    pub(super) fn grew(&mut self, old: u32, new: u32) {
        let growth = new.wrapping_sub(old);
        if growth != 0 {
            self.near[Self::slot(old)] = (old >> 10, growth);
            let at = self.recent.iter().position(|r| *r == growth).unwrap_or(RECENT - 1);
            self.recent[..=at].rotate_right(1);
            self.recent[0] = growth;
        }
    }
}
