//! Predicts 32-bit words of tables, which often grow by the same amount as others.

use super::symbols::{Nibble, Prob};
use crate::base::range_coder::Coder;

/// Number of recent growths that are remembered.
const RECENT: usize = 6;
/// Log2 of the number of slots for growths by value.
const NEAR: u32 = 14;
/// Symbols of a word: unchanged, grew as words of about its value, grew by a recent growth, other.
const SYMBOLS: usize = RECENT + 3;

/// An adaptive model of words.
pub(super) struct WordModel {
    same: Vec<Prob>,
    probs: Vec<Nibble>,
    /// The symbols of the last two words.
    last: (usize, usize),
    recent: [u32; RECENT],
    /// The last growth of words of about the same value, by a hash of that value.
    near: Vec<(u32, u32)>,
}

impl WordModel {
    /// Begins without knowledge.
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

    /// Codes a word relative to the old one. `None` if its growth matches none that is known: then its
    /// bytes follow, and [`learn`](Self::learn).
    pub(super) fn code(&mut self, coder: &mut impl Coder, old: u32, new: u32) -> Option<u32> {
        let near = Some(self.near[Self::slot(old)]).filter(|n| n.0 == old >> 10).map(|n| n.1);
        let growth = new.wrapping_sub(old);
        let symbol = match growth {
            0 => 0,
            _ if near == Some(growth) => 1,
            _ => self.recent.iter().position(|r| *r == growth).map_or(SYMBOLS - 1, |i| i + 2),
        };
        let context = (self.last.0 * SYMBOLS + self.last.1) * 2 + usize::from(near.is_some());
        // Most words are unchanged.
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
        self.learn(old, new);
        Some(new)
    }

    /// Learns the growth of a word.
    pub(super) fn learn(&mut self, old: u32, new: u32) {
        let growth = new.wrapping_sub(old);
        if growth != 0 {
            self.near[Self::slot(old)] = (old >> 10, growth);
            let at = self.recent.iter().position(|r| *r == growth).unwrap_or(RECENT - 1);
            self.recent[..=at].rotate_right(1);
            self.recent[0] = growth;
        }
    }
}
