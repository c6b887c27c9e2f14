//! Reads the previous image and decides which of its layers are kept.

use std::sync::Arc;

use super::options::{PLAN, SplitOptions};
use super::report::{self, LayerReport, LostSecret, UpdateReport};
use super::secrets::{self, Purge};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::format::codec::Format;
use crate::layers::Limits;
use crate::layers::changeset::{Change, ChangeKind};
use crate::layers::encode::EncodedLayer;
use crate::layers::flatten::{self, Keep, Known, LayerStats};
use crate::layers::read::LayerContent;
use crate::model::content::{Budget, Source};
use crate::model::digest::Digest;
use crate::model::fileset::{Inode, InodeKind};
use crate::model::oci::{self, Descriptor, Manifest};
use crate::model::rootfs::Rootfs;
use crate::plan::Plan;
use crate::plan::analyze::{Analysis, Inventory};
use crate::plan::recorded_times::Held;
use crate::plan::update::{self, CarriedOver, DeadFile, LayerDecision, OldLayer, Update, Verdict};
use crate::simulate;
use crate::transport::image::{Image, LayerBlob};

/// A layer of the previous image that is kept.
pub(super) struct KeptLayer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) label: String,
    pub(super) source: Source,
    tar_bytes: u64,
    files: u64,
    bytes: u64,
    entries: u64,
    live: u64,
}

/// The previous image after reading.
pub(super) struct Previous<'a> {
    image: &'a Image,
    layers: Vec<OldLayer>,
    stats: Vec<LayerStats>,
    /// The contents of compressed layers' files are missing if no secrets are searched for.
    rootfs: Rootfs,
    labels: Vec<String>,
    manifest: Option<Manifest>,
    /// Holds the file set's share of the memory budget until it is dropped.
    _limits: Limits,
}

/// The layers of the new image: those kept from the previous image, and the new ones.
pub(super) struct Decision {
    /// The kept layers, lowest first.
    pub(super) kept: Vec<KeptLayer>,
    /// The plan of the new layers above them.
    pub(super) plan: Plan,
    /// The decisions on the previous image's layers, if there is one.
    update: Option<PreviousDecisions>,
}

/// The decisions on the previous image's layers, and the facts reported with them.
struct PreviousDecisions {
    decisions: Vec<LayerDecision>,
    labels: Vec<String>,
    dead: Vec<DeadFile>,
    secrets: Vec<LostSecret>,
    carried_over: CarriedOver,
}

impl<'a> Previous<'a> {
    /// Reads the previous image of `new`.
    pub(super) fn read(
        image: &'a Image,
        new: &Rootfs,
        options: &SplitOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        // The search for secrets reads the contents of deleted files.
        let known = Known::new(new);
        let keep = if options.update.keep_secrets { Keep::Index } else { Keep::Lacking(&known) };
        let read = flatten::read(&image.layers, keep, options.max_size, budget, progress)?;
        let old = |(read, blob): (&LayerContent, &LayerBlob)| OldLayer {
            name: blob.name.clone(),
            must_drop: !read.driver.is_empty(),
            changes: read.changes.clone(),
            blob_bytes: blob.source.size(),
        };
        let layers = read.layers.iter().zip(&image.layers).map(old).collect();
        let manifest = image.manifest.as_ref();
        let manifest = manifest.and_then(|m| oci::parse(m, "the manifest").ok());
        let flat = read.flatten()?;
        Ok(Self {
            image,
            layers,
            stats: flat.layers,
            rootfs: flat.rootfs,
            labels: labels(image, manifest.as_ref()),
            manifest,
            _limits: flat.limits,
        })
    }

    /// Copies this image's timestamps to files of the new image that differ in nothing else, unless
    /// the options keep all timestamps.
    pub(super) fn carry_over(
        &self,
        new: &mut Rootfs,
        options: &SplitOptions,
        budget: &Arc<Budget>,
    ) -> Result<(CarriedOver, Held)> {
        if options.update.exact {
            return Ok(Default::default());
        }
        update::carry_over(new, budget, &self.rootfs.files, options.mtime)
    }

    /// Decides which layers are kept, and plans the new ones.
    pub(super) fn decide(
        self,
        (new, inventory): (&Rootfs, &Inventory),
        carried_over: CarriedOver,
        purge: &mut Purge<'_>,
        options: &SplitOptions,
        progress: &dyn Progress,
    ) -> Result<Decision> {
        let Self { layers, rootfs: old, .. } = &self;
        let dead = update::dead_files(&new.files, layers);
        purge.record(&new.files, layers, &dead);
        let secrets = if options.update.keep_secrets {
            Vec::new()
        } else {
            let new = secrets::NewContents { rootfs: new, analysis: &inventory.analysis };
            secrets::lost(&new, &dead, &old.contents, progress)?
        };
        let secret = secrets.iter().map(|s| s.layer - 1);
        let now = update::NewImage { files: &new.files, inventory, target: options.target };
        let update = update::update(now, &old.files, layers, dead, secret, &options.update)?;
        let kept = update.decisions.iter().enumerate().filter(|(_, f)| f.verdict == Verdict::Kept);
        let kept = kept.map(|(i, decision)| self.kept(i, decision)).collect::<Result<_>>()?;
        let Update { decisions, plan, dead } = update;
        let update =
            PreviousDecisions { decisions, labels: self.labels, dead, secrets, carried_over };
        Ok(Decision { kept, plan, update: Some(update) })
    }

