//! The parts of a layer's tar that are not contents of files.

use std::io::{self, Read};

use crate::model::content::{ReadAt, SourceReader};

/// Reads ranges of a source, one after the other.
pub(super) struct GapReader<'a> {
    source: &'a dyn ReadAt,
    left: std::vec::IntoIter<(u64, u64)>,
    now: SourceReader<'a>,
}

impl<'a> GapReader<'a> {
    pub(super) fn new(source: &'a dyn ReadAt, gaps: Vec<(u64, u64)>) -> Self {
        Self { source, left: gaps.into_iter(), now: SourceReader::new(source, 0, 0) }
    }
}

impl Read for GapReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.now.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            let Some((offset, bytes)) = self.left.next() else { return Ok(0) };
            self.now = SourceReader::new(self.source, offset, bytes);
        }
    }
}
