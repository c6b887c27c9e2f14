//! Updates: builds the next version of an image on top of the layers that clients already have.
//!
//! Some layers of the previous image are kept byte for byte, in their order, and the rest of the new
//! file set goes in new layers on top. A kept layer with dead bytes costs clients that start from
//! nothing; a dropped layer costs clients that have it. [`update`] weighs the two by a [`CostModel`].

mod carry_over;
mod choose;
mod dead;
mod providers;
mod remainder;

pub(crate) use carry_over::{CarriedOver, carry_over};
pub use choose::{CostModel, TargetClients};
pub(crate) use dead::{DeadFile, PurgeMatch, dead_files, find_following_parent, purge_match};
pub(crate) use remainder::unchanged;

use crate::base::defaults;
use crate::base::error::Result;
use crate::layers::changeset::{Change, ChangeKind};
use crate::layers::{order, tree};
use crate::model::fileset::{FileSet, parent};
use crate::model::path_pattern::PathPattern;
use crate::plan::analyze::Inventory;
use crate::plan::{self, MAX_LAYERS, Plan, PlannedLayer, Target, plan};
use choose::{Layers, OldContent};
use remainder::Remainder;

/// Number of layers into which the whole image would be cut at the size of a new layer. New layers are
/// smaller than those of a first split, because only whole layers can be kept later; measured in
/// docs/UPDATES.md.
const PIECES: u64 = 40;
/// Minimum target size of a new layer in bytes: every layer costs clients a request.
const MIN_PIECE: u64 = 1 << 20;

/// Options of [`update`].
#[derive(Debug, Clone)]
pub struct UpdateOptions {
    /// The cost model.
    pub cost_model: CostModel,
    /// Layers with a dead file that one of these matches are dropped.
    pub purge: Vec<PathPattern>,
    /// Keep layers even if a deleted file in them is likely a secret.
    pub keep_secrets: bool,
    /// Keep all timestamps of the new image.
    pub exact: bool,
}

impl Default for UpdateOptions {
    /// Any client, and the values of [`defaults`].
    fn default() -> Self {
        let cost_model = CostModel {
            clients: TargetClients::Any,
            beta: TargetClients::Any.dead_cost(),
            max_dead: defaults::MAX_DEAD,
            max_layers: defaults::UPDATE_LAYERS,
        };
        Self { cost_model, purge: Vec::new(), keep_secrets: false, exact: false }
    }
}

/// A layer of the previous image.
#[derive(Debug)]
pub(crate) struct OldLayer {
    /// Its name in messages.
    pub name: String,
    /// Its changeset, in order.
    pub changes: Vec<Change>,
    /// Size of the blob in bytes, compressed as it is.
    pub blob_bytes: u64,
    /// Whether it must be dropped because its entries have attributes that clients treat differently.
    pub must_drop: bool,
}

/// The new image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewImage<'a> {
    /// Its file set.
    pub files: &'a FileSet,
    /// Its components and estimates.
    pub inventory: &'a Inventory,
    /// The target if no layer is kept, except those of the base.
    pub target: Target,
    /// Number of lowest layers that stay in any case: those of the base.
    pub base: usize,
    /// Whether updates of the result will follow.
    pub for_updates: bool,
}

/// A decision about every layer of the previous image, and the plan of the new layers.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// One for each layer of the previous image.
    pub decisions: Vec<LayerDecision>,
    /// The new layers, above the kept ones.
    pub plan: Plan,
    /// Regular files in kept layers that the new image has deleted or changed.
    pub dead: Vec<DeadFile>,
}

/// The decision about a layer of the previous image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDecision {
    /// Whether it is kept, and if not, why.
    pub verdict: Verdict,
    /// Estimated compressed bytes of it that the new image uses.
    pub live: u64,
    /// Its compressed bytes.
    pub bytes: u64,
}

/// Whether a layer is kept, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is kept as it is.
    Kept,
    /// It is dropped because too little of it is in use.
    Dropped,
    /// It is dropped because it has a dead file that `--purge` names.
    Purged,
    /// It is dropped because a deleted file in it is likely a secret.
    Secret,
}

