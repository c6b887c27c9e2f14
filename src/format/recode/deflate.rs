//! The parts of deflate (RFC 1951): tokens, code lengths, block headers, and their writer.

use crate::base::error::{Error, Result};

/// Maximum distance of a match (RFC 1951 §2).
pub(crate) const WINDOW: usize = 1 << 15;
/// Maximum length of a match.
pub(super) const MAX_MATCH: usize = 258;
/// Symbols of literals, the end of a block, and lengths; the last two exist in fixed codes only.
pub(super) const LITERALS: usize = 288;
/// Symbols of distances; the last two are unused.
pub(super) const DISTANCES: usize = 32;
/// The symbol that ends a block.
pub(super) const END: usize = 256;
/// The order in which the lengths of the codes for code lengths are stored.
pub(super) const ORDER: [usize; 19] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// Extra bits of the code length symbols 16, 17 and 18.
pub(super) const RUN_BITS: [u32; 3] = [2, 3, 7];

/// A literal, or a match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token(u32);

impl Token {
    /// Makes a literal.
    pub(super) fn literal(byte: u8) -> Self {
        Self(u32::from(byte))
    }

    /// Makes a match with `len` from 3 to 258 and `distance` from 1 to 32,768.
    pub(super) fn pair(len: usize, distance: usize) -> Self {
        Self((len as u32) << 16 | distance as u32)
    }

    /// Whether it is a match.
    pub(super) fn is_pair(self) -> bool {
        self.0 >= 1 << 16
    }

    /// Returns the number of bytes it stands for.
    pub(super) fn len(self) -> usize {
        (self.0 >> 16).max(1) as usize
    }

    /// Returns the distance of a match, or the byte of a literal.
    pub(super) fn low(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Returns the symbol of a length, the number of its extra bits, and their value.
pub(super) fn length_symbol(len: usize) -> (usize, u32, u32) {
    let n = (len - 3) as u32;
    match n {
        0..8 => (257 + n as usize, 0, 0),
        255 => (285, 0, 0),
        _ => {
            let bits = n.ilog2() - 2;
            (257 + (bits * 4 + (n >> bits)) as usize, bits, n & ((1 << bits) - 1))
        }
    }
}

/// Returns the same for a distance.
pub(super) fn distance_symbol(distance: usize) -> (usize, u32, u32) {
    let n = (distance - 1) as u32;
    if n < 4 {
        return (n as usize, 0, 0);
    }
    let bits = n.ilog2() - 1;
    ((bits * 2 + (n >> bits)) as usize, bits, n & ((1 << bits) - 1))
}

/// Returns the minimum length and the number of extra bits of a symbol from 257 to 285.
pub(super) fn length_base(symbol: usize) -> Option<(usize, u32)> {
    Some(match symbol.checked_sub(257)? {
        n @ 0..8 => (3 + n, 0),
        n @ 8..28 => (3 + ((4 + n % 4) << (n / 4 - 1)), n as u32 / 4 - 1),
        28 => (MAX_MATCH, 0),
        _ => return None,
    })
}

/// Returns the minimum distance and the number of extra bits of a symbol from 0 to 29.
pub(super) fn distance_base(symbol: usize) -> Option<(usize, u32)> {
    match symbol {
        0..4 => Some((1 + symbol, 0)),
        4..30 => Some((1 + ((2 + symbol % 2) << (symbol / 2 - 1)), symbol as u32 / 2 - 1)),
        _ => None,
    }
}

/// Counts of symbols.
#[derive(Clone)]
pub(super) struct Histogram {
    pub(super) literals: [u32; LITERALS],
    pub(super) distances: [u32; DISTANCES],
}

impl Histogram {
    /// Counts the symbols of `tokens` and the end of the block.
    pub(super) fn new(tokens: &[Token]) -> Self {
        let mut new = Self { literals: [0; LITERALS], distances: [0; DISTANCES] };
        for token in tokens {
            if token.is_pair() {
                new.literals[length_symbol(token.len()).0] += 1;
                new.distances[distance_symbol(token.low()).0] += 1;
            } else {
                new.literals[token.low()] += 1;
            }
        }
        new.literals[END] = 1;
        new
    }
}

/// Number of bits of each symbol's code, 0 for unused symbols.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Lengths {
    pub(super) literals: Vec<u8>,
    pub(super) distances: Vec<u8>,
}

impl Lengths {
    /// Returns those of fixed blocks.
    pub(super) fn fixed() -> Self {
        let literals = [(144, 8), (112, 9), (24, 7), (8, 8)];
        let literals = literals.iter().flat_map(|(n, len)| std::iter::repeat_n(*len, *n));
        Self { literals: literals.collect(), distances: vec![5; DISTANCES] }
    }
}

/// The header of a dynamic block.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) lengths: Lengths,
    /// How the lengths are written: symbols 0 to 18, each with the value of its extra bits.
    pub(super) runs: Vec<(u8, u8)>,
    /// Code lengths of these symbols.
    pub(super) run_lengths: [u8; 19],
    /// How many of these code lengths are written.
    pub(super) run_count: u8,
}

