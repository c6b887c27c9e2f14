//! Where images are read from and written to, named as skopeo names them.
//!
//! [`Reference`] is the name; [`open`](open::open) reads it into an [`Opened`](open::Opened);
//! a [`Bundle`](bundle::Bundle) is what goes out through a [`Target`](write::Target).

pub mod archive;
pub mod bundle;
pub mod docker_archive;
pub mod files;
pub mod layout;
pub mod name;
pub mod open;
pub mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A way to store an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// What `docker save` writes.
    DockerArchive,
    /// A folder in [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
    Oci,
    /// The same in a tar archive.
    OciArchive,
    /// A [store](crate::store) of relayer.
    Store,
}

/// The prefixes, longest first so that none hides another.
const PREFIXES: [(&str, Transport); 4] = [
    ("docker-archive:", Transport::DockerArchive),
    ("oci-archive:", Transport::OciArchive),
    ("oci:", Transport::Oci),
    ("store:", Transport::Store),
];

/// Where an image is: `docker-archive:FILE[:TAG]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
/// `store:DIR[:NAME]`, a plain path with an optional tag, or `-` for a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As stated; `None` for a plain path, whose contents tell.
    pub transport: Option<Transport>,
    /// File or folder; `None` for standard input or output.
    pub path: Option<PathBuf>,
    /// Which image of several.
    pub tag: Option<String>,
}

impl Reference {
    /// The place a plain path names.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { transport: None, path: Some(path.into()), tag: None }
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// A colon in a path is taken for the beginning of a tag unless the whole is there on disk.
    fn from_str(s: &str) -> Result<Self> {
        if let Some(prefix) = ["docker://", "containers-storage:", "docker-daemon:", "dir:"]
            .iter()
            .find(|p| s.starts_with(**p))
        {
            return Err(Error::unsupported(format!(
                "transport {prefix} is not supported; copy the image to a file first, as in \
                 `skopeo copy {s} oci-archive:img.tar`"
            )));
        }
        let found = PREFIXES.iter().find(|(prefix, _)| s.starts_with(prefix));
        let transport = found.map(|(_, transport)| *transport);
        let rest = found.map_or(s, |(prefix, _)| &s[prefix.len()..]);
        if rest.is_empty() {
            return Err(Error::malformed(format!("{s:?} names no file")));
        }
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if !path.is_empty() && !Path::new(rest).exists() => {
                (path, (!tag.is_empty()).then(|| tag.to_owned()))
            }
            _ => (rest, None),
        };
        let path = (path != "-").then(|| PathBuf::from(path));
        Ok(Self { transport, path, tag })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(transport) = self.transport {
            let prefix = PREFIXES.iter().find(|(_, t)| *t == transport);
            f.write_str(prefix.map_or("", |(prefix, _)| prefix))?;
        }
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("-")?,
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_alike() {
        for text in [
            "img.tar",
            "img.tar:app:v1",
            "docker-archive:img.tar",
            "oci:dir:v1",
            "oci-archive:x.tar:repo/app:v1",
            "store:dir:repo/app:v1",
            "-",
            "docker-archive:-",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let r: Reference = "oci:dir:v1".parse().unwrap();
        assert_eq!(r.transport, Some(Transport::Oci));
        assert_eq!((r.path, r.tag), (Some("dir".into()), Some("v1".into())));
    }

    #[test]
    fn a_path_with_a_colon_is_a_path_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a:b.tar");
        std::fs::write(&path, b"").unwrap();
        let r: Reference = path.to_str().unwrap().parse().unwrap();
        assert_eq!((r.path, r.tag), (Some(path), None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_way_out() {
        let e = "docker://alpine".parse::<Reference>().unwrap_err();
        assert!(e.to_string().contains("skopeo copy"), "{e}");
        assert!("oci:".parse::<Reference>().is_err());
    }
}
