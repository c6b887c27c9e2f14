//! Cuts the sequence into layers.
//!
//! The cost of a set of cuts is the expected number of bytes that clients download again at a release.
//! By digest a layer is downloaded if it changes, by chain ID also if a layer below it changes. Clients
//! of both kinds are common, and a plan for chain IDs alone is poor for digests as soon as the rates are
//! wrong, so the mean of both costs is minimised, by dynamic programming under a cap on the size of a
//! layer.
//!
//! A cut between two components has a small extra cost, from a hash of the second one's name. So the
//! same one of several about equal cuts is chosen from build to build, whatever else changes.

use super::churn::{Chances, Hazard};
use super::sequence::Sequence;
use crate::base::limits::MAX_CUT_BLOCKS;

/// Maximum number of blocks by size; the work grows with its square.
const MOST_BLOCKS: u64 = 768;
/// One in this many names begins a block.
const BEGINS: u64 = 4;
/// Minimum number of blocks per layer, so that layers can have similar sizes.
const BLOCKS_PER_LAYER: u64 = 16;
/// Cost of the worst boundary, in downloads of a mean layer. Found by adding, removing and growing one
/// component in random sets; see the tests.
const UNSTABLE: f64 = 0.10;

/// A run of atoms that is not cut.
struct Block {
    /// Positions in `rest`.
    atoms: std::ops::Range<usize>,
    /// Whether its first atom continues a component of the block before.
    continues: bool,
    /// Cost of a cut before it, 0 to 1.
    roughness: f64,
}

/// A sequence in blocks, with sums over all beginnings.
pub(super) struct Cuts<'a> {
    sequence: &'a Sequence,
    rest: &'a [usize],
    blocks: Vec<Block>,
    /// Bytes before each block, and of all.
    bytes: Vec<u64>,
    /// Components that begin before each block, and all.
    hazards: Vec<Hazard>,
    chances: Chances,
}

impl<'a> Cuts<'a> {
    /// `rest` are positions in the sequence, ascending; `layers` is how many are wanted.
    pub(super) fn new(sequence: &'a Sequence, rest: &'a [usize], layers: usize) -> Self {
        let total: u64 = rest.iter().map(|i| sequence.atoms[*i].estimate).sum();
        let pieces = (BLOCKS_PER_LAYER * layers.max(1) as u64).min(MOST_BLOCKS);
        // To a power of two: a little more or less in all must not move every boundary.
        let mut limit = 1 << (total / pieces).max(1).ilog2();
        let mut blocks = blocks(sequence, rest, limit, BEGINS);
        let mut begins = BEGINS;
        while blocks.len() > MAX_CUT_BLOCKS && begins < 1 << 40 {
            begins *= 2;
            blocks = self::blocks(sequence, rest, limit, begins);
        }
        // Few and large atoms: smaller blocks, so that every layer gets one.
        while blocks.len() < layers.min(rest.len()) {
            limit = if limit > 1 { limit / 2 } else { 0 };
            blocks = self::blocks(sequence, rest, limit, BEGINS);
        }
        let (mut bytes, mut hazards) = (vec![0], vec![Hazard::default()]);
        let (mut sum, mut hazard) = (0, Hazard::default());
        for block in &blocks {
            let mut last = block.continues.then(|| component(sequence, rest, block.atoms.start));
            for at in block.atoms.clone() {
                sum += sequence.atoms[rest[at]].estimate;
                let this = component(sequence, rest, at);
                if last != Some(this) {
                    hazard = hazard.plus(&sequence.components[this].hazard);
                    last = Some(this);
                }
            }
            bytes.push(sum);
            hazards.push(hazard);
        }
        let chances = Chances::new(sequence.components.len() + 1);
        Self { sequence, rest, blocks, bytes, hazards, chances }
    }

    /// Returns the minimum number of layers if none is larger than `cap`, except single blocks.
    pub(super) fn fewest(&self, cap: u64) -> usize {
        let (mut layers, mut start) = (0, 0);
        while start < self.blocks.len() {
            start = self.reach(start, cap);
            layers += 1;
        }
        layers
    }

