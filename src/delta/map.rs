//! Where addresses of an old file are in the new one.

use super::elf::{Elf, Field};
use super::matches::Match;

/// What the matches say of addresses, and what has been seen to become of them.
pub(super) struct Map {
    /// Sorted by the old address, and apart.
    moved: Vec<Moved>,
    /// Old address of the first, and for each page from there the first entry in or after it.
    first: u64,
    pages: Vec<u32>,
    /// Log2 of a page's bytes.
    page: u32,
    /// New addresses that were told, in 48 bits, below 16 bits of the old one's hash, by other bits
    /// of it; a newer one takes an older's place.
    told: Vec<u64>,
}

/// A match of loaded bytes. There are many, and they are looked up all over: they are kept small.
#[derive(Clone, Copy)]
struct Moved {
    /// Less the first one's.
    old: u32,
    bytes: u32,
    new: u64,
}

/// Bits of a new address that was told.
const ADDRESS: u32 = 48;

impl Map {
    /// Takes some 40 bytes a match, and an eighth byte for each of the new file's `size`.
    pub(super) fn new(old: &Elf, new: &Elf, matches: &[Match], size: u64) -> Self {
        let moved = matches.iter().filter_map(|m| {
            Some((old.addr(m.old.into())?, m.bytes.into(), new.addr(m.new.into())?))
        });
        let moved = apart(moved.collect());
        let first = moved.first().map_or(0, |m| m.0);
        // What is loaded so far off that it takes more bits is not followed.
        let moved = moved.into_iter().map_while(|(old, bytes, new)| {
            let old = u32::try_from(old - first).ok()?;
            Some(Moved { old, bytes: u32::try_from(bytes).ok()?, new })
        });
        let moved: Vec<Moved> = moved.collect();
        let span = moved.last().map_or(0, |m| m.old);
        // About as many pages as entries.
        let most = (moved.len() as u32).next_power_of_two();
        let page = (span / most).checked_ilog2().map_or(0, |n| n + 1);
        let mut pages = vec![0; (span >> page) as usize + 2];
        for m in &moved {
            pages[(m.old >> page) as usize + 1] += 1;
        }
        for i in 1..pages.len() {
            pages[i] += pages[i - 1];
        }
        let told = (size / 64).clamp(64, 1 << 15).next_power_of_two();
        Self { moved, first, pages, page, told: vec![u64::MAX; told as usize] }
    }

    /// Where an old address probably is: in its match, or as far from the match before it as it was;
    /// and whether it is in a match.
    pub(super) fn guess(&self, target: u64) -> (u64, bool) {
        let nothing = (target, false);
        let Some(into) = target.checked_sub(self.first) else { return nothing };
        let page = ((into >> self.page) as usize).min(self.pages.len() - 2);
        let (from, to) = (self.pages[page] as usize, self.pages[page + 1] as usize);
        let at = from + self.moved[from..to].partition_point(|m| u64::from(m.old) <= into);
        let Some(m) = at.checked_sub(1).map(|at| self.moved[at]) else { return nothing };
        let into = into - u64::from(m.old);
        (m.new.wrapping_add(into), into < m.bytes.into())
    }

    /// Where it is noted what an old address has become, and as what.
    fn slot(&self, target: u64) -> (usize, u64) {
        let hash = target.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32) as usize & (self.told.len() - 1), hash >> ADDRESS)
    }

    /// What an address that [`near`](Self::near) was given becomes, by what was told or guessed; and
    /// how sure it is, from 0 to 2.
    pub(super) fn find(&self, field: &Field) -> (u64, usize) {
        let (slot, name) = self.slot(field.target);
        let told = self.told[slot];
        if told >> ADDRESS == name {
            return (told & ((1 << ADDRESS) - 1), 2);
        }
        let (new, sure) = field.guess;
        (new, usize::from(sure))
    }

    /// Guesses all addresses, and brings near what was told of them: it lies far apart in memory, and
    /// comes sooner all at once than one by one.
    pub(super) fn near(&self, fields: &mut [Field]) {
        let mut told = 0;
        for field in fields {
            field.guess = self.guess(field.target);
            told ^= self.told[self.slot(field.target).0];
        }
        std::hint::black_box(told);
    }

    /// Says where an address is.
    pub(super) fn tell(&mut self, target: u64, new: u64) {
        let (slot, name) = self.slot(target);
        self.told[slot] = name << ADDRESS | new & ((1 << ADDRESS) - 1);
    }
}

/// Leaves each address to one entry: of two over the same the longer is more likely right.
fn apart(mut moved: Vec<(u64, u64, u64)>) -> Vec<(u64, u64, u64)> {
    moved.sort_unstable_by_key(|m| (m.0, std::cmp::Reverse(m.1), m.2));
    let mut kept: Vec<(u64, u64, u64)> = Vec::with_capacity(moved.len());
    for (from, bytes, to) in moved {
        let end = kept.last().map_or(0, |last| last.0 + last.1);
        match kept.last_mut() {
            Some(_) if from + bytes <= end => {}
            // The last one may have been cut itself, and begin later.
            Some(last) if from < end && (bytes <= last.1 || from < last.0) => {
                let cut = end - from;
                kept.push((end, bytes - cut, to.wrapping_add(cut)));
            }
            Some(last) if from < end => {
                last.1 = from - last.0;
                kept.push((from, bytes, to));
            }
            _ => kept.push((from, bytes, to)),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_found_as_by_looking_at_all(
            list in prop::collection::vec((0u64..1 << 20, 1u64..5000, 0u64..1 << 40), 0..40),
            targets in prop::collection::vec(0u64..1 << 21, 20)
        ) {
            let kept = apart(list.clone());
            prop_assert!(kept.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
            let covered = |list: &[(u64, u64, u64)], t| list.iter().any(|m| m.0 <= t && t < m.0 + m.1);
            for t in targets {
                prop_assert_eq!(covered(&list, t), covered(&kept, t));
            }
        }
    }
}
