//! Statistics: what a store contains and what sharing saves.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::encoding::{ChunkRuns, PackHeader};
use super::marks::{ChunkSet, chunk_count};
use super::record::BlobRecipe;
use super::table::Store;
use crate::base::error::{Context, Result};
use crate::model::digest::Digest;

/// Sizes of a store in bytes: compressed, unless stated otherwise.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Blobs of all images, counted once per image.
    pub blob_bytes: u64,
    /// Blobs, each counted once: what a registry would hold.
    pub unique_blob_bytes: u64,
    /// Tars of all images, uncompressed, without those of layers that are stored as blobs.
    pub tar_bytes: u64,
    /// Stored data, uncompressed, each file counted once.
    pub unique_file_bytes: u64,
    /// Stored data, uncompressed, each chunk counted once.
    pub unique_chunk_bytes: u64,
    /// Number of chunks that images use.
    pub chunks: u64,
    /// Packs.
    pub pack_bytes: u64,
    /// All files of the store.
    pub disk_bytes: u64,
    /// Chunks that no image uses, uncompressed.
    pub unused_bytes: u64,
    /// All images, in the order in which they were added.
    pub images: Vec<ImageStats>,
}

/// Sizes of an image in bytes.
#[derive(Debug, Serialize)]
pub struct ImageStats {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its names.
    pub names: Vec<String>,
    /// Blobs.
    pub blob_bytes: u64,
    /// Tars, uncompressed, without those of layers that are stored as blobs.
    pub tar_bytes: u64,
    /// Chunks, uncompressed, each counted once.
    pub unique_chunk_bytes: u64,
    /// Chunks of these that no earlier image has.
    pub new_chunk_bytes: u64,
    /// Chunks of these that no other image has: `rm` and `gc` would remove them.
    pub own_chunk_bytes: u64,
    /// Number of layers whose blobs can't be rebuilt from their files and are stored as they are.
    pub kept: u64,
    /// Size of these blobs.
    pub kept_bytes: u64,
    /// Corrections that reproduce the compression of other tools, uncompressed.
    pub correction_bytes: u64,
}

impl ImageStats {
    fn new(digest: Digest, names: Vec<String>) -> Self {
        Self {
            digest,
            names,
            blob_bytes: 0,
            tar_bytes: 0,
            unique_chunk_bytes: 0,
            new_chunk_bytes: 0,
            own_chunk_bytes: 0,
            kept: 0,
            kept_bytes: 0,
            correction_bytes: 0,
        }
    }
}

/// Marks a chunk that no image uses.
const NONE: u32 = u32::MAX;

impl Store {
    /// Computes the statistics of the store, whose folder is `dir`.
    ///
    /// # Errors
    /// If the store is damaged or can't be read.
    pub fn stats(&self, dir: &Path) -> Result<Stats> {
        let packs = self.headers()?;
        let count = chunk_count(&packs);
        let sizes = sizes(&packs, count);
        let mut stats = Stats { disk_bytes: disk_bytes(dir)?, ..Stats::default() };
        stats.pack_bytes = packs.iter().map(|(_, header)| header.frame_bytes).sum();
        let (mut files, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        // The last image that uses each chunk, and the chunks that several use.
        let mut last = vec![NONE; count as usize];
        let mut shared = ChunkSet::new(count);
        for (at, (_, image)) in (0..NONE).zip(self.image_records()?) {
            let mut part = ImageStats::new(image.root.digest, image.names);
            for digest in &image.blobs {
                // A missing blob was damaged; adding its image again restores it.
                let Some(record) = self.known_blob(digest)? else { continue };
                part.blob_bytes += record.bytes;
                if blobs.insert(*digest) {
                    stats.unique_blob_bytes += record.bytes;
                }
                let mut each = |chunks: &ChunkRuns| {
                    let bytes: u64 = chunks.numbers().map(|n| size(&sizes, n)).sum();
                    if !files.contains(chunks) {
                        files.insert(chunks.clone());
                        stats.unique_file_bytes += bytes;
                    }
                    for number in chunks.numbers() {
                        let Some(last) = last.get_mut(number as usize) else { continue };
                        let before = std::mem::replace(last, at);
                        if before == at {
                            continue;
                        }
                        let bytes = size(&sizes, number);
                        part.unique_chunk_bytes += bytes;
                        if before == NONE {
                            part.new_chunk_bytes += bytes;
                        } else {
                            shared.add(number);
                        }
                    }
                };
                record.recipe.chunks().into_iter().for_each(&mut each);
                if let Some(diff_id) = record.recipe.diff_id() {
                    let layer = self.layer(diff_id)?;
                    self.layer_chunks(&layer, &mut each)?;
                    part.tar_bytes += layer.tar_bytes;
                }
                match &record.recipe {
                    BlobRecipe::Verbatim(_) => {
                        part.kept += 1;
                        part.kept_bytes += record.bytes;
                    }
                    BlobRecipe::Recoded { corrections, .. } => {
                        let bytes = corrections.numbers().map(|n| size(&sizes, n));
                        part.correction_bytes += bytes.sum::<u64>();
                    }
                    BlobRecipe::Document(_) | BlobRecipe::Compressed { .. } => {}
                }
            }
            stats.blob_bytes += part.blob_bytes;
            stats.tar_bytes += part.tar_bytes;
            stats.images.push(part);
        }
        for (number, last) in (0..).zip(last) {
            let bytes = size(&sizes, number);
            let Some(image) = stats.images.get_mut(last as usize) else {
                stats.unused_bytes += bytes;
                continue;
            };
            stats.unique_chunk_bytes += bytes;
            stats.chunks += 1;
            if !shared.contains(number) {
                image.own_chunk_bytes += bytes;
            }
        }
        Ok(stats)
    }
}

/// Returns the size of each chunk.
fn sizes(packs: &[(u64, PackHeader)], count: u64) -> Vec<u32> {
    let mut sizes = vec![0; count as usize];
    for (first, header) in packs {
        for (size, (bytes, _)) in sizes[*first as usize..].iter_mut().zip(&header.chunks) {
            *size = *bytes;
        }
    }
    sizes
}

fn size(sizes: &[u32], number: u64) -> u64 {
    sizes.get(number as usize).copied().unwrap_or_default().into()
}

/// Returns the size of all files below a folder.
pub(super) fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    // Another process may remove a file that was just listed.
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let place = || format!("reading {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if gone(&e) => return Ok(0),
        entries => entries.with_context(place)?,
    };
    for entry in entries {
        let entry = entry.with_context(place)?;
        let metadata = match entry.metadata() {
            Err(e) if gone(&e) => continue,
            metadata => metadata.with_context(place)?,
        };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
