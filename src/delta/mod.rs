//! Deltas: all that is needed to make one image of another.
//!
//! The layers of the new image are described by the uncompressed tars of the old one: what both
//! have is copied; programs that changed are told by their old selves, with the addresses in them
//! corrected (`told`); other files are compressed with their old selves in sight. The new layers
//! are compressed again while the delta is applied; those that relayer wrote come out byte for
//! byte. docs/DELTA.md has the format.

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
mod model;
mod ops;
mod patch;
mod stream;
mod symbols;
mod words;

pub use apply::{Applied, apply};
pub use index::Side;
pub use make::make;

use std::io::{Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::error::{Context, Error, Result};
use crate::format::codec::zstd_prefix;
use crate::layers::read::LayerContent;
use crate::model::content::{Source, SourceReader};
use crate::model::digest::{Digest, hex};

/// The first bytes of a delta; the last of them is the version.
const MAGIC: &[u8; 8] = b"RLDELTA\x01";
/// A header can't be larger; that of an image with 125 layers has some 100 kB.
const MOST_HEADER: u64 = 64 << 20;
/// A blob can't be larger.
const MOST_PACKED: u64 = 256 << 20;
/// Bytes of data that are compressed as one part.
const PART: u64 = 16 << 20;
/// Bytes of the old image that a part may have in sight.
const REFERENCE: u64 = 32 << 20;
/// A layer may have so many times its bytes in sight, in all: no delta can have much read for
/// little.
const TIMES: u64 = 16;
/// The window that holds both.
const WINDOW: u32 = 26;

/// What a delta came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Made {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Layers that both images have.
    pub same_layers: u64,
    /// Layers whose blob can't be made again: the result has another one of the same content.
    pub other_blobs: u64,
    /// Bytes of tar that are copied from the old image, of the other layers.
    pub copied: u64,
    /// Bytes of files that changed.
    pub changed: u64,
    /// Bytes of all tars that are made, copied ones too.
    pub tars: u64,
    /// Bytes in the delta: instructions.
    pub ops: u64,
    /// Tar headers.
    pub heads: u64,
    /// Files with old ones in sight.
    pub data: u64,
    /// Programs told by old ones.
    pub told: u64,
    /// What has no like in the old image.
    pub fresh: u64,
}

/// What a delta says before its blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    /// Version of relayer that wrote it.
    writer: String,
    /// The old image's diff IDs, lowest first.
    old: Vec<Digest>,
    /// Digest of the manifest that comes out.
    new: Digest,
    /// The names it goes by.
    names: Vec<String>,
    /// The manifest's media type, and its bytes.
    manifest: (String, String),
    /// The config's bytes.
    config: String,
    /// The new image's layers, lowest first.
    layers: Vec<LayerHeader>,
    /// What follows the header, in this order.
    blobs: Vec<BlobHeader>,
}

/// A layer that comes out.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LayerHeader {
    /// Digest of the blob.
    digest: Digest,
    /// Digest of the tar.
    diff_id: Digest,
    /// How it is made.
    recipe: Recipe,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Recipe {
    /// The old image's layer of this number, from 0, as it lies there.
    Old(u32),
    /// Instructions and what they take.
    Rebuild {
        /// Bytes of the tar.
        tar_bytes: u64,
        /// How the blob is made of the tar.
        packing: Packing,
        /// Number of the blob with the instructions.
        ops: u32,
        /// The stream of headers.
        heads: Vec<Part>,
        /// The stream of data.
        data: Vec<Part>,
        /// The stream of what has no like in the old image.
        fresh: Vec<Part>,
        /// Numbers of the blobs that tell files.
        told: Vec<u32>,
    },
}

/// How a layer's blob is made of its tar.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Packing {
    /// `none`, `gzip`, `zstd` or `zstd:chunked`; level; log2 of the window.
    Compression(String, Option<i32>, Option<u32>),
    /// As another tool did, by [`recode`](crate::format::recode).
    Corrections {
        /// Number of the blob with the corrections.
        blob: u32,
        /// Bytes of the layer's blob.
        bytes: u64,
    },
}

/// A piece of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    /// Number of the blob.
    blob: u32,
    /// What it was compressed with in sight: layer, offset and bytes in the old tars.
    reference: Vec<(u32, u64, u64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BlobHeader {
    /// Bytes in the delta.
    bytes: u64,
    /// Bytes that it becomes; 0 for one that tells files.
    plain: u64,
    /// BLAKE3 of the packed bytes, in hex.
    hash: String,
}

/// Where bytes lie in the old tars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: u32,
    offset: u64,
    bytes: u64,
}

/// The level of frames that are not worth much time.
const LEVEL: i32 = 19;

/// Compresses with a reference in sight.
fn compress(plain: &[u8], reference: &[u8], level: i32) -> Result<Vec<u8>> {
    zstd_prefix::compress(plain, reference, level, WINDOW, None)
}

/// The opposite; `bytes` is how many come out.
fn decompress(packed: &[u8], reference: &[u8], bytes: u64) -> Result<Vec<u8>> {
    zstd_prefix::decompress(packed, reference, bytes, WINDOW)
}

/// A delta that is open: its header has been verified.
pub struct Delta {
    header: Header,
    source: Source,
    /// Where each blob begins.
    starts: Vec<u64>,
}

