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

use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use crate::base::error::{Error, Result};
use crate::model::digest::UNSUPPORTED_ALGORITHM;

/// No document may be larger, in bytes. Clients refuse manifests over 4 MiB
/// (containers/image, containerd); configs have no stated limit and stay far below this.
pub const MAX_DOCUMENT: u64 = 8 << 20;

/// The tag in an OCI layout's index
/// ([annotations.md](https://github.com/opencontainers/image-spec/blob/main/annotations.md)).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name beside it, as Docker and containerd write and read it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Reads a JSON document of the wanted shape.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::base::error::ErrorKind::Malformed), naming the place in the text.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        let text = e.to_string();
        // Through serde an error keeps its text and nothing else.
        let unsupported = text.contains(UNSUPPORTED_ALGORITHM);
        let new = if unsupported { Error::unsupported } else { Error::malformed };
        new(format!("{what} is not valid: {text}"))
    })
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
pub fn to_json<T: serde::Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::malformed(format!("writing JSON: {e}")))
}
