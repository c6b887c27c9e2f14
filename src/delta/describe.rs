//! Describing one layer by an old image.

use std::io::Read;
use std::sync::Arc;

use rayon::prelude::*;

use super::index::Index;
use super::ops::{Op, OpWriter};
use super::patch::{can_be_told, tell};
use super::{Blobs, LEVEL, Made, PART, Packing, Part, Place, REFERENCE, Recipe, TIMES};
use super::{MOST_PACKED, compress};
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::layers::read::{self, LayerContent};
use crate::model::content::{ReadAt as _, Region, Source, SourceReader};

/// The old image, to be described by.
#[derive(Clone, Copy)]
pub(super) struct Old<'a> {
    pub(super) index: &'a Index,
    pub(super) tars: &'a [Source],
}

/// A file's bytes in the layer's tar.
struct Span {
    offset: u64,
    bytes: u64,
    how: How,
    /// Where the old image has its header, if it has.
    head: Option<Place>,
}

/// How a file is described.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Copied(Place),
    Told(Place),
    InSight(Place),
    Fresh,
}

/// Some bytes of a stream.
#[derive(Clone, Copy)]
enum Chunk {
    /// Bytes of the layer's tar: offset and how many.
    Tar(u64, u64),
    /// What is in no old file, of a told one: its number, offset and bytes.
    Rest(usize, u64, u64),
}

/// Bytes to be compressed, and what they are compressed with in sight.
#[derive(Default)]
struct Piece {
    plain: Vec<Chunk>,
    bytes: u64,
    reference: Vec<(u32, u64, u64)>,
    referred: u64,
}

impl Piece {
    fn refer(&mut self, place: Place) {
        let known = |r: &(u32, u64, u64)| *r == (place.layer, place.offset, place.bytes);
        if self.referred + place.bytes <= REFERENCE && !self.reference.iter().any(known) {
            self.reference.push((place.layer, place.offset, place.bytes));
            self.referred += place.bytes;
        }
    }
}

/// The parts of each stream of a layer.
#[derive(Default)]
pub(super) struct Streams {
    heads: Vec<Part>,
    data: Vec<Part>,
    fresh: Vec<Part>,
    told: Vec<u32>,
}

/// Files that are larger are told one at a time.
const LARGE: u64 = 64 << 20;

/// Describes a layer that the old image does not have.
pub(super) fn layer(
    old: Old<'_>,
    read: &LayerContent,
    packing: Packing,
    level: i32,
    blobs: &mut Blobs,
    made: &mut Made,
    progress: &dyn Progress,
) -> Result<Recipe> {
    let mut layer = Layer::default();
    for span in spans(old, read)? {
        layer.add(&span, read, made);
    }
    let gap = read.tar_bytes - layer.at;
    if gap > 0 {
        layer.ops.push(Op::Heads(gap));
        grow(&mut layer.heads, Chunk::Tar(layer.at, gap), None);
    }
    made.tars += read.tar_bytes;
    let Layer { ops, heads, data, groups, order, .. } = layer;
    let pack = |pieces: &[Piece], rests: &[Vec<u8>]| -> Result<Vec<Packed>> {
        let pack = |p: &Piece| p.pack(old, read, rests, level, progress);
        pieces.par_iter().with_max_len(1).map(pack).collect()
    };
    // Large files take memory: one at a time, beside all else.
    let (large, small): (Vec<_>, Vec<_>) =
        groups.iter().enumerate().partition(|(_, g)| g.iter().any(|f| f.1.size() > LARGE));
    let one = |(i, group): (usize, &Vec<(Place, Region)>)| -> Result<(usize, Told)> {
        let told = tell(group, old.tars)?;
        progress.advance(group.iter().map(|f| f.1.size()).sum());
        Ok((i, told))
    };
    let (large, rest) = rayon::join(
        || large.into_iter().map(one).collect::<Result<Vec<_>>>(),
        || {
            let small: Result<Vec<_>> = small.into_par_iter().with_max_len(1).map(one).collect();
            Ok::<_, Error>((small?, pack(&heads, &[])?, pack(&data, &[])?))
        },
    );
    let (mut told, (small, heads, data)) = (large?, rest?);
    told.extend(small);
    told.sort_unstable_by_key(|t| t.0);
    let mut numbers = Vec::new();
    let mut rests = Vec::new();
    for (_, (bytes, rest)) in told {
        if bytes.len() as u64 > MOST_PACKED {
            return Err(Error::limit("what changed in a file is too much to be told"));
        }
        made.told += bytes.len() as u64;
        numbers.push(blobs.add(bytes, 0));
        rests.extend(rest);
    }
    let mut fresh = Vec::new();
    let mut file = 0;
    for late in order {
        if let Some((offset, bytes)) = late {
            grow(&mut fresh, Chunk::Tar(offset, bytes), None);
        } else {
            let bytes = rests.get(file).map_or(0, Vec::len);
            grow(&mut fresh, Chunk::Rest(file, 0, bytes as u64), None);
            file += 1;
        }
    }
    let fresh = pack(&fresh, &rests)?;
    let mut parts = |packed: Vec<Packed>, sum: &mut u64| -> Vec<Part> {
        let part = |p: Packed| {
            *sum += p.bytes.len() as u64;
            Part { blob: blobs.add(p.bytes, p.plain), reference: p.reference }
        };
        packed.into_iter().map(part).collect()
    };
    let streams = Streams {
        heads: parts(heads, &mut made.heads),
        data: parts(data, &mut made.data),
        fresh: parts(fresh, &mut made.fresh),
        told: numbers,
    };
    rebuild(read, packing, ops, streams, blobs, made)
}

