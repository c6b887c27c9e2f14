//! The documents of an image: descriptors, manifests, indexes and configs, as defined by the
//! [image spec](https://github.com/opencontainers/image-spec) and Docker's schema 2.
//!
//! Documents that are passed on keep all their fields, including unknown ones: [`Config`] is a JSON
//! object that keeps the order of its fields, and [`Descriptor`]s keep unknown fields.

mod config;
mod descriptor;
mod manifest;
pub mod media_type;

pub use config::{Config, HistoryEntry};
pub use descriptor::{Annotations, Descriptor, Platform};
pub use manifest::{Index, Manifest};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};

use crate::base::error::{Error, ErrorKind, Result};
use crate::model::digest::Digest;

/// Annotation with an image's tag in an OCI layout's index
/// ([annotations.md](https://github.com/opencontainers/image-spec/blob/main/annotations.md)).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the name of the image that this one is based on.
pub(crate) const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// Annotation with that image's digest.
pub(crate) const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
/// Annotation with an image's full name, as Docker and containerd write and read it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Parses a JSON document; `what` names it in messages.
///
/// # Errors
/// [`ErrorKind::Malformed`] with the position in the text, or [`ErrorKind::Unsupported`] if a digest
/// uses another algorithm than SHA-256.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        // An error that passes through serde keeps only its text, so the digests are parsed again.
        let digests = serde_json::from_slice::<Digests>(bytes);
        let unsupported = digests.is_ok_and(|digests| digests.are_unsupported());
        let kind = if unsupported { ErrorKind::Unsupported } else { ErrorKind::Malformed };
        Error::new(kind, format!("{what} is not valid: {e}"))
    })
}

/// Returns the media type of a manifest or index that nothing describes: the one that it states, else
/// `beside` if something beside it states one, else the one that its fields tell.
///
/// # Errors
/// If it is not valid, or has schema 1 of docker.
pub(crate) fn media_type_of(manifest: &[u8], beside: Option<String>) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
        schema_version: Option<u64>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let head: Head = parse(manifest, "the manifest")?;
    if head.schema_version == Some(1) {
        return Err(Error::unsupported(
            "it has schema 1 of docker, which no tool has written since 2017; push or pull the image \
             again",
        ));
    }
    Ok(head.media_type.or(beside).unwrap_or_else(|| {
        let is_index = head.manifests.is_some();
        if is_index { media_type::INDEX } else { media_type::MANIFEST }.to_owned()
    }))
}

/// The digests of a document, without its other fields.
#[derive(Deserialize)]
struct Digests {
    digest: Option<String>,
    config: Option<Box<Digests>>,
    layers: Option<Vec<Digests>>,
}

impl Digests {
    /// Whether any digest uses an unsupported algorithm.
    fn are_unsupported(&self) -> bool {
        let other = |digest: &String| {
            digest.parse::<Digest>().is_err_and(|e| e.kind() == ErrorKind::Unsupported)
        };
        self.digest.as_ref().is_some_and(other)
            || self.config.as_ref().is_some_and(|config| config.are_unsupported())
            || self.layers.iter().flatten().any(Self::are_unsupported)
    }
}

/// Deserialises a field in which `null` means the default, as in Go, where it leaves a field at its
/// zero value.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Serialises a document as JSON in one line.
///
/// # Errors
/// If the document can't be serialised.
pub fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::malformed(format!("writing JSON: {e}")))
}
