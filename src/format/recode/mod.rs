//! Reproduces gzip blobs of other tools from their uncompressed bytes and small corrections.
//!
//! ```text
//! blob ─ inflate ─▶ segments of blocks and tokens ─ coding ─▶ corrections
//!                                    ▲ predict: chains, sections; trees
//! ```
//!
//! A compressed stream is a series of choices: which bytes to write as literals and which as a match
//! with which earlier ones, where to begin a new block, and how to write its codes. Encoders choose by
//! rules. So the corrections name the encoder that a blob most likely has, and have each choice in
//! which the blob differs from it. docs/RECODE.md has the format and the encoders.
//!
//! Imports `base` and `model`. To know: [`analyze`] and [`rebuild`], the two directions; inside,
//! [`Segment`], the unit of work, and [`Predictor`], a simulated
//! encoder.

mod bits;
mod chains;
mod coding;
mod deflate;
mod finder;
mod gofast;
mod headers;
mod inflate;
mod klauspost;
mod models;
mod odds;
mod predict;
mod sections;
mod segment;
#[cfg(test)]
mod tests;
mod trees;

pub(crate) use deflate::WINDOW as DEFLATE_WINDOW;

use std::io::{Read, Write};

use rayon::prelude::*;

use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_CORRECTIONS;
use crate::base::progress::Progress;
use crate::base::varint;
use crate::model::digest::{Digest, Hashing};
use bits::Stop;
use coding::SegmentBytes;
use inflate::Parser;
use models::Model;
use predict::{Predictor, Recorder, Replay};
use segment::{AFTER, BEFORE, MAX_PLAIN, Segment};

/// The first byte of corrections.
const VERSION: u8 = 1;
/// Number of segments that share a model, whatever the number of threads. Each takes a few MiB.
const BATCH: usize = 8;
/// A model is good if a segment is at least this many times larger than its corrections.
const GOOD_RATIO: usize = 400;
/// Maximum number of times a model is chosen for a blob.
const MAX_CHOICES: u32 = 8;
/// Size of corrections that is accepted for any blob.
const ALLOWED_CORRECTIONS: u64 = 256;
/// Compressed bytes after which corrections that are too large end the analysis.
const PROBE: u64 = 8 << 20;

/// Digest and sizes of a blob that [`analyze`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GzipAnalysis {
    /// Digest of the uncompressed bytes: a layer's diff ID.
    pub plain: Digest,
    /// Number of uncompressed bytes.
    pub plain_size: u64,
    /// Number of compressed bytes.
    pub size: u64,
    /// Bytes of corrections.
    pub corrections: u64,
}

/// Returns the offsets in bits of the last block and of its end, of a deflate stream that is all of
/// `stream`; `None` if it is not valid.
pub(crate) fn last_block(stream: &[u8]) -> Option<(usize, usize)> {
    bits::last_block(stream).ok()
}

