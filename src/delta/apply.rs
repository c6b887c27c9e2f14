//! Applies a delta.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::ops::{Op, OpReader};
use super::patch::PatchReader;
use super::stream::{StreamReader, too_short};
use super::{Delta, Packing, Part, Recipe, memory, tars};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::format::codec::{Compression, Encoder};
use crate::format::recode;
use crate::layers::read::LayerContent;
use crate::model::content::{Budget, CHANGED, Source, SourceReader, SpoolWriter};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{Config, Descriptor, Manifest, media_type, parse};
use crate::transport::bundle::{Blob, Bundle, ManifestEntry};
use crate::transport::image::Image;

/// Statistics of a delta that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct ApplyStats {
    /// Bytes of uncompressed layers that were rebuilt.
    pub bytes: u64,
    /// CPU seconds of rebuilding and hashing them, without reading the old image and compressing.
    pub seconds: f64,
}

/// A reader that measures the CPU time of its thread that is spent in it.
struct Timed<R> {
    inner: R,
    spent: Timespec,
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let start = clock_gettime(ClockId::ThreadCPUTime);
        let n = self.inner.read(buf);
        self.spent += clock_gettime(ClockId::ThreadCPUTime) - start;
        n
    }
}

/// Makes the new image from the old one, whose layers were read with their contents. Every digest
/// is verified. Up to `workers` threads compress a layer.
///
/// # Errors
/// If the delta is damaged, does not fit the old image, or its layers expand to more than `max_size`
/// bytes; if the old image changed since it was read; if reading or spooling fails.
pub fn apply(
    delta: &Delta,
    old: &Image,
    layers: &[LayerContent],
    workers: u32,
    max_size: u64,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<(Bundle, ApplyStats)> {
    let mut stats = ApplyStats::default();
    let header = &delta.header;
    check_documents(delta)?;
    let tars = tars(layers);
    let total = header.layers.iter().try_fold(0u64, |sum, layer| match &layer.recipe {
        Recipe::Rebuild { tar_bytes, .. } => sum.checked_add(*tar_bytes),
        Recipe::Old(_) => Some(sum),
    });
    let total = total.filter(|n| *n <= max_size).ok_or_else(|| {
        Error::limit(format!(
            "the new layers expand to more than {max_size} bytes; --max-size allows more"
        ))
    })?;
    progress.begin("apply", total);
    let mut bundle = Bundle { names: header.names.clone(), ..Bundle::default() };
    for (i, layer) in header.layers.iter().enumerate() {
        let place = || format!("layer {} ({})", i + 1, layer.digest);
        let (source, digest, diff_id) = match &layer.recipe {
            Recipe::Old(at) => {
                let index = at.index();
                let (Some(blob), Some(read)) = (old.layers.get(index), layers.get(index)) else {
                    let what = format!("the old image has no layer {}", at.number());
                    return Err(Error::malformed(what).context(place()));
                };
                (Arc::clone(&blob.source), read.digest, blob.diff_id)
            }
            Recipe::Rebuild { tar_bytes, packing, ops, .. } => {
                let ops = delta.blob(*ops, &[]).with_context(place)?;
                let tar = LayerTarReader::new(delta, &tars, &layer.recipe, &ops, progress)?;
                let tar = Hashing::new(tar.take(tar_bytes.saturating_add(1)));
                let mut tar = Timed { inner: tar, spent: Timespec::default() };
                let out = Hashing::new(SpoolWriter::new(budget));
                let out = pack(delta, packing, &mut tar, *tar_bytes, (workers, max_size), out)
                    .with_context(place)?;
                let (_, diff_id, bytes) = tar.inner.finish();
                stats.bytes += bytes;
                stats.seconds += tar.spent.tv_sec as f64 + tar.spent.tv_nsec as f64 / 1e9;
                if bytes != *tar_bytes {
                    let what = format!("its tar has {bytes} bytes and not {tar_bytes}");
                    return Err(Error::malformed(what).context(place()));
                }
                let (spool, digest, _) = out.finish();
                (Arc::new(spool.finish()?) as Source, digest, diff_id)
            }
        };
        check(layer.diff_id, diff_id)
            .with_context(|| "the uncompressed tar")
            .with_context(place)?;
        check(layer.digest, digest).with_context(place)?;
        bundle.blobs.insert(layer.digest, Blob { source, verified: true });
    }
    progress.end();
    let config = bundle.document(media_type::CONFIG, header.config.clone().into_bytes());
    let layers = header.layers.iter().map(|l| l.digest).collect();
    let platform = Config::parse(header.config.as_bytes())?.platform();
    bundle.listed.push(ManifestEntry { config: config.digest, layers, platform });
    let (kind, text) = &header.manifest;
    let root: Descriptor = bundle.document(kind, text.clone().into_bytes());
    bundle.root = Some(root);
    Ok((bundle, stats))
}

/// Checks that a layer of a delta that was just made, counted from 0, has the tar that was read.
pub(super) fn verify(
    delta: &Delta,
    number: usize,
    tars: &[Source],
    progress: &dyn Progress,
) -> Result<()> {
    let layer = &delta.header.layers[number];
    let Recipe::Rebuild { tar_bytes, ops, .. } = &layer.recipe else { return Ok(()) };
    let ops = delta.blob(*ops, &[])?;
    let tar = LayerTarReader::new(delta, tars, &layer.recipe, &ops, progress)?;
    let mut tar = Hashing::new(tar.take(tar_bytes.saturating_add(1)));
    let copied = io::copy(&mut io::BufReader::with_capacity(1 << 17, &mut tar), &mut io::sink());
    copied.with_context(|| format!("checking layer {} of the new image", number + 1))?;
    if tar.finish().1 != layer.diff_id {
        return Err(Error::mismatch(format!(
            "the delta does not reproduce layer {} of the new image: {CHANGED}",
            number + 1
        )));
    }
    Ok(())
}

/// Returns how many bytes of memory it takes to make a layer's tar, at most.
pub(super) fn memory(delta: &Delta, number: usize) -> u64 {
    let Recipe::Rebuild { ops, headers, data, literals, patches, .. } =
        &delta.header.layers[number].recipe
    else {
        return 0;
    };
    let blob = |number: u32| delta.header.blobs.get(number as usize);
    let (plain, packed) = (|n| blob(n).map_or(0, |b| b.plain), |n| blob(n).map_or(0, |b| b.bytes));
    let streams = [headers, data, literals];
    // Each stream has a part, and one of them reads its next.
    let parts = |of: &dyn Fn(&Part) -> u64| streams.map(|s| s.iter().map(of).max().unwrap_or(0));
    let held: u64 = parts(&|part| plain(part.blob)).iter().sum();
    let next = parts(&|part| packed(part.blob) + part.reference.iter().map(|r| r.2).sum::<u64>());
    let patch = patches.iter().map(|n| packed(*n) + memory::reading()).max().unwrap_or(0);
    plain(*ops) + held + next.into_iter().max().unwrap_or(0) + patch
}

/// Makes a blob from its tar, which is read to the end.
fn pack<W: Write + Send + 'static>(
    delta: &Delta,
    packing: &Packing,
    tar: &mut impl Read,
    tar_bytes: u64,
    (workers, max_size): (u32, u64),
    mut out: W,
) -> Result<W> {
    match packing {
        Packing::Compression(name, level, window_log) => {
            let compression = Compression::new(name, *level, *window_log)?;
            let mut encoder = Encoder::new(out, &compression, workers, tar_bytes)?;
            io::copy(&mut io::BufReader::with_capacity(1 << 17, tar), &mut encoder)?;
            Ok(encoder.finish()?.0)
        }
        Packing::Corrections { blob, bytes } => {
            if *bytes > max_size {
                return Err(Error::limit(format!(
                    "its blob has {bytes} bytes, more than {max_size}; --max-size allows more"
                )));
            }
            let corrections = delta.blob(*blob, &[])?;
            let mut tar = io::BufReader::with_capacity(1 << 17, tar);
            recode::rebuild(&mut tar, &mut corrections.as_slice(), *bytes, &mut out)?;
            io::copy(&mut tar, &mut io::sink())?;
            Ok(out)
        }
    }
}

