//! Reading images of a store: as an OCI layout whose blobs are rebuilt on demand.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::encoding::{ChunkRuns, take_step};
use super::pack::ChunkReader;
use super::record::{BlobRecipe, BlobRecord, ImageRecord, LayerRecord};
use super::table::Store;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_STORE_STEPS;
use crate::format::codec::Encoder;
use crate::format::recode;
use crate::model::content::{Budget, ReadAt, Source, SpoolWriter};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{self, CONTAINERD_NAME, Index, REF_NAME};
use crate::transport::files::{Files, blob_path};
use crate::transport::open::Place;
use crate::transport::{Transport, name};

/// Finds an image of the store in `dir`. `wanted` is its name, tag or digest, which is optional if
/// there is only one image. Its blobs go to spools on `budget` when they are read.
pub(super) fn place(
    dir: &Path,
    wanted: Option<&str>,
    workers: u32,
    budget: &Arc<Budget>,
) -> Result<Place> {
    let store = Arc::new(Store::open_read(dir, budget)?);
    let (_, image) = store.find(wanted)?;
    let stored = StoredImage { store, image, workers, budget: Arc::clone(budget) };
    Ok(Place::new(stored, Transport::Store, budget))
}

/// An image of a store.
struct StoredImage {
    store: Arc<Store>,
    image: ImageRecord,
    workers: u32,
    budget: Arc<Budget>,
}

impl Files for StoredImage {
    fn get(&self, path: &str) -> Result<Option<Source>> {
        if path == "index.json" {
            return Ok(Some(Arc::new(self.index()?)));
        }
        let Some(digest) = self.image.blobs.iter().find(|d| blob_path(d) == path) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(LazyBlob {
            store: Arc::clone(&self.store),
            digest: *digest,
            record: self.store.blob(digest)?,
            workers: self.workers,
            budget: Arc::clone(&self.budget),
            spool: Mutex::default(),
        })))
    }
}

impl StoredImage {
    fn index(&self) -> Result<Vec<u8>> {
        let named = |full: &String| {
            let mut root = self.image.root.clone();
            let mut annotations = root.annotations.take().unwrap_or_default();
            annotations.insert(REF_NAME.into(), name::tag(full).into());
            if name::full(full).is_some() {
                annotations.insert(CONTAINERD_NAME.into(), full.clone());
            }
            root.annotations = Some(annotations);
            root
        };
        let mut manifests: Vec<_> = self.image.names.iter().map(named).collect();
        if manifests.is_empty() {
            manifests.push(self.image.root.clone());
        }
        oci::to_json(&Index::new(manifests))
    }
}

/// A blob that is rebuilt on first use. Rebuilding runs on rayon with `spool` locked, so a blob must
/// not be shared by several tasks: a thread that waits inside may start another task, which would wait
/// for its own thread's lock.
struct LazyBlob {
    store: Arc<Store>,
    digest: Digest,
    record: BlobRecord,
    workers: u32,
    budget: Arc<Budget>,
    spool: Mutex<Option<Source>>,
}

impl ReadAt for LazyBlob {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // Other readers wait for the first.
        let mut blob = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let source = if let Some(source) = &*blob {
            Arc::clone(source)
        } else {
            let out = SpoolWriter::new(&self.budget);
            let spool = self.store.build_blob(&self.digest, &self.record, self.workers, out)?;
            Arc::clone(blob.insert(Arc::new(spool.finish()?)))
        };
        drop(blob);
        source.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.record.bytes
    }
}

