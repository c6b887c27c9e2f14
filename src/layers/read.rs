//! Reads one layer: decompresses, verifies and indexes it.
//!
//! A layer is read once from front to back. In that one pass its digests are computed, its files are
//! hashed, and its entries are listed with the offsets of their bytes. The bytes of an uncompressed
//! layer stay in the archive; those of a compressed one go to a [`Spool`](crate::model::content::Spool).

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use super::changeset::{Change, ChangeKind};
use super::driver::{Attributes, Meaning};
use super::keep::{Keep, Known};
use super::limits::{Implied, Limits, index_bytes};
use super::names::{Marker, clean, marker};
use super::stream::{self, Streamed, TarStream};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_PATH;
use crate::base::progress::Progress;
use crate::format::codec::Format;
use crate::format::tar::{self, EntryKind, Streaming};
use crate::model::content::{Source, SpoolWriter};
use crate::model::digest::Digest;
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

/// The numbers of sources in the locations of a layer's files.
#[derive(Debug, Clone, Copy)]
pub struct SourceNumbers {
    /// Number of the layer itself.
    pub layer: SourceId,
    /// Number of the first source of the other image of [`Keep::Lacking`].
    pub first_known: SourceId,
}

/// Reads a layer and verifies its digest and diff ID.
///
/// # Errors
/// If the blob can't be read, is not valid, has another digest than stated, or exceeds a limit.
pub fn read_layer(
    layer: &LayerBlob,
    number: SourceNumbers,
    keep: Keep<'_>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<LayerContent> {
    read(layer, number, keep, limits, progress).with_context(|| &*layer.name)
}

fn read(
    layer: &LayerBlob,
    number: SourceNumbers,
    keep: Keep<'_>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<LayerContent> {
    let blob = layer.source.as_ref();
    let format = Format::of(blob)?;
    let (budget, lacking) = match keep {
        _ if format == Format::Plain => (None, None),
        Keep::Index => (None, None),
        Keep::Contents => (Some(limits.budget()), None),
        Keep::Lacking(known) => {
            let spool = SpoolWriter::new(limits.budget());
            (None, Some(Lacking { known, first: number.first_known, spool }))
        }
    };
    let mut indexer = Indexer {
        number: number.layer,
        limits,
        changes: Vec::new(),
        driver: Attributes::default(),
        lacking,
    };
    let read = stream::read((blob, format), budget, limits, progress, |tar| indexer.index(tar))?;
    layer.verify(read.digest, read.diff_id)?;
    let Indexer { changes, driver, lacking, .. } = indexer;
    let lacking = lacking.map(|lacking| lacking.spool.finish()).transpose()?;
    let source: Source = match read.spool.or(lacking) {
        Some(spool) => Arc::new(spool),
        None if format == Format::Plain => Arc::clone(&layer.source),
        None => Arc::new(Vec::new()),
    };
    let Streamed { digest, tar_bytes, .. } = read;
    Ok(LayerContent { changes, driver, source, digest, tar_bytes })
}

/// The files of a layer that another image lacks.
struct Lacking<'a> {
    known: &'a Known<'a>,
    first: SourceId,
    spool: SpoolWriter,
}

/// Collects the changes of a layer.
struct Indexer<'a> {
    number: SourceId,
    limits: &'a Limits,
    changes: Vec<Change>,
    driver: Attributes,
    lacking: Option<Lacking<'a>>,
}

impl Indexer<'_> {
    /// Adds the changes of all entries.
    fn index(&mut self, tar: &mut TarStream<'_>) -> Result<()> {
        let mut reader = tar::Reader::new(Streaming::new(tar));
        let mut implied = Implied::default();
        while let Some(entry) = reader.next_entry()? {
            let place =
                || format!("{} (tar entry at byte {})", display(&entry.path), entry.header_offset);
            let before = self.changes.len();
            self.add(&entry, &mut reader).with_context(place)?;
            let new = &self.changes[before..];
            let bytes = new.iter().map(|change| index_bytes(change) + implied.of(change)).sum();
            self.limits.add_entry(bytes).with_context(place)?;
        }
        Ok(())
    }

    /// Adds the changes that a tar entry makes; an entry that clients ignore makes none.
    fn add<R: tar::Forward + BufRead>(
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
    fn file<R: tar::Forward + BufRead>(
        &mut self,
        entry: &tar::TarEntry,
        size: u64,
        sparse: Option<&[(u64, u64)]>,
        reader: &mut tar::Reader<R>,
    ) -> Result<FileData> {
        let source = self.number;
        let spool = self.lacking.as_mut().map(|lacking| &mut lacking.spool);
        let offset = spool.as_ref().map_or(entry.data_offset, |spool| spool.size());
        let location = match sparse {
            None => Location::Span { source, offset },
            Some(runs) => {
                self.limits.add_bytes(size)?;
                Location::Sparse(Box::new(SparseMap::new(source, offset, runs.to_vec())))
            }
        };
        let hash = hash(reader.data(), size, sparse, spool)?;
        if let Some(Lacking { known, first, spool }) = &mut self.lacking
            && let Some(location) = known.get(&hash, *first)
        {
            spool.cut(offset)?;
            return Ok(FileData { size, hash, location });
        }
        Ok(FileData { size, hash, location })
    }
}

/// Returns the BLAKE3 hash of a file's bytes, with holes as zeros, and copies the stored bytes.
fn hash(
    mut data: impl BufRead,
    size: u64,
    sparse: Option<&[(u64, u64)]>,
    mut copy: Option<&mut SpoolWriter>,
) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    for (offset, len) in sparse.unwrap_or(&[(0, size)]) {
        add_zeros(&mut hasher, offset - at);
        let mut left = *len;
        while left > 0 {
            let bytes = data.fill_buf()?;
            let n = left.min(bytes.len() as u64) as usize;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            hasher.update(&bytes[..n]);
            if let Some(copy) = &mut copy {
                copy.write_all(&bytes[..n])?;
            }
            data.consume(n);
            left -= n as u64;
        }
        at = offset + len;
    }
    add_zeros(&mut hasher, size - at);
    Ok(hasher.finalize().into())
}

fn add_zeros(hasher: &mut blake3::Hasher, mut left: u64) {
    const ZEROS: &[u8] = &[0; 1 << 16];
    while left > 0 {
        let n = left.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..n as usize]);
        left -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_hashes_like_its_dense_form() {
        let sparse = hash(&b"ABCDE"[..], 12, Some(&[(3, 2), (8, 3)]), None).unwrap();
        assert_eq!(sparse, *blake3::hash(b"\0\0\0AB\0\0\0CDE\0").as_bytes());
        let dense = hash(&b"ABCDE"[..], 5, None, None).unwrap();
        assert_eq!(dense, *blake3::hash(b"ABCDE").as_bytes());
        assert!(hash(&b"ABC"[..], 5, None, None).is_err());
    }
}
