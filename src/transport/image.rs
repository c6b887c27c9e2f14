//! An image as it was opened: its documents are verified, its layers at hand and unread.

use std::io;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::Transport;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_RATIO, RATIO_FLOOR};
use crate::format::codec;
use crate::model::content::{Source, SourceReader, Windows};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{
    self, Annotations, CONTAINERD_NAME, Config, Descriptor, Index, Manifest, Platform, REF_NAME,
    media_type,
};

/// A layer of an image that was opened: its bytes are neither read nor verified yet.
#[derive(Clone)]
pub struct LayerBlob {
    /// What messages call it: `layer 3 (sha256:…)`.
    pub name: String,
    /// As the manifest states it; told from the first bytes where there is no manifest.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The bytes, perhaps compressed.
    pub source: Source,
    digest: BlobDigest,
}

/// What is known of the digest of a blob. It is never taken to be the diff ID: many tools put
/// compressed layers into docker-archives.
#[derive(Clone)]
enum BlobDigest {
    /// A document states it. Whoever reads the blob verifies it.
    Stated(Digest),
    /// It comes from the bytes, once somebody has read them, of which there may be as many as this
    /// uncompressed, with this room for windows.
    Found(Arc<OnceLock<Digest>>, u64, Arc<Windows>),
}

impl LayerBlob {
    /// A layer that a manifest describes.
    pub fn described(name: String, layer: &Descriptor, diff_id: Digest, source: Source) -> Self {
        let (digest, media_type) = (BlobDigest::Stated(layer.digest), layer.media_type.clone());
        Self { name, media_type, diff_id, source, digest }
    }

    /// A layer of which only the diff ID is known. It may expand to `max_size` bytes, with `windows`
    /// as the room for what its decoder must hold.
    ///
    /// # Errors
    /// When it is compressed in a way that layers must not be, or can't be read.
    pub fn undescribed(
        name: String,
        diff_id: Digest,
        source: Source,
        max_size: u64,
        windows: &Arc<Windows>,
    ) -> Result<Self> {
        let format = codec::Format::of(source.as_ref()).with_context(|| name.clone())?;
        let digest = match format {
            codec::Format::Plain => BlobDigest::Stated(diff_id),
            _ => BlobDigest::Found(Arc::default(), max_size, Arc::clone(windows)),
        };
        Ok(Self { name, media_type: format.media_type().into(), diff_id, source, digest })
    }

    /// Digest of the bytes as they lie there. Unless a document states it or it has been found
    /// before, they are read and must have the diff ID.
    pub fn digest(&self) -> Result<Digest> {
        match &self.digest {
            BlobDigest::Stated(digest) => Ok(*digest),
            BlobDigest::Found(found, max_size, windows) => match found.get() {
                Some(digest) => Ok(*digest),
                None => self.read(*max_size, windows).with_context(|| self.name.clone()),
            },
        }
    }

    fn read(&self, max_size: u64, windows: &Arc<Windows>) -> Result<Digest> {
        let most = expanded_limit(self.source.size());
        let mut raw = Hashing::new(SourceReader::all(self.source.as_ref()));
        let (_, decoder) = codec::decode(&mut raw, windows)?;
        let mut plain = Hashing::new(decoder).take(max_size.min(most).saturating_add(1));
        io::copy(&mut plain, &mut io::sink())?;
        let (decoder, diff_id, bytes) = plain.into_inner().finish();
        drop(decoder);
        if bytes > max_size {
            return Err(Error::limit(format!(
                "it expands to more than {max_size} bytes; --max-size allows more"
            )));
        }
        if bytes > most {
            return Err(too_dense());
        }
        self.verify(raw.finish().1, diff_id)
    }

    /// Compares the digests of bytes that were read with those that are stated, and remembers the
    /// first.
    ///
    /// # Errors
    /// When they differ.
    pub(crate) fn verify(&self, digest: Digest, diff_id: Digest) -> Result<Digest> {
        if diff_id != self.diff_id {
            return Err(Error::mismatch(format!(
                "the uncompressed layer has digest {diff_id}, but the config states diff ID {}; \
                 the image is damaged, rebuild or download it again",
                self.diff_id
            )));
        }
        let stated = match &self.digest {
            BlobDigest::Stated(digest) => digest,
            BlobDigest::Found(found, ..) => found.get_or_init(|| digest),
        };
        if *stated != digest {
            return Err(Error::mismatch(format!(
                "the bytes have digest {digest}, not {stated}; the image is damaged, rebuild or \
                 download it again"
            )));
        }
        Ok(digest)
    }
}

