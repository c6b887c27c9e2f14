//! Streams of a layer, as they are read.

use super::{Delta, PART, Part, REFERENCE, TIMES, reference};
use crate::base::error::{Error, Result};
use crate::model::content::Source;

pub(super) fn short() -> Error {
    Error::malformed("the delta has fewer bytes than its instructions take")
}

/// A stream in parts, each decompressed when its turn comes.
pub(super) struct Stream<'a> {
    delta: &'a Delta,
    tars: &'a [Source],
    parts: std::slice::Iter<'a, Part>,
    now: Vec<u8>,
    at: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        delta: &'a Delta,
        tars: &'a [Source],
        parts: &'a [Part],
        tar_bytes: u64,
    ) -> Result<Self> {
        let mut references = parts.iter().flat_map(|p| &p.reference).map(|r| r.2);
        let most = tar_bytes.saturating_mul(TIMES).saturating_add(REFERENCE);
        let sum = references.try_fold(0, u64::checked_add);
        if sum.is_none_or(|sum| sum > most) {
            return Err(Error::malformed("the delta refers to more than it could need"));
        }
        Ok(Self { delta, tars, parts: parts.iter(), now: Vec::new(), at: 0 })
    }

    /// The next bytes, as many as fit.
    pub(super) fn fill(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let n = self.read(buf)?;
            if n == 0 {
                return Err(short());
            }
            buf = &mut buf[n..];
        }
        Ok(())
    }

    /// Some of the next bytes; none at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.at == self.now.len() {
            let Some(part) = self.parts.next() else { return Ok(0) };
            // Before the next one takes room.
            self.now = Vec::new();
            let plain = self.delta.header.blobs.get(part.blob as usize).map_or(0, |b| b.plain);
            if !(1..=PART).contains(&plain) {
                return Err(Error::malformed("a part of the delta has a size that can't be"));
            }
            let reference = reference(self.tars, &part.reference)?;
            self.now = self.delta.blob(part.blob, &reference)?;
            self.at = 0;
        }
        let n = buf.len().min(self.now.len() - self.at);
        buf[..n].copy_from_slice(&self.now[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
