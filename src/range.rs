//! An adaptive binary range coder.
//!
//! What is written and what is read go through the same code: [`Coder::bit`] is given the bit by who
//! writes it, and gives it to who reads it. A model is then one function for both ways. The carry is
//! handled as LZMA does.

/// What is known of a bit before it is seen.
pub(crate) trait Likely {
    /// How likely it is to be 0, in 2^-16; neither 0 nor 1.
    fn zero(&self) -> u32;
    /// It was this.
    fn saw(&mut self, bit: bool);
}

/// A bit of which nothing is known, nor learned.
struct Even;

impl Likely for Even {
    fn zero(&self) -> u32 {
        1 << 15
    }

    fn saw(&mut self, _: bool) {}
}

/// Below this the range is widened by a byte.
const LEAST: u32 = 1 << 24;

/// Writes or reads bits.
pub(crate) trait Coder {
    /// Whether bits are written; if not, those that are passed in mean nothing.
    const WRITES: bool;

    /// Codes a bit.
    fn bit(&mut self, likely: &mut impl Likely, bit: bool) -> bool;

    /// Codes `bits` bits that are as likely 0 as 1, highest first.
    fn plain(&mut self, value: u64, bits: u32) -> u64 {
        let bit = |i: u32| value >> i & 1 == 1;
        (0..bits).rev().fold(0, |n, i| n << 1 | u64::from(self.bit(&mut Even, bit(i))))
    }
}

/// Writes bits.
pub(crate) struct Encoder {
    low: u64,
    range: u32,
    /// The last byte, that a carry may still change, and how many 255 come after it.
    last: u8,
    full: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { low: 0, range: u32::MAX, last: 0, full: 0, out: Vec::new() }
    }

    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.last.wrapping_add(carry));
            for _ in 0..self.full {
                self.out.push(255u8.wrapping_add(carry));
            }
            self.full = 0;
            self.last = (self.low >> 24) as u8;
        } else {
            self.full += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// Everything written. The first byte is always zero and left out, as are zeros at the end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.out.remove(0);
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl Coder for Encoder {
    const WRITES: bool = true;

    #[inline]
    fn bit(&mut self, likely: &mut impl Likely, bit: bool) -> bool {
        let bound = (self.range >> 16) * likely.zero();
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        likely.saw(bit);
        while self.range < LEAST {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

/// Reads what an [`Encoder`] wrote. Any bytes can be read, and there is no end to them: who reads
/// knows how much to expect.
pub(crate) struct Decoder<B> {
    code: u32,
    range: u32,
    bytes: B,
    at: usize,
}

impl<B: AsRef<[u8]>> Decoder<B> {
    pub(crate) fn new(bytes: B) -> Self {
        let mut decoder = Self { code: 0, range: u32::MAX, bytes, at: 0 };
        for _ in 0..4 {
            decoder.shift();
        }
        decoder
    }

    fn shift(&mut self) {
        let byte = self.bytes.as_ref().get(self.at).copied().unwrap_or(0);
        self.at += 1;
        self.code = self.code << 8 | u32::from(byte);
    }
}

impl<B: AsRef<[u8]>> Coder for Decoder<B> {
    const WRITES: bool = false;

    #[inline]
    fn bit(&mut self, likely: &mut impl Likely, _: bool) -> bool {
        let bound = (self.range >> 16) * likely.zero();
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        likely.saw(bit);
        while self.range < LEAST {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}
