//! zstd: a writer of one frame, with the same bytes for every number of workers, and a reader of any
//! number of frames.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name,
};

use super::zstd_headers::Head;
use super::zstd_levels::Level;
use super::{Format, decoding_error};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::MAX_ZSTD_WINDOW_LOG;
use crate::model::content::{WindowBudget, WindowReservation};

/// Log2 of 8 MiB, which RFC 8878 §3.1.1.1.2 asks every decoder to support, and which the zstd layers of
/// skopeo and containerd need too. Low levels would use less: 2 MiB at level 3, and make layers larger.
const DEFAULT_WINDOW: u32 = 23;
/// The lowest level whose own window is larger.
const WIDE_LEVEL: i32 = 20;
/// Number of bytes that one worker compresses at a time. It is fixed, since it affects the output.
const JOB: u32 = 8 << 20;

/// Approximate bytes of memory of a job: its input and output.
pub(super) const MEMORY_PER_JOB: u64 = 24 << 20;

/// Size of the output buffer in bytes.
const OUT: usize = 1 << 17;

/// How long to wait for a worker, and how often before zstd is asked for output whose size it doesn't tell.
const PAUSE: Duration = Duration::from_micros(20);
const PAUSES: u32 = 50;

/// Compressors for later frames. A new one would take all of its memory from the system again.
#[derive(Default)]
pub struct Contexts(Mutex<Vec<CCtx<'static>>>);

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").finish_non_exhaustive()
    }
}

/// Writes one frame.
pub struct ZstdEncoder<W> {
    out: W,
    context: CCtx<'static>,
    contexts: Arc<Contexts>,
    buffer: Vec<u8>,
}

impl<W> std::fmt::Debug for ZstdEncoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdEncoder").finish_non_exhaustive()
    }
}

impl<W: Write> ZstdEncoder<W> {
    pub(super) fn new(
        out: W,
        (level, window_log): (i32, Option<u32>),
        workers: u32,
        size: u64,
        contexts: &Arc<Contexts>,
    ) -> io::Result<Self> {
        let idle = contexts.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = idle.or_else(CCtx::try_create).ok_or(io::ErrorKind::OutOfMemory)?;
        context.reset(ResetDirective::SessionAndParameters).map_err(zstd_says)?;
        set_level(&mut context, level, window_log)?;
        let mut set = |parameter| context.set_parameter(parameter).map(drop).map_err(zstd_says);
        // Never 0: the output without workers differs from that with any number of workers.
        set(CParameter::NbWorkers(workers.max(1)))?;
        set(CParameter::JobSize(JOB))?;
        set(CParameter::ContentSizeFlag(true))?;
        set(CParameter::ChecksumFlag(false))?;
        context.set_pledged_src_size(Some(size)).map_err(zstd_says)?;
        let contexts = Arc::clone(contexts);
        Ok(Self { out, context, contexts, buffer: vec![0; OUT] })
    }

    /// Gives input to the workers, or ends the frame, and writes what is ready. Returns 0 if the frame has
    /// ended.
    fn step(&mut self, input: &mut InBuffer<'_>, next: ZSTD_EndDirective) -> io::Result<usize> {
        // zstd waits for output, but not for a worker that has ended its job and can take the next one in a
        // moment: then it tries again at once, unless there is no room for output.
        for _ in 0..PAUSES {
            let before = input.pos();
            let mut no_room = OutBuffer::around(&mut [][..]);
            let left = self.context.compress_stream2(&mut no_room, input, next);
            match left.map_err(encoder_says)? {
                0 => return Ok(0),
                // Or it can't tell.
                1 if input.pos() > before => return Ok(1),
                1 => std::thread::sleep(PAUSE),
                left => return self.write_ready(left, input, next),
            }
        }
        self.write_ready(1, input, next)
    }

    /// Writes some of the `ready` bytes.
    fn write_ready(
        &mut self,
        ready: usize,
        input: &mut InBuffer<'_>,
        next: ZSTD_EndDirective,
    ) -> io::Result<usize> {
        let mut output = OutBuffer::around(&mut self.buffer[..ready.min(OUT)]);
        let left = self.context.compress_stream2(&mut output, input, next).map_err(encoder_says)?;
        self.out.write_all(output.as_slice())?;
        Ok(left)
    }

    /// Ends the frame.
    pub(super) fn finish(mut self) -> io::Result<W> {
        while self.step(&mut InBuffer::around(&[]), ZSTD_EndDirective::ZSTD_e_end)? > 0 {}
        self.contexts.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.context);
        Ok(self.out)
    }
}

/// Returns the bytes of a worker's tables, and of half of a window that is wider than by default.
pub(super) fn tables(level: i32, window_log: Option<u32>) -> u64 {
    let own = Level::of(level);
    let window = window_log.unwrap_or(DEFAULT_WINDOW);
    let wide = (1 << window) + own.long_table(window, None);
    own.tables(window, None) + if window > DEFAULT_WINDOW { wide / 2 } else { 0 }
}

