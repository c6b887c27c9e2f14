//! Reads the streams of a layer.

use super::{Delta, MAX_REFERENCE, PART, Part, reference};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_REFERENCE_RATIO;
use crate::model::content::Source;

/// The error for a stream that ends early.
pub(super) fn too_short() -> Error {
    Error::malformed("the delta has fewer bytes than its instructions take")
}

/// Reads a stream part by part. It holds one decompressed part at a time.
pub(super) struct StreamReader<'a> {
    delta: &'a Delta,
    tars: &'a [Source],
    parts: std::slice::Iter<'a, Part>,
    /// The current part, and how much of it was read.
    part: Vec<u8>,
    at: usize,
}

impl<'a> StreamReader<'a> {
    /// Begins a stream of a layer whose tar has `tar_bytes` bytes.
    pub(super) fn new(
        delta: &'a Delta,
        tars: &'a [Source],
        parts: &'a [Part],
        tar_bytes: u64,
    ) -> Result<Self> {
        let mut references = parts.iter().flat_map(|p| &p.reference).map(|r| r.2);
        let max = tar_bytes.saturating_mul(MAX_REFERENCE_RATIO).saturating_add(MAX_REFERENCE);
        let sum = references.try_fold(0, u64::checked_add);
        if sum.is_none_or(|sum| sum > max) {
            return Err(Error::malformed(format!(
                "a stream of the delta refers to more than {max} bytes of the old image"
            )));
        }
        Ok(Self { delta, tars, parts: parts.iter(), part: Vec::new(), at: 0 })
    }

    /// Reads the next bytes until `buf` is full.
    pub(super) fn fill(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let n = self.read(buf)?;
            if n == 0 {
                return Err(too_short());
            }
            buf = &mut buf[n..];
        }
        Ok(())
    }

    /// Reads some of the next bytes; returns 0 at the end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.at == self.part.len() {
            let Some(part) = self.parts.next() else { return Ok(0) };
            // Free the last part before the next one is allocated.
            self.part = Vec::new();
            let plain = self.delta.header.blobs.get(part.blob as usize).map_or(0, |b| b.plain);
            if !(1..=PART).contains(&plain) {
                return Err(Error::malformed(format!(
                    "blob {} of the delta states an invalid size of {plain} bytes",
                    part.blob
                )));
            }
            let reference = reference(self.tars, &part.reference)?;
            self.part = self.delta.blob(part.blob, &reference)?;
            self.at = 0;
        }
        let n = buf.len().min(self.part.len() - self.at);
        buf[..n].copy_from_slice(&self.part[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
