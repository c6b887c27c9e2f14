//! The documents of an image: descriptors, manifests, indexes and configs, as the
//! [image spec](https://github.com/opencontainers/image-spec) and Docker's schema 2 write them.
//!
//! Documents that are passed on keep their fields, also those unknown here: [`Config`] is a JSON
//! object in its own order, and [`Descriptor`]s carry what else stood in them.

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

/// The tag in an OCI layout's index
/// ([annotations.md](https://github.com/opencontainers/image-spec/blob/main/annotations.md)).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name beside it, as Docker and containerd write and read it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Reads a JSON document of the wanted shape.
///
/// # Errors
/// [`ErrorKind::Malformed`], naming the place in the text, or [`ErrorKind::Unsupported`] if a blob is
/// named by a digest of another algorithm.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        // Through serde an error keeps its text and nothing else, so the digests are looked at again.
        let named = serde_json::from_slice::<Named>(bytes);
        let unsupported = named.is_ok_and(|named| named.is_unsupported());
        let kind = if unsupported { ErrorKind::Unsupported } else { ErrorKind::Malformed };
        Error::new(kind, format!("{what} is not valid: {e}"))
    })
}

/// Where documents name blobs, and no more of them.
#[derive(Deserialize)]
struct Named {
    digest: Option<String>,
    config: Option<Box<Named>>,
    layers: Option<Vec<Named>>,
}

impl Named {
    fn is_unsupported(&self) -> bool {
        let other = |digest: &String| {
            digest.parse::<Digest>().is_err_and(|e| e.kind() == ErrorKind::Unsupported)
        };
        self.digest.as_ref().is_some_and(other)
            || self.config.as_ref().is_some_and(|config| config.is_unsupported())
            || self.layers.iter().flatten().any(Self::is_unsupported)
    }
}

/// A field's value where `null` means the same as nothing, as it does for every client: Go leaves a
/// field at its zero value then.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Writes a JSON document in one line.
///
/// # Errors
/// When the document can't be serialised.
pub fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::malformed(format!("writing JSON: {e}")))
}