impl Delta {
    /// Opens a delta.
    pub fn open(source: Source) -> Result<Self> {
        let mut reader = SourceReader::all(source.as_ref());
        let mut magic = [0; 8];
        let read = reader.read_exact(&mut magic);
        if read.is_err() || magic[..7] != MAGIC[..7] {
            return Err(Error::malformed("this is no delta of relayer"));
        }
        if magic[7] != MAGIC[7] {
            return Err(Error::unsupported(format!(
                "this delta has version {}, and this relayer reads version {}",
                magic[7], MAGIC[7]
            )));
        }
        let mut sizes = [0; 16];
        reader.read_exact(&mut sizes).with_context(|| "the delta's header")?;
        let size =
            |at: usize| sizes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (packed, plain) = (size(0), size(8));
        if packed > source.size() || plain > MOST_HEADER {
            return Err(Error::malformed("the delta's header states a size that can't be"));
        }
        let mut frame = vec![0; packed as usize];
        let mut hash = [0; 32];
        reader.read_exact(&mut frame).with_context(|| "the delta's header")?;
        reader.read_exact(&mut hash).with_context(|| "the delta's header")?;
        if *blake3::hash(&[&sizes[..], &frame].concat()).as_bytes() != hash {
            return Err(Error::mismatch("the delta's header is damaged; fetch the delta again"));
        }
        let header = decompress(&frame, &[], plain).with_context(|| "the delta's header")?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|e| Error::malformed(format!("the delta's header: {e}")))?;
        Self::new(header, source, 8 + 16 + packed + 32)
    }

    /// A delta whose blobs lie in `source` from `start` on.
    fn new(header: Header, source: Source, start: u64) -> Result<Self> {
        let mut starts = Vec::with_capacity(header.blobs.len());
        let mut end = Some(start);
        for blob in &header.blobs {
            starts.extend(end);
            end = end.and_then(|end| end.checked_add(blob.bytes));
        }
        if end != Some(source.size()) {
            return Err(Error::malformed("the delta is cut off; fetch it again"));
        }
        Ok(Self { header, source, starts })
    }

    /// The diff IDs of the image that it is for.
    pub fn old(&self) -> &[Digest] {
        &self.header.old
    }

    /// Digest of the manifest that comes out.
    pub fn new_manifest(&self) -> Digest {
        self.header.new
    }

    /// A blob's packed bytes, verified.
    fn packed(&self, number: u32) -> Result<Vec<u8>> {
        let (Some(blob), Some(start)) =
            (self.header.blobs.get(number as usize), self.starts.get(number as usize))
        else {
            return Err(Error::malformed("the delta's header names a part that is not there"));
        };
        let place = || format!("part {number} of the delta");
        if blob.bytes > MOST_PACKED {
            return Err(Error::limit("it is larger than it may be").context(place()));
        }
        let mut packed = vec![0; blob.bytes as usize];
        self.source.read_exact_at(&mut packed, *start)?;
        if hex(blake3::hash(&packed).as_bytes()) != blob.hash {
            return Err(Error::mismatch("it is damaged; fetch the delta again").context(place()));
        }
        Ok(packed)
    }

    /// A blob's plain bytes, verified.
    fn blob(&self, number: u32, reference: &[u8]) -> Result<Vec<u8>> {
        let packed = self.packed(number)?;
        let blob = &self.header.blobs[number as usize];
        if blob.plain > MOST_HEADER {
            return Err(Error::malformed("a part of the delta states a size that can't be"));
        }
        let plain = decompress(&packed, reference, blob.plain);
        plain.with_context(|| format!("part {number} of the delta"))
    }
}

/// Blobs in the making.
#[derive(Default)]
struct Blobs {
    frames: Vec<u8>,
    headers: Vec<BlobHeader>,
}

impl Blobs {
    fn add(&mut self, frame: Vec<u8>, plain: u64) -> u32 {
        let hash = hex(blake3::hash(&frame).as_bytes());
        self.headers.push(BlobHeader { bytes: frame.len() as u64, plain, hash });
        self.frames.extend(frame);
        self.headers.len() as u32 - 1
    }
}

/// The uncompressed tars of an image's layers.
pub(super) fn tars(layers: &[LayerContent]) -> Vec<Source> {
    layers.iter().map(|l| Arc::clone(&l.source)).collect()
}

/// The bytes that a part has in sight.
fn reference(tars: &[Source], places: &[(u32, u64, u64)]) -> Result<Vec<u8>> {
    let bad = || Error::malformed("the delta refers to what the old image does not have");
    let total = places.iter().try_fold(0u64, |sum, p| sum.checked_add(p.2));
    let total = total.filter(|n| *n <= REFERENCE).ok_or_else(bad)?;
    let mut bytes = Vec::with_capacity(total as usize);
    for (layer, offset, len) in places {
        let tar = tars.get(*layer as usize).ok_or_else(bad)?;
        let start = bytes.len();
        bytes.resize(start + *len as usize, 0);
        tar.read_exact_at(&mut bytes[start..], *offset).map_err(|_| bad())?;
    }
    Ok(bytes)
}

fn write(header: &Header, frames: &[u8], out: &mut dyn Write) -> Result<u64> {
    let plain = serde_json::to_vec(header).map_err(std::io::Error::from)?;
    let frame = compress(&plain, &[], LEVEL)?;
    let mut sizes = (frame.len() as u64).to_le_bytes().to_vec();
    sizes.extend((plain.len() as u64).to_le_bytes());
    let hash = blake3::hash(&[&sizes[..], &frame].concat());
    let mut written = 0;
    for bytes in [&MAGIC[..], &sizes, &frame, hash.as_bytes(), frames] {
        out.write_all(bytes)?;
        written += bytes.len() as u64;
    }
    Ok(written)
}
