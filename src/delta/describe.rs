//! Describes one layer in terms of the old image.

use std::io::{Read, Write as _};
use std::sync::Arc;

use super::index::OldIndex;
use super::memory::WorkMemory;
use super::ops::{Op, OpWriter};
use super::patch::{Patches, can_patch, write_patches};
use super::{Blobs, DeltaStats, LEVEL, PART, Packing, Part, Place, Recipe};
use super::{MAX_REFERENCE, compress, tasks};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_DELTA_PACKED, MAX_REFERENCE_RATIO};
use crate::base::progress::Progress;
use crate::layers::read::{self, LayerContent};
use crate::model::content::{ReadAt as _, Region, Source, SourceReader, Spool, SpoolWriter};
use crate::model::index::LayerIndex;

/// The old image.
#[derive(Clone, Copy)]
pub(super) struct OldImage<'a> {
    pub(super) index: &'a OldIndex,
    pub(super) tars: &'a [Source],
}

/// A file's bytes in the layer's tar.
struct FileSpan {
    offset: u64,
    bytes: u64,
    method: Method,
    /// The header of the file of the same path in the old image.
    old_header: Option<Place>,
}

/// How a file is described.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// It is copied.
    Copy(Place),
    /// It is patched against this file.
    Patch(Place),
    /// It is compressed against this file.
    Reference(Place),
    /// Nothing in the old image is like it.
    Literal,
}

/// Some bytes of a stream.
#[derive(Clone, Copy)]
enum Chunk {
    /// A range of the layer's tar: offset and bytes.
    Tar(u64, u64),
    /// Literals of patched files: the number of their group, offset and bytes.
    Literals(usize, u64, u64),
}

/// A part of a stream: what to compress, and the reference prefix.
#[derive(Default)]
struct PartPlan {
    plain: Vec<Chunk>,
    bytes: u64,
    reference: Vec<(LayerIndex, u64, u64)>,
    reference_bytes: u64,
}

impl PartPlan {
    /// Adds a range to the reference, if it is not yet in it and there is room.
    fn refer(&mut self, place: Place) {
        let range = (place.layer, place.offset, place.bytes);
        if self.reference_bytes + place.bytes <= MAX_REFERENCE && !self.reference.contains(&range) {
            self.reference.push(range);
            self.reference_bytes += place.bytes;
        }
    }

    fn pack(
        &self,
        old: OldImage<'_>,
        read: &LayerContent,
        literals: &[Patches],
        work: &WorkMemory,
        progress: &dyn Progress,
    ) -> Result<PackedPart> {
        let _reserved = work.reserve(work.part(self.bytes, self.reference_bytes));
        let mut plain = Vec::with_capacity(self.bytes as usize);
        for chunk in &self.plain {
            match chunk {
                Chunk::Tar(offset, bytes) => {
                    SourceReader::new(read.source.as_ref(), *offset, *bytes)
                        .read_to_end(&mut plain)?;
                    progress.advance(*bytes);
                }
                Chunk::Literals(group, offset, bytes) => {
                    SourceReader::new(&literals[*group].literals, *offset, *bytes)
                        .read_to_end(&mut plain)?;
                }
            }
        }
        let reference = self.reference.clone();
        let frame = work.compress(&plain, &super::reference(old.tars, &reference)?)?;
        let mut spool = SpoolWriter::new(&work.budget);
        spool.write_all(&frame)?;
        Ok(PackedPart { frame: spool.finish()?, plain: self.bytes, reference })
    }
}

/// A compressed part of a stream.
struct PackedPart {
    frame: Spool,
    plain: u64,
    reference: Vec<(LayerIndex, u64, u64)>,
}

/// The streams of a layer.
#[derive(Default)]
pub(super) struct Streams {
    headers: Vec<Part>,
    data: Vec<Part>,
    literals: Vec<Part>,
    patches: Vec<u32>,
}

/// Groups with more bytes are patched one at a time, since that takes memory.
const LARGE: u64 = 64 << 20;

/// A piece of work that depends on no other.
enum Work<'a> {
    Patch(&'a [(Place, Region)]),
    Pack(&'a PartPlan),
}

impl Work<'_> {
    fn is_large(&self) -> bool {
        matches!(self, Self::Patch(group) if bytes_of(group) > LARGE)
    }
}

/// The result of a [`Work`].
enum Done {
    Patch(Patches),
    Pack(PackedPart),
}

