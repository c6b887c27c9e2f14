//! What was done, as plain data: the facts of the table that people see and of `--json`.
//! docs/JSON.md describes the latter.

use serde::Serialize;

use crate::layers::encode::EncodedLayer;
use crate::layers::flatten::LayerStats;
use crate::layers::hidden::Hidden;
use crate::model::counts::Counts;
use crate::model::digest::Digest;
use crate::plan::analyze::{Analysis, ComponentKind};
use crate::plan::recorded_times::Held;
use crate::plan::update::{CarriedOver, DeadFile, LayerDecision, Verdict};
use crate::plan::{self, Plan};
use crate::simulate::{self, Profile};

/// Raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Layers and bytes of an image, before or after.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    /// Number of layers.
    pub layers: usize,
    /// Bytes of the layers as stored; `None` when nothing was encoded.
    pub blob_bytes: Option<u64>,
    /// Bytes of the layers, uncompressed; `None` when nothing was encoded.
    pub tar_bytes: Option<u64>,
}

/// A component in a layer.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Its files in this layer.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// One layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// What is in it, in a few words.
    pub label: String,
    /// Whether it is the previous image's, byte for byte.
    pub kept: bool,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// All entries of its tar, directories too.
    pub entries: u64,
    /// Expected bytes of the blob.
    pub estimate: u64,
    /// Of a kept layer, bytes of the blob that the image shows, as estimated.
    pub live: Option<u64>,
    /// Expected chance that it changes from one release to the next; not known of a kept layer.
    pub churn: Option<f64>,
    /// Bytes of the uncompressed tar; `None` when nothing was encoded, as for the fields below.
    pub tar_bytes: Option<u64>,
    /// Bytes of the blob.
    pub blob_bytes: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Digest of the blob.
    pub digest: Option<Digest>,
    /// What it is made of, largest first; not known of a kept layer.
    pub components: Vec<ComponentReport>,
}

/// A layer of the previous image, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct OldLayerReport {
    /// What is in it, in a few words.
    pub label: String,
    /// Bytes of the blob.
    pub bytes: u64,
    /// Those that the new image would show, as estimated.
    pub live: u64,
    /// Whether it is kept, and if not, why.
    pub verdict: Verdict,
}

/// A file in a kept layer that the image does not show.
#[derive(Debug, Clone, Serialize)]
pub struct DeletedFile {
    /// Its path; odd bytes are escaped.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Number of the layer in the new image, from 1.
    pub layer: usize,
}

/// A deleted file that is likely a secret, in a layer that was dropped for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LostSecret {
    /// Number of the layer in the previous image, from 1.
    pub layer: usize,
    /// Its path; odd bytes are escaped.
    pub path: String,
    /// What sort of secret it is.
    pub rule: &'static str,
}

/// How the new image follows the previous one. Bytes are estimates when nothing was encoded.
#[derive(Debug, Clone, Serialize)]
pub struct UpdateReport {
    /// Lowest first.
    pub previous: Vec<OldLayerReport>,
    /// What clients that go by digest or diff ID load: the new layers.
    pub set_bytes: u64,
    /// What clients that go by chain ID load: everything above the first layer that is not kept.
    pub chain_bytes: u64,
    /// The whole image.
    pub total_bytes: u64,
    /// Bytes of kept layers that the image does not show, as estimated.
    pub dead_bytes: u64,
    /// What was carried over from the previous image.
    pub carried_over: CarriedOver,
    /// Deleted files for which layers were dropped.
    pub secrets: Vec<LostSecret>,
    /// Files in kept layers that have been overwritten.
    pub overwritten: u64,
    /// Files in kept layers whose path is gone, largest first.
    pub deleted: Vec<DeletedFile>,
}

/// A simulated pull: docs/PULLS.md.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PullTimes {
    /// Seconds it takes.
    pub seconds: f64,
    /// Seconds that it takes at least, whatever the order.
    pub bound: f64,
}

/// What a client of a profile that has nothing does to have the image.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PullReport {
    /// Name of the profile.
    pub profile: &'static str,
    /// The input. Layers that are not compressed count as gzip, as a push makes them.
    pub before: PullTimes,
    /// The output.
    pub after: PullTimes,
}

impl PullReport {
    /// Simulates both.
    pub fn new(profile: &Profile, before: &[simulate::Layer], after: &[simulate::Layer]) -> Self {
        let times = |layers| {
            let Profile { client, link, machine, .. } = profile;
            let pull = simulate::simulate(layers, client, link, machine);
            PullTimes { seconds: pull.makespan, bound: pull.bound }
        };
        Self { profile: profile.name, before: times(before), after: times(after) }
    }

