//! Reports of a split as plain data, from which the terminal's tables and the output of `--json` are
//! made. docs/JSON.md describes the latter.

use serde::Serialize;

use crate::layers::encode::EncodedLayer;
use crate::layers::flatten::LayerStats;
use crate::layers::hidden::HiddenCounts;
use crate::model::counts::Counts;
use crate::model::digest::Digest;
use crate::plan::analyze::{Analysis, ComponentKind};
use crate::plan::recorded_times::Held;
use crate::plan::update::{CarriedOver, DeadFile, LayerDecision, Verdict};
use crate::plan::{self, NextRelease, Plan};
use crate::secrets::LikelySecret;
use crate::simulate::{self, CompressionKind, Profile};
use crate::transport::registry::PushStats;

/// Version of the JSON format. It is increased when a field changes its meaning or is removed.
pub const SCHEMA: u32 = 1;

/// Number and bytes of an image's layers.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LayerTotals {
    /// Number of layers.
    pub layers: usize,
    /// Bytes of the layers as stored; `None` if nothing was encoded.
    pub blob_bytes: Option<u64>,
    /// Bytes of the uncompressed layers; `None` if nothing was encoded.
    pub tar_bytes: Option<u64>,
    /// Bytes that a client without any of the layers downloads. Uncompressed layers count as gzip, since
    /// a push compresses them.
    pub download_bytes: u64,
    /// Whether those bytes are an estimate, since layers are not compressed or nothing was encoded.
    pub estimated: bool,
    /// Compression of the downloads; `None` if layers differ in it.
    pub compression: Option<CompressionKind>,
}

/// A component in a layer.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// Its name.
    pub name: String,
    /// Kind of component.
    pub kind: ComponentKind,
    /// Number of its files in this layer.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A layer of the new image.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// Short description of its contents.
    pub label: String,
    /// Whether it is a layer of the base or of the previous image, byte for byte.
    pub kept: bool,
    /// Number of regular files.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Number of entries in its tar, including directories.
    pub entries: u64,
    /// Expected bytes of the blob.
    pub estimate: u64,
    /// Estimated bytes of the blob that are still in use; only for a kept layer.
    pub live: Option<u64>,
    /// Expected probability that it changes from one release to the next; unknown for a kept layer.
    pub churn: Option<f64>,
    /// Bytes of the uncompressed tar. This and the next three fields are `None` if nothing was
    /// encoded.
    pub tar_bytes: Option<u64>,
    /// Bytes of the blob.
    pub blob_bytes: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Digest of the blob.
    pub digest: Option<Digest>,
    /// Its components, largest first; empty for a kept layer.
    pub components: Vec<ComponentReport>,
}

/// A layer of the previous image, and whether it was kept.
#[derive(Debug, Clone, Serialize)]
pub struct OldLayerReport {
    /// Short description of its contents.
    pub label: String,
    /// Bytes of the blob.
    pub bytes: u64,
    /// Estimated bytes of the blob that the new image still uses.
    pub live: u64,
    /// Whether it was kept, and if not, why.
    pub verdict: Verdict,
}

/// A file in a kept layer that the new image no longer contains.
#[derive(Debug, Clone, Serialize)]
pub struct DeletedFile {
    /// Its path; unprintable bytes are escaped.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Number of the layer in the new image, from 1.
    pub layer: usize,
}

/// A deleted file that is likely a secret, and because of which a layer was dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LostSecret {
    /// Number of the layer in the previous image, from 1.
    pub layer: usize,
    /// Its path; unprintable bytes are escaped.
    pub path: String,
    /// Name of the rule that it matches.
    pub rule: &'static str,
}

/// The layers of the base, which stay as they are.
#[derive(Debug, Clone, Serialize)]
pub struct BaseReport {
    /// Name of the base in a registry, if it is known.
    pub name: Option<String>,
    /// Digest of its manifest, if the image has all its layers and it has a manifest.
    pub digest: Option<Digest>,
    /// Number of its layers that the image has: the lowest ones.
    pub layers: usize,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// Estimated bytes of them that are not in use.
    pub dead_bytes: u64,
    /// Number of files in them that are overwritten.
    pub overwritten: u64,
    /// Files in them whose path no longer exists, largest first.
    pub deleted: Vec<DeletedFile>,
}

