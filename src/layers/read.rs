//! Reads one layer: decompresses, verifies and indexes it.
//!
//! A layer is read once from front to back. In that one pass its digests are computed, its files are
//! hashed, and its entries are listed with the offsets of their bytes. The bytes of an uncompressed
//! layer stay in the archive; those of a compressed one go to a [`Spool`].

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use super::changeset::{Change, ChangeKind};
use super::driver::{Attributes, Meaning};
use super::limits::{Implied, Limits, index_bytes};
use super::names::{Marker, clean, marker};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_PATH;
use crate::base::progress::Progress;
use crate::base::read::read_some;
use crate::format::codec::{self, Format};
use crate::format::tar::{self, EntryKind, Streaming};
use crate::model::content::{Budget, Source, SourceReader, Spool, SpoolWriter};
use crate::model::digest::{Digest, Hashing};
use crate::model::fileset::{FileData, Inode, InodeKind, Location, SparseMap, display};
use crate::model::index::SourceId;
use crate::transport::image::LayerBlob;

/// A layer's changes, and the source of its bytes.
pub struct LayerContent {
    /// The changes, in the layer's order.
    pub changes: Vec<Change>,
    /// Attributes of storage drivers on its entries; the changes do not contain them.
    pub(crate) driver: Attributes,
    /// The source that the [`Location`]s refer to.
    pub source: Source,
    /// Digest of the blob as stored.
    pub digest: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
}

impl std::fmt::Debug for LayerContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerContent")
            .field("digest", &self.digest)
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

/// The bytes of a file in a layer's tar.
#[derive(Debug, Clone, Copy)]
pub struct TarSpan<'a> {
    /// Offset of the first byte in the tar.
    pub offset: u64,
    /// Size, hash and location of the file.
    pub file: &'a FileData,
    /// Path of the file.
    pub path: &'a [u8],
}

impl LayerContent {
    /// Returns the regular files that the layer adds, with their paths, in its order.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], &FileData)> {
        self.changes.iter().filter_map(|c| match &c.kind {
            ChangeKind::Add(inode) | ChangeKind::Unnamed(inode) => match &inode.kind {
                InodeKind::File(file) => Some((&*c.path, file)),
                _ => None,
            },
            _ => None,
        })
    }

    /// Returns the files whose bytes are contiguous in the tar, by offset, without empty files.
    pub fn spans(&self) -> Vec<TarSpan<'_>> {
        let spans = self.files().filter_map(|(path, file)| match file.location {
            Location::Span { offset, .. } if file.size > 0 => Some(TarSpan { offset, file, path }),
            _ => None,
        });
        let mut spans: Vec<_> = spans.collect();
        spans.sort_unstable_by_key(|s| s.offset);
        spans
    }
}

