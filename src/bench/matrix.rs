//! Size and speed of every compression at every number of layers.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::Subject;
use super::sample::Sample;
use crate::base::defaults;
use crate::base::error::{Context, Result};
use crate::base::progress::{Progress, Silent};
use crate::base::read::read_some;
use crate::format::codec::{self, Compression, Encoder, zstd_headers};
use crate::layers::encode;
use crate::model::content::{Budget, ReadAt, Source, SourceReader, SpoolWriter, WindowBudget};
use crate::plan::{self, Target};

/// Compressions measured by default.
const COMPRESSIONS: [&str; 8] = [
    "gzip:6",
    "gzip:9",
    "zstd:1",
    "zstd:3",
    "zstd:3:long=23",
    "zstd:3:long=27",
    "zstd:9",
    "zstd:19",
];
/// The number of layers at which slow compressions are measured by default.
const SLOW_LAYERS: u32 = defaults::LAYERS;

/// Options of a measurement.
#[derive(Debug, Clone)]
pub struct MatrixOptions {
    /// The compressions, each with the numbers of layers to measure it with.
    pub rows: Vec<(Compression, Vec<u32>)>,
    /// Number of bytes of files to measure with; the whole image if it has fewer.
    pub sample: u64,
}

impl MatrixOptions {
    /// Creates options for the given compressions and numbers of layers, or the defaults if a list is
    /// empty. Of the default compressions, slow ones are measured with one number of layers.
    ///
    /// # Errors
    /// If a compression is not valid.
    pub fn new(compressions: &[Compression], layers: &[u32], sample: u64) -> Result<Self> {
        let layers = if layers.is_empty() { &defaults::BENCH_LAYERS[..] } else { layers };
        let rows = if compressions.is_empty() {
            let usual = COMPRESSIONS.iter().map(|text| {
                let compression = Compression::parse(text)?;
                let slow = matches!(compression, Compression::Zstd { level: 10.., .. });
                let some = layers
                    .contains(&SLOW_LAYERS)
                    .then_some(SLOW_LAYERS)
                    .or(layers.first().copied());
                Ok((compression, if slow { some.into_iter().collect() } else { layers.to_vec() }))
            });
            usual.collect::<Result<_>>()?
        } else {
            compressions.iter().map(|c| (*c, layers.to_vec())).collect()
        };
        Ok(Self { rows, sample })
    }
}

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
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// Bytes of all tars.
    pub tar_bytes: u64,
    /// The layers, lowest first.
    pub layers: Vec<Sizes>,
}

/// A compression.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixRow {
    /// Name of the compression.
    pub compression: String,
    /// Bytes of its largest window, which a decoder must hold.
    pub window: u64,
    /// Bytes of tar compressed per second by one core.
    pub encode: f64,
    /// Bytes of tar decompressed per second by one core.
    pub decode: f64,
    /// A cell for each measured number of layers.
    pub cells: Vec<Cell>,
}

impl MatrixRow {
    /// Returns the bytes of tar per byte of blob, over all cells.
    pub fn ratio(&self) -> f64 {
        let sum = |f: fn(&Cell) -> u64| self.cells.iter().map(f).sum::<u64>() as f64;
        sum(|c| c.tar_bytes) / sum(|c| c.blob_bytes).max(1.0)
    }
}

