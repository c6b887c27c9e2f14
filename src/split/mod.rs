//! The main job, from an opened image to a bundle that can be written:
//! flatten → analyze → plan → encode; with a previous image, [`update`] plans.

mod assemble;
mod previous;
pub mod report;
mod secrets;
mod stale;

use std::sync::Arc;

use crate::base::error::{Context, Error, Result};
use crate::base::limits::DEFAULT_MEMORY;
use crate::base::progress::Progress;
use crate::base::threads;
use crate::format::codec::Compression;
use crate::layers::Limits;
use crate::layers::encode;
use crate::layers::flatten::{Flattened, Unpacked, flatten};
use crate::model::content::{Budget, Contents};
use crate::model::digest::Digest;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::{Annotations, Descriptor};
use crate::plan::analyze::{self, ChurnRule};
use crate::plan::history::{self, Rates};
use crate::plan::recorded_times;
use crate::plan::update;
use crate::plan::{self, Target};
use crate::simulate::{self, Profile};
use crate::split::report::{ImageReport, PullReport, Totals};
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, LayerBlob, Opened};
use previous::Previous;
use secrets::Purge;
use stale::Stale;

/// Digest of the config of the image that was split: the same for every way to store it.
pub const SOURCE: &str = "io.relayer.source";
/// Version of relayer that wrote an image.
pub const VERSION: &str = "io.relayer.version";
/// The options that the plan was made with; on a layer, what is in it.
pub const PLAN: &str = "io.relayer.plan";
/// How our own lines in an image's history begin.
const HISTORY: &str = "relayer split: ";

/// How relayer compressed an image's layers, from the manifest's annotations.
pub fn noted_compression(annotations: &Annotations) -> Option<Compression> {
    let mut words = annotations.get(PLAN)?.split(' ');
    Compression::parse(words.find_map(|word| word.strip_prefix("compression="))?).ok()
}

/// What to do with an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many layers, or how large.
    pub target: Target,
    /// Whose pulls are to be simulated.
    pub profile: Option<&'static Profile>,
    /// Codec and level.
    pub compression: Compression,
    /// What becomes of modification times.
    pub mtime: MtimePolicy,
    /// Rates stated by hand.
    pub churn: Vec<ChurnRule>,
    /// What earlier images tell.
    pub history: Rates,
    /// How to update a previous image.
    pub update: update::Options,
    /// Leave out logs and caches.
    pub drop_noise: bool,
    /// Plan only: nothing is encoded, and the bundle is empty.
    pub dry_run: bool,
    /// Threads to use.
    pub threads: usize,
    /// Memory to use for contents, in bytes, beside the file index.
    pub memory: u64,
    /// The image may expand to so many bytes.
    pub max_size: u64,
}

impl Default for Options {
    /// Eight zstd layers, times preserved, one thread a core, 512 MiB.
    fn default() -> Self {
        Self {
            target: Target::Layers(8),
            profile: None,
            compression: Compression::Zstd { level: 3, window_log: None },
            mtime: MtimePolicy::Preserve,
            churn: Vec::new(),
            history: Rates::new(),
            update: update::Options::default(),
            drop_noise: false,
            dry_run: false,
            threads: threads::cores(),
            memory: DEFAULT_MEMORY,
            max_size: 256 << 30,
        }
    }
}

impl Options {
    /// Threads for encoding: what they hold must leave half of the memory to the spools.
    fn encoding_threads(&self, memory: u64) -> usize {
        let affordable = memory / 2 / (2 * encode::MEMORY_A_WORKER);
        self.threads.clamp(1, (affordable as usize).max(1))
    }

    /// The memory, less what encoders will hold.
    pub fn budget(&self) -> Arc<Budget> {
        let encoders = self.encoding_threads(self.memory) as u64 * 2 * encode::MEMORY_A_WORKER;
        Budget::beside(self.memory, encoders, None)
    }

