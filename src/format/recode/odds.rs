//! Adaptive models of bits and numbers for the [range coder](crate::base::range_coder). Bits of
//! corrections are nearly always as predicted, and then cost as little as a thousandth of a bit.

use crate::base::range_coder::{BitModel, Coder};

/// The probability that a bit is false, in units of 2^-16.
#[derive(Clone, Copy)]
pub(super) struct Odds(u16);

impl Default for Odds {
    fn default() -> Self {
        Self(1 << 15)
    }
}

/// Each bit moves the probability by a 32nd of the distance to certainty.
const RATE: u32 = 5;

impl BitModel for Odds {
    fn probability_of_zero(&self) -> u32 {
        self.0.into()
    }

    #[inline]
    fn update(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> RATE;
        } else {
            self.0 += (((1 << 16) - u32::from(self.0)) >> RATE) as u16;
        }
    }
}

/// Codes values: a coder that writes is given them, one that reads ignores its arguments.
pub(super) trait Values: Coder {
    /// Codes bits that are equally likely 0 or 1.
    fn raw(&mut self, bits: u32, value: u32) -> u32 {
        self.raw_bits(value.into(), bits) as u32
    }

    /// Codes a value below `N`, which is a power of two, bit by bit from the highest.
    fn tree<const N: usize>(&mut self, odds: &mut [Odds; N], value: u32) -> u32 {
        let bits = N.trailing_zeros();
        let mut node = 1;
        for i in (0..bits).rev() {
            let bit = self.bit(&mut odds[node], value >> i & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        (node - N) as u32
    }

    /// Codes any number; small ones take fewer bits.
    fn number(&mut self, odds: &mut Number, value: u32) -> u32 {
        let value = u64::from(value) + 1;
        let bits = self.tree(&mut odds.size, value.ilog2()).min(32);
        let mut read = 1;
        for i in (0..bits).rev() {
            let bit = value >> i & 1 == 1;
            // Only the bit below the highest is modelled.
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

/// An adaptive model of a number.
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

impl<C: Coder> Values for C {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range_coder::{RangeDecoder, RangeEncoder};

    fn values(coder: &mut impl Values, given: &[u32]) -> Vec<u32> {
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
    fn written_values_are_read_back() {
        let mut given: Vec<u32> = (0..3000).map(|i: u32| i.wrapping_pow(5) >> (i % 32)).collect();
        given.extend([0, 1, u32::MAX, u32::MAX - 1]);
        let mut encoder = RangeEncoder::new();
        values(&mut encoder, &given);
        let bytes = encoder.finish();
        assert_eq!(values(&mut RangeDecoder::new(&bytes), &vec![0; given.len()]), given);
    }

    #[test]
    fn expected_bits_cost_nearly_nothing() {
        let (mut encoder, mut odds) = (RangeEncoder::new(), Odds::default());
        for _ in 0..100_000 {
            encoder.bit(&mut odds, false);
        }
        encoder.bit(&mut odds, true);
        assert!(encoder.finish().len() < 20);
    }
}
