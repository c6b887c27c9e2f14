//! Reading by hand, where `read_exact` and `io::copy` don't fit.

use std::io::{self, Read};

/// Reads some bytes, as [`Read::read`] does, and again where a signal came between.
pub(crate) fn read_some(reader: &mut (impl Read + ?Sized), buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
