//! Packs: hundreds of chunks in one zstd frame.
//!
//! Chunks are small so that much is shared; frames are large so that they compress well. A pack may be
//! compressed against earlier chunks, for example those of the previous versions of changed files. A
//! pack is identified by the number of its first chunk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::encoding::{ChunkRuns, PackHeader};
use super::entry::StoreEntry;
use super::files::StoreFolder;
use super::record::{key, number_of};
use crate::base::database::Db;
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::format::codec::zstd_prefix::{self, Parameters};
use crate::model::content::{Budget, Source, SpoolWriter};

/// Maximum bytes that a pack is compressed against.
pub(super) const MAX_REFERENCE: u64 = 16 << 20;
/// Base-2 logarithm of the zstd window: a full pack and its references.
const WINDOW: u32 = 25;
/// Maximum length of a chain of references, since reading a pack means reading all packs of the chain.
pub(super) const MAX_DEPTH: u64 = 6;
/// Maximum bytes of packs in the cache, in memory or in a temporary file. The files of a layer are
/// spread over the store, and packs refer to others: with a small cache, packs would be read again for
/// every few files.
const MAX_CACHED: u64 = 8 << 30;

/// A pack whose chunks are read and verified on first use.
pub(super) struct Pack {
    first: u64,
    header: PackHeader,
    /// Where each chunk ends in the unpacked bytes.
    ends: Vec<u32>,
    bytes: OnceLock<Source>,
    reading: Mutex<()>,
}

impl Pack {
    fn new(first: u64, header: PackHeader) -> Self {
        let sizes = header.chunks.iter().map(|(size, _)| *size);
        let ends = sizes.scan(0, |end, size| {
            *end += size;
            Some(*end)
        });
        let ends = ends.collect();
        Self { first, header, ends, bytes: OnceLock::new(), reading: Mutex::new(()) }
    }

    fn contains(&self, number: u64) -> bool {
        (self.first..self.first + self.ends.len() as u64).contains(&number)
    }

    fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0).into()
    }

    /// Returns where a chunk of this pack is in the unpacked bytes.
    fn range_of(&self, number: u64) -> Range<u64> {
        let at = (number - self.first) as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        start.into()..self.ends[at].into()
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes.get().ok_or_else(|| Error::malformed("a pack was not read"))?;
        Ok(bytes.read_exact_at(buf, offset)?)
    }
}

/// Reads packs, with a cache of those that were used last.
pub(super) struct PackReader {
    dir: PathBuf,
    budget: Arc<Budget>,
    cached: Mutex<VecDeque<Arc<Pack>>>,
    /// How often a pack was read from disk.
    #[cfg(test)]
    pub(super) reads: std::sync::atomic::AtomicUsize,
}

impl PackReader {
    /// Creates a reader whose cache uses `budget`.
    pub(super) fn new(dir: &Path, budget: &Arc<Budget>) -> Self {
        Self {
            dir: dir.to_owned(),
            budget: Arc::clone(budget),
            cached: Mutex::default(),
            #[cfg(test)]
            reads: 0.into(),
        }
    }

    /// Returns the pack that contains a chunk.
    pub(super) fn get(&self, db: &Db, number: u64) -> Result<Arc<Pack>> {
        self.get_at_depth(db, number, 2 * MAX_DEPTH)
    }

    fn get_at_depth(&self, db: &Db, number: u64, depth: u64) -> Result<Arc<Pack>> {
        let pack = match self.cached(number) {
            Some(pack) => pack,
            None => self.cache(header_of(db, number)?),
        };
        // Another thread may be reading it. There is no deadlock, since packs only refer to earlier
        // ones.
        let reading = pack.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if pack.bytes.get().is_none() {
            let bytes =
                self.decode(db, &pack, depth).with_context(|| format!("pack {}", pack.first))?;
            // Only this thread sets it, since it holds the lock.
            let _ = pack.bytes.set(bytes);
        }
        drop(reading);
        Ok(pack)
    }

