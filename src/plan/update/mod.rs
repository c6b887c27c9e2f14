//! The next version of an image on top of the one that clients have.
//!
//! The layers of the previous image are a stack that clients hold. Some are kept byte for byte,
//! in their order, and what the new file set has besides goes in new layers on top. Keeping a
//! layer of which a part is dead costs those that have nothing yet, giving it up costs those that
//! hold it: [`update`] weighs the two.

mod carry_over;
mod choose;
mod dead;
mod providers;
mod remainder;

pub use carry_over::{Evened, even_out};
pub use choose::{Client, Prices};
pub use dead::{Dead, Met, at, dead, met};

use crate::base::error::Result;
use crate::layers::changeset::{Change, What};
use crate::layers::flatten;
use crate::model::fileset::{FileSet, parent};
use crate::model::path_pattern::PathPattern;
use crate::plan::analyze::Analysis;
use crate::plan::{self, MAX_LAYERS, Plan, PlannedLayer, Target, plan};
use choose::{Layers, Offer};
use remainder::Rest;

/// New layers are cut finer than those of a first split: only whole layers can be kept later, and
/// what dies together should lie alone. So many of them would make the whole image; measured in
/// docs/UPDATES.md.
const PIECES: u64 = 40;
/// But none is made smaller than this on purpose: every layer costs clients a request.
const SMALLEST: u64 = 1 << 20;

/// How an update is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is dear and what is cheap.
    pub prices: Prices,
    /// Layers in which something is dead that one of these matches are given up.
    pub purge: Vec<PathPattern>,
    /// Layers are kept though a deleted file in them is likely a secret.
    pub keep_secrets: bool,
    /// Nothing is evened out.
    pub exact: bool,
}

impl Default for Options {
    /// Any client, some cold pulls for every update, 19 % dead, 64 layers.
    fn default() -> Self {
        let prices = Prices { client: Client::Any, beta: 0.6, max_dead: 0.19, max_layers: 64 };
        Self { prices, purge: Vec::new(), keep_secrets: false, exact: false }
    }
}

/// A layer of the previous image.
pub struct OldLayer {
    /// What messages call it.
    pub name: String,
    /// Its changeset, in order.
    pub changes: Vec<Change>,
    /// Bytes of the blob, as it lies there.
    pub blob_bytes: u64,
    /// Whether it must go: its entries have attributes by which clients come to different files.
    pub barred: bool,
}

/// The new image as it is to be.
#[derive(Clone, Copy)]
pub struct New<'a> {
    /// Its file set.
    pub files: &'a FileSet,
    /// Its components.
    pub analysis: &'a Analysis,
    /// For each inode the expected compressed bytes.
    pub estimates: &'a [u64],
    /// How it is split if nothing is kept.
    pub target: Target,
}

/// What to keep and what to write.
#[derive(Debug, Clone)]
pub struct Update {
    /// For each layer of the previous image.
    pub fates: Vec<Fate>,
    /// The new layers, to lie above those that are kept.
    pub plan: Plan,
    /// Paths of regular files that the new image does not show, or has otherwise, and that lie in
    /// layers that are kept.
    pub dead: Vec<Dead>,
}

/// What becomes of a layer of the previous image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Kept, or why not.
    pub verdict: Verdict,
    /// Compressed bytes of it that the new image would show, as estimated.
    pub live: u64,
    /// Its compressed bytes.
    pub bytes: u64,
}

/// Why a layer is kept or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stays as it is.
    Kept,
    /// Too little of it is in use.
    GivenUp,
    /// Something that `--purge` names is dead in it.
    Purged,
    /// A deleted file in it is likely a secret.
    Secret,
}

/// Chooses what to keep of `previous`, whose file set is `old`, and plans the rest. `dead` are the
/// [dead] files in it, and `secret` the layers that are not to be seen again for one of those.
pub fn update(
    new: New<'_>,
    old: &FileSet,
    previous: &[OldLayer],
    dead: Vec<Dead>,
    secret: impl IntoIterator<Item = usize>,
    options: &Options,
) -> Result<Update> {
    let offer = providers::offer(new.files, new.estimates, previous);
    let purge = |d: &&Dead| options.purge.iter().any(|p| p.matches(&d.path));
    let purged = bits(dead.iter().filter(purge).map(|d| d.layer));
    let secret = bits(secret);
    let unfit = previous.iter().enumerate().filter(|(_, l)| l.barred).map(|(i, _)| i);
    let mut barred = purged | secret | bits(unfit);
    if new.files.get(b"").is_none() {
        // What a layer says of the root can't be unsaid.
        let root = |c: &Change| c.path.is_empty() && matches!(c.what, What::Put(_));
        for (i, _) in previous.iter().enumerate().filter(|(_, l)| l.changes.iter().any(root)) {
            barred |= bit(i);
        }
    }
    let changed = remainder::rest(old, new.files);
    if barred == 0 && changed.is_empty() {
        // Whatever is dead in it: nobody has to load anything.
        let live = offer.live_bytes(offer.all());
        let fates = previous.iter().zip(live).map(|(layer, live)| Fate {
            verdict: Verdict::Kept,
            live,
            bytes: layer.blob_bytes,
        });
        return Ok(Update { fates: fates.collect(), plan: Plan::default(), dead });
    }
    let keep = choose(new, &offer, offer.all() & !barred, &options.prices);
    let (keep, rest) = base(new.files, previous, keep)?;
    let fates = previous.iter().enumerate().map(|(i, layer)| Fate {
        verdict: match keep & bit(i) {
            0 if purged & bit(i) != 0 => Verdict::Purged,
            0 if secret & bit(i) != 0 => Verdict::Secret,
            0 => Verdict::GivenUp,
            _ => Verdict::Kept,
        },
        live: offer.live_bytes(keep | bit(i)).get(i).copied().unwrap_or(0),
        bytes: layer.blob_bytes,
    });
    let room = options.prices.max_layers.min(MAX_LAYERS).saturating_sub(keep.count_ones()).max(1);
    let layers = if keep == 0 {
        let afresh = |target| {
            let options = plan::Options { target, only: None };
            plan(new.files, new.analysis, new.estimates, &options).layers
        };
        let layers = afresh(new.target);
        if layers.len() > room as usize { afresh(Target::Layers(room)) } else { layers }
    } else {
        new_layers(new, &rest, &changed, room)
    };
    Ok(Update {
        fates: fates.collect(),
        plan: Plan { layers },
        dead: dead.into_iter().filter(|d| keep & bit(d.layer) != 0).collect(),
    })
}

