//! An image ready to be written: its blobs by digest, and the descriptor that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use super::choose::entry;
use super::files::{Files, blob_path, document_blob};
use super::image::{Image, LayerBlob, Opened};
use super::{Transport, layout};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_INDEX_DEPTH;
use crate::base::progress::Progress;
use crate::base::read::read_some;
use crate::model::content::{CHANGED, Source, SourceReader};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{self, Config, Descriptor, Index, Manifest, Platform, media_type};

/// A blob to write under its digest.
#[derive(Clone)]
pub struct Blob {
    /// The bytes.
    pub source: Source,
    /// Whether the digest was verified when the bytes were first read. It is verified again during
    /// writing.
    pub verified: bool,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blob = f.debug_struct("Blob");
        blob.field("bytes", &self.source.size()).field("verified", &self.verified).finish()
    }
}

impl Blob {
    /// Copies a blob and verifies its digest, even if that was verified before: the bytes are read
    /// again. Only of bytes that never left the memory this is not needed.
    pub(super) fn copy(
        &self,
        digest: &Digest,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let place = || format!("blob {digest}");
        let is_trusted = || self.verified && self.source.is_in_memory();
        let trusted = is_trusted();
        let mut reader = SourceReader::all(self.source.as_ref());
        let mut hashing = Hashing::new(io::sink());
        let mut buf = vec![0; 1 << 18];
        loop {
            let n = read_some(&mut reader, &mut buf).with_context(place)?;
            if n == 0 {
                break;
            }
            if !trusted {
                hashing.write_all(&buf[..n])?;
            }
            out.write_all(&buf[..n])?;
            progress.advance(n as u64);
        }
        if trusted && is_trusted() {
            return Ok(());
        }
        if trusted {
            // It was moved to the disk in between.
            io::copy(&mut SourceReader::all(self.source.as_ref()), &mut hashing)
                .with_context(place)?;
        }
        let (_, found, _) = hashing.finish();
        if found != *digest {
            let damaged = "the image is damaged; rebuild or download it again";
            let why = if self.verified { CHANGED } else { damaged };
            let what = format!("the bytes have digest {found}: {why}");
            return Err(Error::mismatch(what).context(place()));
        }
        Ok(())
    }
}

/// An entry of `manifest.json`, which describes one image.
#[derive(Debug, Clone)]
pub struct ManifestEntry {
    /// The config's digest.
    pub config: Digest,
    /// The layers' digests, lowest first.
    pub layers: Vec<Digest>,
    /// The platform that it runs on.
    pub platform: Platform,
}

/// Everything to write for one reference.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    /// Manifests, configs, indexes and layers.
    pub blobs: BTreeMap<Digest, Blob>,
    /// The descriptor of the manifest, or of the index of several.
    pub root: Option<Descriptor>,
    /// One image per platform.
    pub listed: Vec<ManifestEntry>,
    /// The image's names.
    pub names: Vec<String>,
}

