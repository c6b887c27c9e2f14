//! How large each file will be when compressed, before anything is compressed.
//!
//! Layers are balanced by what a client downloads, so the planner needs compressed sizes; to
//! compress everything twice would double the work. Instead samples are compressed: of a large
//! file some windows, of small files that lie together some batches. Which, depends on the file
//! set alone.

use std::io::Read;

use rayon::prelude::*;
use zstd::bulk::Compressor;

use super::Analysis;
use crate::base::error::{Context, Error, Result};
use crate::model::content::Contents;
use crate::model::fileset::{FileData, FileSet, InodeId, InodeKind, display};

/// There is one sample for so many bytes.
const STRIDE: u64 = 1 << 20;
/// Of a large image an eighth is compressed: enough in each sample for zstd to find most of the
/// repetition it will find.
const PART: u64 = 8;
/// Of a small one more, up to all of it: its layers are small, and errors don't even out.
const ENOUGH: u64 = 64 << 20;
/// The level whose sizes are to be foretold is 3, the default.
const LEVEL: i32 = 3;
/// A tar header and its padding among others like it, compressed.
pub const HEADER_BYTES: u64 = 44;
/// In a layer a file is compressed with 2 MiB before it in sight, in a sample with less. Measured
/// on whole layers against the sum of their samples.
const CONTEXT_GAIN: f64 = 0.93;

/// Files that are sampled together: a large one alone, or small ones of one component.
struct Batch<'a> {
    files: Vec<(InodeId, &'a FileData)>,
    bytes: u64,
}

/// For each inode, its expected share in bytes of a zstd layer. Runs on the current rayon pool.
///
/// # Errors
/// When a file can't be read.
pub fn estimate(set: &FileSet, contents: &Contents, analysis: &Analysis) -> Result<Vec<u64>> {
    let batches = batches(set, analysis);
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
            estimates[*inode as usize] += (file.size as f64 * ratio).ceil() as u64;
        }
    }
    Ok(estimates)
}

fn compressor() -> Result<Compressor<'static>> {
    Ok(Compressor::new(LEVEL)?)
}

/// All files with content, in the order of components and paths, small ones in batches.
fn batches<'a>(set: &'a FileSet, analysis: &Analysis) -> Vec<Batch<'a>> {
    let mut seen = vec![false; set.inodes().len()];
    let mut order: Vec<(u32, InodeId, &FileData)> = Vec::new();
    for entry in set.entries() {
        if let InodeKind::File(file) = &set.inode(entry).kind
            && file.size > 0
            && !std::mem::replace(&mut seen[entry.inode as usize], true)
        {
            order.push((analysis.owner[entry.inode as usize], entry.inode, file));
        }
    }
    // Entries come by path, and the sort is stable.
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

/// Compressed by plain bytes of a batch's samples.
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
        // A frame's header and checks would count again and again.
        compressed += done.len().saturating_sub(12);
        Ok(())
    };
    if let [(_, file)] = batch.files[..] {
        let windows = file.size.div_ceil(STRIDE);
        let room = file.size - sample.len() as u64;
        for i in 0..windows {
            // Spread over the whole file, first and last window at its ends.
            let at = if windows == 1 { room / 2 } else { room / (windows - 1) * i };
            contents.read_at(file, &mut sample, at)?;
            take(&sample)?;
        }
    } else {
        // From the middle on, so that it is not always the first name.
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
        let (set, contents) = Fixture::default()
            .file("a/noise", noise(5 << 20, 1))
            .file("b/zeros", vec![0; 5 << 20])
            .file("c/empty", "")
            .build();
        let analysis = analyze(&set, &contents, &[]).unwrap();
        let estimates = estimate(&set, &contents, &analysis).unwrap();
        let of = |path: &str| {
            let i = set.position(path.as_bytes()).unwrap();
            estimates[set.entries()[i].inode as usize]
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
        let (set, contents) = fixture.build();
        let analysis = analyze(&set, &contents, &[]).unwrap();
        let all: u64 = estimate(&set, &contents, &analysis).unwrap().iter().sum();
        // 1.5 MB that repeat every 3 kB.
        assert!(all < 150_000, "{all}");
    }
}
