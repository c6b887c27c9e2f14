//! Takes a gzip blob that another tool wrote apart into its plain bytes and small corrections, of
//! which the same blob can be made again.
//!
//! ```text
//! blob ─ inflate ─▶ segments of blocks and tokens ─ coding ─▶ corrections
//!                                    ▲ predict: chains, sections; trees
//! ```
//!
//! A compressed stream is a series of choices: which bytes to write as they are, which as a
//! repetition of which earlier ones, where to begin a new code and how to write it down. Encoders
//! choose by rules, so what is kept is which encoder it most likely was, and where it was not.
//! docs/RECODE.md has the format and the encoders.

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

use std::io::{Read, Write};

use rayon::prelude::*;

use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::varint;
use crate::model::digest::{Digest, Hashing};
use coding::Bytes;
use inflate::{Parser, Stop};
use models::Model;
use predict::{Predictor, Recorder, Replay};
use segment::{AFTER, BEFORE, MAX_PLAIN, Segment};

/// The first byte of corrections.
const VERSION: u8 = 1;
/// Segments of which the model is chosen together, however many are worked on at once. Each takes
/// some MiB.
const BATCH: usize = 8;
/// A model is good when the corrections of a segment are at most this part of it. It is looked for
/// again when they are not, so many times.
const GOOD: usize = 400;
const CHOICES: u32 = 8;
/// Corrections of a segment have at most so many bytes.
const MAX_PAYLOAD: u64 = 16 << 20;
/// So many bytes of corrections are worth it for the smallest blob.
const LITTLE: u64 = 256;
/// After so many compressed bytes it is known whether corrections are worth it.
const PROBE: u64 = 8 << 20;

/// What [`analyze`] took apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Analysis {
    /// The digest of the plain bytes: a layer's diff ID.
    pub plain: Digest,
    /// How many plain bytes there are.
    pub plain_size: u64,
    /// How many compressed bytes there are.
    pub size: u64,
    /// How many bytes of corrections.
    pub corrections: u64,
}

