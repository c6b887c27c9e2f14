//! Planning: which path goes in which layer, and in which order. A pure function of data.
//!
//! Given a file set, its components and the expected compressed size of each file, the planner
//! 1. puts all files in a sequence: stable and large ones first, volatile and small ones last;
//! 2. cuts the sequence into layers of similar size, so that clients have to download few bytes again;
//! 3. lists the entries of each layer, with their parent directories.
//!
//! Layers are listed lowest first, because clients with chain IDs download everything above the first
//! layer that changed.
//!
//! Imports `base`, `model`, `format`, `layers` and `simulate`. To know: [`analyze::Analysis`], the
//! component of each inode; [`Plan`] of [`plan()`]; [`update::Update`] of [`update::update`], the plan on
//! top of a previous image.

pub mod analyze;
mod churn;
mod cuts;
mod expect;
pub mod history;
mod label;
mod pack;
mod place;
pub mod recorded_times;
mod sequence;
mod shape;
pub mod update;

pub use churn::chance_of_change;
pub use expect::{NextRelease, UpdateBytes, next_release, stamped_layers};
pub(crate) use shape::{HEADER, stored};

use serde::Serialize;

use crate::layers::encode;
use crate::model::fileset::FileSet;
use crate::plan::analyze::{ComponentId, Inventory};
use crate::simulate::{CompressionKind, Profile};
use sequence::Sequence;

/// dockerd refuses more layers than this (moby, `layer/layer_store.go`: maxLayerDepth).
pub const MAX_LAYERS: u32 = 125;

/// The wanted number or size of layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// This number of layers, 1 to [`MAX_LAYERS`]; fewer if there are fewer files.
    Layers(u32),
    /// As few layers as possible of at most this many estimated compressed bytes each; a larger file
    /// gets a layer of its own.
    Size(u64),
    /// The layers with the fastest first pull; among plans of about the same speed, the one with the
    /// smallest updates.
    Pull {
        /// The client, its link and machine.
        profile: &'static Profile,
        /// How the layers will be compressed.
        compression: CompressionKind,
        /// Number of layers; by default the best number.
        layers: Option<u32>,
    },
}

/// Options of [`plan()`].
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions<'a> {
    /// The wanted number or size of layers.
    pub target: Target,
    /// For each inode whether to place it; all by default.
    pub only: Option<&'a [bool]>,
}

/// A component's part in a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The component.
    pub component: ComponentId,
    /// Files in this layer.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Estimated compressed bytes of them.
    pub estimate: u64,
}

/// The plan of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PlannedLayer {
    /// Positions in the file set's entries, ascending, parent directories included.
    pub entries: Vec<u32>,
    /// Paths of lower layers that this one removes; none without a previous image.
    pub whiteouts: Vec<Box<[u8]>>,
    /// Expected compressed bytes.
    pub estimate: u64,
    /// Its components, largest first.
    pub shares: Vec<Share>,
    /// Chance that it changes from one release to the next.
    pub churn: f64,
    /// A short description of its content.
    pub label: String,
}

impl<'a> From<&'a PlannedLayer> for encode::LayerSpec<'a> {
    fn from(planned: &'a PlannedLayer) -> Self {
        Self { entries: &planned.entries, whiteouts: &planned.whiteouts }
    }
}

/// A plan: every path in a layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Lowest first; at least one.
    pub layers: Vec<PlannedLayer>,
}

/// Returns the plan of a file set.
pub fn plan(set: &FileSet, inventory: &Inventory, options: &PlanOptions<'_>) -> Plan {
    let sequence = Sequence::new(set, inventory, options.only);
    let mut groups = match options.target {
        Target::Layers(n) => by_count(&sequence, n.clamp(1, MAX_LAYERS) as usize, SLACK),
        Target::Size(bytes) => by_size(&sequence, bytes.max(1)),
        Target::Pull { profile, compression, layers } => {
            shape::best(set, &sequence, profile, compression, layers)
        }
    };
    groups.retain(|g| !g.is_empty());
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    Plan { layers: place::place(set, &inventory.analysis, &sequence, &groups) }
}

/// Maximum estimated size of a layer, in twentieths of the mean. Estimates are inexact; the promise is
/// 1.35 times the mean in real bytes.
const SLACK: u64 = 24;
/// Above this cap, layers are packed instead of cut contiguously.
const MOST_SLACK: u64 = 25;

/// Returns the maximum size of a layer: `slack` twentieths of the mean.
fn cap(total: u64, layers: usize, slack: u64) -> u64 {
    (total / 20 * slack / layers as u64).max(1)
}

/// Splits the sequence into `n` groups of atoms, or fewer if there are fewer atoms. No group is larger
/// than `slack` twentieths of the mean if possible.
fn by_count(sequence: &Sequence, n: usize, slack: u64) -> Vec<Vec<usize>> {
    let n = n.min(sequence.atoms.len());
    if n <= 1 {
        return vec![(0..sequence.atoms.len()).collect()];
    }
    let limit = cap(sequence.total(), n, slack);
    let (giants, rest) = take_giants(sequence, limit, n - 1);
    let left = n - giants.len();
    let cuts = cuts::Cuts::new(sequence, &rest, left);
    let feasible = cuts.smallest_cap(left).max(limit);
    let groups = if feasible <= cap(sequence.total(), n, MOST_SLACK) {
        cuts.best(left, feasible)
    } else {
        pack::pack(sequence, &rest, left)
    };
    in_order(groups, giants)
}

/// Splits the sequence into as few groups of at most `bytes` as possible.
fn by_size(sequence: &Sequence, bytes: u64) -> Vec<Vec<usize>> {
    let (giants, rest) = take_giants(sequence, bytes, MAX_LAYERS as usize - 1);
    let room = MAX_LAYERS as usize - giants.len();
    let wanted = (sequence.total() / bytes + 1).min(room as u64) as usize;
    let cuts = cuts::Cuts::new(sequence, &rest, wanted);
    // Rather larger layers than more than clients accept.
    let limit = bytes.max(cuts.smallest_cap(room));
    in_order(cuts.best(cuts.fewest(limit), limit), giants)
}

/// Separates up to `most` atoms that are larger than `limit`: each gets a layer of its own.
fn take_giants(sequence: &Sequence, limit: u64, most: usize) -> (Vec<usize>, Vec<usize>) {
    let mut giants: Vec<usize> =
        (0..sequence.atoms.len()).filter(|i| sequence.atoms[*i].estimate > limit).collect();
    giants.sort_by_key(|i| (std::cmp::Reverse(sequence.atoms[*i].estimate), *i));
    giants.truncate(most);
    giants.sort_unstable();
    let rest = (0..sequence.atoms.len()).filter(|i| giants.binary_search(i).is_err()).collect();
    (giants, rest)
}

/// Sorts the groups, with those of single large atoms, by their place in the sequence.
fn in_order(mut groups: Vec<Vec<usize>>, giants: Vec<usize>) -> Vec<Vec<usize>> {
    groups.extend(giants.into_iter().map(|g| vec![g]));
    groups.sort_by_key(|group| group.get(group.len() / 2).copied());
    groups
}

#[cfg(test)]
mod tests;
