//! Numbers and bytes told by [`range`](crate::range) coding.

use crate::range::{Coder, Likely};

/// How likely a bit is to be 0, in 2^-16: the mean of a quick and a slow estimate.
#[derive(Clone, Copy)]
pub(super) struct Prob(u16, u16);

impl Default for Prob {
    fn default() -> Self {
        Self(1 << 15, 1 << 15)
    }
}

impl Likely for Prob {
    #[inline]
    fn zero(&self) -> u32 {
        (u32::from(self.0) + u32::from(self.1)) >> 1
    }

    #[inline]
    fn saw(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> 4;
            self.1 -= self.1 >> 7;
        } else {
            self.0 += (0xffff - self.0) >> 4;
            self.1 += (0xffff - self.1) >> 7;
        }
    }
}

/// A byte, told bit by bit from the highest.
#[derive(Clone)]
pub(super) struct Byte([Prob; 256]);

impl Default for Byte {
    fn default() -> Self {
        Self([Prob::default(); 256])
    }
}

impl Byte {
    #[inline]
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u8) -> u8 {
        let mut node = 1;
        for i in (0..8).rev() {
            let bit = coder.bit(&mut self.0[node], value >> i & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        node as u8
    }
}

/// A number: how many bits it has, and those below the highest.
#[derive(Clone)]
pub(super) struct Number {
    size: [Prob; 128],
    /// The next three bits for each size; those below are told plainly.
    next: [[Prob; 8]; 65],
}

impl Default for Number {
    fn default() -> Self {
        Self { size: [Prob::default(); 128], next: [[Prob::default(); 8]; 65] }
    }
}

impl Number {
    /// Tells a number.
    pub(super) fn code(&mut self, coder: &mut impl Coder, value: u64) -> u64 {
        let size = 64 - value.leading_zeros();
        let mut node = 1;
        for i in (0..7).rev() {
            let bit = coder.bit(&mut self.size[node], size >> i & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        let size = (node as u32 & 127).min(64);
        if size < 2 {
            return size.into();
        }
        let (mut found, mut node) = (1u64, 1);
        let told = (size - 1).min(3);
        let low = size - 1 - told;
        for i in (low..low + told).rev() {
            let bit = coder.bit(&mut self.next[size as usize][node], value >> i & 1 == 1);
            node = node << 1 | usize::from(bit);
            found = found << 1 | u64::from(bit);
        }
        found << low | coder.plain(value, low)
    }

    /// Tells a number with its sign.
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
    use crate::range::{Decoder, Encoder};

    proptest! {
        #[test]
        fn what_is_written_is_read(
            list in prop::collection::vec((any::<u64>(), 0u32..64, any::<i64>(), any::<u8>()), 0..300)
        ) {
            let mut writer = Encoder::new();
            let mut models = (Number::default(), Number::default(), Byte::default());
            for (n, shift, i, byte) in &list {
                models.0.code(&mut writer, n >> shift);
                models.1.signed(&mut writer, i >> shift);
                models.2.code(&mut writer, *byte);
                writer.plain(*n, 33);
            }
            let mut reader = Decoder::new(writer.finish());
            let mut models = (Number::default(), Number::default(), Byte::default());
            for (n, shift, i, byte) in &list {
                prop_assert_eq!(models.0.code(&mut reader, 0), n >> shift);
                prop_assert_eq!(models.1.signed(&mut reader, 0), i >> shift);
                prop_assert_eq!(models.2.code(&mut reader, 0), *byte);
                prop_assert_eq!(reader.plain(0, 33), n & ((1 << 33) - 1));
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = Decoder::new(bytes);
            let mut number = Number::default();
            for _ in 0..200 {
                number.code(&mut reader, 0);
            }
        }
    }

    #[test]
    fn the_ends_of_all_numbers_are_told() {
        let ends = [0, 1, 2, u64::MAX, 1 << 63, (1 << 63) - 1];
        let mut writer = Encoder::new();
        for n in ends {
            Number::default().code(&mut writer, n);
            Number::default().signed(&mut writer, n.cast_signed());
        }
        let mut reader = Decoder::new(writer.finish());
        for n in ends {
            assert_eq!(Number::default().code(&mut reader, 0), n);
            assert_eq!(Number::default().signed(&mut reader, 0), n.cast_signed());
        }
    }

    #[test]
    fn what_is_likely_costs_little() {
        let mut writer = Encoder::new();
        let mut prob = Prob::default();
        for i in 0..80_000 {
            writer.bit(&mut prob, i % 1000 == 0);
        }
        assert!(writer.finish().len() < 300);
    }
}