/// Chooses what to keep of `previous`, whose file set is `old`, besides the layers of the base, which are its
/// lowest, and plans the rest. `dead` are the
/// [dead](dead_files) files in it, and `secret` the layers that are not to be seen again for one of those.
///
/// # Errors
/// If the layers of the previous image can't be applied.
pub(crate) fn update(
    new: NewImage<'_>,
    old: &FileSet,
    previous: &[OldLayer],
    dead: Vec<DeadFile>,
    secret: impl IntoIterator<Item = usize>,
    options: &UpdateOptions,
) -> Result<Update> {
    let fixed = bits(0..new.base);
    let old_content = OldContent {
        fixed,
        ..providers::old_content(new.files, &new.inventory.estimates, previous)
    };
    let purge = |d: &&DeadFile| options.purge.iter().any(|p| p.matches(&d.path));
    let purged = bits(dead.iter().filter(purge).map(|d| d.layer));
    let secret = bits(secret);
    let unfit = previous.iter().enumerate().filter(|(_, l)| l.must_drop).map(|(i, _)| i);
    let mut barred = purged | secret | bits(unfit);
    if new.files.get(b"").is_none() {
        // The attributes that a layer gives the root cannot be removed by a later one.
        let root = |c: &Change| c.path.is_empty() && matches!(c.kind, ChangeKind::Add(_));
        for (i, _) in previous.iter().enumerate().filter(|(_, l)| l.changes.iter().any(root)) {
            barred |= bit(i);
        }
    }
    barred &= !fixed;
    let changed = remainder::remainder(old, new.files);
    if barred == 0 && changed.is_empty() {
        // However much is dead, keeping everything costs no client a download.
        let live = old_content.live_bytes(old_content.all());
        let decisions = previous.iter().zip(live).map(|(layer, live)| LayerDecision {
            verdict: Verdict::Kept,
            live,
            bytes: layer.blob_bytes,
        });
        return Ok(Update { decisions: decisions.collect(), plan: Plan::default(), dead });
    }
    let keep = choose(new, &old_content, old_content.all() & !barred, &options.cost_model);
    let (keep, rest) = base(new.files, previous, keep)?;
    let decisions = previous.iter().enumerate().map(|(i, layer)| LayerDecision {
        verdict: match keep & bit(i) {
            0 if purged & bit(i) != 0 => Verdict::Purged,
            0 if secret & bit(i) != 0 => Verdict::Secret,
            0 => Verdict::Dropped,
            _ => Verdict::Kept,
        },
        live: old_content.live_bytes(keep | bit(i)).get(i).copied().unwrap_or(0),
        bytes: layer.blob_bytes,
    });
    let room =
        options.cost_model.max_layers.min(MAX_LAYERS).saturating_sub(keep.count_ones()).max(1);
    let mut layers = if keep == fixed {
        let only = (fixed != 0).then_some(&rest.write[..]);
        let from_scratch = |target| {
            let options = plan::PlanOptions { target, only, for_updates: new.for_updates };
            plan(new.files, new.inventory, &options).layers
        };
        let mut layers = from_scratch(new.target);
        if layers.len() > room as usize {
            layers = from_scratch(Target::Layers(room));
        }
        // With nothing to place, one empty layer.
        layers.retain(|layer| !layer.entries.is_empty() || fixed == 0);
        layers
    } else {
        new_layers(new, &rest, &changed, room)
    };
    place_whiteouts(new.files, &mut layers, &rest.whiteouts);
    Ok(Update {
        decisions: decisions.collect(),
        plan: Plan { layers },
        dead: dead.into_iter().filter(|d| keep & bit(d.layer) != 0).collect(),
    })
}

/// Returns the bit of a layer. Layers beyond the maximum number, which are never kept, share the last
/// bit.
fn bit(layer: usize) -> Layers {
    1 << layer.min(choose::MAX_OLD_LAYERS)
}

fn bits(layers: impl IntoIterator<Item = usize>) -> Layers {
    layers.into_iter().fold(0, |all, layer| all | bit(layer))
}

