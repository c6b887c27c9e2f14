//! Makes a delta.

use std::io::Write;
use std::sync::Arc;

use super::describe::{OldImage, Streams, describe_layer, finish_recipe};
use super::index::{ImageContents, OldIndex};
use super::memory::WorkMemory;
use super::ops::{Op, OpWriter};
use super::{Blobs, Delta, DeltaStats, Header, LEVEL, LayerHeader, Packing, Recipe};
use super::{apply, compress, tars, tasks, write};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_DELTA_PLAIN;
use crate::base::progress::{Progress, Silent};
use crate::format::codec::{Compression, Encoder, Format, chunked};
use crate::format::recode;
use crate::format::recompress;
use crate::layers::read::LayerContent;
use crate::model::content::{Budget, CHANGED, Source, SourceReader};
use crate::model::digest::{Digest, Hashing};
use crate::model::index::LayerIndex;
use crate::model::oci::{self, Descriptor, Manifest, media_type};
use crate::split::noted_compression;
use crate::transport::image::{Image, LayerBlob};

/// Corrections are used if the blob is at least this many times larger than they are.
const MIN_BLOB_RATIO: u64 = 50;
/// Corrections of at most this many bytes are used in any case.
const SMALL_CORRECTIONS: u64 = 4 << 10;

/// Writes a delta from `old` to `new` to `out`, compressed at zstd `level`; the result is verified
/// before. Takes the memory that `budget` reserves: see [`budget`](super::budget). Runs on as many threads
/// as the current rayon pool has.
///
/// # Errors
/// If reading or writing fails, or if an image changed since its layers were read.
pub fn make(
    old: ImageContents<'_>,
    new: ImageContents<'_>,
    names: &[String],
    level: i32,
    budget: &Arc<Budget>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<DeltaStats> {
    let work = WorkMemory::new(budget, level);
    let index = OldIndex::new(old);
    let old_image = OldImage { index: &index, tars: &tars(old.layers) };
    let mut stats = DeltaStats::default();
    let mut blobs = Blobs::new(budget);
    let mut layers: Vec<LayerHeader> = Vec::new();
    let mut descriptors: Vec<Descriptor> = Vec::new();
    let is_new = |l: &(&LayerBlob, &LayerContent)| {
        !old.image.layers.iter().any(|o| o.diff_id == l.0.diff_id)
    };
    let all = || new.image.layers.iter().zip(new.layers);
    progress.begin("delta", all().filter(is_new).map(|(_, read)| read.tar_bytes).sum());
    for (i, (blob, read)) in all().enumerate() {
        if let Some(at) = new.layers[..i].iter().position(|l| l.digest == read.digest) {
            // The new image has this layer twice.
            stats.same_layers += u64::from(matches!(layers[at].recipe, Recipe::Old(_)));
            if is_new(&(blob, read)) {
                progress.advance(read.tar_bytes);
            }
            layers.push(layers[at].clone());
            descriptors.push(descriptors[at].clone());
            continue;
        }
        let kind = Format::of(blob.source.as_ref())?;
        let position = old.layers.iter().position(|l| l.digest == read.digest);
        let (recipe, descriptor) = if let Some(at) = position {
            stats.same_layers += 1;
            let descriptor = Descriptor::new(kind.media_type(), read.digest, blob.source.size());
            (Recipe::Old(LayerIndex::new(at)), descriptor)
        } else {
            let (packing, descriptor) =
                choose_packing(new.image, blob, read, kind, &work, &mut blobs)?;
            stats.other_blobs += u64::from(descriptor.digest != read.digest);
            let recipe = match old.image.layers.iter().position(|l| l.diff_id == blob.diff_id) {
                Some(at) => {
                    let mut ops = OpWriter::default();
                    let bytes = read.tar_bytes;
                    ops.push(Op::Copy { layer: LayerIndex::new(at), offset: 0, bytes });
                    stats.tars += bytes;
                    finish_recipe(read, packing, ops, Streams::default(), &mut blobs, &mut stats)?
                }
                None => describe_layer(
                    old_image, read, packing, &work, &mut blobs, &mut stats, progress,
                )?,
            };
            (recipe, descriptor)
        };
        layers.push(LayerHeader { digest: descriptor.digest, diff_id: blob.diff_id, recipe });
        descriptors.push(descriptor);
    }
    progress.end();
    let (kind, manifest) = manifest(new.image, descriptors)?;
    let header = Header {
        writer: env!("CARGO_PKG_VERSION").into(),
        old: old.image.layers.iter().map(|l| l.diff_id).collect(),
        new: Digest::of(&manifest),
        names: names.to_vec(),
        manifest: (kind, text(&manifest, "manifest")?),
        config: text(&new.image.config_bytes, "config")?,
        layers,
        blobs: blobs.headers,
    };
    let delta = Delta::new(header, Arc::new(blobs.frames.finish()?), 0)?;
    progress.begin("check", stats.tars);
    verify(&delta, old_image.tars, &work, progress)?;
    progress.end();
    stats.bytes = write(&delta, out)?;
    Ok(stats)
}

fn text(bytes: &[u8], what: &str) -> Result<String> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|_| Error::malformed(format!("the {what} is not UTF-8")))
}