/// Writes the corrections from which [`rebuild`] reproduces a gzip blob. Reads `blob` to its end;
/// `progress` advances by its bytes.
///
/// Returns `None` if the blob is not valid gzip, has a form that is not supported, or would need
/// corrections of more than a third of its size plus 256 bytes; the contents of `out` are then
/// useless. Otherwise it was checked that every segment can be reproduced.
///
/// # Errors
/// If reading or writing fails.
pub fn analyze(
    blob: &mut dyn Read,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Option<GzipAnalysis>> {
    let mut hash = Hashing::new(std::io::sink());
    let (mut size, mut written) = (0, 1);
    out.write_all(&[VERSION]).with_context(|| "writing corrections")?;
    let mut parser = Parser::new(blob);
    let (mut model, mut choices, mut ended) = (None, 0, false);
    // Segments that are not yet coded, and the offset of the first one in the parser's bytes.
    let (mut waiting, mut begin) = (Vec::new(), 0);
    loop {
        while !ended && !batch_is_complete(&waiting, begin, parser.plain.len()) {
            match parser.segment() {
                Ok(Some(segment)) => waiting.push(segment),
                Ok(None) => ended = true,
                Err(Stop::Unsupported) => return Ok(None),
                Err(Stop::Failed(e)) => return Err(Error::from(e).context("reading the blob")),
            }
        }
        let jobs: Vec<Segment> = waiting.drain(..waiting.len().min(BATCH)).collect();
        if jobs.is_empty() {
            break;
        }
        let mut places = Vec::new();
        for job in &jobs {
            places.push((segment_bytes(&parser.plain, begin, job.plain), job));
            begin += job.plain;
        }
        if model.is_none() {
            // The largest segment is the most representative.
            let largest = places.iter().max_by_key(|(_, job)| job.tokens.len());
            model = largest.map(|(bytes, job)| choose(*bytes, job));
            choices += 1;
        }
        let chosen = model.unwrap_or(Model::FIRST);
        let coded: Vec<Option<Vec<u8>>> =
            places.par_iter().map(|(bytes, job)| encode_checked(chosen, *bytes, job)).collect();
        for ((bytes, job), payload) in places.iter().zip(coded) {
            let Some(payload) = payload else { return Ok(None) };
            if payload.len() > job.packed.len() / GOOD_RATIO && choices < MAX_CHOICES {
                model = None;
            }
            let mut record = Vec::with_capacity(payload.len() + 16);
            record.push(chosen.0);
            for n in [bytes.size, payload.len()] {
                varint::put(&mut record, n as u64);
            }
            record.extend_from_slice(&payload);
            out.write_all(&record).with_context(|| "writing corrections")?;
            written += record.len() as u64;
            // A byte that two segments share counts for the second.
            let packed = (job.packed.len() - usize::from(job.end_phase > 0)) as u64;
            size += packed;
            progress.advance(packed);
            let plain = &bytes.data[bytes.begin..bytes.begin + bytes.size];
            hash.write_all(plain).with_context(|| "hashing")?;
        }
        if size > PROBE && written > size / 3 {
            return Ok(None);
        }
        let forget = begin.saturating_sub(BEFORE);
        parser.forget(forget);
        begin -= forget;
    }
    if written > size / 3 + ALLOWED_CORRECTIONS {
        return Ok(None);
    }
    let (_, plain, plain_size) = hash.finish();
    Ok(Some(GzipAnalysis { plain, plain_size, size, corrections: written }))
}

/// Whether a batch was parsed, with all bytes that its prediction depends on.
fn batch_is_complete(waiting: &[Segment], begin: usize, plain: usize) -> bool {
    let size: usize = waiting.iter().take(BATCH).map(|s| s.plain).sum();
    waiting.len() >= BATCH && plain - begin - size >= AFTER
}

/// Returns a segment's bytes, and those around it that its prediction depends on.
fn segment_bytes(plain: &[u8], begin: usize, size: usize) -> SegmentBytes<'_> {
    let before = begin.min(BEFORE);
    let end = plain.len().min(begin + size + AFTER);
    SegmentBytes { data: &plain[begin - before..end], begin: before, size }
}

/// Returns the size of a segment's corrections.
fn cost(model: Model, bytes: SegmentBytes<'_>, segment: &Segment) -> Option<usize> {
    let mut coder = crate::base::range_coder::RangeEncoder::new();
    let mut predictor = model.predictor()?;
    coding::code(&mut coder, model.memory(), &mut *predictor, bytes, segment).ok()?;
    Some(coder.finish().len())
}

/// Returns the corrections of a segment after checking that they reproduce it. The search for
/// matches takes most of the time and depends on the uncompressed bytes only, so it is not repeated.
fn encode_checked(model: Model, bytes: SegmentBytes<'_>, segment: &Segment) -> Option<Vec<u8>> {
    let mut coder = crate::base::range_coder::RangeEncoder::new();
    let mut recorder = Recorder { inner: model.predictor()?, predictions: Vec::new() };
    coding::code(&mut coder, model.memory(), &mut recorder, bytes, segment).ok()?;
    let payload = coder.finish();
    let mut replay = Replay(recorder.predictions.into_iter());
    let again = decode(model, &mut replay, bytes, &payload).ok()?;
    let plain = &bytes.data[bytes.begin..bytes.begin + bytes.size];
    again.is_written_as(&segment.packed, plain).then_some(payload)
}

/// Decodes a segment from its corrections.
fn decode(
    model: Model,
    predictor: &mut dyn Predictor,
    bytes: SegmentBytes<'_>,
    payload: &[u8],
) -> Result<Segment> {
    let mut coder = crate::base::range_coder::RangeDecoder::new(payload);
    coding::code(&mut coder, model.memory(), predictor, bytes, &Segment::default())
}

/// Chooses the model with the smallest corrections.
fn choose(bytes: SegmentBytes<'_>, segment: &Segment) -> Model {
    let cost = |model: Model| cost(model, bytes, segment).unwrap_or(usize::MAX);
    let mut best = (usize::MAX, Model::FIRST);
    for model in Model::likely_first() {
        let cost = cost(model);
        if cost < best.0 {
            best = (cost, model);
        }
        if best.0 < segment.packed.len() / GOOD_RATIO {
            break;
        }
    }
    // Of equal ones the first is the most likely.
    let others = best.1.with_other_memories().map(|model| (cost(model), model));
    others.fold(best, |best, other| if other.0 < best.0 { other } else { best }).1
}