/// Returns the target size of a new layer in compressed bytes.
fn piece(new: NewImage<'_>) -> u64 {
    let total: u64 = new.inventory.estimates.iter().sum();
    let piece = (total / PIECES).max(MIN_PIECE);
    match new.target {
        Target::Size(bytes) => piece.min(bytes.max(1)),
        Target::Layers(_) | Target::AtMost(_) | Target::Pull { .. } => piece,
    }
}

fn choose(
    new: NewImage<'_>,
    old_content: &OldContent,
    allowed: Layers,
    cost_model: &CostModel,
) -> Layers {
    let piece = piece(new);
    // At least one, as there may be whiteouts.
    choose::choose(old_content, allowed, cost_model, &|bytes| bytes.div_ceil(piece).max(1) as u32)
}

/// Applies the kept layers and returns what remains to be written. If they cannot be applied without
/// dropped ones, only the unbroken sequence of kept layers from the lowest on is kept.
fn base(new: &FileSet, previous: &[OldLayer], keep: Layers) -> Result<(Layers, Remainder)> {
    let apply = |keep: Layers| {
        let kept = previous.iter().enumerate().filter(|(i, _)| keep & bit(*i) != 0);
        tree::apply(kept.map(|(_, l)| (l.name.as_str(), l.changes.clone())))
    };
    if let Ok((base, _)) = apply(keep) {
        return Ok((keep, remainder::remainder(&base, new)));
    }
    let prefix = (1 << keep.trailing_ones()) - 1;
    Ok((prefix, remainder::remainder(&apply(prefix)?.0, new)))
}

/// Plans the new layers. Unchanged files that only move from a dropped layer go below, since they may
/// stay unchanged for longer; changed files go above them.
fn new_layers(
    new: NewImage<'_>,
    rest: &Remainder,
    changed: &Remainder,
    room: u32,
) -> Vec<PlannedLayer> {
    let piece = piece(new);
    let masks = [false, true].map(|changes| -> Vec<bool> {
        rest.write.iter().zip(&changed.write).map(|(w, c)| *w && *c == changes).collect()
    });
    let bytes = masks.each_ref().map(|mask| -> u64 {
        mask.iter().zip(&new.inventory.estimates).filter(|(m, _)| **m).map(|(_, e)| e).sum()
    });
    let mut count = bytes.map(|b| b.div_ceil(piece) as u32);
    while count[0] + count[1] > room.max(2) {
        let larger = usize::from(count[1] > count[0]);
        count[larger] -= 1;
    }
    let mut layers = Vec::new();
    let mut place = |mask: &[bool], count: u32| {
        if mask.contains(&true) {
            let target = Target::Layers(count);
            let options = plan::PlanOptions { only: Some(mask), ..plan::PlanOptions::new(target) };
            layers.extend(plan(new.files, new.inventory, &options).layers);
        }
    };
    if room == 1 {
        place(&rest.write, 1);
    } else {
        place(&masks[0], count[0]);
        place(&masks[1], count[1]);
    }
    layers
}

/// Adds whiteouts to the topmost layer, or to a layer of their own if there is none.
fn place_whiteouts(files: &FileSet, layers: &mut Vec<PlannedLayer>, whiteouts: &[Box<[u8]>]) {
    if whiteouts.is_empty() {
        return;
    }
    if layers.is_empty() {
        let label = format!("{} deleted", whiteouts.len());
        layers.push(PlannedLayer { label, churn: 1.0, ..PlannedLayer::default() });
    }
    if let Some(top) = layers.last_mut() {
        add_whiteouts(files, top, whiteouts);
    }
}

/// Adds whiteouts to a layer, and their parent directories.
fn add_whiteouts(files: &FileSet, layer: &mut PlannedLayer, whiteouts: &[Box<[u8]>]) {
    for path in whiteouts {
        let mut up = parent(path);
        while let Some(at) = up.and_then(|dir| files.position(dir)) {
            layer.entries.push(at as u32);
            up = parent(&files.entries()[at].path);
        }
    }
    order::sort(files, &mut layer.entries);
    layer.whiteouts = whiteouts.to_vec();
}

#[cfg(test)]
mod sequences;
#[cfg(test)]
mod tests;
