//! Size and speed of every compression at every number of layers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;
use serde::Serialize;

use super::Subject;
use super::options::{MatrixOptions, USUAL};
use super::sample::{Runs, Sample};
use super::stream::{self, Measured};
use super::subject::share;
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::format::codec::Compression;
use crate::layers::encode;
use crate::model::content::{Budget, SharedMemory, Source};
use crate::plan::{self, Target};
use crate::split::report::LayerReport;

/// Sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Number of files in it.
    pub files: u64,
}

/// A compression at one number of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Requested number of layers.
    pub target: u32,
    /// Whether the bytes of blobs are estimated from a sample.
    pub estimated: bool,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// Bytes of all tars.
    pub tar_bytes: u64,
    /// The layers, lowest first.
    pub layers: Vec<Sizes>,
}

impl Cell {
    /// Formats the bytes of all blobs, after a `~` if they are estimated.
    pub fn size(&self) -> String {
        format!("{}{}", if self.estimated { "~" } else { "" }, ByteSize(self.blob_bytes))
    }
}

/// A compression.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixRow {
    /// Name of the compression.
    pub compression: String,
    /// Bytes of its largest window, which a decoder must hold.
    pub window: u64,
    /// Bytes of tar per byte of blob, at the number of layers at which all are compared.
    pub ratio: f64,
    /// Bytes of tar compressed per second of processor time.
    pub encode: f64,
    /// Bytes of tar decompressed per second of processor time.
    pub decode: f64,
    /// A cell for each measured number of layers.
    pub cells: Vec<Cell>,
}

impl MatrixRow {
    /// Returns the cell of this number of layers, if it was measured.
    pub fn at(&self, layers: u32) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.target == layers)
    }
}

/// Formats a speed in MB/s, with one decimal below 10.
pub fn speed(bytes_per_second: f64) -> String {
    let speed = bytes_per_second / 1e6;
    if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") }
}

/// The measurements of all compressions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// Bytes of files in the image.
    pub file_bytes: u64,
    /// Bytes of files in the sample; those of the image if it was measured as a whole.
    pub sample_bytes: u64,
    /// Number of layers of each ratio.
    pub compared_at: u32,
    /// The compressions in the requested order.
    pub rows: Vec<MatrixRow>,
}

impl Matrix {
    /// Returns the measured numbers of layers, ascending.
    pub fn counts(&self) -> Vec<u32> {
        let counts: BTreeSet<u32> =
            self.rows.iter().flat_map(|row| &row.cells).map(|c| c.target).collect();
        counts.into_iter().collect()
    }

    /// Sets the bytes of `layers`, the plan for this number of layers, to those measured with the compression
    /// of `split`, if they were.
    pub fn set_sizes(&self, target: u32, layers: &mut [LayerReport]) {
        let usual = self.rows.iter().find(|row| row.compression == USUAL.to_string());
        let cell = usual.and_then(|row| row.at(target));
        for (layer, sizes) in layers.iter_mut().zip(cell.iter().flat_map(|cell| &cell.layers)) {
            layer.blob_bytes = Some(sizes.blob_bytes);
            layer.tar_bytes = Some(sizes.tar_bytes);
        }
    }
}

/// How a compression is measured.
struct Measurement<'a> {
    compression: Compression,
    layers: &'a [u32],
    /// The sample for its sizes; `None` for those that are measured as a whole.
    sample: Option<usize>,
    /// The sample for its speeds.
    timed: usize,
    sum: Measured,
    cells: Vec<Cell>,
}

