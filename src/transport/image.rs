//! An opened image: its documents are verified, its layers are not read yet.

use std::fmt;
use std::io;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::Transport;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_RATIO, RATIO_FLOOR};
use crate::format::codec;
use crate::model::content::{Source, SourceReader, WindowBudget};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{
    self, Annotations, CONTAINERD_NAME, Config, Descriptor, Index, Manifest, Platform, REF_NAME,
    media_type,
};

/// A layer of an opened image, whose bytes are neither read nor verified yet.
#[derive(Clone)]
pub struct LayerBlob {
    /// Name for messages: `layer 3 (sha256:…)`.
    pub name: String,
    /// As the manifest states it; without a manifest, as detected from the first bytes.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The bytes as stored, compressed or not.
    pub source: Source,
    digest: BlobDigest,
}

/// The digest of a blob, as far as it is known. It is never assumed to be the diff ID: many tools put
/// compressed layers into docker-archives.
#[derive(Clone)]
enum BlobDigest {
    /// Stated by a document. The reader of the blob verifies it.
    Stated(Digest),
    /// Computed from the bytes once they are read; with the limit of uncompressed bytes and the
    /// memory for decoder windows.
    Found(Arc<OnceLock<Digest>>, u64, Arc<WindowBudget>),
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layer = f.debug_struct("LayerBlob");
        layer.field("name", &self.name).field("media_type", &self.media_type);
        layer.field("bytes", &self.source.size()).finish_non_exhaustive()
    }
}

impl LayerBlob {
    /// Creates a layer that a manifest describes.
    pub fn described(name: String, layer: &Descriptor, diff_id: Digest, source: Source) -> Self {
        let (digest, media_type) = (BlobDigest::Stated(layer.digest), layer.media_type.clone());
        Self { name, media_type, diff_id, source, digest }
    }

    /// Creates a layer of which only the diff ID is known. It may expand to `max_size` bytes; its
    /// decoder takes memory from `windows`.
    ///
    /// # Errors
    /// If it has a compression that layers must not have, or can't be read.
    pub fn undescribed(
        name: String,
        diff_id: Digest,
        source: Source,
        max_size: u64,
        windows: &Arc<WindowBudget>,
    ) -> Result<Self> {
        let format = codec::Format::of(source.as_ref()).with_context(|| name.clone())?;
        let digest = match format {
            codec::Format::Plain => BlobDigest::Stated(diff_id),
            _ => BlobDigest::Found(Arc::default(), max_size, Arc::clone(windows)),
        };
        let media_type = format.media_type().into();
        Ok(Self { name, media_type, diff_id, source, digest })
    }

    /// Returns the digest of the stored bytes. Unless a document states it or it was computed before,
    /// the bytes are read, and must have the diff ID.
    ///
    /// # Errors
    /// If they can't be read, expand to more bytes than allowed, or do not have the diff ID.
    pub fn digest(&self) -> Result<Digest> {
        match &self.digest {
            BlobDigest::Stated(digest) => Ok(*digest),
            BlobDigest::Found(found, max_size, windows) => match found.get() {
                Some(digest) => Ok(*digest),
                None => self.read(*max_size, windows).with_context(|| self.name.clone()),
            },
        }
    }

    fn read(&self, max_size: u64, windows: &Arc<WindowBudget>) -> Result<Digest> {
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

    /// Compares the digests of the bytes with those that are stated, and remembers the first.
    ///
    /// # Errors
    /// If they differ.
    pub(crate) fn verify(&self, digest: Digest, diff_id: Digest) -> Result<Digest> {
        if diff_id != self.diff_id {
            return Err(Error::mismatch(format!(
                "the uncompressed layer has digest {diff_id}, but the config states diff ID {}; \
                 the image is damaged; rebuild or download it again",
                self.diff_id
            )));
        }
        let stated = match &self.digest {
            BlobDigest::Stated(digest) => digest,
            BlobDigest::Found(found, ..) => found.get_or_init(|| digest),
        };
        if *stated != digest {
            return Err(Error::mismatch(format!(
                "the bytes have digest {digest}, not {stated}; the image is damaged; rebuild or \
                 download it again"
            )));
        }
        Ok(digest)
    }
}

/// One image for one platform.
#[derive(Debug, Clone)]
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
    /// From the index if it states one, else from the config.
    pub platform: Platform,
    /// Lowest first; as many as the config has diff IDs.
    pub layers: Vec<LayerBlob>,
}

