//! Divides the sequence into layers at places that stay from build to build.
//!
//! Every layer that differs is downloaded again, so a component that changes, grows, appears or goes
//! away should change its own layer and few others. Cuts that are computed from exact sizes all move
//! when anything grows. So decisions are local:
//!
//! 1. The sequence is divided into blocks: the packages of the system, what every build writes, each
//!    large component and each file that is too large for a layer. What remains is the pool: small and
//!    rapid components. The number of layers of a block depends on its own content and on a unit of size
//!    that moves in steps. If there are too few layers, the smallest blocks that need fewer together are
//!    joined.
//! 2. A block is cut in two where the rank of the boundary is highest among the places that leave both
//!    parts balanced and from which neither has to exceed the cap on a layer; then each part in the same
//!    way. The rank comes from names. So a cut depends on the content of its part alone, and what happens
//!    elsewhere doesn't move it.
//! 3. For each layer to spare, one layer is cut in two, mostly of the pool, which changes anyway. A spare
//!    layer more or less leaves the others alone.
//!
//! The constants are those with the smallest updates over sequences of images; see docs/UPDATES.md.

use std::cmp::Reverse;

use super::cutter::{Bounds, Cutter, Group, UNEVEN};
use super::pack::pack;
use super::sequence::Sequence;

/// Components of at least this share of the unit are blocks.
const LARGE: f64 = 0.6;
/// Minimum number of layers for one of them to hold only what every build writes. With fewer, the
/// others could not be balanced.
const LAYERS_FOR_STATE: usize = 4;
/// Steps of the unit per power of two.
const STEPS: u64 = 2;
/// The same for a unit near the mean, where the next of those steps is too large.
const FINE_STEPS: u64 = 8;
/// The same for a unit that doesn't suffice, so that blocks are joined until it does.
const STEPS_TO_FIT: u64 = 4;
/// Blocks are joined for a unit that needs one layer in this many more than there are.
const FEW_JOINS: usize = 25;
/// Room for stable cuts: how much larger than a block of many layers the layers together may be.
const ROOM: f64 = 1.05;
/// The largest layer of the pool is cut for a layer to spare if it is at least this share of the largest.
const POOL_SHARE: f64 = 0.25;
/// Above this multiple of the mean, layers are packed instead of cut contiguously. Few large files
/// leave holes that only small ones can fill.
const PACKED_ABOVE: f64 = 1.35;

/// Divides a sequence into `layers` groups of positions. No group of more than one atom is much larger
/// than `slack` times the mean if possible.
pub(super) fn by_count(sequence: &Sequence, layers: usize, slack: f64) -> Vec<Vec<usize>> {
    let mean = (sequence.total() / layers as u64).max(1);
    let most = (mean as f64 * UNEVEN) as u64;
    let divide = |unit: u64, wanted: u64, room: f64| {
        let cap = wanted as f64 * slack * UNEVEN;
        let bounds = Bounds { limit: unit as f64 * slack, cap: cap as u64, room };
        Division::new(sequence, unit, bounds, layers)
    };
    let mut unit = step_below(mean / 2 + 1, STEPS);
    let mut division = divide(unit, unit, ROOM);
    while division.layers() > layers {
        // Another unit moves most cuts, a join only those of two blocks.
        if division.layers() <= layers + layers / FEW_JOINS && division.join(layers) {
            break;
        }
        let coarse = step_above(unit, STEPS);
        let next = if coarse <= mean { coarse } else { step_above(unit, FINE_STEPS) };
        if next > most {
            division = divide(step_below(most, STEPS_TO_FIT), mean, 1.0);
            division.fit(layers);
            break;
        }
        unit = next;
        division = divide(unit, unit.min(mean), ROOM);
    }
    let groups = division.cut(layers);
    let largest = |groups: &[Vec<usize>]| {
        let several = groups.iter().filter(|group| group.len() > 1);
        several.map(|group| sequence.bytes(group)).max().unwrap_or(0)
    };
    if largest(&groups) as f64 <= mean as f64 * PACKED_ABOVE {
        return groups;
    }
    let giants = giants(sequence, mean as f64 * slack, layers);
    let rest: Vec<usize> =
        (0..sequence.atoms.len()).filter(|i| giants.binary_search(i).is_err()).collect();
    let mut packed = pack(sequence, &rest, layers - giants.len());
    packed.extend(giants.into_iter().map(|giant| vec![giant]));
    if largest(&packed) < largest(&groups) { packed } else { groups }
}

/// Divides a sequence into groups of at most `bytes`, except single atoms: about as few as possible, and
/// no more than `most`.
pub(super) fn by_size(sequence: &Sequence, bytes: u64, most: usize) -> Vec<Vec<usize>> {
    let mut unit = bytes;
    loop {
        let bounds = Bounds { limit: unit as f64, cap: unit, room: ROOM };
        let division = Division::new(sequence, unit, bounds, most);
        let layers = division.layers();
        if layers <= most || unit > sequence.total() {
            return division.cut(layers.min(most));
        }
        unit = step_above(unit, STEPS);
    }
}

