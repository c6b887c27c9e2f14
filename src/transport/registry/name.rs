//! Names of images in registries, read as docker reads them
//! ([distribution/reference](https://github.com/distribution/reference)).

use std::fmt;
use std::str::FromStr;

use crate::base::error::{Error, Result};
use crate::model::digest::Digest;

/// The registry of names that state none.
pub(super) const DEFAULT_HOST: &str = "docker.io";

/// The host that answers for it.
pub(super) const DEFAULT_ENDPOINT: &str = "registry-1.docker.io";

/// Maximum bytes of a repository with its host, and of a tag, as docker has them.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// Name of an image in a registry: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Host of the registry, with its port if it has one.
    pub host: String,
    /// Path of the repository in the registry, for example `library/debian`.
    pub repository: String,
    /// The tag; `latest` if neither a tag nor a digest is stated.
    pub tag: Option<String>,
    /// Digest of the manifest or index. A tag next to it is only a hint for readers.
    pub digest: Option<Digest>,
}

impl Name {
    /// Returns what identifies the image in requests: its digest if there is one, else its tag.
    pub(super) fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// Returns the whole name: with its host, and `library/` where it belongs.
    pub(in crate::transport) fn full(&self) -> String {
        format!("{}/{}{}", self.host, self.repository, self.suffix())
    }

    /// Returns the tag and the digest, each with its mark.
    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}"));
        tag.unwrap_or_default() + &digest.unwrap_or_default()
    }

    /// Returns `HOST/REPOSITORY:TAG` without a digest, the name that an archive of this image gets;
    /// `None` without a tag.
    pub(super) fn tagged(&self) -> Option<String> {
        let repository = self.familiar();
        self.tag.as_ref().map(|tag| format!("{repository}:{tag}"))
    }

    /// Returns host and repository as people write them.
    fn familiar(&self) -> String {
        if self.host != DEFAULT_HOST {
            return format!("{}/{}", self.host, self.repository);
        }
        let repository = &self.repository;
        repository.strip_prefix("library/").unwrap_or(repository).to_owned()
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::malformed(format!(
                "{s:?} is not a valid image name: {why}; a name looks like app:v1 or \
                 registry.example.com/team/app:v1"
            ))
        };
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|e: Error| bad(&format!("{e}")))?;
                (rest, Some(digest))
            }
            None => (s, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (DEFAULT_HOST, rest),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        if !is_valid_host(host) {
            return Err(bad("the host is not valid"));
        }
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(bad(&format!("{tag:?} is not a tag")));
        }
        let repository = if host == DEFAULT_HOST && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(bad("repositories are lower case"));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad("the repository is not valid"));
        }
        if host.len() + 1 + repository.len() > MAX_REPOSITORY {
            return Err(bad(&format!("it has more than {MAX_REPOSITORY} bytes")));
        }
        let latest = digest.is_none().then_some("latest");
        let tag = tag.or(latest).map(str::to_owned);
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.familiar(), self.suffix())
    }
}

/// Returns whether the first part of a path is a host.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.chars().any(|c| c.is_ascii_uppercase())
}

/// Returns whether a host, with its port if it has one, can stand in a URL and names nothing else.
fn is_valid_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return false,
            };
            (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
        }
        None => match host.split_once(':') {
            Some((name, port)) => (is_domain(name), Some(port)),
            None => (is_domain(host), None),
        },
    };
    name && port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label)
}

/// Returns whether this is a tag.
pub(super) fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !tag.starts_with(['.', '-'])
}

/// Returns whether this is a part of a repository's path: letters and digits, joined by one dot, one
/// or two underscores, or any number of hyphens.
fn is_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joint =
        |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-');
    part.starts_with(alphanumeric)
        && part.ends_with(alphanumeric)
        && part.split(alphanumeric).all(joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for (text, host, repository, tag) in [
            ("debian", "docker.io", "library/debian", "latest"),
            ("debian:12", "docker.io", "library/debian", "12"),
            ("me/app", "docker.io", "me/app", "latest"),
            ("index.docker.io/me/app", "docker.io", "me/app", "latest"),
            ("localhost/app:v1", "localhost", "app", "v1"),
            ("reg.example.com/a/b__c/d-e:V1.0_x", "reg.example.com", "a/b__c/d-e", "V1.0_x"),
            ("reg:5000/app", "reg:5000", "app", "latest"),
            ("[::1]:5000/app:v1", "[::1]:5000", "app", "v1"),
            ("Reg/app", "Reg", "app", "latest"),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!((&*name.host, &*name.repository), (host, repository), "{text}");
            assert_eq!(name.tag.as_deref(), Some(tag), "{text}");
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_tag() {
        let digest = Digest::of(b"x");
        let name: Name = format!("reg:5000/app@{digest}").parse().unwrap();
        assert_eq!((name.tag.as_deref(), name.digest), (None, Some(digest)));
        let name: Name = format!("app:v1@{digest}").parse().unwrap();
        assert_eq!(name.reference(), digest.to_string());
        assert_eq!(name.to_string(), format!("app:v1@{digest}"));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("reg:5000/{}", "a/".repeat(150));
        for text in [
            "",
            "App",
            "reg:5000/App",
            "app:",
            "app:-v",
            "a//b",
            "app@sha256:1",
            "reg:99999/app",
            "reg:0/app",
            "[::1/app",
            "[zz]:1/app",
            "a b",
            "app:v 1",
            "../app",
            "reg:/app",
            "a..b/c",
            "app__",
            "a___b",
            "r\u{e9}g.example/app",
            "user@host/app",
            &long,
            ".example/a",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
        let tag = format!("app:{}", "a".repeat(129));
        assert!(tag.parse::<Name>().is_err());
    }
}
