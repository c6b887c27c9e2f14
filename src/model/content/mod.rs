//! Random access to file contents without holding an image in memory.
//!
//! Output order differs from input order, so every file's bytes must be reachable by offset. An
//! uncompressed layer is read from within its archive ([`Region`]). Bytes that had to be decompressed,
//! or that came through a pipe, are stored in a [`Spool`]: in memory as far as the shared [`Budget`]
//! allows, and in unlinked temporary files beyond that.

mod budget;
mod reserve;
mod spool;
mod windows;

pub use budget::Budget;
pub(crate) use reserve::{Reservation, SharedMemory};
pub use spool::{Spool, SpoolWriter};
pub use windows::WindowBudget;
pub(crate) use windows::WindowReservation;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::model::digest::Digest;
use crate::model::fileset::{FileData, Location};
use crate::model::index::SourceId;

/// Bytes that several threads can read at any offset.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are fewer bytes; other kinds if they can't be read.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Returns the number of bytes.
    fn size(&self) -> u64;
    /// Begins to fetch the bytes, if they are far away and will all be read.
    fn prefetch(&self) {}
    /// Returns whether all bytes are in this process's memory. They may leave it later, but never come
    /// back.
    fn is_in_memory(&self) -> bool {
        false
    }
}

/// A shared source of bytes.
pub type Source = Arc<dyn ReadAt>;

/// A place for the bytes of a new blob.
pub trait BlobWriter: Write + Send {
    /// Returns what was written, whose digest this is.
    ///
    /// # Errors
    /// If it can't be written.
    fn complete(self: Box<Self>, digest: Digest) -> Result<Source>;
}

/// Takes the blobs of an image as they are made.
pub trait BlobSink: Sync {
    /// Returns a place for a new blob; `None` if it must be spooled.
    fn begin(&self) -> Option<Box<dyn BlobWriter>> {
        None
    }

    /// Takes a blob whose digest is known and verified.
    fn add(&self, digest: Digest, blob: &Source);
}

/// Ignores blobs.
impl BlobSink for () {
    fn add(&self, _: Digest, _: &Source) {}
}

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
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    size: u64,
}

impl DiskFile {
    /// Wraps an open regular file, whose size must not change from now on.
    ///
    /// # Errors
    /// If the size of the file can't be read.
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
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file was truncated while it was read",
            ));
        }
        read
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A range of bytes inside another source.
#[derive(Clone)]
pub(crate) struct Region {
    inner: Source,
    offset: u64,
    size: u64,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("offset", &self.offset)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Creates a source of the `size` bytes of `inner` at `offset`. The caller has checked that they
    /// exist.
    pub(crate) fn new(inner: Source, offset: u64, size: u64) -> Self {
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

/// Reads a range of a source from front to back.
pub struct SourceReader<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    left: u64,
}

impl std::fmt::Debug for SourceReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceReader")
            .field("at", &self.at)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl<'a> SourceReader<'a> {
    /// Creates a reader of the `size` bytes at `offset`.
    pub fn new(source: &'a dyn ReadAt, offset: u64, size: u64) -> Self {
        Self { source, at: offset, left: size }
    }

    /// Creates a reader of all bytes.
    pub fn all(source: &'a dyn ReadAt) -> Self {
        Self::new(source, 0, source.size())
    }

    /// Skips bytes without reading them.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are fewer.
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

/// The sources that contain the files of a [`FileSet`](crate::model::fileset::FileSet).
#[derive(Clone, Default)]
pub struct Contents {
    sources: Vec<Source>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

impl Contents {
    /// Creates contents from sources, in the order of their numbers in [`Location`]s.
    pub fn new(sources: Vec<Source>) -> Self {
        Self { sources }
    }

    /// Returns the sources.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Adds a source.
    pub fn add(&mut self, source: Source) -> SourceId {
        self.sources.push(source);
        SourceId::new(self.sources.len() - 1)
    }

    /// Returns a reader of a file, from front to back and with holes as zeros. It returns the last byte
    /// only if the content is the same as in the first read.
    pub fn open<'a>(&'a self, file: &'a FileData) -> FileReader<'a> {
        FileReader { contents: self, file, at: 0, hasher: blake3::Hasher::new() }
    }

    /// Returns all bytes of a file.
    ///
    /// # Errors
    /// If the file is larger than `limit` bytes, can't be read, or has changed since it was first
    /// read.
    pub fn read(&self, file: &FileData, limit: u64) -> Result<Vec<u8>> {
        if file.size > limit {
            return Err(Error::limit(format!(
                "the file has {} bytes, more than the limit of {limit}",
                file.size
            )));
        }
        let mut bytes = vec![0; file.size as usize];
        self.read_at(file, &mut bytes, 0)?;
        check_unchanged(file, blake3::hash(&bytes))?;
        Ok(bytes)
    }

    /// Fills `buf` with a file's bytes at `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file has fewer bytes; other kinds if they can't be
    /// read.
    pub(crate) fn read_at(&self, file: &FileData, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > file.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &file.location {
            Location::Span { source, offset: start } => {
                self.sources[source.index()].read_exact_at(buf, start + offset)
            }
            Location::Sparse(map) => {
                buf.fill(0);
                let end = offset + buf.len() as u64;
                for run in map.overlapping(offset..end) {
                    let (from, to) = (offset.max(run.at), end.min(run.at + run.len));
                    let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                    let stored = map.offset + run.stored + from - run.at;
                    self.sources[map.source.index()].read_exact_at(part, stored)?;
                }
                Ok(())
            }
        }
    }
}

/// The reason why a second read returns other bytes than the first.
pub(crate) const CHANGED: &str =
    "the input changed while it was read, or the disk under TMPDIR is bad";

/// Checks that a file still has the content of the first read.
fn check_unchanged(file: &FileData, hash: blake3::Hash) -> Result<()> {
    if hash == blake3::Hash::from_bytes(file.hash) {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "its content differs from the first read: {CHANGED}; nothing was written"
    )))
}

/// Reads one file from front to back.
pub struct FileReader<'a> {
    contents: &'a Contents,
    file: &'a FileData,
    at: u64,
    hasher: blake3::Hasher,
}