    /// Returns the smallest cap for which `layers` suffice.
    pub(super) fn smallest_cap(&self, layers: usize) -> u64 {
        let largest = self.bytes.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let (mut low, mut high) = (largest, self.bytes[self.blocks.len()].max(largest));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.fewest(middle) <= layers {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// Returns the first block that no longer fits in a layer beginning at `start`.
    fn reach(&self, start: usize, cap: u64) -> usize {
        let end = self.bytes.partition_point(|b| *b <= self.bytes[start] + cap) - 1;
        end.max(start + 1)
    }

    /// Returns the cut of least cost into `layers`, none larger than `cap` except single blocks. The
    /// groups are lists of positions in the sequence.
    pub(super) fn best(&self, layers: usize, cap: u64) -> Vec<Vec<usize>> {
        let n = self.blocks.len();
        let layers = layers.min(n);
        if layers == 0 {
            return Vec::new();
        }
        let mean = (self.bytes[n] as f64 / layers as f64).max(1.0);
        // cost[end]: the least cost of the blocks before `end` in `k` layers.
        let mut cost = vec![f64::INFINITY; n + 1];
        cost[0] = 0.0;
        let mut begins = vec![vec![0usize; n + 1]; layers];
        let below: Vec<f64> = self.hazards.iter().map(|h| self.chances.of(h)).collect();
        for (k, begin) in begins.iter_mut().enumerate() {
            let mut next = vec![f64::INFINITY; n + 1];
            for (start, before) in cost.iter().enumerate().take(n).skip(k) {
                if before.is_infinite() {
                    continue;
                }
                let rough = if start == 0 { 0.0 } else { self.blocks[start].roughness };
                let so_far = before + UNSTABLE * mean * rough;
                for end in start + 1..=self.reach(start, cap) {
                    let bytes = (self.bytes[end] - self.bytes[start]) as f64;
                    let chance = self.chances.of(&self.hazard(start, end));
                    let total = so_far + bytes * (chance + below[end]) / 2.0;
                    if total < next[end] {
                        next[end] = total;
                        begin[end] = start;
                    }
                }
            }
            cost = next;
        }
        let mut groups = Vec::new();
        let mut end = n;
        for begin in begins.iter().rev() {
            let start = begin[end];
            let atoms = self.blocks[start].atoms.start..self.blocks[end - 1].atoms.end;
            groups.push(self.rest[atoms].to_vec());
            end = start;
            if end == 0 {
                break;
            }
        }
        groups.reverse();
        groups
    }

    fn hazard(&self, start: usize, end: usize) -> Hazard {
        let inside = self.hazards[end].minus(&self.hazards[start]);
        let block = &self.blocks[start];
        if !block.continues {
            return inside;
        }
        let first = component(self.sequence, self.rest, block.atoms.start);
        inside.plus(&self.sequence.components[first].hazard)
    }
}

fn component(sequence: &Sequence, rest: &[usize], at: usize) -> usize {
    sequence.atoms[rest[at]].component
}

/// Divides atoms into blocks of at most `limit` bytes, unless it is one atom. A component larger
/// than that is divided by itself, whatever stands before it; smaller ones are joined up to the
/// limit, beginning anew where the hash of a name says so, at one in `begins`.
fn blocks(sequence: &Sequence, rest: &[usize], limit: u64, begins: u64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut bytes = 0;
    let mut at = 0;
    while at < rest.len() {
        let this = component(sequence, rest, at);
        let mut end = at;
        let mut size = 0;
        while end < rest.len() && component(sequence, rest, end) == this {
            size += sequence.atoms[rest[end]].estimate;
            end += 1;
        }
        let hash = sequence.components[this].hash;
        let small = size <= limit;
        let joins = small && bytes > 0 && bytes + size <= limit && !hash.is_multiple_of(begins);
        if joins {
            if let Some(block) = blocks.last_mut() {
                block.atoms.end = end;
            }
            bytes += size;
        } else {
            let roughness = hash as f64 / u64::MAX as f64;
            let mut start = at;
            let mut filled = 0;
            for (i, atom) in rest.iter().enumerate().take(end).skip(at) {
                let estimate = sequence.atoms[*atom].estimate;
                if i > start && filled + estimate > limit {
                    let continues = start > at;
                    let roughness = if continues { 1.0 } else { roughness };
                    blocks.push(Block { atoms: start..i, continues, roughness });
                    start = i;
                    filled = 0;
                }
                filled += estimate;
            }
            let continues = start > at;
            let roughness = if continues { 1.0 } else { roughness };
            blocks.push(Block { atoms: start..end, continues, roughness });
            bytes = if small { size } else { 0 };
        }
        at = end;
    }
    blocks
}
