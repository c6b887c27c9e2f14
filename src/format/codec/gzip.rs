//! gzip: a writer of one member, whose blocks are compressed in parallel, and a reader of any number
//! of members.

use std::io::{self, BufRead, Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compress, Crc, FlushCompress, Status};

use super::{Format, decoding_error};
use crate::base::error::{Error, Result};
use crate::base::threads;

/// Size of a block in bytes. As in pigz, each block is compressed separately, with the end of the
/// previous block as its dictionary. Larger blocks compress better. This size costs about 0.02 %.
const BLOCK: usize = 1 << 20;
/// Size of deflate's window in bytes (RFC 1951 §2).
pub(crate) const WINDOW: usize = 1 << 15;
/// The header without a name or time and with an unknown system, so that it is always the same.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Writes one gzip member.
pub struct GzipEncoder<W> {
    out: W,
    level: u32,
    /// Size of a batch in bytes: a block for each worker.
    batch: usize,
    /// The last [`WINDOW`] bytes before `pending`.
    before: Vec<u8>,
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
            batch: BLOCK * workers.max(1) as usize,
            before: Vec::new(),
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

    /// Compresses the pending blocks in parallel, and writes them in order.
    fn write_batch(&mut self, last: bool) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&HEADER)?;
            self.begun = true;
        }
        self.crc.update(&self.pending);
        let mut blocks: Vec<&[u8]> = self.pending.chunks(BLOCK).collect();
        if blocks.is_empty() {
            blocks.push(&[]);
        }
        let count = blocks.len();
        let level = self.level;
        let next = AtomicUsize::new(0);
        let slots: Vec<OnceLock<Result<Vec<u8>>>> =
            blocks.iter().map(|_| OnceLock::new()).collect();
        threads::run_on(count, || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(block) = blocks.get(i) else { break };
                let before: &[u8] = if i == 0 { &self.before } else { blocks[i - 1] };
                let dictionary = &before[before.len().saturating_sub(WINDOW)..];
                slots[i].get_or_init(|| deflate(block, dictionary, level, last && i + 1 == count));
            }
        });
        let died = || Err(Error::malformed("a compressing thread died"));
        let deflated = slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(died));
        for block in deflated.collect::<Vec<_>>() {
            self.out.write_all(&block?)?;
        }
        let keep = self.pending.len().saturating_sub(WINDOW);
        self.before.clear();
        self.before.extend_from_slice(&self.pending[keep..]);
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // A full batch waits for more input: only `finish` may write the last block, so that the
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

/// Compresses one block as raw deflate that ends at a byte boundary.
///
/// # Errors
/// If the encoder fails.
pub(crate) fn deflate(block: &[u8], dictionary: &[u8], level: u32, last: bool) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::malformed(format!("deflate: {e}"));
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary).map_err(|e| failed(&e))?;
    }
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let taken = compress.total_in() as usize;
        let status =
            compress.compress_vec(&block[taken..], &mut out, flush).map_err(|e| failed(&e))?;
        let full = out.len() == out.capacity();
        match status {
            Status::StreamEnd => return Ok(out),
            // A sync flush is complete if the output is not full.
            Status::Ok | Status::BufError if !last && !full => return Ok(out),
            _ => out.reserve(1 << 16),
        }
    }
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