impl BaseReport {
    /// Returns the report on a base of these layers, with these dead files, that comes from `source`.
    pub(super) fn new(
        layers: &[LayerReport],
        dead: &[DeadFile],
        (name, digest): (Option<&str>, Option<Digest>),
    ) -> Self {
        let numbers: Vec<usize> = (1..=layers.len()).collect();
        let (overwritten, deleted) = sort_dead(dead, &numbers);
        Self {
            name: name.map(str::to_owned),
            digest,
            layers: layers.len(),
            bytes: layers.iter().map(LayerReport::stored).sum(),
            dead_bytes: dead_bytes(layers),
            overwritten,
            deleted,
        }
    }
}

/// Facts about the update from the previous image. Bytes are estimates if nothing was encoded.
#[derive(Debug, Clone, Serialize)]
pub struct UpdateReport {
    /// The previous image's layers, lowest first.
    pub previous: Vec<OldLayerReport>,
    /// Bytes that clients download if they find layers by digest or diff ID: the new layers.
    pub set_bytes: u64,
    /// Bytes that clients download if they find layers by chain ID: everything above the kept layers at
    /// the bottom.
    pub chain_bytes: u64,
    /// Bytes of all layers.
    pub total_bytes: u64,
    /// Estimated bytes of kept layers that are no longer in use.
    pub dead_bytes: u64,
    /// Timestamps carried over from the previous image.
    pub carried_over: CarriedOver,
    /// Deleted files because of which layers were dropped.
    pub secrets: Vec<LostSecret>,
    /// Number of files in kept layers that were overwritten.
    pub overwritten: u64,
    /// Files in kept layers whose path no longer exists, largest first.
    pub deleted: Vec<DeletedFile>,
}

/// A simulated pull: docs/PULLS.md.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PullTimes {
    /// Simulated time, in seconds.
    pub seconds: f64,
    /// Lower bound of that time for any order of the layers, in seconds.
    pub bound: f64,
}

/// Simulated first pulls of the input and of the output, by a client that has no layers yet.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PullReport {
    /// Name of the profile.
    pub profile: &'static str,
    /// The input. Uncompressed layers count as gzip, since a push compresses them.
    pub before: PullTimes,
    /// The output.
    pub after: PullTimes,
}

impl PullReport {
    /// Simulates both pulls.
    pub fn new(profile: &Profile, before: &[simulate::Layer], after: &[simulate::Layer]) -> Self {
        let times = |layers| {
            let Profile { client, link, machine, .. } = profile;
            let pull = simulate::simulate(layers, client, link, machine);
            PullTimes { seconds: pull.makespan, bound: pull.bound }
        };
        Self { profile: profile.name, before: times(before), after: times(after) }
    }

    /// Returns a note if the output is slower to pull.
    pub fn note(self) -> Option<String> {
        let Self { profile, before, after } = self;
        (after.seconds > before.seconds).then(|| {
            format!(
                "a first pull by {profile} is simulated to be slower than that of the input: {:.1} s, \
                 not {:.1} s",
                after.seconds, before.seconds
            )
        })
    }
}

