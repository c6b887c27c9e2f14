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
mod cutter;
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

/// Mean compressed size of layers below which more of them don't pay, in bytes: in simulated pulls of
/// images of 1 to 12 MB, clients that unpack one layer after another become slower, and those that unpack
/// several hardly faster.
pub const SMALLEST: u64 = 1 << 20;

/// The wanted number or size of layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// This number of layers, 1 to [`MAX_LAYERS`]; fewer if there are fewer files.
    Layers(u32),
    /// At most this number of layers; fewer if they would be smaller than [`SMALLEST`] on average.
    AtMost(u32),
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

impl Target {
    /// Returns the maximum number of layers for files of `bytes` uncompressed bytes.
    pub(crate) fn layers(self, bytes: u64) -> u64 {
        match self {
            Self::Layers(n) | Self::AtMost(n) | Self::Pull { layers: Some(n), .. } => n.into(),
            Self::Size(size) => bytes.div_ceil(size.max(1)),
            Self::Pull { layers: None, .. } => MAX_LAYERS.into(),
        }
    }
}

/// Options of [`plan()`].
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions<'a> {
    /// The wanted number or size of layers.
    pub target: Target,
    /// For each inode whether to place it; all by default.
    pub only: Option<&'a [bool]>,
    /// Whether the image is the first of a chain of updates with a previous image.
    pub for_updates: bool,
}

impl PlanOptions<'_> {
    /// Returns the options of a plan of everything, which is no first of a chain of updates.
    pub fn new(target: Target) -> Self {
        Self { target, only: None, for_updates: false }
    }
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
    /// Positions in the file set's entries, in the order of the tar, parent directories included.
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
    let sequence = Sequence::new(set, inventory, options.only, options.for_updates);
    let mut groups = match options.target {
        Target::Layers(n) => by_count(&sequence, n.clamp(1, MAX_LAYERS) as usize, SLACK),
        Target::AtMost(n) => {
            let worth = u32::try_from(sequence.total() / SMALLEST).unwrap_or(u32::MAX);
            by_count(&sequence, worth.clamp(1, n.clamp(1, MAX_LAYERS)) as usize, SLACK)
        }
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

/// Maximum estimated size of a layer, as a multiple of the mean. Estimates are inexact; the promise is
/// 1.35 times the mean in real bytes.
const SLACK: f64 = 1.16;

/// Splits the sequence into `n` groups of atoms, or fewer if there are fewer atoms. No group is larger
/// than `slack` times the mean if possible.
fn by_count(sequence: &Sequence, n: usize, slack: f64) -> Vec<Vec<usize>> {
    let n = n.min(sequence.atoms.len());
    if n <= 1 {
        return vec![(0..sequence.atoms.len()).collect()];
    }
    in_order(cuts::by_count(sequence, n, slack))
}

/// Splits the sequence into about as few groups of at most `bytes` as possible.
fn by_size(sequence: &Sequence, bytes: u64) -> Vec<Vec<usize>> {
    in_order(cuts::by_size(sequence, bytes, MAX_LAYERS as usize))
}

/// Sorts the groups by their place in the sequence.
fn in_order(mut groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    groups.sort_by_key(|group| group.get(group.len() / 2).copied());
    groups
}

#[cfg(test)]
mod tests;
