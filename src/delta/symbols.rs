//! Adaptive models of bits, half bytes, bytes and numbers for the
//! [range coder](crate::base::range_coder).

use crate::base::range_coder::{BitModel, Coder};

/// The probability that a bit is 0, in units of 2^-16: the mean of a fast and a slow estimate.
#[derive(Clone, Copy)]
pub(super) struct Prob(u16, u16);

impl Default for Prob {
    fn default() -> Self {
        Self(1 << 15, 1 << 15)
    }
}

impl BitModel for Prob {
    #[inline]
    fn probability_of_zero(&self) -> u32 {
        (u32::from(self.0) + u32::from(self.1)) >> 1
    }

    #[inline]
    fn update(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> 4;
            self.1 -= self.1 >> 7;
        } else {
            self.0 += (0xffff - self.0) >> 4;
            self.1 += (0xffff - self.1) >> 7;
        }
    }
}

/// A symbol of 16. Each has a cumulative probability in units of 2^-15, in a fast and a slow estimate.
/// Four bits at once take less time than four single ones, as there are no branches to mispredict.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Nibble {
    fast: [u16; 16],
    slow: [u16; 16],
}

impl Default for Nibble {
    fn default() -> Self {
        let even = std::array::from_fn(|i| (i as u16) << 11);
        Self { fast: even, slow: even }
    }
}

impl Nibble {
    /// Codes a symbol below 16.
    #[inline]
    pub(super) fn code(&mut self, coder: &mut impl Coder, which: usize) -> usize {
        let which = coder.symbol(|i| self.fast[i & 15] + self.slow[i & 15], which & 15) & 15;
        let approach = |numbers: &mut [u16; 16], rate: u32| {
            for (n, goal) in numbers.iter_mut().zip(&GOALS[which]) {
                *n = n.wrapping_add_signed(goal.wrapping_sub(*n).cast_signed() >> rate);
            }
        };
        approach(&mut self.fast, 4);
        approach(&mut self.slow, 7);
        which
    }
}

/// The values that the estimates approach after each symbol; no other symbol's probability goes below 2^-15.
static GOALS: [[u16; 16]; 16] = {
    let mut goals = [[0; 16]; 16];
    let mut i = 0;
    while i < 256 {
        let (seen, n) = (i / 16, i % 16);
        goals[seen][n] = n as u16 + if n > seen { (1 << 15) - 16 } else { 0 };
        i += 1;
    }
    goals
};

/// A byte: its high half, and for each value of that its low half.
#[derive(Clone, Default)]
pub(super) struct Byte(Nibble, [Nibble; 16]);

impl Byte {
    /// Codes a byte.
    #[inline]
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u8) -> u8 {
        let high = self.0.code(coder, usize::from(value >> 4));
        let low = self.1[high].code(coder, usize::from(value & 15));
        (high << 4 | low) as u8
    }
}

/// A number: how many bits it has, and the bits below the highest.
#[derive(Clone)]
pub(super) struct Number {
    /// Number of bits up to 14; 15 is an escape to `more`.
    size: Nibble,
    more: Byte,
    /// The four bits below the highest, for each size; those below are coded as equally likely.
    next: [Nibble; 65],
}

impl Default for Number {
    fn default() -> Self {
        let next = [Nibble::default(); 65];
        Self { size: Nibble::default(), more: Byte::default(), next }
    }
}

impl Number {
    /// Codes a number.
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u64) -> u64 {
        let mut size = 64 - value.leading_zeros();
        size = match self.size.code(coder, size.min(15) as usize) {
            15 => (15 + u32::from(self.more.code(coder, size.wrapping_sub(15) as u8))).min(64),
            small => small as u32,
        };
        if size < 2 {
            return size.into();
        }
        let modelled = (size - 1).min(4);
        let low = size - 1 - modelled;
        let mask = (1 << modelled) - 1;
        let next = self.next[size as usize].code(coder, (value >> low) as usize & mask) & mask;
        (1 << modelled | next as u64) << low | coder.raw_bits(value, low)
    }

    /// Codes a signed number.
    pub(super) fn signed(&mut self, coder: &mut impl Coder, value: i64) -> i64 {
        let folded = (value << 1 ^ value >> 63).cast_unsigned();
        let folded = self.code(coder, folded);
        (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::range_coder::{RangeDecoder, RangeEncoder};

    proptest! {
        #[test]
        fn written_values_are_read_back(
            list in prop::collection::vec((any::<u64>(), 0u32..64, any::<i64>(), any::<u8>()), 0..300)
        ) {
            let mut writer = RangeEncoder::new();
            let mut models = (Number::default(), Number::default(), Byte::default());
            for (n, shift, i, byte) in &list {
                models.0.code(&mut writer, n >> shift);
                models.1.signed(&mut writer, i >> shift);
                models.2.code(&mut writer, *byte);
                writer.raw_bits(*n, 33);
            }
            let mut reader = RangeDecoder::new(writer.finish());
            let mut models = (Number::default(), Number::default(), Byte::default());
            for (n, shift, i, byte) in &list {
                prop_assert_eq!(models.0.code(&mut reader, 0), n >> shift);
                prop_assert_eq!(models.1.signed(&mut reader, 0), i >> shift);
                prop_assert_eq!(models.2.code(&mut reader, 0), *byte);
                prop_assert_eq!(reader.raw_bits(0, 33), n & ((1 << 33) - 1));
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = RangeDecoder::new(bytes);
            let mut number = Number::default();
            for _ in 0..200 {
                number.code(&mut reader, 0);
            }
        }
    }

    #[test]
    fn extreme_numbers_are_read_back() {
        let ends = [0, 1, 2, u64::MAX, 1 << 63, (1 << 63) - 1];
        let mut writer = RangeEncoder::new();
        for n in ends {
            Number::default().code(&mut writer, n);
            Number::default().signed(&mut writer, n.cast_signed());
        }
        let mut reader = RangeDecoder::new(writer.finish());
        for n in ends {
            assert_eq!(Number::default().code(&mut reader, 0), n);
            assert_eq!(Number::default().signed(&mut reader, 0), n.cast_signed());
        }
    }

    #[test]
    fn likely_bits_cost_little() {
        let mut writer = RangeEncoder::new();
        let mut prob = Prob::default();
        for i in 0..80_000 {
            writer.bit(&mut prob, i % 1000 == 0);
        }
        assert!(writer.finish().len() < 300);
    }
}
