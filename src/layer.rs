//! Reading one layer: decompress, verify, index.
//!
//! A layer is read once from front to back. On the way its digests are computed, its files
//! hashed, and its entries listed with the place of their bytes. The bytes of an uncompressed
//! layer stay where they lie; those of a compressed one go to a [`Spool`].

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::{self, Format};
use crate::content::{Budget, Source, SourceReader, Spool, SpoolWriter};
use crate::digest::{Digest, Hashing};
use crate::error::{Context, Error, Result};
use crate::fileset::{FileData, Inode, Kind, Location, SparseMap, base_name, display, join, parts};
use crate::progress::Progress;
use crate::tar::{self, EntryKind, Streaming};
use crate::transport::open::LayerBlob;

/// An image may have so many entries in all of its layers: with more, the file index alone would
/// take gigabytes.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// Bytes of the longest path that Linux takes: `PATH_MAX` less the NUL at its end.
pub(crate) const MAX_PATH: usize = 4095;

/// How much an image may unfold to; shared by all of its layers.
pub struct Limits {
    bytes: AtomicU64,
    entries: AtomicU64,
    max_bytes: u64,
    max_entries: u64,
}

impl Limits {
    /// At most `max_bytes` of uncompressed layers and sparse files, and `max_entries` entries.
    pub fn new(max_bytes: u64, max_entries: u64) -> Self {
        Self { bytes: AtomicU64::new(0), entries: AtomicU64::new(0), max_bytes, max_entries }
    }

    fn add_bytes(&self, n: u64) -> Result<()> {
        if self.bytes.fetch_add(n, Ordering::Relaxed).saturating_add(n) > self.max_bytes {
            return Err(Error::limit(format!(
                "the image unfolds to more than {} bytes; --max-size allows more",
                self.max_bytes
            )));
        }
        Ok(())
    }

    fn add_entry(&self) -> Result<()> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= self.max_entries {
            return Err(Error::limit(format!(
                "the image has more than {} entries",
                self.max_entries
            )));
        }
        Ok(())
    }
}

/// One line of a layer's changeset. Paths have no leading slash and no empty, `.` or `..` part;
/// the root's is empty.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is about.
    pub path: Box<[u8]>,
    /// What happens there.
    pub what: What,
}

/// What a layer does at a path
/// ([layer.md](https://github.com/opencontainers/image-spec/blob/main/layer.md)).
#[derive(Debug, Clone)]
pub enum What {
    /// Something new is there.
    Put(Inode),
    /// Another name for `target`; the inode takes the metadata of `like`, as clients apply the
    /// link's own header. The kind of `like` means nothing.
    Link {
        /// Path of the other name.
        target: Box<[u8]>,
        /// Metadata.
        like: Inode,
    },
    /// What lower layers have there is gone.
    Whiteout,
    /// What lower layers have below there is gone.
    Opaque,
}

/// A layer's entries, and its bytes.
pub struct LayerContent {
    /// In the layer's order.
    pub changes: Vec<Change>,
    /// Where the [`Location`]s point.
    pub source: Source,
    /// Digest of the blob as it lies there.
    pub digest: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
}

/// Bytes of a file in a layer's tar.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// First byte.
    pub offset: u64,
    /// The file.
    pub file: &'a FileData,
    /// Its path.
    pub path: &'a [u8],
}

impl LayerContent {
    /// The regular files that the layer puts somewhere, with their paths, in its order.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], &FileData)> {
        self.changes.iter().filter_map(|c| match &c.what {
            What::Put(Inode { kind: Kind::File(file), .. }) => Some((&*c.path, file)),
            _ => None,
        })
    }

    /// The files whose bytes lie in the tar in one piece, in its order; none of the empty ones.
    pub fn spans(&self) -> Vec<Span<'_>> {
        let spans = self.files().filter_map(|(path, file)| match file.location {
            Location::Span { offset, .. } if file.size > 0 => Some(Span { offset, file, path }),
            _ => None,
        });
        let mut spans: Vec<_> = spans.collect();
        spans.sort_unstable_by_key(|s| s.offset);
        spans
    }
}

