//! Manifests and indexes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Annotations, Descriptor, media_type};

/// An image manifest
/// ([manifest.md](https://github.com/opencontainers/image-spec/blob/main/manifest.md)); Docker's
/// schema 2 has the same fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes on the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An image index
/// ([image-index.md](https://github.com/opencontainers/image-spec/blob/main/image-index.md)) or
/// Docker's manifest list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Manifests, or indexes of them.
    pub manifests: Vec<Descriptor>,
    /// Notes on the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Index {
    /// An OCI index of `manifests`, and nothing else.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations: None,
            other: Map::new(),
        }
    }
}