/// A layer's bit; all that can't be kept for their number share the last one.
fn bit(layer: usize) -> Layers {
    1 << layer.min(choose::MOST_LAYERS)
}

fn bits(layers: impl IntoIterator<Item = usize>) -> Layers {
    layers.into_iter().fold(0, |all, layer| all | bit(layer))
}

/// Compressed bytes that a new layer should have.
fn piece(new: New<'_>) -> u64 {
    let total: u64 = new.estimates.iter().sum();
    let piece = (total / PIECES).max(SMALLEST);
    match new.target {
        Target::Size(bytes) => piece.min(bytes.max(1)),
        Target::Layers(_) | Target::Pull { .. } => piece,
    }
}

fn choose(new: New<'_>, offer: &Offer, allowed: Layers, prices: &Prices) -> Layers {
    let piece = piece(new);
    // One at least: there may be whiteouts.
    choose::choose(offer, allowed, prices, &|bytes| bytes.div_ceil(piece).max(1) as u32)
}

/// What the kept layers leave to be written. Layers that can't be applied without others are
/// given up with all above them.
fn base(new: &FileSet, previous: &[OldLayer], keep: Layers) -> Result<(Layers, Rest)> {
    let apply = |keep: Layers| {
        let kept = previous.iter().enumerate().filter(|(i, _)| keep & bit(*i) != 0);
        flatten::apply(kept.map(|(_, l)| (l.name.as_str(), l.changes.clone())))
    };
    if let Ok((base, _)) = apply(keep) {
        return Ok((keep, remainder::rest(&base, new)));
    }
    let prefix = (1 << keep.trailing_ones()) - 1;
    Ok((prefix, remainder::rest(&apply(prefix)?.0, new)))
}

/// Plans what is to be written: below what is unchanged and only moves, since it may stay as it
/// is for longer, above it what changed, and whiteouts in the topmost layer.
fn new_layers(new: New<'_>, rest: &Rest, changed: &Rest, room: u32) -> Vec<PlannedLayer> {
    let piece = piece(new);
    let masks = [false, true].map(|changes| -> Vec<bool> {
        rest.write.iter().zip(&changed.write).map(|(w, c)| *w && *c == changes).collect()
    });
    let bytes = masks.each_ref().map(|mask| -> u64 {
        mask.iter().zip(new.estimates).filter(|(m, _)| **m).map(|(_, e)| e).sum()
    });
    let mut count = bytes.map(|b| b.div_ceil(piece) as u32);
    while count[0] + count[1] > room.max(2) {
        let larger = usize::from(count[1] > count[0]);
        count[larger] -= 1;
    }
    let mut layers = Vec::new();
    let mut place = |mask: &[bool], count: u32| {
        if mask.contains(&true) {
            let options = plan::Options { target: Target::Layers(count), only: Some(mask) };
            layers.extend(plan(new.files, new.analysis, new.estimates, &options).layers);
        }
    };
    if room == 1 {
        place(&rest.write, 1);
    } else {
        place(&masks[0], count[0]);
        place(&masks[1], count[1]);
    }
    if !rest.whiteouts.is_empty() {
        if layers.is_empty() {
            let label = format!("{} deleted", rest.whiteouts.len());
            layers.push(PlannedLayer { label, churn: 1.0, ..PlannedLayer::default() });
        }
        if let Some(top) = layers.last_mut() {
            take_away(new.files, top, &rest.whiteouts);
        }
    }
    layers
}

/// Adds whiteouts to a layer, and the directories they lie in.
fn take_away(files: &FileSet, layer: &mut PlannedLayer, whiteouts: &[Box<[u8]>]) {
    for path in whiteouts {
        let mut up = parent(path);
        while let Some(at) = up.and_then(|dir| files.position(dir)) {
            layer.entries.push(at as u32);
            up = parent(&files.entries()[at].path);
        }
    }
    layer.entries.sort_unstable();
    layer.entries.dedup();
    layer.whiteouts = whiteouts.to_vec();
}

#[cfg(test)]
mod tests;