/// The report on one image, for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// Its platform.
    pub platform: String,
    /// Digest of the input's config, also called its image ID.
    pub source: Digest,
    /// The input's layers.
    pub before: LayerTotals,
    /// The input's layers for the simulation of a pull, lowest first.
    pub input: Vec<simulate::Layer>,
    /// The output's layers.
    pub after: LayerTotals,
    /// Number of paths in the final file set.
    pub files: Counts,
    /// Files that lower layers hold and the final file set does not.
    pub hidden: HiddenCounts,
    /// Number of logs and caches left out with `--drop-noise`.
    pub dropped_noise: u64,
    /// Timestamps that stay because other files record them.
    pub held: Held,
    /// The output's layers, lowest first.
    pub layers: Vec<LayerReport>,
    /// The base; `None` without one.
    pub base: Option<BaseReport>,
    /// Facts about the update; `None` without a previous image.
    pub update: Option<UpdateReport>,
    /// What clients are expected to download at the next release; `None` with a previous image and for
    /// `flatten`.
    pub next_release: Option<NextRelease>,
    /// Simulated first pulls; `None` without a profile.
    pub pull: Option<PullReport>,
    /// Likely secrets in the config and its history, which the split keeps as they are.
    pub config_secrets: Vec<LikelySecret>,
    /// Digest of the new manifest; `None` if nothing was encoded.
    pub manifest: Option<Digest>,
    /// Digest of the new config; `None` if nothing was encoded.
    pub config: Option<Digest>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The report of the commands `split` and `flatten`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Reference of the input.
    pub input: String,
    /// Reference of the previous image.
    pub previous: Option<String>,
    /// Reference of the output; `None` in a dry run.
    pub output: Option<String>,
    /// Digest of the manifest, or of the index of several images, as a registry will show it.
    pub digest: Option<Digest>,
    /// What a registry was sent; `None` if the output is a file or folder.
    pub push: Option<PushStats>,
    /// One report per platform.
    pub images: Vec<ImageReport>,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Returns the reports of a plan's layers, and of the encoded layers if there are any.
pub fn layers(
    plan: &Plan,
    analysis: &Analysis,
    encoded: Option<&[EncodedLayer]>,
) -> Vec<LayerReport> {
    let rows = plan.layers.iter().enumerate().map(|(i, layer)| {
        let encoded = encoded.map(|all| &all[i]);
        let components = layer.shares.iter().map(|share| {
            let component = &analysis[share.component];
            ComponentReport {
                name: component.name.clone(),
                kind: component.kind,
                files: share.files,
                bytes: share.bytes,
            }
        });
        LayerReport {
            label: layer.label.clone(),
            kept: false,
            live: None,
            files: layer.shares.iter().map(|s| s.files).sum(),
            bytes: layer.shares.iter().map(|s| s.bytes).sum(),
            entries: (layer.entries.len() + layer.whiteouts.len()) as u64,
            estimate: layer.estimate,
            churn: Some(layer.churn),
            tar_bytes: encoded.map(|e| e.tar_bytes),
            blob_bytes: encoded.map(EncodedLayer::bytes),
            diff_id: encoded.map(|e| e.diff_id),
            digest: encoded.map(|e| e.digest),
            components: components.collect(),
        }
    });
    rows.collect()
}

impl LayerReport {
    /// Returns the bytes of the blob; the estimate if it was not encoded.
    pub fn stored(&self) -> u64 {
        self.blob_bytes.unwrap_or(self.estimate)
    }

    /// Returns the layer for the simulation of a pull, with estimated bytes if it was not encoded.
    pub fn pulled(&self, compression: CompressionKind) -> simulate::Layer {
        let tar_bytes = self.tar_bytes.unwrap_or(self.bytes + plan::HEADER * self.entries);
        let blob_bytes =
            self.blob_bytes.unwrap_or_else(|| plan::stored(self.estimate, tar_bytes, compression));
        simulate::Layer { blob_bytes, tar_bytes, entries: self.entries, compression }
    }
}

/// Returns the totals of the input's layers, which clients pull as `pulled`.
pub fn totals_before(
    layers: &[LayerStats],
    pulled: &[simulate::Layer],
    estimated: bool,
) -> LayerTotals {
    let blob_bytes = Some(layers.iter().map(|l| l.blob_bytes).sum());
    let tar_bytes = Some(layers.iter().map(|l| l.tar_bytes).sum());
    LayerTotals { blob_bytes, tar_bytes, estimated, ..downloads(pulled) }
}

