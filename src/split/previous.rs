//! Reads the previous image, and decides which of its layers are kept above those of the base.

use std::sync::Arc;

use super::base::{Base, BaseLayers};
use super::kept::{self, KeptLayer};
use super::options::SplitOptions;
use super::report::{self, BaseReport, LayerReport, LostSecret, UpdateReport};
use super::secrets::{self, Purge};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::layers::Limits;
use crate::layers::changeset::ChangeKind;
use crate::layers::encode::EncodedLayer;
use crate::layers::flatten::{self, Keep, Known};
use crate::layers::read::LayerContent;
use crate::layers::tree;
use crate::model::content::{Budget, Contents};
use crate::model::fileset::{FileSet, Inode, InodeKind};
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{Analysis, Inventory};
use crate::plan::recorded_times::Held;
use crate::plan::update::{self, CarriedOver, DeadFile, LayerDecision, OldLayer, Update, Verdict};
use crate::plan::{self, Plan};
use crate::simulate;
use crate::transport::image::{Image, LayerBlob};

/// The previous image after reading.
pub(super) struct Previous {
    layers: Vec<OldLayer>,
    /// The layers as they are kept.
    kept: Vec<KeptLayer>,
    /// The contents of compressed layers' files are missing if no secrets are searched for.
    rootfs: Rootfs,
    carried_over: CarriedOver,
    /// Holds the file set's share of the memory budget until it is dropped.
    _limits: Limits,
}

/// The layers on which the new ones may be built.
struct Stack {
    /// Lowest first.
    layers: Vec<OldLayer>,
    /// The layers as they are kept.
    kept: Vec<KeptLayer>,
    /// The file set of all of them.
    files: FileSet,
    /// How many are those of the base.
    base: usize,
    /// The position of each layer of the previous image.
    previous: Vec<usize>,
    /// Contents of the files of the previous image.
    contents: Contents,
}

/// The layers of the new image: those kept from the base and from the previous image, and the new ones.
pub(super) struct Decision {
    /// The kept layers, lowest first.
    pub(super) kept: Vec<KeptLayer>,
    /// The plan of the new layers above them.
    pub(super) plan: Plan,
    /// How many of the kept layers are those of the base.
    pub(super) base: usize,
    /// Dead files in the layers of the base.
    base_dead: Vec<DeadFile>,
    /// The decisions on the previous image's layers, if there is one.
    update: Option<PreviousDecisions>,
}

/// The decisions on the previous image's layers, and the facts reported with them.
struct PreviousDecisions {
    /// On each layer of the stack.
    decisions: Vec<LayerDecision>,
    labels: Vec<String>,
    /// The positions of the previous image's layers among them.
    previous: Vec<usize>,
    dead: Vec<DeadFile>,
    secrets: Vec<LostSecret>,
    carried_over: CarriedOver,
}

impl Previous {
    /// Reads the previous image of `new`.
    pub(super) fn read(
        image: &Image,
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
        let layers: Vec<_> = read.layers.iter().zip(&image.layers).map(old).collect();
        let flat = read.flatten()?;
        let manifest = kept::manifest(image);
        let labels = kept::labels(image, manifest.as_ref());
        let keep = |i: usize| -> Result<KeptLayer> {
            let noted = manifest.as_ref().and_then(|m| m.layers.get(i));
            let layer = KeptLayer::new(&image.layers[i], &flat.layers[i], noted, &labels[i])?;
            Ok(layer.with_changes(&layers[i].changes))
        };
        let kept = (0..layers.len()).map(keep).collect::<Result<_>>()?;
        let carried_over = CarriedOver::default();
        Ok(Self { layers, kept, rootfs: flat.rootfs, carried_over, _limits: flat.limits })
    }

    /// Copies this image's timestamps to files of the new image that differ in nothing else, unless
    /// the options keep all timestamps. Those that are `fixed` are files of the base.
    pub(super) fn carry_over(
        &mut self,
        new: &mut Rootfs,
        fixed: &[bool],
        options: &SplitOptions,
        budget: &Arc<Budget>,
    ) -> Result<Held> {
        if options.update.exact {
            return Ok(Held::default());
        }
        let old = &self.rootfs.files;
        let (carried_over, held) = update::carry_over(new, budget, old, options.mtime, fixed)?;
        self.carried_over = carried_over;
        Ok(held)
    }

    /// Returns compression ratios of inodes of the new image, where they are known: if a layer in zstd has
    /// nothing that the new image lacks, its blob's size tells what its files take together.
    pub(super) fn ratios(&self, new: &FileSet) -> Vec<Option<f64>> {
        let mut ratios = vec![None; new.inodes().len()];
        let mut has_dead = vec![false; self.layers.len()];
        for dead in update::dead_files(new, &self.layers) {
            has_dead[dead.layer] = true;
        }
        for ((layer, kept), _) in self.layers.iter().zip(&self.kept).zip(&has_dead).filter(|l| !l.1)
        {
            let Some(ratio) = kept.ratio() else { continue };
            for change in &layer.changes {
                if let (ChangeKind::Add(Inode { kind: InodeKind::File(_), .. }), Some(id)) =
                    (&change.kind, new.id(&change.path))
                {
                    ratios[id.index()] = Some(ratio);
                }
            }
        }
        ratios
    }
}

