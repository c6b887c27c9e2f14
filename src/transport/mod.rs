//! Reading images from registries, archives, folders and pipes, and writing them there. References
//! to them have the form that skopeo uses.
//!
//! Imports `base`, `model` and `format`. Types to know: [`Reference`], the name of an image on the
//! command line; [`Opened`](image::Opened), what [`open`](open::open) reads, whose layers are still
//! unread; and [`Bundle`](bundle::Bundle), the blobs that a [`Destination`](write::Destination) writes.

mod archive;
pub mod bundle;
mod choose;
pub mod daemon;
mod dir;
pub(crate) mod docker_archive;
mod early;
pub mod files;
mod folder;
pub mod image;
pub(crate) mod layout;
mod listing;
pub(crate) mod name;
pub mod open;
pub mod outline;
pub mod registry;
mod unpacked;
mod verbatim;
pub mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) use choose::is_attestation;

use crate::base::error::{Error, Result};
use daemon::{Daemon, DaemonImage};
use registry::name::Name;

/// A format in which an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An archive as `docker save` writes it.
    DockerArchive,
    /// A folder in [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
    Oci,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// The storage of docker, podman or containerd.
    Daemon(Daemon),
    /// A folder in the format of skopeo's `dir:`.
    Dir,
    /// A registry.
    Registry,
    /// A [store](crate::store) of relayer.
    Store,
}

impl Transport {
    /// Returns whether docker itself reads what is written, perhaps a version without zstd.
    pub fn is_for_docker(self) -> bool {
        matches!(self, Self::DockerArchive | Self::Daemon(Daemon::Docker))
    }
}

/// Prefixes of references, longest first so that none hides another.
const PREFIXES: [(&str, Transport); 9] = [
    ("containers-storage:", Transport::Daemon(Daemon::Podman)),
    ("docker-archive:", Transport::DockerArchive),
    ("docker-daemon:", Transport::Daemon(Daemon::Docker)),
    ("oci-archive:", Transport::OciArchive),
    ("containerd:", Transport::Daemon(Daemon::Containerd)),
    ("docker://", Transport::Registry),
    ("oci:", Transport::Oci),
    ("store:", Transport::Store),
    ("dir:", Transport::Dir),
];

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageLocation {
    /// Standard input or output.
    Standard,
    /// A file or folder.
    Path(PathBuf),
    /// A registry.
    Registry(Name),
    /// The storage of a client.
    Daemon(DaemonImage),
}

/// Reference to an image: `docker-archive:FILE[:TAG]`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
/// `dir:DIR`, `docker://NAME`, `docker-daemon:NAME`, `containers-storage:NAME`, `containerd:NAME`,
/// `store:DIR[:NAME]`, a plain path with an optional tag, or `-` for a pipe. For reading, the tag may be
/// `@sha256:…`, or `@N` for entry N of `index.json`, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The stated format; `None` for a plain path, whose format is detected.
    pub transport: Option<Transport>,
    /// Where it is.
    pub location: ImageLocation,
    /// The image to use if there are several: a tag, a name or a digest. Always `None` in a registry or
    /// a client's storage, whose names have it.
    pub tag: Option<String>,
}

