//! Compression of streams: size, and the time of the thread that compresses.
//!
//! Times are those of the processor (`CLOCK_THREAD_CPUTIME_ID`), so that other programs and the disk don't
//! count. zstd's own workers would not be seen by that clock, so a sample is compressed without them.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use zstd::zstd_safe::{CCtx, InBuffer, OutBuffer, get_error_name};

use super::sample::Part;
use crate::base::error::{Context, Error, Result};
use crate::base::read::read_some;
use crate::format::codec::{self, Compression, Encoder, zstd_headers};
use crate::format::recode;
use crate::model::content::{Budget, ReadAt, SourceReader, SpoolWriter, WindowBudget};

/// Maximum number of bytes that are compressed at once, so that memory is bounded.
const MOST: u64 = 16 << 20;

impl Part {
    /// Returns this part in pieces that memory has room for.
    fn pieces(&self) -> impl Iterator<Item = Self> + use<> {
        let Self { start, end } = *self;
        let piece = move |at: u64| Self { start: at, end: end.min(at + MOST / 2) };
        (start..end).step_by(MOST as usize / 2).map(piece)
    }
}

/// What was measured of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Measured {
    /// Bytes of tar that count.
    pub(super) tar_bytes: u64,
    /// Bytes that they take.
    pub(super) blob_bytes: u64,
    /// Bytes of tar that were compressed and decompressed, with context.
    pub(super) streamed: u64,
    /// Bytes of the largest window.
    pub(super) window: u64,
    /// Processor time of compression.
    pub(super) encode: Duration,
    /// Processor time of decompression.
    pub(super) decode: Duration,
}

impl Measured {
    pub(super) fn add(&mut self, other: &Self) {
        self.tar_bytes += other.tar_bytes;
        self.blob_bytes += other.blob_bytes;
        self.streamed += other.streamed;
        self.window = self.window.max(other.window);
        self.encode += other.encode;
        self.decode += other.decode;
    }
}

/// Returns how many bytes of memory it takes about to measure a compression.
pub(super) fn memory(compression: &Compression) -> u64 {
    memory_of_whole(compression).max(memory_of_parts(compression))
}

/// Returns how many bytes of memory [`whole`] takes about.
pub(super) fn memory_of_whole(compression: &Compression) -> u64 {
    // One thread, but the whole window.
    2 * compression.memory_per_worker()
}

/// Returns how many bytes of memory [`parts`] takes about.
pub(super) fn memory_of_parts(compression: &Compression) -> u64 {
    // Bytes, their frame, and the decoder's window.
    3 * MOST + compression.memory_per_worker()
}

/// Returns the processor time that `work` takes on this thread, and its result.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = clock_gettime(ClockId::ThreadCPUTime);
    let result = work()?;
    let spent = clock_gettime(ClockId::ThreadCPUTime) - start;
    Ok((Duration::try_from(spent).unwrap_or_default(), result))
}

/// Compresses a whole tar as `split` does. Returns the bytes of the blob and of its window.
///
/// # Errors
/// If the tar can't be read, or the temporary file fails.
pub(super) fn whole(
    tar: &dyn ReadAt,
    compression: &Compression,
    budget: &Arc<Budget>,
) -> Result<(u64, u64)> {
    let place = || format!("compressing with {compression}");
    let mut encoder = Encoder::new(SpoolWriter::new(budget), compression, 1, tar.size())?;
    copy(&mut SourceReader::all(tar), &mut encoder).with_context(place)?;
    let (spool, _) = encoder.finish().with_context(place)?;
    let blob = spool.finish()?;
    Ok((blob.size(), window(compression, &blob)))
}

/// Compresses the parts of a tar, each after up to `context` bytes before it.
///
/// # Errors
/// If the tar can't be read, or the compressor fails.
pub(super) fn parts(
    tar: &dyn ReadAt,
    parts: &[Part],
    context: u64,
    compression: &Compression,
) -> Result<Measured> {
    let place = || format!("compressing with {compression}");
    let joins = matches!(compression, Compression::Zstd { .. });
    let pieces: Vec<Part> = parts.iter().flat_map(Part::pieces).collect();
    let mut sum = Measured::default();
    let mut rest = pieces.as_slice();
    while let Some(first) = rest.first() {
        let from = first.start.saturating_sub(context);
        // Parts that are context of each other are one stream.
        let near = |pair: &[Part]| {
            joins && pair[1].start <= pair[0].end + context && pair[1].end - from < MOST
        };
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let (stream, after) = rest.split_at(count);
        rest = after;
        sum.add(&stream_of(tar, from, stream, compression).with_context(place)?);
    }
    Ok(sum)
}