    /// Returns a cached pack and marks it as used last.
    fn cached(&self, number: u64) -> Option<Arc<Pack>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cached.iter().rposition(|pack| pack.contains(number))?;
        let pack = cached.remove(at)?;
        cached.push_back(Arc::clone(&pack));
        Some(pack)
    }

    fn cache(&self, (first, header): (u64, PackHeader)) -> Arc<Pack> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have added it.
        if let Some(pack) = cached.iter().find(|pack| pack.first == first) {
            return Arc::clone(pack);
        }
        let pack = Arc::new(Pack::new(first, header));
        cached.push_back(Arc::clone(&pack));
        let mut held: u64 = cached.iter().map(|pack| pack.size()).sum();
        while held > MAX_CACHED && cached.len() > 1 {
            held -= cached.pop_front().map_or(0, |pack| pack.size());
        }
        pack
    }

    fn decode(&self, db: &Db, pack: &Pack, depth: u64) -> Result<Source> {
        #[cfg(test)]
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let header = &pack.header;
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| db.damaged("packs have too long a chain of references"))?;
        let reference = self.join(db, &header.references, MAX_REFERENCE, depth)?;
        let frame = self.frame(db, pack.first, header)?;
        let bytes = zstd_prefix::decompress(&frame, &reference, header.chunk_bytes(), WINDOW)?;
        for (number, (size, hash)) in (pack.first..).zip(&header.chunks) {
            let place = pack.range_of(number);
            let chunk = &bytes[place.start as usize..place.end as usize];
            if *size > 0 && *blake3::hash(chunk).as_bytes() != *hash {
                return Err(db.damaged(&format!("the hash of chunk {number} does not match")));
            }
        }
        let mut spool = SpoolWriter::new(&self.budget);
        if let Ok(spool) =
            spool.write_all(&bytes).map_err(Error::from).and_then(|()| spool.finish())
        {
            return Ok(Arc::new(spool));
        }
        // There is no space to cache it. This is not damage; the cache is dropped to free space.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(Arc::new(bytes))
    }

    /// Reads the frame of a pack, and verifies its checksum.
    fn frame(&self, db: &Db, first: u64, header: &PackHeader) -> Result<Vec<u8>> {
        let name = StoreFolder::Packs.name(header.location.file);
        let read = || -> Result<Vec<u8>> {
            let file = File::open(self.dir.join(&name))?;
            let entry = StoreEntry::read(&file, header.location.offset)?;
            let head = PackHeader::parse_head(&entry.head, header.location);
            if head.is_none_or(|(at, found)| at != first || found != *header) {
                return Err(Error::malformed("it holds another pack"));
            }
            entry.read_body(&file)
        };
        read().map_err(|e| match (e.kind(), e.io_kind()) {
            (ErrorKind::Malformed, _) => db.damaged(&format!("{name}: {e}")),
            (_, Some(io::ErrorKind::NotFound)) => missing_file(db, &name, first, header),
            _ => e.context(format!("reading {name}")),
        })
    }

    /// Removes a pack that has changed from the cache.
    pub(super) fn forget(&self, first: u64) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|pack| pack.first != first);
    }

    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        self.cached.lock().unwrap().clear();
    }

    /// Reads chunks, at most `limit` bytes.
    pub(super) fn read_chunks(&self, db: &Db, chunks: &ChunkRuns, limit: u64) -> Result<Vec<u8>> {
        self.join(db, chunks, limit, 2 * MAX_DEPTH)
    }

    fn join(&self, db: &Db, chunks: &ChunkRuns, limit: u64, depth: u64) -> Result<Vec<u8>> {
        let chunks = ChunkReader { depth, ..ChunkReader::new(self, db, chunks.clone()) };
        if chunks.runs.as_slice().is_empty() {
            return Ok(Vec::new());
        }
        // Reserved, since a vector that grows needs up to twice the memory; unused pages cost none.
        let mut bytes = Vec::with_capacity(limit.min(MAX_REFERENCE) as usize + 1);
        chunks.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(db.damaged(&format!("a list refers to more than {limit} bytes of chunks")));
        }
        Ok(bytes)
    }
}

/// Returns the header of the pack that contains a chunk.
pub(super) fn header_of(db: &Db, number: u64) -> Result<(u64, PackHeader)> {
    let (at, value) =
        db.at_or_before("packs", &key(number))?.ok_or_else(|| missing_chunk(db, number))?;
    let first = number_of(&at)?;
    let header = parse(db, first, &value)?;
    let chunk = usize::try_from(number - first).ok().and_then(|i| header.chunks.get(i));
    if chunk.is_none_or(|(bytes, _)| *bytes == 0) {
        return Err(missing_chunk(db, number));
    }
    Ok((first, header))
}