/// Reproduces a blob from its uncompressed bytes and the corrections that [`analyze`] wrote. `size` is
/// the blob's size. The caller must check its digest.
///
/// # Errors
/// If reading or writing fails, or if corrections, uncompressed bytes and size do not fit together.
pub fn rebuild(
    plain: &mut dyn Read,
    corrections: &mut dyn Read,
    size: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let mut version = [0];
    corrections.read_exact(&mut version).with_context(|| "reading corrections")?;
    if version[0] != VERSION {
        return Err(Error::unsupported(format!(
            "the corrections have format version {}, this relayer reads version {VERSION}",
            version[0]
        )));
    }
    let batch = rayon::current_num_threads().clamp(1, BATCH);
    let (mut window, mut begin) = (Vec::new(), 0);
    let (mut left, mut held, mut held_bits) = (size, 0u8, 0);
    loop {
        let mut records = Vec::new();
        while records.len() < batch
            && let Some(record) = Record::read(corrections)?
        {
            records.push(record);
        }
        if records.is_empty() {
            break;
        }
        let total: usize = records.iter().map(|r| r.plain).sum();
        let missing = (begin + total + AFTER).saturating_sub(window.len()) as u64;
        (&mut *plain)
            .take(missing)
            .read_to_end(&mut window)
            .with_context(|| "reading uncompressed bytes")?;
        if window.len() < begin + total {
            return Err(Error::mismatch(
                "there are fewer uncompressed bytes than the corrections describe",
            ));
        }
        let mut places = Vec::new();
        for record in &records {
            places.push((segment_bytes(&window, begin, record.plain), record));
            begin += record.plain;
        }
        let segments: Vec<Result<(u32, Vec<u8>, u32)>> =
            places.par_iter().map(|(bytes, record)| record.rebuild(*bytes)).collect();
        for segment in segments {
            let (phase, mut packed, end) = segment?;
            if phase != held_bits {
                return Err(Error::malformed(
                    "two segments of the corrections do not fit together",
                ));
            }
            if let Some(first) = packed.first_mut() {
                *first |= held;
            }
            held_bits = end;
            held = if end > 0 { packed.pop().unwrap_or(0) } else { 0 };
            left = left
                .checked_sub(packed.len() as u64)
                .ok_or_else(|| Error::mismatch(format!("the blob has more than {size} bytes")))?;
            out.write_all(&packed).with_context(|| "writing the blob")?;
        }
        let forget = begin.saturating_sub(BEFORE);
        window.drain(..forget);
        begin -= forget;
    }
    if left > 0 || held_bits > 0 {
        return Err(Error::mismatch(format!("the blob has {} bytes, not {size}", size - left)));
    }
    Ok(())
}

/// The corrections of a segment.
struct Record {
    model: Model,
    plain: usize,
    payload: Vec<u8>,
}

impl Record {
    /// Returns the number of bits in the first byte that the segment before has, the compressed bytes, and
    /// the number of bits that are used in the last one.
    fn rebuild(&self, bytes: SegmentBytes<'_>) -> Result<(u32, Vec<u8>, u32)> {
        let mut predictor = self.model.predictor().ok_or_else(|| {
            Error::unsupported(format!(
                "the corrections name encoder model {}, which this relayer does not have",
                self.model.0
            ))
        })?;
        let segment = decode(self.model, &mut *predictor, bytes, &self.payload)?;
        let plain = &bytes.data[bytes.begin..bytes.begin + bytes.size];
        let (packed, end) = segment.write(plain)?;
        Ok((segment.phase, packed, end))
    }

    /// Reads the next one; `None` at the end.
    fn read(from: &mut dyn Read) -> Result<Option<Self>> {
        let failed = || "reading corrections";
        let mut model = Vec::new();
        (&mut *from).take(1).read_to_end(&mut model).with_context(failed)?;
        let Some(model) = model.first() else { return Ok(None) };
        let plain = read_varint(from).with_context(failed)?;
        let size = read_varint(from).with_context(failed)?;
        // A segment ends with the token that exceeds its limit.
        if plain > MAX_PLAIN as u64 + 300 || size > MAX_CORRECTIONS {
            return Err(Error::malformed(format!(
                "a segment of the corrections states {plain} and {size} bytes, which is too large"
            )));
        }
        let mut payload = Vec::new();
        (&mut *from).take(size).read_to_end(&mut payload).with_context(failed)?;
        if payload.len() as u64 != size {
            return Err(Error::malformed("the corrections are truncated"));
        }
        Ok(Some(Self { model: Model(*model), plain: plain as usize, payload }))
    }
}

/// Reads a number of seven bits a byte, the lowest first; the highest bit of a byte says that more
/// follow.
fn read_varint(from: &mut dyn Read) -> std::io::Result<u64> {
    let mut n = 0;
    for i in 0..5 {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        n |= u64::from(byte[0] & 0x7f) << (7 * i);
        if byte[0] < 0x80 {
            break;
        }
    }
    Ok(n)
}
