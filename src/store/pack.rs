//! Packs: some hundred chunks in one zstd frame.
//!
//! Chunks are small so that much is shared, frames are large so that they compress well. A pack
//! may have earlier chunks in sight while it is compressed, the old selves of changed files for
//! example. Packs are named by their first chunk's number.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::record::{Hash, PackHeader, Runs, key, number_of};
use crate::codec::frame;
use crate::db::Db;
use crate::error::{Context, Error, Result};

/// Bytes that a pack may have in sight.
pub(super) const REFERENCE: u64 = 16 << 20;
/// Log2 of the window that holds both.
const WINDOW: u32 = 25;
/// Packs refer to packs that refer to packs, so deep: reading one may mean reading so many.
pub(super) const DEPTH: u64 = 6;
/// Bytes of packs that are kept in memory once read.
const CACHE: usize = 128 << 20;

/// A pack that has been read and verified.
pub(super) struct Pack {
    first: u64,
    /// Where each chunk ends.
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Pack {
    fn has(&self, number: u64) -> bool {
        (self.first..self.first + self.ends.len() as u64).contains(&number)
    }

    /// A chunk's bytes; `number` is one of its own.
    pub(super) fn chunk(&self, number: u64) -> &[u8] {
        let at = (number - self.first) as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start as usize..self.ends[at] as usize]
    }
}

/// Reads packs, and keeps the last ones.
#[derive(Default)]
pub(super) struct Packs {
    cache: Mutex<VecDeque<Arc<Pack>>>,
}

impl Packs {
    /// The pack that a chunk is in.
    pub(super) fn of(&self, db: &Db, number: u64) -> Result<Arc<Pack>> {
        self.read(db, number, 2 * DEPTH)
    }

    fn read(&self, db: &Db, number: u64, depth: u64) -> Result<Arc<Pack>> {
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = cache.iter().position(|p| p.has(number)) {
                let pack = cache.remove(at);
                cache.extend(pack.clone());
                return pack.ok_or_else(|| gone(db, number));
            }
        }
        let (first, header) = header_of(db, number)?;
        let pack =
            Arc::new(self.decode(db, first, &header, depth).context(|| format!("pack {first}"))?);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_back(Arc::clone(&pack));
        let mut held: usize = cache.iter().map(|p| p.bytes.len()).sum();
        while held > CACHE && cache.len() > 1 {
            held -= cache.pop_front().map_or(0, |p| p.bytes.len());
        }
        Ok(pack)
    }

    fn decode(&self, db: &Db, first: u64, header: &PackHeader, depth: u64) -> Result<Pack> {
        let depth = depth.checked_sub(1).ok_or_else(|| db.damaged("packs refer too deep"))?;
        let mut reference = Vec::new();
        for number in header.references.numbers() {
            reference.extend_from_slice(self.read(db, number, depth)?.chunk(number));
            if reference.len() as u64 > REFERENCE {
                return Err(db.damaged("it refers to too much"));
            }
        }
        let data = db.get("data", &key(first))?;
        let data = data.filter(|d| d.len() as u64 == header.frame);
        let data = data.ok_or_else(|| db.damaged("its bytes are missing"))?;
        let bytes = frame::decompress(&data, &reference, header.plain(), WINDOW)?;
        let mut at = 0;
        let mut ends = Vec::with_capacity(header.chunks.len());
        for (i, (size, hash)) in header.chunks.iter().enumerate() {
            let end = at + *size as usize;
            if *size > 0 && *blake3::hash(&bytes[at..end]).as_bytes() != *hash {
                let what = format!("chunk {} is not what it was", first + i as u64);
                return Err(db.damaged(&what));
            }
            at = end;
            ends.push(end as u32);
        }
        Ok(Pack { first, ends, bytes })
    }

    /// Drops a pack that has changed.
    pub(super) fn forget(&self, first: u64) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|pack| pack.first != first);
    }

    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        self.cache.lock().unwrap().clear();
    }

    /// The bytes of chunks.
    pub(super) fn all(&self, db: &Db, chunks: &Runs, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for number in chunks.numbers() {
            bytes.extend_from_slice(self.of(db, number)?.chunk(number));
            if bytes.len() as u64 > limit {
                return Err(db.damaged("a document is too large"));
            }
        }
        Ok(bytes)
    }
}

/// A pack's header by one of its chunks, which must be there.
pub(super) fn header_of(db: &Db, number: u64) -> Result<(u64, PackHeader)> {
    let (at, value) = db.at_or_before("packs", &key(number))?.ok_or_else(|| gone(db, number))?;
    let first = number_of(&at)?;
    let header = parse(db, first, &value)?;
    let chunk = usize::try_from(number - first).ok().and_then(|i| header.chunks.get(i));
    if chunk.is_none_or(|(bytes, _)| *bytes == 0) {
        return Err(gone(db, number));
    }
    Ok((first, header))
}

/// Reads a header.
pub(super) fn parse(db: &Db, first: u64, value: &[u8]) -> Result<PackHeader> {
    PackHeader::parse(value, first)
        .ok_or_else(|| db.damaged(&format!("the header of pack {first} makes no sense")))
}

fn gone(db: &Db, number: u64) -> Error {
    db.damaged(&format!("chunk {number} is missing"))
}

/// Compresses a pack's chunks, joined, with earlier ones in sight.
pub(super) fn encode(bytes: &[u8], reference: &[u8], level: i32) -> Result<Vec<u8>> {
    frame::compress(bytes, reference, level, WINDOW)
}

/// Reads chunks one after the other.
pub(super) struct ChunkReader<'a> {
    packs: &'a Packs,
    db: &'a Db,
    runs: std::vec::IntoIter<(u64, u64)>,
    /// Numbers that are left of the current run.
    left: std::ops::Range<u64>,
    now: Option<(Arc<Pack>, u64)>,
    at: usize,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(packs: &'a Packs, db: &'a Db, chunks: Runs) -> Self {
        Self { packs, db, runs: chunks.0.into_iter(), left: 0..0, now: None, at: 0 }
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            if let Some((pack, number)) = &self.now {
                let rest = &pack.chunk(*number)[self.at..];
                if !rest.is_empty() {
                    let n = rest.len().min(buf.len());
                    buf[..n].copy_from_slice(&rest[..n]);
                    self.at += n;
                    return Ok(n);
                }
            }
            let Some(number) = self.left.next() else {
                let Some((first, count)) = self.runs.next() else { return Ok(0) };
                self.left = first..first.saturating_add(count);
                continue;
            };
            let known = self.now.take().map(|(pack, _)| pack).filter(|p| p.has(number));
            let pack = match known {
                Some(pack) => pack,
                None => self.packs.of(self.db, number)?,
            };
            self.now = Some((pack, number));
            self.at = 0;
        }
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.next(buf).map_err(io::Error::from)
    }
}

/// Chunks of a pack that is being filled, with their hashes.
pub(super) type Filled = Vec<(u32, Hash)>;
