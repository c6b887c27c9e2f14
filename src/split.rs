//! The main job, from an opened image to a bundle that can be written:
//! flatten → analyze → plan → encode.

use std::sync::Arc;

use crate::analyze::{self, Analysis, ChurnRule};
use crate::codec::Compression;
use crate::content::{Budget, Source};
use crate::digest::Digest;
use crate::encode::{self, EncodedLayer};
use crate::error::{Context, Error, Result};
use crate::flatten::{Flattened, flatten};
use crate::layer::{Limits, MAX_ENTRIES};
use crate::mtime::MtimePolicy;
use crate::oci::{Descriptor, HistoryEntry};
use crate::plan::{self, Plan, Target};
use crate::progress::Progress;
use crate::report::{self, ImageReport, Totals};
use crate::transport::bundle::{Blob, Bundle, new_manifest};
use crate::transport::open::{Image, Opened};

/// Digest of the config of the image that was split: the same for every way to store it.
pub const SOURCE: &str = "io.relayer.source";
/// Version of relayer that wrote an image.
pub const VERSION: &str = "io.relayer.version";
/// The options that the plan was made with; on a layer, what is in it.
pub const PLAN: &str = "io.relayer.plan";
/// How our own lines in an image's history begin.
const HISTORY: &str = "relayer split: ";

/// What to do with an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many layers, or how large.
    pub target: Target,
    /// Codec and level.
    pub compression: Compression,
    /// What becomes of modification times.
    pub mtime: MtimePolicy,
    /// Rates stated by hand.
    pub churn: Vec<ChurnRule>,
    /// Plan only: nothing is encoded, and the bundle is empty.
    pub dry_run: bool,
    /// Threads to use.
    pub threads: usize,
    /// Memory to use for contents, in bytes, beside the file index.
    pub memory: u64,
    /// The image may unfold to so many bytes.
    pub max_size: u64,
}

impl Default for Options {
    /// Eight zstd layers, times preserved, one thread a core, 512 MiB.
    fn default() -> Self {
        Self {
            target: Target::Layers(8),
            compression: Compression::Zstd { level: 3, window_log: None },
            mtime: MtimePolicy::Preserve,
            churn: Vec::new(),
            dry_run: false,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: 512 << 20,
            max_size: 256 << 30,
        }
    }
}

impl Options {
    /// Threads for encoding: what they hold must leave half of the memory to the spools.
    fn encoding_threads(&self) -> usize {
        let affordable = self.memory / 2 / (2 * encode::MEMORY_A_WORKER);
        self.threads.clamp(1, (affordable as usize).max(1))
    }

    /// Memory for the spools: what encoders leave, and an eighth for buffers and the allocator.
    pub fn spool_memory(&self) -> u64 {
        let encoders = self.encoding_threads() as u64 * 2 * encode::MEMORY_A_WORKER;
        self.memory.saturating_sub(encoders) / 8 * 7
    }

    /// As it is noted on the image.
    fn describe(&self) -> String {
        let target = match self.target {
            Target::Layers(n) => format!("target={n}"),
            Target::Size(bytes) => format!("layer-size={bytes}"),
        };
        let mut words = vec![
            target,
            format!("compression={}", self.compression),
            format!("mtime={}", self.mtime),
        ];
        words.extend(self.churn.iter().map(|rule| format!("churn={rule}")));
        words.join(" ")
    }
}

/// Splits every image of `opened`. The reports are in the same order.
pub fn split(
    opened: &Opened,
    options: &Options,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<(Bundle, Vec<ImageReport>)> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|e| Error::new(crate::error::ErrorKind::Io, format!("starting threads: {e}")))?;
    let mut bundle = Bundle { names: opened.names.clone(), ..Bundle::default() };
    let mut reports = Vec::new();
    let mut descriptors = Vec::new();
    for image in &opened.images {
        let (descriptor, report) = one(image, &mut bundle, options, budget, &pool, progress)
            .context(|| format!("image {}", image.platform))?;
        reports.push(report);
        descriptors.extend(descriptor);
    }
    if !options.dry_run {
        bundle.finish(opened.index.as_ref(), descriptors)?;
    }
    Ok((bundle, reports))
}

