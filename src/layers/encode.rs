//! Encodes planned layers as blobs: tar, diff ID, compression and digest in one pass.
//!
//! Layers are encoded concurrently, the largest first, each with more threads inside the compressor, so
//! that a few layers keep many cores busy. The output does not depend on the number of threads: see
//! [`Encoder`].

use std::collections::BTreeMap;
use std::io::{BufWriter, IntoInnerError, Write};
use std::sync::Arc;

use rayon::prelude::*;

use crate::base::error::{Context, Result};
use crate::base::progress::{Progress, Silent};
use crate::base::read::read_some;
use crate::base::threads;
use crate::format::codec::{Compression, Contexts, Encoder};
use crate::format::tar::{self, EntryKind};
use crate::model::content::{BlobSink, BlobWriter, Budget, Source, SpoolWriter};
use crate::model::digest::{Digest, Hashing};
use crate::model::fileset::{Entry, FileSet, Inode, InodeKind, Mtime, Xattrs, base_name, display};
use crate::model::index::InodeId;
use crate::model::oci::Annotations;
use crate::model::rootfs::Rootfs;

/// An encoded layer.
pub struct EncodedLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Annotations for the blob's descriptor.
    pub annotations: Annotations,
    /// The blob.
    pub source: Source,
}

impl std::fmt::Debug for EncodedLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedLayer")
            .field("diff_id", &self.diff_id)
            .field("digest", &self.digest)
            .field("tar_bytes", &self.tar_bytes)
            .finish_non_exhaustive()
    }
}

/// Options of [`encode()`].
#[derive(Debug, Clone, Copy)]
pub struct EncodeOptions {
    /// Codec and level.
    pub compression: Compression,
    /// Total number of threads.
    pub threads: usize,
}

/// The content of a layer to encode.
#[derive(Debug, Clone, Copy)]
pub struct LayerSpec<'a> {
    /// Positions in the file set's entries, in the order of [`order::sort`](super::order::sort), parents included.
    pub entries: &'a [u32],
    /// Paths of lower layers that this one removes, in order; their parents are among the entries.
    pub whiteouts: &'a [Box<[u8]>],
}

impl LayerSpec<'_> {
    /// Returns the paths of the whiteout entries, sorted.
    fn markers(&self) -> Vec<Vec<u8>> {
        let marker = |path: &[u8]| {
            let name = base_name(path);
            [&path[..path.len() - name.len()], b".wh.", name].concat()
        };
        let mut markers: Vec<_> = self.whiteouts.iter().map(|path| marker(path)).collect();
        markers.sort_unstable();
        markers
    }
}

/// Encodes layers. The result has them in the same order. `sink` gets each as soon as it is encoded, on
/// several threads.
///
/// # Errors
/// If a file can't be read or has changed since it was first read, or the spool can't be written.
pub fn encode(
    rootfs: &Rootfs,
    layers: &[LayerSpec<'_>],
    options: EncodeOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
    sink: &dyn BlobSink,
) -> Result<Vec<EncodedLayer>> {
    let files = &rootfs.files;
    let links = files.link_counts();
    let sizes: Vec<u64> = layers.iter().map(|layer| tar_size(files, &links, layer)).collect();
    progress.begin("encode", sizes.iter().sum());
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), *i));
    let concurrency = options.threads.clamp(1, layers.len().max(1));
    // With few layers the last ones can use the cores of those that have finished.
    let few = layers.len() < 4 * options.threads;
    let workers = if few { (2 * options.threads).div_ceil(concurrency) as u32 } else { 1 };
    let contexts = Arc::default();
    let job =
        Job { tars: Tars { rootfs, links: &links, progress }, contexts: &contexts, budget, sink };
    let one = |i: usize| {
        let layer = job.layer(&layers[i], sizes[i], &options.compression, workers);
        let layer = layer.with_context(|| format!("encoding layer {}", i + 1))?;
        sink.add(layer.digest, &layer.source);
        Ok(layer)
    };
    let turn = threads::in_turn(order.into_iter());
    let encoded = threads::collect(concurrency, layers.len(), turn, || one);
    progress.end();
    encoded
}