/// Compresses the tar from `from` to the end of the last part, and decompresses it again.
fn stream_of(
    tar: &dyn ReadAt,
    from: u64,
    parts: &[Part],
    compression: &Compression,
) -> Result<Measured> {
    let end = parts.last().map_or(from, |part| part.end);
    let mut bytes = vec![0; (end - from) as usize];
    tar.read_exact_at(&mut bytes, from)?;
    let tar_bytes: u64 = parts.iter().map(|part| part.end - part.start).sum();
    let streamed = bytes.len() as u64;
    let (encode, (frame, blob_bytes)) =
        if let Compression::Zstd { level, window_log } = *compression {
            let ends = |part: &Part| [(part.start - from) as usize, (part.end - from) as usize];
            zstd_frame(&bytes, parts.iter().flat_map(ends), level, window_log)?
        } else {
            let encode = |bytes: &[u8]| -> Result<Vec<u8>> {
                let mut encoder = Encoder::new(Vec::new(), compression, 1, bytes.len() as u64)?;
                encoder.write_all(bytes)?;
                Ok(encoder.finish()?.0)
            };
            let (time, blob) = timed(|| encode(&bytes))?;
            let context = encode(&bytes[..(streamed - tar_bytes) as usize])?.len();
            let bytes = blob.len().saturating_sub(context) as u64;
            (time, (blob, bytes))
        };
    let (decode, _) = timed(|| {
        let windows = WindowBudget::new(u64::MAX);
        let (_, mut decoder) = codec::decode(frame.as_slice(), &windows)?;
        Ok(copy(&mut decoder, &mut io::sink())?)
    })?;
    let window = window(compression, &frame);
    Ok(Measured { tar_bytes, blob_bytes, streamed, window, encode, decode })
}

/// Compresses `bytes` as one frame. Returns its time, and the bytes of every second piece between `cuts`.
fn zstd_frame(
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
    level: i32,
    window_log: Option<u32>,
) -> Result<(Duration, (Vec<u8>, u64))> {
    let failed = |code| Error::malformed(get_error_name(code));
    let mut context = CCtx::create();
    codec::set_level(&mut context, level, window_log)?;
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()) + (1 << 16));
    let (mut counted, mut from, mut counts) = (0, 0, false);
    let (time, ()) = timed(|| {
        for cut in cuts.chain([bytes.len()]) {
            let before = frame.len();
            let mut input = InBuffer::around(&bytes[from..cut]);
            loop {
                let at = frame.len();
                let mut output = OutBuffer::around_pos(&mut frame, at);
                if input.pos() < cut - from {
                    context.compress_stream(&mut output, &mut input).map_err(failed)?;
                } else if context.flush_stream(&mut output).map_err(failed)? == 0 {
                    break;
                }
            }
            counted += if counts { frame.len() - before } else { 0 };
            (from, counts) = (cut, !counts);
        }
        let at = frame.len();
        context.end_stream(&mut OutBuffer::around_pos(&mut frame, at)).map_err(failed)?;
        Ok(())
    })?;
    Ok((time, (frame, counted as u64)))
}

/// Copies like `io::copy`, in larger pieces.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<u64> {
    let mut buf = vec![0; 1 << 17];
    let mut all = 0;
    loop {
        let n = read_some(from, &mut buf)?;
        if n == 0 {
            return Ok(all);
        }
        to.write_all(&buf[..n])?;
        all += n as u64;
    }
}

/// Returns the size of the window of a blob's decoder.
fn window(compression: &Compression, blob: &dyn ReadAt) -> u64 {
    match compression {
        Compression::None => 0,
        Compression::Gzip { .. } => recode::DEFLATE_WINDOW as u64,
        Compression::Zstd { .. } | Compression::Chunked { .. } => zstd_headers::frames(blob).window,
    }
}
