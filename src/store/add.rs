//! Adding an image: new chunks go into packs, then the image is written.
//!
//! Packs are written as they fill. The image, and everything that refers to the packs, is written at
//! the end. An interrupted add leaves packs that nothing refers to; the next add reuses them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::check::is_damage;
use super::encoding::{ChunkRuns, Hash, PackHeader, TarStep, put_step};
use super::gaps::GapReader;
use super::pack::{Packing, header_of};
use super::packer::{OlderChunk, OlderFile, Packer, similarity_keys};
use super::record::{BlobRecipe, BlobRecord, ImageRecord, LayerRecord};
use super::table::Store;
use crate::base::chunker::{self, chunks};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::{Progress, Silent};
use crate::format::codec::Format;
use crate::format::recode;
use crate::format::recompress;
use crate::layers::flatten::{self, Keep};
use crate::layers::read::LayerContent;
use crate::model::content::{Budget, CHANGED, Source, SourceReader, SpoolWriter};
use crate::model::digest::{Digest, Hashing};
use crate::split::noted_compression;
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, LayerBlob};
use crate::transport::name;

/// Options of [`Store::add`].
#[derive(Debug, Clone, Copy)]
pub struct AddOptions {
    /// How packs are compressed.
    pub packing: Packing,
    /// Maximum number of bytes that the image may expand to.
    pub max_size: u64,
    /// The current time, in seconds since 1970.
    pub now: u64,
}

/// An image that was added. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddedImage {
    /// Digest of the manifest, or of the index if there are several manifests.
    pub digest: Digest,
    /// Names of the image.
    pub names: Vec<String>,
    /// Whether the image already existed. Its names may have changed.
    pub known: bool,
    /// Size of its blobs.
    pub blob_bytes: u64,
    /// Size of the chunks that were not in the store, uncompressed.
    pub new_bytes: u64,
    /// Size of the same chunks as stored.
    pub stored_bytes: u64,
    /// Number of layers whose blobs can't be rebuilt from their files and are stored as they are.
    pub kept: u64,
    /// Names that were moved from other images, with the digests of those images.
    pub moved: Vec<(String, Digest)>,
}

impl Store {
    /// Adds a bundle under its names. The layers of `images` are split into files; while they are
    /// read, they go to spools on `budget`. Everything else is stored as it is. Runs on the current
    /// rayon pool.
    ///
    /// # Errors
    /// If the image can't be read or is not valid, expands to more than `max_size`, or the store can't
    /// be written or is damaged.
    pub fn add(
        &self,
        bundle: &Bundle,
        images: &[Image],
        options: AddOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<AddedImage> {
        let root =
            bundle.root.clone().ok_or_else(|| Error::malformed("there is no image to add"))?;
        let names = bundle.names.clone();
        let known = self.find_by_digest(&root.digest)?;
        let mut whole = known.is_some();
        for digest in known.iter().flat_map(|(_, image)| &image.blobs) {
            whole &= self.known_blob(digest)?.is_some();
        }
        let mut writer = ImageWriter::new(self, options.packing);
        let mut added = AddedImage {
            digest: root.digest,
            names,
            known: whole,
            blob_bytes: bundle.bytes(),
            new_bytes: 0,
            stored_bytes: 0,
            kept: 0,
            moved: Vec::new(),
        };
        let mut record = ImageRecord {
            root,
            names: added.names.clone(),
            blobs: bundle.blobs.keys().copied().collect(),
            diff_ids: Vec::new(),
            added: vec![options.now],
            former: Vec::new(),
        };
        if !whole {
            for image in images {
                record.diff_ids.extend(image.layers.iter().map(|l| l.diff_id));
                added.kept += writer.add_image(image, options, budget, progress)?;
            }
            for (digest, blob) in &bundle.blobs {
                if writer.find_blob(digest)?.is_none() {
                    let chunks = writer.add_verbatim(digest, &blob.source)?;
                    let record = BlobRecord {
                        bytes: blob.source.size(),
                        recipe: BlobRecipe::Document(chunks),
                    };
                    writer.blobs.insert(*digest, record);
                }
            }
        }
        added.moved = writer.finish(&record)?;
        (added.new_bytes, added.stored_bytes) =
            (writer.packer.new_bytes, writer.packer.stored_bytes);
        Ok(added)
    }
}

/// The changes of one add. They are written after the chunks that they refer to.
struct ImageWriter<'a> {
    store: &'a Store,
    /// Chunks that were in the store before have numbers below this.
    limit: u64,
    /// The pack header that was used last: neighbours in an image are mostly in one pack.
    header: Option<(u64, PackHeader)>,
    packer: Packer<'a>,
    files: BTreeMap<Hash, ChunkRuns>,
    paths: BTreeMap<[u8; 16], ChunkRuns>,
    layers: BTreeMap<Digest, LayerRecord>,
    blobs: BTreeMap<Digest, BlobRecord>,
    /// Blobs that are stored as they are, to be verified.
    streams: Vec<(Digest, ChunkRuns)>,
}

