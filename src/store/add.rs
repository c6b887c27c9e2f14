//! Adding an image: what is not there yet, in packs; then how it is put together.
//!
//! Packs are written as they fill, the image with everything that names them at the end. Whoever
//! is interrupted adds again and finds the packs that were written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::check::is_damage;
use super::gaps::GapReader;
use super::pack::{Packing, header_of};
use super::packer::{OlderChunk, OlderFile, Packer};
use super::record::{
    BlobRecipe, BlobRecord, ChunkRuns, Hash, ImageRecord, LayerRecord, PackHeader, TarStep,
    put_step,
};
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
use crate::model::fileset::base_name;
use crate::split::noted_compression;
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, LayerBlob};
use crate::transport::name;

/// How to add.
#[derive(Debug, Clone, Copy)]
pub struct AddOptions {
    /// How packs are compressed.
    pub packing: Packing,
    /// The image may expand to so many bytes.
    pub max_size: u64,
    /// The time, in seconds since 1970.
    pub now: u64,
}

/// What adding an image came to. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddedImage {
    /// Digest of the manifest, or of the index of several.
    pub digest: Digest,
    /// The names it goes by now.
    pub names: Vec<String>,
    /// It was there before; perhaps it has other names now.
    pub known: bool,
    /// Its blobs.
    pub blob_bytes: u64,
    /// What was not in the store, before compression.
    pub new_bytes: u64,
    /// The same, as it was stored.
    pub stored_bytes: u64,
    /// Blobs that can't be made of their files again and are kept as they are.
    pub kept: u64,
    /// Names that other images had until now, and the digests of those.
    pub moved: Vec<(String, Digest)>,
}

impl Store {
    /// Adds a bundle under its names. The layers of its `images` are taken apart; they go to spools
    /// on `budget` as they are read. All else is kept as it is. Runs on the current rayon pool.
    pub fn add(
        &self,
        bundle: &Bundle,
        images: &[Image],
        options: AddOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<AddedImage> {
        let root = bundle.root.clone().ok_or_else(|| Error::malformed("there is no image"))?;
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

/// What is to be written once its chunks are.
struct ImageWriter<'a> {
    store: &'a Store,
    /// What was in the store before has numbers below this.
    limit: u64,
    /// The header that was looked at last: neighbours in an image mostly lie in one pack.
    header: Option<(u64, PackHeader)>,
    packer: Packer<'a>,
    files: BTreeMap<Hash, ChunkRuns>,
    paths: BTreeMap<[u8; 16], ChunkRuns>,
    layers: BTreeMap<Digest, LayerRecord>,
    blobs: BTreeMap<Digest, BlobRecord>,
    /// What was put in as it is, and so must come out.
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

    /// Adds an image's layers. Gives how many blobs can't be made again and were kept.
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
            // A relayer of before may have put the bytes of one blob under the digest of another.
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

    /// How a blob is made, if it is there.
    fn find_blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        match self.blobs.get(digest) {
            Some(record) => Ok(Some(record.clone())),
            None => self.store.db.json("blobs", digest.as_bytes()),
        }
    }

    /// Adds a layer's tar, unless its blob can't be made of that: then the blob.
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

    /// What it takes to compress a layer as another tool did, if that can be had.
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
                    return Err(Error::mismatch(format!(
                        "it is no longer what was read first: {CHANGED}"
                    )));
                }
                let (out, digest, _) = out.finish();
                self.add_verbatim(&digest, &(Arc::new(out.finish()?) as Source)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Adds bytes as they are. They have `digest`.
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
        // What layers of one position have in common is no matter of paths.
        let name = |what: &str| format!("\0{what} {position}").into_bytes();
        Ok(LayerRecord {
            tar_bytes: read.tar_bytes,
            steps: self.add_stream(&name("steps"), &steps[..])?,
            headers: self.add_stream(&name("heads"), GapReader::new(tar, gaps))?,
        })
    }

    /// Adds a file, unless it is there.
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

    /// Adds bytes of unknown size; `name` tells what they may be like.
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

    /// The newest file of this name, or else of a name that differs in digits only.
    fn find_older(&mut self, keys: &[[u8; 16]]) -> Result<Option<OlderFile>> {
        for key in keys {
            // Not one of this image: its chunks may be in no pack yet.
            let Some(runs) = self.store.runs("paths", key, self.limit)? else { continue };
            let (mut chunks, mut bytes) = (Vec::new(), 0);
            for number in runs.numbers() {
                // It may have been damaged and taken out since.
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

    /// Bytes of a chunk, and the depth of its pack; `None` when it is gone.
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

    /// Reads what was stored, before anything names it: an image that can't be made again is none.
    /// That blobs come of their tars was tried when it was decided how they are made.
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
            .with_context(|| "reading what was stored, of which nothing counts")?;
        for digest in &image.blobs {
            if self.find_blob(digest)?.is_none() {
                return Err(self.store.db.damaged(&format!("blob {digest} was not stored")));
            }
        }
        Ok(())
    }

    /// Writes what is left, and last the image: from then on it is there. Gives the names that
    /// were another image's.
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
            // It keeps the names and times it had, and its layers.
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
            let (gone, stay) = std::mem::take(&mut old.names).into_iter().partition(taken);
            let gone: Vec<String> = gone;
            old.names = stay;
            old.former.retain(|name| !gone.contains(name));
            old.former.extend_from_slice(&gone);
            moved.extend(gone.into_iter().map(|name| (name, old.root.digest)));
        }
        for (number, image) in changed.into_iter().chain([(number, image)]) {
            batch.put_image(number, &image)?;
        }
        batch.write(true)?;
        self.store.db.flush_and_merge()?;
        Ok(moved)
    }
}

/// Keys under which a file is found when another one is like it: its path, and its path without
/// digits, as versions in names change.
fn similarity_keys(path: &[u8]) -> Vec<[u8; 16]> {
    let key = |kind: &[u8], bytes: &[u8]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind).update(bytes);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    };
    let digits = path.iter().any(u8::is_ascii_digit);
    let mut keys = vec![key(b"path", path)];
    if digits && !base_name(path).is_empty() {
        let stem: Vec<u8> = path.iter().copied().filter(|b| !b.is_ascii_digit()).collect();
        keys.push(key(b"stem", &stem));
    }
    keys
}
