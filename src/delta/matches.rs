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
/// Bytes of a new file that are searched at a time. It affects the patch.
pub(super) const SEARCHED: u64 = 16 << 20;
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

/// A hash index of the old file. It takes about as much memory as the file.
pub(super) struct SeedIndex<'a> {
    old: &'a [u8],
    /// Offsets in the old file, those with the same hash together.
    offsets: Vec<u32>,
    /// For each [`GROUP`] hashes where their offsets begin, and in the upper half how many each has, in
    /// four bits. Most hashes have fewer offsets than [`WAYS`], so fixed places would take twice as much.
    groups: Vec<u64>,
    shift: u32,
}

/// Number of hashes that share an entry of the table.
const GROUP: usize = 8;

/// Hashes the first [`SEED`] bytes.
fn hash(bytes: &[u8]) -> u64 {
    let n = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let mixed = n(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n(8).rotate_left(29);
    (mixed ^ mixed >> 31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl<'a> SeedIndex<'a> {
    /// Indexes a file of less than 4 GiB.
    pub(super) fn new(old: &'a [u8]) -> Self {
        let bits = Self::bits(old.len());
        let groups = vec![0; (1 << bits) / GROUP];
        let mut index = Self { old, offsets: Vec::new(), groups, shift: 64 - bits };
        index.count();
        let mut sum = 0;
        for group in &mut index.groups {
            let counts = *group >> 32;
            *group = counts << 32 | sum;
            sum += sum_of(counts as u32);
        }
        index.offsets = vec![u32::MAX; sum as usize];
        for at in seeds(old) {
            let places = index.places(hash(&old[at..at + SEED]));
            let places = &mut index.offsets[places];
            // The first offsets stay; the last place is always overwritten with the newest.
            let way = places.iter().position(|s| *s == u32::MAX).unwrap_or(WAYS - 1);
            places[way] = at as u32;
        }
        index
    }

    /// Returns how many bytes an index of a file of `old` bytes takes, without the file, at most.
    pub(super) fn memory(old: u64) -> u64 {
        (old / STRIDE as u64) * size_of::<u32>() as u64 + (1 << Self::bits(old as usize))
    }

    /// Log2 of the number of hashes.
    fn bits(old: usize) -> u32 {
        (old / STRIDE / 3 * 2).max(64).ilog2()
    }

    /// Counts the offsets of each hash, up to [`WAYS`].
    fn count(&mut self) {
        for at in seeds(self.old) {
            let hash = (hash(&self.old[at..at + SEED]) >> self.shift) as usize;
            let (group, shift) = (&mut self.groups[hash / GROUP], 32 + hash % GROUP * 4);
            if (*group >> shift & 0xf) < WAYS as u64 {
                *group += 1 << shift;
            }
        }
    }

    /// Returns the places of the offsets of a hash.
    #[inline]
    fn places(&self, hash: u64) -> std::ops::Range<usize> {
        let hash = (hash >> self.shift) as usize;
        let (group, shift) = (self.groups[hash / GROUP], hash % GROUP * 4);
        let counts = (group >> 32) as u32;
        let start = (group & u64::from(u32::MAX)) + sum_of(counts & ((1 << shift) - 1));
        start as usize..start as usize + (counts >> shift & 0xf) as usize
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
        for candidate in &self.offsets[self.places(hash(&new[..SEED]))] {
            let from = *candidate as usize;
            let n = equal(&self.old[from..], new);
            if n >= SEED && n > best.0 {
                best = (n, from);
            }
        }
        best
    }
}

/// Returns the offsets of a file that are indexed.
fn seeds(old: &[u8]) -> impl Iterator<Item = usize> {
    let all = (0..old.len().saturating_sub(SEED - 1)).step_by(STRIDE);
    all.filter(|at| old[*at..at + 8] != old[at + 8..at + SEED])
}

/// Returns the sum of eight numbers of four bits.
#[inline]
fn sum_of(counts: u32) -> u64 {
    let pairs = (counts & 0x0f0f_0f0f) + (counts >> 4 & 0x0f0f_0f0f);
    u64::from(pairs.wrapping_mul(0x0101_0101) >> 24)
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

/// Collects the matches of a new file, which is searched in pieces from front to back.
#[derive(Default)]
pub(super) struct Matches {
    found: Vec<Match>,
    /// Bytes that were searched.
    searched: u32,
    /// The distance from the new to the old offset of the last match.
    offset: usize,
}

impl Matches {
    /// Finds those of the next piece, in which a match may go on.
    pub(super) fn find(&mut self, index: &SeedIndex<'_>, piece: &[u8]) {
        let start = self.searched as usize;
        // Where the last match would go on in the old file, if it does.
        let expected = start.wrapping_add(self.offset);
        let begin = if expected <= index.old.len() { expected } else { 0 };
        let (found, offset) = find(index, piece, begin);
        for m in found {
            let m = Match { new: m.new + self.searched, ..m };
            match self.found.last_mut() {
                Some(last) if (last.new + last.bytes, last.old + last.bytes) == (m.new, m.old) => {
                    last.bytes += m.bytes;
                }
                _ => self.found.push(m),
            }
        }
        self.offset = offset.wrapping_sub(start);
        self.searched += piece.len() as u32;
    }

    /// Returns all matches, in the order of the new file.
    pub(super) fn finish(self) -> Vec<Match> {
        self.found
    }
}

/// Finds matches as bsdiff does: each begins with an equal run, and is extended to both sides over
/// bytes that are mostly equal. They are in the order of the new file and do not overlap. The search
/// begins at `offset` in the old file. Also returns the distance to the old offset at the end.
fn find(index: &SeedIndex<'_>, new: &[u8], offset: usize) -> (Vec<Match>, usize) {
    let old = index.old;
    let mut matches = Vec::new();
    // The current match: where it begins, and the distance from there to the old offset.
    let (mut begin, mut offset) = (0usize, offset);
    let (mut scan, mut run, mut found_at) = (0, 0, 0);
    let mut last = offset;
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
        last = offset;
        begin = scan - backward;
        offset = found_at.wrapping_sub(scan);
    }
    (matches, last)
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

    fn matches(old: &[u8], new: &[u8]) -> Vec<Match> {
        find(&SeedIndex::new(old), new, 0).0
    }

    #[test]
    fn the_index_has_the_first_offsets_of_each_hash_and_the_last_one() {
        // Of few words, so that many seeds are equal.
        let words: Vec<Vec<u8>> = (0..40).map(|i| bytes(4, i)).collect();
        let old: Vec<u8> =
            bytes(30_000, 9).iter().flat_map(|b| words[*b as usize % 40].clone()).collect();
        for old in [&old[..], &old[..77], &bytes(50_000, 2), &[]] {
            let index = SeedIndex::new(old);
            let mut want = std::collections::BTreeMap::<u64, Vec<u32>>::new();
            for at in seeds(old) {
                let slot = want.entry(hash(&old[at..]) >> index.shift).or_default();
                slot.truncate(WAYS - 1);
                slot.push(at as u32);
            }
            for hash in 0..1u64 << (64 - index.shift) {
                let got = &index.offsets[index.places(hash << index.shift)];
                assert_eq!(got, want.get(&hash).map_or(&[][..], |list| list));
            }
            let bytes = index.offsets.len() * 4 + index.groups.len() * 8;
            assert!(bytes as u64 <= SeedIndex::memory(old.len() as u64));
        }
    }

    #[test]
    fn a_match_goes_on_in_the_next_piece() {
        let old = bytes(50_000, 1);
        let new = [&bytes(777, 5), &old[10_000..45_000], &bytes(100, 2), &old[..9_000]].concat();
        let index = SeedIndex::new(&old);
        for piece in [10_000, 16_384, 40_000] {
            let mut all = Matches::default();
            new.chunks(piece).for_each(|piece| all.find(&index, piece));
            assert_eq!(all.finish(), matches(&old, &new), "{piece}");
        }
    }

    #[test]
    fn moved_and_patched_bytes_are_found() {
        let old = bytes(50_000, 1);
        let mut new = [&old[30_000..45_000], &bytes(100, 2), &old[..30_000]].concat();
        for i in (0..new.len()).step_by(40) {
            new[i] ^= 1;
        }
        let found = matches(&old, &new);
        let sum: u32 = found.iter().map(|m| m.bytes).sum();
        assert!(found.len() < 8 && sum > 44_900, "{found:?}");
        assert!(found.windows(2).all(|w| w[0].new + w[0].bytes <= w[1].new));
        assert!(found.iter().all(|m| (m.old + m.bytes) as usize <= old.len()));
    }

    #[test]
    fn nothing_is_found_in_empty_or_uniform_files() {
        assert!(matches(&[], &bytes(1000, 3)).is_empty());
        assert!(matches(&bytes(1000, 3), &[]).is_empty());
        assert!(matches(&[0; 4000], &bytes(1000, 4)).is_empty());
    }
}
