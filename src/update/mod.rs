//! The next version of an image on top of the one that clients have.
//!
//! The layers of the previous image are a stack that clients hold. Some are kept byte for byte,
//! in their order, and what the new file set has besides goes in new layers on top. Keeping a
//! layer of which a part is dead costs those that have nothing yet, giving it up costs those that
//! hold it: [`update`] weighs the two.

mod choose;
mod needs;
mod noise;
mod rest;

use std::collections::BTreeMap;

pub use choose::{Client, Prices};
pub use noise::{Evened, even_out};

use crate::analyze::Analysis;
use crate::error::Result;
use crate::fileset::{FileData, FileSet, Inode, Kind, base_name, display, join, parent};
use crate::flatten;
use crate::layer::{Change, What};
use crate::pattern::PathPattern;
use crate::plan::{self, MAX_LAYERS, Plan, PlannedLayer, Target, plan};
use choose::{Layers, Offer};
use rest::Rest;

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
    /// Nothing is evened out.
    pub exact: bool,
}

impl Default for Options {
    /// Any client, some cold pulls for every update, 19 % dead, 64 layers.
    fn default() -> Self {
        let prices = Prices { client: Client::Any, beta: 0.6, max_dead: 0.19, max_layers: 64 };
        Self { prices, purge: Vec::new(), exact: false }
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
}

/// A file that is not seen any more, in a layer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its path.
    pub path: Box<[u8]>,
    /// Its bytes.
    pub bytes: u64,
    /// Position of its layer in the previous image.
    pub layer: usize,
    /// Whether the path is gone, and not just something else now.
    pub deleted: bool,
}

/// Chooses what to keep of `previous`, whose file set is `old`, and plans the rest.
pub fn update(
    new: New<'_>,
    old: &FileSet,
    previous: &[OldLayer],
    options: &Options,
) -> Result<Update> {
    let offer = needs::offer(new.files, new.estimates, previous);
    let dead = dead(new.files, previous);
    let purge = |d: &Dead| options.purge.iter().any(|p| p.matches(&d.path));
    let mut purged: Layers = 0;
    for d in dead.iter().filter(|d| purge(d)) {
        purged |= bit(d.layer);
    }
    let mut barred = purged;
    for (i, _) in previous.iter().enumerate().filter(|(_, l)| l.barred) {
        barred |= bit(i);
    }
    if new.files.get(b"").is_none() {
        // What a layer says of the root can't be unsaid.
        let root = |c: &Change| c.path.is_empty() && matches!(c.what, What::Put(_));
        for (i, _) in previous.iter().enumerate().filter(|(_, l)| l.changes.iter().any(root)) {
            barred |= bit(i);
        }
    }
    let changed = rest::rest(old, new.files);
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
        return Ok((keep, rest::rest(&base, new)));
    }
    let prefix = (1 << keep.trailing_ones()) - 1;
    Ok((prefix, rest::rest(&apply(prefix)?.0, new)))
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

/// Files in old layers that are not what the new file set has there.
fn dead(new: &FileSet, previous: &[OldLayer]) -> Vec<Dead> {
    let mut dead = Vec::new();
    // The file at each path, the layer that has its bytes, and whether it is dead there.
    let mut known: BTreeMap<&[u8], (&FileData, usize, bool)> = BTreeMap::new();
    for (layer, old) in previous.iter().enumerate() {
        for Change { path, what } in &old.changes {
            let now = at(new, path);
            let shown = |file: &FileData| {
                now.is_some_and(|now| {
                    matches!(&now.kind, Kind::File(f) if f.hash == file.hash && f.size == file.size)
                })
            };
            let (bytes, file) = match what {
                What::Put(Inode { kind: Kind::File(file), .. }) => {
                    (file.size, Some((file, layer, !shown(file))))
                }
                // Its bytes count under the first name; but this one may be the one that is known.
                What::Link { target, .. } => (0, known.get(&**target).copied()),
                What::Put(_) => {
                    known.remove(&**path);
                    continue;
                }
                // Links of this layer may still point at what it takes away.
                What::Whiteout | What::Opaque | What::Unnamed(_) => continue,
            };
            if file.map_or(now.is_none(), |(file, ..)| !shown(file)) {
                let found =
                    |layer| Dead { path: path.clone(), bytes, layer, deleted: now.is_none() };
                dead.push(found(layer));
                if let Some((_, below, true)) = file
                    && below != layer
                {
                    dead.push(found(below));
                }
            }
            match file {
                Some(file) => known.insert(path, file),
                None => known.remove(&**path),
            };
        }
    }
    dead
}

/// What a path names, with symlinks followed in its directory part.
fn at<'a>(set: &'a FileSet, path: &[u8]) -> Option<&'a Inode> {
    set.get(path).or_else(|| {
        let dir = set.resolve(parent(path)?)?;
        set.get(&join(&dir, base_name(path)))
    })
}

impl Dead {
    /// For people.
    pub fn path(&self) -> String {
        display(&self.path)
    }
}

#[cfg(test)]
mod tests;
