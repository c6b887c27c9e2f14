//! Making a delta.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use rayon::prelude::*;

use super::ops::{Op, OpWriter};
use super::{Blobs, Header, LEVEL, LayerHeader, PART, Part, REFERENCE, Recipe, compress, write};
use crate::codec::{Compression, Encoder, Format, chunked};
use crate::content::{ReadAt, Source, SourceReader};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::fileset::{Inode, Kind, Location, base_name};
use crate::layer::{LayerContent, What};
use crate::oci::{self, Descriptor, Manifest, media_type};
use crate::progress::Progress;
use crate::transport::bundle::{format_of, new_manifest};
use crate::transport::open::Image;

/// What a delta came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Made {
    /// Bytes of the delta.
    pub bytes: u64,
    /// Layers that both images have.
    pub same_layers: u64,
    /// Layers whose blob can't be made again: the result has another one of the same content.
    pub other_blobs: u64,
    /// Bytes of tar that are copied from the old image, of the other layers.
    pub copied: u64,
    /// Bytes of data that are in the delta, before compression.
    pub data: u64,
}

/// Where bytes lie in the old tars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: u32,
    offset: u64,
    bytes: u64,
}

/// An image and its layers, read with their contents.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its layers, in order.
    pub layers: &'a [LayerContent],
}

/// Writes what makes `new` of `old` to `out`, compressed at `level` of zstd. Runs on the current rayon pool.
pub fn make(
    old: Side<'_>,
    new: Side<'_>,
    names: &[String],
    level: i32,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<Made> {
    let index = Index::new(old);
    let known = Old { index: &index, tars: &tars(old.layers) };
    let mut made = Made::default();
    let mut blobs = Blobs::default();
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    let fresh = |l: &(&crate::transport::open::LayerBlob, &LayerContent)| {
        !old.image.layers.iter().any(|o| o.diff_id == l.0.diff_id)
    };
    let all = || new.image.layers.iter().zip(new.layers);
    progress.begin("delta", all().filter(fresh).map(|(_, read)| read.tar_bytes).sum());
    for (blob, read) in all() {
        let kind = format_of(blob.source.as_ref())?;
        let position = old.layers.iter().position(|l| l.digest == read.digest);
        let (recipe, descriptor) = if let Some(at) = position {
            made.same_layers += 1;
            let bytes = blob.source.size();
            (Recipe::Old(at as u32), Descriptor::new(media_type_of(kind), read.digest, bytes))
        } else {
            let (compression, descriptor) = again(new.image, read, blob.source.as_ref(), kind)?;
            made.other_blobs += u64::from(descriptor.digest != read.digest);
            let recipe = match old.image.layers.iter().position(|l| l.diff_id == blob.diff_id) {
                Some(at) => {
                    let mut ops = OpWriter::default();
                    let bytes = read.tar_bytes;
                    ops.push(Op::Copy { layer: at as u32, offset: 0, bytes });
                    rebuild(read, compression, ops, Vec::new(), Vec::new(), &mut blobs)?
                }
                None => layer(known, read, compression, level, &mut blobs, &mut made, progress)?,
            };
            (recipe, descriptor)
        };
        layers.push(LayerHeader { digest: descriptor.digest, diff_id: blob.diff_id, recipe });
        descriptors.push(descriptor);
    }
    progress.end();
    let (kind, manifest) = manifest(new.image, descriptors)?;
    let text = |bytes: &[u8], what: &str| {
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::malformed(format!("the {what} is not UTF-8")))
    };
    let header = Header {
        writer: env!("CARGO_PKG_VERSION").into(),
        old: old.image.layers.iter().map(|l| l.diff_id).collect(),
        new: Digest::of(&manifest),
        names: names.to_vec(),
        manifest: (kind, text(&manifest, "manifest")?),
        config: text(&new.image.config_bytes, "config")?,
        layers,
        blobs: Vec::new(),
    };
    made.bytes = write(header, blobs, out)?;
    Ok(made)
}

