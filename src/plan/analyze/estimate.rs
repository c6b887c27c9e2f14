//! Estimates the compressed size of each file before anything is compressed.
//!
//! Layers are balanced by the bytes that a client downloads, so the planner needs compressed sizes.
//! Compressing everything twice would double the work, so only samples are compressed: some windows
//! of each large file, and some windows of each batch of neighbouring small files. The choice of
//! samples depends only on the file set.

use std::io::Read;

use rayon::prelude::*;
use zstd::bulk::Compressor;

use super::{Analysis, ComponentId, Inventory};
use crate::base::error::{Context, Error, Result};
use crate::model::content::Contents;
use crate::model::fileset::{FileData, FileSet, InodeKind, display};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;

/// Distance between samples, in bytes.
const STRIDE: u64 = 1 << 20;
/// Denominator of the share of a large image that is compressed. An eighth is enough for zstd to find
/// most of the repetition in each sample.
const PART: u64 = 8;
/// Minimum number of bytes that are sampled. A larger share of a small image is compressed, up to all
/// of it, because errors in its few small layers do not average out.
const ENOUGH: u64 = 64 << 20;
/// The zstd level whose sizes are estimated: the default.
const LEVEL: i32 = 3;
/// Compressed bytes of a tar header and its padding among similar headers.
pub(crate) const HEADER_BYTES: u64 = 44;
/// Ratio of a layer's compressed size to the sum of its samples, as measured. In a layer a file is
/// compressed with 2 MiB of preceding data as context, in a sample with less.
const CONTEXT_GAIN: f64 = 0.93;

/// Files that are sampled together: a large one alone, or small ones of one component.
struct Batch<'a> {
    files: Vec<(InodeId, &'a FileData)>,
    bytes: u64,
}

/// Adds the bytes that each inode is expected to take in a zstd layer. Runs on the current rayon pool.
///
/// # Errors
/// If a file can't be read.
pub(crate) fn estimate(rootfs: &Rootfs, analysis: Analysis) -> Result<Inventory> {
    let Rootfs { files: set, contents } = rootfs;
    let batches = batches(set, &analysis);
    let total: u64 = batches.iter().map(|b| b.bytes).sum();
    let window = (STRIDE * ENOUGH / total.max(ENOUGH)).max(STRIDE / PART);
    let ratios: Vec<Result<f64>> = batches
        .par_iter()
        .map_init(compressor, |compressor, batch| {
            let compressor = compressor.as_mut().map_err(|e| Error::malformed(e.to_string()))?;
            ratio(batch, window, contents, compressor).with_context(|| {
                let first = batch.files.first().map(|f| f.0);
                let name = set.entries().iter().find(|e| Some(e.inode) == first);
                format!("sampling {}", name.map_or_else(String::new, |e| display(&e.path)))
            })
        })
        .collect();
    let mut estimates = vec![HEADER_BYTES; set.inodes().len()];
    for (batch, ratio) in batches.iter().zip(ratios) {
        let ratio = ratio?;
        for (inode, file) in &batch.files {
            estimates[inode.index()] += (file.size as f64 * ratio).ceil() as u64;
        }
    }
    Ok(Inventory { analysis, estimates })
}

fn compressor() -> Result<Compressor<'static>> {
    Ok(Compressor::new(LEVEL)?)
}

