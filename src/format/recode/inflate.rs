//! Parses a gzip stream into segments of blocks and tokens.

use std::io::Read;

use super::bits::{BitReader, Codes, Stop};
use super::deflate::{Lengths, Token, WINDOW, distance_base, length_base};
use super::segment::{Block, Kind, MAX_BLOCKS, MAX_GAP, MAX_PLAIN, Segment, TARGET};
use crate::base::error::Result;

/// Compressed bytes after which a segment ends in any case.
const MAX_PACKED: usize = 4 << 20;

/// A block that the end of a segment cut.
struct OpenBlock {
    lengths: Lengths,
    codes: Codes,
    last: bool,
}

/// The next item of the stream.
#[derive(PartialEq, Eq)]
enum Next {
    Header,
    Block,
    Trailer,
    /// Bytes after the last member, or the end.
    Garbage,
}

/// Parses segment after segment.
pub(super) struct Parser<'a> {
    bits: BitReader<'a>,
    /// Uncompressed bytes: those not yet forgotten, at least a window.
    pub(super) plain: Vec<u8>,
    /// Offset of the next segment in `plain`.
    start: usize,
    open: Option<OpenBlock>,
    next: Next,
    /// Uncompressed bytes since the member began, and since the last flush.
    member: u64,
    run: u64,
}

impl<'a> Parser<'a> {
    /// Begins with a stream.
    pub(super) fn new(source: &'a mut dyn Read) -> Self {
        let bits = BitReader::new(source);
        let (plain, open) = (Vec::new(), None);
        Self { bits, plain, start: 0, open, next: Next::Header, member: 0, run: 0 }
    }

    /// Forgets the first `n` uncompressed bytes, which no later segment needs.
    pub(super) fn forget(&mut self, n: usize) {
        self.plain.drain(..n);
        self.start -= n;
    }

    /// Parses the next segment; `None` at the end.
    pub(super) fn segment(&mut self) -> Result<Option<Segment>, Stop> {
        let mut segment = Segment {
            phase: self.bits.position() as u32 % 8,
            member: self.member,
            run: self.run,
            open: self.open.as_ref().map(|o| o.lengths.clone()),
            ..Segment::default()
        };
        let begin = self.start;
        loop {
            if self.next != Next::Block {
                let Some(done) = self.gap(&mut segment)? else { break };
                if done || segment.blocks.len() >= MAX_BLOCKS {
                    break;
                }
                continue;
            }
            let limit = begin + MAX_PLAIN;
            let flushed = self.block(&mut segment, limit)?;
            let plain = self.plain.len() - begin;
            if plain > TARGET
                || plain == TARGET && flushed
                || self.bits.position() / 8 > MAX_PACKED
                || segment.blocks.len() >= MAX_BLOCKS
                || self.open.is_some()
            {
                break;
            }
        }
        if segment.blocks.is_empty() {
            return Ok(None);
        }
        segment.plain = self.plain.len() - begin;
        self.start = self.plain.len();
        segment.end_phase = self.bits.position() as u32 % 8;
        segment.packed = self.bits.take_bytes();
        Ok(Some(segment))
    }

