//! An adaptive binary range coder: a bit that its context foretells costs down to a thousandth.
//!
//! The carry handling is that of LZMA; probabilities have 16 bits instead of 11, since nearly all
//! that is coded here is "as predicted". What is coded is written down once, for both directions:
//! a [`Coder`] is given the value and gives it back, and one that decodes ignores what it is given.

/// How likely a bit is false, of 65,536.
#[derive(Clone, Copy)]
pub(super) struct Odds(u16);

impl Default for Odds {
    fn default() -> Self {
        Self(1 << 15)
    }
}

/// Takes a 32nd of the way to certainty with each bit.
const RATE: u32 = 5;

impl Odds {
    fn saw(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> RATE;
        } else {
            self.0 += (((1 << 16) - u32::from(self.0)) >> RATE) as u16;
        }
    }
}

/// Writes values, or reads them and ignores those it is given.
pub(super) trait Coder {
    /// One bit.
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool;

    /// Bits of which nothing is known.
    fn raw(&mut self, bits: u32, value: u32) -> u32 {
        (0..bits).rev().fold(0, |read, i| {
            let bit = self.bit(&mut Odds::default(), value >> i & 1 == 1);
            read << 1 | u32::from(bit)
        })
    }

    /// A value below `N`, which is a power of two, bit by bit from the highest.
    fn tree<const N: usize>(&mut self, odds: &mut [Odds; N], value: u32) -> u32 {
        let bits = N.trailing_zeros();
        let mut node = 1;
        for i in (0..bits).rev() {
            let bit = self.bit(&mut odds[node], value >> i & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        (node - N) as u32
    }

    /// Any number; small ones are cheap.
    fn number(&mut self, odds: &mut Number, value: u32) -> u32 {
        let value = u64::from(value) + 1;
        let bits = self.tree(&mut odds.size, value.ilog2()).min(32);
        let mut read = 1;
        for i in (0..bits).rev() {
            let bit = value >> i & 1 == 1;
            // The bit below the highest still says something.
            let bit = if i + 1 == bits {
                self.bit(&mut odds.second[bits as usize], bit)
            } else {
                self.raw(1, u32::from(bit)) == 1
            };
            read = read << 1 | u64::from(bit);
        }
        u32::try_from(read - 1).unwrap_or(u32::MAX)
    }
}

/// What is known of a number.
#[derive(Clone)]
pub(super) struct Number {
    size: [Odds; 64],
    second: [Odds; 33],
}

impl Default for Number {
    fn default() -> Self {
        Self { size: [Odds::default(); 64], second: [Odds::default(); 33] }
    }
}

const TOP: u32 = 1 << 24;

/// Writes.
pub(super) struct Encoder {
    low: u64,
    range: u32,
    /// The last byte that a carry may still reach, and how many 0xff follow it.
    cache: u8,
    pending: u64,
    out: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 0, out: Vec::new() }
    }

    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.cache.wrapping_add(carry));
            for _ in 0..self.pending {
                self.out.push(0xffu8.wrapping_add(carry));
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// The bytes. The first is always zero and left out, as are zeros at the end.
    pub(super) fn finish(mut self) -> Vec<u8> {
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
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool {
        let bound = (self.range >> 16) * u32::from(odds.0);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        odds.saw(bit);
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

/// Reads. Past the end there are zeros.
pub(super) struct Decoder<'a> {
    code: u32,
    range: u32,
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut new = Self { code: 0, range: u32::MAX, bytes };
        for _ in 0..4 {
            new.code = new.code << 8 | new.next();
        }
        new
    }

    fn next(&mut self) -> u32 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        u32::from(*first)
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, odds: &mut Odds, _: bool) -> bool {
        let bound = (self.range >> 16) * u32::from(odds.0);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        odds.saw(bit);
        while self.range < TOP {
            self.range <<= 8;
            self.code = self.code << 8 | self.next();
        }
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(coder: &mut impl Coder, given: &[u32]) -> Vec<u32> {
        let (mut number, mut odds) = (Number::default(), [Odds::default(); 16]);
        let one = |v: &u32| {
            let n = coder.number(&mut number, *v);
            assert_eq!(coder.tree(&mut odds, n & 15), n & 15);
            assert_eq!(coder.raw(20, n & 0xf_ffff), n & 0xf_ffff);
            n
        };
        given.iter().map(one).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut given: Vec<u32> = (0..3000).map(|i: u32| i.wrapping_pow(5) >> (i % 32)).collect();
        given.extend([0, 1, u32::MAX, u32::MAX - 1]);
        let mut encoder = Encoder::new();
        values(&mut encoder, &given);
        let bytes = encoder.finish();
        assert_eq!(values(&mut Decoder::new(&bytes), &vec![0; given.len()]), given);
    }

    #[test]
    fn the_expected_costs_nearly_nothing() {
        let (mut encoder, mut odds) = (Encoder::new(), Odds::default());
        for _ in 0..100_000 {
            encoder.bit(&mut odds, false);
        }
        encoder.bit(&mut odds, true);
        assert!(encoder.finish().len() < 20);
    }
}