impl std::fmt::Debug for FileReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileReader")
            .field("file", &self.file)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (self.file.size - self.at).min(buf.len() as u64) as usize;
        self.contents.read_at(self.file, &mut buf[..n], self.at)?;
        self.hasher.update(&buf[..n]);
        self.at += n as u64;
        if n > 0 && self.at == self.file.size {
            check_unchanged(self.file, self.hasher.finalize())?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::testing::cpu_seconds;
    use crate::model::fileset::SparseMap;

    #[test]
    fn sparse_files_read_as_zeros_between_their_runs() {
        let contents = Contents::new(vec![Arc::new(b"xxABCDE".to_vec())]);
        let map = SparseMap::new(SourceId::new(0), 2, vec![(3, 2), (8, 3)]);
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
        // Every part of it, as the whole has it.
        for from in 0..12 {
            for to in from..=12 {
                let mut part = vec![9; to - from];
                contents.read_at(&file, &mut part, from as u64).unwrap();
                assert_eq!(part, all[from..to], "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_sparse_file_of_many_runs_is_read_in_time_that_grows_with_its_bytes() {
        const RUNS: u64 = 1 << 20;
        let runs = (0..RUNS).map(|i| (i * 2, 1)).collect();
        let contents = Contents::new(vec![Arc::new(vec![7; RUNS as usize])]);
        let location = Location::Sparse(Box::new(SparseMap::new(SourceId::new(0), 0, runs)));
        let file = FileData { size: RUNS * 2, hash: [0; 32], location };
        let begin = cpu_seconds();
        let mut buf = [0; 64];
        for at in (0..RUNS * 2).step_by(64) {
            contents.read_at(&file, &mut buf, at).unwrap();
            assert!(buf.chunks(2).all(|pair| pair == [7, 0]));
        }
        assert!(cpu_seconds() - begin < 5);
    }

    #[test]
    fn content_that_is_not_what_was_read_first_is_an_error() {
        let location = Location::Span { source: SourceId::new(0), offset: 1 };
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
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let disk = DiskFile::new(file.try_clone().unwrap()).unwrap();
        file.set_len(50).unwrap();
        let told = disk.read_exact_at(&mut [0; 60], 0).unwrap_err().to_string();
        assert_eq!(told, "the file was truncated while it was read");
    }
}