/// What [`tell`] gives.
type Told = (Vec<u8>, Vec<Vec<u8>>);

/// A layer that is being described.
#[derive(Default)]
struct Layer {
    at: u64,
    ops: OpWriter,
    heads: Vec<Piece>,
    data: Vec<Piece>,
    /// Files that are told, as they share what is learned of them.
    groups: Vec<Vec<(Place, Region)>>,
    /// What goes into the stream of fresh bytes: offset and bytes in the tar, or what is left of
    /// the next file that is told.
    order: Vec<Option<(u64, u64)>>,
}

impl Layer {
    fn add(&mut self, span: &Span, read: &LayerContent, made: &mut Made) {
        let (gap, bytes) = (span.offset - self.at, span.bytes);
        if gap > 0 {
            self.ops.push(Op::Heads(gap));
            grow(&mut self.heads, Chunk::Tar(self.at, gap), span.head);
        }
        self.at = span.offset + bytes;
        made.changed += bytes;
        match span.how {
            How::Copied(place) => {
                made.copied += bytes;
                made.changed -= bytes;
                self.ops.push(Op::Copy { layer: place.layer, offset: place.offset, bytes });
            }
            How::Told(place) => {
                self.ops.push(Op::File(bytes));
                self.order.push(None);
                let region = Region::new(Arc::clone(&read.source), span.offset, bytes);
                let sum = |g: &Vec<(Place, Region)>| g.iter().map(|f| f.1.size()).sum::<u64>();
                match self.groups.last_mut().filter(|g| sum(g) + bytes <= PART) {
                    Some(group) => group.push((place, region)),
                    None => self.groups.push(vec![(place, region)]),
                }
            }
            How::InSight(place) => {
                self.ops.push(Op::Data(bytes));
                changed(&mut self.data, span.offset, bytes, place);
            }
            How::Fresh => {
                self.ops.push(Op::Fresh(bytes));
                self.order.push(Some((span.offset, bytes)));
            }
        }
    }
}

/// The files of a layer in the order of its tar, with how each is described.
fn spans<'a>(old: Old<'a>, read: &'a LayerContent) -> Result<Vec<Span>> {
    let mut found = Vec::new();
    let is_elf = |source: &Source, offset: u64, bytes: u64| -> Result<bool> {
        let mut magic = [0; 4];
        if bytes < 4 {
            return Ok(false);
        }
        source.read_exact_at(&mut magic, offset)?;
        Ok(&magic == b"\x7fELF")
    };
    for read::Span { offset, file, path } in read.spans() {
        let how = if let Some(place) = old.index.same(file) {
            How::Copied(place)
        } else if let Some(like) = old.index.alike(path, file.size) {
            let elf = can_be_told(file.size, like.bytes)
                && is_elf(&read.source, offset, file.size)?
                && is_elf(&old.tars[like.layer as usize], like.offset, like.bytes)?;
            match like.bytes / TIMES <= file.size {
                _ if elf => How::Told(like),
                true => How::InSight(like),
                false => How::Fresh,
            }
        } else {
            How::Fresh
        };
        found.push(Span { offset, bytes: file.size, how, head: old.index.head(path) });
    }
    Ok(found)
}

