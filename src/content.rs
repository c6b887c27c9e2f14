//! Random access to file contents without holding an image in memory.
//!
//! Output order differs from input order, so every file's bytes must be reachable by offset. An
//! uncompressed layer inside an archive is read where it lies ([`Region`]); anything that had to
//! be decompressed, or came through a pipe, lies in a [`Spool`]: in memory while a shared
//! [`Budget`] lasts, and in an unlinked temporary file beyond that.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Context, Error, Result};
use crate::fileset::{FileData, Location};

/// Bytes that can be read from any offset by several threads at once.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset` on; [`io::ErrorKind::UnexpectedEof`] when there is less.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// How many bytes there are.
    fn size(&self) -> u64;
}

/// Anything that [`ReadAt`] can be done on, shared.
pub type Source = Arc<dyn ReadAt>;

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let range = from.and_then(|from| self.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A whole file on disk.
pub struct DiskFile {
    file: File,
    size: u64,
}

impl DiskFile {
    /// Takes an open regular file; its size must not change from here on.
    pub fn new(file: File) -> Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for DiskFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.file.read_exact_at(buf, offset);
        let cut = |e: &io::Error| e.kind() == io::ErrorKind::UnexpectedEof;
        if read.as_ref().is_err_and(cut) && offset.saturating_add(buf.len() as u64) <= self.size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        read
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A run of bytes inside another source.
#[derive(Clone)]
pub struct Region {
    inner: Source,
    offset: u64,
    size: u64,
}

impl Region {
    /// `size` bytes of `inner` from `offset` on. The caller has checked that they are there.
    pub fn new(inner: Source, offset: u64, size: u64) -> Self {
        Self { inner, offset, size }
    }
}

impl ReadAt for Region {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_exact_at(buf, self.offset + offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Reads a run of a source from front to back.
pub struct SourceReader<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    left: u64,
}

impl<'a> SourceReader<'a> {
    /// `size` bytes from `offset` on.
    pub fn new(source: &'a dyn ReadAt, offset: u64, size: u64) -> Self {
        Self { source, at: offset, left: size }
    }

    /// All bytes.
    pub fn all(source: &'a dyn ReadAt) -> Self {
        Self::new(source, 0, source.size())
    }

    /// Passes over bytes without reading them.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when there are fewer.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at += bytes;
        Ok(())
    }
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.left.min(buf.len() as u64) as usize;
        self.source.read_exact_at(&mut buf[..n], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Memory that all spools of a run share, and the temporary file they share beyond it.
pub struct Budget {
    left: AtomicU64,
    dir: Option<PathBuf>,
    overflow: OnceLock<File>,
    next: AtomicU64,
    /// Segments of the file whose spools are gone.
    free: Mutex<Vec<u64>>,
}

/// A spool takes memory, or room in the file, by pieces of this size.
const SEGMENT: usize = 1 << 20;

impl Budget {
    /// Up to `bytes` of memory in all, and beyond it a temporary file in `dir`; by default in
    /// `TMPDIR`, else `/var/tmp` (`/tmp` is memory on many systems).
    pub fn new(bytes: u64, dir: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            dir,
            overflow: OnceLock::new(),
            next: AtomicU64::new(0),
            free: Mutex::default(),
        })
    }

    fn take(&self) -> bool {
        let step = SEGMENT as u64;
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(step))
            .is_ok()
    }

    /// Where the next segment in the file goes.
    fn place(&self) -> u64 {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| self.next.fetch_add(SEGMENT as u64, Ordering::Relaxed))
    }

    /// The temporary file: it has no name, so nothing is left behind however we end.
    fn file(&self) -> Result<&File> {
        if self.overflow.get().is_none() {
            let dir = self.dir.clone().unwrap_or_else(|| match std::env::var_os("TMPDIR") {
                Some(dir) if !dir.is_empty() => dir.into(),
                _ => "/var/tmp".into(),
            });
            let file = tempfile::tempfile_in(&dir)
                .context(|| format!("creating a temporary file in {}", dir.display()))?;
            // Another thread may have been first; its file is as good.
            let _ = self.overflow.set(file);
        }
        self.overflow.get().ok_or_else(|| Error::malformed("no temporary file"))
    }
}

enum Segment {
    Memory(Box<[u8]>),
    File(u64),
}

