//! Which bytes of an old file are like which of a new one.

use super::model::SHORTEST;

/// Bytes of the new file that are much like others of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Match {
    /// Offset in the new file.
    pub(super) new: u32,
    /// Offset in the old file.
    pub(super) old: u32,
    /// How many there are.
    pub(super) bytes: u32,
}

/// Bytes that a match begins with, all equal.
const SEED: usize = 16;
/// The old file is indexed at every so many bytes.
const STRIDE: usize = 4;
/// Candidates that are looked at for a place.
const WAYS: usize = 4;

/// A run is better than going on as before if so many more of its bytes are equal: what a match costs.
const MARGIN: usize = 8;

/// The old file's seeds.
pub(super) struct Index<'a> {
    old: &'a [u8],
    slots: Vec<[u32; WAYS]>,
    shift: u32,
}

fn seed(bytes: &[u8]) -> u64 {
    let n = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let mixed = n(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n(8).rotate_left(29);
    (mixed ^ mixed >> 31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl<'a> Index<'a> {
    /// Indexes a file of less than 4 GiB.
    pub(super) fn new(old: &'a [u8]) -> Self {
        let bits = (old.len() / STRIDE / 3 * 2).max(64).ilog2();
        let mut index = Self { old, slots: vec![[u32::MAX; WAYS]; 1 << bits], shift: 64 - bits };
        for at in (0..old.len().saturating_sub(SEED - 1)).step_by(STRIDE) {
            let window = &old[at..at + SEED];
            if window[..8] == window[8..] {
                continue;
            }
            let slot = &mut index.slots[(seed(window) >> index.shift) as usize];
            // The first ones stay but for the last, which is always the newest.
            let way = slot.iter().position(|s| *s == u32::MAX).unwrap_or(WAYS - 1);
            slot[way] = at as u32;
        }
        index
    }

    /// The longest run that is equal to what is at the front of `new`, and where.
    fn longest(&self, new: &[u8], near: i64, at: usize) -> (usize, usize) {
        let mut best = (0, 0);
        let expected = at as i64 + near;
        if let Ok(expected) = usize::try_from(expected)
            && expected < self.old.len()
        {
            best = (equal(&self.old[expected..], new), expected);
            if best.0 >= 64 {
                return best;
            }
        }
        if best.0 < SEED {
            best.0 = 0;
        }
        if new.len() < SEED || new[..8] == new[8..16] {
            return best;
        }
        for candidate in &self.slots[(seed(&new[..SEED]) >> self.shift) as usize] {
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

/// How many bytes at the front are equal.
fn equal(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    let (mut at, mut rest) = (0, n);
    while rest >= 8 {
        let x = u64::from_le_bytes(a[at..at + 8].try_into().unwrap_or_default());
        let y = u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        if x != y {
            return at + ((x ^ y).trailing_zeros() / 8) as usize;
        }
        at += 8;
        rest -= 8;
    }
    at + a[at..n].iter().zip(&b[at..n]).take_while(|(x, y)| x == y).count()
}

/// Finds matches as bsdiff does: a place that is equal begins one, and it reaches as far to both
/// sides as at least half of the bytes are equal. They come in the new file's order and don't overlap.
pub(super) fn find(index: &Index<'_>, new: &[u8]) -> Vec<Match> {
    let old = index.old;
    let mut matches = Vec::new();
    let (mut scan, mut len, mut pos) = (0usize, 0usize, 0usize);
    let (mut last_scan, mut last_pos) = (0usize, 0usize);
    let mut offset = 0i64;

    let at_offset = |i: usize, offset: i64| {
        usize::try_from(i as i64 + offset).is_ok_and(|o| old.get(o) == Some(&new[i]))
    };
    while scan < new.len() {
        let mut score = 0usize;
        scan += len;
        let mut counted = scan;
        while scan < new.len() {
            (len, pos) = index.longest(&new[scan..], offset, scan);
            while counted < scan + len {
                score += usize::from(at_offset(counted, offset));
                counted += 1;
            }
            if (len == score && len != 0) || len > score + MARGIN {
                break;
            }
            if counted > scan {
                score -= usize::from(at_offset(scan, offset));
            } else {
                counted = scan + 1;
            }
            scan += 1;
            len = 0;
        }
        if len == score && scan < new.len() {
            continue;
        }
        // The last match, as far to the right as is good.
        let (mut forward, mut best, mut same) = (0, 0i64, 0i64);
        for i in 0..(scan - last_scan).min(old.len() - last_pos) {
            same += i64::from(old[last_pos + i] == new[last_scan + i]);
            if same * 2 - (i as i64 + 1) > best {
                (best, forward) = (same * 2 - (i as i64 + 1), i + 1);
            }
        }
        // The next one to the left.
        let mut backward = 0;
        if scan < new.len() {
            let (mut best, mut same) = (0i64, 0i64);
            for i in 1..=(scan - last_scan).min(pos) {
                same += i64::from(old[pos - i] == new[scan - i]);
                if same * 2 - i as i64 > best {
                    (best, backward) = (same * 2 - i as i64, i);
                }
            }
        }
        if last_scan + forward > scan - backward {
            let overlap = last_scan + forward - (scan - backward);
            let (mut best, mut same, mut keep) = (0i64, 0i64, 0);
            for i in 0..overlap {
                let n = scan - backward + i;
                same += i64::from(old[last_pos + forward - overlap + i] == new[n]);
                same -= i64::from(old[pos - backward + i] == new[n]);
                if same > best {
                    (best, keep) = (same, i + 1);
                }
            }
            forward = forward - overlap + keep;
            backward -= keep;
        }
        if forward >= SHORTEST as usize {
            matches.push(Match {
                new: last_scan as u32,
                old: last_pos as u32,
                bytes: forward as u32,
            });
        }
        (last_scan, last_pos) = (scan - backward, pos - backward);
        offset = pos as i64 - scan as i64;
    }
    matches
}