impl Store {
    /// Rebuilds a blob, and verifies its digest and size.
    pub(super) fn build_blob<W: io::Write + Send + 'static>(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        workers: u32,
        out: W,
    ) -> Result<W> {
        let place = || format!("rebuilding blob {digest} from the store");
        let mut out = Hashing::new(out);
        match &record.recipe {
            BlobRecipe::Document(chunks) | BlobRecipe::Verbatim(chunks) => {
                let mut chunks = ChunkReader::new(&self.packs, &self.db, chunks.clone());
                copy(&mut chunks, &mut out).with_context(place)?;
            }
            BlobRecipe::Recoded { diff_id, corrections } => {
                let layer = self.layer(diff_id).with_context(place)?;
                let corrections = corrections.clone();
                let mut corrections = ChunkReader::new(&self.packs, &self.db, corrections);
                let mut tar = buffered(self.tar_reader(&layer)?);
                recode::rebuild(&mut tar, &mut corrections, record.bytes, &mut out)
                    .with_context(place)?;
            }
            BlobRecipe::Compressed { diff_id, compression } => {
                let layer = self.layer(diff_id).with_context(place)?;
                let compression = BlobRecipe::compression(compression).with_context(place)?;
                let mut encoder = Encoder::new(out, &compression, workers, layer.tar_bytes)?;
                copy(&mut self.tar_reader(&layer)?, &mut encoder).with_context(place)?;
                (out, _) = encoder.finish()?;
            }
        }
        let (out, found, bytes) = out.finish();
        if found != *digest || bytes != record.bytes {
            return Err(self
                .db
                .damaged(&format!("the result has {bytes} bytes and digest {found}")))
            .with_context(place);
        }
        Ok(out)
    }

    /// Reads chunks, and verifies their digest.
    pub(super) fn verify_chunks(&self, digest: &Digest, chunks: &ChunkRuns) -> Result<()> {
        self.verify(digest, &mut ChunkReader::new(&self.packs, &self.db, chunks.clone()))
    }

    /// Reads a layer's tar, and verifies its diff ID.
    pub(super) fn verify_tar(&self, diff_id: &Digest, layer: &LayerRecord) -> Result<()> {
        self.verify(diff_id, &mut self.tar_reader(layer)?)
            .with_context(|| format!("layer {diff_id}"))
    }

    fn verify(&self, digest: &Digest, bytes: &mut impl Read) -> Result<()> {
        let mut out = Hashing::new(io::sink());
        copy(bytes, &mut out)?;
        let (_, found, bytes) = out.finish();
        if found == *digest {
            return Ok(());
        }
        Err(self.db.damaged(&format!("the result has {bytes} bytes and digest {found}")))
    }

    /// Returns a reader of a layer's tar.
    pub(super) fn tar_reader(&self, layer: &LayerRecord) -> Result<impl Read + use<'_>> {
        let steps = self.packs.read_chunks(&self.db, &layer.steps, MAX_STORE_STEPS)?;
        let heads = ChunkReader::new(&self.packs, &self.db, layer.headers.clone());
        let limit = self.limit();
        Ok(TarReader { store: self, steps, at: 0, end: 0, limit, heads: heads.take(0), file: None }
            .take(layer.tar_bytes.saturating_add(1)))
    }
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> Result<u64> {
    Ok(io::copy(&mut buffered(from), to)?)
}

fn buffered<R: Read>(from: R) -> io::BufReader<R> {
    io::BufReader::with_capacity(1 << 17, from)
}

struct TarReader<'a> {
    store: &'a Store,
    steps: Vec<u8>,
    at: usize,
    end: u64,
    limit: u64,
    heads: io::Take<ChunkReader<'a>>,
    file: Option<ChunkReader<'a>>,
}

impl Read for TarReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.heads.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            if let Some(file) = &mut self.file {
                let n = file.read(buf)?;
                if n > 0 {
                    return Ok(n);
                }
                self.file = None;
            }
            let mut rest = &self.steps[self.at..];
            if rest.is_empty() {
                return Ok(0);
            }
            let step = take_step(&mut rest, &mut self.end, self.limit)
                .ok_or_else(|| Error::malformed("a layer of the store is damaged"))?;
            self.at = self.steps.len() - rest.len();
            self.heads.set_limit(step.header_bytes);
            self.file = Some(ChunkReader::new(&self.store.packs, &self.store.db, step.file));
        }
    }
}