fn one(
    image: &Image,
    bundle: &mut Bundle,
    options: &Options,
    budget: &Arc<Budget>,
    pool: &rayon::ThreadPool,
    progress: &dyn Progress,
) -> Result<(Option<Descriptor>, ImageReport)> {
    if image.platform.os == "windows" {
        return Err(Error::unsupported(
            "Windows layers hold registry hives and security descriptors that can't be moved \
             between layers",
        ));
    }
    let limits = Limits::new(options.max_size, MAX_ENTRIES);
    let (mut flat, analysis, estimates);
    (flat, analysis, estimates) = pool.install(|| -> Result<_> {
        let mut flat = flatten(&image.layers, Some(budget), &limits, progress)?;
        flat.files.set_mtimes(|found| options.mtime.apply(found));
        let analysis = analyze::analyze(&flat.files, &flat.contents, &options.churn)?;
        let estimates = analyze::estimate(&flat.files, &flat.contents, &analysis)?;
        Ok((flat, analysis, estimates))
    })?;
    let plan =
        plan::plan(&flat.files, &analysis, &estimates, &plan::Options { target: options.target });
    drop(estimates);
    let mut report = planned_report(image, &flat, &analysis, &plan);
    if options.dry_run {
        return Ok((None, report));
    }
    let layers: Vec<&[u32]> = plan.layers.iter().map(|l| l.entries.as_slice()).collect();
    let encoding =
        encode::Options { compression: options.compression, threads: options.encoding_threads() };
    let encoded = encode::encode(&flat.files, &flat.contents, &layers, encoding, budget, progress)?;
    // The contents are no longer needed; their memory is the next platform's.
    flat.contents = crate::content::Contents::default();
    let descriptor = assemble(image, bundle, &plan, &encoded, options)?;
    report.layers = report::layers(&plan, &analysis, Some(&encoded));
    report.after = Totals {
        layers: encoded.len(),
        blob_bytes: Some(encoded.iter().map(EncodedLayer::bytes).sum()),
        tar_bytes: Some(encoded.iter().map(|e| e.tar_bytes).sum()),
    };
    report.manifest = Some(descriptor.digest);
    report.config = bundle.listed.last().map(|listed| listed.config);
    Ok((Some(descriptor), report))
}

fn planned_report(
    image: &Image,
    flat: &Flattened,
    analysis: &Analysis,
    plan: &Plan,
) -> ImageReport {
    ImageReport {
        platform: image.platform.to_string(),
        source: Digest::of(&image.config_bytes),
        before: Totals {
            layers: image.layers.len(),
            blob_bytes: Some(image.layers.iter().map(|l| l.source.size()).sum()),
            tar_bytes: Some(flat.tar_bytes),
        },
        after: Totals { layers: plan.layers.len(), ..Totals::default() },
        files: report::count(&flat.files),
        hidden: flat.hidden.clone(),
        layers: report::layers(plan, analysis, None),
        manifest: None,
        config: None,
        notes: analysis.notes.clone(),
    }
}

/// Adds an image's layers, config and manifest to the bundle.
fn assemble(
    image: &Image,
    bundle: &mut Bundle,
    plan: &Plan,
    encoded: &[EncodedLayer],
    options: &Options,
) -> Result<Descriptor> {
    let media_type = options.compression.media_type();
    let mut descriptors = Vec::new();
    let mut history = Vec::new();
    for (layer, planned) in encoded.iter().zip(&plan.layers) {
        let mut d = Descriptor::new(media_type, layer.digest, layer.bytes());
        d.annotations = Some([(PLAN.to_owned(), planned.label.clone())].into());
        descriptors.push(d);
        history.push(HistoryEntry {
            created: image.config.created().map(str::to_owned),
            created_by: Some(format!("{HISTORY}{}", planned.label)),
        });
        let source: Source = Arc::clone(&layer.source);
        bundle.blobs.insert(layer.digest, Blob { source, verified: true });
    }
    let diff_ids: Vec<Digest> = encoded.iter().map(|e| e.diff_id).collect();
    let config = image.config.without_history(HISTORY).with_layers(&diff_ids, &history);
    let mut manifest = new_manifest(descriptors);
    let mut annotations = image.annotations.clone();
    // An image that is split again keeps the name of what it once was, so that splitting a result
    // with the same options gives that result.
    annotations.entry(SOURCE.into()).or_insert_with(|| Digest::of(&image.config_bytes).to_string());
    annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
    annotations.insert(PLAN.into(), options.describe());
    manifest.annotations = Some(annotations);
    let mut descriptor = bundle.image(&config, &mut manifest)?;
    descriptor.platform = Some(image.platform.clone());
    descriptor.annotations = image.index_annotations();
    Ok(descriptor)
}
