//! Cuts one block of the sequence into its layers: at the boundaries with the highest ranks that leave the
//! parts balanced.

use super::sequence::{Sequence, is_between};

/// How much larger than the mean of a part its halves may be on average, and the unit than the mean of all.
/// The cap on a layer exceeds the wanted size by as much.
pub(super) const UNEVEN: f64 = 1.08;

/// How much larger, as a share of the mean, the larger of two layers may be if no component is cut for it.
const WHOLE: f64 = 0.2;

/// Bounds on the layers of a division.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// The wanted maximum size of a layer, in bytes.
    pub(super) limit: f64,
    /// The maximum size of a layer, in bytes, unless the block can't be cut into such layers.
    pub(super) cap: u64,
    /// How much larger than a block of many layers the layers together may be.
    pub(super) room: f64,
}

/// The atoms of one layer.
pub(super) struct Group {
    /// Estimated compressed bytes.
    pub(super) bytes: u64,
    /// Positions in the sequence, ascending.
    pub(super) atoms: Vec<usize>,
}

/// Cuts one block into its layers.
pub(super) struct Cutter<'a> {
    atoms: &'a [usize],
    layers: usize,
    /// Bytes before each atom, and of all.
    bytes: Vec<u64>,
    /// Rank of a cut before each atom.
    ranks: Vec<u64>,
    bounds: Bounds,
}

impl<'a> Cutter<'a> {
    /// Prepares to cut these positions of the sequence into `layers` layers.
    pub(super) fn new(
        sequence: &Sequence,
        atoms: &'a [usize],
        layers: usize,
        bounds: Bounds,
    ) -> Self {
        let mut bytes = vec![0];
        let mut sum = 0;
        for at in atoms {
            sum += sequence.atoms[*at].estimate;
            bytes.push(sum);
        }
        let mut ranks = vec![0];
        ranks.extend(atoms.windows(2).map(|pair| sequence.rank(pair[0], pair[1])));
        Self { atoms, layers: layers.max(1), bytes, ranks, bounds }
    }

    /// Adds the layers, from the lowest on.
    pub(super) fn cut(&self, groups: &mut Vec<Group>) {
        let all = self.atoms.len();
        let cap = self.cap();
        let mut start = 0;
        let mut parts = vec![(0, all, self.layers)];
        while let Some((from, end, layers)) = parts.pop() {
            if let Some((at, lower)) = self.best(from, end, layers, cap) {
                parts.push((at, end, layers - lower));
                parts.push((from, at, lower));
            } else {
                let bytes = self.bytes[end] - self.bytes[start];
                groups.push(Group { bytes, atoms: self.atoms[start..end].to_vec() });
                start = end;
            }
        }
    }

    /// Returns the smallest cap that is not below the wanted one and for which the layers suffice.
    fn cap(&self) -> u64 {
        let all = self.atoms.len();
        let suffices = |cap: u64| self.needed(0..all, cap).last().is_none_or(|n| n <= self.layers);
        let mut low = self.bounds.cap;
        let mut high = if suffices(low) { low } else { self.bytes[all] };
        while low < high {
            let middle = low + (high - low) / 2;
            if suffices(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Returns where to cut a part in two, and the number of layers of the lower one; `None` if it is one
    /// layer.
    fn best(&self, start: usize, end: usize, layers: usize, cap: u64) -> Option<(usize, usize)> {
        if layers <= 1 || end - start <= 1 {
            return None;
        }
        let mean = (self.bytes[end] - self.bytes[start]).max(1) as f64 / layers as f64;
        let below_needs: Vec<usize> = self.needed(start..end, cap).collect();
        let above_needs: Vec<usize> = self.needed((start..end).rev(), cap).collect();
        // Whether a layer must exceed the cap, the least excess over what is allowed, the highest rank.
        let mut best: Option<(bool, f64, u64, usize, usize)> = None;
        for at in start + 1..end {
            let below = (self.bytes[at] - self.bytes[start]) as f64;
            let above = (self.bytes[end] - self.bytes[at]) as f64;
            let few = (below / mean) as usize;
            let fewest = below_needs[at - start - 1];
            let most = layers.saturating_sub(above_needs[end - at - 1]);
            for lower in [few, few + 1, fewest.max(few), most.min(few)] {
                let upper = layers.saturating_sub(lower);
                if lower == 0 || upper == 0 || lower > at - start || upper > end - at {
                    continue;
                }
                let exceeds = lower < fewest || lower > most;
                let rank = self.ranks[at];
                let allowance = if layers == 2 && is_between(rank) { mean * WHOLE } else { 0.0 };
                let worst = (below / lower as f64).max(above / upper as f64) - allowance;
                let worst = worst.max(mean * UNEVEN);
                let is_better = best.is_none_or(|(exceeded, least, highest, ..)| {
                    exceeds
                        .cmp(&exceeded)
                        .then(worst.total_cmp(&least))
                        .then(highest.cmp(&rank))
                        .is_lt()
                });
                if is_better {
                    best = Some((exceeds, worst, rank, at, lower));
                }
            }
        }
        best.map(|(.., at, lower)| (at, lower))
    }

    /// Returns the fewest layers of at most `cap` bytes that the first atom of some needs, the first two,
    /// and so on. A larger atom is a layer of its own.
    fn needed(&self, atoms: impl Iterator<Item = usize>, cap: u64) -> impl Iterator<Item = usize> {
        let (mut layers, mut bytes) = (0, 0);
        atoms.map(move |at| {
            let size = self.bytes[at + 1] - self.bytes[at];
            if layers == 0 || bytes + size > cap {
                layers += 1;
                bytes = 0;
            }
            bytes += size;
            layers
        })
    }
}
