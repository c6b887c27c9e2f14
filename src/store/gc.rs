//! Taking out what no image uses.
//!
//! First the records that name chunks go, then chunks; so whenever it is interrupted, nothing
//! names what is not there. Nor does a pack keep what no image uses only because it was compressed
//! against that: it is compressed again without, and both together are smaller. At last, what is
//! left of files with large gaps is moved to new ones. Where damage is in the way it ends, and
//! leaves no more behind than there was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::entry::{self, Entry};
use super::files::{self, End, Folder, RecordWriter};
use super::marks::Marks;
use super::pack::Packing;
use super::record::{PackHeader, Runs, key, number_of};
use super::stats::disk_bytes;
use super::table::Store;
use crate::base::error::{Context, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::model::content::Budget;

/// A pack or file of which less than this share is used is written anew.
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

/// Bytes of packs that are moved together.
const MOVED: usize = 16 << 20;

/// Bytes of a pack on disk.
fn entry_size(first: u64, header: &PackHeader) -> u64 {
    entry::size(header.to_head(first).len() as u64, header.frame)
}

/// A table and a key that is to go.
pub(super) type Gone = (&'static str, Box<[u8]>);

impl Store {
    /// Takes out of the store in `dir` what no image uses; `packing` says how packs are compressed
    /// again. What is read is kept on `budget`. Runs on the current rayon pool.
    pub fn collect(
        dir: &Path,
        packing: Packing,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Collected> {
        let store = Self::open_existing(dir, budget)?;
        let before_bytes = disk_bytes(dir)?;
        let before = store.state();
        let collected = store.collect_all(packing, progress).inspect_err(|_| {
            // What was written for nothing goes again; if that fails, with the next who writes.
            if let Ok(told) = store.db.json("state", b"") {
                let _ = files::tidy(dir, &told.unwrap_or(before));
            }
        })?;
        // Files go for good when they are closed.
        drop(store);
        Ok(Collected { before_bytes, after_bytes: disk_bytes(dir)?, ..collected })
    }

    fn collect_all(&self, packing: Packing, progress: &dyn Progress) -> Result<Collected> {
        let images: Vec<_> = self.images()?.into_iter().map(|(_, image)| image.blobs).collect();
        let packs = self.headers()?;
        let used = self.used(images.iter().map(Vec::as_slice), self.limit())?;
        let mut gone = self.sweep("blobs", |key, _| Ok(!used.blobs.contains(key)))?;
        gone.extend(self.sweep("layers", |key, _| Ok(!used.layers.contains(key)))?);
        for table in ["files", "paths"] {
            gone.extend(self.sweep(table, |_, value| {
                let chunks = Runs::parse(value, self.limit()).unwrap_or_default();
                Ok(!chunks.numbers().all(|number| used.chunks.has(number)))
            })?);
        }
        self.delete(&gone)?;
        self.delete(&self.sweep("chunks", |_, value| Ok(!used.chunks.has(number_of(value)?)))?)?;
        let mut collected = Collected::default();
        progress.begin("collect", packs.iter().map(|(_, header)| header.frame).sum());
        // A pack is written anew while what it refers to, in earlier ones, is still there.
        for (first, header) in packs.iter().rev() {
            self.sift(*first, header, &used.chunks, packing, &mut collected)?;
            progress.advance(header.frame);
        }
        self.close_gaps()?;
        self.rewrite_records()?;
        self.db.flush_and_merge()?;
        self.db.compact();
        progress.end();
        Ok(collected)
    }

    /// Moves packs out of files of which much is not used, and takes those away.
    fn close_gaps(&self) -> Result<()> {
        let mut left: BTreeMap<u64, Vec<(u64, PackHeader)>> = BTreeMap::new();
        for (first, header) in self.headers()? {
            left.entry(header.place.file).or_default().push((first, header));
        }
        let mut files = Folder::Packs.list(&self.dir)?;
        files.retain(|(number, bytes)| {
            let packs = left.get(number).map_or(&[][..], Vec::as_slice);
            let used: u64 = packs.iter().map(|(first, header)| entry_size(*first, header)).sum();
            used * SPARSE.1 < bytes * SPARSE.0
        });
        let mut state = self.state();
        if files.iter().any(|(number, _)| *number == state.packs.file) {
            state.packs = End { file: state.packs.file + 1, end: 0 };
            self.set_state(state);
        }
        for (number, _) in files {
            let path = Folder::Packs.path(&self.dir, number);
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
            // So many at a time are put on disk together.
            let (mut some, mut bytes) = (Vec::new(), 0);
            while bytes < MOVED
                && let Some((first, header)) = packs.next()
            {
                let entry = Entry::read(&file, header.place.offset);
                let frame = entry.and_then(|entry| entry.body(&file));
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
                header.place = place;
                batch.put("packs", &key(first), &header.to_value())?;
                self.packs.forget(first);
            }
        }
        batch.write(true)
    }

    /// Writes the records anew: what there is, and not how it came to be.
    pub(super) fn rewrite_records(&self) -> Result<()> {
        let mut state = self.state();
        let old = state.records;
        state.records = End { file: old.file + 1, end: 0 };
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
        let path = Folder::Records.path(&self.dir, old.file);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Takes the dead chunks of a pack out.
    fn sift(
        &self,
        first: u64,
        header: &PackHeader,
        used: &Marks,
        packing: Packing,
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
        let mut batch = self.batch();
        if after.plain() == 0 {
            dead.packs = 1;
            batch.delete("packs", &key(first))?;
        } else if after.references != header.references
            || after.plain() * SPARSE.1 < header.plain() * SPARSE.0
        {
            dead.rewritten = 1;
            let read = |chunks: &Runs| self.packs.all(&self.db, chunks, u64::MAX);
            let live = (first..).zip(&after.chunks).filter(|(_, chunk)| chunk.0 > 0);
            let bytes = read(&live.map(|(number, _)| number).collect())?;
            let frame = packing.encode(&bytes, &read(&after.references)?)?;
            if after.references.is_empty() {
                after.depth = 0;
            }
            after.frame = frame.len() as u64;
            after.place = self.write_packs(&[(first, &after, &frame)])?[0];
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

    /// Keys of a table that are to go.
    pub(super) fn sweep(
        &self,
        table: &'static str,
        dead: impl Fn(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<Vec<Gone>> {
        let mut keys = Vec::new();
        for entry in self.db.with_prefix(table, b"")? {
            let (key, value) = entry?;
            if dead(&key, &value)? {
                keys.push((table, key));
            }
        }
        Ok(keys)
    }

    pub(super) fn delete(&self, keys: &[Gone]) -> Result<()> {
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
