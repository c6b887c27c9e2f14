//! Parses a gzip stream into segments of blocks and tokens.

use std::io::Read;

use super::deflate::{
    DISTANCES, Header, LITERALS, Lengths, ORDER, RUN_BITS, Token, WINDOW, distance_base,
    length_base,
};
use super::segment::{Block, Kind, MAX_BLOCKS, MAX_GAP, MAX_PLAIN, Segment, TARGET};
use crate::base::error::Result;

/// Compressed bytes after which a segment ends in any case.
const MAX_PACKED: usize = 4 << 20;

/// Why parsing stopped.
pub(super) enum Stop {
    /// The stream is not gzip, is damaged, or has a form that no encoder writes.
    Unsupported,
    /// Reading failed.
    Failed(std::io::Error),
}

impl From<std::io::Error> for Stop {
    fn from(e: std::io::Error) -> Self {
        Self::Failed(e)
    }
}

/// Reads bits of a stream, and keeps its bytes until they are taken.
struct BitReader<'a> {
    source: &'a mut dyn Read,
    bytes: Vec<u8>,
    /// The next byte that goes to `hold`.
    at: usize,
    hold: u64,
    held: u32,
    ended: bool,
}

impl BitReader<'_> {
    /// Loads at least 48 bits; zeros beyond the end.
    #[inline]
    fn fill(&mut self) -> Result<(), Stop> {
        if let Some(next) = self.bytes.get(self.at..).and_then(|b| b.first_chunk()) {
            self.hold |= u64::from_le_bytes(*next) << self.held;
            self.at += (63 - self.held) as usize / 8;
            self.held |= 0b11_1000;
            return Ok(());
        }
        self.fill_slowly()
    }

    #[cold]
    fn fill_slowly(&mut self) -> Result<(), Stop> {
        // `fill` leaves more bits above `held`; they are loaded again.
        self.hold &= (1 << self.held) - 1;
        while self.held < 48 {
            if self.at >= self.bytes.len() && !self.ended {
                let had = self.bytes.len();
                (&mut *self.source).take(1 << 17).read_to_end(&mut self.bytes)?;
                self.ended = self.bytes.len() == had;
            }
            let next = self.bytes.get(self.at).copied().unwrap_or(0);
            self.hold |= u64::from(next) << self.held;
            self.held += 8;
            self.at += 1;
        }
        Ok(())
    }

    /// Returns up to 16 bits that `fill` loaded.
    #[inline]
    fn peek(&self, count: u32) -> u32 {
        (self.hold & ((1 << count) - 1)) as u32
    }

    #[inline]
    fn skip(&mut self, count: u32) {
        self.hold >>= count;
        self.held -= count;
    }

    fn take(&mut self, count: u32) -> Result<u32, Stop> {
        self.fill()?;
        let bits = self.peek(count);
        self.skip(count);
        Ok(bits)
    }

    /// Returns the number of bits read since bytes were last taken.
    fn position(&self) -> usize {
        self.at * 8 - self.held as usize
    }

    fn overrun(&self) -> bool {
        self.position() > self.bytes.len() * 8
    }

    /// Reads a byte at a byte boundary; `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>, Stop> {
        self.fill()?;
        let byte = self.peek(8) as u8;
        self.skip(8);
        if !self.overrun() {
            return Ok(Some(byte));
        }
        self.hold = self.hold << 8 | u64::from(byte);
        self.held += 8;
        Ok(None)
    }

    /// Takes the bytes read so far. A byte that was read in part is included, and stays.
    fn take_bytes(&mut self) -> Vec<u8> {
        let position = self.position();
        let taken = self.bytes[..position.div_ceil(8)].to_vec();
        self.bytes.drain(..position / 8);
        self.at -= position / 8;
        taken
    }
}

/// Codes of up to this many bits are found by one look-up.
const QUICK: u32 = 11;

/// Decodes symbols of a Huffman code.
struct SymbolDecoder {
    /// Symbol and length, by the next [`QUICK`] bits.
    quick: Vec<(u16, u8)>,
    /// Symbols in the order of their codes, and the number of codes of each length.
    symbols: Vec<u16>,
    counts: [u16; 16],
}

