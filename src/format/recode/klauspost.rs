//! Simulates klauspost/compress at level 5, its default (also that of pgzip, and so of buildah, podman
//! and skopeo), and at level 6.
//!
//! One table has the last position of each hash of four bytes, another the last two of each hash of
//! seven.

use super::deflate::{MAX_MATCH, WINDOW};
use super::predict::match_len;
use super::sections::{Pairs, Search, eight, emit};

/// Bits of both hashes.
const BITS: u32 = 15;
/// The search ends this many bytes before the end of the section.
const MARGIN: usize = 11;

/// A position plus 1; 0 is none.
type Slot = u32;

/// The search of levels 5 and 6.
pub(super) struct Klauspost {
    /// Level 6 instead of 5.
    six: bool,
    /// By four bytes.
    short: Vec<Slot>,
    /// By seven bytes: the last position and the one before.
    long: Vec<[Slot; 2]>,
    /// The first position that may be referred to.
    from: usize,
    /// The distance of the last match.
    repeat: usize,
}

fn hash_short(bytes: u64) -> usize {
    ((bytes as u32).wrapping_mul(2_654_435_761) >> (32 - BITS)) as usize
}

fn hash_long(bytes: u64) -> usize {
    ((bytes << 8).wrapping_mul(58_295_818_150_454_627) >> (64 - BITS)) as usize
}

/// A match: its position, the position it refers to, its length.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    of: usize,
    len: usize,
}

impl Klauspost {
    /// Makes an encoder of level 6 or 5 with empty tables.
    pub(super) fn new(six: bool) -> Self {
        let (short, long) = (vec![0; 1 << BITS], vec![[0; 2]; 1 << BITS]);
        Self { six, short, long, from: 0, repeat: 1 }
    }

    fn insert_short(&mut self, bytes: u64, at: usize) {
        self.short[hash_short(bytes)] = at as Slot + 1;
    }

    fn insert_long(&mut self, bytes: u64, at: usize) {
        let entry = &mut self.long[hash_long(bytes)];
        *entry = [at as Slot + 1, entry[0]];
    }

    fn insert(&mut self, bytes: u64, at: usize) {
        self.insert_short(bytes, at);
        self.insert_long(bytes, at);
    }

    /// Returns the position in a slot if it is in the window and begins with the same four bytes.
    fn near(&self, data: &[u8], at: usize, four: u64, place: Slot) -> Option<usize> {
        let of = (place as usize).checked_sub(1)?;
        let near = of >= self.from && at - of < WINDOW;
        (near && eight(data, of) as u32 == four as u32).then_some(of)
    }

    /// Returns the length of a match whose first four bytes are equal, up to that of one token.
    fn length(data: &[u8], at: usize, of: usize) -> usize {
        let most = data.len().min(at + MAX_MATCH);
        4 + match_len(&data[at + 4..most], &data[of + 4..])
    }

    /// Finds the first match from `at` on. `data` ends with the section.
    fn find(&mut self, data: &[u8], emitted: usize, at: &mut usize) -> Option<Match> {
        let limit = data.len() - MARGIN;
        let mut bytes = eight(data, *at);
        let mut next = *at;
        loop {
            let at_now = next;
            next = at_now + 1 + ((at_now - emitted) >> if self.six { 7 } else { 6 });
            *at = next;
            if next > limit {
                return None;
            }
            let short = self.short[hash_short(bytes)];
            let long = self.long[hash_long(bytes)];
            self.insert(bytes, at_now);
            let later = eight(data, next);
            let [last, before] = long.map(|place| self.near(data, at_now, bytes, place));
            if let Some(of) = last.or(before) {
                self.insert(later, next);
                let Some((last, before)) = last.zip(before) else {
                    return Some(Match { at: at_now, of, len: extend(data, at_now, of) });
                };
                let lengths = [last, before].map(|of| Self::length(data, at_now, of));
                let better = usize::from(lengths[1] > lengths[0]);
                let (of, len) = ([last, before][better], lengths[better]);
                return Some(full_length(data, Match { at: at_now, of, len }));
            }
            if let Some(of) = self.near(data, at_now, bytes, short) {
                let mut best = Match { at: at_now, of, len: Self::length(data, at_now, of) };
                let long = self.long[hash_long(later)];
                self.insert(later, next);
                // Level 6 first tries the last distance at the next byte, then both positions. Level 5
                // takes the first better one.
                let repeated = (at_now + 1).checked_sub(self.repeat).filter(|of| *of >= self.from);
                if let Some(of) =
                    repeated.filter(|of| self.six && eight(data, *of) as u32 == (bytes >> 8) as u32)
                {
                    let len = Self::length(data, at_now + 1, of);
                    if len > best.len {
                        return Some(full_length(data, Match { at: at_now + 1, of, len }));
                    }
                }
                for place in long {
                    let Some(of) = self.near(data, next, later, place) else { continue };
                    let len = Self::length(data, next, of);
                    if len > best.len {
                        best = Match { at: next, of, len };
                        if !self.six {
                            break;
                        }
                    }
                }
                return Some(full_length(data, best));
            }
            bytes = later;
        }
    }

