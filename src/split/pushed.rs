//! What clients download of an image: its layers as a registry has them after a push.
//!
//! `docker save` and others write layers that are not compressed, but a push compresses them. Their
//! downloads are estimated: the planner has estimated what each file takes with zstd, and samples say how
//! much more that is with gzip.

use flate2::{Compress, Compression, FlushCompress, Status};
use rayon::prelude::*;

use crate::base::error::{Context, Error, Result};
use crate::format::recode::DEFLATE_WINDOW;
use crate::layers::flatten::{Flattened, LayerStats};
use crate::model::fileset::{InodeKind, Location};
use crate::plan;
use crate::plan::analyze::HEADER_BYTES;
use crate::simulate::{CompressionKind, Layer};
use crate::transport::image::{Image, LayerBlob};

/// Number of samples of an image, at equal distances. Many small ones measure a mixture better
/// than few large ones.
const SAMPLES: u64 = 512;
/// Bytes of a sample. Those before it are its dictionary, as in the middle of a stream.
const SAMPLE: u64 = 8 << 10;
/// The level by default of all clients.
const LEVEL: u32 = 6;
/// Bytes of the gzip that clients push, which is written in Go, relative to zlib's.
const GO_FOR_ZLIB: f64 = 1.05;

/// Returns the input's layers as clients pull them. An uncompressed layer counts as gzip, since a push
/// would compress it. `estimates` are the bytes of each inode with zstd. Runs on the current rayon pool.
///
/// # Errors
/// If an uncompressed layer can't be read.
pub fn pulled(image: &Image, flat: &Flattened, estimates: &[u64]) -> Result<Vec<Layer>> {
    let tars = tars(image, flat, estimates);
    let plain: Vec<_> = tars.iter().filter(|tar| is_plain(tar.layer)).collect();
    let bytes: u64 = plain.iter().map(|tar| tar.read.tar_bytes).sum();
    let distance = (bytes / SAMPLES).max(SAMPLE);
    let sampled = plain.par_iter().map(|tar| tar.sample(distance));
    let sampled = sampled.collect::<Result<Vec<(u64, f64)>>>()?;
    let gzip: u64 = sampled.iter().map(|(gzip, _)| gzip).sum();
    let zstd: f64 = sampled.iter().map(|(_, zstd)| zstd).sum();
    let more = gzip as f64 / zstd.max(1.0) * GO_FOR_ZLIB;
    let pulled = tars.iter().map(|Tar { layer, read, zstd, .. }| {
        let mut compression = CompressionKind::of(&layer.media_type);
        let mut blob_bytes = layer.source.size();
        if is_plain(layer) {
            compression = CompressionKind::Gzip;
            blob_bytes = blob_bytes.min((zstd * more).ceil() as u64);
        }
        Layer { blob_bytes, tar_bytes: read.tar_bytes, entries: read.entries, compression }
    });
    Ok(pulled.collect())
}

/// Returns whether sizes of the image's layers as [`pulled`] are estimates.
pub fn is_estimated(image: &Image) -> bool {
    image.layers.iter().any(is_plain)
}

fn is_plain(layer: &LayerBlob) -> bool {
    CompressionKind::of(&layer.media_type) == CompressionKind::None
}

/// A layer's tar, and what it is estimated to take with zstd.
struct Tar<'a> {
    layer: &'a LayerBlob,
    read: &'a LayerStats,
    /// Files that the image shows, by offset.
    files: Vec<Shown>,
    zstd: f64,
    /// Share that remains of headers and hidden files.
    rest: f64,
}

/// A file that the image shows.
#[derive(Clone, Copy)]
struct Shown {
    offset: u64,
    size: u64,
    /// Bytes of it with zstd.
    zstd: u64,
}