impl<'a> ImageWriter<'a> {
    fn new(store: &'a Store, packing: Packing) -> Self {
        let limit = store.limit();
        Self {
            store,
            limit,
            header: None,
            packer: Packer::new(store, limit, packing),
            files: BTreeMap::new(),
            paths: BTreeMap::new(),
            layers: BTreeMap::new(),
            blobs: BTreeMap::new(),
            streams: Vec::new(),
        }
    }

    /// Adds the layers of an image. Returns the number of blobs that can't be rebuilt and are stored
    /// as they are.
    fn add_image(
        &mut self,
        image: &Image,
        options: AddOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let mut fresh: Vec<(usize, LayerBlob)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, layer) in image.layers.iter().enumerate() {
            let digest = layer.digest()?;
            // Older versions could store the bytes of one blob under the digest of another.
            let document = |record: &BlobRecord| matches!(record.recipe, BlobRecipe::Document(_));
            if seen.insert(digest) && self.find_blob(&digest)?.is_none_or(|r| document(&r)) {
                fresh.push((i, layer.clone()));
            }
        }
        let layers: Vec<LayerBlob> = fresh.iter().map(|(_, l)| l.clone()).collect();
        let read = flatten::read(&layers, Keep::Contents, options.max_size, budget, progress)?;
        let read = read.layers;
        progress.begin("store", read.iter().map(|l| l.tar_bytes).sum());
        let mut kept = 0;
        for ((position, layer), read) in fresh.iter().zip(&read) {
            let recipe = self.add_layer(*position, image, layer, read, budget, progress);
            let recipe = recipe.with_context(|| layer.name.clone())?;
            kept += u64::from(matches!(recipe, BlobRecipe::Verbatim(_)));
            let record = BlobRecord { bytes: layer.source.size(), recipe };
            self.blobs.insert(read.digest, record);
        }
        progress.end();
        Ok(kept)
    }

    /// Returns the record of a blob that is in the store or was added by this writer.
    fn find_blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.blobs.get(digest) {
            Some(record) => Ok(Some(record.clone())),
            None => self.store.db.json("blobs", digest.as_bytes()),
        }
    }

    /// Adds the tar of a layer, or its blob if that can't be rebuilt from the tar.
    fn add_layer(
        &mut self,
        position: usize,
        image: &Image,
        layer: &LayerBlob,
        read: &LayerContent,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<BlobRecipe> {
        let format = Format::of(layer.source.as_ref())?;
        let noted = noted_compression(&image.annotations);
        let workers = rayon::current_num_threads() as u32;
        let tar = read.source.as_ref();
        let diff_id = layer.diff_id;
        let found = recompress::find(noted, format, &layer.source, tar, read.tar_bytes, workers)?;
        let recipe = if let Some(compression) = found {
            BlobRecipe::Compressed { diff_id, compression: compression.parts() }
        } else if let Some(corrections) =
            self.find_corrections(layer, &read.digest, format, budget)?
        {
            BlobRecipe::Recoded { diff_id, corrections }
        } else {
            progress.advance(read.tar_bytes);
            return Ok(BlobRecipe::Verbatim(self.add_verbatim(&read.digest, &layer.source)?));
        };
        let known = self.layers.contains_key(&diff_id)
            || self.store.db.get("layers", diff_id.as_bytes())?.is_some();
        if known {
            progress.advance(read.tar_bytes);
        } else {
            let record = self.add_tar(position, read, progress)?;
            self.layers.insert(diff_id, record);
        }
        Ok(recipe)
    }

    /// Returns the corrections that reproduce the compression of another tool, if there are any.
    fn find_corrections(
        &mut self,
        layer: &LayerBlob,
        digest: &Digest,
        format: Format,
        budget: &Arc<Budget>,
    ) -> Result<Option<ChunkRuns>> {
        if format != Format::Gzip {
            return Ok(None);
        }
        let mut out = Hashing::new(SpoolWriter::new(budget));
        let mut blob = Hashing::new(SourceReader::all(layer.source.as_ref()));
        match recode::analyze(&mut blob, &mut out, &Silent)? {
            Some(found) if found.plain == layer.diff_id => {
                if blob.finish().1 != *digest {
                    return Err(Error::mismatch(format!("its bytes have changed: {CHANGED}")));
                }
                let (out, digest, _) = out.finish();
                self.add_verbatim(&digest, &(Arc::new(out.finish()?) as Source)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Stores bytes as they are, and checks that they have `digest`.
    fn add_verbatim(&mut self, digest: &Digest, source: &Source) -> Result<ChunkRuns> {
        let mut bytes = Hashing::new(SourceReader::all(source.as_ref()));
        let chunks = self.add_stream(b"", &mut bytes)?;
        let (_, found, _) = bytes.finish();
        if found != *digest {
            return Err(Error::mismatch(format!(
                "blob {digest}: its bytes have digest {found}; the image is damaged, rebuild or \
                 download it again"
            )));
        }
        self.streams.push((*digest, chunks.clone()));
        Ok(chunks)
    }

    fn add_tar(
        &mut self,
        position: usize,
        read: &LayerContent,
        progress: &dyn Progress,
    ) -> Result<LayerRecord> {
        let tar = read.source.as_ref();
        let (mut steps, mut end, mut at) = (Vec::new(), 0, 0);
        let mut gaps = Vec::new();
        for span in read.spans() {
            let heads = span.offset - at;
            gaps.push((at, heads));
            at = span.offset + span.file.size;
            let data = SourceReader::new(tar, span.offset, span.file.size);
            let file = self.add_file(span.path, span.file.hash, span.file.size, data)?;
            put_step(&mut steps, &TarStep { header_bytes: heads, file }, &mut end);
            progress.advance(heads + span.file.size);
        }
        let heads = read.tar_bytes - at;
        gaps.push((at, heads));
        put_step(
            &mut steps,
            &TarStep { header_bytes: heads, file: ChunkRuns::default() },
            &mut end,
        );
        progress.advance(heads);
        // What layers at one position have in common does not depend on paths.
        let name = |what: &str| format!("\0{what} {position}").into_bytes();
        Ok(LayerRecord {
            tar_bytes: read.tar_bytes,
            steps: self.add_stream(&name("steps"), &steps[..])?,
            headers: self.add_stream(&name("heads"), GapReader::new(tar, gaps))?,
        })
    }

    /// Adds a file, unless the store has it.
    fn add_file(
        &mut self,
        path: &[u8],
        hash: Hash,
        size: u64,
        data: impl Read,
    ) -> Result<ChunkRuns> {
        if size <= chunker::MIN as u64 {
            if let Some(number) = self.packer.find(&hash)? {
                return Ok(ChunkRuns(vec![(number, 1)]));
            }
        } else if let Some(chunks) = self.files.get(&hash) {
            return Ok(chunks.clone());
        } else if let Some(chunks) = self.store.runs("files", &hash, self.limit)? {
            return Ok(chunks);
        }
        let chunks = self.add_chunks(path, size, data)?;
        if size > chunker::MIN as u64 {
            self.files.insert(hash, chunks.clone());
        }
        Ok(chunks)
    }

    /// Adds bytes of unknown size. `name` is used to find similar older bytes.
    fn add_stream(&mut self, name: &[u8], mut data: impl Read) -> Result<ChunkRuns> {
        let mut small = Vec::new();
        (&mut data).take(chunker::MAX as u64).read_to_end(&mut small)?;
        let size = small.len() as u64;
        self.add_chunks(name, size, small.as_slice().chain(data))
    }

    fn add_chunks(&mut self, path: &[u8], size: u64, data: impl Read) -> Result<ChunkRuns> {
        let keys = similarity_keys(path);
        let older = self.find_older(&keys)?;
        let (mut runs, mut at) = (ChunkRuns::default(), 0);
        for chunk in chunks(data) {
            let chunk = chunk?;
            let end = at + chunk.len() as u64;
            let reference = older.as_ref().map(|o| (o, at..end, size.max(end)));
            runs.push(self.packer.add_chunk(&chunk, reference)?);
            at = end;
        }
        if !path.is_empty() {
            for key in keys {
                self.paths.insert(key, runs.clone());
            }
        }
        Ok(runs)
    }

    /// Returns the newest file of this path, or else of a path that differs only in digits.
    fn find_older(&mut self, keys: &[[u8; 16]]) -> Result<Option<OlderFile>> {
        for key in keys {
            // Not a file of this image: its chunks may not be in a written pack yet.
            let Some(runs) = self.store.runs("paths", key, self.limit)? else { continue };
            let (mut chunks, mut bytes) = (Vec::new(), 0);
            for number in runs.numbers() {
                // `check --repair` may have removed it.
                let Some((size, depth)) = self.size_and_depth(number)? else { break };
                chunks.push(OlderChunk { number, at: bytes, bytes: size, depth });
                bytes += size;
            }
            if !chunks.is_empty() {
                return Ok(Some(OlderFile { chunks, bytes }));
            }
        }
        Ok(None)
    }

    /// Returns the size of a chunk and the depth of its pack, or `None` if it does not exist.
    fn size_and_depth(&mut self, number: u64) -> Result<Option<(u64, u64)>> {
        let inside = |(first, header): &(u64, PackHeader)| {
            let (bytes, _) = header.chunks.get(number.checked_sub(*first)? as usize)?;
            (*bytes > 0).then_some((u64::from(*bytes), header.depth))
        };
        let found = self.header.as_ref().and_then(inside);
        if found.is_some() {
            return Ok(found);
        }
        self.header = match header_of(&self.store.db, number) {
            Err(e) if is_damage(&e) => None,
            header => Some(header?),
        };
        Ok(self.header.as_ref().and_then(inside))
    }

    /// Reads back what was stored before the image is written. That blobs can be rebuilt from their
    /// tars was checked when their recipes were chosen.
    fn verify(&self, image: &ImageRecord) -> Result<()> {
        let mut tars: BTreeMap<Digest, LayerRecord> = self.layers.clone();
        for record in self.blobs.values() {
            if let Some(diff_id) = record.recipe.diff_id().filter(|d| !tars.contains_key(d)) {
                tars.insert(*diff_id, self.store.layer(diff_id)?);
            }
        }
        let tars: Vec<_> = tars.iter().collect();
        let store = self.store;
        let tars = tars.par_iter().map(|(diff_id, layer)| store.verify_tar(diff_id, layer));
        let streams = self.streams.par_iter().map(|(digest, c)| store.verify_chunks(digest, c));
        tars.chain(streams)
            .with_max_len(1)
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<()>>()
            .with_context(|| "verifying what was stored; the image was not added")?;
        for digest in &image.blobs {
            if self.find_blob(digest)?.is_none() {
                return Err(self.store.db.damaged(&format!("blob {digest} was not stored")));
            }
        }
        Ok(())
    }

    /// Writes the remaining packs, and the image last. Returns the names that were moved from other
    /// images.
    fn finish(&mut self, image: &ImageRecord) -> Result<Vec<(String, Digest)>> {
        self.packer.finish()?;
        self.verify(image)?;
        let mut batch = self.store.batch();
        for (hash, chunks) in &self.files {
            batch.put("files", hash, &chunks.to_bytes())?;
        }
        for (path, chunks) in &self.paths {
            batch.put("paths", path, &chunks.to_bytes())?;
        }
        for (diff_id, layer) in &self.layers {
            batch.put_json("layers", diff_id.as_bytes(), layer)?;
        }
        for (digest, blob) in &self.blobs {
            batch.put_json("blobs", digest.as_bytes(), blob)?;
        }
        let (mut number, mut image) = (self.store.next_image_number()?, image.clone());
        if let Some((at, old)) = self.store.find_by_digest(&image.root.digest)? {
            // It keeps its previous names, times and layers.
            number = at;
            image.absorb(old);
        }
        let mut moved = Vec::new();
        let mut changed: BTreeMap<u64, ImageRecord> = BTreeMap::new();
        for name in &image.names {
            let Some((at, old)) = self.store.find_by_name(name)?.filter(|(at, _)| *at != number)
            else {
                continue;
            };
            let old = changed.entry(at).or_insert(old);
            let taken = |other: &String| name::is_same(other, name);
            let (moved_names, kept) = std::mem::take(&mut old.names).into_iter().partition(taken);
            let moved_names: Vec<String> = moved_names;
            old.names = kept;
            old.former.retain(|name| !moved_names.contains(name));
            old.former.extend_from_slice(&moved_names);
            moved.extend(moved_names.into_iter().map(|name| (name, old.root.digest)));
        }
        for (number, image) in changed.into_iter().chain([(number, image)]) {
            batch.put_image(number, &image)?;
        }
        batch.write(true)?;
        self.store.db.flush_and_merge()?;
        Ok(moved)
    }
}