    /// As it is noted on the image.
    fn describe(&self) -> String {
        let target = match self.target {
            Target::Layers(n) | Target::Pull { layers: Some(n), .. } => Some(format!("target={n}")),
            Target::Size(bytes) => Some(format!("layer-size={bytes}")),
            Target::Pull { layers: None, .. } => None,
        };
        let mut words: Vec<String> = target.into_iter().collect();
        if let Target::Pull { profile, .. } = self.target {
            words.push(format!("profile={}", profile.name));
        }
        words
            .extend([format!("compression={}", self.compression), format!("mtime={}", self.mtime)]);
        words.extend(self.churn.iter().map(|rule| format!("churn={rule}")));
        if !self.history.is_empty() {
            words.push(format!("history={}", history::digest(&self.history)));
        }
        if self.drop_noise {
            words.push("drop-noise".into());
        }
        words.join(" ")
    }
}

/// Splits every image of `opened`, on top of the images of `previous` if there are. The reports
/// are in the same order.
pub fn split(
    opened: &Opened,
    previous: Option<&Opened>,
    options: &Options,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<(Bundle, Vec<ImageReport>)> {
    let pool = threads::pool(options.threads)?;
    let job = Job { options, budget, pool, progress };
    let mut bundle = Bundle { names: opened.names.clone(), ..Bundle::default() };
    let mut reports = Vec::new();
    let mut descriptors = Vec::new();
    let mut purge = Purge::new(&options.update.purge, opened.images.len());
    for (at, image) in opened.images.iter().enumerate() {
        let before = previous.and_then(|p| previous::of_platform(p, &opened.images, at));
        let (descriptor, mut report) = job
            .image(image, before, &mut purge, &mut bundle)
            .context(|| format!("image {}", image.platform))?;
        if previous.is_some() && before.is_none() {
            let platform = &image.platform;
            report.notes.push(format!("the previous image has nothing for {platform}"));
        }
        reports.push(report);
        descriptors.extend(descriptor);
    }
    if !options.dry_run {
        let manifest = |image: &Image| image.manifest.as_deref().map(Digest::of);
        let unchanged =
            opened.images.iter().map(manifest).eq(descriptors.iter().map(|d| Some(d.digest)));
        let mut index = opened.index.clone();
        if let Some(annotations) =
            index.as_mut().and_then(|i| i.annotations.as_mut()).filter(|_| !unchanged)
        {
            let mut dropped = Vec::new();
            *annotations = Stale::of_all(&opened.images).annotations(annotations, &mut dropped);
            if let Some(report) = reports.first_mut() {
                report.notes.extend(stale::note(&dropped));
            }
        }
        bundle.finish(index.as_ref(), descriptors)?;
    }
    Ok((bundle, reports))
}

/// What is the same for every platform.
struct Job<'a> {
    options: &'a Options,
    budget: &'a Arc<Budget>,
    pool: rayon::ThreadPool,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn image(
        &self,
        image: &Image,
        before: Option<&Image>,
        purge: &mut Purge<'_>,
        bundle: &mut Bundle,
    ) -> Result<(Option<Descriptor>, ImageReport)> {
        let Self { options, budget, progress, .. } = self;
        if image.platform.os == "windows" {
            return Err(Error::unsupported(
                "Windows layers hold registry hives and security descriptors that can't be moved \
                 between layers",
            ));
        }
        let limits = Limits::new(options.max_size, &image.layers, budget);
        let mut flat =
            self.pool.install(|| flatten(&image.layers, Some(budget), &limits, *progress))?;
        let dropped = if options.drop_noise { analyze::drop_noise(&mut flat.files)? } else { 0 };
        let mut held =
            recorded_times::apply(options.mtime, &mut flat.files, &mut flat.contents, budget)?;
        let mut previous = before
            .map(|before| {
                let read = || Previous::read(before, &mut flat, options, budget, *progress);
                self.pool.install(read).context(|| "the previous image")
            })
            .transpose()?;
        if let Some(previous) = &previous {
            held.add(previous.held());
        }
        let (analysis, estimates) = self.pool.install(|| -> Result<_> {
            let mut analysis = analyze::analyze(&flat.files, &flat.contents, &options.churn)?;
            for component in &mut analysis.components {
                component.learned =
                    options.history.get(&component.name).copied().unwrap_or_default();
            }
            let estimates = analyze::estimate(&flat.files, &flat.contents, &analysis)?;
            Ok((analysis, estimates))
        })?;
        let plan = if let Some(previous) = &mut previous {
            let now = secrets::New::of(&flat, &analysis);
            let decide = || previous.decide(&now, &estimates, purge, options, *progress);
            self.pool.install(decide)?
        } else {
            let options = plan::Options { target: options.target, only: None };
            plan::plan(&flat.files, &analysis, &estimates, &options)
        };
        let mut notes = [&flat.notes[..], &analysis.notes].concat();
        notes.extend(previous.iter().flat_map(Previous::notes));
        notes.extend(purge.end_of_image()?);
        let input = pulled(image, &flat, &estimates);
        drop(estimates);
        let mut report = ImageReport {
            platform: image.platform.to_string(),
            source: Digest::of(&image.config_bytes),
            before: Totals {
                layers: image.layers.len(),
                blob_bytes: Some(image.layers.iter().map(|l| l.source.size()).sum()),
                tar_bytes: Some(flat.layers.iter().map(|l| l.bytes).sum()),
            },
            input,
            after: Totals::default(),
            files: report::count(&flat.files),
            hidden: flat.hidden.clone(),
            dropped_noise: dropped,
            held,
            layers: Vec::new(),
            update: None,
            pull: None,
            manifest: None,
            config: None,
            notes,
        };
        let encoded = if options.dry_run {
            None
        } else {
            let layers: Vec<_> = plan.layers.iter().map(encode::Layer::from).collect();
            let (compression, threads) =
                (options.compression, options.encoding_threads(budget.beside_index()));
            let encoding = encode::Options { compression, threads };
            let (files, contents) = (&flat.files, &flat.contents);
            Some(encode::encode(files, contents, &layers, encoding, budget, *progress)?)
        };
        // The contents are no longer needed; their memory is the next platform's.
        flat.contents = Contents::default();
        let kept = previous.as_ref().map_or(&[][..], Previous::kept);
        report.layers = kept.iter().map(previous::Kept::report).collect();
        report.layers.extend(report::layers(&plan, &analysis, encoded.as_deref()));
        report.after = report::totals(&report.layers);
        report.update = previous.as_ref().map(|p| p.report(&report.layers));
        report.pull = options.profile.map(|profile| {
            let compression = simulate::Compression::of(options.compression.media_type());
            let new = report.layers[kept.len()..].iter().map(|l| l.pulled(compression));
            let output: Vec<simulate::Layer> =
                kept.iter().map(previous::Kept::pulled).chain(new).collect();
            PullReport::new(profile, &report.input, &output)
        });
        report.notes.extend(report.pull.and_then(PullReport::note));
        let Some(encoded) = encoded else { return Ok((None, report)) };
        let notes = &mut report.notes;
        let mut descriptor = match &previous {
            Some(p) if p.is_unchanged(image, &plan) => bundle.add_unchanged(p.image)?,
            _ => assemble::assemble(image, bundle, kept, &plan, &encoded, options, notes)?,
        };
        descriptor.platform = Some(image.platform.clone());
        descriptor.annotations = assemble::index_annotations(image, &report.layers, notes);
        report.manifest = Some(descriptor.digest);
        report.config = bundle.listed.last().map(|listed| listed.config);
        Ok((Some(descriptor), report))
    }
}

/// The input's layers as a pull sees them. What is not compressed a push would compress with gzip,
/// to as much of its bytes as the `estimates` are of the image's.
pub fn pulled(image: &Image, flat: &Flattened, estimates: &[u64]) -> Vec<simulate::Layer> {
    let compressed: u64 = estimates.iter().sum();
    let bytes = report::count(&flat.files).bytes.max(1);
    let one = |(layer, unpacked): (&LayerBlob, &Unpacked)| {
        let mut compression = simulate::Compression::of(&layer.media_type);
        let mut stored = layer.source.size();
        if compression == simulate::Compression::None {
            compression = simulate::Compression::Gzip;
            let share = compressed as f64 / bytes as f64;
            let estimate = (unpacked.bytes as f64 * share) as u64;
            stored = plan::stored(estimate, unpacked.bytes, compression).min(unpacked.bytes);
        }
        simulate::Layer {
            blob_bytes: stored,
            tar_bytes: unpacked.bytes,
            entries: unpacked.entries,
            compression,
        }
    };
    image.layers.iter().zip(&flat.layers).map(one).collect()
}