/// Writes the corrections of a gzip blob, of which [`rebuild`] makes it again. `blob` is read to
/// its end, `progress` advances by its bytes.
///
/// None when it is not gzip, is no valid deflate, is written in a way that cannot be taken apart, or
/// when the corrections would have more than a third of its size and 256 bytes; what is in `out` is
/// then of no use. Otherwise it is certain that the blob can be made again.
///
/// # Errors
/// When reading or writing fails.
pub fn analyze(
    blob: &mut dyn Read,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Option<Analysis>> {
    let mut hash = Hashing::new(std::io::sink());
    let (mut size, mut written) = (0, 1);
    out.write_all(&[VERSION]).with_context(|| "writing corrections")?;
    let mut parser = Parser::new(blob);
    let (mut model, mut choices, mut ended) = (None, 0, false);
    // Segments not yet coded, and where the first of them begins in the parser's bytes.
    let (mut waiting, mut begin) = (Vec::new(), 0);
    loop {
        while !ended && !full(&waiting, begin, parser.plain.len()) {
            match parser.segment() {
                Ok(Some(segment)) => waiting.push(segment),
                Ok(None) => ended = true,
                Err(Stop::Odd) => return Ok(None),
                Err(Stop::Failed(e)) => return Err(Error::from(e).context("reading the blob")),
            }
        }
        let jobs: Vec<Segment> = waiting.drain(..waiting.len().min(BATCH)).collect();
        if jobs.is_empty() {
            break;
        }
        let mut places = Vec::new();
        for job in &jobs {
            places.push((bytes(&parser.plain, begin, job.plain), job));
            begin += job.plain;
        }
        if model.is_none() {
            // The largest says most.
            let largest = places.iter().max_by_key(|(_, job)| job.tokens.len());
            model = largest.map(|(bytes, job)| choose(*bytes, job));
            choices += 1;
        }
        let chosen = model.unwrap_or(Model::FIRST);
        let coded: Vec<Option<Vec<u8>>> =
            places.par_iter().map(|(bytes, job)| checked(chosen, *bytes, job)).collect();
        for ((bytes, job), payload) in places.iter().zip(coded) {
            let Some(payload) = payload else { return Ok(None) };
            if payload.len() > job.packed.len() / GOOD && choices < CHOICES {
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
            // The byte that two segments share is counted with the second.
            let bytes_of = (job.packed.len() - usize::from(job.end_phase > 0)) as u64;
            size += bytes_of;
            progress.advance(bytes_of);
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
    if written > size / 3 + LITTLE {
        return Ok(None);
    }
    let (_, plain, plain_size) = hash.finish();
    Ok(Some(Analysis { plain, plain_size, size, corrections: written }))
}

/// Whether a batch is there with all bytes that its prediction sees.
fn full(waiting: &[Segment], begin: usize, plain: usize) -> bool {
    let size: usize = waiting.iter().take(BATCH).map(|s| s.plain).sum();
    waiting.len() >= BATCH && plain - begin - size >= AFTER
}

/// A segment in the bytes around it.
fn bytes(plain: &[u8], begin: usize, size: usize) -> Bytes<'_> {
    let before = begin.min(BEFORE);
    let end = plain.len().min(begin + size + AFTER);
    Bytes { data: &plain[begin - before..end], begin: before, size }
}

fn encode(model: Model, bytes: Bytes<'_>, segment: &Segment) -> Option<usize> {
    let mut coder = crate::base::range_coder::Encoder::new();
    let mut predictor = model.predictor()?;
    coding::code(&mut coder, model.memory(), &mut *predictor, bytes, segment).ok()?;
    Some(coder.finish().len())
}

/// The corrections of a segment, once it has been made again of them. The search for matches,
/// which takes nearly all of the time, is not done twice: it depends on the plain bytes only.
fn checked(model: Model, bytes: Bytes<'_>, segment: &Segment) -> Option<Vec<u8>> {
    let mut coder = crate::base::range_coder::Encoder::new();
    let mut recorder = Recorder { inner: model.predictor()?, said: Vec::new() };
    coding::code(&mut coder, model.memory(), &mut recorder, bytes, segment).ok()?;
    let payload = coder.finish();
    let mut replay = Replay(recorder.said.into_iter());
    let again = decode(model, &mut replay, bytes, &payload).ok()?;
    let plain = &bytes.data[bytes.begin..bytes.begin + bytes.size];
    again.is_written_as(&segment.packed, plain).then_some(payload)
}

fn decode(
    model: Model,
    predictor: &mut dyn Predictor,
    bytes: Bytes<'_>,
    payload: &[u8],
) -> Result<Segment> {
    let mut coder = crate::base::range_coder::Decoder::new(payload);
    coding::code(&mut coder, model.memory(), predictor, bytes, &Segment::default())
}

/// The model with the smallest corrections.
fn choose(bytes: Bytes<'_>, segment: &Segment) -> Model {
    let cost = |model: Model| encode(model, bytes, segment).unwrap_or(usize::MAX);
    let mut best = (usize::MAX, Model::FIRST);
    for model in Model::likely_first() {
        let cost = cost(model);
        if cost < best.0 {
            best = (cost, model);
        }
        if best.0 < segment.packed.len() / GOOD {
            break;
        }
    }
    // Of equals the first is the likeliest.
    let others = best.1.with_other_memories().map(|model| (cost(model), model));
    others.fold(best, |best, other| if other.0 < best.0 { other } else { best }).1
}

/// Makes the blob again of `plain`, its plain bytes, and what [`analyze`] wrote. `size` is the
/// blob's size. Whether its digest is right is for the caller to see.
///
/// # Errors
/// When reading or writing fails, and when corrections, plain bytes and size do not fit together.
pub fn rebuild(
    plain: &mut dyn Read,
    corrections: &mut dyn Read,
    size: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let mut version = [0];
    corrections.read_exact(&mut version).with_context(|| "reading corrections")?;
    if version[0] != VERSION {
        return Err(Error::unsupported(format!("corrections of version {}", version[0])));
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
            .with_context(|| "reading plain bytes")?;
        if window.len() < begin + total {
            return Err(Error::mismatch("there are fewer plain bytes than the corrections are of"));
        }
        let mut places = Vec::new();
        for record in &records {
            places.push((bytes(&window, begin, record.plain), record));
            begin += record.plain;
        }
        let made: Vec<Result<(u32, Vec<u8>, u32)>> = places
            .par_iter()
            .map(|(bytes, record)| {
                let model = record.model;
                let mut predictor = model.predictor().ok_or_else(|| {
                    Error::unsupported(format!("the corrections name model {}", model.0))
                })?;
                let segment = decode(model, &mut *predictor, *bytes, &record.payload)?;
                let plain = &bytes.data[bytes.begin..bytes.begin + bytes.size];
                let (packed, end) = segment.write(plain)?;
                Ok((segment.phase, packed, end))
            })
            .collect();
        for made in made {
            let (phase, mut packed, end) = made?;
            if phase != held_bits {
                return Err(Error::malformed("two segments of corrections do not fit together"));
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

/// Corrections of a segment.
struct Record {
    model: Model,
    plain: usize,
    payload: Vec<u8>,
}

impl Record {
    /// The next one, none at the end.
    fn read(from: &mut dyn Read) -> Result<Option<Self>> {
        let failed = || "reading corrections";
        let mut model = Vec::new();
        (&mut *from).take(1).read_to_end(&mut model).with_context(failed)?;
        let Some(model) = model.first() else { return Ok(None) };
        let plain = read_varint(from).with_context(failed)?;
        let size = read_varint(from).with_context(failed)?;
        // A segment ends with the token that passes its limit.
        if plain > MAX_PLAIN as u64 + 300 || size > MAX_PAYLOAD {
            return Err(Error::malformed("a segment of corrections is too large"));
        }
        let mut payload = Vec::new();
        (&mut *from).take(size).read_to_end(&mut payload).with_context(failed)?;
        if payload.len() as u64 != size {
            return Err(Error::malformed("the corrections are cut off"));
        }
        Ok(Some(Self { model: Model(*model), plain: plain as usize, payload }))
    }
}

/// Seven bits a byte, the lowest first; the highest bit of a byte says that more follow.
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
