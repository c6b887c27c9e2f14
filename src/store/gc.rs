//! Garbage collection: removing what no image uses.
//!
//! Records that refer to chunks are removed before the chunks, so an interruption leaves no dangling
//! references. Packs that were compressed against unused chunks are compressed again without them,
//! which takes less space than keeping the chunks. At the end, packs are moved out of files that are
//! mostly unused. Damage stops the collection, which then leaves the store no larger than it was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::encoding::{ChunkRuns, PackHeader};
use super::entry::{self, StoreEntry};
use super::files::{self, FileEnd, RecordWriter, StoreFolder};
use super::marks::ChunkSet;
use super::pack::Packing;
use super::record::{key, number_of};
use super::stats::disk_bytes;
use super::table::Store;
use crate::base::error::{Context, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::model::content::Budget;

/// Minimum share in use of a pack or a file. Below it, it is rewritten.
const MIN_USED_SHARE: (u64, u64) = (3, 4);
/// Number of deletions per batch.
const BATCH: usize = 10_000;

/// Statistics of a garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GcStats {
    /// Number of chunks that were removed.
    pub chunks: u64,
    /// Their size in bytes, uncompressed.
    pub chunk_bytes: u64,
    /// Number of packs that were removed.
    pub packs: u64,
    /// Number of packs that were rewritten without their unused chunks.
    pub rewritten: u64,
    /// Bytes on disk before the collection.
    pub before_bytes: u64,
    /// Bytes on disk after the collection.
    pub after_bytes: u64,
}

/// Bytes of packs that are moved together.
const MOVE_BATCH: usize = 16 << 20;

/// Returns the size of a pack on disk.
fn entry_size(first: u64, header: &PackHeader) -> u64 {
    entry::size(header.to_head(first).len() as u64, header.frame_bytes)
}