/// Returns canonical codes with their bits reversed, as deflate writes them, and their lengths.
pub(super) fn codes(lengths: &[u8]) -> Vec<(u16, u8)> {
    let mut next = [0u32; 17];
    for len in lengths {
        next[usize::from(*len) + 1] += u32::from(*len > 0);
    }
    for len in 1..16 {
        next[len + 1] = (next[len + 1] + next[len]) << 1;
    }
    // next[n] is now the first code of n bits.
    lengths
        .iter()
        .map(|len| {
            if *len == 0 {
                return (0, 0);
            }
            let code = next[usize::from(*len)];
            next[usize::from(*len)] += 1;
            (((code as u16).reverse_bits()) >> (16 - u32::from(*len)), *len)
        })
        .collect()
}

/// Writes bits, lowest first.
pub(super) struct BitWriter {
    out: Vec<u8>,
    hold: u64,
    held: u32,
}

impl BitWriter {
    /// Begins with `phase` zero bits.
    pub(super) fn new(phase: u32) -> Self {
        Self { out: Vec::new(), hold: 0, held: phase }
    }

    /// Writes up to 32 bits.
    pub(super) fn bits(&mut self, count: u32, value: u32) {
        self.hold |= u64::from(value) << self.held;
        self.held += count;
        if self.held >= 32 {
            self.out.extend_from_slice(&(self.hold as u32).to_le_bytes());
            self.hold >>= 32;
            self.held -= 32;
        }
    }

    /// Returns the number of bits to the end of the byte.
    pub(super) fn room(&self) -> u32 {
        self.held.wrapping_neg() % 8
    }

    /// Writes whole bytes at a byte boundary.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        while self.held >= 8 {
            self.out.push(self.hold as u8);
            self.hold >>= 8;
            self.held -= 8;
        }
        self.out.extend_from_slice(bytes);
    }

    /// Returns the number of bytes written, up to 7 less than that.
    pub(super) fn size(&self) -> usize {
        self.out.len()
    }

    /// Returns the bytes, and the number of bits of the last byte that are used (0 is all).
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        self.bytes(&[]);
        if self.held > 0 {
            self.out.push(self.hold as u8);
        }
        (self.out, self.held)
    }

    /// Writes the header of a dynamic block after its first three bits.
    pub(super) fn header(&mut self, header: &Header) -> Result<()> {
        let (literals, distances) = (&header.lengths.literals, &header.lengths.distances);
        self.bits(5, literals.len() as u32 - 257);
        self.bits(5, distances.len() as u32 - 1);
        self.bits(4, u32::from(header.run_count) - 4);
        for symbol in &ORDER[..usize::from(header.run_count)] {
            self.bits(3, u32::from(header.run_lengths[*symbol]));
        }
        let codes = codes(&header.run_lengths);
        for (symbol, extra) in &header.runs {
            self.code(codes[usize::from(*symbol)])?;
            if let Some(run) = symbol.checked_sub(16) {
                self.bits(RUN_BITS[usize::from(run)], u32::from(*extra));
            }
        }
        Ok(())
    }

    fn code(&mut self, (code, len): (u16, u8)) -> Result<()> {
        if len == 0 {
            return Err(Error::malformed("the corrections use a symbol that has no code"));
        }
        self.bits(u32::from(len), u32::from(code));
        Ok(())
    }

    /// Writes the tokens of a block, and its end if `end`.
    pub(super) fn tokens(&mut self, lengths: &Lengths, tokens: &[Token], end: bool) -> Result<()> {
        let (mut literals, mut distances) = (codes(&lengths.literals), codes(&lengths.distances));
        literals.resize(LITERALS, (0, 0));
        distances.resize(DISTANCES, (0, 0));
        for token in tokens {
            if token.is_pair() {
                let (symbol, bits, extra) = length_symbol(token.len());
                self.code(literals[symbol])?;
                self.bits(bits, extra);
                let (symbol, bits, extra) = distance_symbol(token.low());
                self.code(distances[symbol])?;
                self.bits(bits, extra);
            } else {
                self.code(literals[token.low()])?;
            }
        }
        if end {
            self.code(literals[END])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_and_bases_agree() {
        for len in 3..=258 {
            let (symbol, bits, extra) = length_symbol(len);
            assert_eq!(length_base(symbol), Some((len - extra as usize, bits)), "{len}");
        }
        for distance in 1..=WINDOW {
            let (symbol, bits, extra) = distance_symbol(distance);
            assert_eq!(distance_base(symbol), Some((distance - extra as usize, bits)));
        }
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        // RFC 1951 §3.2.2, second example; the bits are reversed here.
        let codes = codes(&[3, 3, 3, 3, 3, 2, 4, 4]);
        let text = |(code, len): &(u16, u8)| -> String {
            (0..*len).map(|i| if code >> i & 1 == 1 { '1' } else { '0' }).collect()
        };
        let texts: Vec<_> = codes.iter().map(text).collect();
        assert_eq!(texts, ["010", "011", "100", "101", "110", "00", "1110", "1111"]);
    }
}
