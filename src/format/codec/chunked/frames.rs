//! Writes frames in order and compresses them in parallel.

use std::collections::VecDeque;
use std::io::Write;

use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::model::digest::Digest;

/// Number of bytes for each worker that are collected before they are compressed. It does not affect
/// the output.
const BATCH: usize = 2 << 20;

/// The position of a frame in the blob, and the digest of its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Digest of the uncompressed bytes, if it was requested.
    pub(super) digest: Option<Digest>,
}

struct Plain {
    bytes: Vec<u8>,
    digest: bool,
}

/// Writes frames.
pub(super) struct Frames<W> {
    out: W,
    at: u64,
    level: i32,
    workers: usize,
    pending: Vec<Plain>,
    pending_bytes: usize,
    /// Written frames that may still be needed, and the number of the first of them.
    written: VecDeque<Frame>,
    first: u64,
}

impl<W: Write> Frames<W> {
    pub(super) fn new(out: W, level: i32, workers: u32) -> Self {
        Self {
            out,
            at: 0,
            level,
            workers: workers.max(1) as usize,
            pending: Vec::new(),
            pending_bytes: 0,
            written: VecDeque::new(),
            first: 0,
        }
    }

    /// Adds a frame and returns its number.
    pub(super) fn push(&mut self, bytes: Vec<u8>, digest: bool) -> Result<u64> {
        self.pending_bytes += bytes.len();
        self.pending.push(Plain { bytes, digest });
        let number = self.first + (self.written.len() + self.pending.len()) as u64 - 1;
        if self.pending_bytes >= BATCH * self.workers {
            self.flush()?;
        }
        Ok(number)
    }

    /// Returns a frame by its number, or `None` if it is not written yet.
    pub(super) fn get(&self, number: u64) -> Option<Frame> {
        self.written.get(number.checked_sub(self.first)? as usize).copied()
    }

    /// Forgets the written frames before `number`.
    pub(super) fn forget(&mut self, number: u64) {
        let known = (number.saturating_sub(self.first) as usize).min(self.written.len());
        self.written.drain(..known);
        self.first += known as u64;
    }

    /// Compresses and writes the pending frames.
    pub(super) fn flush(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let worker = || {
            let mut compressor = compressor(self.level);
            let pending = &pending;
            move |i: usize| {
                let compressor =
                    compressor.as_mut().map_err(|e| Error::malformed(e.to_string()))?;
                compress(compressor, &pending[i])
            }
        };
        let turn = threads::in_turn(0..pending.len());
        for done in threads::collect(self.workers, pending.len(), turn, worker)? {
            self.write(&done.bytes, done.digest)?;
        }
        Ok(())
    }

    /// Writes a skippable frame (RFC 8878 §3.1.2). Returns the offset of its data.
    pub(super) fn skippable(&mut self, data: &[u8]) -> Result<u64> {
        let size = u32::try_from(data.len())
            .map_err(|_| Error::limit("a layer's table of contents is larger than 4 GiB"))?;
        self.out.write_all(&0x184d_2a50_u32.to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())?;
        self.out.write_all(data)?;
        let start = self.at + 8;
        self.at = start + u64::from(size);
        Ok(start)
    }

    fn write(&mut self, frame: &[u8], digest: Option<Digest>) -> Result<()> {
        self.out.write_all(frame)?;
        let start = self.at;
        self.at += frame.len() as u64;
        self.written.push_back(Frame { start, end: self.at, digest });
        Ok(())
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }
}

struct Done {
    bytes: Vec<u8>,
    digest: Option<Digest>,
}

fn compressor(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_contentsize(true)?;
    compressor.include_checksum(false)?;
    Ok(compressor)
}

fn compress(compressor: &mut zstd::bulk::Compressor<'_>, plain: &Plain) -> Result<Done> {
    let bytes = compressor.compress(&plain.bytes)?;
    let digest = plain.digest.then(|| Digest::of(&plain.bytes));
    Ok(Done { bytes, digest })
}