/// Reads a layer and verifies its digest and diff ID. Locations have `number` as their source.
/// Without a budget the bytes of a compressed layer are not stored, and can't be read later.
///
/// # Errors
/// If the blob can't be read, is not valid, has another digest than stated, or exceeds a limit.
pub fn read_layer(
    layer: &LayerBlob,
    number: SourceId,
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<LayerContent> {
    read(layer, number, budget, limits, progress).with_context(|| &*layer.name)
}

fn read(
    layer: &LayerBlob,
    number: SourceId,
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<LayerContent> {
    let counted = Counted { inner: SourceReader::all(layer.source.as_ref()), progress };
    let mut raw = Hashing::new(counted);
    let read = read_tar(&mut raw, number, budget, limits)?;
    let (_, digest, _) = raw.finish();
    layer.verify(digest, read.diff_id)?;
    let source: Source = match read.spool {
        Some(spool) => Arc::new(spool),
        None if read.format == Format::Plain => Arc::clone(&layer.source),
        None => Arc::new(Vec::new()),
    };
    let TarContent { changes, driver, tar_bytes, .. } = read;
    Ok(LayerContent { changes, driver, source, digest, tar_bytes })
}

/// The contents of a layer's tar.
struct TarContent {
    format: Format,
    changes: Vec<Change>,
    driver: Attributes,
    diff_id: Digest,
    tar_bytes: u64,
    /// The uncompressed tar; `None` if the blob is uncompressed, or without a budget.
    spool: Option<Spool>,
}

/// Reads a layer's stream to its end.
fn read_tar(
    raw: impl Read + Send,
    number: SourceId,
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
) -> Result<TarContent> {
    let (format, decoder) = codec::decode(raw, limits.windows())?;
    let spool = budget.filter(|_| format != Format::Plain).map(SpoolWriter::new);
    let stream = Tee { inner: Hashing::new(decoder), spool, limits };
    let mut reader = tar::Reader::new(Streaming::new(stream));
    let (changes, driver, buf) = (Vec::new(), Attributes::default(), vec![0; 1 << 17]);
    let mut indexer = Indexer { number, limits, changes, driver, buf };
    let mut implied = Implied::default();
    while let Some(entry) = reader.next_entry()? {
        let place =
            || format!("{} (tar entry at byte {})", display(&entry.path), entry.header_offset);
        let before = indexer.changes.len();
        indexer.add(&entry, &mut reader).with_context(place)?;
        let new = &indexer.changes[before..];
        let bytes = new.iter().map(|change| index_bytes(change) + implied.of(change)).sum();
        limits.add_entry(bytes).with_context(place)?;
    }
    // The bytes after the end marker are padding, but the diff ID covers them.
    let mut stream = reader.into_inner().into_inner();
    while read_some(&mut stream, &mut indexer.buf)? > 0 {}
    let Tee { inner, spool, .. } = stream;
    let (_, diff_id, tar_bytes) = inner.finish();
    let spool = spool.map(SpoolWriter::finish).transpose()?;
    let Indexer { changes, driver, .. } = indexer;
    Ok(TarContent { format, changes, driver, diff_id, tar_bytes, spool })
}

/// Collects the changes of a layer.
struct Indexer<'a> {
    number: SourceId,
    limits: &'a Limits,
    changes: Vec<Change>,
    driver: Attributes,
    buf: Vec<u8>,
}

impl Indexer<'_> {
    /// Adds the changes that a tar entry makes; an entry that clients ignore makes none.
    fn add<R: tar::Forward>(
        &mut self,
        entry: &tar::TarEntry,
        reader: &mut tar::Reader<R>,
    ) -> Result<()> {
        let path = clean(&entry.path)?;
        let unnamed = match marker(&path)? {
            Marker::No => false,
            Marker::Unnamed if matches!(entry.kind, EntryKind::File { .. }) => true,
            Marker::Unnamed | Marker::Ignored => return Ok(()),
            Marker::Change(change) => {
                self.changes.push(change);
                return Ok(());
            }
        };
        let (xattrs, meaning) = self.driver.take(entry)?;
        match meaning {
            Meaning::None => {}
            Meaning::Opaque => {
                self.changes.push(Change { path: path.clone(), kind: ChangeKind::Opaque });
            }
            Meaning::Whiteout => {
                self.changes.push(Change { path, kind: ChangeKind::Whiteout });
                return Ok(());
            }
        }
        let own = |id| if id == super::changeset::NO_ID { 0 } else { id };
        let inode = |kind| Inode {
            // A symlink has no mode of its own: clients don't set one, and Linux reports 0777.
            mode: if matches!(kind, InodeKind::Symlink { .. }) { 0o777 } else { entry.mode },
            kind,
            uid: own(entry.uid),
            gid: own(entry.gid),
            mtime: entry.mtime,
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs.clone())),
        };
        let kind = match &entry.kind {
            EntryKind::File { size, sparse } => {
                let inode =
                    inode(InodeKind::File(self.file(entry, *size, sparse.as_deref(), reader)?));
                if unnamed { ChangeKind::Unnamed(inode) } else { ChangeKind::Add(inode) }
            }
            EntryKind::HardLink { target } => ChangeKind::Link {
                target: clean(target).with_context(|| "hard link target")?,
                metadata: Inode { uid: entry.uid, gid: entry.gid, ..inode(InodeKind::Fifo) },
            },
            EntryKind::Symlink { target } if target.is_empty() => {
                return Err(Error::malformed("the symlink has no target"));
            }
            EntryKind::Symlink { target } if target.len() > MAX_PATH => {
                return Err(Error::malformed(format!(
                    "the symlink's target is longer than the {MAX_PATH} bytes that Linux allows"
                )));
            }
            EntryKind::Symlink { target } => {
                ChangeKind::Add(inode(InodeKind::Symlink { target: target.clone() }))
            }
            EntryKind::Dir => ChangeKind::Add(inode(InodeKind::Dir)),
            EntryKind::Fifo => ChangeKind::Add(inode(InodeKind::Fifo)),
            EntryKind::CharDevice { major, minor } => {
                ChangeKind::Add(inode(InodeKind::CharDevice { major: *major, minor: *minor }))
            }
            EntryKind::BlockDevice { major, minor } => {
                ChangeKind::Add(inode(InodeKind::BlockDevice { major: *major, minor: *minor }))
            }
        };
        self.changes.push(Change { path, kind });
        Ok(())
    }

    /// Hashes a file and returns its size, hash and location.
    fn file<R: tar::Forward>(
        &mut self,
        entry: &tar::TarEntry,
        size: u64,
        sparse: Option<&[(u64, u64)]>,
        reader: &mut tar::Reader<R>,
    ) -> Result<FileData> {
        let (source, offset) = (self.number, entry.data_offset);
        let location = match sparse {
            None => Location::Span { source, offset },
            Some(runs) => {
                self.limits.add_bytes(size)?;
                Location::Sparse(Box::new(SparseMap::new(source, offset, runs.to_vec())))
            }
        };
        // Runs may be as short as one byte, so that a buffer is needed.
        let stored =
            BufReader::with_capacity(if sparse.is_some() { 1 << 16 } else { 0 }, reader.data());
        let hash = hash(stored, size, sparse, &mut self.buf)?;
        Ok(FileData { size, hash, location })
    }
}

