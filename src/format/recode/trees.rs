//! Builds block headers from token counts as encoders do: zlib (also GNU gzip and pigz), and Go's
//! `compress/flate` (also klauspost/compress).

use super::deflate::{END, Header, Histogram, Lengths, ORDER};

/// The encoder whose builder is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Builder {
    Zlib,
    Go,
}

/// Numbers of literal and distance symbols that get codes.
const USED: (usize, usize) = (286, 30);

/// Returns the code lengths of a block. `all` keeps those of unused symbols at the end, as
/// klauspost/compress does for a code that it may reuse.
pub(super) fn lengths(builder: Builder, counts: &Histogram, all: bool) -> Lengths {
    let (literals, distances) = (&counts.literals[..USED.0], &counts.distances[..USED.1]);
    let mut lengths = match builder {
        Builder::Zlib => Lengths { literals: zlib(literals, 15), distances: zlib(distances, 15) },
        Builder::Go => Lengths { literals: go(literals, 15), distances: go(distances, 15) },
    };
    if !all {
        let used = |lengths: &[u8]| lengths.iter().rposition(|l| *l > 0).map_or(0, |i| i + 1);
        let count = used(&lengths.literals).max(END + 1);
        lengths.literals.truncate(count);
        let count = used(&lengths.distances);
        lengths.distances.truncate(count);
        if count == 0 {
            lengths.distances.push(1);
        }
    }
    lengths
}

/// Returns the header for `lengths`.
pub(super) fn header(builder: Builder, lengths: Lengths) -> Header {
    let runs = runs(builder, &lengths);
    let (run_lengths, run_count) = run_lengths(builder, &runs);
    Header { lengths, runs, run_lengths, run_count }
}

/// Returns how `lengths` are written: symbols with the values of their extra bits.
pub(super) fn runs(builder: Builder, lengths: &Lengths) -> Vec<(u8, u8)> {
    match builder {
        Builder::Zlib => {
            let mut runs = zlib_runs(&lengths.literals);
            runs.extend(zlib_runs(&lengths.distances));
            runs
        }
        Builder::Go => go_runs(&[&lengths.literals[..], &lengths.distances].concat()),
    }
}

/// Returns the code lengths of the symbols in `runs`, and how many of them are written.
pub(super) fn run_lengths(builder: Builder, runs: &[(u8, u8)]) -> ([u8; 19], u8) {
    let mut counts = [0; 19];
    for (symbol, _) in runs {
        counts[usize::from(*symbol)] += 1;
    }
    let lengths = match builder {
        Builder::Zlib => zlib(&counts, 7),
        Builder::Go => go(&counts, 7),
    };
    let mut run_lengths = [0; 19];
    run_lengths.copy_from_slice(&lengths);
    let count = ORDER.iter().rposition(|s| run_lengths[*s] > 0).map_or(0, |i| i + 1);
    (run_lengths, count.max(4) as u8)
}

/// Package-merge: the best code whose longest word has `max` bits.
fn go(counts: &[u32], max: usize) -> Vec<u8> {
    let mut lengths = vec![0; counts.len()];
    let mut leaves: Vec<(u32, usize)> =
        counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(s, n)| (*n, s)).collect();
    if leaves.len() <= 2 {
        for (_, symbol) in leaves {
            lengths[symbol] = 1;
        }
        return lengths;
    }
    leaves.sort_unstable();
    let levels = max.min(leaves.len() - 1);
    // For each level the weights in order, each with whether it is a leaf. A level has all leaves, and
    // the pairs of the level before; of equal weights the pair comes first.
    let mut rows: Vec<Vec<(u32, bool)>> = Vec::with_capacity(levels);
    for level in 0..levels {
        let pairs = match level {
            0 => Vec::new(),
            _ => rows[level - 1].chunks_exact(2).map(|p| p[0].0 + p[1].0).collect(),
        };
        let mut pairs = pairs.into_iter().peekable();
        let mut row = Vec::with_capacity(2 * leaves.len());
        for (count, _) in &leaves {
            while let Some(pair) = pairs.next_if(|pair| pair <= count) {
                row.push((pair, false));
            }
            row.push((*count, true));
        }
        row.extend(pairs.map(|pair| (pair, false)));
        rows.push(row);
    }
    let mut items = 2 * leaves.len() - 2;
    for row in rows.iter().rev() {
        let used = row[..items].iter().filter(|(_, leaf)| *leaf).count();
        for (_, symbol) in &leaves[..used] {
            lengths[*symbol] += 1;
        }
        items = 2 * (items - used);
    }
    lengths
}

fn go_runs(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut runs = Vec::new();
    for same in lengths.chunk_by(|a, b| a == b) {
        let (len, mut count) = (same[0], same.len());
        if len == 0 {
            while count >= 11 {
                let n = count.min(138);
                runs.push((18, (n - 11) as u8));
                count -= n;
            }
            if count >= 3 {
                runs.push((17, (count - 3) as u8));
                count = 0;
            }
        } else {
            runs.push((len, 0));
            count -= 1;
            while count >= 3 {
                let n = count.min(6);
                runs.push((16, (n - 3) as u8));
                count -= n;
            }
        }
        runs.extend(std::iter::repeat_n((len, 0), count));
    }
    runs
}

