//! An image ready to be written: its blobs by digest, and the descriptor that names it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use super::files::{Files, blob_path};
use super::image::{Image, LayerBlob, Opened};
use super::{Transport, layout};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::read::read_some;
use crate::model::content::{CHANGED, Source, SourceReader};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{self, Config, Descriptor, Index, Manifest, Platform, media_type};

/// Bytes to write under their digest.
#[derive(Clone)]
pub struct Blob {
    /// The bytes.
    pub source: Source,
    /// Whether they had the digest when they were read first. It is verified while writing in any
    /// case.
    pub verified: bool,
}

impl Blob {
    /// Copies a blob and verifies its digest: also where that was known, as it is read again.
    pub(super) fn copy(
        &self,
        digest: &Digest,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let place = || format!("blob {digest}");
        let mut reader = Hashing::new(SourceReader::all(self.source.as_ref()));
        let mut buf = vec![0; 1 << 18];
        loop {
            let n = read_some(&mut reader, &mut buf).with_context(place)?;
            if n == 0 {
                break;
            }
            out.write_all(&buf[..n])?;
            progress.advance(n as u64);
        }
        let (_, found, _) = reader.finish();
        if found != *digest {
            let damaged = "the image is damaged, rebuild or download it again";
            let why = if self.verified { CHANGED } else { damaged };
            let what = format!("the bytes have digest {found}: {why}");
            return Err(Error::mismatch(what).context(place()));
        }
        Ok(())
    }
}

/// What `manifest.json` says of one image.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The config's digest.
    pub config: Digest,
    /// The layers' digests, lowest first.
    pub layers: Vec<Digest>,
    /// What it runs on.
    pub platform: Platform,
}

/// Everything that is written for one name.
#[derive(Clone, Default)]
pub struct Bundle {
    /// Manifests, configs, indexes and layers.
    pub blobs: BTreeMap<Digest, Blob>,
    /// The manifest, or the index of several.
    pub root: Option<Descriptor>,
    /// One image a platform.
    pub listed: Vec<Listed>,
    /// The names it goes by.
    pub names: Vec<String>,
}

impl Bundle {
    /// Adds a document and gives its descriptor.
    pub fn document(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, Blob { source: Arc::new(bytes), verified: true });
        descriptor
    }

    /// Adds one platform's image, its layers being there already, and gives the descriptor of its
    /// manifest. Layers are listed lowest first.
    pub fn image(&mut self, config: &Config, manifest: &mut Manifest) -> Result<Descriptor> {
        manifest.config = self.document(media_type::CONFIG, config.to_bytes()?);
        self.listed.push(Listed {
            config: manifest.config.digest,
            layers: manifest.layers.iter().map(|l| l.digest).collect(),
            platform: config.platform(),
        });
        Ok(self.document(media_type::MANIFEST, oci::to_json(manifest)?))
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().map(|b| b.source.size()).sum()
    }

    /// The images that `opened` holds, blob for blob as they are. A docker-archive has no manifest;
    /// it is given one that describes its blobs.
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

    /// The same image as it will be read again.
    pub fn reopen(&self) -> Result<Opened> {
        layout::open(self, None, None, Transport::Oci)
    }

    /// Sets the root: the only image, or an index like `index` of all of them.
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

    /// Adds an image as it is, and gives the descriptor of its manifest.
    pub fn add_unchanged(&mut self, image: &Image) -> Result<Descriptor> {
        let digests: Vec<_> = image.layers.par_iter().map(LayerBlob::digest).collect();
        // Of several broken layers the lowest is reported, whichever is found first.
        let layers: Vec<Digest> = digests.into_iter().collect::<Result<_>>()?;
        for (layer, digest) in image.layers.iter().zip(&layers) {
            let blob = Blob { source: Arc::clone(&layer.source), verified: false };
            self.blobs.insert(*digest, blob);
        }
        let config = self.document(media_type::CONFIG, image.config_bytes.clone());
        let platform = image.platform.clone();
        self.listed.push(Listed { config: config.digest, layers: layers.clone(), platform });
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