/// The measurements of all compressions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// Bytes of files in the image.
    pub file_bytes: u64,
    /// Bytes of files that were measured.
    pub sample_bytes: u64,
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
    let Subject { rootfs, inventory, .. } = subject;
    let files = &rootfs.files;
    let sample = Sample::new(files, options.sample);
    let only = (sample.bytes < sample.all_bytes).then_some(&sample.inodes[..]);
    let mut counts: Vec<u32> =
        options.rows.iter().flat_map(|(_, layers)| layers).copied().collect();
    counts.sort_unstable();
    counts.dedup();
    let mut tallies = vec![Tally::default(); options.rows.len()];
    let passes = options.rows.iter().map(|(_, layers)| layers.len() as u64).sum::<u64>();
    progress.begin("measure", passes * sample.bytes);
    for count in counts {
        let planned = plan::PlanOptions { only, ..plan::PlanOptions::new(Target::Layers(count)) };
        let plan = plan::plan(files, inventory, &planned);
        let files_in = |l: &plan::PlannedLayer| l.shares.iter().map(|s| s.files).sum();
        let counts: Vec<u64> = plan.layers.iter().map(files_in).collect();
        let layers: Vec<_> = plan.layers.iter().map(encode::LayerSpec::from).collect();
        let encoding = encode::EncodeOptions {
            compression: Compression::None,
            threads: rayon::current_num_threads(),
        };
        let tars: Vec<Source> = encode::encode(rootfs, &layers, encoding, budget, &Silent, &())?
            .into_iter()
            .map(|layer| layer.source)
            .collect();
        let rows = options.rows.iter().enumerate().filter(|(_, (_, l))| l.contains(&count));
        // The slowest first, so that they do not run alone at the end.
        let mut jobs: Vec<(usize, usize)> =
            rows.flat_map(|(row, _)| (0..tars.len()).map(move |layer| (row, layer))).collect();
        jobs.sort_by_key(|(row, layer)| {
            (std::cmp::Reverse(effort(&options.rows[*row].0) * tars[*layer].size()), *row, *layer)
        });
        let run = |(row, layer): (usize, usize)| {
            let stream = measure_layer(&tars[layer], &options.rows[row].0, budget)?;
            progress.advance(stream.tar_bytes);
            Ok(((row, layer), stream))
        };
        let mut streams: Vec<_> =
            jobs.into_par_iter().with_max_len(1).map(run).collect::<Result<_>>()?;
        streams.sort_by_key(|(job, _)| *job);
        for (row, tally) in tallies.iter_mut().enumerate() {
            let own = streams.iter().filter(|((r, _), _)| *r == row);
            tally.add(count, own.map(|((_, layer), stream)| (counts[*layer], *stream)));
        }
    }
    progress.end();
    let rows = options.rows.iter().zip(tallies).map(|((c, _), tally)| tally.row(c)).collect();
    Ok(Matrix { file_bytes: sample.all_bytes, sample_bytes: sample.bytes, rows })
}

/// Estimates the time per byte, in arbitrary units.
fn effort(compression: &Compression) -> u64 {
    match compression {
        Compression::None => 1,
        Compression::Gzip { level } => u64::from(4 * level),
        Compression::Zstd { level, .. } | Compression::Chunked { level } => {
            let level = u64::from(level.unsigned_abs());
            level * level
        }
    }
}

/// A layer that was compressed and decompressed once.
#[derive(Debug, Clone, Copy)]
struct Stream {
    tar_bytes: u64,
    blob_bytes: u64,
    window: u64,
    encode: Duration,
    decode: Duration,
}

fn measure_layer(tar: &Source, compression: &Compression, budget: &Arc<Budget>) -> Result<Stream> {
    let place = || format!("compressing with {compression}");
    let start = Instant::now();
    let mut encoder = Encoder::new(SpoolWriter::new(budget), compression, 1, tar.size())?;
    let mut buf = vec![0; 1 << 17];
    copy(&mut SourceReader::all(tar.as_ref()), &mut encoder, &mut buf).with_context(place)?;
    let (spool, _) = encoder.finish().with_context(place)?;
    let encode = start.elapsed();
    let blob = spool.finish()?;
    let window = window(compression, &blob);
    let start = Instant::now();
    let (_, mut decoder) = codec::decode(SourceReader::all(&blob), &WindowBudget::new(u64::MAX))?;
    let tar_bytes = copy(&mut decoder, &mut io::sink(), &mut buf)?;
    drop(decoder);
    let decode = start.elapsed();
    Ok(Stream { tar_bytes, blob_bytes: blob.size(), window, encode, decode })
}