fn media_type_of(format: Format) -> &'static str {
    match format {
        Format::Plain => media_type::LAYER,
        Format::Gzip => media_type::LAYER_GZIP,
        Format::Zstd => media_type::LAYER_ZSTD,
    }
}

/// The manifest that comes out, and its media type: the image's own if all blobs are.
fn manifest(image: &Image, layers: Vec<Descriptor>) -> Result<(String, Vec<u8>)> {
    let Some(bytes) = &image.manifest else {
        let mut manifest = new_manifest(layers);
        manifest.config = Descriptor::of(media_type::CONFIG, &image.config_bytes);
        return Ok((media_type::MANIFEST.into(), oci::to_json(&manifest)?));
    };
    let mut manifest: Manifest = oci::parse(bytes, "the manifest")?;
    let kind = manifest.media_type.clone().unwrap_or_else(|| media_type::MANIFEST.into());
    if manifest.layers.iter().zip(&layers).all(|(old, new)| old.digest == new.digest) {
        return Ok((kind, bytes.clone()));
    }
    for (old, new) in manifest.layers.iter_mut().zip(layers) {
        if old.digest == new.digest {
            continue;
        }
        (old.digest, old.size) = (new.digest, new.size);
        // Those that say where things lie in the blob are no longer true.
        let mut annotations = old.annotations.take().unwrap_or_default();
        annotations.retain(|key, _| !key.starts_with(chunked::ANNOTATION));
        annotations.extend(new.annotations.unwrap_or_default());
        old.annotations = Some(annotations).filter(|all| !all.is_empty());
    }
    Ok((kind, oci::to_json(&manifest)?))
}

/// How a layer is compressed again, and what comes out: its own blob if we can make it.
fn again(
    image: &Image,
    read: &LayerContent,
    blob: &dyn ReadAt,
    format: Format,
) -> Result<(Compression, Descriptor)> {
    let name = match format {
        Format::Plain => {
            let own = Descriptor::new(media_type::LAYER, read.digest, blob.size());
            return Ok((Compression::None, own));
        }
        Format::Gzip => "gzip",
        Format::Zstd => "zstd",
    };
    let usual = Compression::new(name, None, None)?;
    let noted = image.annotations.get(crate::split::PLAN).and_then(|plan| {
        let text = plan.split(' ').find_map(|word| word.strip_prefix("compression="))?;
        Compression::parse(text).ok()
    });
    let mut tried = BTreeSet::new();
    let mut result = None;
    for compression in noted.into_iter().chain([usual]) {
        if compression.media_type() != usual.media_type() || !tried.insert(compression.to_string())
        {
            continue;
        }
        let descriptor = encode(read, compression)?;
        if descriptor.digest == read.digest {
            return Ok((compression, descriptor));
        }
        result = Some((compression, descriptor));
    }
    result.ok_or_else(|| Error::malformed("a layer can't be compressed"))
}

fn encode(read: &LayerContent, compression: Compression) -> Result<Descriptor> {
    let workers = rayon::current_num_threads() as u32;
    let out = Hashing::new(std::io::sink());
    let mut encoder = Encoder::new(out, &compression, workers, read.tar_bytes)?;
    std::io::copy(&mut tar_of(read), &mut encoder)?;
    let (out, annotations) = encoder.finish()?;
    let (_, digest, bytes) = out.finish();
    let mut descriptor = Descriptor::new(compression.media_type(), digest, bytes);
    descriptor.annotations = Some(annotations).filter(|all| !all.is_empty());
    Ok(descriptor)
}

fn tar_of(read: &LayerContent) -> SourceReader<'_> {
    SourceReader::new(read.source.as_ref(), 0, read.tar_bytes)
}

/// What the old image has, by content and by name.
struct Index {
    by_hash: BTreeMap<([u8; 32], u64), Place>,
    by_path: BTreeMap<Box<[u8]>, Place>,
    by_stem: BTreeMap<Vec<u8>, Vec<Place>>,
    /// Where each file's header begins, by path.
    heads: BTreeMap<Box<[u8]>, Place>,
}

