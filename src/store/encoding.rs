//! Encodings of chunk numbers, packs and layers, in the index and in the files of packs.

use serde::{Deserialize, Serialize};

use crate::base::varint;

/// BLAKE3 hash.
pub type Hash = [u8; 32];

/// A list of chunk numbers, as runs of consecutive ones: first number and count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ChunkRuns(pub Vec<(u64, u64)>);

impl ChunkRuns {
    /// Appends a chunk number.
    pub fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => self.0.push((number, 1)),
        }
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the chunk numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }

    /// Encodes the runs and appends them. `end` is where the previous run ended, and is updated.
    pub fn put(&self, out: &mut Vec<u8>, end: &mut u64) {
        varint::put(out, self.0.len() as u64);
        for (first, count) in &self.0 {
            varint::put_signed(out, first.wrapping_sub(*end).cast_signed());
            varint::put(out, *count);
            *end = first + count;
        }
    }

    /// Returns whether all chunk numbers are below `limit`.
    pub fn all_below(&self, limit: u64) -> bool {
        self.0.iter().all(|(first, count)| first.checked_add(*count).is_some_and(|n| n <= limit))
    }

    /// Decodes runs from the front of `bytes`, the inverse of [`put`](Self::put). Returns `None` if
    /// they are not valid or not below `limit`.
    pub fn take(bytes: &mut &[u8], end: &mut u64, limit: u64) -> Option<Self> {
        let count = varint::take(bytes)?;
        // Each takes at least two bytes.
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

    /// Encodes the list as a value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, &mut 0);
        out
    }

    /// Decodes a value, the inverse of [`to_bytes`](Self::to_bytes). Returns `None` if it is not
    /// valid.
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

/// Location of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackLocation {
    /// Number of the file.
    pub file: u64,
    /// Offset of its entry in the file.
    pub offset: u64,
}

/// Everything about a pack except its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackHeader {
    /// Its location. The pack file itself does not contain it.
    pub location: PackLocation,
    /// Size and hash of each chunk. The size is 0 for a chunk that was removed.
    pub chunks: Vec<(u32, Hash)>,
    /// Chunks of earlier packs that it was compressed against.
    pub references: ChunkRuns,
    /// Length of the longest chain of references.
    pub depth: u64,
    /// Size of its zstd frame in bytes.
    pub frame_bytes: u64,
}

/// Bytes of chunks from which on a pack is full.
pub(super) const FULL_PACK: usize = 8 << 20;
/// Maximum bytes of chunks in a pack.
pub(super) const MAX_PACK: u64 = (FULL_PACK + crate::base::chunker::MAX) as u64;

impl PackHeader {
    /// Encodes it as a value of the index.
    pub fn to_value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.chunks.len() * 35 + 32);
        varint::put(&mut out, self.location.file);
        varint::put(&mut out, self.location.offset);
        self.put(&mut out);
        out
    }

    /// Encodes it as the head of the pack's entry; `first` is the number of the pack's first chunk.
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

    /// Decodes a value, the inverse of [`to_value`](Self::to_value). Returns `None` if it is not
    /// valid.
    pub fn parse(mut bytes: &[u8], first: u64) -> Option<Self> {
        let location =
            PackLocation { file: varint::take(&mut bytes)?, offset: varint::take(&mut bytes)? };
        Self::take(bytes, first, location)
    }

    /// Decodes a head, the inverse of [`to_head`](Self::to_head), with the number of the first chunk.
    /// Returns `None` if it is not valid.
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

    /// Returns the size of its chunks in bytes, uncompressed.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunks.iter().map(|(bytes, _)| u64::from(*bytes)).sum()
    }
}

/// A part of a tar: headers and padding, then the contents of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarStep {
    /// Number of bytes of headers and padding.
    pub header_bytes: u64,
    /// Chunks of the file.
    pub file: ChunkRuns,
}

/// Encodes a step and appends it. `end` is where the previous run of chunks ended, and is updated.
pub fn put_step(out: &mut Vec<u8>, step: &TarStep, end: &mut u64) {
    varint::put(out, step.header_bytes);
    step.file.put(out, end);
}

/// Decodes a step from the front of `bytes`, the inverse of [`put_step`]. Returns `None` if it is not
/// valid.
pub fn take_step(bytes: &mut &[u8], end: &mut u64, limit: u64) -> Option<TarStep> {
    let header_bytes = varint::take(bytes)?;
    Some(TarStep { header_bytes, file: ChunkRuns::take(bytes, end, limit)? })
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