impl Image {
    /// Returns a note if writing this image in OCI format loses fields that podman reads from Docker's
    /// format only; `None` if it was in OCI format before.
    pub fn lost_to_podman(&self) -> Option<String> {
        let manifest = self.manifest.as_ref();
        let manifest = manifest.and_then(|bytes| oci::parse::<Manifest>(bytes, "it").ok());
        let was_oci = manifest.is_some_and(|m| !media_type::is_docker(&m.config.media_type));
        let words = self.config.docker_only();
        (!was_oci && !words.is_empty()).then(|| {
            format!(
                "podman ignores {} in OCI format, docker does not; for podman, write \
                 docker-archive:FILE",
                words.join(", ")
            )
        })
    }

    /// Returns the annotations for its descriptor in an index of several images: all except the names,
    /// which belong to the whole index.
    pub fn index_annotations(&self) -> Option<Annotations> {
        let mut annotations = self.descriptor_annotations.clone();
        annotations.remove(REF_NAME);
        annotations.remove(CONTAINERD_NAME);
        (!annotations.is_empty()).then_some(annotations)
    }
}

/// The images that a reference names.
#[derive(Debug)]
pub struct Opened {
    /// One image per platform; at least one.
    pub images: Vec<Image>,
    /// The image index that lists them; `None` if the reference names a single image.
    pub index: Option<Index<Value>>,
    /// Their names: `repository:tag`, or bare tags in some layouts.
    pub names: Vec<String>,
    /// The format in which they are stored.
    pub transport: Transport,
    /// Notes for the user, for example on attestations that are left out.
    pub notes: Vec<String>,
}

impl Opened {
    /// Returns the image for the same platform as `images[at]`, considering the platforms of all: see
    /// [`Platform::counterpart`].
    pub fn counterpart(&self, images: &[Image], at: usize) -> Option<&Image> {
        let platforms = |images: &[Image]| -> Vec<_> {
            images.iter().map(|image| image.platform.clone()).collect()
        };
        Platform::counterpart(&platforms(images), at, &platforms(&self.images))
            .map(|at| &self.images[at])
    }

    /// Keeps only the images that match `platform`, if it is given.
    ///
    /// # Errors
    /// If there are none.
    pub fn only(mut self, platform: Option<&Platform>) -> Result<Self> {
        let Some(wanted) = platform else { return Ok(self) };
        let found: Vec<_> = self.images.iter().map(|i| i.platform.to_string()).collect();
        // Without a variant any matches, but the default one is preferred.
        let exact = self.images.iter().any(|i| i.platform.same(wanted));
        self.images
            .retain(|i| if exact { i.platform.same(wanted) } else { i.platform.matches(wanted) });
        if self.images.is_empty() {
            return Err(Error::not_found(format!(
                "no image for platform {wanted}; the platforms are {}",
                found.join(", ")
            )));
        }
        // The result for a single platform is that image, without an index.
        if self.images.len() == 1 {
            self.index = None;
        }
        Ok(self)
    }
}

/// Returns the number of bytes that `stored` bytes may expand to, whatever `--max-size` allows.
pub(crate) fn expanded_limit(stored: u64) -> u64 {
    stored.saturating_mul(MAX_RATIO).max(RATIO_FLOOR)
}

/// Returns the error for more than that.
pub(crate) fn too_dense() -> Error {
    Error::limit(format!(
        "it expands to more than {MAX_RATIO} times its stored size, which suggests a decompression \
         bomb; if it is not one, compress it with gzip, whose ratio stays below that"
    ))
}
