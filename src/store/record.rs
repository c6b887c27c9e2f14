//! What the store's values look like.

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::varint;
use crate::format::codec::Compression;
use crate::model::digest::Digest;
use crate::model::oci::Descriptor;
use crate::transport::name;

/// BLAKE3 of some bytes.
pub type Hash = [u8; 32];

/// Numbers of chunks, in order: mostly runs of consecutive ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ChunkRuns(pub Vec<(u64, u64)>);

impl ChunkRuns {
    /// Adds a number at the end.
    pub fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => self.0.push((number, 1)),
        }
    }

    /// Whether no chunk is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }

    /// Appends the runs; `end` is where the last run before them ended.
    pub fn put(&self, out: &mut Vec<u8>, end: &mut u64) {
        varint::put(out, self.0.len() as u64);
        for (first, count) in &self.0 {
            varint::put_signed(out, first.wrapping_sub(*end).cast_signed());
            varint::put(out, *count);
            *end = first + count;
        }
    }

    /// Whether all chunks are below `limit`, the number that no chunk has yet.
    pub fn all_below(&self, limit: u64) -> bool {
        self.0.iter().all(|(first, count)| first.checked_add(*count).is_some_and(|n| n <= limit))
    }

    /// The opposite of [`put`](Self::put); `None` for what makes no sense below `limit`.
    pub fn take(bytes: &mut &[u8], end: &mut u64, limit: u64) -> Option<Self> {
        let count = varint::take(bytes)?;
        // Each takes two bytes at least.
        if count > bytes.len() as u64 / 2 {
            return None;
        }
        let mut runs = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let first = end.wrapping_add(varint::take_signed(bytes)?.cast_unsigned());
            let count = varint::take(bytes)?;
            *end = first.checked_add(count).filter(|end| *end <= limit)?;
            runs.push((first, count));
        }
        Some(Self(runs))
    }

    /// As a value of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, &mut 0);
        out
    }

    /// The opposite.
    pub fn parse(mut bytes: &[u8], limit: u64) -> Option<Self> {
        let runs = Self::take(&mut bytes, &mut 0, limit)?;
        bytes.is_empty().then_some(runs)
    }
}

impl FromIterator<u64> for ChunkRuns {
    fn from_iter<T: IntoIterator<Item = u64>>(numbers: T) -> Self {
        let mut runs = Self::default();
        numbers.into_iter().for_each(|number| runs.push(number));
        runs
    }
}

/// Where a pack lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackLocation {
    /// Number of the file.
    pub file: u64,
    /// Where it begins there.
    pub offset: u64,
}

/// What is known of a pack without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackHeader {
    /// Where it lies, which its own file does not say.
    pub location: PackLocation,
    /// Bytes and hash of each chunk; of one that is gone, 0 bytes.
    pub chunks: Vec<(u32, Hash)>,
    /// Chunks of earlier packs that it was compressed with in sight.
    pub references: ChunkRuns,
    /// How many packs deep the references go.
    pub depth: u64,
    /// Bytes of its frame.
    pub frame_bytes: u64,
}

/// Bytes of chunks in a full pack.
pub const FULL_PACK: usize = 8 << 20;
/// The most: it is full when it has reached [`FULL_PACK`].
pub const MAX_PACK: u64 = (FULL_PACK + crate::base::chunker::MAX) as u64;