/// Bytes of a part, packed.
struct Packed {
    bytes: Vec<u8>,
    plain: u64,
    reference: Vec<(u32, u64, u64)>,
}

impl Piece {
    fn pack(
        &self,
        old: Old<'_>,
        read: &LayerContent,
        rests: &[Vec<u8>],
        level: i32,
        progress: &dyn Progress,
    ) -> Result<Packed> {
        let mut plain = Vec::with_capacity(self.bytes as usize);
        for chunk in &self.plain {
            match chunk {
                Chunk::Tar(offset, bytes) => {
                    SourceReader::new(read.source.as_ref(), *offset, *bytes)
                        .read_to_end(&mut plain)?;
                    progress.advance(*bytes);
                }
                Chunk::Rest(file, offset, bytes) => {
                    plain.extend_from_slice(&rests[*file][*offset as usize..][..*bytes as usize]);
                }
            }
        }
        let reference = self.reference.clone();
        let bytes = compress(&plain, &super::reference(old.tars, &reference)?, level)?;
        Ok(Packed { bytes, plain: self.bytes, reference })
    }
}

pub(super) fn rebuild(
    read: &LayerContent,
    packing: Packing,
    ops: OpWriter,
    streams: Streams,
    blobs: &mut Blobs,
    made: &mut Made,
) -> Result<Recipe> {
    let ops = ops.finish();
    let frame = compress(&ops, &[], LEVEL)?;
    made.ops += frame.len() as u64;
    let ops = blobs.add(frame, ops.len() as u64);
    let Streams { heads, data, fresh, told } = streams;
    Ok(Recipe::Rebuild { tar_bytes: read.tar_bytes, packing, ops, heads, data, fresh, told })
}

/// Adds bytes to the last piece, and to new ones when that is full.
fn grow(pieces: &mut Vec<Piece>, chunk: Chunk, like: Option<Place>) {
    let (mut done, end) = match chunk {
        Chunk::Tar(_, bytes) | Chunk::Rest(_, _, bytes) => (0, bytes),
    };
    while done < end {
        if pieces.last().is_none_or(|p| p.bytes >= PART) {
            pieces.push(Piece::default());
        }
        let Some(piece) = pieces.last_mut() else { return };
        let now = (end - done).min(PART - piece.bytes);
        piece.plain.push(match chunk {
            Chunk::Tar(offset, _) => Chunk::Tar(offset + done, now),
            Chunk::Rest(file, offset, _) => Chunk::Rest(file, offset + done, now),
        });
        piece.bytes += now;
        if let Some(place) = like {
            piece.refer(place);
        }
        done += now;
    }
}

/// Adds a changed file. A large one is cut, and each piece sees the old file around its own place.
fn changed(pieces: &mut Vec<Piece>, offset: u64, size: u64, like: Place) {
    let full = |p: &Piece| p.bytes + size.min(PART) > PART || p.referred + like.bytes > REFERENCE;
    if pieces.last().is_none_or(full) {
        pieces.push(Piece::default());
    }
    if like.bytes <= REFERENCE && size <= PART {
        return grow(pieces, Chunk::Tar(offset, size), Some(like));
    }
    for done in (0..size).step_by(PART as usize) {
        let now = PART.min(size - done);
        let middle =
            (u128::from(done + now / 2) * u128::from(like.bytes) / u128::from(size)) as u64;
        let from = middle.saturating_sub(REFERENCE / 2).min(like.bytes.saturating_sub(REFERENCE));
        let bytes = (like.bytes - from).min(REFERENCE);
        let seen = Place { offset: like.offset + from, bytes, ..like };
        if pieces.last().is_none_or(|p| p.bytes > 0) {
            pieces.push(Piece::default());
        }
        grow(pieces, Chunk::Tar(offset + done, now), Some(seen));
    }
}