/// Returns the layers with their files.
fn tars<'a>(image: &'a Image, flat: &'a Flattened, estimates: &[u64]) -> Vec<Tar<'a>> {
    let mut files = vec![Vec::new(); flat.layers.len()];
    let (mut size, mut zstd) = (0, 0);
    for (inode, estimate) in flat.rootfs.files.inodes().iter().zip(estimates) {
        let InodeKind::File(file) = &inode.kind else { continue };
        let Location::Span { source, offset } = file.location else { continue };
        let shown = Shown { offset, size: file.size, zstd: estimate.saturating_sub(HEADER_BYTES) };
        // Files that the split has rewritten are in no layer.
        if let Some(layer) = files.get_mut(source.index()).filter(|_| file.size > 0) {
            (size, zstd) = (size + shown.size, zstd + shown.zstd);
            layer.push(shown);
        }
    }
    let share = zstd as f64 / size.max(1) as f64;
    let one = |((layer, read), mut files): ((&'a LayerBlob, &'a LayerStats), Vec<Shown>)| {
        files.sort_unstable_by_key(|file| file.offset);
        let shown: u64 = files.iter().map(|file| file.size).sum();
        let rest = read.tar_bytes.saturating_sub(shown);
        let headers = (plan::HEADER * read.entries).min(rest);
        let others = (HEADER_BYTES * read.entries) as f64 + (rest - headers) as f64 * share;
        let zstd = files.iter().map(|file| file.zstd).sum::<u64>() as f64 + others;
        Tar { layer, read, files, zstd, rest: others / rest.max(1) as f64 }
    };
    image.layers.iter().zip(&flat.layers).zip(files).map(one).collect()
}

impl Tar<'_> {
    /// Returns what samples at about this distance take as gzip and, by the estimates, with zstd.
    fn sample(&self, distance: u64) -> Result<(u64, f64)> {
        let tar = self.layer.source.as_ref();
        let count = (tar.size() / distance).max(1);
        let sample = tar.size().min(SAMPLE);
        let room = tar.size() - sample;
        let one = |i: u64| {
            let at = (u128::from(room) * u128::from(2 * i + 1) / u128::from(2 * count)) as u64;
            let start = at.saturating_sub(DEFLATE_WINDOW as u64);
            let mut bytes = vec![0; (at + sample - start) as usize];
            tar.read_exact_at(&mut bytes, start)?;
            let (dictionary, bytes) = bytes.split_at((at - start) as usize);
            let gzip = deflated(bytes, dictionary)?;
            Ok((gzip, self.zstd_of(at, at + sample)))
        };
        let sampled = (0..count).into_par_iter().map(one).collect::<Result<Vec<_>>>();
        let sampled = sampled.with_context(|| &*self.layer.name)?;
        Ok(sampled.iter().fold((0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
    }

    /// Returns what a range of the tar takes with zstd.
    fn zstd_of(&self, start: u64, end: u64) -> f64 {
        let first = self.files.partition_point(|file| file.offset + file.size <= start);
        let (mut bytes, mut zstd) = (0, 0.0);
        for file in self.files[first..].iter().take_while(|file| file.offset < end) {
            let part = (file.offset + file.size).min(end) - file.offset.max(start);
            bytes += part;
            zstd += file.zstd as f64 * part as f64 / file.size as f64;
        }
        zstd + (end - start).saturating_sub(bytes) as f64 * self.rest
    }
}

/// Returns what a sample takes after a dictionary.
fn deflated(sample: &[u8], dictionary: &[u8]) -> Result<u64> {
    let failed = |e: &dyn std::fmt::Display| Error::malformed(format!("deflate: {e}"));
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary).map_err(|e| failed(&e))?;
    }
    // What can't be compressed takes a little more.
    let mut out = vec![0; sample.len() + 1024];
    match compress.compress(sample, &mut out, FlushCompress::Finish).map_err(|e| failed(&e))? {
        Status::StreamEnd => Ok(compress.total_out()),
        _ => Err(failed(&"its result is too large")),
    }
}