/// Measures an image. Runs on the threads of rayon's pool, one stream per core.
///
/// # Errors
/// If the image is damaged, or the temporary file fails.
pub fn measure(
    subject: &Subject,
    options: &MatrixOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Matrix> {
    let files = &subject.rootfs.files;
    let sample = |bytes: u64| SAMPLES.map(|runs| Sample::new(files, runs, bytes));
    let mut samples = sample(options.sample);
    let (file_bytes, sample_bytes) = (samples[ZSTD].all_bytes, samples[ZSTD].bytes());
    let is_whole = SAMPLES.map(|runs| options.sample / runs.divisor >= file_bytes);
    if is_whole[ZSTD] {
        // A sample is enough for speeds.
        samples = sample(defaults::BENCH_SAMPLE);
    }
    let rows = options.affordable(share(budget.memory()), progress);
    let mut measurements: Vec<Measurement<'_>> = rows
        .iter()
        .map(|(compression, layers)| {
            let timed = sample_of(compression);
            let whole = is_whole[timed] || !can_be_sampled(compression);
            Measurement {
                compression: *compression,
                layers,
                sample: (!whole).then_some(timed),
                timed,
                sum: Measured::default(),
                cells: Vec::new(),
            }
        })
        .collect();
    let counts: BTreeSet<u32> = rows.iter().flat_map(|(_, layers)| layers).copied().collect();
    // What samples are scaled by comes first.
    let at = options.compared_at;
    let order = std::iter::once(at).chain(counts.into_iter().filter(|count| *count != at));
    let order: Vec<u32> = order.collect();
    let passes: usize = rows.iter().map(|(_, layers)| layers.len()).sum();
    progress.begin("measure", passes as u64 * file_bytes);
    let mut scales = [1.0; SAMPLES.len()];
    let memory = SharedMemory::new(share(budget.memory()));
    for count in order {
        let built = Built::new(subject, count, budget, &memory)?;
        let mut known = Known::default();
        if count == at && measurements.iter().any(|m| m.sample.is_some()) {
            let used: Vec<usize> = measurements.iter().filter_map(|m| m.sample).collect();
            scales = built.scales(&samples, &used, &mut known, budget)?;
        }
        // The slowest first, so that they do not run alone at the end.
        let mut due: Vec<&mut Measurement<'_>> =
            measurements.iter_mut().filter(|m| m.layers.contains(&count)).collect();
        due.sort_by_key(|m| std::cmp::Reverse(m.timed));
        due.into_par_iter().with_max_len(1).try_for_each(|m| {
            let timed = count == at || !m.layers.contains(&at);
            m.measure(&built, &samples, &scales, &known, budget, timed)?;
            progress.advance(file_bytes);
            Ok::<_, Error>(())
        })?;
    }
    progress.end();
    let rows = measurements.into_iter().map(|m| m.row(at)).collect();
    Ok(Matrix { file_bytes, sample_bytes, compared_at: at, rows })
}

/// How to sample for gzip, for zstd, and for the slowest levels of zstd. Many short runs are best, but each
/// needs a context: gzip its window, zstd that of level 3.
const SAMPLES: [Runs; 3] = [
    Runs { run: 128 << 10, context: 32 << 10, divisor: 1 },
    Runs { run: 512 << 10, context: 1 << CONTEXT_LOG, divisor: 1 },
    Runs { run: 512 << 10, context: 1 << 20, divisor: 8 },
];
/// Log2 of the largest window that a sample can show.
const CONTEXT_LOG: u32 = 21;
/// Positions in [`SAMPLES`].
const GZIP: usize = 0;
const ZSTD: usize = 1;
const SLOWEST: usize = 2;
/// What the sizes of the slowest compressions are estimated by, itself estimated by [`USUAL`].
const SIMILAR: Compression = Compression::Zstd { level: 9, window_log: None };
/// What the sizes of gzip are estimated by: a window that saves as little in a layer as in a sample.
const NARROW: Compression =
    Compression::Zstd { level: defaults::ZSTD_LEVEL, window_log: Some(CONTEXT_LOG) };

/// Returns the position in [`SAMPLES`] for a compression.
fn sample_of(compression: &Compression) -> usize {
    match compression {
        Compression::None | Compression::Gzip { .. } => GZIP,
        Compression::Zstd { level: 12.., .. } | Compression::Chunked { level: 12.. } => SLOWEST,
        Compression::Zstd { .. } | Compression::Chunked { .. } => ZSTD,
    }
}

/// Returns whether a sample can show what a compression saves: not if it finds matches beyond the context
/// of each part, and not if its layers are no plain streams.
fn can_be_sampled(compression: &Compression) -> bool {
    match compression {
        Compression::None | Compression::Gzip { .. } => true,
        Compression::Zstd { window_log, .. } => window_log.is_none(),
        Compression::Chunked { .. } => false,
    }
}

/// What is measured of a number of layers before its cells, for the scales of estimates.
#[derive(Default)]
struct Known {
    /// Bytes of each blob with some compressions, and of the largest window.
    whole: Vec<(Compression, Vec<u64>, u64)>,
    /// The sample for zstd with some compressions.
    sampled: Vec<(Compression, Measured)>,
}

/// The layers of a plan, not compressed.
struct Built<'a> {
    memory: &'a Arc<SharedMemory>,
    target: u32,
    plan: plan::Plan,
    tars: Vec<Source>,
}

impl<'a> Built<'a> {
    fn new(
        subject: &Subject,
        target: u32,
        budget: &Arc<Budget>,
        memory: &'a Arc<SharedMemory>,
    ) -> Result<Self> {
        let Subject { rootfs, inventory, .. } = subject;
        let planned = plan::PlanOptions::new(Target::Layers(target));
        let plan = plan::plan(&rootfs.files, inventory, &planned);
        let layers: Vec<_> = plan.layers.iter().map(encode::LayerSpec::from).collect();
        let tars = encode::tars(rootfs, &layers, budget)?;
        Ok(Self { memory, target, plan, tars })
    }