/// Reads a layer and verifies its digest and diff ID. Locations name `number` as their source.
/// Without a budget the bytes of a compressed layer are not kept, and can't be read later.
pub fn read_layer(
    layer: &LayerBlob,
    number: u32,
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<LayerContent> {
    read(layer, number, budget, limits, progress).context(|| &*layer.name)
}

fn read(
    layer: &LayerBlob,
    number: u32,
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
    Ok(LayerContent { changes: read.changes, source, digest, tar_bytes: read.tar_bytes })
}

/// What is in the stream of a layer.
struct TarContent {
    format: Format,
    changes: Vec<Change>,
    diff_id: Digest,
    tar_bytes: u64,
    /// The uncompressed tar, unless the stream was that or nobody wants it.
    spool: Option<Spool>,
}

/// Reads a layer's stream to its end.
fn read_tar(
    raw: impl Read + Send,
    number: u32,
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
) -> Result<TarContent> {
    let (format, decoder) = codec::decode(raw)?;
    let spool = budget.filter(|_| format != Format::Plain).map(SpoolWriter::new);
    let stream = Tee { inner: Hashing::new(decoder), spool, limits };
    let mut reader = tar::Reader::new(Streaming::new(stream));
    let mut changes = Vec::new();
    let mut buf = vec![0; 1 << 17];
    while let Some(entry) = reader.next_entry()? {
        limits.add_entry()?;
        let place =
            || format!("{} (tar entry at byte {})", display(&entry.path), entry.header_offset);
        let change = change_of(&entry, number, limits, &mut reader, &mut buf).context(place)?;
        changes.extend(change);
    }
    // What follows the end marker is padding, but part of the diff ID.
    let mut stream = reader.into_inner().into_inner();
    while stream.read(&mut buf)? > 0 {}
    let Tee { inner, spool, .. } = stream;
    let (_, diff_id, tar_bytes) = inner.finish();
    let spool = spool.map(SpoolWriter::finish).transpose()?;
    Ok(TarContent { format, changes, diff_id, tar_bytes, spool })
}

/// The change that a tar entry stands for; `None` for what clients pass over.
fn change_of<R: tar::Forward>(
    entry: &tar::Entry,
    number: u32,
    limits: &Limits,
    reader: &mut tar::Reader<R>,
    buf: &mut [u8],
) -> Result<Option<Change>> {
    let path = clean(&entry.path)?;
    match marker(&path)? {
        Marker::No => {}
        Marker::PassedOver => return Ok(None),
        Marker::Change(change) => return Ok(Some(change)),
    }
    let inode = |kind| Inode {
        // A symlink has no mode of its own: clients don't set it, and Linux shows 0777.
        mode: if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { entry.mode },
        kind,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: (!entry.xattrs.is_empty()).then(|| Box::new(entry.xattrs.clone())),
    };
    let what = match &entry.kind {
        EntryKind::File { size, sparse } => {
            let location = match sparse {
                None => Location::Span { source: number, offset: entry.data_offset },
                Some(runs) => {
                    limits.add_bytes(*size)?;
                    let (offset, runs) = (entry.data_offset, runs.clone());
                    Location::Sparse(Box::new(SparseMap { source: number, offset, runs }))
                }
            };
            let hash = hash(reader.data(), *size, sparse.as_deref(), buf)?;
            What::Put(inode(Kind::File(FileData { size: *size, hash, location })))
        }
        EntryKind::HardLink { target } => What::Link {
            target: clean(target).context(|| "hard link target")?,
            like: inode(Kind::Fifo),
        },
        EntryKind::Symlink { target } if target.len() > MAX_PATH => {
            return Err(Error::malformed(
                "a symlink's target is longer than the 4,095 bytes that Linux allows",
            ));
        }
        EntryKind::Symlink { target } => What::Put(inode(Kind::Symlink { target: target.clone() })),
        EntryKind::Dir => What::Put(inode(Kind::Dir)),
        EntryKind::Fifo => What::Put(inode(Kind::Fifo)),
        EntryKind::CharDevice { major, minor } => {
            What::Put(inode(Kind::CharDevice { major: *major, minor: *minor }))
        }
        EntryKind::BlockDevice { major, minor } => {
            What::Put(inode(Kind::BlockDevice { major: *major, minor: *minor }))
        }
    };
    Ok(Some(Change { path, what }))
}

/// A path as clients take it: `./`, doubled and leading slashes mean nothing.
///
/// # Errors
/// `..`, which could lead out of the root and which no layer needs; names and paths longer than
/// Linux allows. A whiteout's is that of what it hides: clients make no file of its own name.
fn clean(path: &[u8]) -> Result<Box<[u8]>> {
    let mut kept = Vec::with_capacity(path.len());
    for part in parts(path) {
        if part == b".." {
            return Err(Error::malformed("a path in a layer must not contain `..`"));
        }
        let name = part.strip_prefix(b".wh.").unwrap_or(part);
        if name.len() > 255 {
            return Err(Error::malformed("a name is longer than the 255 bytes that Linux allows"));
        }
        if kept.len() + usize::from(!kept.is_empty()) + name.len() > MAX_PATH {
            return Err(Error::malformed(
                "a path is longer than the 4,095 bytes that Linux allows",
            ));
        }
        if !kept.is_empty() {
            kept.push(b'/');
        }
        kept.extend_from_slice(part);
    }
    Ok(kept.into_boxed_slice())
}

/// What a name with `.wh.` in it stands for.
enum Marker {
    /// Nothing: it is a name like others.
    No,
    /// Nothing that clients heed.
    PassedOver,
    /// A whiteout.
    Change(Change),
}

/// Reads the names that begin with `.wh.`.
fn marker(path: &[u8]) -> Result<Marker> {
    if !parts(path).any(|part| part.starts_with(b".wh.")) {
        return Ok(Marker::No);
    }
    // AUFS kept its own files under such names; Docker skips them
    // (moby, pkg/archive/diff.go: WhiteoutMetaPrefix).
    let name = base_name(path);
    let dir = path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default();
    if name != b".wh..wh..opq" && parts(path).any(|part| part.starts_with(b".wh..wh.")) {
        return Ok(Marker::PassedOver);
    }
    if parts(dir).any(|part| part.starts_with(b".wh.")) {
        return Err(Error::malformed("a name below a whiteout"));
    }
    if name == b".wh..wh..opq" {
        return Ok(Marker::Change(Change { path: dir.into(), what: What::Opaque }));
    }
    let hidden = &name[b".wh.".len()..];
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(Error::malformed("a whiteout that names nothing"));
    }
    let path = join(dir, hidden).into();
    Ok(Marker::Change(Change { path, what: What::Whiteout }))
}

