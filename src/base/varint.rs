//! Integers as [LEB128](https://en.wikipedia.org/wiki/LEB128): seven bits per byte, lowest first.

/// Appends an integer.
pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed integer, with the sign in the lowest bit.
pub(crate) fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, (n << 1 ^ n >> 63).cast_unsigned());
}

/// Removes an integer from the front of `bytes`; `None` if there is none or it has more than 64 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 127);
        if part << shift >> shift != part {
            return None;
        }
        n |= part << shift;
        if byte & 128 == 0 {
            return Some(n);
        }
    }
    None
}

/// Removes an integer that [`put_signed`] wrote.
pub(crate) fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let n = take(bytes)?;
    Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let list = [0, 1, 127, 128, 300, u64::MAX - 1, u64::MAX];
        let mut bytes = Vec::new();
        for n in list {
            put(&mut bytes, n);
        }
        let signed = [0, -1, 1, i64::MIN, i64::MAX];
        for n in signed {
            put_signed(&mut bytes, n);
        }
        let mut rest = &bytes[..];
        assert!(list.iter().all(|n| take(&mut rest) == Some(*n)));
        assert!(signed.iter().all(|n| take_signed(&mut rest) == Some(*n)));
        assert_eq!(take(&mut rest), None);
        assert_eq!(take(&mut &[0xff; 11][..]), None);
    }
}
