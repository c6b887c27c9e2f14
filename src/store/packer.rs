//! Filling packs with new chunks, and writing them.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::encoding::{FULL_PACK, Hash, PackHeader};
use super::pack::{MAX_DEPTH, MAX_REFERENCE, Packing};
use super::record::{key, number_of};
use super::table::Store;
use crate::base::chunker;
use crate::base::error::Result;
use crate::model::fileset::base_name;

/// An older file that is similar to a new one.
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
    /// Length of its pack's longest chain of references.
    pub(super) depth: u64,
}

/// Collects new chunks into packs.
pub(super) struct Packer<'a> {
    store: &'a Store,
    packing: Packing,
    /// The pack being filled: number of its first chunk, its bytes, its chunks.
    first: u64,
    bytes: Vec<u8>,
    filled: Vec<(u32, Hash)>,
    /// Chunks that it will be compressed against.
    references: Vec<u64>,
    reference_bytes: u64,
    depth: u64,
    /// Full packs, not yet compressed.
    full: Vec<FullPack>,
    /// New chunks whose packs are not yet written.
    pending: BTreeMap<Hash, u64>,
    /// Bytes of new chunks, uncompressed.
    pub(super) new_bytes: u64,
    /// Bytes of the same chunks as stored.
    pub(super) stored_bytes: u64,
}

/// A pack that waits to be compressed.
struct FullPack {
    first: u64,
    bytes: Vec<u8>,
    header: PackHeader,
}

impl<'a> Packer<'a> {
    /// Creates a packer that numbers chunks from `first`.
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

    /// Returns the number of a chunk that exists.
    pub(super) fn find(&self, hash: &Hash) -> Result<Option<u64>> {
        if let Some(number) = self.pending.get(hash) {
            return Ok(Some(*number));
        }
        self.store.db.get("chunks", hash)?.map(|v| number_of(&v)).transpose()
    }

    /// Adds a chunk unless it exists, and returns its number. `reference` is a similar older file, the
    /// chunk's range in its own file, and the size of that file.
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

    /// Adds the part of an older file to the references that corresponds to `range` of a file of
    /// `size`.
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

    /// Compresses and writes the full packs.
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

    /// Writes the remaining chunks.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.seal();
        self.flush()
    }
}

/// Returns the keys of the table `paths` for a file: its path, and its path without digits, since
/// versions in names change.
pub(super) fn similarity_keys(path: &[u8]) -> Vec<[u8; 16]> {
    let key = |kind: &[u8], bytes: &[u8]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind).update(bytes);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    };
    let digits = path.iter().any(u8::is_ascii_digit);
    let mut keys = vec![key(b"path", path)];
    if digits && !base_name(path).is_empty() {
        let stem: Vec<u8> = path.iter().copied().filter(|b| !b.is_ascii_digit()).collect();
        keys.push(key(b"stem", &stem));
    }
    keys
}
