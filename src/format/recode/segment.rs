//! A segment: as much of a stream as is coded, and made again, at a time.

use std::ops::Range;

use super::deflate::{Header, Lengths, Token, Writer};
use crate::base::error::{Error, Result};

/// Plain bytes after which a segment ends with the next block. Encoders that compress in parallel
/// begin anew every MiB (pgzip) or a power of two below it (pigz).
pub(super) const TARGET: usize = 1 << 20;
/// Plain bytes after which it ends in the middle of a block.
pub(super) const MAX_PLAIN: usize = 2 << 20;
/// Plain bytes before and after a segment that its prediction sees.
pub(super) const BEFORE: usize = 1 << 17;
pub(super) const AFTER: usize = 1 << 16;
/// Blocks of a segment at most.
pub(super) const MAX_BLOCKS: usize = 1 << 13;
/// Bytes between two streams of blocks at most.
pub(super) const MAX_GAP: usize = 1 << 18;
/// Compressed bytes of a segment at most: more than the parser ever lets one have.
const MAX_PACKED: usize = 16 << 20;

/// What a block is.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Bytes as they are, after bits that fill a byte.
    Stored { pad: u8 },
    /// Huffman codes of the specification.
    #[default]
    Fixed,
    /// Huffman codes of its own.
    Dynamic(Box<Header>),
    /// The rest of a block that the segment before began.
    Continued,
    /// No block: bits that fill a byte, and bytes between, before or after members.
    Gap { pad: u8, bytes: Vec<u8> },
}

#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Block {
    pub(super) kind: Kind,
    /// The last of its stream; for a gap, that another stream follows.
    pub(super) last: bool,
    /// Its tokens in the segment.
    pub(super) tokens: Range<usize>,
    /// How many plain bytes it holds.
    pub(super) plain: usize,
    /// It ends in this segment.
    pub(super) ended: bool,
}

impl Block {
    pub(super) fn new(kind: Kind, last: bool) -> Self {
        Self { kind, last, ended: true, ..Self::default() }
    }

    /// The mark of a flush: a stored block without bytes, or a fixed one (pigz fills up bytes so).
    pub(super) fn is_flush(&self) -> bool {
        let marks = matches!(self.kind, Kind::Stored { .. } | Kind::Fixed);
        marks && self.plain == 0 && self.ended && !self.last
    }
}

#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub(super) blocks: Vec<Block>,
    pub(super) tokens: Vec<Token>,
    /// How many plain bytes it holds.
    pub(super) plain: usize,
    /// Bits of its first and its last byte that belong to the segments beside it (of the last,
    /// those that do not; 0 when it is whole).
    pub(super) phase: u32,
    pub(super) end_phase: u32,
    /// Plain bytes since the member and the encoder's run began.
    pub(super) member: u64,
    pub(super) run: u64,
    /// Codes of the block that it begins in.
    pub(super) open: Option<Lengths>,
    /// Its compressed bytes, when they are known.
    pub(super) packed: Vec<u8>,
}

impl Segment {
    /// Its compressed bytes made of blocks, tokens and `plain`; bits before the first are zero.
    pub(super) fn write(&self, plain: &[u8]) -> Result<(Vec<u8>, u32)> {
        let mut writer = Writer::new(self.phase);
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
                    let lengths = open.take().ok_or_else(|| Error::malformed("no open block"))?;
                    writer.tokens(&lengths, tokens, block.ended)?;
                }
            }
            if writer.size() > MAX_PACKED {
                return Err(Error::limit("a segment is too large"));
            }
        }
        Ok(writer.finish())
    }

    /// Whether `write` gives the bytes that the segment was read from.
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

fn fill(writer: &mut Writer, pad: u8) {
    let room = writer.room();
    writer.bits(room, u32::from(pad) & ((1 << room) - 1));
}
