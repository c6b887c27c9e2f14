//! Numbers in headers: octal text, or base 256 if the first bit is set.

use crate::base::error::{Error, Result};

/// Parses a numeric field. An empty one is 0, as in Go.
pub(super) fn parse(field: &[u8], what: &str) -> Result<i64> {
    let bad = || {
        Error::malformed(format!("the header's {what} is not a number: {}", field.escape_ascii()))
    };
    let Some(first) = field.first() else { return Ok(0) };
    if first & 0x80 != 0 {
        // Two's complement. The second bit is the sign.
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 && !negative { byte & 0x7f } else { *byte };
            let next = value.checked_mul(256).and_then(|v| v.checked_add(i64::from(byte)));
            value = next.ok_or_else(bad)?;
        }
        return Ok(value);
    }
    octal(field).ok_or_else(bad)
}

/// Parses octal text with spaces and NULs around it. Returns `None` for anything else.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let Some(first) = field.iter().position(|b| !blank(b)) else { return Some(0) };
    let last = field.iter().rposition(|b| !blank(b)).unwrap_or(first);
    // Everything after a NUL is ignored.
    let digits = field[first..=last].split(|b| *b == 0).next().unwrap_or_default();
    digits.iter().try_fold(0i64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// Writes octal digits to all bytes of `field` but the last, which becomes NUL. If the number doesn't
/// fit, writes 0 and returns false. It needs a PAX record then.
pub(super) fn write(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = value < 1 << (3 * digits as u32).min(63);
    let mut left = if fits { value } else { 0 };
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (left & 7) as u8;
        left >>= 3;
    }
    field[digits] = 0;
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_base_256_are_read() {
        assert_eq!(parse(b"0000644\0", "x").unwrap(), 0o644);
        assert_eq!(parse(b"  644 \0 ", "x").unwrap(), 0o644);
        assert_eq!(parse(b"\0\0\0\0", "x").unwrap(), 0);
        assert_eq!(parse(b" \x0017\0x 5", "x").unwrap(), 0o17);
        assert_eq!(parse(b"\x80\0\0\0\0\0\0\x02\0\0\0\0", "x").unwrap(), 0x2_0000_0000);
        assert_eq!(parse(&[0xff; 12], "x").unwrap(), -1);
        assert_eq!(parse(b"\xff\xff\xff\xfe", "x").unwrap(), -2);
        for bad in [
            &b"12x4"[..],
            b"12 4",
            b"-1",
            b"0009",
            &[0x80, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert!(parse(bad, "x").is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_written_as_zero() {
        let mut field = [b'x'; 8];
        assert!(write(&mut field, 0o7_777_777));
        assert_eq!(&field, b"7777777\0");
        assert!(!write(&mut field, 0o10_000_000));
        assert_eq!(&field, b"0000000\0");
    }
}
