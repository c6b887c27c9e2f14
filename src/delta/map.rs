//! Maps addresses of an old file to those of the new one.

use super::elf::{Elf, Field};
use super::matches::Match;

/// Maps addresses by the matches that contain them, and by the corrections learned so far.
pub(super) struct AddressMap {
    /// Sorted by the old address, without overlaps.
    moved: Vec<Moved>,
    /// Old address of the first entry, and for each page from there the first entry in or after it.
    first: u64,
    pages: Vec<u32>,
    /// Log2 of a page's bytes.
    page: u32,
    /// A hash table of new addresses that were learned, in 48 bits below 16 bits of the old address's
    /// hash. A newer entry replaces an older one.
    learned: Vec<u64>,
}

/// A match of loaded bytes. There are many, in random access, so this is small.
#[derive(Clone, Copy)]
struct Moved {
    /// Relative to the first entry.
    old: u32,
    bytes: u32,
    new: u64,
}

/// Bits of a learned address.
const ADDRESS: u32 = 48;

impl AddressMap {
    /// Makes a map for a new file of `size` bytes. It takes about 40 bytes per match, and an eighth of
    /// `size`.
    pub(super) fn new(old: &Elf, new: &Elf, matches: &[Match], size: u64) -> Self {
        let moved = matches.iter().filter_map(|m| {
            Some((old.addr(m.old.into())?, m.bytes.into(), new.addr(m.new.into())?))
        });
        let moved = without_overlaps(moved.collect());
        let first = moved.first().map_or(0, |m| m.0);
        // Addresses that are more than 4 GiB from the first are not mapped.
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
        let slots = (size / 64).clamp(64, 1 << 15).next_power_of_two();
        Self { moved, first, pages, page, learned: vec![u64::MAX; slots as usize] }
    }

    /// Guesses the new address of an old one: that in its match, or else at the same distance from the
    /// match before. Also returns whether it is in a match.
    pub(super) fn guess(&self, target: u64) -> (u64, bool) {
        let unmapped = (target, false);
        let Some(into) = target.checked_sub(self.first) else { return unmapped };
        let page = ((into >> self.page) as usize).min(self.pages.len() - 2);
        let (from, to) = (self.pages[page] as usize, self.pages[page + 1] as usize);
        let at = from + self.moved[from..to].partition_point(|m| u64::from(m.old) <= into);
        let Some(m) = at.checked_sub(1).map(|at| self.moved[at]) else { return unmapped };
        let into = into - u64::from(m.old);
        (m.new.wrapping_add(into), into < m.bytes.into())
    }

    /// Returns the slot of an old address in `learned`, and its tag there.
    fn slot(&self, target: u64) -> (usize, u64) {
        let hash = target.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 32) as usize & (self.learned.len() - 1), hash >> ADDRESS)
    }

    /// Returns the new address of a field, as it was learned or guessed, and the confidence in it from
    /// 0 to 2. [`guess_all`](Self::guess_all) comes first.
    pub(super) fn find(&self, field: &Field) -> (u64, usize) {
        let (slot, tag) = self.slot(field.target);
        let learned = self.learned[slot];
        if learned >> ADDRESS == tag {
            return (learned & ((1 << ADDRESS) - 1), 2);
        }
        let (new, matched) = field.guess;
        (new, usize::from(matched))
    }

    /// Guesses the addresses of all fields, and loads their learned ones into the CPU's caches: that
    /// is faster for all at once than for one after the other.
    pub(super) fn guess_all(&self, fields: &mut [Field]) {
        let mut loaded = 0;
        for field in fields {
            field.guess = self.guess(field.target);
            loaded ^= self.learned[self.slot(field.target).0];
        }
        std::hint::black_box(loaded);
    }

    /// Learns the new address of an old one.
    pub(super) fn learn(&mut self, target: u64, new: u64) {
        let (slot, tag) = self.slot(target);
        self.learned[slot] = tag << ADDRESS | new & ((1 << ADDRESS) - 1);
    }
}

/// Cuts entries so that none overlap. Of two the longer one keeps the common addresses, as it is more
/// likely right.
fn without_overlaps(mut moved: Vec<(u64, u64, u64)>) -> Vec<(u64, u64, u64)> {
    moved.sort_unstable_by_key(|m| (m.0, std::cmp::Reverse(m.1), m.2));
    let mut kept: Vec<(u64, u64, u64)> = Vec::with_capacity(moved.len());
    for (from, bytes, to) in moved {
        let end = kept.last().map_or(0, |last| last.0 + last.1);
        match kept.last_mut() {
            Some(_) if from + bytes <= end => {}
            // The last one may have been cut itself, and then begins later.
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
        fn the_same_addresses_are_covered_without_overlaps(
            list in prop::collection::vec((0u64..1 << 20, 1u64..5000, 0u64..1 << 40), 0..40),
            targets in prop::collection::vec(0u64..1 << 21, 20)
        ) {
            let kept = without_overlaps(list.clone());
            prop_assert!(kept.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
            let covered = |list: &[(u64, u64, u64)], t| list.iter().any(|m| m.0 <= t && t < m.0 + m.1);
            for t in targets {
                prop_assert_eq!(covered(&list, t), covered(&kept, t));
            }
        }
    }
}
