//! The blobs, layers and chunks that are in use.

use std::collections::BTreeSet;

use super::encoding::{ChunkRuns, PackHeader, take_step};
use super::record::LayerRecord;
use super::table::Store;
use crate::base::error::Result;
use crate::base::limits::MAX_STORE_STEPS;
use crate::model::digest::Digest;

/// A set of chunks.
pub(super) struct ChunkSet(Vec<u64>);

impl ChunkSet {
    pub(super) fn new(chunks: u64) -> Self {
        Self(vec![0; chunks.div_ceil(64) as usize])
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Adds a chunk; ignores a number out of range.
    pub(super) fn add(&mut self, number: u64) {
        if let Some(word) = self.0.get_mut((number / 64) as usize) {
            *word |= 1 << (number % 64);
        }
    }

    pub(super) fn add_all(&mut self, chunks: &ChunkRuns) {
        chunks.numbers().for_each(|number| self.add(number));
    }
}

/// Returns the number of the next chunk.
pub(super) fn chunk_count(packs: &[(u64, PackHeader)]) -> u64 {
    packs.last().map_or(0, |(first, header)| first + header.chunks.len() as u64)
}

/// Digests of blobs, diff IDs of layers and chunks that images use.
pub(super) struct UsedObjects {
    pub(super) blobs: BTreeSet<[u8; 32]>,
    pub(super) layers: BTreeSet<[u8; 32]>,
    pub(super) chunks: ChunkSet,
}

impl Store {
    /// Returns everything that images with these blobs use; `chunks` is the number of the next chunk.
    pub(super) fn used<'a>(
        &self,
        images: impl Iterator<Item = &'a [Digest]>,
        chunks: u64,
    ) -> Result<UsedObjects> {
        let mut used = UsedObjects {
            blobs: BTreeSet::new(),
            layers: BTreeSet::new(),
            chunks: ChunkSet::new(chunks),
        };
        for digest in images.flatten() {
            if !used.blobs.insert(*digest.as_bytes()) {
                continue;
            }
            // A missing blob was damaged; adding its image again restores it.
            let Some(record) = self.known_blob(digest)? else { continue };
            let recipe = record.recipe;
            if let Some(chunks) = recipe.chunks() {
                used.chunks.add_all(chunks);
            }
            if let Some(diff_id) = recipe.diff_id()
                && used.layers.insert(*diff_id.as_bytes())
            {
                self.layer_chunks(&self.layer(diff_id)?, &mut |c| used.chunks.add_all(c))?;
            }
        }
        Ok(used)
    }

    /// Shows `each` all chunks of a layer: its steps, its headers and each file.
    pub(super) fn layer_chunks(
        &self,
        layer: &LayerRecord,
        each: &mut dyn FnMut(&ChunkRuns),
    ) -> Result<()> {
        each(&layer.steps);
        each(&layer.headers);
        let bytes = self.packs.read_chunks(&self.db, &layer.steps, MAX_STORE_STEPS)?;
        let (mut rest, mut end, limit) = (&bytes[..], 0, self.limit());
        while !rest.is_empty() {
            let step = take_step(&mut rest, &mut end, limit)
                .ok_or_else(|| self.db.damaged("the steps of a layer are not valid"))?;
            each(&step.file);
        }
        Ok(())
    }
}