/// Describes a layer that the old image does not have.
pub(super) fn describe_layer(
    old: OldImage<'_>,
    read: &LayerContent,
    packing: Packing,
    work: &WorkMemory,
    blobs: &mut Blobs,
    stats: &mut DeltaStats,
    progress: &dyn Progress,
) -> Result<Recipe> {
    let mut plan = LayerPlan::default();
    for span in spans(old, read, work)? {
        plan.add(&span, read, stats);
    }
    let gap = read.tar_bytes - plan.at;
    if gap > 0 {
        plan.ops.push(Op::Headers(gap));
        append(&mut plan.headers, Chunk::Tar(plan.at, gap), None);
    }
    stats.tars += read.tar_bytes;
    let LayerPlan { ops, headers, data, groups, literals, .. } = plan;
    let threads = rayon::current_num_threads();
    let mut todo: Vec<Work<'_>> = groups.iter().map(|group| Work::Patch(group)).collect();
    todo.extend(headers.iter().chain(&data).map(Work::Pack));
    let work_on = |one: &Work<'_>| match one {
        Work::Pack(part) => part.pack(old, read, &[], work, progress).map(Done::Pack),
        Work::Patch(group) => {
            let patches = write_patches(group, old.tars, work)?;
            progress.advance(bytes_of(group));
            Ok(Done::Patch(patches))
        }
    };
    let done = tasks::run(threads, &todo, Work::is_large, work_on)?;
    let (mut patches, mut packed) = (Vec::new(), Vec::new());
    for done in done {
        match done {
            Done::Patch(one) => patches.push(one),
            Done::Pack(one) => packed.push(one),
        }
    }
    let data = packed.split_off(headers.len());
    let mut numbers = Vec::new();
    for Patches { bytes, .. } in &patches {
        if bytes.size() > MAX_DELTA_PACKED {
            return Err(Error::limit(format!(
                "the patches of some files have {} bytes, more than the limit of {MAX_DELTA_PACKED}",
                bytes.size()
            )));
        }
        stats.patches += bytes.size();
        numbers.push(blobs.add(bytes, 0)?);
    }
    let literals = literal_parts(literals, &patches);
    let pack = |part: &PartPlan| part.pack(old, read, &patches, work, progress);
    let literals = tasks::run(threads, &literals, |_| false, pack)?;
    let mut parts = |packed: Vec<PackedPart>, sum: &mut u64| -> Result<Vec<Part>> {
        let part = |p: PackedPart| {
            *sum += p.frame.size();
            Ok(Part { blob: blobs.add(&p.frame, p.plain)?, reference: p.reference })
        };
        packed.into_iter().map(part).collect()
    };
    let streams = Streams {
        headers: parts(packed, &mut stats.headers)?,
        data: parts(data, &mut stats.data)?,
        literals: parts(literals, &mut stats.literals)?,
        patches: numbers,
    };
    finish_recipe(read, packing, ops, streams, blobs, stats)
}

/// Returns the size of the new files of a group.
fn bytes_of(group: &[(Place, Region)]) -> u64 {
    group.iter().map(|f| f.1.size()).sum()
}

/// Parts of the stream of literals: `order` is that of [`LayerPlan`], `groups` has the literals of the
/// patched files.
fn literal_parts(order: Vec<Option<(u64, u64)>>, groups: &[Patches]) -> Vec<PartPlan> {
    let mut parts = Vec::new();
    // The literals of a group's files follow each other in its spool.
    let mut files = groups.iter().enumerate().flat_map(|(group, patches)| {
        patches.literal_bytes.iter().scan(0, move |end, bytes| {
            let offset = *end;
            *end += bytes;
            Some(Chunk::Literals(group, offset, *bytes))
        })
    });
    for range in order {
        let chunk = match range {
            Some((offset, bytes)) => Some(Chunk::Tar(offset, bytes)),
            None => files.next(),
        };
        if let Some(chunk) = chunk {
            append(&mut parts, chunk, None);
        }
    }
    parts
}

/// A layer that is being described.
#[derive(Default)]
struct LayerPlan {
    /// Bytes of the tar that were described.
    at: u64,
    ops: OpWriter,
    headers: Vec<PartPlan>,
    data: Vec<PartPlan>,
    /// Files to patch; those of a group share a model.
    groups: Vec<Vec<(Place, Region)>>,
    /// The stream of literals: offset and bytes in the tar, or the literals of the next patched
    /// file.
    literals: Vec<Option<(u64, u64)>>,
}

impl LayerPlan {
    /// Adds a file, and the headers before it.
    fn add(&mut self, span: &FileSpan, read: &LayerContent, stats: &mut DeltaStats) {
        let (gap, bytes) = (span.offset - self.at, span.bytes);
        if gap > 0 {
            self.ops.push(Op::Headers(gap));
            append(&mut self.headers, Chunk::Tar(self.at, gap), span.old_header);
        }
        self.at = span.offset + bytes;
        match span.method {
            Method::Copy(_) => stats.copied += bytes,
            _ => stats.changed += bytes,
        }
        match span.method {
            Method::Copy(place) => {
                self.ops.push(Op::Copy { layer: place.layer, offset: place.offset, bytes });
            }
            Method::Patch(place) => {
                self.ops.push(Op::Patched(bytes));
                self.literals.push(None);
                let region = Region::new(Arc::clone(&read.source), span.offset, bytes);
                match self.groups.last_mut().filter(|g| bytes_of(g) + bytes <= PART) {
                    Some(group) => group.push((place, region)),
                    None => self.groups.push(vec![(place, region)]),
                }
            }
            Method::Reference(place) => {
                self.ops.push(Op::Data(bytes));
                append_file(&mut self.data, span.offset, bytes, place);
            }
            Method::Literal => {
                self.ops.push(Op::Literals(bytes));
                self.literals.push(Some((span.offset, bytes)));
            }
        }
    }
}

