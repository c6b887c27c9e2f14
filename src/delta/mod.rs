//! Deltas: files that turn one image into another.
//!
//! A delta describes the layers of the new image in terms of the uncompressed tars of the old one.
//! Ranges that both have are copied. ELF files that changed are patched against their previous
//! version, with the addresses in them corrected. Other files that changed are compressed against
//! their previous version. Applying a delta compresses the new layers again; the result has the
//! blobs of the new image byte for byte if relayer can reproduce their compression.
//! docs/DELTA.md has the format.
//!
//! Imports everything below `split`, and from that the compression an image was written with. To
//! know: [`make`] writes a delta; [`Delta`] is one that was opened; [`apply`] makes the new image.

mod apply;
mod blocks;
mod describe;
mod elf;
#[doc(hidden)]
pub mod hostile;
mod index;
mod make;
mod map;
mod matches;
mod memory;
mod model;
mod ops;
mod patch;
mod stream;
mod symbols;
mod tasks;
mod words;

pub use apply::{ApplyStats, apply};
pub use index::ImageContents;
pub use make::make;
pub use memory::budget;

use std::io::{Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_DELTA_PACKED, MAX_DELTA_PLAIN};
use crate::format::DELTA_MAGIC;
use crate::format::codec::zstd_prefix::{self, Parameters};
use crate::layers::read::LayerContent;
use crate::model::content::{Budget, ReadAt, Source, SourceReader, SpoolWriter};
use crate::model::digest::{Digest, hex};
use crate::model::index::LayerIndex;

/// The version of the format, which follows [`DELTA_MAGIC`].
const VERSION: u8 = 1;
/// Uncompressed bytes that are compressed as one part of a stream.
const PART: u64 = 16 << 20;
/// Maximum size of the reference prefix of a part.
const MAX_REFERENCE: u64 = 32 << 20;
/// Log2 of a zstd window that covers a part and its reference.
const WINDOW_LOG: u32 = 26;
/// The zstd level of the header, instructions and corrections, which are small.
const LEVEL: i32 = 19;

/// Statistics of a delta that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DeltaStats {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Number of layers that both images have.
    pub same_layers: u64,
    /// Number of layers whose compression cannot be reproduced: the result has other blobs with the
    /// same content.
    pub other_blobs: u64,
    /// Bytes of file contents copied from the old image, in layers that differ.
    pub copied: u64,
    /// Bytes of file contents that are not in the old image.
    pub changed: u64,
    /// Bytes of all tars that `apply` makes, copied ranges included.
    pub tars: u64,
    /// Bytes in the delta of instructions.
    pub ops: u64,
    /// Bytes in the delta of tar headers and padding.
    pub headers: u64,
    /// Bytes in the delta of changed files that are compressed against their previous version.
    pub data: u64,
    /// Bytes in the delta of patches of ELF files.
    pub patches: u64,
    /// Bytes in the delta of contents that match nothing in the old image.
    pub literals: u64,
}

/// The header of a delta. Its field names are part of the format.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    /// Version of relayer that wrote the delta.
    writer: String,
    /// The old image's diff IDs, lowest layer first.
    old: Vec<Digest>,
    /// Digest of the new image's manifest.
    new: Digest,
    /// Names of the new image.
    names: Vec<String>,
    /// The manifest's media type, and its bytes.
    manifest: (String, String),
    /// The config's bytes.
    config: String,
    /// The new image's layers, lowest first.
    layers: Vec<LayerHeader>,
    /// The blobs that follow the header, in order.
    blobs: Vec<BlobHeader>,
}

/// One layer of the new image.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LayerHeader {
    /// Digest of the blob.
    digest: Digest,
    /// Digest of the tar.
    diff_id: Digest,
    /// How to make it.
    recipe: Recipe,
}

/// How to make a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Recipe {
    /// Take the old image's layer of this number, from 0, as it is.
    Old(LayerIndex),
    /// Follow instructions.
    Rebuild {
        /// Bytes of the tar.
        tar_bytes: u64,
        /// How to make the blob from the tar.
        packing: Packing,
        /// Number of the blob with the instructions.
        ops: u32,
        /// The stream of tar headers and padding.
        #[serde(rename = "heads")]
        headers: Vec<Part>,
        /// The stream of changed files.
        data: Vec<Part>,
        /// The stream of contents that match nothing in the old image.
        #[serde(rename = "fresh")]
        literals: Vec<Part>,
        /// Numbers of the blobs with patches of files.
        #[serde(rename = "told")]
        patches: Vec<u32>,
    },
}