impl Reference {
    /// Returns the reference of a plain path.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { transport: None, location: ImageLocation::Path(path.into()), tag: None }
    }

    /// Returns the reference of the image `name` in the store at `dir`.
    pub fn in_store(dir: &Path, name: Option<String>) -> Self {
        Self { transport: Some(Transport::Store), tag: name, ..Self::file(dir) }
    }

    /// Returns the file or folder, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.location {
            ImageLocation::Path(path) => Some(path),
            ImageLocation::Standard | ImageLocation::Registry(_) | ImageLocation::Daemon(_) => None,
        }
    }

    /// Returns whether this is standard input or output.
    pub fn is_standard(&self) -> bool {
        self.location == ImageLocation::Standard
    }

    /// Refuses a name that promises another format than an archive would have.
    fn check_file_name(&self) -> Result<()> {
        let Some(path) = self.path().filter(|_| !write::is_folder(self.transport)) else {
            return Ok(());
        };
        let name = path.to_string_lossy();
        if name.ends_with('/') && !path.exists() {
            let dir = name.trim_end_matches('/');
            return Err(Error::refused(format!(
                "{name} is the name of a folder; write oci:{dir} for an OCI layout, or name a file"
            )));
        }
        let packed = [".gz", ".tgz", ".zst", ".xz", ".txz", ".bz2"];
        match packed.iter().find(|end| name.ends_with(**end)) {
            Some(end) => Err(Error::refused(format!(
                "the layers are compressed, the archive around them is not, so its name should not end \
                 with {end}; use .tar"
            ))),
            None => Ok(()),
        }
    }

    /// Parses a reference to write to. In a docker-archive a bare name is a repository, as docker and
    /// skopeo take it.
    ///
    /// # Errors
    /// If the name is not a valid image name.
    pub fn destination(s: &str) -> Result<Self> {
        let mut reference: Self = s.parse()?;
        reference.check_file_name()?;
        if let ImageLocation::Daemon(image) = &reference.location {
            image.full_name()?;
        }
        if let Some(tag) = reference.tag.as_deref().filter(|tag| !name::is_name(tag)) {
            return Err(Error::malformed(format!(
                "{tag:?} is not a valid image name; use a name such as app:v1"
            )));
        }
        if reference.transport == Some(Transport::DockerArchive)
            && let Some(tag) = &mut reference.tag
        {
            if !is_image_name(tag) {
                return Err(Error::malformed(format!(
                    "{tag:?} is not a valid image name for docker; use a lower-case name such as app:v1"
                )));
            }
            if name::full(tag).is_none() {
                tag.push_str(":latest");
            }
        }
        Ok(reference)
    }
}

/// Returns whether docker accepts this as `[registry/]repository[:tag]`.
fn is_image_name(s: &str) -> bool {
    let all = |s: &str, more: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        ends(s.chars().next())
            && ends(s.chars().next_back())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let (name, tag) = match s.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (s, "latest"),
    };
    let path = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) && all(first, "._-:") => path,
        _ => name,
    };
    let component = |part: &str| all(part, "._-") && !part.contains(|c: char| c.is_uppercase());
    path.split('/').all(component) && all(tag, "._-")
}

impl FromStr for Reference {
    type Err = Error;

