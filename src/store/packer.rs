//! Filling packs with what is not in the store, and writing them.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::pack::{MAX_DEPTH, MAX_REFERENCE, Packing};
use super::record::{FULL_PACK, Hash, PackHeader, key, number_of};
use super::table::Store;
use crate::base::chunker;
use crate::base::error::Result;

/// An older file that is much like a new one.
pub(super) struct OlderFile {
    pub(super) chunks: Vec<OlderChunk>,
    pub(super) bytes: u64,
}

/// A chunk of an older file.
pub(super) struct OlderChunk {
    pub(super) number: u64,
    /// Where it begins in the file.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// How deep its pack's references go.
    pub(super) depth: u64,
}

/// Chunks on their way into packs.
pub(super) struct Packer<'a> {
    store: &'a Store,
    packing: Packing,
    /// The pack being filled: number of its first chunk, its bytes, its chunks.
    first: u64,
    bytes: Vec<u8>,
    filled: Vec<(u32, Hash)>,
    /// What it is to have in sight.
    references: Vec<u64>,
    reference_bytes: u64,
    depth: u64,
    /// Packs that are full.
    full: Vec<FullPack>,
    /// Chunks that are in no pack yet that was written.
    pending: BTreeMap<Hash, u64>,
    /// Bytes that were new, before compression.
    pub(super) new_bytes: u64,
    /// The same, as they were stored.
    pub(super) stored_bytes: u64,
}

/// A pack that waits to be compressed.
struct FullPack {
    first: u64,
    bytes: Vec<u8>,
    header: PackHeader,
}

impl<'a> Packer<'a> {
    /// Numbers chunks from `first` on, the number that none has yet.
    pub(super) fn new(store: &'a Store, first: u64, packing: Packing) -> Self {
        Self {
            store,
            packing,
            first,
            bytes: Vec::new(),
            filled: Vec::new(),
            references: Vec::new(),
            reference_bytes: 0,
            depth: 0,
            full: Vec::new(),
            pending: BTreeMap::new(),
            new_bytes: 0,
            stored_bytes: 0,
        }
    }

    /// The number of a chunk that is there.
    pub(super) fn find(&self, hash: &Hash) -> Result<Option<u64>> {
        if let Some(number) = self.pending.get(hash) {
            return Ok(Some(*number));
        }
        self.store.db.get("chunks", hash)?.map(|v| number_of(&v)).transpose()
    }

    /// Adds a chunk, unless it is there. `sight` is what it is like, where it lies in its file and
    /// that file's size.
    pub(super) fn add_chunk(
        &mut self,
        bytes: &[u8],
        reference: Option<(&OlderFile, Range<u64>, u64)>,
    ) -> Result<u64> {
        let hash = *blake3::hash(bytes).as_bytes();
        if let Some(number) = self.find(&hash)? {
            return Ok(number);
        }
        if let Some((older, range, size)) = reference {
            self.refer(older, &range, size);
        }
        let number = self.first + self.filled.len() as u64;
        self.pending.insert(hash, number);
        self.filled.push((bytes.len() as u32, hash));
        self.bytes.extend_from_slice(bytes);
        self.new_bytes += bytes.len() as u64;
        if self.bytes.len() >= FULL_PACK {
            self.seal();
            if self.full.len() >= self.packing.threads {
                self.flush()?;
            }
        }
        Ok(number)
    }

    /// Puts the part of an older file in sight that lies where `range` of a file of `size` does.
    fn refer(&mut self, older: &OlderFile, range: &Range<u64>, size: u64) {
        let scale = |n: u64| (u128::from(n) * u128::from(older.bytes) / u128::from(size)) as u64;
        let around = chunker::MAX as u64;
        let (from, to) = (scale(range.start).saturating_sub(around), scale(range.end) + around);
        let start = older.chunks.partition_point(|c| c.at < from).saturating_sub(1);
        for chunk in older.chunks[start..].iter().take_while(|c| c.at < to) {
            let fits =
                chunk.depth < MAX_DEPTH && self.reference_bytes + chunk.bytes <= MAX_REFERENCE;
            if fits && !self.references.contains(&chunk.number) {
                self.references.push(chunk.number);
                self.reference_bytes += chunk.bytes;
                self.depth = self.depth.max(chunk.depth + 1);
            }
        }
    }

    fn seal(&mut self) {
        if self.filled.is_empty() {
            return;
        }
        let references = self.references.drain(..).collect();
        let chunks = std::mem::take(&mut self.filled);
        let next = self.first + chunks.len() as u64;
        let header = PackHeader { chunks, references, depth: self.depth, ..PackHeader::default() };
        let bytes = std::mem::take(&mut self.bytes);
        self.full.push(FullPack { first: self.first, bytes, header });
        (self.first, self.reference_bytes, self.depth) = (next, 0, 0);
    }

    /// Compresses the packs that are full, and writes them.
    fn flush(&mut self) -> Result<()> {
        let (store, packing) = (self.store, self.packing);
        let frames: Vec<Result<Vec<u8>>> = self
            .full
            .par_iter()
            .with_max_len(1)
            .map(|pack| {
                let limit = MAX_REFERENCE + 1;
                let reference =
                    store.packs.read_chunks(&store.db, &pack.header.references, limit)?;
                packing.encode(&pack.bytes, &reference)
            })
            .collect();
        let frames: Vec<Vec<u8>> = frames.into_iter().collect::<Result<_>>()?;
        for (pack, frame) in self.full.iter_mut().zip(&frames) {
            pack.header.frame_bytes = frame.len() as u64;
            self.stored_bytes += pack.header.frame_bytes;
        }
        let packs = self.full.iter().zip(&frames).map(|(p, f)| (p.first, &p.header, &f[..]));
        let places = store.write_packs(&packs.collect::<Vec<_>>())?;
        for (mut pack, place) in self.full.drain(..).zip(places) {
            pack.header.location = place;
            let mut batch = store.batch();
            batch.put("packs", &key(pack.first), &pack.header.to_value())?;
            for (i, (_, hash)) in pack.header.chunks.iter().enumerate() {
                batch.put("chunks", hash, &key(pack.first + i as u64))?;
                self.pending.remove(hash);
            }
            batch.write(false)?;
        }
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.seal();
        self.flush()
    }
}