    /// Returns the kept layer at position `i`.
    fn kept(&self, i: usize, decision: &LayerDecision) -> Result<KeptLayer> {
        let (layer, stats) = (&self.image.layers[i], self.stats[i]);
        let kind = Format::of(layer.source.as_ref())?.media_type();
        let mut descriptor = Descriptor::new(kind, stats.digest, stats.blob_bytes);
        // zstd:chunked needs the annotations of the blob's descriptor.
        let noted = self.manifest.as_ref().and_then(|m| m.layers.get(i));
        let noted = noted.filter(|noted| noted.digest == descriptor.digest);
        let mut annotations = noted.and_then(|d| d.annotations.clone()).unwrap_or_default();
        annotations.insert(PLAN.to_owned(), self.labels[i].clone());
        descriptor.annotations = Some(annotations);
        let (files, bytes) = count(&self.layers[i].changes);
        Ok(KeptLayer {
            descriptor,
            diff_id: layer.diff_id,
            label: self.labels[i].clone(),
            source: Arc::clone(&layer.source),
            tar_bytes: stats.tar_bytes,
            files,
            bytes,
            entries: stats.entries,
            live: decision.live,
        })
    }
}

impl Decision {
    /// Returns the decision without a previous image: all layers are new.
    pub(super) fn first(plan: Plan) -> Self {
        Self { kept: Vec::new(), plan, update: None }
    }

    /// Returns the reports of all layers, lowest first.
    pub(super) fn layers(
        &self,
        analysis: &Analysis,
        encoded: Option<&[EncodedLayer]>,
    ) -> Vec<LayerReport> {
        let kept = self.kept.iter().map(KeptLayer::report);
        kept.chain(report::layers(&self.plan, analysis, encoded)).collect()
    }

    /// Returns all `layers` for the simulation of a pull, the new ones with this compression.
    pub(super) fn pulled(
        &self,
        layers: &[LayerReport],
        compression: simulate::CompressionKind,
    ) -> Vec<simulate::Layer> {
        let of = |i: usize| match self.kept.get(i) {
            Some(kept) => simulate::CompressionKind::of(&kept.descriptor.media_type),
            None => compression,
        };
        layers.iter().enumerate().map(|(i, layer)| layer.pulled(of(i))).collect()
    }

    /// Returns the report on the update from the previous image to one with these `layers`; `None`
    /// without a previous image.
    pub(super) fn report(&self, layers: &[LayerReport]) -> Option<UpdateReport> {
        let update = self.update.as_ref()?;
        let decisions = update.decisions.iter().zip(&update.labels);
        let secrets = update.secrets.clone();
        Some(report::update(decisions, &update.dead, update.carried_over, secrets, layers))
    }

    /// Returns a note for each layer that is dropped because of secrets.
    pub(super) fn notes(&self) -> Vec<String> {
        /// Maximum number of paths in a note.
        const NAMED: usize = 5;
        let secrets = self.update.as_ref().map_or(&[][..], |update| &update.secrets);
        let note = |secrets: &[LostSecret]| {
            let named = secrets.iter().take(NAMED).map(|s| format!("{} ({})", s.path, s.rule));
            let more = secrets.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "layer {} of the previous image is dropped: it holds deleted files that are likely \
                 secrets: {}{more}; --keep-secrets keeps such layers",
                secrets[0].layer,
                named.collect::<Vec<_>>().join(", ")
            )
        };
        secrets.chunk_by(|a, b| a.layer == b.layer).map(note).collect()
    }
}

impl KeptLayer {
    /// Returns the report of the layer.
    fn report(&self) -> LayerReport {
        LayerReport {
            label: self.label.clone(),
            kept: true,
            files: self.files,
            bytes: self.bytes,
            entries: self.entries,
            estimate: self.descriptor.size,
            live: Some(self.live),
            churn: None,
            tar_bytes: Some(self.tar_bytes),
            blob_bytes: Some(self.descriptor.size),
            diff_id: Some(self.diff_id),
            digest: Some(self.descriptor.digest),
            components: Vec::new(),
        }
    }
}

/// Returns the number of regular files in a layer, and the sum of their sizes.
fn count(changes: &[Change]) -> (u64, u64) {
    let sizes = changes.iter().filter_map(|c| match &c.kind {
        ChangeKind::Add(Inode { kind: InodeKind::File(file), .. }) => Some(file.size),
        _ => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

/// Returns a label for each layer: the one that relayer wrote, else the command that created the
/// layer.
fn labels(image: &Image, manifest: Option<&Manifest>) -> Vec<String> {
    /// Maximum characters of a command in a label.
    const MAX_CHARS: usize = 80;
    let history = image.config.layer_history();
    let label = |i: usize| {
        let noted = manifest.and_then(|m| m.layers.get(i)?.annotation(PLAN));
        let command =
            || history.get(i).map(|by| by.split_whitespace().collect::<Vec<_>>().join(" "));
        let text = noted.map(str::to_owned).or_else(command).unwrap_or_default();
        match text.char_indices().nth(MAX_CHARS) {
            _ if text.is_empty() => "unknown".to_owned(),
            Some((end, _)) if noted.is_none() => format!("{}…", &text[..end]),
            _ => text,
        }
    };
    (0..image.layers.len()).map(label).collect()
}
