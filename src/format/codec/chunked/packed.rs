//! Texts that grow line by line and are compressed in memory.

use std::io::{self, BufWriter, Write};

use crate::format::codec::zstd::{TextEncoder, text_encoder};

/// Number of bytes that are passed to the compressor at a time.
const PIECE: usize = 1 << 17;

/// A text that is being written to one zstd frame.
pub(super) struct Packed {
    out: BufWriter<TextEncoder<Vec<u8>>>,
    bytes: u64,
}

impl Packed {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        let out = BufWriter::with_capacity(PIECE, text_encoder(Vec::new(), level)?);
        Ok(Self { out, bytes: 0 })
    }

    /// Returns the frame, and the size of the text in bytes.
    pub(super) fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        let encoder = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((encoder.finish()?, self.bytes))
    }
}

impl Write for Packed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes bytes as base 64 (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let byte = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= part.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (n, text) in texts.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..n]), *text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