/// Checks that the manifest is the one that the header names, and that it describes the layers of
/// the header.
fn check_documents(delta: &Delta) -> Result<()> {
    let header = &delta.header;
    let (kind, text) = &header.manifest;
    check(header.new, Digest::of(text.as_bytes())).with_context(|| "the manifest in the delta")?;
    let manifest: Manifest = parse(text.as_bytes(), "the manifest in the delta")?;
    let config = Config::parse(header.config.as_bytes())?;
    check(manifest.config.digest, Digest::of(header.config.as_bytes()))
        .with_context(|| "the config in the delta")?;
    let layers = header.layers.iter();
    let described = manifest.layers.iter().map(|l| l.digest).eq(layers.clone().map(|l| l.digest))
        && config.diff_ids()?.into_iter().eq(layers.map(|l| l.diff_id));
    if !described || !media_type::is_manifest(kind) {
        return Err(Error::malformed(
            "the manifest in the delta does not describe the layers in the delta",
        ));
    }
    Ok(())
}

fn check(stated: Digest, found: Digest) -> Result<()> {
    if stated == found {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "its digest is {found} and not {stated}: the delta is damaged, or {CHANGED}"
    )))
}

/// Reads the tar of a layer as its instructions make it.
pub(super) struct LayerTarReader<'a> {
    pub(super) ops: OpReader<'a>,
    /// The rest of the current instruction.
    pub(super) op: Option<Op>,
    pub(super) headers: StreamReader<'a>,
    pub(super) data: StreamReader<'a>,
    pub(super) literals: StreamReader<'a>,
    pub(super) patches: PatchReader<'a>,
    pub(super) tars: &'a [Source],
    pub(super) progress: &'a dyn Progress,
}