impl PackHeader {
    /// As a value of the index.
    pub fn to_value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.chunks.len() * 35 + 32);
        varint::put(&mut out, self.location.file);
        varint::put(&mut out, self.location.offset);
        self.put(&mut out);
        out
    }

    /// As it stands before the pack's frame; `first` is the number of the pack's first chunk.
    pub fn to_head(&self, first: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.chunks.len() * 35 + 32);
        varint::put(&mut out, first);
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.chunks.len() as u64);
        for (bytes, hash) in &self.chunks {
            varint::put(out, u64::from(*bytes));
            if *bytes > 0 {
                out.extend_from_slice(hash);
            }
        }
        self.references.put(out, &mut 0);
        varint::put(out, self.depth);
        varint::put(out, self.frame_bytes);
    }

    /// The opposite of [`to_value`](Self::to_value).
    pub fn parse(mut bytes: &[u8], first: u64) -> Option<Self> {
        let location =
            PackLocation { file: varint::take(&mut bytes)?, offset: varint::take(&mut bytes)? };
        Self::take(bytes, first, location)
    }

    /// The opposite of [`to_head`](Self::to_head), with the first number.
    pub fn parse_head(mut bytes: &[u8], location: PackLocation) -> Option<(u64, Self)> {
        let first = varint::take(&mut bytes)?;
        Some((first, Self::take(bytes, first, location)?))
    }

    fn take(mut bytes: &[u8], first: u64, location: PackLocation) -> Option<Self> {
        let count = varint::take(&mut bytes)?;
        if count == 0 || count > bytes.len() as u64 || first.checked_add(count).is_none() {
            return None;
        }
        let (mut chunks, mut total) = (Vec::with_capacity(count as usize), 0);
        for _ in 0..count {
            let size = u32::try_from(varint::take(&mut bytes)?).ok()?;
            let mut hash = [0; 32];
            if size > 0 {
                let (head, rest) = bytes.split_at_checked(32)?;
                hash.copy_from_slice(head);
                bytes = rest;
            }
            total += u64::from(size);
            chunks.push((size, hash));
        }
        let references = ChunkRuns::take(&mut bytes, &mut 0, first)?;
        let (depth, frame_bytes) = (varint::take(&mut bytes)?, varint::take(&mut bytes)?);
        (bytes.is_empty() && total <= MAX_PACK).then_some(Self {
            location,
            chunks,
            references,
            depth,
            frame_bytes,
        })
    }

    /// Bytes of its chunks.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunks.iter().map(|(bytes, _)| u64::from(*bytes)).sum()
    }
}

/// A layer's tar: how it is put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// The [`TarStep`]s.
    pub steps: ChunkRuns,
    /// Everything that is not in a file: headers and padding.
    #[serde(rename = "heads")]
    pub headers: ChunkRuns,
}

/// A piece of a tar: headers, then a file's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarStep {
    /// Bytes of headers and padding.
    pub header_bytes: u64,
    /// The file.
    pub file: ChunkRuns,
}

/// Appends a step.
pub fn put_step(out: &mut Vec<u8>, step: &TarStep, end: &mut u64) {
    varint::put(out, step.header_bytes);
    step.file.put(out, end);
}

/// Takes a step from the front of `bytes`.
pub fn take_step(bytes: &mut &[u8], end: &mut u64, limit: u64) -> Option<TarStep> {
    let header_bytes = varint::take(bytes)?;
    Some(TarStep { header_bytes, file: ChunkRuns::take(bytes, end, limit)? })
}

/// How a blob is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Its size in bytes.
    pub bytes: u64,
    /// How.
    #[serde(rename = "made")]
    pub recipe: BlobRecipe,
}

/// What a blob is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlobRecipe {
    /// A manifest, a config or an index: these chunks, one after the other.
    Document(ChunkRuns),
    /// A layer that can't be made of its tar: the chunks of its blob.
    #[serde(rename = "kept")]
    Verbatim(ChunkRuns),
    /// The tar of this diff ID, compressed so.
    Compressed {
        /// The tar.
        diff_id: Digest,
        /// Name, level, window.
        compression: (String, Option<i32>, Option<u32>),
    },
    /// The tar of this diff ID, compressed as another tool did.
    Recoded {
        /// The tar.
        diff_id: Digest,
        /// What [`recode`](crate::format::recode) needs beside it.
        corrections: ChunkRuns,
    },
}

impl BlobRecipe {
    /// The chunks that it names itself.
    pub fn chunks(&self) -> Option<&ChunkRuns> {
        match self {
            Self::Document(chunks) | Self::Verbatim(chunks) => Some(chunks),
            Self::Recoded { corrections, .. } => Some(corrections),
            Self::Compressed { .. } => None,
        }
    }