impl Stack {
    /// Returns the layers of the previous image.
    fn of_previous(previous: Previous) -> Self {
        let Previous { layers, kept, rootfs: Rootfs { files, contents }, .. } = previous;
        let positions = (0..layers.len()).collect();
        Self { layers, kept, files, base: 0, previous: positions, contents }
    }

    /// Puts the layers of the previous image on those of the base, except those that are the same.
    fn on_base(base: BaseLayers, previous: Option<Previous>) -> Self {
        let n = base.kept.len();
        let BaseLayers { files, mut kept, mut layers } = base;
        let Some(Previous { layers: old, kept: old_kept, rootfs, .. }) = previous else {
            let (previous, contents) = (Vec::new(), Contents::default());
            return Self { layers, kept, files, base: n, previous, contents };
        };
        let mut positions = Vec::new();
        for (mut layer, keep) in old.into_iter().zip(old_kept) {
            if let Some(at) = kept[..n].iter().position(|k| k.diff_id == keep.diff_id) {
                positions.push(at);
                continue;
            }
            positions.push(layers.len());
            // An older version of the base.
            layer.must_drop |= keep.is_of_base();
            layers.push(layer);
            kept.push(keep);
        }
        // Where they don't fit on another base, as with a link to a file that it lacks, only the base is
        // known to be there.
        let all = layers.iter().map(|l| (l.name.as_str(), l.changes.clone()));
        let files = if let Ok((all, _)) = tree::apply(all) {
            all
        } else {
            layers[n..].iter_mut().for_each(|layer| layer.must_drop = true);
            files
        };
        Self { layers, kept, files, base: n, previous: positions, contents: rootfs.contents }
    }
}

/// What the new image may keep.
pub(super) struct Below {
    pub(super) base: Option<BaseLayers>,
    pub(super) previous: Option<Previous>,
}

impl Below {
    /// Decides which layers are kept, and plans the new ones.
    pub(super) fn decide(
        self,
        (new, inventory): (&Rootfs, &Inventory),
        purge: &mut Purge<'_>,
        options: &SplitOptions,
        progress: &dyn Progress,
    ) -> Result<Decision> {
        let carried_over = self.previous.as_ref().map(|previous| previous.carried_over);
        let stack = match (self.base, self.previous) {
            (None, None) => {
                let plan = plan::plan(&new.files, inventory, &options.planning());
                return Ok(Decision::first(plan));
            }
            (None, Some(previous)) => Stack::of_previous(previous),
            (Some(base), previous) => Stack::on_base(base, previous),
        };
        let dead = update::dead_files(&new.files, &stack.layers);
        let (base_dead, dead): (Vec<_>, Vec<_>) =
            dead.into_iter().partition(|d| d.layer < stack.base);
        purge.record(&new.files, &stack.layers, &dead);
        let secrets = if options.update.keep_secrets || carried_over.is_none() {
            Vec::new()
        } else {
            let new = secrets::NewContents { rootfs: new, analysis: &inventory.analysis };
            secrets::lost(&new, &dead, &stack.contents, progress)?
        };
        let secret = secrets.iter().map(|s| s.layer - 1);
        let now = update::NewImage {
            files: &new.files,
            inventory,
            target: options.target,
            base: stack.base,
            for_updates: options.for_updates || carried_over.is_some(),
        };
        let mut limits = options.update.clone();
        if carried_over.is_none() {
            // --max-layers is about updates.
            limits.cost_model.max_layers = plan::MAX_LAYERS;
        }
        let update = update::update(now, &stack.files, &stack.layers, dead, secret, &limits)?;
        let Update { decisions, plan, dead } = update;
        let labels = stack.kept.iter().map(|layer| layer.label.clone()).collect();
        let decided = stack.kept.into_iter().zip(&decisions);
        let kept = decided
            .filter(|(_, decision)| decision.verdict == Verdict::Kept)
            .map(|(layer, decision)| layer.with_live(decision.live))
            .collect();
        let update = carried_over.map(|carried_over| {
            // Layers are numbered as in the previous image.
            let number = |secret: LostSecret| {
                let at = stack.previous.iter().position(|at| *at == secret.layer - 1);
                LostSecret { layer: at.map_or(secret.layer, |at| at + 1), ..secret }
            };
            let secrets = secrets.into_iter().map(number).collect();
            let previous = stack.previous;
            PreviousDecisions { decisions, labels, previous, dead, secrets, carried_over }
        });
        Ok(Decision { kept, plan, base: stack.base, base_dead, update })
    }
}

impl Decision {
    /// Returns the decision without layers to keep: all are new.
    fn first(plan: Plan) -> Self {
        Self { kept: Vec::new(), plan, base: 0, base_dead: Vec::new(), update: None }
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
        let decisions = update.decisions.iter().zip(&update.labels).collect::<Vec<_>>();
        let stack = report::Decided { decisions: &decisions, previous: &update.previous };
        let secrets = update.secrets.clone();
        Some(report::update(&stack, &update.dead, update.carried_over, secrets, layers))
    }

    /// Returns the report on the base, of these `layers`; `None` without one.
    pub(super) fn base_report(
        &self,
        base: Option<&Base<'_>>,
        layers: &[LayerReport],
    ) -> Option<BaseReport> {
        Some(BaseReport::new(&layers[..self.base], &self.base_dead, base?.source()))
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
