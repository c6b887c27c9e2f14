//! Descriptors: a blob's media type, digest and size, and what else is known of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::error::Error;

/// Annotations, sorted by key.
pub type Annotations = BTreeMap<String, String>;

/// A descriptor
/// ([descriptor.md](https://github.com/opencontainers/image-spec/blob/main/descriptor.md)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Where else the blob can be had (foreign layers).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes on this use of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// What the image runs on; in indexes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three fields that every one has.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: None,
            platform: None,
            other: Map::new(),
        }
    }

    /// The descriptor of a document.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What an image runs on. Written and read as `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// Processor, as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system, as Go names it: `linux`.
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features the operating system must have (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the processor: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether this is what `wanted` asks for; a `wanted` without a variant takes any.
    pub fn matches(&self, wanted: &Platform) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || self.variant == wanted.variant)
    }

    /// Which of the images `there` goes with the one `at` of those `here`: the first for a platform
    /// with the first for it, the second with the second. Single images go together whatever they
    /// run on.
    pub fn counterpart(here: &[Self], at: usize, there: &[Self]) -> Option<usize> {
        if here.len() == 1 && there.len() == 1 {
            return Some(0);
        }
        let of = |all: &[Self]| -> Vec<usize> {
            all.iter().enumerate().filter(|(_, p)| **p == here[at]).map(|(i, _)| i).collect()
        };
        let nth = of(here).iter().position(|i| *i == at)?;
        of(there).get(nth).copied()
    }

    /// The platform that `BuildKit` gives attestations
    /// (<https://docs.docker.com/build/metadata/attestations/attestation-storage/>).
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let mut parts = s.split('/').map(str::to_owned);
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None)
                if !os.is_empty() && !architecture.is_empty() && variant.as_deref() != Some("") =>
            {
                Ok(Self { architecture, os, variant, ..Self::default() })
            }
            _ => Err(Error::malformed(format!(
                "{s:?} is not a platform: write os/architecture, as in linux/arm64"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_keeps_what_it_does_not_know() {
        let text = format!(
            r#"{{"mediaType":"x","digest":"{}","size":3,"artifactType":"a/b","data":"Zm9v"}}"#,
            Digest::of(b"foo")
        );
        let d: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&d).unwrap(), text);
    }

    #[test]
    fn a_platform_is_matched_by_what_is_asked() {
        let arm: Platform = "linux/arm/v7".parse().unwrap();
        assert!(arm.matches(&"linux/arm".parse().unwrap()));
        assert!(!arm.matches(&"linux/arm/v6".parse().unwrap()));
        assert_eq!(arm.to_string(), "linux/arm/v7");
        assert!("linux".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
        assert!("linux//v7".parse::<Platform>().is_err());
    }
}
