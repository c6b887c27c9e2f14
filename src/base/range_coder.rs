//! An adaptive range coder for bits and for symbols of an alphabet of 16.
//!
//! Encoding and decoding go through the same code: [`Coder::bit`] takes the bit when it writes, and
//! returns it when it reads. A model is then one function for both directions. Four bytes are written
//! at once, so that decoders seldom stop to read.

/// An adaptive model of a bit.
pub(crate) trait BitModel {
    /// Returns the probability that the next bit is 0, in units of 2^-16; neither 0 nor 1.
    fn probability_of_zero(&self) -> u32;
    /// Adapts to the bit that came.
    fn update(&mut self, bit: bool);
}

/// The range is widened by four bytes when it falls below this.
const MIN_RANGE: u64 = 1 << 32;

/// Returns the start and width of one of 16 symbols.
#[inline]
fn interval(start: impl Fn(usize) -> u16, which: usize) -> (u64, u64) {
    let end = if which == 15 { 1 << 16 } else { start(which + 1).into() };
    let start = u64::from(start(which));
    (start, end - start)
}

/// Maximum number of equiprobable bits coded at once.
const MAX_RAW_BITS: u32 = 16;

/// An encoder or decoder of bits.
pub(crate) trait Coder {
    /// Whether this is the encoder. A decoder ignores the values that are passed in.
    const WRITES: bool;

    /// Codes a bit.
    fn bit(&mut self, model: &mut impl BitModel, bit: bool) -> bool;

    /// Codes one of 16 symbols. The probability of each, in units of 2^-16, is the distance from its
    /// `start` to that of the next, which is greater; the first start is 0.
    fn symbol(&mut self, start: impl Fn(usize) -> u16, which: usize) -> usize;

    /// Codes up to [`MAX_RAW_BITS`] equiprobable bits.
    fn few_raw_bits(&mut self, value: u64, bits: u32) -> u64;

    /// Codes `bits` equiprobable bits, highest first.
    fn raw_bits(&mut self, value: u64, mut bits: u32) -> u64 {
        let mut read = 0;
        while bits > 0 {
            let now = bits.min(MAX_RAW_BITS);
            bits -= now;
            read = read << now | self.few_raw_bits(value >> bits & ((1 << now) - 1), now);
        }
        read
    }
}

/// An encoder into memory.
pub(crate) struct RangeEncoder {
    low: u64,
    range: u64,
    out: Vec<u8>,
}

impl RangeEncoder {
    pub(crate) fn new() -> Self {
        Self { low: 0, range: u64::MAX, out: Vec::new() }
    }

    #[inline]
    fn add(&mut self, n: u64) {
        let (low, carry) = self.low.overflowing_add(n);
        self.low = low;
        if carry {
            for byte in self.out.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
        }
    }

    #[inline]
    fn widen(&mut self) {
        if self.range < MIN_RANGE {
            self.range <<= 32;
            self.out.extend(((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
        }
    }

    /// Returns everything written, without trailing zeros.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        // Of the numbers within the range, one with many trailing zeros.
        let most = (1 << self.range.ilog2()) - 1;
        self.add(most);
        self.out.extend((self.low & !most).to_be_bytes());
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl Coder for RangeEncoder {
    const WRITES: bool = true;

    #[inline]
    fn bit(&mut self, model: &mut impl BitModel, bit: bool) -> bool {
        let bound = (self.range >> 16) * u64::from(model.probability_of_zero());
        if bit {
            self.add(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.update(bit);
        self.widen();
        bit
    }

    fn symbol(&mut self, start: impl Fn(usize) -> u16, which: usize) -> usize {
        let (from, width) = interval(start, which);
        let unit = self.range >> 16;
        self.add(unit * from);
        self.range = unit * width;
        self.widen();
        which
    }

    fn few_raw_bits(&mut self, value: u64, bits: u32) -> u64 {
        self.range >>= bits;
        self.add(value * self.range);
        self.widen();
        value
    }
}

/// Decoder of what a [`RangeEncoder`] wrote. Any bytes can be decoded, and without end: the caller knows
/// how much to expect.
pub(crate) struct RangeDecoder<B> {
    code: u64,
    range: u64,
    bytes: B,
    at: usize,
}

impl<B: AsRef<[u8]>> RangeDecoder<B> {
    pub(crate) fn new(bytes: B) -> Self {
        let mut decoder = Self { code: 0, range: u64::MAX, bytes, at: 0 };
        decoder.shift();
        decoder.shift();
        decoder
    }

    fn shift(&mut self) {
        for _ in 0..4 {
            let byte = self.bytes.as_ref().get(self.at).copied().unwrap_or(0);
            self.at += 1;
            self.code = self.code << 8 | u64::from(byte);
        }
    }

    #[inline]
    fn widen(&mut self) {
        if self.range < MIN_RANGE {
            self.range <<= 32;
            self.shift();
        }
    }
}

impl<B: AsRef<[u8]>> Coder for RangeDecoder<B> {
    const WRITES: bool = false;

    #[inline]
    fn bit(&mut self, model: &mut impl BitModel, _: bool) -> bool {
        let bound = (self.range >> 16) * u64::from(model.probability_of_zero());
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.update(bit);
        self.widen();
        bit
    }

    #[inline]
    fn symbol(&mut self, start: impl Fn(usize) -> u16, _: usize) -> usize {
        let unit = self.range >> 16;
        // Damaged bytes can give more than fits.
        let at = (self.code / unit).min(0xffff) as u16;
        // Without branches, as the processor would mispredict half of them.
        let not_after = |which: usize| usize::from(start(which) <= at);
        let four = 4 * (not_after(4) + not_after(8) + not_after(12));
        let which = four + not_after(four + 1) + not_after(four + 2) + not_after(four + 3);
        let (from, width) = interval(start, which);
        self.code -= unit * from;
        self.range = unit * width;
        self.widen();
        which
    }

    fn few_raw_bits(&mut self, _: u64, bits: u32) -> u64 {
        self.range >>= bits;
        // Damaged bytes can give more than fits.
        let value = (self.code / self.range).min((1 << bits) - 1);
        self.code -= value * self.range;
        self.widen();
        value
    }
}