impl SymbolDecoder {
    fn new(lengths: &[u8]) -> Result<Self, Stop> {
        let mut counts = [0u16; 16];
        for len in lengths.iter().filter(|l| **l > 0) {
            counts[usize::from(*len)] += 1;
        }
        let used: u32 = (1..16).map(|len| u32::from(counts[len]) << (15 - len)).sum();
        if used > 1 << 15 {
            return Err(Stop::Unsupported);
        }
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).collect();
        symbols.retain(|s| lengths[usize::from(*s)] > 0);
        symbols.sort_by_key(|s| lengths[usize::from(*s)]);
        let mut quick = vec![(0, 0); 1 << QUICK];
        for (symbol, (code, len)) in super::deflate::codes(lengths).into_iter().enumerate() {
            if len > 0 && u32::from(len) <= QUICK {
                for entry in quick[usize::from(code)..].iter_mut().step_by(1 << len) {
                    *entry = (symbol as u16, len);
                }
            }
        }
        Ok(Self { quick, symbols, counts })
    }

    #[inline]
    fn symbol(&self, bits: &mut BitReader<'_>) -> Result<usize, Stop> {
        let (symbol, len) = self.quick[bits.peek(QUICK) as usize];
        if len > 0 {
            bits.skip(u32::from(len));
            return Ok(usize::from(symbol));
        }
        self.long(bits)
    }

    fn long(&self, bits: &mut BitReader<'_>) -> Result<usize, Stop> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for len in 1..16 {
            code |= bits.peek(len) >> (len - 1);
            let count = u32::from(self.counts[len as usize]);
            if code < first + count {
                bits.skip(len);
                return Ok(usize::from(self.symbols[(index + code - first) as usize]));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Stop::Unsupported)
    }
}

/// A block that the end of a segment cut.
struct OpenBlock {
    lengths: Lengths,
    literals: SymbolDecoder,
    distances: SymbolDecoder,
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
        let bits = BitReader { source, bytes: Vec::new(), at: 0, hold: 0, held: 0, ended: false };
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
        let room = self.bits.position().wrapping_neg() as u32 % 8;
        let pad = self.bits.take(room)? as u8;
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
                    let header = self.header()?;
                    (header.lengths.clone(), Kind::Dynamic(Box::new(header)))
                }
                _ => return Err(Stop::Unsupported),
            };
            let literals = SymbolDecoder::new(&lengths.literals)?;
            let distances = SymbolDecoder::new(&lengths.distances)?;
            (OpenBlock { lengths, literals, distances, last }, kind)
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
            let symbol = open.literals.symbol(&mut self.bits)?;
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
            let symbol = open.distances.symbol(&mut self.bits)?;
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
        let room = self.bits.position().wrapping_neg() as u32 % 8;
        let pad = self.bits.take(room)? as u8;
        let size = self.bits.take(16)?;
        if self.bits.take(16)? != !size & 0xffff {
            return Err(Stop::Unsupported);
        }
        for _ in 0..size {
            let byte = self.bits.byte()?.ok_or(Stop::Unsupported)?;
            self.plain.push(byte);
        }
        Ok(pad)
    }

    /// Parses the header of a dynamic block after its first three bits.
    fn header(&mut self) -> Result<Header, Stop> {
        let literals = self.bits.take(5)? as usize + 257;
        let distances = self.bits.take(5)? as usize + 1;
        let run_count = self.bits.take(4)? as u8 + 4;
        let mut run_lengths = [0; 19];
        for symbol in &ORDER[..usize::from(run_count)] {
            run_lengths[*symbol] = self.bits.take(3)? as u8;
        }
        let decoder = SymbolDecoder::new(&run_lengths)?;
        let mut all: Vec<u8> = Vec::with_capacity(LITERALS + DISTANCES);
        let mut runs = Vec::new();
        while all.len() < literals + distances {
            self.bits.fill()?;
            let symbol = decoder.symbol(&mut self.bits)?;
            let Some(run) = symbol.checked_sub(16) else {
                all.push(symbol as u8);
                runs.push((symbol as u8, 0));
                continue;
            };
            let extra = self.bits.take(RUN_BITS[run])?;
            let len = if run == 0 { *all.last().ok_or(Stop::Unsupported)? } else { 0 };
            all.resize(all.len() + [3, 3, 11][run] + extra as usize, len);
            runs.push((symbol as u8, extra as u8));
        }
        if all.len() > literals + distances {
            return Err(Stop::Unsupported);
        }
        let distances = all.split_off(literals);
        Ok(Header { lengths: Lengths { literals: all, distances }, runs, run_lengths, run_count })
    }
}