    /// The diff ID of the layer that it is made of.
    pub fn diff_id(&self) -> Option<&Digest> {
        match self {
            Self::Compressed { diff_id, .. } | Self::Recoded { diff_id, .. } => Some(diff_id),
            Self::Document(_) | Self::Verbatim(_) => None,
        }
    }

    /// A compression from its parts.
    pub fn compression(parts: &(String, Option<i32>, Option<u32>)) -> Result<Compression> {
        Compression::new(&parts.0, parts.1, parts.2)
    }
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its manifest, or the index of several.
    pub root: Descriptor,
    /// The names it goes by.
    pub names: Vec<String>,
    /// Everything it is made of, the root included.
    pub blobs: Vec<Digest>,
    /// The layers' tars.
    pub diff_ids: Vec<Digest>,
    /// When it was added, first and since then, in seconds since 1970.
    pub added: Vec<u64>,
    /// Names that went to other images.
    pub former: Vec<String>,
}

impl ImageRecord {
    /// Takes over what an older record of the same image has.
    pub fn absorb(&mut self, old: Self) {
        let new = |name: &String| !self.names.iter().any(|n| name::is_same(n, name));
        let (names, former) = (old.names.into_iter(), old.former.into_iter());
        let (names, former): (Vec<_>, Vec<_>) =
            (names.filter(new).collect(), former.filter(new).collect());
        self.names.extend(names);
        self.former = former;
        let added = std::mem::replace(&mut self.added, old.added);
        self.added.extend(added);
        if self.diff_ids.is_empty() {
            self.diff_ids = old.diff_ids;
        }
    }

    /// What messages call it.
    pub fn label(&self) -> String {
        self.names
            .first()
            .map_or_else(|| self.root.digest.short(), |n| n.escape_debug().to_string())
    }
}

/// A number as a key: in order.
pub fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The opposite.
pub fn number_of(key: &[u8]) -> Result<u64> {
    let bytes = key.try_into().map_err(|_| Error::malformed("a key of the store is no number"))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = ChunkRuns> {
        prop::collection::vec((0u64..1 << 40, 1u64..1000), 0..20).prop_map(ChunkRuns)
    }

    proptest! {
        #[test]
        fn headers_come_back(
            chunks in prop::collection::vec((1u32..1000, any::<Hash>()), 1..20),
            references in runs(), depth in 0u64..9, frame in any::<u64>(), file in any::<u64>(),
        ) {
            let location = PackLocation { file, offset: frame };
            let header = PackHeader { location, chunks, references, depth, frame_bytes: frame };
            prop_assert_eq!(PackHeader::parse(&header.to_value(), 1 << 41), Some(header.clone()));
            let head = header.to_head(1 << 41);
            let want = Some((1 << 41, header.clone()));
            prop_assert_eq!(PackHeader::parse_head(&head, location), want);
            // No pack refers to itself or what comes after it.
            let refers = !header.references.0.is_empty();
            prop_assert_eq!(PackHeader::parse(&header.to_value(), 0).is_none(), refers);
        }

        #[test]
        fn steps_come_back(list in prop::collection::vec((any::<u32>(), runs()), 0..20)) {
            let (mut bytes, mut end) = (Vec::new(), 0);
            for (heads, file) in &list {
                let step = TarStep { header_bytes: u64::from(*heads), file: file.clone() };
                put_step(&mut bytes, &step, &mut end);
            }
            let (mut rest, mut end) = (&bytes[..], 0);
            for (heads, file) in list {
                prop_assert_eq!(take_step(&mut rest, &mut end, 1 << 42), Some(TarStep { header_bytes: heads.into(), file }));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PackHeader::parse(&bytes, 1000);
            let _ = PackHeader::parse_head(&bytes, PackLocation::default());
            let _ = ChunkRuns::parse(&bytes, 1000);
            let (mut rest, mut end) = (&bytes[..], 0);
            while !rest.is_empty() && take_step(&mut rest, &mut end, 1 << 42).is_some() {}
        }
    }
}