/// Returns the tars of layers, without digests: to measure compressors. Runs on the threads of rayon's pool.
///
/// # Errors
/// As [`encode()`].
pub(crate) fn tars(
    rootfs: &Rootfs,
    layers: &[LayerSpec<'_>],
    budget: &Arc<Budget>,
) -> Result<Vec<Source>> {
    let tars = Tars { rootfs, links: &rootfs.files.link_counts(), progress: &Silent };
    let one = |(i, layer): (usize, &LayerSpec<'_>)| -> Result<Source> {
        let spool = tars.write(layer, SpoolWriter::new(budget));
        let spool = spool.with_context(|| format!("writing layer {}", i + 1))?;
        Ok(Arc::new(spool.finish()?))
    };
    layers.par_iter().enumerate().with_max_len(1).map(one).collect()
}

/// Returns the size of a layer's tar in bytes. `links` has the number of names of each inode.
fn tar_size(files: &FileSet, links: &[u32], layer: &LayerSpec<'_>) -> u64 {
    let mut first = FirstNames::new(links);
    let markers: u64 = layer.markers().iter().map(|p| tar::entry_size(&whiteout(p))).sum();
    let entries = layer.entries.iter().map(|i| {
        let entry = &files.entries()[*i as usize];
        let inode = files.inode(entry);
        tar::entry_size(&metadata(entry, inode, first.of(entry)))
    });
    // Two zero blocks end it.
    markers + entries.sum::<u64>() + 1024
}

/// Number of bytes that are read, hashed and compressed at a time.
const PIECE: usize = 1 << 18;

struct Job<'a> {
    tars: Tars<'a>,
    contexts: &'a Arc<Contexts>,
    budget: &'a Arc<Budget>,
    sink: &'a dyn BlobSink,
}

impl Job<'_> {
    fn layer(
        &self,
        layer: &LayerSpec<'_>,
        tar_bytes: u64,
        compression: &Compression,
        workers: u32,
    ) -> Result<EncodedLayer> {
        let spool = || -> Box<dyn BlobWriter> { Box::new(SpoolWriter::new(self.budget)) };
        let blob = Hashing::new(self.sink.begin().unwrap_or_else(spool));
        let encoder = Encoder::reusing(blob, compression, workers, tar_bytes, self.contexts)?;
        let (encoder, tar) = if *compression == Compression::None {
            (self.tars.write(layer, encoder)?, None)
        } else {
            let (encoder, diff_id, bytes) = self.tars.write(layer, Hashing::new(encoder))?.finish();
            (encoder, Some((diff_id, bytes)))
        };
        let (blob, annotations) = encoder.finish()?;
        let (blob, digest, bytes) = blob.finish();
        // Without compression, the blob is the tar.
        let (diff_id, written) = tar.unwrap_or((digest, bytes));
        debug_assert_eq!(written, tar_bytes);
        let source = blob.complete(digest)?;
        Ok(EncodedLayer { diff_id, digest, tar_bytes: written, annotations, source })
    }
}

/// Writes tars of layers.
#[derive(Clone, Copy)]
struct Tars<'a> {
    rootfs: &'a Rootfs,
    /// Number of names of each inode.
    links: &'a [u32],
    progress: &'a dyn Progress,
}