impl Index {
    fn new(old: Side<'_>) -> Self {
        let mut index = Self {
            by_hash: BTreeMap::new(),
            by_path: BTreeMap::new(),
            by_stem: BTreeMap::new(),
            heads: BTreeMap::new(),
        };
        for (layer, read) in old.layers.iter().enumerate() {
            for (path, file) in files(read) {
                let Location::Span { offset, .. } = file.location else { continue };
                let place = Place { layer: layer as u32, offset, bytes: file.size };
                if offset >= 512 {
                    index
                        .heads
                        .insert(path.into(), Place { offset: offset - 512, bytes: 512, ..place });
                }
                if file.size == 0 {
                    continue;
                }
                index.by_hash.entry((file.hash, file.size)).or_insert(place);
                // Upper layers have the newer ones.
                index.by_path.insert(path.into(), place);
                index.by_stem.entry(stem(path)).or_default().push(place);
            }
        }
        index
    }

    /// The old file that a new one is most like: of the same path, else of the same name but for
    /// versions and hashes, and of the nearest size.
    fn alike(&self, path: &[u8], size: u64) -> Option<Place> {
        self.by_path.get(path).copied().or_else(|| {
            let alike = self.by_stem.get(&stem(path))?;
            alike.iter().copied().min_by_key(|p| (p.bytes.abs_diff(size), *p))
        })
    }
}

/// A file's name without digits, and the folder it lies in, likewise.
fn stem(path: &[u8]) -> Vec<u8> {
    let name = base_name(path);
    let dir = base_name(path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default());
    let letters = |b: &&u8| !b.is_ascii_hexdigit() && **b != b'.' && **b != b'-';
    dir.iter().chain(b"/").chain(name).filter(letters).copied().collect()
}

/// The regular files of a layer.
fn files(read: &LayerContent) -> impl Iterator<Item = (&[u8], &crate::fileset::FileData)> {
    read.changes.iter().filter_map(|c| match &c.what {
        What::Put(Inode { kind: Kind::File(file), .. }) => Some((&*c.path, file)),
        _ => None,
    })
}

/// The old image, to be described by.
#[derive(Clone, Copy)]
struct Old<'a> {
    index: &'a Index,
    tars: &'a [Source],
}

