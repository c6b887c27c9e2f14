//! The whole of `relayer split`: from an opened image to a bundle that can be written.
//!
//! ```text
//! open → flatten → (previous: read → carry over → decide) → analyze → plan → encode → assemble → report
//! ```
//!
//! Uses the modules below it: `plan` decides, `layers` reads and encodes, `transport` provides the
//! images. Start with [`split`], [`SplitOptions`] and [`report::ImageReport`], the result of one image.

mod assemble;
mod base;
mod kept;
mod options;
mod previous;
mod pushed;
pub mod report;
mod secrets;
mod stale;

pub use base::{Base, BaseLayers};
pub use options::{PLAN, SOURCE, SplitOptions, VERSION, noted_compression};
pub use pushed::{is_estimated, pulled};

use std::sync::Arc;

use serde_json::Value;

use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::threads;
use crate::layers::encode::{self, EncodedLayer};
use crate::layers::flatten::{self, Flattened, Keep};
use crate::model::content::{BlobSink, Budget, Contents};
use crate::model::counts::Counts;
use crate::model::digest::Digest;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::{Descriptor, Index};
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{self, Inventory};
use crate::plan::{self, MAX_LAYERS, Plan, recorded_times};
use crate::secrets::{Patterns, config_note, scan_config};
use crate::simulate;
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, Opened};
use assemble::Parts;
use previous::{Below, Decision, Previous};
use report::{ImageReport, PullReport};
use secrets::Purge;
use stale::Stale;

/// Splits every image of `opened`, as updates of the images in `previous` if given. The reports are
/// in the same order.
///
/// # Errors
/// If an image can't be read, is not valid, can't be split, or exceeds a limit of
/// `options`, or if a pattern of `--purge` matches nothing.
pub fn split(
    opened: &Opened,
    previous: Option<&Opened>,
    options: &SplitOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<(Bundle, Vec<ImageReport>)> {
    split_early(opened, (previous, &[]), options, budget, progress, &())
}

/// What the result may have in common with other images: the image before it, and the base of each image
/// to split, if it has one.
pub type KeptFrom<'a> = (Option<&'a Opened>, &'a [Option<Base<'a>>]);

/// Does the same as [`split`] above the bases, and gives each layer to `sink` as soon as its blob is known,
/// so that it can be uploaded while others are encoded.
///
/// # Errors
/// Those of [`split`].
pub fn split_early(
    opened: &Opened,
    (previous, bases): KeptFrom<'_>,
    options: &SplitOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
    sink: &dyn BlobSink,
) -> Result<(Bundle, Vec<ImageReport>)> {
    let job = Job { options, budget, pool: threads::pool(options.threads)?, progress, sink };
    let files = |at: usize| job.flatten(&opened.images[at], bases.get(at).and_then(Option::as_ref));
    job.images(opened, (previous, bases), files)
}

/// Does the same as [`split_early`] for images with other file sets than their layers have: `files` are
/// those of each image and the layers of its base, of which there is one in `bases` for each.
///
/// # Errors
/// Those of [`split`].
pub fn split_files(
    opened: &Opened,
    bases: &[Option<Base<'_>>],
    files: Vec<(Flattened, BaseLayers)>,
    options: &SplitOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
    sink: &dyn BlobSink,
) -> Result<(Bundle, Vec<ImageReport>)> {
    let job = Job { options, budget, pool: threads::pool(options.threads)?, progress, sink };
    let mut files = files.into_iter();
    let next = |_| match files.next() {
        Some((flat, base)) => Ok((flat, Some(base))),
        None => Err(Error::refused("an image has no files")),
    };
    job.images(opened, (None, bases), next)
}

/// Returns the index of a multi-platform image without annotations about layers that are gone, and
/// the names of the removed ones.
fn index(opened: &Opened, reports: &[ImageReport]) -> (Option<Index<Value>>, Vec<String>) {
    let mut index = opened.index.clone();
    let mut dropped = Vec::new();
    if let Some(annotations) = index.as_mut().and_then(|i| i.annotations.as_mut()) {
        let images = opened.images.iter().zip(reports);
        let each = images.map(|(image, report)| Stale::of_annotations(image, &report.layers));
        *annotations = Stale::of_all(each).annotations(annotations, &mut dropped);
    }
    (index, dropped)
}

/// The parts of a split that all platforms share.
struct Job<'a> {
    options: &'a SplitOptions,
    budget: &'a Arc<Budget>,
    pool: rayon::ThreadPool,
    progress: &'a dyn Progress,
    sink: &'a dyn BlobSink,
}

