//! Manifests and indexes.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::descriptor::annotations;
use super::{Annotations, Descriptor, media_type, or_default};

/// An image manifest
/// ([manifest.md](https://github.com/opencontainers/image-spec/blob/main/manifest.md)); Docker's
/// schema 2 has the same fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2, or 0 where it is left out, which clients don't mind.
    #[serde(default, deserialize_with = "or_default")]
    pub schema_version: u32,
    /// Media type of the document itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Descriptor of the config.
    pub config: Descriptor,
    /// Descriptors of the layers, lowest first.
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
    /// Annotations of the image.
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    #[serde(default, skip_serializing)]
    manifests: Option<Ambiguous>,
    #[serde(default, skip_serializing)]
    fs_layers: Option<Ambiguous>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// Creates an OCI manifest of `config` and `layers`.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.into()),
            config,
            layers,
            annotations: None,
            manifests: None,
            fs_layers: None,
            other: Map::new(),
        }
    }
}

/// An image index
/// ([image-index.md](https://github.com/opencontainers/image-spec/blob/main/image-index.md)) or
/// Docker's manifest list. With `M` as a JSON value, one invalid entry does not prevent the use of the
/// others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub struct Index<M = Descriptor> {
    /// 2, or 0 where it is left out, which clients don't mind.
    #[serde(default, deserialize_with = "or_default")]
    pub schema_version: u32,
    /// Media type of the document itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Descriptors of manifests or of further indexes.
    #[serde(default, deserialize_with = "or_default")]
    pub manifests: Vec<M>,
    /// Annotations of the index.
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    #[serde(default, skip_serializing)]
    config: Option<Ambiguous>,
    #[serde(default, skip_serializing)]
    layers: Option<Ambiguous>,
    #[serde(default, skip_serializing)]
    fs_layers: Option<Ambiguous>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl<M> Index<M> {
    /// Creates an OCI index of `manifests`.
    pub fn new(manifests: Vec<M>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.into()),
            manifests,
            annotations: None,
            config: None,
            layers: None,
            fs_layers: None,
            other: Map::new(),
        }
    }
}

/// A field of another kind of document, which must be absent. A document that could be read as either
/// means different images to different clients (CVE-2021-41190), so no client accepts it.
#[derive(Debug, Clone, PartialEq)]
enum Ambiguous {}

impl<'de> Deserialize<'de> for Ambiguous {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "it has the fields of both a manifest and an index, so clients would read it as different \
             images (CVE-2021-41190)",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;
    use crate::model::digest::Digest;
    use crate::model::oci::parse;

    #[test]
    fn a_document_is_a_manifest_or_an_index() {
        let d = format!(r#"{{"mediaType":"x","digest":"{}","size":3}}"#, Digest::of(b"foo"));
        let ok = format!(r#"{{"config":{d},"layers":null,"manifests":null,"urls":[]}}"#);
        let manifest: Manifest = parse(ok.as_bytes(), "it").unwrap();
        assert_eq!((manifest.layers.len(), manifest.other.len()), (0, 1));
        assert!(!serde_json::to_string(&manifest).unwrap().contains("manifests"));
        for field in ["manifests", "fsLayers"] {
            let both = format!(r#"{{"config":{d},"layers":[],"{field}":[]}}"#);
            let e = parse::<Manifest>(both.as_bytes(), "it").unwrap_err();
            assert!(e.to_string().contains("CVE-2021-41190"), "{e}");
        }
        for field in ["config", "layers", "fsLayers"] {
            let both = format!(r#"{{"manifests":[],"{field}":[{d}]}}"#);
            assert!(parse::<Index>(both.as_bytes(), "it").is_err(), "{field}");
        }
    }

    #[test]
    fn an_entry_that_can_not_be_used_leaves_the_others() {
        let text = br#"{"manifests":[{"digest":"sha512:00","size":1},{"size":"x"}]}"#;
        assert_eq!(parse::<Index<Value>>(text, "it").unwrap().manifests.len(), 2);
        assert!(parse::<Index>(text, "it").is_err());
    }

    #[test]
    fn only_a_digest_of_another_algorithm_is_unsupported() {
        let kind = |digest: &str, size: &str| {
            let d = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            let manifest = format!(r#"{{"config":{d},"layers":[]}}"#);
            let kind = parse::<Manifest>(manifest.as_bytes(), "it").unwrap_err().kind();
            assert_eq!(kind, parse::<Descriptor>(d.as_bytes(), "it").unwrap_err().kind());
            kind
        };
        let sha256 = Digest::of(b"").to_string();
        assert_eq!(kind("sha512:00", "1"), ErrorKind::Unsupported);
        assert_eq!(kind("sha256:00", "1"), ErrorKind::Malformed);
        // A text in the image does not affect the kind of error.
        assert_eq!(kind(&sha256, r#""a size that is not supported""#), ErrorKind::Malformed);
    }
}