    /// Parses the bytes between two streams of blocks. Returns whether the segment must end with them;
    /// `None` if there are none.
    fn gap(&mut self, segment: &mut Segment) -> Result<Option<bool>, Stop> {
        let first = self.next == Next::Header;
        let pad = self.bits.align()?;
        let mut bytes = Vec::new();
        let mut next = |bytes: &mut Vec<u8>, count: usize| -> Result<bool, Stop> {
            for _ in 0..count {
                let Some(byte) = self.bits.byte()? else { return Ok(false) };
                bytes.push(byte);
            }
            Ok(true)
        };
        let trailer = if self.next == Next::Trailer { 8 } else { 0 };
        if !next(&mut bytes, trailer)? {
            return Err(Stop::Unsupported);
        }
        let mut begins = false;
        if self.next != Next::Garbage && next(&mut bytes, 10)? {
            let head = &bytes[trailer..];
            begins = head[..3] == [0x1f, 0x8b, 8] && head[3] & 0xe0 == 0;
            let flags = head[3];
            if begins && flags & 4 != 0 {
                begins = next(&mut bytes, 2)?;
                let size = bytes[bytes.len() - 2..].iter().rev();
                let size = size.fold(0, |n, b| n << 8 | usize::from(*b));
                begins &= next(&mut bytes, size)?;
            }
            for flag in [8, 16] {
                while begins && flags & flag != 0 {
                    begins = next(&mut bytes, 1)? && bytes.len() < MAX_GAP;
                    if bytes.last() == Some(&0) {
                        break;
                    }
                }
            }
            if begins && flags & 2 != 0 {
                begins = next(&mut bytes, 2)?;
            }
        }
        if first && !begins {
            return Err(Stop::Unsupported);
        }
        if !begins {
            while bytes.len() < MAX_GAP && next(&mut bytes, 1)? {}
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        segment.blocks.push(Block::new(Kind::Gap { pad, bytes }, begins));
        self.next = if begins { Next::Block } else { Next::Garbage };
        (self.member, self.run) = (0, 0);
        Ok(Some(!begins))
    }

    /// Parses a block, up to `limit`. Returns whether it marks a flush.
    fn block(&mut self, segment: &mut Segment, limit: usize) -> Result<bool, Stop> {
        let (from, token) = (self.plain.len(), segment.tokens.len());
        let continued = self.open.take();
        let (open, kind) = if let Some(open) = continued {
            (open, Kind::Continued)
        } else {
            let head = self.bits.take(3)?;
            let last = head & 1 == 1;
            let (lengths, kind) = match head >> 1 {
                0 => {
                    let pad = self.stored()?;
                    let size = self.plain.len() - from;
                    let mut block = Block::new(Kind::Stored { pad }, last);
                    block.plain = size;
                    segment.blocks.push(block);
                    if last {
                        self.next = Next::Trailer;
                    }
                    return Ok(self.count_last_block(segment));
                }
                1 => (Lengths::fixed(), Kind::Fixed),
                2 => {
                    let header = self.bits.header()?;
                    (header.lengths.clone(), Kind::Dynamic(Box::new(header)))
                }
                _ => return Err(Stop::Unsupported),
            };
            let codes = Codes::new(&lengths)?;
            (OpenBlock { lengths, codes, last }, kind)
        };
        let ended = self.tokens(segment, &open, limit)?;
        if self.bits.overrun() {
            return Err(Stop::Unsupported);
        }
        let mut block = Block::new(kind, open.last);
        block.tokens = token..segment.tokens.len();
        block.plain = self.plain.len() - from;
        block.ended = ended;
        segment.blocks.push(block);
        if ended && open.last {
            self.next = Next::Trailer;
        }
        if !ended {
            self.open = Some(open);
        }
        Ok(self.count_last_block(segment))
    }

    /// Counts the bytes of the segment's last block. Returns whether it marks a flush.
    fn count_last_block(&mut self, segment: &Segment) -> bool {
        let Some(block) = segment.blocks.last() else { return false };
        self.member += block.plain as u64;
        self.run += block.plain as u64;
        if block.is_flush() {
            self.run = 0;
        }
        block.is_flush()
    }

    /// Decodes tokens. Returns whether the block ended before the limit.
    fn tokens(
        &mut self,
        segment: &mut Segment,
        open: &OpenBlock,
        limit: usize,
    ) -> Result<bool, Stop> {
        let reach = self.plain.len() - (self.member as usize).min(self.plain.len());
        while self.plain.len() < limit {
            self.bits.fill()?;
            let symbol = open.codes.literals.symbol(&mut self.bits)?;
            if symbol < 256 {
                self.plain.push(symbol as u8);
                segment.tokens.push(Token::literal(symbol as u8));
                continue;
            }
            if symbol == 256 {
                return Ok(true);
            }
            let (base, extra) = length_base(symbol).ok_or(Stop::Unsupported)?;
            let len = base + self.bits.peek(extra) as usize;
            self.bits.skip(extra);
            // All encoders write 258 without extra bits.
            if symbol == 284 && len == 258 {
                return Err(Stop::Unsupported);
            }
            let symbol = open.codes.distances.symbol(&mut self.bits)?;
            let (base, extra) = distance_base(symbol).ok_or(Stop::Unsupported)?;
            let distance = base + self.bits.peek(extra) as usize;
            self.bits.skip(extra);
            let at = self.plain.len();
            if distance > (at - reach).min(WINDOW) {
                return Err(Stop::Unsupported);
            }
            segment.tokens.push(Token::pair(len, distance));
            let from = at - distance;
            if distance >= len {
                self.plain.extend_from_within(from..from + len);
            } else {
                for i in from..from + len {
                    self.plain.push(self.plain[i]);
                }
            }
        }
        Ok(false)
    }

    /// Parses a stored block after its first three bits. Returns its padding bits.
    fn stored(&mut self) -> Result<u8, Stop> {
        let (pad, size) = self.bits.stored()?;
        for _ in 0..size {
            let byte = self.bits.byte()?.ok_or(Stop::Unsupported)?;
            self.plain.push(byte);
        }
        Ok(pad)
    }
}