    /// What is said where the output is slower.
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

/// One image for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// What it runs on.
    pub platform: String,
    /// Digest of the input's config, also called its image ID.
    pub source: Digest,
    /// The input's layers.
    pub before: Totals,
    /// The same, lowest first, as a pull sees them.
    pub input: Vec<simulate::Layer>,
    /// The output's layers.
    pub after: Totals,
    /// The final file set.
    pub files: Counts,
    /// What lower layers hold that the final file set does not.
    pub hidden: Hidden,
    /// Logs and caches left out with `--drop-noise`.
    pub dropped_noise: u64,
    /// Times that stay because other files record them.
    pub held: Held,
    /// Lowest first.
    pub layers: Vec<LayerReport>,
    /// What was kept of the previous image; `None` without one.
    pub update: Option<UpdateReport>,
    /// Simulated cold pulls; `None` without a profile.
    pub pull: Option<PullReport>,
    /// Digest of the new manifest; `None` when nothing was encoded.
    pub manifest: Option<Digest>,
    /// Digest of the new config.
    pub config: Option<Digest>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// What `split` and `flatten` did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where the image was read from.
    pub input: String,
    /// Where the previous image was read from.
    pub previous: Option<String>,
    /// Where it was written to; `None` for a dry run.
    pub output: Option<String>,
    /// Digest that a registry will know the image, or the index of several, by.
    pub digest: Option<Digest>,
    /// One a platform.
    pub images: Vec<ImageReport>,
    /// Wall time.
    pub seconds: f64,
}

/// The rows of a plan, and of its encoded layers if there are any.
pub fn layers(
    plan: &Plan,
    analysis: &Analysis,
    encoded: Option<&[EncodedLayer]>,
) -> Vec<LayerReport> {
    let rows = plan.layers.iter().enumerate().map(|(i, layer)| {
        let encoded = encoded.map(|all| &all[i]);
        let components = layer.shares.iter().map(|share| {
            let component = &analysis.components[share.component as usize];
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
    /// Bytes of the blob; expected ones when it was not encoded.
    pub fn stored(&self) -> u64 {
        self.blob_bytes.unwrap_or(self.estimate)
    }

    /// As a pull sees it. When it was not encoded, estimates stand for its bytes.
    pub fn pulled(&self, compression: simulate::CompressionKind) -> simulate::Layer {
        let tar_bytes = self.tar_bytes.unwrap_or(self.bytes + plan::HEADER * self.entries);
        let blob_bytes =
            self.blob_bytes.unwrap_or_else(|| plan::stored(self.estimate, tar_bytes, compression));
        simulate::Layer { blob_bytes, tar_bytes, entries: self.entries, compression }
    }
}

/// All layers of the input together.
pub fn totals_before(layers: &[LayerStats]) -> Totals {
    Totals {
        layers: layers.len(),
        blob_bytes: Some(layers.iter().map(|l| l.blob_bytes).sum()),
        tar_bytes: Some(layers.iter().map(|l| l.tar_bytes).sum()),
    }
}

/// All layers of the output together.
pub fn totals(layers: &[LayerReport]) -> Totals {
    Totals {
        layers: layers.len(),
        blob_bytes: layers.iter().map(|l| l.blob_bytes).sum(),
        tar_bytes: layers.iter().map(|l| l.tar_bytes).sum(),
    }
}

/// How an image with these layers follows the previous one, each of whose layers has a label.
pub fn update<'a>(
    decisions: impl Iterator<Item = (&'a LayerDecision, &'a String)>,
    dead: &[DeadFile],
    carried_over: CarriedOver,
    secrets: Vec<LostSecret>,
    layers: &[LayerReport],
) -> UpdateReport {
    let previous: Vec<_> = decisions
        .map(|(decision, label)| OldLayerReport {
            label: label.clone(),
            bytes: decision.bytes,
            live: decision.live,
            verdict: decision.verdict,
        })
        .collect();
    let prefix = previous.iter().take_while(|l| l.verdict == Verdict::Kept).count();
    let mut number = 0;
    let numbers: Vec<usize> = previous
        .iter()
        .map(|l| {
            number += usize::from(l.verdict == Verdict::Kept);
            number
        })
        .collect();
    let (mut overwritten, mut deleted) = (0, Vec::new());
    for d in dead {
        if d.deleted {
            deleted.push(DeletedFile { path: d.path(), bytes: d.bytes, layer: numbers[d.layer] });
        } else {
            overwritten += 1;
        }
    }
    deleted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    UpdateReport {
        previous,
        set_bytes: layers.iter().filter(|l| !l.kept).map(LayerReport::stored).sum(),
        chain_bytes: layers.iter().skip(prefix).map(LayerReport::stored).sum(),
        total_bytes: layers.iter().map(LayerReport::stored).sum(),
        dead_bytes: layers.iter().filter_map(|l| Some(l.stored().saturating_sub(l.live?))).sum(),
        carried_over,
        secrets,
        overwritten,
        deleted,
    }
}