/// Checks that a delta that was just made reproduces the tars that were read. Its input is read several
/// times, and may have changed in between.
fn verify(
    delta: &Delta,
    tars: &[Source],
    work: &WorkMemory,
    progress: &dyn Progress,
) -> Result<()> {
    let layers: Vec<usize> = (0..delta.header.layers.len()).collect();
    let check = |i: &usize| {
        let _reserved = work.reserve(apply::memory(delta, *i));
        apply::verify(delta, *i, tars, progress)
    };
    tasks::run(rayon::current_num_threads(), &layers, |_| false, check)?;
    Ok(())
}

/// Returns the media type and the bytes of the result's manifest. It is the image's own if all blobs
/// are.
fn manifest(image: &Image, layers: Vec<Descriptor>) -> Result<(String, Vec<u8>)> {
    let Some(bytes) = &image.manifest else {
        let config = Descriptor::of(media_type::CONFIG, &image.config_bytes);
        let manifest = Manifest::new(config, layers);
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
        // Offsets of chunks in the old blob are no longer valid.
        let mut annotations = old.annotations.take().unwrap_or_default();
        annotations.retain(|key, _| !key.starts_with(chunked::ANNOTATION));
        annotations.extend(new.annotations.unwrap_or_default());
        old.annotations = Some(annotations).filter(|all| !all.is_empty());
    }
    Ok((kind, oci::to_json(&manifest)?))
}

/// Returns how to compress a layer again, and the descriptor of the result: that of the layer's own
/// blob if it can be reproduced.
fn choose_packing(
    image: &Image,
    blob: &LayerBlob,
    read: &LayerContent,
    format: Format,
    work: &WorkMemory,
    blobs: &mut Blobs,
) -> Result<(Packing, Descriptor)> {
    let own = Descriptor::new(format.media_type(), read.digest, blob.source.size());
    let noted = noted_compression(&image.annotations);
    let workers = work.workers(noted.as_ref());
    let tar = read.source.as_ref();
    let found = recompress::find(noted, format, &blob.source, tar, read.tar_bytes, workers)?;
    if let Some(compression) = found {
        return Ok((packing(compression), own));
    }
    if format == Format::Gzip {
        let mut corrections = Vec::new();
        let mut bytes = Hashing::new(SourceReader::all(blob.source.as_ref()));
        let found = recode::analyze(&mut bytes, &mut corrections, &Silent)?;
        // Of an unknown encoder corrections can be large; then another blob is the better choice.
        let max = (blob.source.size() / MIN_BLOB_RATIO).clamp(SMALL_CORRECTIONS, MAX_DELTA_PLAIN);
        if found.is_some_and(|f| f.plain == blob.diff_id && f.corrections <= max) {
            if bytes.finish().1 != read.digest {
                return Err(changed());
            }
            let frame = compress(&corrections, &[], LEVEL)?;
            let blob = blobs.add(&frame, corrections.len() as u64)?;
            return Ok((Packing::Corrections { blob, bytes: own.size }, own));
        }
    }
    let name = if format == Format::Gzip { "gzip" } else { "zstd" };
    let compression = Compression::new(name, None, None)?;
    Ok((packing(compression), encode(read, blob.diff_id, compression, workers)?))
}

fn packing(compression: Compression) -> Packing {
    let (name, level, window_log) = compression.parts();
    Packing::Compression(name, level, window_log)
}

fn encode(
    read: &LayerContent,
    diff_id: Digest,
    compression: Compression,
    workers: u32,
) -> Result<Descriptor> {
    let out = Hashing::new(std::io::sink());
    let mut encoder = Encoder::new(out, &compression, workers, read.tar_bytes)?;
    let mut tar = Hashing::new(SourceReader::new(read.source.as_ref(), 0, read.tar_bytes));
    std::io::copy(&mut tar, &mut encoder)?;
    if tar.finish().1 != diff_id {
        return Err(changed());
    }
    let (out, annotations) = encoder.finish()?;
    let (_, digest, bytes) = out.finish();
    let mut descriptor = Descriptor::new(compression.media_type(), digest, bytes);
    descriptor.annotations = Some(annotations).filter(|all| !all.is_empty());
    Ok(descriptor)
}

fn changed() -> Error {
    Error::mismatch(format!("a layer of the new image changed while it was read: {CHANGED}"))
}