    /// Compresses the layers as `split` does. Returns the bytes of each blob, and of the largest window.
    fn whole(&self, compression: &Compression, budget: &Arc<Budget>) -> Result<(Vec<u64>, u64)> {
        let one = |tar: &Source| {
            let _reserved = self.memory.reserve(stream::memory_of_whole(compression));
            stream::whole(tar.as_ref(), compression, budget)
        };
        let blobs = self.tars.par_iter().with_max_len(1).map(one).collect::<Result<Vec<_>>>()?;
        let window = blobs.iter().map(|(_, window)| *window).max().unwrap_or_default();
        Ok((blobs.into_iter().map(|(bytes, _)| bytes).collect(), window))
    }

    /// Compresses a sample of the layers, each part after up to `context` bytes.
    fn sampled(
        &self,
        compression: &Compression,
        sample: &Sample,
        context: u64,
    ) -> Result<Measured> {
        let one = |(layer, tar): (&plan::PlannedLayer, &Source)| {
            let parts = sample.parts(layer, tar.as_ref())?;
            let _reserved = self.memory.reserve(stream::memory_of_parts(compression));
            stream::parts(tar.as_ref(), &parts, context, compression)
        };
        let layers = self.plan.layers.par_iter().zip(&self.tars).with_max_len(1).map(one);
        let mut sum = Measured::default();
        layers.collect::<Result<Vec<_>>>()?.iter().for_each(|layer| sum.add(layer));
        Ok(sum)
    }

    /// Returns what the bytes of each sample are multiplied by to get those of all layers. Only those of
    /// `used` samples are known. What is compressed for this is added to `known`.
    fn scales(
        &self,
        samples: &[Sample],
        used: &[usize],
        known: &mut Known,
        budget: &Arc<Budget>,
    ) -> Result<[f64; SAMPLES.len()]> {
        let mut taken = |compression: &Compression, sample: usize| {
            // Not in the context of gzip.
            let context =
                if sample == GZIP { 1 << CONTEXT_LOG } else { samples[sample].runs.context };
            let taken = self.sampled(compression, &samples[sample], context)?;
            let bytes = (taken.blob_bytes as f64).max(1.0);
            if sample == ZSTD {
                known.sampled.push((*compression, taken));
            }
            Ok::<_, Error>(bytes)
        };
        let mut scales = [1.0; SAMPLES.len()];
        for (sample, by) in [(GZIP, NARROW), (ZSTD, USUAL)] {
            if used.contains(&sample) || sample == ZSTD && used.contains(&SLOWEST) {
                let (blobs, window) = self.whole(&by, budget)?;
                scales[sample] = blobs.iter().sum::<u64>() as f64 / taken(&by, sample)?;
                known.whole.push((by, blobs, window));
            }
        }
        if used.contains(&SLOWEST) {
            // Its few runs are not typical. A compression that is more like it than the usual one says by
            // how much.
            let more = taken(&SIMILAR, ZSTD)? / taken(&SIMILAR, SLOWEST)?;
            scales[SLOWEST] = scales[ZSTD] * more;
        }
        Ok(scales)
    }

    /// Returns the cell of blobs with these bytes.
    fn cell(&self, blobs: &[u64], estimated: bool) -> Cell {
        let files = |l: &plan::PlannedLayer| l.shares.iter().map(|s| s.files).sum();
        let one = |((layer, tar), blob_bytes): ((&plan::PlannedLayer, &Source), &u64)| Sizes {
            blob_bytes: *blob_bytes,
            tar_bytes: tar.size(),
            files: files(layer),
        };
        let layers = self.plan.layers.iter().zip(&self.tars).zip(blobs);
        let layers: Vec<Sizes> = layers.map(one).collect();
        let sum = |f: fn(&Sizes) -> u64| layers.iter().map(f).sum();
        let (blob_bytes, tar_bytes) = (sum(|l| l.blob_bytes), sum(|l| l.tar_bytes));
        Cell { target: self.target, estimated, blob_bytes, tar_bytes, layers }
    }
}