/// Returns the next larger size of a scale with this many steps per power of two.
fn step_above(size: u64, steps: u64) -> u64 {
    let step = step(size, steps);
    (size / step + 1) * step
}

/// Returns the largest size of that scale that is not above this one.
fn step_below(size: u64, steps: u64) -> u64 {
    let step = step(size, steps);
    size / step * step
}

fn step(size: u64, steps: u64) -> u64 {
    ((1u64 << size.max(1).ilog2()) / steps).max(1)
}

/// Returns the atoms larger than `limit`, ascending: the largest ones, so that a layer is left for others.
fn giants(sequence: &Sequence, limit: f64, layers: usize) -> Vec<usize> {
    let size = |i: &usize| sequence.atoms[*i].estimate;
    let mut giants: Vec<usize> =
        (0..sequence.atoms.len()).filter(|i| size(i) as f64 > limit).collect();
    giants.sort_by_key(|i| (Reverse(size(i)), *i));
    giants.truncate(layers - 1);
    giants.sort_unstable();
    giants
}

/// Kinds of blocks, in the order in which they join the pool if there are too few layers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Component,
    State,
    System,
    /// One file, which can't be divided.
    Giant,
}

/// Atoms that become layers independently of all others.
struct Block {
    kind: Kind,
    /// Positions in the sequence, ascending.
    atoms: Vec<usize>,
    bytes: u64,
    layers: usize,
}

/// The division of a sequence for one unit.
struct Division<'a> {
    sequence: &'a Sequence,
    blocks: Vec<Block>,
    /// Everything else.
    pool: Block,
    bounds: Bounds,
}

impl<'a> Division<'a> {
    /// Divides into blocks for `layers` layers.
    fn new(sequence: &'a Sequence, unit: u64, bounds: Bounds, layers: usize) -> Self {
        let limit = bounds.limit;
        let pool = Block { kind: Kind::Component, atoms: Vec::new(), bytes: 0, layers: 0 };
        let mut division = Self { sequence, blocks: Vec::new(), pool, bounds };
        let giants = giants(sequence, limit, layers);
        let large = unit as f64 * LARGE;
        let (mut system, mut state) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < sequence.atoms.len() {
            let component = sequence.atoms[at].component;
            let rest = &sequence.atoms[at..];
            let end = at + rest.partition_point(|atom| atom.component == component);
            let atoms: Vec<usize> =
                (at..end).filter(|i| giants.binary_search(i).is_err()).collect();
            let part = &sequence.components[component];
            if part.is_system() {
                system.extend(atoms);
            } else if part.is_state() {
                state.extend(atoms);
            } else if sequence.bytes(&atoms) as f64 >= large && !part.is_rapid() {
                division.add(Kind::Component, atoms);
            } else {
                division.pool.atoms.extend(atoms);
            }
            at = end;
        }
        if layers >= LAYERS_FOR_STATE && sequence.bytes(&state) as f64 <= limit {
            division.add(Kind::State, state);
        } else {
            division.pool.atoms.extend(state);
        }
        if sequence.bytes(&system) as f64 >= large {
            division.add(Kind::System, system);
        } else {
            division.pool.atoms.extend(system);
        }
        for giant in giants {
            division.add(Kind::Giant, vec![giant]);
        }
        division.count_pool();
        division
    }

    /// Adds a block, unless it is empty.
    fn add(&mut self, kind: Kind, atoms: Vec<usize>) {
        if !atoms.is_empty() {
            let (bytes, layers) = (self.sequence.bytes(&atoms), self.layers_for(&atoms));
            self.blocks.push(Block { kind, atoms, bytes, layers });
        }
    }

    fn count_pool(&mut self) {
        self.pool.atoms.sort_unstable();
        self.pool.bytes = self.sequence.bytes(&self.pool.atoms);
        self.pool.layers = self.layers_for(&self.pool.atoms);
    }

    /// Returns the number of layers that this many bytes in small files need.
    fn layers_for_bytes(&self, bytes: u64) -> usize {
        let Bounds { limit, room, .. } = self.bounds;
        let mut layers = ((bytes as f64 / limit) as usize).max(1);
        // The more layers there are, the more room all of them together need.
        let room = |layers: usize| room - (room - 1.0) / layers as f64;
        while bytes as f64 * room(layers) > limit * layers as f64 {
            layers += 1;
        }
        layers
    }

    /// Returns the number of layers that atoms need.
    fn layers_for(&self, atoms: &[usize]) -> usize {
        // Large atoms can't always fill them.
        let (mut fewest, mut bytes) = (usize::from(!atoms.is_empty()), 0);
        for at in atoms {
            let size = self.sequence.atoms[*at].estimate;
            if bytes > 0 && bytes + size > self.bounds.cap {
                fewest += 1;
                bytes = 0;
            }
            bytes += size;
        }
        self.layers_for_bytes(self.sequence.bytes(atoms)).max(fewest).min(atoms.len())
    }