    /// Replaces a match by a longer one that is found through its end, and begins two bytes later.
    fn by_end(&self, data: &[u8], mut found: Match) -> Match {
        let entry = self.long[hash_long(eight(data, found.at + found.len))];
        let later = found.at + 2;
        for place in &entry[..=usize::from(self.six)] {
            let Some(of) = (*place as usize + 1).checked_sub(found.len) else { break };
            if *place == 0 || of < self.from || of >= later || later - of >= WINDOW {
                continue;
            }
            let len = match_len(&data[later..], &data[of..]);
            if len > found.len {
                found = Match { at: later, of, len };
            }
        }
        found
    }

    /// Inserts some of the positions within a match.
    fn insert_inside(&mut self, data: &[u8], from: usize, end: usize) {
        if from + 1 >= end {
            return;
        }
        self.insert(eight(data, from), from);
        self.insert_long(eight(data, from + 1), from + 1);
        self.insert_short(eight(data, from + 2), from + 2);
        for place in (from + 4..end - 1).step_by(3) {
            self.insert_long(eight(data, place), place);
            self.insert_short(eight(data, place + 1), place + 1);
        }
    }

    /// Extends a match backwards.
    fn back(&self, data: &[u8], emitted: usize, mut found: Match) -> Match {
        while found.of > self.from && found.at > emitted && data[found.of - 1] == data[found.at - 1]
        {
            found = Match { at: found.at - 1, of: found.of - 1, len: found.len + 1 };
        }
        found
    }
}

impl Search for Klauspost {
    fn reset(&mut self, from: usize) {
        self.short.fill(0);
        self.long.fill([0; 2]);
        self.from = from;
    }

    fn search(&mut self, data: &[u8], at: usize, pairs: &mut Pairs) {
        if data.len() - at < 13 {
            return;
        }
        let limit = data.len() - MARGIN;
        let (mut at, mut emitted) = (at, at);
        self.repeat = 1;
        while let Some(mut found) = self.find(data, emitted, &mut at) {
            if (self.six || found.len < 30) && found.at + found.len < limit {
                found = self.by_end(data, found);
            }
            found = self.back(data, emitted, found);
            emit(pairs, found.at, found.of, found.len);
            self.repeat = found.at - found.of;
            let next = at;
            emitted = found.at + found.len;
            at = if next >= emitted { next + 1 } else { emitted };
            if at >= limit {
                if self.six {
                    for place in (next + 1..data.len() - 8).step_by(2) {
                        self.insert(eight(data, place), place);
                    }
                }
                break;
            }
            if self.six {
                for place in (next + 1..at - 1).step_by(2) {
                    self.insert(eight(data, place), place);
                    self.insert_long(eight(data, place + 1), place + 1);
                }
            } else {
                self.insert_inside(data, at - found.len + 1, at);
                // The search continues at `at`, with the position before it inserted.
                self.insert(eight(data, at - 1), at - 1);
            }
        }
    }
}

/// Returns the full length of a match whose first four bytes are equal.
fn extend(data: &[u8], at: usize, of: usize) -> usize {
    4 + match_len(&data[at + 4..], &data[of + 4..])
}

/// Extends a match whose length is that of one token to its full length.
fn full_length(data: &[u8], mut found: Match) -> Match {
    if found.len == MAX_MATCH {
        found.len += match_len(&data[found.at + MAX_MATCH..], &data[found.of + MAX_MATCH..]);
    }
    found
}
