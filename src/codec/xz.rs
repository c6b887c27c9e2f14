//! xz, as archives are compressed by hand. Layers are not: no media type says so.

use std::io::{self, Read};

use lzma_rust2::XzReader;

use super::decoding_error;

/// What xz data begins with.
pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";
/// KiB that a decoder may take. The highest level of xz needs half of that.
const MEMORY: u32 = 128 << 10;

pub(super) struct Decoder<R: Read>(XzReader<R>);

pub(super) fn decoder<R: Read>(inner: R) -> Decoder<R> {
    Decoder(XzReader::new_mem_limit(inner, true, MEMORY))
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| decoding_error(e, "xz"))
    }
}