/// Bytes of the new image to be compressed, and what they are compressed with in sight.
#[derive(Default)]
struct Piece {
    plain: Vec<(u64, u64)>,
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

/// Describes a layer that the old image does not have.
fn layer(
    old: Old<'_>,
    read: &LayerContent,
    compression: Compression,
    level: i32,
    blobs: &mut Blobs,
    made: &mut Made,
    progress: &dyn Progress,
) -> Result<Recipe> {
    let mut spans: Vec<(u64, u64, &[u8], [u8; 32])> = Vec::new();
    for (path, file) in files(read) {
        if let Location::Span { offset, .. } = file.location
            && file.size > 0
        {
            spans.push((offset, file.size, path, file.hash));
        }
    }
    spans.sort_unstable_by_key(|s| s.0);
    let mut ops = OpWriter::default();
    let (mut heads, mut data) = (vec![Piece::default()], vec![Piece::default()]);
    let mut at = 0;
    let end = (read.tar_bytes, 0, &b""[..], [0; 32]);
    for (offset, size, path, hash) in spans.into_iter().chain([end]) {
        let gap = offset - at;
        ops.push(Op::Heads(gap));
        grow(&mut heads, at, gap, old.index.heads.get(path).copied());
        at = offset + size;
        if let Some(same) = old.index.by_hash.get(&(hash, size)) {
            ops.push(Op::Copy { layer: same.layer, offset: same.offset, bytes: size });
            made.copied += size;
        } else if size > 0 {
            ops.push(Op::Data(size));
            made.data += size;
            changed(&mut data, offset, size, old.index.alike(path, size));
        }
    }
    let mut frames = |pieces: Vec<Piece>| -> Result<Vec<Part>> {
        let pieces: Vec<Piece> = pieces.into_iter().filter(|p| p.bytes > 0).collect();
        let done: Vec<Result<Vec<u8>>> = pieces
            .par_iter()
            .with_max_len(1)
            .map(|piece| {
                let mut plain = Vec::with_capacity(piece.bytes as usize);
                for (offset, bytes) in &piece.plain {
                    SourceReader::new(read.source.as_ref(), *offset, *bytes)
                        .read_to_end(&mut plain)?;
                }
                let frame = compress(&plain, &reference(old.tars, &piece.reference)?, level);
                progress.advance(piece.bytes);
                frame
            })
            .collect();
        pieces
            .into_iter()
            .zip(done)
            .map(|(piece, frame)| {
                Ok(Part { blob: blobs.add(frame?, piece.bytes), reference: piece.reference })
            })
            .collect()
    };
    let (heads, data) = (frames(heads)?, frames(data)?);
    rebuild(read, compression, ops, heads, data, blobs)
}

fn rebuild(
    read: &LayerContent,
    compression: Compression,
    ops: OpWriter,
    heads: Vec<Part>,
    data: Vec<Part>,
    blobs: &mut Blobs,
) -> Result<Recipe> {
    let ops = ops.finish();
    let frame = compress(&ops, &[], LEVEL)?;
    let ops = blobs.add(frame, ops.len() as u64);
    let compression = compression.parts();
    Ok(Recipe::Rebuild { tar_bytes: read.tar_bytes, compression, ops, heads, data })
}

/// Adds bytes to the last piece, or to a new one when that is full.
fn grow(pieces: &mut Vec<Piece>, mut offset: u64, mut bytes: u64, like: Option<Place>) {
    while bytes > 0 {
        if pieces.last().is_none_or(|p| p.bytes >= PART) {
            pieces.push(Piece::default());
        }
        let Some(piece) = pieces.last_mut() else { return };
        let now = bytes.min(PART - piece.bytes);
        piece.plain.push((offset, now));
        piece.bytes += now;
        if let Some(place) = like {
            piece.refer(place);
        }
        offset += now;
        bytes -= now;
    }
}

/// Adds a changed file. A large one is cut, and each piece sees the old file around its own place.
fn changed(pieces: &mut Vec<Piece>, offset: u64, size: u64, like: Option<Place>) {
    let full = pieces.last().is_none_or(|p| {
        p.bytes + size.min(PART) > PART || p.referred + like.map_or(0, |l| l.bytes) > REFERENCE
    });
    if full {
        pieces.push(Piece::default());
    }
    let Some(like) = like.filter(|l| l.bytes > REFERENCE || size > PART) else {
        return grow(pieces, offset, size, like);
    };
    let mut done = 0;
    while done < size {
        let now = PART.min(size - done);
        let middle =
            (u128::from(done + now / 2) * u128::from(like.bytes) / u128::from(size)) as u64;
        let from = middle.saturating_sub(REFERENCE / 2).min(like.bytes.saturating_sub(REFERENCE));
        let seen =
            Place { offset: like.offset + from, bytes: (like.bytes - from).min(REFERENCE), ..like };
        if pieces.last().is_none_or(|p| p.bytes > 0) {
            pieces.push(Piece::default());
        }
        grow(pieces, offset + done, now, Some(seen));
        done += now;
    }
}

/// The bytes that a part has in sight.
pub(super) fn reference(sources: &[Source], places: &[(u32, u64, u64)]) -> Result<Vec<u8>> {
    let bad = || Error::malformed("the delta refers to what the old image does not have");
    let total = places.iter().try_fold(0u64, |sum, p| sum.checked_add(p.2));
    if total.is_none_or(|n| n > REFERENCE) {
        return Err(bad());
    }
    let mut bytes = Vec::with_capacity(total.unwrap_or_default() as usize);
    for (layer, offset, len) in places {
        let source = sources.get(*layer as usize).ok_or_else(bad)?;
        let start = bytes.len();
        bytes.resize(start + *len as usize, 0);
        source.read_exact_at(&mut bytes[start..], *offset).map_err(|_| bad())?;
    }
    Ok(bytes)
}

/// The uncompressed tars of an image's layers.
pub(super) fn tars(layers: &[LayerContent]) -> Vec<Source> {
    layers.iter().map(|l| Arc::clone(&l.source)).collect()
}