/// Returns all files with content, in the order of components and paths, small ones in batches.
fn batches<'a>(set: &'a FileSet, analysis: &Analysis) -> Vec<Batch<'a>> {
    let mut seen = vec![false; set.inodes().len()];
    let mut order: Vec<(ComponentId, InodeId, &FileData)> = Vec::new();
    for entry in set.entries() {
        if let InodeKind::File(file) = &set.inode(entry).kind
            && file.size > 0
            && !std::mem::replace(&mut seen[entry.inode.index()], true)
        {
            order.push((analysis.owner[entry.inode.index()], entry.inode, file));
        }
    }
    // Entries are sorted by path, and this sort is stable.
    order.sort_by_key(|(owner, ..)| *owner);
    let mut batches: Vec<Batch<'_>> = Vec::new();
    let mut last_owner = None;
    for (owner, inode, file) in order {
        let joins = last_owner == Some(owner)
            && batches.last().is_some_and(|b| b.bytes + file.size <= STRIDE);
        if !joins {
            batches.push(Batch { files: Vec::new(), bytes: 0 });
        }
        if let Some(batch) = batches.last_mut() {
            batch.files.push((inode, file));
            batch.bytes += file.size;
        }
        last_owner = Some(owner);
    }
    batches
}

/// Returns the compression ratio of a batch's samples: compressed by uncompressed bytes.
fn ratio(
    batch: &Batch<'_>,
    window: u64,
    contents: &Contents,
    compressor: &mut Compressor<'_>,
) -> Result<f64> {
    let mut sample = vec![0; window.min(batch.bytes) as usize];
    let (mut plain, mut compressed) = (0, 0);
    let mut take = |sample: &[u8]| -> Result<()> {
        let done = compressor.compress(sample)?;
        plain += sample.len();
        // The frame header and checksum would otherwise count once per sample.
        compressed += done.len().saturating_sub(12);
        Ok(())
    };
    if let [(_, file)] = batch.files[..] {
        let windows = file.size.div_ceil(STRIDE);
        let room = file.size - sample.len() as u64;
        for i in 0..windows {
            // The windows are spread over the whole file, the first and last at its ends.
            let at = if windows == 1 { room / 2 } else { room / (windows - 1) * i };
            contents.read_at(file, &mut sample, at)?;
            take(&sample)?;
        }
    } else {
        // The sample begins in the middle, so that it is not always the first file.
        let half = batch.bytes / 2;
        let mut before = 0;
        let start = batch.files.iter().position(|(_, f)| {
            before += f.size;
            before > half
        });
        let around = batch.files.iter().cycle().skip(start.unwrap_or(0)).take(batch.files.len());
        let mut filled = 0;
        for (_, file) in around {
            let mut reader = contents.open(file).take((sample.len() - filled) as u64);
            let n = file.size.min((sample.len() - filled) as u64) as usize;
            reader.read_exact(&mut sample[filled..filled + n])?;
            filled += n;
        }
        take(&sample[..filled])?;
    }
    Ok(compressed as f64 / plain.max(1) as f64 * CONTEXT_GAIN)
}

#[cfg(test)]
mod tests {
    use super::super::{analyze, fixture::Fixture};
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; n];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn noise_stays_and_zeros_go() {
        let rootfs = Fixture::default()
            .file("a/noise", noise(5 << 20, 1))
            .file("b/zeros", vec![0; 5 << 20])
            .file("c/empty", "")
            .build();
        let analysis = analyze(&rootfs, &[]).unwrap();
        let (set, all) = (&rootfs.files, estimate(&rootfs, analysis).unwrap().estimates);
        let of = |path: &str| {
            let i = set.position(path.as_bytes()).unwrap();
            all[set.entries()[i].inode.index()]
        };
        assert!((4_600_000..5_300_000).contains(&of("a/noise")), "{}", of("a/noise"));
        assert!(of("b/zeros") < 10_000);
        assert_eq!(of("c/empty"), HEADER_BYTES);
    }

    #[test]
    fn small_files_of_a_component_are_sampled_together() {
        let mut fixture = Fixture::default();
        let text = noise(3000, 7);
        for i in 0..500 {
            fixture = fixture.file(&format!("app/x/{i}"), &text);
        }
        let rootfs = fixture.build();
        let analysis = analyze(&rootfs, &[]).unwrap();
        let all: u64 = estimate(&rootfs, analysis).unwrap().estimates.iter().sum();
        // 1.5 MB that repeat every 3 kB.
        assert!(all < 150_000, "{all}");
    }
}