/// BLAKE3 of a file's bytes, holes as zeros.
fn hash(
    mut data: impl Read,
    size: u64,
    sparse: Option<&[(u64, u64)]>,
    buf: &mut [u8],
) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut feed = |mut left: u64, zeros: bool| -> Result<()> {
        if zeros {
            buf.fill(0);
        }
        while left > 0 {
            let n = left.min(buf.len() as u64) as usize;
            if !zeros {
                data.read_exact(&mut buf[..n])?;
            }
            hasher.update(&buf[..n]);
            left -= n as u64;
        }
        Ok(())
    };
    let mut at = 0;
    for (offset, len) in sparse.unwrap_or(&[(0, size)]) {
        feed(offset - at, true)?;
        feed(*len, false)?;
        at = offset + len;
    }
    feed(size - at, true)?;
    Ok(hasher.finalize().into())
}

/// Tells how many bytes of the input have been read.
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

/// Keeps what is read in a spool, if there is one, and counts it against the limits.
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
    fn paths_are_cleaned_and_games_refused() {
        assert_eq!(&*clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(&*clean(b"/etc").unwrap(), b"etc");
        assert_eq!(&*clean(b"./").unwrap(), b"");
        assert!(clean(b"a/../b").is_err());
        assert!(clean(&[b'n'; 256]).is_err());
        assert!(clean(&[b'n'; 255]).is_ok());
        // Clients never make a file of a whiteout's name.
        assert!(clean(&[b".wh.", &[b'n'; 255][..]].concat()).is_ok());
        assert!(clean(&[b".wh.", &[b'n'; 256][..]].concat()).is_err());
        let deep = |n: usize, name: &[u8]| [&b"a/".repeat(n)[..], name].concat();
        assert_eq!(clean(&deep(2047, b"a")).unwrap().len(), 4095);
        assert!(clean(&deep(2047, b".wh.a")).is_ok());
        assert!(clean(&deep(2047, b"aa")).is_err() && clean(&deep(20_000, b"a")).is_err());
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        let read = |p: &[u8]| match marker(p) {
            Ok(Marker::No) => "a name".to_owned(),
            Ok(Marker::PassedOver) => "nothing".to_owned(),
            Ok(Marker::Change(c)) => format!("{:?} of {}", c.what, c.path.escape_ascii()),
            Err(_) => "an error".to_owned(),
        };
        for (path, want) in [
            (&b"a/b"[..], "a name"),
            (b"a/wh..x", "a name"),
            (b"a/.wh.b", "Whiteout of a/b"),
            (b".wh.b", "Whiteout of b"),
            (b"a/.wh..wh..opq", "Opaque of a"),
            (b".wh..wh..opq", "Opaque of "),
            (b".wh..wh.plnk/1.2", "nothing"),
            (b"a/.wh.", "an error"),
            (b".wh...", "an error"),
            (b"a/.wh..", "an error"),
            (b".wh.a/b", "an error"),
        ] {
            assert_eq!(read(path), want, "{}", path.escape_ascii());
        }
    }

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