/// Bytes written once, front to back, then read at any offset.
pub struct Spool {
    budget: Arc<Budget>,
    segments: Vec<Segment>,
    size: u64,
}

impl ReadAt for Spool {
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let within = (offset % SEGMENT as u64) as usize;
            let n = buf.len().min(SEGMENT - within);
            let (now, later) = buf.split_at_mut(n);
            match &self.segments[(offset / SEGMENT as u64) as usize] {
                Segment::Memory(bytes) => now.copy_from_slice(&bytes[within..within + n]),
                Segment::File(at) => {
                    self.budget.file()?.read_exact_at(now, at + within as u64)?;
                }
            }
            buf = later;
            offset += n as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let mut free = self.budget.free.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in &self.segments {
            match segment {
                Segment::Memory(_) => {
                    self.budget.left.fetch_add(SEGMENT as u64, Ordering::Relaxed);
                }
                Segment::File(at) => free.push(*at),
            }
        }
    }
}

/// Fills a [`Spool`].
pub struct SpoolWriter {
    spool: Spool,
    /// The segment being filled.
    pending: Vec<u8>,
}

impl SpoolWriter {
    /// An empty spool on `budget`.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            spool: Spool { budget: Arc::clone(budget), segments: Vec::new(), size: 0 },
            pending: Vec::new(),
        }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.spool.size + self.pending.len() as u64
    }

    /// Everything written, to be read at any offset.
    pub fn finish(mut self) -> Result<Spool> {
        self.store()?;
        Ok(self.spool)
    }

    fn store(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.spool.size += self.pending.len() as u64;
        let budget = &self.spool.budget;
        let segment = if budget.take() {
            Segment::Memory(std::mem::take(&mut self.pending).into_boxed_slice())
        } else {
            let at = budget.place();
            budget
                .file()?
                .write_all_at(&self.pending, at)
                .context(|| "writing to a temporary file; TMPDIR names its folder")?;
            self.pending.clear();
            Segment::File(at)
        };
        self.spool.segments.push(segment);
        Ok(())
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(SEGMENT);
        }
        let n = buf.len().min(SEGMENT - self.pending.len());
        self.pending.extend_from_slice(&buf[..n]);
        if self.pending.len() == SEGMENT {
            self.store()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sources that a [`FileSet`](crate::fileset::FileSet)'s files lie in.
#[derive(Clone, Default)]
pub struct Contents {
    sources: Vec<Source>,
}

impl Contents {
    /// Sources in the order that [`Location`]s number them.
    pub fn new(sources: Vec<Source>) -> Self {
        Self { sources }
    }

    /// Adds the sources of other contents. Their numbers begin at what is returned.
    pub fn append(&mut self, other: &Contents) -> u32 {
        let first = self.sources.len() as u32;
        self.sources.extend(other.sources.iter().cloned());
        first
    }

    /// Reads a file from front to back, holes as zeros. The last byte comes only if all are those
    /// that were read first.
    pub fn open<'a>(&'a self, file: &'a FileData) -> FileReader<'a> {
        FileReader { contents: self, file, at: 0, hasher: blake3::Hasher::new() }
    }

    /// All bytes of a file, unless there are more than `limit`, or others than were read first.
    pub fn read(&self, file: &FileData, limit: u64) -> Result<Vec<u8>> {
        if file.size > limit {
            return Err(Error::limit(format!("{} bytes are more than {limit}", file.size)));
        }
        let mut bytes = vec![0; file.size as usize];
        self.read_at(file, &mut bytes, 0)?;
        unchanged(file, blake3::hash(&bytes))?;
        Ok(bytes)
    }

    /// Fills `buf` with a file's bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before `buf` does.
    pub fn read_at(&self, file: &FileData, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > file.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &file.location {
            Location::Span { source, offset: start } => {
                self.sources[*source as usize].read_exact_at(buf, start + offset)
            }
            Location::Sparse(map) => {
                buf.fill(0);
                let end = offset + buf.len() as u64;
                let mut stored = map.offset;
                for (at, len) in &map.runs {
                    let (from, to) = (offset.max(*at), end.min(at + len));
                    if from < to {
                        let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                        self.sources[map.source as usize]
                            .read_exact_at(part, stored + from - at)?;
                    }
                    stored += len;
                }
                Ok(())
            }
        }
    }
}

/// Why bytes that are read again are not those that were read first.
pub(crate) const CHANGED: &str =
    "the input changed while it was read, or the disk under TMPDIR is bad";

/// Checks that what is read again of a file is what was read first.
fn unchanged(file: &FileData, hash: blake3::Hash) -> Result<()> {
    if hash == blake3::Hash::from_bytes(file.hash) {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "its content is no longer what was read first: {CHANGED}; nothing was written"
    )))
}