/// One image for one platform.
#[derive(Clone)]
pub struct Image {
    /// The manifest's bytes; `None` in a docker-archive, which has none.
    pub manifest: Option<Vec<u8>>,
    /// The manifest's annotations.
    pub annotations: Annotations,
    /// The descriptor's annotations in the index that named the image.
    pub descriptor_annotations: Annotations,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// The config.
    pub config: Config,
    /// From the index where it says, else from the config.
    pub platform: Platform,
    /// Lowest first; as many as the config has diff IDs.
    pub layers: Vec<LayerBlob>,
}

impl Image {
    /// What to tell of an image that is written in OCI's format, where podman does not look for
    /// parts of Docker's config. Nothing of one that was in that format before.
    pub fn lost_to_podman(&self) -> Option<String> {
        let manifest = self.manifest.as_ref();
        let manifest = manifest.and_then(|bytes| oci::parse::<Manifest>(bytes, "it").ok());
        let was_oci = manifest.is_some_and(|m| !media_type::is_docker(&m.config.media_type));
        let words = self.config.docker_only();
        (!was_oci && !words.is_empty()).then(|| {
            format!(
                "podman ignores {} in OCI's format, docker does not; for podman write \
                 docker-archive:FILE",
                words.join(", ")
            )
        })
    }

    /// What its descriptor says in an index of several images: all but the names, which are the
    /// whole index's.
    pub fn index_annotations(&self) -> Option<Annotations> {
        let mut annotations = self.descriptor_annotations.clone();
        annotations.remove(REF_NAME);
        annotations.remove(CONTAINERD_NAME);
        (!annotations.is_empty()).then_some(annotations)
    }
}

/// Everything that a reference names.
pub struct Opened {
    /// One image a platform; at least one.
    pub images: Vec<Image>,
    /// The image index that holds them; `None` when the reference names one image.
    pub index: Option<Index<Value>>,
    /// The names it has there: `repository:tag`, or bare tags in some layouts.
    pub names: Vec<String>,
    /// How it was stored.
    pub transport: Transport,
    /// What a user should know: attestations left out, for example.
    pub notes: Vec<String>,
}

impl Opened {
    /// The image for the same platform as the one at `at` of `images`, in which every platform counts:
    /// see [`Platform::counterpart`].
    pub fn counterpart(&self, images: &[Image], at: usize) -> Option<&Image> {
        let platforms = |images: &[Image]| -> Vec<_> {
            images.iter().map(|image| image.platform.clone()).collect()
        };
        Platform::counterpart(&platforms(images), at, &platforms(&self.images))
            .map(|at| &self.images[at])
    }

    /// Keeps the images that `platform` matches, when it is given.
    pub fn only(mut self, platform: Option<&Platform>) -> Result<Self> {
        let Some(wanted) = platform else { return Ok(self) };
        let found: Vec<_> = self.images.iter().map(|i| i.platform.to_string()).collect();
        // Without a variant any is meant, but rather the usual one.
        let exact = self.images.iter().any(|i| i.platform.same(wanted));
        self.images
            .retain(|i| if exact { i.platform.same(wanted) } else { i.platform.matches(wanted) });
        if self.images.is_empty() {
            return Err(Error::not_found(format!(
                "no image for platform {wanted}; there is {}",
                found.join(", ")
            )));
        }
        // One platform was asked for: what comes out is that image, and no index.
        if self.images.len() == 1 {
            self.index = None;
        }
        Ok(self)
    }
}

/// How many bytes so many stored ones may expand to, whatever `--max-size` allows.
pub(crate) fn expanded_limit(stored: u64) -> u64 {
    stored.saturating_mul(MAX_RATIO).max(RATIO_FLOOR)
}

/// The error beyond that.
pub(crate) fn too_dense() -> Error {
    Error::limit(format!(
        "it expands to more than {MAX_RATIO} times its stored bytes, as only what is made to fill \
         disks does; if it is meant so, compress it with gzip, which can't do that"
    ))
}