/// Returns the BLAKE3 hash of a file's bytes, with holes as zeros.
fn hash(
    data: impl Read,
    size: u64,
    sparse: Option<&[(u64, u64)]>,
    buf: &mut [u8],
) -> Result<[u8; 32]> {
    let mut dense = Dense { data, hasher: blake3::Hasher::new(), buf, filled: 0 };
    let mut at = 0;
    for (offset, len) in sparse.unwrap_or(&[(0, size)]) {
        dense.take(offset - at, true)?;
        dense.take(*len, false)?;
        at = offset + len;
    }
    dense.take(size - at, true)?;
    dense.hasher.update(&dense.buf[..dense.filled]);
    Ok(dense.hasher.finalize().into())
}

/// Hashes runs of data and holes. They may be as short as one byte, so they are collected in a buffer.
struct Dense<'a, R> {
    data: R,
    hasher: blake3::Hasher,
    buf: &'a mut [u8],
    filled: usize,
}

impl<R: Read> Dense<'_, R> {
    fn take(&mut self, mut left: u64, zeros: bool) -> Result<()> {
        while left > 0 {
            let n = left.min((self.buf.len() - self.filled) as u64) as usize;
            let part = &mut self.buf[self.filled..self.filled + n];
            if zeros {
                part.fill(0);
            } else {
                self.data.read_exact(part)?;
            }
            self.filled += n;
            left -= n as u64;
            if self.filled == self.buf.len() {
                self.hasher.update(self.buf);
                self.filled = 0;
            }
        }
        Ok(())
    }
}

/// Reports the number of bytes read to the progress display.
struct Counted<'a> {
    inner: SourceReader<'a>,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

/// Copies the bytes read to a spool, if there is one, and counts them against the limits.
struct Tee<'a, R> {
    inner: R,
    spool: Option<SpoolWriter>,
    limits: &'a Limits,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.limits.add_bytes(n as u64)?;
        if let Some(spool) = &mut self.spool {
            spool.write_all(&buf[..n])?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_hashes_like_its_dense_form() {
        let mut buf = [1; 7];
        let sparse = hash(&b"ABCDE"[..], 12, Some(&[(3, 2), (8, 3)]), &mut buf).unwrap();
        assert_eq!(sparse, *blake3::hash(b"\0\0\0AB\0\0\0CDE\0").as_bytes());
        let dense = hash(&b"ABCDE"[..], 5, None, &mut buf).unwrap();
        assert_eq!(dense, *blake3::hash(b"ABCDE").as_bytes());
        assert!(hash(&b"ABC"[..], 5, None, &mut buf).is_err());
    }
}