    /// Returns the number of layers that all of it needs.
    fn layers(&self) -> usize {
        self.blocks.iter().map(|b| b.layers).sum::<usize>() + self.pool.layers
    }

    /// Joins blocks with each other and with the pool until `layers` suffice, then moves whole blocks into
    /// the pool.
    fn fit(&mut self, layers: usize) {
        while !self.join(layers) && self.pool_emptiest() {}
    }

    /// Joins blocks with each other and with the pool until `layers` suffice. Returns whether they do.
    fn join(&mut self, layers: usize) -> bool {
        while self.layers() > layers {
            if !self.join_smallest() {
                return false;
            }
        }
        true
    }

    /// Joins two components' blocks that are neighbours, or a block and the pool: the pair with the fewest
    /// bytes that needs fewer layers together. Returns whether there is one.
    fn join_smallest(&mut self) -> bool {
        let blocks = &self.blocks;
        let mut order: Vec<usize> =
            (0..blocks.len()).filter(|i| blocks[*i].kind < Kind::System).collect();
        order.sort_by_key(|i| blocks[*i].atoms.first());
        let pairs = order.windows(2).map(|pair| (pair[0], Some(pair[1])));
        let with_pool = order.iter().map(|i| (*i, None));
        let other = |other: &Option<usize>| other.map_or(&self.pool, |i| &blocks[i]);
        let mut candidates: Vec<(usize, Option<usize>)> = pairs
            .filter(|(one, two)| blocks[*one].kind == other(two).kind)
            .chain(with_pool)
            .collect();
        candidates.sort_by_key(|(one, two)| blocks[*one].bytes + other(two).bytes);
        let found = candidates.into_iter().find_map(|(one, two)| {
            let (block, other) = (&blocks[one], other(&two));
            let apart = block.layers + other.layers;
            if self.layers_for_bytes(block.bytes + other.bytes) >= apart {
                return None;
            }
            let mut atoms = [&block.atoms[..], &other.atoms].concat();
            atoms.sort_unstable();
            (self.layers_for(&atoms) < apart).then_some((one, two, atoms))
        });
        match found {
            None => return false,
            Some((one, None, atoms)) => {
                self.blocks.remove(one);
                self.pool.atoms = atoms;
                self.count_pool();
            }
            Some((one, Some(two), atoms)) => {
                self.blocks.remove(one.max(two));
                self.blocks.remove(one.min(two));
                self.add(Kind::Component, atoms);
            }
        }
        true
    }

    /// Moves the block with the emptiest layers into the pool. Returns whether there is one.
    fn pool_emptiest(&mut self) -> bool {
        let candidates = (0..self.blocks.len()).filter(|i| self.blocks[*i].kind < Kind::Giant);
        let order = |i: &usize| {
            let block = &self.blocks[*i];
            // Bits of numbers that are not negative are in their order.
            (block.kind, (block.bytes as f64 / block.layers as f64).to_bits(), *i)
        };
        let Some(emptiest) = candidates.min_by_key(order) else { return false };
        let block = self.blocks.remove(emptiest);
        self.pool.atoms.extend(block.atoms);
        self.count_pool();
        true
    }

    /// Cuts all blocks and the pool into `layers` groups.
    fn cut(mut self, layers: usize) -> Vec<Vec<usize>> {
        let used: usize = self.blocks.iter().map(|b| b.layers).sum();
        self.pool.layers = self.pool.layers.min(layers.saturating_sub(used));
        let cut = |atoms: &[usize], layers: usize, groups: &mut Vec<Group>| {
            Cutter::new(self.sequence, atoms, layers, self.bounds).cut(groups);
        };
        let (mut groups, mut of_pool) = (Vec::new(), Vec::new());
        self.blocks.iter().for_each(|block| cut(&block.atoms, block.layers, &mut groups));
        if !self.pool.atoms.is_empty() {
            cut(&self.pool.atoms, self.pool.layers, &mut of_pool);
        }
        while groups.len() + of_pool.len() < layers {
            let (block, pool) = (largest(&groups), largest(&of_pool));
            let bytes =
                |largest: Option<(u64, usize)>| largest.map_or(-1.0, |(bytes, _)| bytes as f64);
            let (from, largest) = if bytes(pool) >= POOL_SHARE * bytes(block) {
                (&mut of_pool, pool)
            } else {
                (&mut groups, block)
            };
            let Some((_, at)) = largest else { break };
            let whole = from.remove(at);
            cut(&whole.atoms, 2, from);
        }
        groups.into_iter().chain(of_pool).map(|group| group.atoms).collect()
    }
}

/// Returns the bytes and the position of the largest group that can be cut.
fn largest(groups: &[Group]) -> Option<(u64, usize)> {
    let several = groups.iter().enumerate().filter(|(_, group)| group.atoms.len() > 1);
    several.map(|(at, group)| (group.bytes, at)).max()
}