/// How to make a layer's blob from its tar.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Packing {
    /// `none`, `gzip`, `zstd` or `zstd:chunked`; level; log2 of the window.
    Compression(String, Option<i32>, Option<u32>),
    /// Repeat another tool's gzip by means of [`recode`](crate::format::recode).
    Corrections {
        /// Number of the blob with the corrections.
        blob: u32,
        /// Bytes of the layer's blob.
        bytes: u64,
    },
}

/// One part of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    /// Number of the blob.
    blob: u32,
    /// The reference prefix it was compressed against: layer, offset and bytes in the old tars.
    reference: Vec<(LayerIndex, u64, u64)>,
}

/// A blob of the delta.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BlobHeader {
    /// Bytes in the delta.
    bytes: u64,
    /// Uncompressed bytes; 0 for patches, which are not a zstd frame.
    plain: u64,
    /// BLAKE3 of the bytes in the delta, in hex.
    hash: String,
}

/// A range of bytes in the tar of an old layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: LayerIndex,
    offset: u64,
    bytes: u64,
}

/// Compresses against a reference prefix.
fn compress(plain: &[u8], reference: &[u8], level: i32) -> Result<Vec<u8>> {
    zstd_prefix::compress(plain, reference, Parameters::of(level, WINDOW_LOG))
}

/// Decompresses a frame of [`compress`] that has `bytes` uncompressed bytes.
fn decompress(packed: &[u8], reference: &[u8], bytes: u64) -> Result<Vec<u8>> {
    zstd_prefix::decompress(packed, reference, bytes, WINDOW_LOG)
}

/// An open delta whose header was verified.
pub struct Delta {
    header: Header,
    source: Source,
    /// Offset of each blob.
    starts: Vec<u64>,
}

impl std::fmt::Debug for Delta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delta").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Delta {
    /// Opens a delta.
    ///
    /// # Errors
    /// If reading fails, if it is not a delta or has another version, or if its header is damaged.
    pub fn open(source: Source) -> Result<Self> {
        let mut reader = SourceReader::all(source.as_ref());
        let mut magic = [0; 8];
        let read = reader.read_exact(&mut magic);
        if read.is_err() || magic[..7] != DELTA_MAGIC[..] {
            return Err(Error::malformed("this is not a delta made by relayer"));
        }
        if magic[7] != VERSION {
            return Err(Error::unsupported(format!(
                "the delta has format version {}, this relayer reads version {VERSION}",
                magic[7]
            )));
        }
        let mut sizes = [0; 16];
        reader.read_exact(&mut sizes).with_context(|| "the delta's header")?;
        let size =
            |at: usize| sizes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (packed, plain) = (size(0), size(8));
        if packed > source.size() || plain > MAX_DELTA_PLAIN {
            return Err(Error::malformed(format!(
                "the delta's header states an invalid size: {packed} bytes for {plain}; download the \
                 delta again"
            )));
        }
        let mut frame = vec![0; packed as usize];
        let mut hash = [0; 32];
        reader.read_exact(&mut frame).with_context(|| "the delta's header")?;
        reader.read_exact(&mut hash).with_context(|| "the delta's header")?;
        if *blake3::hash(&[&sizes[..], &frame].concat()).as_bytes() != hash {
            return Err(Error::mismatch("the delta's header is damaged; download the delta again"));
        }
        let header = decompress(&frame, &[], plain).with_context(|| "the delta's header")?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|e| Error::malformed(format!("the delta's header: {e}")))?;
        Self::new(header, source, 8 + 16 + packed + 32)
    }

    /// A delta whose blobs begin at offset `start` of `source`.
    fn new(header: Header, source: Source, start: u64) -> Result<Self> {
        let mut starts = Vec::with_capacity(header.blobs.len());
        let mut end = Some(start);
        for blob in &header.blobs {
            starts.extend(end);
            end = end.and_then(|end| end.checked_add(blob.bytes));
        }
        if end != Some(source.size()) {
            return Err(Error::malformed("the delta is truncated; download it again"));
        }
        Ok(Self { header, source, starts })
    }

    /// Returns the diff IDs of the image that the delta applies to, lowest layer first.
    pub fn old(&self) -> &[Digest] {
        &self.header.old
    }

    /// Returns the digest of the new image's manifest.
    pub fn new_manifest(&self) -> Digest {
        self.header.new
    }

    /// Returns a blob's stored bytes, verified.
    fn packed(&self, number: u32) -> Result<Vec<u8>> {
        let (Some(blob), Some(start)) =
            (self.header.blobs.get(number as usize), self.starts.get(number as usize))
        else {
            return Err(Error::malformed(format!(
                "the delta's header refers to blob {number}, which does not exist"
            )));
        };
        let place = || format!("blob {number} of the delta");
        if blob.bytes > MAX_DELTA_PACKED {
            let what =
                format!("it has {} bytes, more than the limit of {MAX_DELTA_PACKED}", blob.bytes);
            return Err(Error::limit(what).context(place()));
        }
        let mut packed = vec![0; blob.bytes as usize];
        self.source.read_exact_at(&mut packed, *start)?;
        if hex(blake3::hash(&packed).as_bytes()) != blob.hash {
            return Err(Error::mismatch("it is damaged; download the delta again").context(place()));
        }
        Ok(packed)
    }

    /// Returns a blob's uncompressed bytes, verified.
    fn blob(&self, number: u32, reference: &[u8]) -> Result<Vec<u8>> {
        let packed = self.packed(number)?;
        let place = || format!("blob {number} of the delta");
        let plain = self.header.blobs[number as usize].plain;
        if plain > MAX_DELTA_PLAIN {
            let what = format!("it states an invalid size of {plain} bytes");
            return Err(Error::malformed(what).context(place()));
        }
        decompress(&packed, reference, plain).with_context(place)
    }
}