/// Copies like `io::copy`, in larger pieces.
fn copy(from: &mut dyn Read, to: &mut dyn Write, buf: &mut [u8]) -> io::Result<u64> {
    let mut all = 0;
    loop {
        let n = read_some(from, buf)?;
        if n == 0 {
            return Ok(all);
        }
        to.write_all(&buf[..n])?;
        all += n as u64;
    }
}

/// Returns the size of the window of a blob's decoder.
fn window(compression: &Compression, blob: &dyn ReadAt) -> u64 {
    match compression {
        Compression::None => 0,
        Compression::Gzip { .. } => codec::GZIP_WINDOW as u64,
        Compression::Zstd { .. } | Compression::Chunked { .. } => zstd_headers::frames(blob).window,
    }
}

/// All streams of a row.
#[derive(Debug, Clone, Default)]
struct Tally {
    window: u64,
    bytes: u64,
    encode: Duration,
    decode: Duration,
    cells: Vec<Cell>,
}

impl Tally {
    /// Adds the layers of a plan, each with the files in it; a row that was not measured with it has
    /// none.
    fn add(&mut self, target: u32, streams: impl Iterator<Item = (u64, Stream)>) {
        let mut layers = Vec::new();
        for (files, s) in streams {
            self.window = self.window.max(s.window);
            self.bytes += s.tar_bytes;
            self.encode += s.encode;
            self.decode += s.decode;
            layers.push(Sizes { blob_bytes: s.blob_bytes, tar_bytes: s.tar_bytes, files });
        }
        if !layers.is_empty() {
            let sum = |f: fn(&Sizes) -> u64| layers.iter().map(f).sum();
            let (blob_bytes, tar_bytes) = (sum(|l| l.blob_bytes), sum(|l| l.tar_bytes));
            self.cells.push(Cell { target, blob_bytes, tar_bytes, layers });
        }
    }

    fn row(self, compression: &Compression) -> MatrixRow {
        let speed = |time: Duration| self.bytes as f64 / time.as_secs_f64().max(1e-9);
        MatrixRow {
            compression: compression.to_string(),
            window: self.window,
            encode: speed(self.encode),
            decode: speed(self.decode),
            cells: self.cells,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let inventory = estimate(&rootfs, analyze(&rootfs, &[]).unwrap()).unwrap();
        let subject = Subject {
            rootfs,
            inventory,
            built: Vec::new(),
            limits: crate::layers::Limits::new(0, &[], &Budget::new(0, None)),
        };
        let wanted =
            ["gzip:6", "zstd:3", "zstd:3:long=18", "none"].map(|c| Compression::parse(c).unwrap());
        let options = MatrixOptions::new(&wanted, &[1, 2], u64::MAX).unwrap();
        let budget = Budget::new(1 << 24, None);
        let found = measure(&subject, &options, &budget, &Silent).unwrap();
        assert_eq!((found.file_bytes, found.sample_bytes), (400_005, 400_005));
        let cell = |compression: &str, layers: u32| {
            let row = found.rows.iter().find(|r| r.compression == compression).unwrap();
            row.cells.iter().find(|c| c.target == layers).unwrap()
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
    fn slow_compressions_are_measured_once_unless_they_are_asked_for() {
        let counts = |options: &MatrixOptions| -> Vec<usize> {
            options.rows.iter().map(|(_, layers)| layers.len()).collect()
        };
        assert_eq!(counts(&MatrixOptions::new(&[], &[], 1).unwrap()), [6, 6, 6, 6, 6, 6, 6, 1]);
        let slow = Compression::parse("zstd:19").unwrap();
        assert_eq!(counts(&MatrixOptions::new(&[slow], &[1, 2], 1).unwrap()), [2]);
        assert_eq!(MatrixOptions::new(&[], &[3, 5], 1).unwrap().rows[7].1, [3]);
    }
}
