//! An adaptive range coder, of bits and of choices of one of 16.
//!
//! What is written and what is read go through the same code: [`Coder::bit`] is given the bit by who
//! writes it, and gives it to who reads it. A model is then one function for both ways. Four bytes are
//! written at once, so that readers seldom stop for the next ones.

/// What is known of a bit before it is seen.
pub(crate) trait Likely {
    /// How likely it is to be 0, in 2^-16; neither 0 nor 1.
    fn zero(&self) -> u32;
    /// It was this.
    fn saw(&mut self, bit: bool);
}

/// Below this the range is widened by four bytes.
const LEAST: u64 = 1 << 32;

/// Where one of 16 begins, and how far it goes.
#[inline]
fn share(start: impl Fn(usize) -> u16, which: usize) -> (u64, u64) {
    let end = if which == 15 { 1 << 16 } else { start(which + 1).into() };
    let start = u64::from(start(which));
    (start, end - start)
}

/// Bits that are told at once, as likely 0 as 1.
const PLAIN: u32 = 16;

/// Writes or reads bits.
pub(crate) trait Coder {
    /// Whether bits are written; if not, those that are passed in mean nothing.
    const WRITES: bool;

    /// Codes a bit.
    fn bit(&mut self, likely: &mut impl Likely, bit: bool) -> bool;

    /// Codes one of 16. So likely is each, in 2^-16: what lies between its `start` and that of the
    /// next, which is greater; that of the first is 0.
    fn one_of(&mut self, start: impl Fn(usize) -> u16, which: usize) -> usize;

    /// Codes up to [`PLAIN`] bits.
    fn few(&mut self, value: u64, bits: u32) -> u64;

    /// Codes `bits` bits that are as likely 0 as 1, highest first.
    fn plain(&mut self, value: u64, mut bits: u32) -> u64 {
        let mut read = 0;
        while bits > 0 {
            let now = bits.min(PLAIN);
            bits -= now;
            read = read << now | self.few(value >> bits & ((1 << now) - 1), now);
        }
        read
    }
}

/// Writes bits.
pub(crate) struct Encoder {
    low: u64,
    range: u64,
    out: Vec<u8>,
}

impl Encoder {
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
        if self.range < LEAST {
            self.range <<= 32;
            self.out.extend(((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
        }
    }

    /// Everything written, but zeros at the end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        // Of the numbers that say the same, one with many zeros.
        let most = (1 << self.range.ilog2()) - 1;
        self.add(most);
        self.out.extend((self.low & !most).to_be_bytes());
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
        let bound = (self.range >> 16) * u64::from(likely.zero());
        if bit {
            self.add(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        likely.saw(bit);
        self.widen();
        bit
    }

    fn one_of(&mut self, start: impl Fn(usize) -> u16, which: usize) -> usize {
        let (from, width) = share(start, which);
        let unit = self.range >> 16;
        self.add(unit * from);
        self.range = unit * width;
        self.widen();
        which
    }

    fn few(&mut self, value: u64, bits: u32) -> u64 {
        self.range >>= bits;
        self.add(value * self.range);
        self.widen();
        value
    }
}

/// Reads what an [`Encoder`] wrote. Any bytes can be read, and there is no end to them: who reads
/// knows how much to expect.
pub(crate) struct Decoder<B> {
    code: u64,
    range: u64,
    bytes: B,
    at: usize,
}

impl<B: AsRef<[u8]>> Decoder<B> {
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
        if self.range < LEAST {
            self.range <<= 32;
            self.shift();
        }
    }
}

impl<B: AsRef<[u8]>> Coder for Decoder<B> {
    const WRITES: bool = false;

    #[inline]
    fn bit(&mut self, likely: &mut impl Likely, _: bool) -> bool {
        let bound = (self.range >> 16) * u64::from(likely.zero());
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        likely.saw(bit);
        self.widen();
        bit
    }

    #[inline]
    fn one_of(&mut self, start: impl Fn(usize) -> u16, _: usize) -> usize {
        let unit = self.range >> 16;
        // Damaged bytes can say more than fits.
        let at = (self.code / unit).min(0xffff) as u16;
        // The processor would guess a branch wrong as often as not.
        let not_after = |which: usize| usize::from(start(which) <= at);
        let four = 4 * (not_after(4) + not_after(8) + not_after(12));
        let which = four + not_after(four + 1) + not_after(four + 2) + not_after(four + 3);
        let (from, width) = share(start, which);
        self.code -= unit * from;
        self.range = unit * width;
        self.widen();
        which
    }

    fn few(&mut self, _: u64, bits: u32) -> u64 {
        self.range >>= bits;
        // Damaged bytes can say more than fits.
        let value = (self.code / self.range).min((1 << bits) - 1);
        self.code -= value * self.range;
        self.widen();
        value
    }
}
