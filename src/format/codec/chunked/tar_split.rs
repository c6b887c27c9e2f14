//! Everything in a tar except the files' data, with one JSON object on each line. The format is that of
//! [tar-split](https://github.com/vbatts/tar-split) (`tar/storage`). Clients rebuild the tar from it and
//! the files.

use std::io::{self, Write};

use serde::Serialize;

use super::packed::{Packed, base64};
use crate::base::error::Result;

/// A line. Headers and padding are segments. The payload of a file is its CRC-64.
#[derive(Serialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

pub(super) struct TarSplit {
    out: Packed,
    position: u64,
}

impl TarSplit {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        Ok(Self { out: Packed::new(level)?, position: 0 })
    }

    /// Adds bytes of the tar: padding, headers, or its end.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.line(&Line {
            r#type: SEGMENT,
            name: "",
            size: 0,
            payload: Some(base64(bytes)),
            position: self.position,
        })
    }

    /// Adds an entry after its headers. `sum` is `None` if it has no data.
    pub(super) fn file(&mut self, name: &str, size: u64, sum: Option<Crc>) -> Result<()> {
        let payload = sum.map(|sum| base64(&sum.finish().to_be_bytes()));
        self.line(&Line { r#type: FILE, name, size, payload, position: self.position })
    }

    fn line(&mut self, line: &Line<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.out, line).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        self.position += 1;
        Ok(())
    }

    /// Returns the frame, and the size of the text in bytes.
    pub(super) fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        self.out.finish()
    }
}

/// CRC-64 with the polynomial of ISO 3309, as in Go's `crc64.ISO`.
pub(super) struct Crc(u64);

/// Tables for processing eight bytes at a time.
const TABLES: [[u64; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xd800_0000_0000_0000 } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut i = 256;
    while i < 8 * 256 {
        let before = tables[i / 256 - 1][i % 256];
        tables[i / 256][i % 256] = tables[0][(before & 0xff) as usize] ^ before >> 8;
        i += 1;
    }
    tables
};

impl Crc {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let sum = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            let parts = sum.iter().zip(TABLES.iter().rev());
            self.0 = parts.fold(0, |all, (byte, table)| all ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            self.0 = TABLES[0][usize::from(self.0 as u8 ^ byte)] ^ self.0 >> 8;
        }
    }

    fn finish(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_go() {
        // The check values of Go's hash/crc64, and of the catalogue of CRCs (CRC-64/GO-ISO).
        for (text, sum) in [
            ("", 0),
            ("a", 0x3420_0000_0000_0000),
            ("ab", 0x36c4_2000_0000_0000),
            ("123456789", 0xb909_56c7_75a4_1001),
        ] {
            let mut crc = Crc::new();
            crc.update(text.as_bytes());
            let found = crc.finish();
            assert_eq!(found, sum, "{text}: {found:x}");
        }
        let (mut whole, mut parts) = (Crc::new(), Crc::new());
        let data: Vec<u8> = (0..1000u32).map(|n| (n * n / 8) as u8).collect();
        whole.update(&data);
        data.chunks(7).for_each(|part| parts.update(part));
        assert_eq!(whole.finish(), parts.finish());
    }
}
