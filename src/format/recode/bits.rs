//! Reads deflate: bits, codes and headers of blocks, and the last block of a stream.

use std::io::Read;

use super::deflate::{
    DISTANCES, END, Header, LITERALS, Lengths, ORDER, RUN_BITS, distance_base, length_base,
};
use crate::base::error::Result;

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
pub(super) struct BitReader<'a> {
    source: &'a mut dyn Read,
    bytes: Vec<u8>,
    /// The next byte that goes to `hold`.
    at: usize,
    hold: u64,
    held: u32,
    ended: bool,
}

impl<'a> BitReader<'a> {
    /// Begins with a stream.
    pub(super) fn new(source: &'a mut dyn Read) -> Self {
        Self { source, bytes: Vec::new(), at: 0, hold: 0, held: 0, ended: false }
    }

    /// Loads at least 48 bits; zeros beyond the end.
    #[inline]
    pub(super) fn fill(&mut self) -> Result<(), Stop> {
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
    pub(super) fn peek(&self, count: u32) -> u32 {
        (self.hold & ((1 << count) - 1)) as u32
    }

    #[inline]
    pub(super) fn skip(&mut self, count: u32) {
        self.hold >>= count;
        self.held -= count;
    }

    pub(super) fn take(&mut self, count: u32) -> Result<u32, Stop> {
        self.fill()?;
        let bits = self.peek(count);
        self.skip(count);
        Ok(bits)
    }

    /// Returns the number of bits read since bytes were last taken.
    pub(super) fn position(&self) -> usize {
        self.at * 8 - self.held as usize
    }

    pub(super) fn overrun(&self) -> bool {
        self.position() > self.bytes.len() * 8
    }

    /// Reads a byte at a byte boundary; `None` at the end.
    pub(super) fn byte(&mut self) -> Result<Option<u8>, Stop> {
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

    /// Returns the bits up to a byte boundary.
    pub(super) fn align(&mut self) -> Result<u8, Stop> {
        let room = self.position().wrapping_neg() as u32 % 8;
        Ok(self.take(room)? as u8)
    }

    /// Reads the header of a stored block after its first three bits. Returns its padding bits, and its size.
    pub(super) fn stored(&mut self) -> Result<(u8, u32), Stop> {
        let pad = self.align()?;
        let size = self.take(16)?;
        if self.take(16)? != !size & 0xffff {
            return Err(Stop::Unsupported);
        }
        Ok((pad, size))
    }

    /// Takes the bytes read so far. A byte that was read in part is included, and stays.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        let position = self.position();
        let taken = self.bytes[..position.div_ceil(8)].to_vec();
        self.bytes.drain(..position / 8);
        self.at -= position / 8;
        taken
    }

    /// Skips the tokens of a block and its end.
    fn skip_tokens(&mut self, codes: &Codes) -> Result<(), Stop> {
        while !self.overrun() {
            if self.held < 48 {
                self.fill()?;
            }
            let symbol = codes.literals.skip(self)?;
            if symbol == END {
                break;
            }
            if symbol > END {
                codes.distances.skip(self)?;
            }
        }
        Ok(())
    }

    /// Parses the header of a dynamic block after its first three bits.
    pub(super) fn header(&mut self) -> Result<Header, Stop> {
        let literals = self.take(5)? as usize + 257;
        let distances = self.take(5)? as usize + 1;
        let run_count = self.take(4)? as u8 + 4;
        let mut run_lengths = [0; 19];
        for symbol in &ORDER[..usize::from(run_count)] {
            run_lengths[*symbol] = self.take(3)? as u8;
        }
        let decoder = SymbolDecoder::new(&run_lengths, |_| Some(0))?;
        let mut all: Vec<u8> = Vec::with_capacity(LITERALS + DISTANCES);
        let mut runs = Vec::new();
        while all.len() < literals + distances {
            self.fill()?;
            let symbol = decoder.symbol(self)?;
            let Some(run) = symbol.checked_sub(16) else {
                all.push(symbol as u8);
                runs.push((symbol as u8, 0));
                continue;
            };
            let extra = self.take(RUN_BITS[run])?;
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

/// Codes of up to this many bits are found by one look-up.
const QUICK: u32 = 11;

/// Decodes symbols of a Huffman code.
pub(super) struct SymbolDecoder {
    /// By the next [`QUICK`] bits.
    quick: Vec<Quick>,
    /// Symbols in the order of their codes, and the number of codes of each length.
    symbols: Vec<u16>,
    counts: [u16; 16],
    extra: fn(usize) -> Option<u32>,
}

/// A symbol with a short code. Its length is zero if there is none.
#[derive(Clone, Copy, Default)]
struct Quick {
    symbol: u16,
    len: u8,
    /// The length with extra bits.
    all: u8,
}

impl SymbolDecoder {
    /// Prepares for a code with these lengths. `extra` returns the extra bits of a symbol, `None` if it is not
    /// valid.
    fn new(lengths: &[u8], extra: fn(usize) -> Option<u32>) -> Result<Self, Stop> {
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
        let mut quick = vec![Quick::default(); 1 << QUICK];
        for (symbol, (code, len)) in super::deflate::codes(lengths).into_iter().enumerate() {
            if let Some(extra) = extra(symbol)
                && len > 0
                && u32::from(len) <= QUICK
            {
                let entry = Quick { symbol: symbol as u16, len, all: len + extra as u8 };
                quick[usize::from(code)..].iter_mut().step_by(1 << len).for_each(|e| *e = entry);
            }
        }
        Ok(Self { quick, symbols, counts, extra })
    }

    #[inline]
    pub(super) fn symbol(&self, bits: &mut BitReader<'_>) -> Result<usize, Stop> {
        let quick = self.quick[bits.peek(QUICK) as usize];
        if quick.len > 0 {
            bits.skip(u32::from(quick.len));
            return Ok(usize::from(quick.symbol));
        }
        self.long(bits)
    }

    /// Decodes a symbol and skips its extra bits.
    #[inline]
    pub(super) fn skip(&self, bits: &mut BitReader<'_>) -> Result<usize, Stop> {
        let quick = self.quick[bits.peek(QUICK) as usize];
        if quick.len > 0 {
            bits.skip(u32::from(quick.all));
            return Ok(usize::from(quick.symbol));
        }
        let symbol = self.long(bits)?;
        bits.skip((self.extra)(symbol).ok_or(Stop::Unsupported)?);
        Ok(symbol)
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

/// The codes of a block.
pub(super) struct Codes {
    pub(super) literals: SymbolDecoder,
    pub(super) distances: SymbolDecoder,
}

impl Codes {
    pub(super) fn new(lengths: &Lengths) -> Result<Self, Stop> {
        let literal = |symbol: usize| match symbol {
            ..=END => Some(0),
            _ => length_base(symbol).map(|(_, extra)| extra),
        };
        let distance = |symbol| distance_base(symbol).map(|(_, extra)| extra);
        let literals = SymbolDecoder::new(&lengths.literals, literal)?;
        Ok(Self { literals, distances: SymbolDecoder::new(&lengths.distances, distance)? })
    }
}

/// Returns the offsets in bits of the last block and of its end, of a deflate stream that is all of `stream`.
pub(super) fn last_block(mut stream: &[u8]) -> Result<(usize, usize), Stop> {
    let mut bits = BitReader::new(&mut stream);
    loop {
        let start = bits.position();
        let head = bits.take(3)?;
        match head >> 1 {
            0 => {
                for _ in 0..bits.stored()?.1 {
                    bits.take(8)?;
                }
            }
            1 => bits.skip_tokens(&Codes::new(&Lengths::fixed())?)?,
            2 => {
                let codes = Codes::new(&bits.header()?.lengths)?;
                bits.skip_tokens(&codes)?;
            }
            _ => return Err(Stop::Unsupported),
        }
        if bits.overrun() {
            return Err(Stop::Unsupported);
        }
        if head & 1 == 1 {
            return Ok((start, bits.position()));
        }
    }
}
