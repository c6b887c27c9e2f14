//! Taking out what no image uses.
//!
//! First the records that name chunks go, then chunks; so whenever it is interrupted, nothing
//! names what is not there. Nor does a pack keep what no image uses only because it was compressed
//! with that in sight: it is compressed again without, and both together are smaller.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::pack;
use super::record::{BlobRecord, LayerRecord, PackHeader, Runs, key, number_of, take_step};
use super::stats::disk_bytes;
use super::table::Store;
use crate::content::Budget;
use crate::digest::Digest;
use crate::error::Result;
use crate::progress::Progress;

/// A pack of which less than this share is used is written anew.
const SPARSE: (u64, u64) = (3, 4);
/// Changes that are made together.
const BATCH: usize = 10_000;

/// What was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Collected {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes, before compression.
    pub chunk_bytes: u64,
    /// Packs that went.
    pub packs: u64,
    /// Packs that were written anew without them.
    pub rewritten: u64,
    /// Bytes on disk before.
    pub before_bytes: u64,
    /// Bytes on disk after.
    pub after_bytes: u64,
}

/// A table and a key that is to go.
type Gone = (&'static str, Box<[u8]>);

/// A set of chunks.
pub(super) struct Marks(Vec<u64>);

impl Marks {
    pub(super) fn new(chunks: u64) -> Self {
        Self(vec![0; chunks.div_ceil(64) as usize])
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.0.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Adds a chunk; whether it is new. One that can't be is none.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let Some(word) = self.0.get_mut((number / 64) as usize) else { return false };
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(super) fn add_all(&mut self, chunks: &Runs) {
        chunks.numbers().for_each(|number| {
            self.add(number);
        });
    }
}

/// The number that no chunk has yet.
pub(super) fn count(packs: &[(u64, PackHeader)]) -> u64 {
    packs.last().map_or(0, |(first, header)| first + header.chunks.len() as u64)
}

/// Digests of blobs, diff IDs of layers, and chunks that images use.
pub(super) struct Used {
    pub(super) blobs: BTreeSet<[u8; 32]>,
    pub(super) layers: BTreeSet<[u8; 32]>,
    pub(super) chunks: Marks,
}

impl Store {
    /// Everything that `images` use, of `chunks` that there are.
    pub(super) fn used<'a>(
        &self,
        images: impl Iterator<Item = &'a [Digest]>,
        chunks: u64,
    ) -> Result<Used> {
        let mut used =
            Used { blobs: BTreeSet::new(), layers: BTreeSet::new(), chunks: Marks::new(chunks) };
        for digest in images.flatten() {
            if !used.blobs.insert(*digest.as_bytes()) {
                continue;
            }
            let BlobRecord { made, .. } = self.blob(digest)?;
            if let Some(chunks) = made.chunks() {
                used.chunks.add_all(chunks);
            }
            if let Some(diff_id) = made.diff_id()
                && used.layers.insert(*diff_id.as_bytes())
            {
                self.layer_chunks(&self.layer(diff_id)?, &mut |c| used.chunks.add_all(c))?;
            }
        }
        Ok(used)
    }

    /// Shows all chunks of a layer: its steps, headers, and each file.
    pub(super) fn layer_chunks(
        &self,
        layer: &LayerRecord,
        each: &mut dyn FnMut(&Runs),
    ) -> Result<()> {
        each(&layer.steps);
        each(&layer.heads);
        let bytes = self.packs.all(&self.db, &layer.steps, super::read::MAX_STEPS)?;
        let (mut rest, mut end, limit) = (&bytes[..], 0, self.limit()?);
        while !rest.is_empty() {
            let step = take_step(&mut rest, &mut end, limit)
                .ok_or_else(|| self.db.damaged("a layer's steps make no sense"))?;
            each(&step.file);
        }
        Ok(())
    }

    /// Takes out of the store in `dir` what no image uses. Packs that are compressed again are at
    /// `level` of zstd; what is read is kept on `budget`. Runs on the current rayon pool.
    pub fn collect(
        dir: &Path,
        level: i32,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Collected> {
        let store = Self::open_to_collect(dir, budget)?;
        let before_bytes = disk_bytes(dir)?;
        let collected = store.collect_all(level, progress)?;
        // Files go for good when they are closed.
        drop(store);
        Ok(Collected { before_bytes, after_bytes: disk_bytes(dir)?, ..collected })
    }

    fn collect_all(&self, level: i32, progress: &dyn Progress) -> Result<Collected> {
        let images: Vec<_> = self.images()?.into_iter().map(|(_, image)| image.blobs).collect();
        let packs = self.headers()?;
        let used = self.used(images.iter().map(Vec::as_slice), count(&packs))?;
        let mut gone = self.sweep("blobs", |key, _| Ok(!used.blobs.contains(key)))?;
        gone.extend(self.sweep("layers", |key, _| Ok(!used.layers.contains(key)))?);
        for table in ["files", "paths"] {
            gone.extend(self.sweep(table, |_, value| {
                let chunks = Runs::parse(value, count(&packs)).unwrap_or_default();
                Ok(!chunks.numbers().all(|number| used.chunks.has(number)))
            })?);
        }
        self.delete(&gone)?;
        self.delete(&self.sweep("chunks", |_, value| Ok(!used.chunks.has(number_of(value)?)))?)?;
        let mut collected = Collected::default();
        progress.begin("collect", packs.iter().map(|(_, header)| header.frame).sum());
        // A pack is written anew while what it refers to, in earlier ones, is still there.
        for (first, header) in packs.iter().rev() {
            self.sift(*first, header, &used.chunks, level, &mut collected)?;
            progress.advance(header.frame);
        }
        self.db.settle()?;
        self.db.compact()?;
        progress.end();
        Ok(collected)
    }

    /// Takes the dead chunks of a pack out.
    fn sift(
        &self,
        first: u64,
        header: &PackHeader,
        used: &Marks,
        level: i32,
        collected: &mut Collected,
    ) -> Result<()> {
        let mut after = header.clone();
        let mut dead = Collected::default();
        for (number, chunk) in (first..).zip(&mut after.chunks) {
            if chunk.0 > 0 && !used.has(number) {
                dead.chunks += 1;
                dead.chunk_bytes += u64::from(chunk.0);
                *chunk = (0, [0; 32]);
            }
        }
        after.references = header.references.numbers().filter(|n| used.has(*n)).collect();
        let mut batch = self.db.batch();
        if after.plain() == 0 {
            dead.packs = 1;
            batch.delete("packs", &key(first))?;
            batch.delete("data", &key(first))?;
        } else if after.references != header.references
            || after.plain() * SPARSE.1 < header.plain() * SPARSE.0
        {
            dead.rewritten = 1;
            let read = |chunks: &Runs| self.packs.all(&self.db, chunks, u64::MAX);
            let live = (first..).zip(&after.chunks).filter(|(_, chunk)| chunk.0 > 0);
            let bytes = read(&live.map(|(number, _)| number).collect())?;
            let frame = pack::encode(&bytes, &read(&after.references)?, level)?;
            if after.references.is_empty() {
                after.depth = 0;
            }
            after.frame = frame.len() as u64;
            batch.put("packs", &key(first), &after.to_bytes())?;
            batch.put("data", &key(first), &frame)?;
        } else {
            return Ok(());
        }
        batch.write(false)?;
        self.packs.forget(first);
        collected.chunks += dead.chunks;
        collected.chunk_bytes += dead.chunk_bytes;
        collected.packs += dead.packs;
        collected.rewritten += dead.rewritten;
        Ok(())
    }

    /// Keys of a table that are to go.
    fn sweep(
        &self,
        table: &'static str,
        dead: impl Fn(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<Vec<Gone>> {
        let mut keys = Vec::new();
        for entry in self.db.below(table, b"")? {
            let (key, value) = entry?;
            if dead(&key, &value)? {
                keys.push((table, key));
            }
        }
        Ok(keys)
    }

    fn delete(&self, keys: &[Gone]) -> Result<()> {
        for keys in keys.chunks(BATCH) {
            let mut batch = self.db.batch();
            for (table, key) in keys {
                batch.delete(table, key)?;
            }
            batch.write(false)?;
        }
        Ok(())
    }
}
