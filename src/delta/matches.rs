//! Finds ranges of a new file that are similar to ranges of an old one.

/// A range of the new file that is similar to one of the old file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Match {
    /// Offset in the new file.
    pub(super) new: u32,
    /// Offset in the old file.
    pub(super) old: u32,
    /// Number of bytes.
    pub(super) bytes: u32,
}

/// Minimum length of a match.
pub(super) const MIN_MATCH: u32 = 32;
/// Number of equal bytes that begin a match.
const SEED: usize = 16;
/// The old file is indexed at every multiple of this.
const STRIDE: usize = 4;
/// A run of this length at the expected place ends the search.
const LONG: usize = 64;
/// Maximum number of places with the same hash that are tried.
const WAYS: usize = 4;

/// A new match must have this many more equal bytes than the current one would have if it went on:
/// the cost of a match.
const MATCH_COST: usize = 8;

/// A hash index of the old file.
pub(super) struct SeedIndex<'a> {
    old: &'a [u8],
    slots: Vec<[u32; WAYS]>,
    shift: u32,
}

/// Hashes the first [`SEED`] bytes.
fn hash(bytes: &[u8]) -> u64 {
    let n = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let mixed = n(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n(8).rotate_left(29);
    (mixed ^ mixed >> 31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl<'a> SeedIndex<'a> {
    /// Indexes a file of less than 4 GiB.
    pub(super) fn new(old: &'a [u8]) -> Self {
        let bits = (old.len() / STRIDE / 3 * 2).max(64).ilog2();
        let mut index = Self { old, slots: vec![[u32::MAX; WAYS]; 1 << bits], shift: 64 - bits };
        for at in (0..old.len().saturating_sub(SEED - 1)).step_by(STRIDE) {
            let window = &old[at..at + SEED];
            if window[..8] == window[8..] {
                continue;
            }
            let slot = &mut index.slots[(hash(window) >> index.shift) as usize];
            // The first places stay; the last slot is always overwritten with the newest.
            let way = slot.iter().position(|s| *s == u32::MAX).unwrap_or(WAYS - 1);
            slot[way] = at as u32;
        }
        index
    }

    /// Finds the longest run that equals the beginning of `new`: its length, and its offset in the
    /// old file. The offset `expected` is tried first.
    fn longest(&self, new: &[u8], expected: usize) -> (usize, usize) {
        let mut best = (0, 0);
        if let Some(rest) = self.old.get(expected..) {
            best = (equal(rest, new), expected);
            if best.0 >= LONG {
                return best;
            }
        }
        if best.0 < SEED {
            best.0 = 0;
        }
        if new.len() < SEED || new[..8] == new[8..16] {
            return best;
        }
        for candidate in &self.slots[(hash(&new[..SEED]) >> self.shift) as usize] {
            if *candidate == u32::MAX {
                break;
            }
            let from = *candidate as usize;
            let n = equal(&self.old[from..], new);
            if n >= SEED && n > best.0 {
                best = (n, from);
            }
        }
        best
    }
}

/// Returns the length of the common prefix.
fn equal(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let mut at = 0;
    for (old, new) in words {
        let differing = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
        if differing != 0 {
            return at + (differing.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(old, new)| old == new).count()
}

/// Returns the length with the largest excess of equal bytes over unequal ones.
fn reach(equal: impl Iterator<Item = bool>) -> usize {
    let (mut score, mut best, mut length) = (0i64, 0, 0);
    for (i, equal) in equal.enumerate() {
        score += if equal { 1 } else { -1 };
        if score > best {
            (best, length) = (score, i + 1);
        }
    }
    length
}

/// Finds matches as bsdiff does: each begins with an equal run, and is extended to both sides over
/// bytes that are mostly equal. They are in the order of the new file and do not overlap.
pub(super) fn find(index: &SeedIndex<'_>, new: &[u8]) -> Vec<Match> {
    let old = index.old;
    let mut matches = Vec::new();
    // The current match: where it begins, and the distance from there to the old offset.
    let (mut begin, mut offset) = (0usize, 0usize);
    let (mut scan, mut run, mut found_at) = (0, 0, 0);
    while scan < new.len() {
        let equal_at = |i: usize| old.get(i.wrapping_add(offset)) == Some(&new[i]);
        scan += run;
        // Bytes from `scan` to `counted` that are equal if the match goes on.
        let (mut score, mut counted) = (0, scan);
        while scan < new.len() {
            (run, found_at) = index.longest(&new[scan..], scan.wrapping_add(offset));
            for i in counted..scan + run {
                score += usize::from(equal_at(i));
            }
            counted = counted.max(scan + run);
            if (run == score && run > 0) || run > score + MATCH_COST {
                break;
            }
            if counted > scan {
                score -= usize::from(equal_at(scan));
            } else {
                counted = scan + 1;
            }
            (scan, run) = (scan + 1, 0);
        }
        if run == score && scan < new.len() {
            continue;
        }
        let from = begin.wrapping_add(offset);
        let room = (scan - begin).min(old.len() - from);
        let mut forward = reach((0..room).map(|i| old[from + i] == new[begin + i]));
        let mut backward = 0;
        if scan < new.len() {
            let room = (scan - begin).min(found_at);
            backward = reach((1..=room).map(|i| old[found_at - i] == new[scan - i]));
        }
        // Where both overlap, cut at the best place.
        let overlap = (begin + forward).saturating_sub(scan - backward);
        let (mut score, mut best, mut keep) = (0i64, 0, 0);
        for i in 0..overlap {
            let byte = new[scan - backward + i];
            score += i64::from(old[from + forward - overlap + i] == byte);
            score -= i64::from(old[found_at - backward + i] == byte);
            if score > best {
                (best, keep) = (score, i + 1);
            }
        }
        forward -= overlap - keep;
        backward -= keep;
        if forward >= MIN_MATCH as usize {
            let [new, old, bytes] = [begin, from, forward].map(|n| n as u32);
            matches.push(Match { new, old, bytes });
        }
        begin = scan - backward;
        offset = found_at.wrapping_sub(scan);
    }
    matches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn moved_and_patched_bytes_are_found() {
        let old = bytes(50_000, 1);
        let mut new = [&old[30_000..45_000], &bytes(100, 2), &old[..30_000]].concat();
        for i in (0..new.len()).step_by(40) {
            new[i] ^= 1;
        }
        let found = find(&SeedIndex::new(&old), &new);
        let sum: u32 = found.iter().map(|m| m.bytes).sum();
        assert!(found.len() < 8 && sum > 44_900, "{found:?}");
        assert!(found.windows(2).all(|w| w[0].new + w[0].bytes <= w[1].new));
        assert!(found.iter().all(|m| (m.old + m.bytes) as usize <= old.len()));
    }

    #[test]
    fn nothing_is_found_in_empty_or_uniform_files() {
        assert!(find(&SeedIndex::new(&[]), &bytes(1000, 3)).is_empty());
        assert!(find(&SeedIndex::new(&bytes(1000, 3)), &[]).is_empty());
        assert!(find(&SeedIndex::new(&[0; 4000]), &bytes(1000, 4)).is_empty());
    }
}