impl Measurement<'_> {
    fn measure(
        &mut self,
        built: &Built<'_>,
        samples: &[Sample],
        scales: &[f64],
        known: &Known,
        budget: &Arc<Budget>,
        timed: bool,
    ) -> Result<()> {
        // A stream of zstd:chunked is one of zstd, cut in chunks.
        let stream = match self.compression {
            Compression::Chunked { level } => Compression::Zstd { level, window_log: None },
            other => other,
        };
        let mut taken = None;
        if timed || self.sample.is_some() {
            let sample = &samples[self.timed];
            let is_known = |(known, _): &&(Compression, Measured)| *known == stream;
            let found = match known.sampled.iter().find(is_known) {
                Some((_, known)) => *known,
                None => built.sampled(&stream, sample, sample.runs.context)?,
            };
            self.sum.add(&found);
            taken = Some(found);
        }
        let whole = known.whole.iter().find(|(known, ..)| *known == self.compression);
        // A sample has no bytes as far back as a layer. All levels have one window.
        for (known, _, window) in &known.whole {
            if let Compression::Zstd { window_log: known, .. } = known
                && let Compression::Zstd { window_log, .. } = &stream
                && known == window_log
            {
                self.sum.window = self.sum.window.max(*window);
            }
        }
        let cell = match (whole, self.sample, taken) {
            (Some((_, blobs, _)), ..) => built.cell(blobs, false),
            (None, Some(sample), Some(taken)) => {
                let blob = taken.blob_bytes as f64 * scales[sample];
                let estimate: u64 = built.plan.layers.iter().map(|l| l.estimate).sum();
                let share = |l: &plan::PlannedLayer| {
                    (blob * l.estimate as f64 / estimate.max(1) as f64).round() as u64
                };
                built.cell(&built.plan.layers.iter().map(share).collect::<Vec<_>>(), true)
            }
            _ => {
                let (blobs, window) = built.whole(&self.compression, budget)?;
                self.sum.window = self.sum.window.max(window);
                built.cell(&blobs, false)
            }
        };
        self.cells.push(cell);
        Ok(())
    }

    fn row(mut self, compared_at: u32) -> MatrixRow {
        self.cells.sort_by_key(|cell| cell.target);
        let speed = |time: Duration| self.sum.streamed as f64 / time.as_secs_f64().max(1e-9);
        let mut row = MatrixRow {
            compression: self.compression.to_string(),
            window: self.sum.window,
            ratio: 0.0,
            encode: speed(self.sum.encode),
            decode: speed(self.sum.decode),
            cells: self.cells,
        };
        if let Some(cell) = row.at(compared_at).or(row.cells.first()) {
            row.ratio = cell.tar_bytes as f64 / cell.blob_bytes.max(1) as f64;
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::plan::analyze::{analyze, estimate, fixture::Fixture};

    #[test]
    fn one_layer_is_never_larger_under_a_window_that_sees_it_all() {
        // Two packages with the same random bytes, which only a wide window can see at once.
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (state >> 60) as u8)
        };
        let text: String = (0..200_000).map(|_| noise()).collect();
        let rootfs = Fixture::default()
            .file("app/one/data", &text)
            .file("srv/two/data", &text)
            .file("opt/three/readme", "three")
            .build();
        let inventory = estimate(&rootfs, analyze(&rootfs, &[]).unwrap(), 8, &[]).unwrap();
        let subject = Subject {
            rootfs,
            inventory,
            built: Vec::new(),
            limits: crate::layers::Limits::new(0, &[], &Budget::new(0, None)),
        };
        let wanted =
            ["gzip:6", "zstd:3", "zstd:3:long=18", "none"].map(|c| Compression::parse(c).unwrap());
        let options = MatrixOptions::new(&wanted, &[1, 2], u64::MAX).unwrap();
        let budget = Budget::new(1 << 27, None);
        let found = measure(&subject, &options, &budget, &Silent).unwrap();
        assert_eq!(
            (found.file_bytes, found.sample_bytes, found.compared_at),
            (400_005, 400_005, 1)
        );
        let cell = |compression: &str, layers: u32| {
            let row = found.rows.iter().find(|r| r.compression == compression).unwrap();
            row.at(layers).unwrap()
        };
        let bytes = |c: &str, layers| cell(c, layers).blob_bytes;
        assert!(bytes("zstd:3", 1) < bytes("zstd:3", 2) * 6 / 10, "the window shows both");
        assert!(bytes("gzip:6", 1) > bytes("gzip:6", 2) * 9 / 10, "32 KiB show one");
        assert_eq!(found.rows[0].window, 32 << 10);
        assert_eq!(found.rows[2].window, 256 << 10);
        let none = cell("none", 2);
        assert_eq!((none.blob_bytes, none.layers.len()), (none.tar_bytes, 2));
        assert_eq!(none.layers.iter().map(|l| l.files).sum::<u64>(), 3);
    }

    #[test]
    fn compressions_are_measured_once_unless_they_are_asked_for() {
        let counts = |options: &MatrixOptions| -> Vec<usize> {
            options.rows.iter().map(|(_, layers)| layers.len()).collect()
        };
        let usual = MatrixOptions::new(&[], &[], 1).unwrap();
        assert_eq!((counts(&usual), usual.compared_at), (vec![1, 1, 1, 1, 6, 1, 1, 1], 8));
        let slow = Compression::parse("zstd:19").unwrap();
        assert_eq!(counts(&MatrixOptions::new(&[slow], &[1, 2], 1).unwrap()), [2]);
        assert_eq!(MatrixOptions::new(&[], &[3, 5], 1).unwrap().rows[7].1, [3]);
    }
}