/// Returns the files of a layer in the order of its tar, with how each is described.
fn spans(old: OldImage<'_>, read: &LayerContent, work: &WorkMemory) -> Result<Vec<FileSpan>> {
    let mut found = Vec::new();
    let is_elf = |source: &Source, offset: u64, bytes: u64| -> Result<bool> {
        let mut magic = [0; 4];
        if bytes < 4 {
            return Ok(false);
        }
        source.read_exact_at(&mut magic, offset)?;
        Ok(&magic == b"\x7fELF")
    };
    for read::TarSpan { offset, file, path } in read.spans() {
        let method = if let Some(place) = old.index.same(file) {
            Method::Copy(place)
        } else if let Some(similar) = old.index.similar(path, file.size) {
            let elf = can_patch(file.size, similar.bytes)
                && work.can_patch(file.size, similar.bytes)
                && is_elf(&read.source, offset, file.size)?
                && is_elf(&old.tars[similar.layer.index()], similar.offset, similar.bytes)?;
            match similar.bytes / MAX_REFERENCE_RATIO <= file.size {
                _ if elf => Method::Patch(similar),
                true => Method::Reference(similar),
                false => Method::Literal,
            }
        } else {
            Method::Literal
        };
        let old_header = old.index.header(path);
        found.push(FileSpan { offset, bytes: file.size, method, old_header });
    }
    Ok(found)
}

/// Makes the recipe of a layer from its instructions and streams.
pub(super) fn finish_recipe(
    read: &LayerContent,
    packing: Packing,
    ops: OpWriter,
    streams: Streams,
    blobs: &mut Blobs,
    stats: &mut DeltaStats,
) -> Result<Recipe> {
    let ops = ops.finish();
    let frame = compress(&ops, &[], LEVEL)?;
    stats.ops += frame.len() as u64;
    let ops = blobs.add(&frame, ops.len() as u64)?;
    let Streams { headers, data, literals, patches } = streams;
    let tar_bytes = read.tar_bytes;
    Ok(Recipe::Rebuild { tar_bytes, packing, ops, headers, data, literals, patches })
}

/// Appends bytes to the last part, and to new ones when it is full.
fn append(parts: &mut Vec<PartPlan>, chunk: Chunk, reference: Option<Place>) {
    let (mut done, end) = match chunk {
        Chunk::Tar(_, bytes) | Chunk::Literals(_, _, bytes) => (0, bytes),
    };
    while done < end {
        if parts.last().is_none_or(|p| p.bytes >= PART) {
            parts.push(PartPlan::default());
        }
        let Some(part) = parts.last_mut() else { return };
        let now = (end - done).min(PART - part.bytes);
        part.plain.push(match chunk {
            Chunk::Tar(offset, _) => Chunk::Tar(offset + done, now),
            Chunk::Literals(group, offset, _) => Chunk::Literals(group, offset + done, now),
        });
        part.bytes += now;
        if let Some(place) = reference {
            part.refer(place);
        }
        done += now;
    }
}

/// Appends a file that is compressed against `old`. A large one is split; each of its parts refers
/// to the bytes of the old file around the same relative offset.
fn append_file(parts: &mut Vec<PartPlan>, offset: u64, size: u64, old: Place) {
    let full = |p: &PartPlan| {
        p.bytes + size.min(PART) > PART || p.reference_bytes + old.bytes > MAX_REFERENCE
    };
    if parts.last().is_none_or(full) {
        parts.push(PartPlan::default());
    }
    if old.bytes <= MAX_REFERENCE && size <= PART {
        return append(parts, Chunk::Tar(offset, size), Some(old));
    }
    for done in (0..size).step_by(PART as usize) {
        let now = PART.min(size - done);
        let middle = (u128::from(done + now / 2) * u128::from(old.bytes) / u128::from(size)) as u64;
        let from =
            middle.saturating_sub(MAX_REFERENCE / 2).min(old.bytes.saturating_sub(MAX_REFERENCE));
        let bytes = (old.bytes - from).min(MAX_REFERENCE);
        let around = Place { offset: old.offset + from, bytes, ..old };
        if parts.last().is_none_or(|p| p.bytes > 0) {
            parts.push(PartPlan::default());
        }
        append(parts, Chunk::Tar(offset + done, now), Some(around));
    }
}
