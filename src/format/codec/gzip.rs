//! gzip: a writer of one member, whose parts are compressed in parallel, and a reader of any number
//! of members.
//!
//! libdeflate is faster than zlib and its results are smaller, but it compresses a whole buffer to a whole
//! stream. So the mark of the end is removed from all parts but the last, in the same way as in gzjoin.c of
//! zlib. Only decoding finds it. docs/PERFORMANCE.md has figures.

use std::io::{self, BufRead, Read, Write};

use flate2::Crc;
use libdeflater::{CompressionLvl, Compressor};

use super::{Format, decoding_error};
use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::format::recode::last_block;

/// Size of a part in bytes. Each is compressed separately. Larger parts compress better; this size costs 0.05 %.
const PART: usize = 4 << 20;
/// The header without a name or time and with an unknown system, so that it is always the same.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Writes one gzip member.
pub struct GzipEncoder<W> {
    out: W,
    level: u32,
    /// Size of a batch in bytes: a part for each worker.
    batch: usize,
    pending: Vec<u8>,
    crc: Crc,
    begun: bool,
}

impl<W> std::fmt::Debug for GzipEncoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipEncoder").field("level", &self.level).finish_non_exhaustive()
    }
}

impl<W: Write> GzipEncoder<W> {
    pub(super) fn new(out: W, level: u32, workers: u32) -> Self {
        Self {
            out,
            level,
            batch: PART * workers.max(1) as usize,
            pending: Vec::new(),
            crc: Crc::new(),
            begun: false,
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_batch(true)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // RFC 1952 wants the size modulo 2³².
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }

    /// Compresses the pending parts in parallel, and writes them in order.
    fn write_batch(&mut self, last: bool) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&HEADER)?;
            self.begun = true;
        }
        self.crc.update(&self.pending);
        let mut parts: Vec<&[u8]> = self.pending.chunks(PART).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        let level = self.level;
        let one = |i: usize| deflate(parts[i], level, last && i + 1 == count);
        for part in threads::collect(count, count, threads::in_turn(0..count), || one)? {
            self.out.write_all(&part)?;
        }
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // A full batch waits for more input: only `finish` may write the last part, so that the
        // output doesn't depend on the number of workers.
        if self.pending.len() == self.batch && !buf.is_empty() {
            self.write_batch(false)?;
        }
        let n = buf.len().min(self.batch - self.pending.len());
        self.pending.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses one part as raw deflate, which ends with the stream if it is the last, or at a byte boundary.
///
/// # Errors
/// If the encoder fails.
fn deflate(part: &[u8], level: u32, last: bool) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::malformed(format!("deflate: {e}"));
    let level = CompressionLvl::new(level.cast_signed()).map_err(|e| failed(&format!("{e:?}")))?;
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.deflate_compress_bound(part.len())];
    let written = compressor.deflate_compress(part, &mut out).map_err(|e| failed(&e))?;
    out.truncate(written);
    if !last {
        let (start, end) = last_block(&out).ok_or_else(|| failed(&"its result is not valid"))?;
        out[start / 8] &= !(1 << (start % 8));
        // What a flush writes: three bits, zeros up to a byte boundary, and a length of zero.
        out.resize((end + 3).div_ceil(8), 0);
        out.extend_from_slice(&[0, 0, 0xff, 0xff]);
    }
    Ok(out)
}

/// Reads members until the input ends. Zeros after the last member are ignored as padding.
pub(super) struct GzipDecoder<R> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> GzipDecoder<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { member: Some(flate2::bufread::GzDecoder::new(inner)) }
    }

    fn read_any(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            let Some(mut inner) = self.member.take().map(flate2::bufread::GzDecoder::into_inner)
            else {
                break;
            };
            let next = loop {
                let head = inner.fill_buf()?;
                match head.first() {
                    None => break false,
                    Some(0) => {
                        let zeros = head.iter().take_while(|b| **b == 0).count();
                        inner.consume(zeros);
                    }
                    Some(0x1f) => break true,
                    Some(_) => {
                        return Err(
                            Error::malformed("the gzip data is followed by other data").into()
                        );
                    }
                }
            };
            if next {
                self.member = Some(flate2::bufread::GzDecoder::new(inner));
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> Read for GzipDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_any(buf).map_err(|e| decoding_error(e, Format::Gzip))
    }
}
