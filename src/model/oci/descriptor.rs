//! Descriptors, which refer to a blob by media type, digest and size, and platforms.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::or_default;
use crate::base::error::Error;
use crate::model::digest::Digest;

/// Annotations, sorted by key.
pub type Annotations = BTreeMap<String, String>;

/// Deserialises annotations as Go does: a value of `null` is empty.
pub(super) fn annotations<'de, D>(deserializer: D) -> Result<Option<Annotations>, D::Error>
where
    D: Deserializer<'de>,
{
    let all = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    Ok(all.map(|all| all.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect()))
}

/// A descriptor
/// ([descriptor.md](https://github.com/opencontainers/image-spec/blob/main/descriptor.md)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(default, deserialize_with = "or_default")]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// URLs from which the blob can be downloaded (foreign layers).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations of this reference to the blob.
    #[serde(default, deserialize_with = "annotations", skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// Platform of the image; in indexes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// Creates a descriptor with only the three required fields.
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

    /// Creates the descriptor of a document.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Returns an annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// The platform of an image. Its text form is `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// Processor in Go's notation: `amd64`, `arm64`. Empty if not stated.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Operating system in Go's notation: `linux`. Empty if not stated.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the processor: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Everything else, as it came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// Whether this platform satisfies `wanted`. Without a variant, `wanted` matches any variant.
    pub fn matches(&self, wanted: &Platform) -> bool {
        let (this, wanted) = (self.key(), wanted.key());
        this.0 == wanted.0 && this.1 == wanted.1 && (wanted.2.is_empty() || this.2 == wanted.2)
    }

    /// Whether both mean the same processor and system, in whatever notation.
    pub fn same(&self, other: &Platform) -> bool {
        self.key() == other.key() && self.os_version == other.os_version
    }

    /// Returns system, processor and variant as containerd normalises them (`platforms/database.go`):
    /// `linux/arm64/v8` becomes `linux/arm64`, `linux/x86_64` becomes `linux/amd64`. 32-bit ARM without
    /// a variant stays without one, since it may be any.
    fn key(&self) -> (String, String, String) {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (os, architecture) = (lower(&self.os), lower(&self.architecture));
        let variant = lower(self.variant.as_deref().unwrap_or_default());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
            ("amd64" | "x86_64" | "x86-64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", "") | ("arm", "7") => ("arm", "v7"),
            ("armel", "") | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            pair => pair,
        };
        let os = if os == "macos" { "darwin".into() } else { os };
        (os, architecture.into(), variant.into())
    }

    /// Returns the platform with missing fields taken from `config`; an index may leave them out.
    #[must_use]
    pub fn or(mut self, config: &Platform) -> Self {
        if self.os.is_empty() {
            self.os.clone_from(&config.os);
        }
        if self.architecture.is_empty() {
            self.architecture.clone_from(&config.architecture);
            self.variant = self.variant.or_else(|| config.variant.clone());
        }
        self
    }

    /// Returns the position in `there` of the counterpart of `here[at]`: the first image for a platform
    /// corresponds to the first for that platform, the second to the second. If each list has a single
    /// image, they correspond regardless of their platforms.
    pub(crate) fn counterpart(here: &[Self], at: usize, there: &[Self]) -> Option<usize> {
        if here.len() == 1 && there.len() == 1 {
            return Some(0);
        }
        let of = |all: &[Self]| -> Vec<usize> {
            all.iter().enumerate().filter(|(_, p)| p.same(&here[at])).map(|(i, _)| i).collect()
        };
        let nth = of(here).iter().position(|i| *i == at)?;
        of(there).get(nth).copied()
    }

    /// Whether this is the platform that `BuildKit` gives to attestations
    /// (<https://docs.docker.com/build/metadata/attestations/attestation-storage/>).
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

/// Processors that may be given without a system, which defaults to Linux.
const PROCESSORS: [&str; 12] = [
    "386", "amd64", "arm", "arm64", "aarch64", "armhf", "armel", "loong64", "ppc64le", "riscv64",
    "s390x", "x86_64",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        for part in [Some(&self.architecture), self.variant.as_ref()].into_iter().flatten() {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        // Docker and containerd accept a processor alone.
        let s = if PROCESSORS.contains(&s) { &format!("linux/{s}") } else { s };
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
    fn null_is_nothing() {
        let text = format!(
            r#"{{"mediaType":null,"digest":"{}","size":3,"urls":null,"annotations":{{"a":null}},"platform":{{"os":null,"variant":null,"features":["sse4"]}}}}"#,
            Digest::of(b"foo")
        );
        let d: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!((d.media_type.as_str(), d.annotation("a")), ("", Some("")));
        let platform = d.platform.unwrap();
        assert_eq!(platform.other.len(), 1);
        let platform = platform.or(&"linux/arm/v7".parse().unwrap());
        assert_eq!(platform.to_string(), "linux/arm/v7");
    }

    #[test]
    fn a_platform_is_matched_by_what_is_asked() {
        let arm: Platform = "linux/arm/v7".parse().unwrap();
        assert!(arm.matches(&"linux/arm".parse().unwrap()));
        assert!(!arm.matches(&"linux/arm/v6".parse().unwrap()));
        assert_eq!(arm.to_string(), "linux/arm/v7");
        assert!("linux".parse::<Platform>().is_err());
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        for (a, b) in [
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64/v1"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/armhf", "linux/arm/7"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
        ] {
            assert!(platform(a).same(&platform(b)), "{a} {b}");
            assert!(platform(a).matches(&platform(b)) && platform(b).matches(&platform(a)));
        }
        assert!(!platform("linux/amd64").matches(&platform("linux/amd64/v3")));
        assert!(!platform("linux/arm64").same(&platform("linux/arm")));
        assert!("a/b/c/d".parse::<Platform>().is_err());
        assert!("linux//v7".parse::<Platform>().is_err());
    }
}