/// A table and a key in it.
pub(super) type TableKey = (&'static str, Box<[u8]>);

impl Store {
    /// Removes everything from the store in `dir` that no image uses. `packing` says how packs are
    /// compressed again. Packs that were read are cached on `budget`. Runs on the current rayon pool.
    ///
    /// # Errors
    /// If the store does not exist, is damaged or can't be written, or another process writes to it.
    pub fn collect_garbage(
        dir: &Path,
        packing: Packing,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<GcStats> {
        let store = Self::open_existing(dir, budget)?;
        let before_bytes = disk_bytes(dir)?;
        let before = store.state();
        let collected = store.collect(packing, progress).inspect_err(|_| {
            // Remove what was written. If that fails, the next writer does it.
            if let Ok(state) = store.db.json("state", b"") {
                let _ = files::remove_unfinished(dir, &state.unwrap_or(before));
            }
        })?;
        // RocksDB frees the space of its files when it closes them.
        drop(store);
        Ok(GcStats { before_bytes, after_bytes: disk_bytes(dir)?, ..collected })
    }

    fn collect(&self, packing: Packing, progress: &dyn Progress) -> Result<GcStats> {
        let images: Vec<_> =
            self.image_records()?.into_iter().map(|(_, image)| image.blobs).collect();
        let packs = self.headers()?;
        let used = self.used(images.iter().map(Vec::as_slice), self.limit())?;
        let mut dead = self.find_dead("blobs", |key, _| Ok(!used.blobs.contains(key)))?;
        dead.extend(self.find_dead("layers", |key, _| Ok(!used.layers.contains(key)))?);
        for table in ["files", "paths"] {
            dead.extend(self.find_dead(table, |_, value| {
                let chunks = ChunkRuns::parse(value, self.limit()).unwrap_or_default();
                Ok(!chunks.numbers().all(|number| used.chunks.contains(number)))
            })?);
        }
        self.delete(&dead)?;
        self.delete(
            &self.find_dead("chunks", |_, value| Ok(!used.chunks.contains(number_of(value)?)))?,
        )?;
        let mut collected = GcStats::default();
        progress.begin("collect", packs.iter().map(|(_, header)| header.frame_bytes).sum());
        // From the last pack to the first: rewriting one needs the earlier ones that it refers to.
        for (first, header) in packs.iter().rev() {
            self.rewrite_pack(*first, header, &used.chunks, packing, &mut collected)?;
            progress.advance(header.frame_bytes);
        }
        self.close_gaps()?;
        self.rewrite_records()?;
        self.db.flush_and_merge()?;
        self.db.compact();
        progress.end();
        Ok(collected)
    }

    /// Moves packs out of files that are mostly unused, and removes these files.
    fn close_gaps(&self) -> Result<()> {
        let mut left: BTreeMap<u64, Vec<(u64, PackHeader)>> = BTreeMap::new();
        for (first, header) in self.headers()? {
            left.entry(header.location.file).or_default().push((first, header));
        }
        let mut files = StoreFolder::Packs.list(&self.dir)?;
        files.retain(|(number, bytes)| {
            let packs = left.get(number).map_or(&[][..], Vec::as_slice);
            let used: u64 = packs.iter().map(|(first, header)| entry_size(*first, header)).sum();
            used * MIN_USED_SHARE.1 < bytes * MIN_USED_SHARE.0
        });
        let mut state = self.state();
        if files.iter().any(|(number, _)| *number == state.packs.file) {
            state.packs = FileEnd { file: state.packs.file + 1, end: 0 };
            self.set_state(state);
        }
        for (number, _) in files {
            let path = StoreFolder::Packs.path(&self.dir, number);
            self.move_packs(&path, left.remove(&number).unwrap_or_default())
                .with_context(|| format!("moving packs out of {}", path.display()))?;
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    fn move_packs(&self, path: &Path, packs: Vec<(u64, PackHeader)>) -> Result<()> {
        let file = File::open(path)?;
        let mut batch = self.batch();
        let mut packs = packs.into_iter().peekable();
        while packs.peek().is_some() {
            // Packs of one batch are synced together.
            let (mut some, mut bytes) = (Vec::new(), 0);
            while bytes < MOVE_BATCH
                && let Some((first, header)) = packs.next()
            {
                let entry = StoreEntry::read(&file, header.location.offset);
                let frame = entry.and_then(|entry| entry.read_body(&file));
                let frame = frame.map_err(|e| match e.kind() {
                    ErrorKind::Malformed => self.db.damaged(&e.to_string()),
                    _ => e,
                })?;
                bytes += frame.len();
                some.push((first, header, frame));
            }
            let written = some.iter().map(|(first, header, frame)| (*first, header, &frame[..]));
            let places = self.write_packs(&written.collect::<Vec<_>>())?;
            for ((first, mut header, _), place) in some.into_iter().zip(places) {
                header.location = place;
                batch.put("packs", &key(first), &header.to_value())?;
                self.packs.forget(first);
            }
        }
        batch.write(true)
    }

    /// Replaces the records by new ones of the current state, without its history.
    pub(super) fn rewrite_records(&self) -> Result<()> {
        let mut state = self.state();
        let old = state.records;
        state.records = FileEnd { file: old.file + 1, end: 0 };
        let mut records = RecordWriter::new(&self.dir, &mut state);
        for table in files::recorded() {
            for item in self.db.with_prefix(table, b"")? {
                let (key, value) = item?;
                records.put(table, &key, &value)?;
            }
        }
        records.finish()?;
        self.set_state(state);
        self.batch().write(true)?;
        let path = StoreFolder::Records.path(&self.dir, old.file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the unused chunks of a pack.
    fn rewrite_pack(
        &self,
        first: u64,
        header: &PackHeader,
        used: &ChunkSet,
        packing: Packing,
        collected: &mut GcStats,
    ) -> Result<()> {
        let mut after = header.clone();
        let mut dead = GcStats::default();
        for (number, chunk) in (first..).zip(&mut after.chunks) {
            if chunk.0 > 0 && !used.contains(number) {
                dead.chunks += 1;
                dead.chunk_bytes += u64::from(chunk.0);
                *chunk = (0, [0; 32]);
            }
        }
        after.references = header.references.numbers().filter(|n| used.contains(*n)).collect();
        let mut batch = self.batch();
        if after.chunk_bytes() == 0 {
            dead.packs = 1;
            batch.delete("packs", &key(first))?;
        } else if after.references != header.references
            || after.chunk_bytes() * MIN_USED_SHARE.1 < header.chunk_bytes() * MIN_USED_SHARE.0
        {
            dead.rewritten = 1;
            let read = |chunks: &ChunkRuns| self.packs.read_chunks(&self.db, chunks, u64::MAX);
            let live = (first..).zip(&after.chunks).filter(|(_, chunk)| chunk.0 > 0);
            let bytes = read(&live.map(|(number, _)| number).collect())?;
            let frame = packing.encode(&bytes, &read(&after.references)?)?;
            if after.references.is_empty() {
                after.depth = 0;
            }
            after.frame_bytes = frame.len() as u64;
            after.location = self.write_packs(&[(first, &after, &frame)])?[0];
            batch.put("packs", &key(first), &after.to_value())?;
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

    /// Returns the keys of a table whose entries are dead.
    pub(super) fn find_dead(
        &self,
        table: &'static str,
        dead: impl Fn(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<Vec<TableKey>> {
        let mut keys = Vec::new();
        for entry in self.db.with_prefix(table, b"")? {
            let (key, value) = entry?;
            if dead(&key, &value)? {
                keys.push((table, key));
            }
        }
        Ok(keys)
    }

    pub(super) fn delete(&self, keys: &[TableKey]) -> Result<()> {
        for keys in keys.chunks(BATCH) {
            let mut batch = self.batch();
            for (table, key) in keys {
                batch.delete(table, key)?;
            }
            batch.write(false)?;
        }
        Ok(())
    }
}