impl Bundle {
    /// Adds a document and returns its descriptor.
    pub fn document(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, Blob { source: Arc::new(bytes), verified: true });
        descriptor
    }

    /// Adds the image of one platform, whose layers were added before, and returns the descriptor of
    /// its manifest. Layers are listed lowest first.
    ///
    /// # Errors
    /// If a document can't be written as JSON.
    pub fn image(&mut self, config: &Config, manifest: &mut Manifest) -> Result<Descriptor> {
        manifest.config = self.document(media_type::CONFIG, config.to_bytes()?);
        self.listed.push(ManifestEntry {
            config: manifest.config.digest,
            layers: manifest.layers.iter().map(|l| l.digest).collect(),
            platform: config.platform(),
        });
        Ok(self.document(media_type::MANIFEST, oci::to_json(manifest)?))
    }

    /// Returns the size of all blobs in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().map(|b| b.source.size()).sum()
    }

    /// Returns the images of `opened` with every blob unchanged. A docker-archive has no manifest, so
    /// one that describes its blobs is added.
    ///
    /// # Errors
    /// If a layer can't be read or does not have its digest.
    pub fn unchanged(opened: &Opened) -> Result<Self> {
        let mut bundle = Self { names: opened.names.clone(), ..Self::default() };
        let mut descriptors = Vec::new();
        for image in &opened.images {
            let mut d = bundle.add_unchanged(image)?;
            d.annotations = image.index_annotations();
            d.platform = Some(image.platform.clone());
            descriptors.push(d);
        }
        bundle.finish(opened.index.as_ref(), descriptors)?;
        Ok(bundle)
    }

    /// Returns the descriptors of all manifests and indexes, each after those that it lists.
    ///
    /// # Errors
    /// If there is no image, or an index is not valid.
    pub fn manifests(&self) -> Result<Vec<Descriptor>> {
        let root = self.root.as_ref().ok_or_else(|| Error::not_found("there is no image"))?;
        let mut found = Vec::new();
        self.collect_manifests(root, 0, &mut found)?;
        Ok(found)
    }

    fn collect_manifests(
        &self,
        d: &Descriptor,
        depth: usize,
        found: &mut Vec<Descriptor>,
    ) -> Result<()> {
        if found.iter().any(|known| known.digest == d.digest) {
            return Ok(());
        }
        if media_type::is_index(&d.media_type) {
            if depth > MAX_INDEX_DEPTH {
                return Err(Error::limit(format!(
                    "indexes are nested more than {MAX_INDEX_DEPTH} deep"
                )));
            }
            let index: Index<Value> = oci::parse(&document_blob(self, d)?, "the index")?;
            for value in &index.manifests {
                // A copy of one platform may leave the others out, and entries that can't be used.
                match entry(value) {
                    Ok(child) if self.blobs.contains_key(&child.digest) => {
                        self.collect_manifests(&child, depth + 1, found)?;
                    }
                    _ => {}
                }
            }
        }
        found.push(d.clone());
        Ok(())
    }

    /// Opens the image as it will be read after it is written.
    ///
    /// # Errors
    /// If a document is not valid.
    pub fn reopen(&self) -> Result<Opened> {
        layout::open(self, None, None, Transport::Oci)
    }

    /// Sets the root: the only image, or an index of all images with the other fields of `index`.
    ///
    /// # Errors
    /// If the index can't be written as JSON.
    pub fn finish(
        &mut self,
        index: Option<&Index<Value>>,
        mut images: Vec<Descriptor>,
    ) -> Result<()> {
        self.root = match (index, images.len()) {
            (None, 1) => images.pop().map(|mut d| {
                d.platform = None;
                d.annotations = None;
                d
            }),
            (index, _) => {
                let mut new = Index::new(images);
                if let Some(index) = index {
                    new.annotations.clone_from(&index.annotations);
                    new.other.clone_from(&index.other);
                }
                Some(self.document(media_type::INDEX, oci::to_json(&new)?))
            }
        };
        Ok(())
    }

    /// Adds an image unchanged and returns the descriptor of its manifest.
    ///
    /// # Errors
    /// If a layer can't be read or does not have its digest.
    pub fn add_unchanged(&mut self, image: &Image) -> Result<Descriptor> {
        let digests: Vec<_> = image.layers.par_iter().map(LayerBlob::digest).collect();
        // If several layers are damaged, the lowest is reported, whichever is found first.
        let layers: Vec<Digest> = digests.into_iter().collect::<Result<_>>()?;
        for (layer, digest) in image.layers.iter().zip(&layers) {
            let blob = Blob { source: Arc::clone(&layer.source), verified: false };
            self.blobs.insert(*digest, blob);
        }
        let config = self.document(media_type::CONFIG, image.config_bytes.clone());
        let platform = image.platform.clone();
        self.listed.push(ManifestEntry { config: config.digest, layers: layers.clone(), platform });
        if let Some(bytes) = &image.manifest {
            let manifest: Manifest = oci::parse(bytes, "the manifest")?;
            let kind = manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST);
            return Ok(self.document(kind, bytes.clone()));
        }
        let described = image.layers.iter().zip(&layers).map(|(layer, digest)| {
            Descriptor::new(&layer.media_type, *digest, layer.source.size())
        });
        let manifest = Manifest::new(config, described.collect());
        Ok(self.document(media_type::MANIFEST, oci::to_json(&manifest)?))
    }
}

impl Files for Bundle {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        if name == "index.json" {
            let index = Index::new(self.root.iter().cloned().collect());
            return Ok(Some(Arc::new(oci::to_json(&index)?)));
        }
        let found = self.blobs.iter().find(|(digest, _)| blob_path(digest) == name);
        Ok(found.map(|(_, blob)| Arc::clone(&blob.source)))
    }
}