fn zlib_runs(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut runs = Vec::new();
    let (mut previous, mut count) = (None, 0);
    let (mut max, mut min) = if lengths[0] == 0 { (138, 3) } else { (7, 4) };
    for (i, len) in lengths.iter().enumerate() {
        let next = lengths.get(i + 1);
        count += 1;
        if count < max && next == Some(len) {
            continue;
        }
        if count < min {
            runs.extend(std::iter::repeat_n((*len, 0), count));
        } else if *len > 0 {
            if previous != Some(*len) {
                runs.push((*len, 0));
                count -= 1;
            }
            runs.push((16, (count - 3) as u8));
        } else if count <= 10 {
            runs.push((17, (count - 3) as u8));
        } else {
            runs.push((18, (count - 11) as u8));
        }
        count = 0;
        previous = Some(*len);
        (max, min) = match next {
            Some(0) => (138, 3),
            Some(next) if next == len => (6, 3),
            _ => (7, 4),
        };
    }
    runs
}

/// Huffman's algorithm on a heap in which the shallower tree comes first of equal weights. Words that
/// are too long are shortened afterwards.
fn zlib(counts: &[u32], max: usize) -> Vec<u8> {
    let symbols = counts.len();
    let mut weights = counts.to_vec();
    let mut heap: Vec<usize> = vec![0];
    heap.extend((0..symbols).filter(|s| counts[*s] > 0));
    // At least two symbols get codes.
    let mut next = heap.last().map_or(0, |s| if heap.len() > 1 { s + 1 } else { 0 });
    while heap.len() < 3 {
        let forced = if next < 3 { next } else { 0 };
        next += 1;
        weights[forced] = 1;
        heap.push(forced);
    }
    let mut depths = vec![0u32; symbols];
    for k in (1..=(heap.len() - 1) / 2).rev() {
        sift(&mut heap, k, &weights, &depths);
    }
    // Nodes in the order in which they are removed, the root last.
    let mut order = Vec::with_capacity(2 * symbols);
    let mut parents = vec![0; symbols];
    while heap.len() > 2 {
        let first = heap.swap_remove(1);
        sift(&mut heap, 1, &weights, &depths);
        let second = heap[1];
        order.extend([first, second]);
        let node = weights.len();
        weights.push(weights[first] + weights[second]);
        depths.push(depths[first].max(depths[second]) + 1);
        parents.push(0);
        (parents[first], parents[second]) = (node, node);
        heap[1] = node;
        sift(&mut heap, 1, &weights, &depths);
    }
    order.push(heap[1]);

    let mut bits = vec![0; weights.len()];
    let mut per_length = vec![0usize; max + 1];
    let mut too_long = 0;
    for node in order.iter().rev().skip(1) {
        let len = bits[parents[*node]] + 1;
        bits[*node] = len.min(max);
        too_long += usize::from(len > max);
        if *node < symbols {
            per_length[len.min(max)] += 1;
        }
    }
    for _ in 0..too_long.div_ceil(2) {
        let mut len = max - 1;
        while per_length[len] == 0 {
            len -= 1;
        }
        per_length[len] -= 1;
        per_length[len + 1] += 2;
        per_length[max] -= 1;
    }
    if too_long > 0 {
        let mut leaves = order.iter().filter(|node| **node < symbols);
        for len in (1..=max).rev() {
            for node in leaves.by_ref().take(per_length[len]) {
                bits[*node] = len;
            }
        }
    }
    (0..symbols).map(|s| if weights[s] > 0 { bits[s] as u8 } else { 0 }).collect()
}

/// Restores the order of a heap, whose first element is at 1, below `k`.
fn sift(heap: &mut [usize], mut k: usize, weights: &[u32], depths: &[u32]) {
    let before = |a: usize, b: usize| (weights[a], depths[a]) <= (weights[b], depths[b]);
    let Some(moved) = heap.get(k).copied() else { return };
    let mut child = 2 * k;
    while child < heap.len() {
        if child + 1 < heap.len() && before(heap[child + 1], heap[child]) {
            child += 1;
        }
        if before(moved, heap[child]) {
            break;
        }
        heap[k] = heap[child];
        k = child;
        child *= 2;
    }
    heap[k] = moved;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_complete_and_no_longer_than_allowed() {
        let fibonacci: Vec<u32> =
            (0..24).scan((1, 1), |s, _| Some(std::mem::replace(s, (s.1, s.0 + s.1)).0)).collect();
        for build in [go, zlib] {
            for max in [7, 15] {
                let lengths = build(&fibonacci[..19], max);
                let sum: usize = lengths.iter().map(|len| 1 << (max - usize::from(*len))).sum();
                assert_eq!(sum, 1 << max);
            }
            assert_eq!(build(&[5, 0, 1], 15), [1, 0, 1]);
        }
        assert_eq!(zlib(&[0, 0, 0, 7], 15), [1, 0, 0, 1]);
        assert_eq!(zlib(&[0, 0, 0], 15), [1, 1, 0]);
        assert_eq!(go(&[0, 0, 0, 7], 15), [0, 0, 0, 1]);
    }

    #[test]
    fn runs_are_split_as_their_encoder_splits_them() {
        let lengths = [&[4; 9][..], &[0; 150]].concat();
        assert_eq!(go_runs(&lengths), [(4, 0), (16, 3), (4, 0), (4, 0), (18, 127), (18, 1)]);
        assert_eq!(zlib_runs(&lengths), [(4, 0), (16, 3), (4, 0), (4, 0), (18, 127), (18, 1)]);
    }
}