impl Tars<'_> {
    /// Writes the tar of one.
    fn write<W: Write>(&self, layer: &LayerSpec<'_>, out: W) -> Result<W> {
        // Headers and small files would otherwise be hashed and compressed piece by piece.
        let mut tar = tar::Writer::new(BufWriter::with_capacity(PIECE, out));
        let mut first = FirstNames::new(self.links);
        let mut buf = vec![0; PIECE];
        let mut markers = layer.markers().into_iter().peekable();
        for i in layer.entries {
            let entry = &self.rootfs.files.entries()[*i as usize];
            // Before files, since a client may remove what it has just unpacked.
            let is_file = matches!(self.rootfs.files.inode(entry).kind, InodeKind::File(_));
            while let Some(marker) = markers.next_if(|m| is_file || m.as_slice() < &*entry.path) {
                tar.entry(&whiteout(&marker))?;
            }
            self.entry(&mut tar, entry, first.of(entry), &mut buf)
                .with_context(|| display(&entry.path))?;
        }
        for marker in markers {
            tar.entry(&whiteout(&marker))?;
        }
        Ok(tar.finish()?.into_inner().map_err(IntoInnerError::into_error)?)
    }

    fn entry<W: Write>(
        &self,
        tar: &mut tar::Writer<W>,
        entry: &Entry,
        link: Option<&Entry>,
        buf: &mut [u8],
    ) -> Result<()> {
        let inode = self.rootfs.files.inode(entry);
        let header = metadata(entry, inode, link);
        let (InodeKind::File(file), None) = (&inode.kind, link) else { return tar.entry(&header) };
        let mut out = tar.file(&header)?;
        let mut data = self.rootfs.contents.open(file);
        loop {
            let n = read_some(&mut data, buf)?;
            if n == 0 {
                break;
            }
            out.write_all(&buf[..n])?;
            self.progress.advance(n as u64);
        }
        out.finish()
    }
}

/// The first names of inodes in a layer. The first in the tar is the file, the others are hard links
/// to it.
struct FirstNames<'a> {
    /// Number of names of each inode.
    links: &'a [u32],
    seen: BTreeMap<InodeId, &'a Entry>,
}

impl<'a> FirstNames<'a> {
    fn new(links: &'a [u32]) -> Self {
        Self { links, seen: BTreeMap::new() }
    }

    /// Returns the name to link to; `None` for a first name.
    fn of(&mut self, entry: &'a Entry) -> Option<&'a Entry> {
        if self.links[entry.inode.index()] < 2 {
            return None;
        }
        let first = *self.seen.entry(entry.inode).or_insert(entry);
        (first.path != entry.path).then_some(first)
    }
}

const NO_XATTRS: &Xattrs = &Xattrs::new();

/// Returns the header of an entry; that of a hard link if there is a name to link to.
fn metadata<'a>(entry: &'a Entry, inode: &'a Inode, link: Option<&Entry>) -> tar::Metadata<'a> {
    let kind = match (link, &inode.kind) {
        (Some(first), _) => EntryKind::HardLink { target: first.path.clone() },
        (None, InodeKind::File(file)) => EntryKind::File { size: file.size, sparse: None },
        (None, InodeKind::Dir) => EntryKind::Dir,
        (None, InodeKind::Symlink { target }) => EntryKind::Symlink { target: target.clone() },
        (None, InodeKind::Fifo) => EntryKind::Fifo,
        (None, InodeKind::CharDevice { major, minor }) => {
            EntryKind::CharDevice { major: *major, minor: *minor }
        }
        (None, InodeKind::BlockDevice { major, minor }) => {
            EntryKind::BlockDevice { major: *major, minor: *minor }
        }
    };
    tar::Metadata {
        path: &entry.path,
        kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        xattrs: inode.xattrs.as_deref().unwrap_or(NO_XATTRS),
    }
}

/// Returns the empty file that hides what lower layers have
/// ([layer.md](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)).
fn whiteout(path: &[u8]) -> tar::Metadata<'_> {
    tar::Metadata {
        path,
        kind: EntryKind::File { size: 0, sparse: None },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        xattrs: NO_XATTRS,
    }
}

impl EncodedLayer {
    /// Returns the size of the blob in bytes.
    pub fn bytes(&self) -> u64 {
        self.source.size()
    }
}