/// Reads one file from front to back.
pub struct FileReader<'a> {
    contents: &'a Contents,
    file: &'a FileData,
    at: u64,
    hasher: blake3::Hasher,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (self.file.size - self.at).min(buf.len() as u64) as usize;
        self.contents.read_at(self.file, &mut buf[..n], self.at)?;
        self.hasher.update(&buf[..n]);
        self.at += n as u64;
        if n > 0 && self.at == self.file.size {
            unchanged(self.file, self.hasher.finalize())?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fileset::SparseMap;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_spool_gives_back_what_it_took_in_memory_and_in_the_file() {
        let budget = Budget::new(2 * SEGMENT as u64, None);
        let want = bytes(4 * SEGMENT + 77);
        let mut w = SpoolWriter::new(&budget);
        for part in want.chunks(300_007) {
            w.write_all(part).unwrap();
        }
        let spool = w.finish().unwrap();
        assert_eq!(spool.size(), want.len() as u64);
        assert!(budget.overflow.get().is_some());
        let mut got = vec![0; want.len()];
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
        let mut part = vec![0; SEGMENT];
        spool.read_exact_at(&mut part, 2 * SEGMENT as u64 - 5).unwrap();
        assert!(part == want[2 * SEGMENT - 5..3 * SEGMENT - 5]);
        assert!(spool.read_exact_at(&mut part, want.len() as u64 - 5).is_err());
        drop(spool);
        assert_eq!(budget.left.load(Ordering::Relaxed), 2 * SEGMENT as u64);
        // Its room in the file is used again.
        let before = budget.next.load(Ordering::Relaxed);
        let mut w = SpoolWriter::new(&budget);
        w.write_all(&want).unwrap();
        let spool = w.finish().unwrap();
        assert_eq!(budget.next.load(Ordering::Relaxed), before);
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
    }

    #[test]
    fn sparse_files_read_as_zeros_between_their_runs() {
        let contents = Contents::new(vec![Arc::new(b"xxABCDE".to_vec())]);
        let map = SparseMap { source: 0, offset: 2, runs: vec![(3, 2), (8, 3)] };
        let hash = *blake3::hash(b"\0\0\0AB\0\0\0CDE\0").as_bytes();
        let file = FileData { size: 12, hash, location: Location::Sparse(Box::new(map)) };
        assert_eq!(contents.read(&file, 100).unwrap(), b"\0\0\0AB\0\0\0CDE\0");
        let mut two = [9; 2];
        contents.read_at(&file, &mut two, 4).unwrap();
        assert_eq!(&two, b"B\0");
        let mut all = Vec::new();
        contents.open(&file).read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 12);
        assert!(contents.read(&file, 5).is_err());
    }

    #[test]
    fn content_that_is_not_what_was_read_first_is_an_error() {
        let location = Location::Span { source: 0, offset: 1 };
        let file = FileData { size: 4, hash: *blake3::hash(b"abcd").as_bytes(), location };
        for (now, same) in [(b"xabcd", true), (b"yabcd", true), (b"xabce", false)] {
            let contents = Contents::new(vec![Arc::new(now.to_vec())]);
            let all = contents.open(&file).read_to_end(&mut Vec::new());
            assert_eq!((all.is_ok(), contents.read(&file, 4).is_ok()), (same, same));
            let told = contents.read(&file, 4).map_or_else(|e| e.to_string(), |_| CHANGED.into());
            assert!(told.contains(CHANGED), "{told}");
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_is_said_to() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let disk = DiskFile::new(file.try_clone().unwrap()).unwrap();
        file.set_len(50).unwrap();
        let told = disk.read_exact_at(&mut [0; 60], 0).unwrap_err().to_string();
        assert_eq!(told, "the file became shorter");
    }
}