/// Creates the error for a missing pack file: damage, unless the pack was moved or removed since the
/// index was opened.
fn missing_file(db: &Db, name: &str, first: u64, header: &PackHeader) -> Error {
    let moved = |now: Db| -> Result<bool> {
        let value = now.get("packs", &key(first))?;
        Ok(value.and_then(|value| PackHeader::parse(&value, first)).as_ref() != Some(header))
    };
    match db.reopened().and_then(|now| now.map_or(Ok(false), moved)) {
        Ok(true) => db.changed(&format!("{name} is missing")),
        Ok(false) => db.damaged(&format!("{name} is missing")),
        Err(e) => e.context(format!("{name} is missing")),
    }
}

/// Parses a header.
pub(super) fn parse(db: &Db, first: u64, value: &[u8]) -> Result<PackHeader> {
    PackHeader::parse(value, first)
        .ok_or_else(|| db.damaged(&format!("the header of pack {first} is not valid")))
}

fn missing_chunk(db: &Db, number: u64) -> Error {
    db.damaged(&format!("chunk {number} is missing"))
}

/// How packs are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// zstd level.
    pub level: i32,
    /// Number of threads that compress.
    pub threads: usize,
    /// Bytes of memory for what is read, beside that of the threads.
    pub spool: u64,
    /// Base-2 logarithm of the size of zstd's tables, if those of the level are too large.
    table_log: Option<u32>,
}

/// Memory of a thread that compresses a pack: the pack, its references, the output, and zstd's tables
/// at level 12.
const MEMORY_PER_THREAD: u64 = 96 << 20;
/// Base-2 logarithm of the size of zstd's tables when memory is short.
const SMALL_TABLES: u32 = 20;

impl Packing {
    /// Divides `memory` bytes between what is read and at most `threads` threads.
    pub fn new(level: i32, memory: u64, threads: usize) -> Self {
        let threads = ((memory / 4 * 3 / MEMORY_PER_THREAD) as usize).clamp(1, threads);
        let spool = memory.saturating_sub(threads as u64 * MEMORY_PER_THREAD).max(memory / 4);
        let table_log = (memory < 2 * MEMORY_PER_THREAD).then_some(SMALL_TABLES);
        Self { level, threads, spool, table_log }
    }

    /// Compresses the chunks of a pack against earlier ones.
    pub(super) fn encode(self, bytes: &[u8], reference: &[u8]) -> Result<Vec<u8>> {
        let Self { level, table_log, .. } = self;
        let parameters = Parameters { table_log, ..Parameters::of(level, WINDOW) };
        zstd_prefix::compress(bytes, reference, parameters)
    }
}

/// Reads chunks, one after the other.
pub(super) struct ChunkReader<'a> {
    packs: &'a PackReader,
    db: &'a Db,
    /// Maximum length of a chain of references.
    depth: u64,
    runs: std::vec::IntoIter<(u64, u64)>,
    /// The remaining numbers of the current run.
    left: Range<u64>,
    /// The current pack, and the rest of the current chunk in it.
    now: Option<(Arc<Pack>, Range<u64>)>,
}

impl<'a> ChunkReader<'a> {
    pub(super) fn new(packs: &'a PackReader, db: &'a Db, chunks: ChunkRuns) -> Self {
        Self { packs, db, depth: 2 * MAX_DEPTH, runs: chunks.0.into_iter(), left: 0..0, now: None }
    }

    fn read_next(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            if let Some((pack, rest)) = &mut self.now
                && !rest.is_empty()
            {
                let n = buf.len().min((rest.end - rest.start) as usize);
                pack.read(&mut buf[..n], rest.start)?;
                rest.start += n as u64;
                return Ok(n);
            }
            let Some(number) = self.left.next() else {
                let Some((first, count)) = self.runs.next() else { return Ok(0) };
                self.left = first..first.saturating_add(count);
                continue;
            };
            let known = self.now.take().map(|(pack, _)| pack).filter(|p| p.contains(number));
            let pack = match known {
                Some(pack) => pack,
                None => self.packs.get_at_depth(self.db, number, self.depth)?,
            };
            let place = pack.range_of(number);
            self.now = Some((pack, place));
        }
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.read_next(buf).map_err(io::Error::from)
    }
}