    /// Takes a colon in a path as the beginning of a tag, unless a file of the whole name exists.
    fn from_str(s: &str) -> Result<Self> {
        let found = PREFIXES.iter().find(|(prefix, _)| s.starts_with(prefix));
        let transport = found.map(|(_, transport)| *transport);
        let rest = found.map_or(s, |(prefix, _)| &s[prefix.len()..]);
        if transport == Some(Transport::Registry) {
            return Ok(Self {
                transport,
                location: ImageLocation::Registry(rest.parse()?),
                tag: None,
            });
        }
        if let Some(Transport::Daemon(daemon)) = transport {
            let location = ImageLocation::Daemon(DaemonImage::new(daemon, rest)?);
            return Ok(Self { transport, location, tag: None });
        }
        if rest.is_empty() {
            return Err(Error::malformed(format!("{s:?} does not name a file")));
        }
        if transport == Some(Transport::Dir) {
            // It holds one image, so all of it is the path, as for skopeo.
            return Ok(Self { transport, ..Self::file(rest) });
        }
        let exists = Path::new(rest).exists();
        // A digest identifies the image; a tag next to it is ignored.
        let by_digest = rest.rsplit_once('@').filter(|(_, digest)| name::digest(digest).is_some());
        let (rest, digest) = match by_digest.filter(|_| !exists) {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if !path.is_empty() && !exists => {
                (path, digest.or_else(|| (!tag.is_empty()).then(|| tag.to_owned())))
            }
            _ => (rest, digest),
        };
        let location =
            if path == "-" { ImageLocation::Standard } else { ImageLocation::Path(path.into()) };
        Ok(Self { transport, location, tag })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(transport) = self.transport {
            let prefix = PREFIXES.iter().find(|(_, t)| *t == transport);
            f.write_str(prefix.map_or("", |(prefix, _)| prefix))?;
        }
        match &self.location {
            ImageLocation::Standard => f.write_str("-")?,
            ImageLocation::Path(path) => write!(f, "{}", path.display())?,
            ImageLocation::Registry(name) => write!(f, "{name}")?,
            ImageLocation::Daemon(image) => write!(f, "{image}")?,
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_parsing_and_printing() {
        for text in [
            "img.tar",
            "img.tar:app:v1",
            "docker-archive:img.tar",
            "oci:dir:v1",
            "oci-archive:x.tar:repo/app:v1",
            "store:dir:repo/app:v1",
            "-",
            "docker-archive:-",
            "dir:a/b:c",
            "docker://reg:5000/app:v1",
            "docker-daemon:app:v1",
            "containers-storage:localhost/app:v1",
            "containerd:docker.io/library/app:v1",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let r: Reference = "oci:dir:v1".parse().unwrap();
        assert_eq!(r.transport, Some(Transport::Oci));
        assert_eq!((r.path(), r.tag.as_deref()), (Some("dir".as_ref()), Some("v1")));
        let digest = crate::model::digest::Digest::of(b"x").to_string();
        for text in ["oci:dir@D", "oci:dir:@D", "oci:dir:D", "oci:dir:app:v1@D"] {
            let r: Reference = text.replace('D', &digest).parse().unwrap();
            assert_eq!((r.path(), r.tag.as_ref()), (Some("dir".as_ref()), Some(&digest)), "{text}");
        }
    }

    #[test]
    fn a_path_with_a_colon_is_a_path_if_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a:b.tar");
        std::fs::write(&path, b"").unwrap();
        let r: Reference = path.to_str().unwrap().parse().unwrap();
        assert_eq!((r.path(), r.tag.as_ref()), (Some(&*path), None));
    }

    #[test]
    fn names_in_the_storage_of_clients_are_those_of_docker() {
        let digest = crate::model::digest::Digest::of(b"x");
        for prefix in ["docker-daemon:", "containers-storage:", "containerd:"] {
            let parse = |name: &str| format!("{prefix}{name}").parse::<Reference>();
            // Docker saves all tags of a name without one.
            assert_eq!(parse("app").unwrap().to_string(), format!("{prefix}app:latest"));
            for (name, is_destination) in [
                ("reg:5000/app", true),
                (&*format!("app@{digest}"), false),
                (&digest.to_string(), false),
            ] {
                assert!(parse(name).is_ok(), "{name}");
                let destination = Reference::destination(&format!("{prefix}{name}"));
                assert_eq!(destination.is_ok(), is_destination, "{name}");
            }
            for name in ["", "App", "--help", "a b", "../app", "[overlay@/x]app", "app:-x"] {
                assert!(parse(name).is_err(), "{name}");
            }
        }
        assert!("docker://App".parse::<Reference>().is_err());
        assert!("oci:".parse::<Reference>().is_err());
    }

    #[test]
    fn a_bare_name_in_a_docker_archive_is_a_repository() {
        let tag = |s: &str| Reference::destination(s).unwrap().tag.unwrap();
        assert_eq!(tag("docker-archive:x.tar:v1"), "v1:latest");
        assert_eq!(tag("docker-archive:x.tar:reg:5000/app"), "reg:5000/app:latest");
        assert_eq!(tag("docker-archive:x.tar:Reg.io/app:V1"), "Reg.io/app:V1");
        assert_eq!(tag("oci-archive:x.tar:v1"), "v1");
        assert!(Reference::destination("oci:x:@0").is_err());
        for name in ["V1", "App:v1", "app:", "-app", "a//b", "app:v 1"] {
            let text = format!("docker-archive:x.tar:{name}");
            assert!(Reference::destination(&text).is_err(), "{name}");
        }
    }
}