/// The blobs of a delta that is being made.
struct Blobs {
    frames: SpoolWriter,
    headers: Vec<BlobHeader>,
}

impl Blobs {
    /// Keeps them in a spool on `budget`.
    fn new(budget: &Arc<Budget>) -> Self {
        Self { frames: SpoolWriter::new(budget), headers: Vec::new() }
    }

    /// Appends a blob and returns its number.
    fn add(&mut self, frame: &dyn ReadAt, plain: u64) -> Result<u32> {
        let mut hasher = blake3::Hasher::new();
        let mut reader = SourceReader::all(frame);
        let mut piece = vec![0; frame.size().min(1 << 17) as usize];
        loop {
            let n = reader.read(&mut piece)?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
            self.frames.write_all(&piece[..n])?;
        }
        let hash = hex(hasher.finalize().as_bytes());
        self.headers.push(BlobHeader { bytes: frame.size(), plain, hash });
        Ok(self.headers.len() as u32 - 1)
    }
}

/// Returns the uncompressed tars of an image's layers.
fn tars(layers: &[LayerContent]) -> Vec<Source> {
    layers.iter().map(|l| Arc::clone(&l.source)).collect()
}

/// Reads the reference prefix of a part.
fn reference(tars: &[Source], places: &[(LayerIndex, u64, u64)]) -> Result<Vec<u8>> {
    let bad = || Error::malformed("the delta refers to bytes that the old image does not have");
    let total = places.iter().try_fold(0u64, |sum, p| sum.checked_add(p.2));
    let total = total.filter(|n| *n <= MAX_REFERENCE).ok_or_else(bad)?;
    let mut bytes = Vec::with_capacity(total as usize);
    for (layer, offset, len) in places {
        let tar = tars.get(layer.index());
        let tar = tar.filter(|t| offset.checked_add(*len).is_some_and(|end| end <= t.size()));
        let tar = tar.ok_or_else(bad)?;
        let start = bytes.len();
        bytes.resize(start + *len as usize, 0);
        tar.read_exact_at(&mut bytes[start..], *offset)
            .with_context(|| format!("layer {} of the old image", layer.number()))?;
    }
    Ok(bytes)
}

/// Writes a delta, whose blobs are all that its source has, and returns its size.
fn write(delta: &Delta, out: &mut dyn Write) -> Result<u64> {
    let plain = serde_json::to_vec(&delta.header).map_err(std::io::Error::from)?;
    let frame = compress(&plain, &[], LEVEL)?;
    let mut sizes = (frame.len() as u64).to_le_bytes().to_vec();
    sizes.extend((plain.len() as u64).to_le_bytes());
    let hash = blake3::hash(&[&sizes[..], &frame].concat());
    let mut written = 0;
    for bytes in [&DELTA_MAGIC[..], &[VERSION], &sizes, &frame, hash.as_bytes()] {
        out.write_all(bytes)?;
        written += bytes.len() as u64;
    }
    Ok(written + std::io::copy(&mut SourceReader::all(delta.source.as_ref()), out)?)
}