impl<'a> LayerTarReader<'a> {
    /// Begins a layer by its recipe and its instructions.
    fn new(
        delta: &'a Delta,
        tars: &'a [Source],
        recipe: &'a Recipe,
        ops: &'a [u8],
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let Recipe::Rebuild { tar_bytes, headers, data, literals, patches, .. } = recipe else {
            return Err(Error::malformed("a layer of the old image is not rebuilt"));
        };
        let stream = |parts| StreamReader::new(delta, tars, parts, *tar_bytes);
        Ok(Self {
            ops: OpReader::new(ops),
            op: None,
            headers: stream(headers)?,
            data: stream(data)?,
            literals: stream(literals)?,
            patches: PatchReader::new(delta, tars, patches),
            tars,
            progress,
        })
    }

    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let Some(op) = self.op.take() else {
                self.op = self.ops.next()?;
                match self.op {
                    None => return Ok(0),
                    Some(Op::Patched(bytes)) => self.patches.begin_file(bytes)?,
                    _ => {}
                }
                continue;
            };
            let left = match op {
                Op::Copy { bytes: n, .. }
                | Op::Headers(n)
                | Op::Data(n)
                | Op::Literals(n)
                | Op::Patched(n) => n,
            };
            if left == 0 {
                continue;
            }
            let room = (buf.len() as u64).min(left) as usize;
            let buf = &mut buf[..room];
            let n = match op {
                Op::Headers(_) => self.headers.read(buf)?,
                Op::Data(_) => self.data.read(buf)?,
                Op::Literals(_) => self.literals.read(buf)?,
                Op::Patched(_) => self.patches.read(buf, &mut self.literals)?,
                Op::Copy { layer, offset, .. } => {
                    let tar = self.tars.get(layer.index());
                    let tar = tar.filter(|tar| {
                        offset.checked_add(left).is_some_and(|end| end <= tar.size())
                    });
                    let tar = tar.ok_or_else(|| {
                        Error::malformed("the delta copies bytes that the old image does not have")
                    })?;
                    SourceReader::new(tar.as_ref(), offset, left).read(buf)?
                }
            };
            if n == 0 {
                return Err(too_short());
            }
            let n64 = n as u64;
            self.op = Some(match op {
                Op::Headers(left) => Op::Headers(left - n64),
                Op::Data(left) => Op::Data(left - n64),
                Op::Literals(left) => Op::Literals(left - n64),
                Op::Patched(left) => Op::Patched(left - n64),
                Op::Copy { layer, offset, bytes } => {
                    Op::Copy { layer, offset: offset + n64, bytes: bytes - n64 }
                }
            });
            self.progress.advance(n64);
            return Ok(n);
        }
    }
}

impl Read for LayerTarReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_some(&mut buf[done..])? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
}