/// Returns the totals of the output's layers, which clients pull as `pulled`.
pub fn totals(layers: &[LayerReport], pulled: &[simulate::Layer]) -> LayerTotals {
    let as_pushed = |(layer, pulled): (&LayerReport, &simulate::Layer)| match pulled.compression {
        CompressionKind::None => {
            let compression = CompressionKind::Gzip;
            let blob_bytes = plan::stored(layer.estimate, pulled.tar_bytes, compression);
            simulate::Layer { blob_bytes, compression, ..*pulled }
        }
        _ => *pulled,
    };
    let pushed: Vec<_> = layers.iter().zip(pulled).map(as_pushed).collect();
    let blob_bytes = layers.iter().map(|l| l.blob_bytes).sum::<Option<u64>>();
    let tar_bytes = layers.iter().map(|l| l.tar_bytes).sum();
    let plain = pulled.iter().any(|layer| layer.compression == CompressionKind::None);
    let estimated = plain || blob_bytes.is_none();
    LayerTotals { blob_bytes, tar_bytes, estimated, ..downloads(&pushed) }
}

/// Returns what clients download.
fn downloads(pulled: &[simulate::Layer]) -> LayerTotals {
    let first = pulled.first().map(|layer| layer.compression);
    LayerTotals {
        layers: pulled.len(),
        download_bytes: pulled.iter().map(|layer| layer.blob_bytes).sum(),
        compression: first.filter(|first| pulled.iter().all(|l| l.compression == *first)),
        ..LayerTotals::default()
    }
}

/// The layers that could be kept, lowest first.
pub(super) struct Decided<'a> {
    /// Each with its label.
    pub(super) decisions: &'a [(&'a LayerDecision, &'a String)],
    /// The positions of the previous image's layers among them.
    pub(super) previous: &'a [usize],
}

/// Returns the report on an update to an image with these `layers`.
pub(super) fn update(
    stack: &Decided<'_>,
    dead: &[DeadFile],
    carried_over: CarriedOver,
    secrets: Vec<LostSecret>,
    layers: &[LayerReport],
) -> UpdateReport {
    let is_kept = |at: usize| stack.decisions[at].0.verdict == Verdict::Kept;
    let previous = stack.previous.iter().map(|at| {
        let (decision, label) = stack.decisions[*at];
        OldLayerReport {
            label: label.clone(),
            bytes: decision.bytes,
            live: decision.live,
            verdict: decision.verdict,
        }
    });
    let in_place = stack.previous.iter().enumerate();
    let prefix = in_place.take_while(|(i, at)| i == *at && is_kept(**at)).count();
    let mut number = 0;
    let mut numbers = Vec::new();
    // The kept layers that clients with the previous image have.
    let mut held = vec![false; layers.len()];
    for at in 0..stack.decisions.len() {
        if is_kept(at) {
            held[number] = stack.previous.contains(&at);
            number += 1;
        }
        numbers.push(number);
    }
    let (overwritten, deleted) = sort_dead(dead, &numbers);
    UpdateReport {
        previous: previous.collect(),
        set_bytes: layers.iter().zip(held).filter(|(_, h)| !h).map(|(l, _)| l.stored()).sum(),
        chain_bytes: layers.iter().skip(prefix).map(LayerReport::stored).sum(),
        total_bytes: layers.iter().map(LayerReport::stored).sum(),
        dead_bytes: dead_bytes(layers),
        carried_over,
        secrets,
        overwritten,
        deleted,
    }
}

/// Returns the number of overwritten files, and the deleted ones, largest first. `numbers` has the number
/// that each layer gets.
fn sort_dead(dead: &[DeadFile], numbers: &[usize]) -> (u64, Vec<DeletedFile>) {
    let (mut overwritten, mut deleted) = (0, Vec::new());
    for d in dead {
        if d.deleted {
            deleted.push(DeletedFile { path: d.path(), bytes: d.bytes, layer: numbers[d.layer] });
        } else {
            overwritten += 1;
        }
    }
    deleted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    (overwritten, deleted)
}

/// Returns the estimated bytes of kept layers that are not in use.
fn dead_bytes(layers: &[LayerReport]) -> u64 {
    layers.iter().filter_map(|l| Some(l.stored().saturating_sub(l.live?))).sum()
}
