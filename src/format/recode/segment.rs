//! Segments: the pieces of a stream that are coded and reproduced independently.

use std::ops::Range;

use super::deflate::{BitWriter, Header, Lengths, Token};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_CORRECTED;

/// Uncompressed bytes after which a segment ends with the next block. Encoders that compress in
/// parallel begin a new run every MiB (pgzip) or a power of two below that (pigz).
pub(super) const TARGET: usize = 1 << 20;
/// Uncompressed bytes after which it ends in the middle of a block.
pub(super) const MAX_PLAIN: usize = 2 << 20;
/// Uncompressed bytes before and after a segment that its prediction depends on.
pub(super) const BEFORE: usize = 1 << 17;
pub(super) const AFTER: usize = 1 << 16;
/// Maximum number of blocks of a segment.
pub(super) const MAX_BLOCKS: usize = 1 << 13;
/// Maximum number of bytes between two streams of blocks.
pub(super) const MAX_GAP: usize = 1 << 18;

/// The type of a block.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Uncompressed bytes, after padding bits.
    Stored { pad: u8 },
    /// With the fixed codes of the specification.
    #[default]
    Fixed,
    /// With codes of its own.
    Dynamic(Box<Header>),
    /// The rest of a block that began in an earlier segment.
    Continued,
    /// Not a block: padding bits, and bytes before, between or after members.
    Gap { pad: u8, bytes: Vec<u8> },
}

/// A block of a segment.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Block {
    pub(super) kind: Kind,
    /// It is the last of its stream; of a gap: another stream follows.
    pub(super) last: bool,
    /// Indices of its tokens in the segment.
    pub(super) tokens: Range<usize>,
    /// Number of uncompressed bytes.
    pub(super) plain: usize,
    /// It ends in this segment.
    pub(super) ended: bool,
}

impl Block {
    /// Makes a block without tokens.
    pub(super) fn new(kind: Kind, last: bool) -> Self {
        Self { kind, last, ended: true, ..Self::default() }
    }

    /// Whether it marks a flush: an empty stored block, or an empty fixed one (padding of pigz).
    pub(super) fn is_flush(&self) -> bool {
        let marks = matches!(self.kind, Kind::Stored { .. } | Kind::Fixed);
        marks && self.plain == 0 && self.ended && !self.last
    }
}

/// A segment.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub(super) blocks: Vec<Block>,
    pub(super) tokens: Vec<Token>,
    /// Number of uncompressed bytes.
    pub(super) plain: usize,
    /// Number of bits of its first byte that belong to the segment before, and number of bits of its
    /// last byte that belong to it (0 if all do).
    pub(super) phase: u32,
    pub(super) end_phase: u32,
    /// Uncompressed bytes since the member and the encoder's run began.
    pub(super) member: u64,
    pub(super) run: u64,
    /// Code lengths of the block that it begins in.
    pub(super) open: Option<Lengths>,
    /// Its compressed bytes, if it was parsed.
    pub(super) packed: Vec<u8>,
}

impl Segment {
    /// Makes its compressed bytes from its blocks, its tokens and `plain`. Bits before the first are 0.
    /// The second result is `end_phase`.
    pub(super) fn write(&self, plain: &[u8]) -> Result<(Vec<u8>, u32)> {
        let mut writer = BitWriter::new(self.phase);
        let mut at = 0;
        let mut open = self.open.clone();
        for block in &self.blocks {
            let kind = match &block.kind {
                Kind::Stored { .. } => Some(0),
                Kind::Fixed => Some(1),
                Kind::Dynamic(_) => Some(2),
                Kind::Continued | Kind::Gap { .. } => None,
            };
            if let Some(kind) = kind {
                writer.bits(3, kind << 1 | u32::from(block.last));
            }
            let tokens = &self.tokens[block.tokens.clone()];
            let bytes = &plain[at..at + block.plain];
            at += block.plain;
            match &block.kind {
                Kind::Stored { pad } => {
                    fill(&mut writer, *pad);
                    let size = bytes.len() as u32;
                    writer.bits(16, size);
                    writer.bits(16, !size & 0xffff);
                    writer.bytes(bytes);
                }
                Kind::Gap { pad, bytes } => {
                    fill(&mut writer, *pad);
                    writer.bytes(bytes);
                }
                Kind::Fixed => writer.tokens(&Lengths::fixed(), tokens, block.ended)?,
                Kind::Dynamic(header) => {
                    writer.header(header)?;
                    writer.tokens(&header.lengths, tokens, block.ended)?;
                }
                Kind::Continued => {
                    let lengths = open.take().ok_or_else(|| {
                        Error::malformed("the corrections continue a block that does not exist")
                    })?;
                    writer.tokens(&lengths, tokens, block.ended)?;
                }
            }
            if writer.size() > MAX_CORRECTED {
                return Err(Error::limit(format!(
                    "a segment of the corrections expands to more than {MAX_CORRECTED} bytes"
                )));
            }
        }
        Ok(writer.finish())
    }

    /// Whether `write` gives the bytes it was parsed from.
    pub(super) fn is_written_as(&self, packed: &[u8], plain: &[u8]) -> bool {
        let Ok((mut written, end)) = self.write(plain) else { return false };
        let mut packed = packed.to_vec();
        if let Some(first) = packed.first_mut() {
            *first &= 0xff << self.phase;
        }
        if let Some(last) = packed.last_mut()
            && end > 0
        {
            *last &= (1 << end) - 1;
        }
        if written.is_empty() && self.phase > 0 {
            written.push(0);
        }
        written == packed
    }
}

/// Writes padding bits to the end of the byte.
fn fill(writer: &mut BitWriter, pad: u8) {
    let room = writer.room();
    writer.bits(room, u32::from(pad) & ((1 << room) - 1));
}