/// Sets the level and the window of a compressor.
///
/// # Errors
/// If it doesn't have that level or window.
pub(crate) fn set_level(
    context: &mut CCtx<'_>,
    level: i32,
    window_log: Option<u32>,
) -> io::Result<()> {
    let mut set = |parameter| context.set_parameter(parameter).map(drop).map_err(zstd_says);
    set(CParameter::CompressionLevel(level))?;
    let log = window_log.unwrap_or(DEFAULT_WINDOW);
    set(CParameter::WindowLog(log))?;
    // Only this finds matches far back.
    set(CParameter::EnableLongDistanceMatching(log > DEFAULT_WINDOW))
}

impl<W: Write> Write for ZstdEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut input = InBuffer::around(bytes);
        while input.pos() == 0 && !bytes.is_empty() {
            self.step(&mut input, ZSTD_EndDirective::ZSTD_e_continue)?;
        }
        Ok(input.pos())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A flush in the middle would change the bytes.
        Ok(())
    }
}

/// Explains an error of the compressor. zstd starts workers with the first bytes, and reports a lack of
/// memory if it can't.
fn encoder_says(code: usize) -> io::Error {
    if code != NO_MEMORY.wrapping_neg() {
        return zstd_says(code);
    }
    Error::new(
        ErrorKind::Io,
        "zstd can't get memory or threads from the system (ulimit -u, ulimit -v); --threads 1 needs \
         the least of both",
    )
    .into()
}

/// `ZSTD_error_memory_allocation` (`zstd_errors.h`).
const NO_MEMORY: usize = 64;

/// Writes one frame of a small text.
pub(super) type TextEncoder<W> = zstd::stream::write::Encoder<'static, W>;

/// Returns an encoder for a small text whose size is not known yet. It has no workers.
pub(super) fn text_encoder<W: Write>(out: W, level: i32) -> io::Result<TextEncoder<W>> {
    let mut encoder = TextEncoder::new(out, level)?;
    if level >= WIDE_LEVEL {
        encoder.window_log(DEFAULT_WINDOW)?;
    }
    encoder.include_checksum(false)?;
    Ok(encoder)
}

/// Reads frames in order. Before each frame, its window is reserved from a budget that all decoders
/// share.
pub(super) struct ZstdDecoder<R> {
    inner: R,
    context: DCtx<'static>,
    windows: Arc<WindowBudget>,
    window: Option<WindowReservation>,
    /// Bytes that were read from `inner` and are not decoded yet.
    head: Vec<u8>,
    within: bool,
}

impl<R: BufRead> ZstdDecoder<R> {
    pub(super) fn new(inner: R, windows: &Arc<WindowBudget>) -> Result<Self> {
        let mut context = DCtx::create();
        let limit = DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG);
        context.set_parameter(limit).map_err(|code| Error::malformed(get_error_name(code)))?;
        let (windows, head) = (Arc::clone(windows), Vec::new());
        Ok(Self { inner, context, windows, window: None, head, within: false })
    }

    /// Reads the header of the next frame and reserves its window. Returns false at the end of input.
    fn begin(&mut self) -> io::Result<bool> {
        while self.head.len() < Head::MAX_BYTES {
            let next = self.inner.fill_buf()?;
            if next.is_empty() {
                break;
            }
            let n = next.len().min(Head::MAX_BYTES - self.head.len());
            self.head.extend_from_slice(&next[..n]);
            self.inner.consume(n);
        }
        if let Some(Head::Content { window, .. }) = Head::parse(&self.head)
            // The decoder refuses larger windows.
            && window <= 1 << MAX_ZSTD_WINDOW_LOG
            && self.window.as_ref().is_none_or(|w| w.bytes() < window)
        {
            // Release the old window first: a decoder that waits for a window must not hold one, or
            // decoders could wait for each other. The context allocates new buffers anyway.
            self.window = None;
            self.context.reset(ResetDirective::SessionOnly).map_err(zstd_says)?;
            self.window = Some(self.windows.reserve(window)?);
        }
        self.within = !self.head.is_empty();
        Ok(self.within)
    }

    fn read_any(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            let from_head = !self.head.is_empty();
            let bytes = if from_head { &self.head } else { self.inner.fill_buf()? };
            let end = bytes.is_empty();
            let (mut input, mut out) = (InBuffer::around(bytes), OutBuffer::around(buf));
            let left = self.context.decompress_stream(&mut out, &mut input);
            let (taken, made) = (input.pos(), out.pos());
            if from_head {
                self.head.drain(..taken);
            } else {
                self.inner.consume(taken);
            }
            self.within = left.map_err(zstd_says)? > 0;
            if made > 0 {
                return Ok(made);
            }
            if self.within && end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn zstd_says(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

impl<R: BufRead> Read for ZstdDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_any(buf).map_err(|e| decoding_error(e, Format::Zstd))
    }
}