impl Job<'_> {
    /// Splits all images. `files` returns the file set of the image with a number, and the layers of its
    /// base.
    fn images(
        &self,
        opened: &Opened,
        (previous, bases): KeptFrom<'_>,
        mut files: impl FnMut(usize) -> Result<(Flattened, Option<BaseLayers>)>,
    ) -> Result<(Bundle, Vec<ImageReport>)> {
        let options = self.options;
        let mut bundle = Bundle { names: opened.names.clone(), ..Bundle::default() };
        let mut reports = Vec::new();
        let mut descriptors = Vec::new();
        let mut purge = Purge::new(&options.update.purge, opened.images.len());
        for (at, image) in opened.images.iter().enumerate() {
            let before = previous.and_then(|p| p.counterpart(&opened.images, at));
            let base = bases.get(at).and_then(Option::as_ref);
            let (descriptor, mut report) = files(at)
                .and_then(|files| self.image((image, base), files, before, &mut purge, &mut bundle))
                .with_context(|| format!("image {}", image.platform))?;
            if previous.is_some() && before.is_none() {
                let platform = &image.platform;
                report.notes.push(format!("the previous image has no image for {platform}"));
            }
            reports.push(report);
            descriptors.extend(descriptor);
        }
        let (index, dropped) = index(opened, &reports);
        if let Some(report) = reports.first_mut() {
            report.notes.extend(stale::note(&dropped));
        }
        if !options.dry_run {
            bundle.finish(index.as_ref(), descriptors)?;
        }
        Ok((bundle, reports))
    }

    /// Splits one image, on its base and as an update of `before` if given.
    fn image(
        &self,
        (image, base): (&Image, Option<&Base<'_>>),
        (mut flat, base_layers): (Flattened, Option<BaseLayers>),
        before: Option<&Image>,
        purge: &mut Purge<'_>,
        bundle: &mut Bundle,
    ) -> Result<(Option<Descriptor>, ImageReport)> {
        let Self { options, budget, progress, .. } = *self;
        let dropped_noise =
            if options.drop_noise { analyze::drop_noise(&mut flat.rootfs.files)? } else { 0 };
        let fixed = base_layers.as_ref().map(|base| base.unchanged(&flat.rootfs.files));
        let fixed = fixed.unwrap_or_default();
        let mut held =
            recorded_times::apply_above(options.mtime, &fixed, &mut flat.rootfs, budget)?;
        let read = |before| self.previous(before, &fixed, &mut flat.rootfs, &mut held);
        let previous = before.map(read).transpose()?;
        // Above kept layers, new ones are small.
        let is_first = previous.is_none() && base_layers.is_none();
        let files = Counts::of(&flat.rootfs.files);
        let new_layers =
            if is_first { options.target.layers(files.bytes) } else { MAX_LAYERS.into() };
        let known = previous.as_ref().map(|previous| previous.ratios(&flat.rootfs.files));
        let inventory = self.analyze(&flat.rootfs, new_layers, &known.unwrap_or_default())?;
        let (below, new) = (Below { base: base_layers, previous }, (&flat.rootfs, &inventory));
        let decision = self.pool.install(|| below.decide(new, purge, options, progress))?;
        let stamped = self.stamped_layers(before, &decision.plan, &flat.rootfs, &inventory)?;
        let mut notes = [&flat.notes[..], &inventory.analysis.notes].concat();
        notes.extend(decision.notes());
        notes.extend(purge.end_of_image()?);
        let input = self.pool.install(|| pulled(image, &flat, &inventory.estimates))?;
        drop(inventory.estimates);
        self.announce(&decision);
        let encoded = self.encode(&flat.rootfs, &decision.plan)?;
        // The contents are no longer needed; the next platform gets their memory.
        flat.rootfs.contents = Contents::default();
        let layers = decision.layers(&inventory.analysis, encoded.as_deref());
        let compression = simulate::CompressionKind::of(options.compression.media_type());
        let pulled = decision.pulled(&layers, compression);
        let pull = options.profile.map(|profile| PullReport::new(profile, &input, &pulled));
        let next_release = stamped.map(|stamped| {
            let new = pulled.iter().skip(decision.kept.len());
            let sizes: Vec<u64> = new.map(|layer| layer.blob_bytes).collect();
            plan::next_release(&decision.plan, &inventory.analysis, &sizes, &stamped)
        });
        notes.extend(pull.and_then(PullReport::note));
        let config_secrets = scan_config(&image.config, &Patterns::new()?);
        notes.extend(config_note(&config_secrets));
        let parts = Parts { image, before, base, decision: &decision, layers: &layers, options };
        let written = parts.write(encoded.as_deref(), bundle, &mut notes)?;
        let report = ImageReport {
            platform: image.platform.to_string(),
            source: Digest::of(&image.config_bytes),
            before: report::totals_before(&flat.layers, &input, is_estimated(image)),
            input,
            after: report::totals(&layers, &pulled),
            files,
            hidden: flat.hidden,
            dropped_noise,
            held,
            base: decision.base_report(base, &layers),
            update: decision.report(&layers),
            layers,
            next_release,
            pull,
            config_secrets,
            manifest: written.as_ref().map(|d| d.digest),
            config: written.as_ref().and_then(|_| Some(bundle.listed.last()?.config)),
            notes,
        };
        Ok((written, report))
    }

    /// Announces the kept layers, whose blobs are known before anything is encoded.
    fn announce(&self, decision: &Decision) {
        for layer in decision.kept.iter().filter(|_| !self.options.dry_run) {
            self.sink.add(layer.descriptor.digest, &layer.source);
        }
    }

    /// Reads the image that came before `rootfs`, and carries times over from it.
    fn previous(
        &self,
        before: &Image,
        fixed: &[bool],
        rootfs: &mut Rootfs,
        held: &mut recorded_times::Held,
    ) -> Result<Previous> {
        let Self { options, budget, progress, .. } = *self;
        self.pool.install(|| {
            let mut previous = Previous::read(before, rootfs, options, budget, progress)
                .with_context(|| "the previous image")?;
            held.add(&previous.carry_over(rootfs, fixed, options, budget)?);
            Ok(previous)
        })
    }

    fn flatten(
        &self,
        image: &Image,
        base: Option<&Base<'_>>,
    ) -> Result<(Flattened, Option<BaseLayers>)> {
        if image.platform.os == "windows" {
            return Err(Error::unsupported(
                "Windows images can't be split: their layers hold registry hives and security \
                 descriptors that can't be moved between layers",
            ));
        }
        let max_size = self.options.max_size;
        self.pool.install(|| {
            let read =
                flatten::read(&image.layers, Keep::Contents, max_size, self.budget, self.progress)?;
            let base = base.map(|base| BaseLayers::new(base, image, &read)).transpose()?;
            Ok((read.flatten()?, base))
        })
    }

    /// Returns the components with their learned rates of change, and the estimates for up to this many
    /// `layers`. `known` has compression ratios of inodes.
    fn analyze(&self, rootfs: &Rootfs, layers: u64, known: &[Option<f64>]) -> Result<Inventory> {
        let options = self.options;
        self.progress.begin("analyze", 0);
        let inventory = self.pool.install(|| {
            let mut analysis = analyze::analyze(rootfs, &options.churn)?;
            for component in &mut analysis.components {
                component.learned =
                    options.history.get(&component.name).copied().unwrap_or_default();
            }
            analyze::estimate(rootfs, analysis, layers, known)
        });
        self.progress.end();
        inventory
    }

    /// Returns for each layer whether the next build changes it by other times alone; `None` with a
    /// previous image, which prevents that.
    fn stamped_layers(
        &self,
        before: Option<&Image>,
        plan: &Plan,
        rootfs: &Rootfs,
        inventory: &Inventory,
    ) -> Result<Option<Vec<bool>>> {
        match (before, self.options.mtime) {
            (Some(_), _) => Ok(None),
            (None, MtimePolicy::Preserve) => {
                plan::stamped_layers(plan, rootfs, &inventory.analysis).map(Some)
            }
            (None, _) => Ok(Some(vec![false; plan.layers.len()])),
        }
    }

    /// Encodes the layers of a plan; returns `None` in a dry run.
    fn encode(&self, rootfs: &Rootfs, plan: &Plan) -> Result<Option<Vec<EncodedLayer>>> {
        let Self { options, budget, .. } = *self;
        if options.dry_run {
            return Ok(None);
        }
        let layers: Vec<_> = plan.layers.iter().map(encode::LayerSpec::from).collect();
        let threads = options.encoding_threads(budget.remaining_after_index());
        let encoding = encode::EncodeOptions { compression: options.compression, threads };
        encode::encode(rootfs, &layers, encoding, budget, self.progress, self.sink).map(Some)
    }
}
