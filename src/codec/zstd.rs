//! zstd: one frame with the same bytes for every number of workers, and a reader of any number of
//! frames.

use std::io::{self, BufRead, Read, Write};

use zstd::zstd_safe::CParameter;

use super::{Format, decoding_error};
use crate::error::Result;

/// Clients decode windows up to 2²⁷ bytes (libzstd's default limit).
pub(super) const MAX_WINDOW: u32 = 27;
/// 8 MiB, which RFC 8878 §3.1.1.1.2 asks every decoder to support. Levels up to 19 stay within.
const DEFAULT_WINDOW: u32 = 23;
/// The lowest level whose own window is larger.
const WIDE_LEVEL: i32 = 20;
/// Bytes that one worker compresses at a time. Part of what decides the output, so it is fixed.
const JOB: u32 = 8 << 20;

pub(super) type Encoder<W> = zstd::stream::write::Encoder<'static, W>;

pub(super) fn encoder<W: Write>(
    out: W,
    level: i32,
    window_log: Option<u32>,
    workers: u32,
    size: u64,
) -> io::Result<Encoder<W>> {
    let mut encoder = Encoder::new(out, level)?;
    // Never 0: without workers zstd makes other bytes than with any number of them.
    encoder.set_parameter(CParameter::NbWorkers(workers.max(1)))?;
    encoder.set_parameter(CParameter::JobSize(JOB))?;
    match window_log {
        Some(log) => {
            encoder.window_log(log)?;
            // What lies far back is only found by this.
            encoder.long_distance_matching(log > DEFAULT_WINDOW)?;
        }
        None if level >= WIDE_LEVEL => encoder.window_log(DEFAULT_WINDOW)?,
        None => {}
    }
    encoder.set_pledged_src_size(Some(size))?;
    encoder.include_contentsize(true)?;
    encoder.include_checksum(false)?;
    Ok(encoder)
}

/// For a text whose size is not known, without workers: small, and compressed as it comes.
pub(super) fn text_encoder<W: Write>(out: W, level: i32) -> io::Result<Encoder<W>> {
    let mut encoder = Encoder::new(out, level)?;
    if level >= WIDE_LEVEL {
        encoder.window_log(DEFAULT_WINDOW)?;
    }
    encoder.include_checksum(false)?;
    Ok(encoder)
}

pub(super) struct Decoder<R: BufRead>(zstd::stream::read::Decoder<'static, R>);

pub(super) fn decoder<R: BufRead>(inner: R) -> Result<Decoder<R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
    decoder.window_log_max(MAX_WINDOW)?;
    Ok(Decoder(decoder))
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| decoding_error(e, Format::Zstd))
    }
}
