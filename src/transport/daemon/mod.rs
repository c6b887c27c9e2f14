//! Images in the storage of clients: docker, podman, and containerd.
//!
//! docker has an API on a socket. podman and containerd are reached by their own commands, `podman` and
//! `ctr`: the storage of podman has a format and locks of its own, and the API of containerd is gRPC.
//! Either way images go through the client as archives.

mod docker;
mod http;
mod program;

use std::fmt;
use std::io::{BufWriter, Read, Write};

use super::bundle::Bundle;
use super::registry::name::Name;
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_PROGRAM_MESSAGE;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::oci::media_type;
use docker::Docker;
use program::{ProgramReader, ProgramWriter};

/// A client with images in its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Docker, or podman where it answers on docker's socket.
    Docker,
    /// Podman, buildah and CRI-O, which share their storage.
    Podman,
    /// containerd, in the namespace that `CONTAINERD_NAMESPACE` names.
    Containerd,
}

/// An image in the storage of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonImage {
    /// The client.
    pub daemon: Daemon,
    /// The name as it was written, with a tag or digest; or the ID.
    text: String,
    /// `None` if this is an ID.
    name: Option<Name>,
}

impl DaemonImage {
    /// Reads the name of an image as docker reads it, or its ID, `sha256:…`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn new(daemon: Daemon, text: &str) -> Result<Self> {
        let mut text = text.to_owned();
        if text.parse::<Digest>().is_ok() {
            return Ok(Self { daemon, text, name: None });
        }
        let name: Name = text.parse()?;
        let last = text.rsplit('/').next().unwrap_or_default();
        if name.digest.is_none() && !last.contains(':') {
            // Docker saves all tags of a name without one.
            text.push_str(":latest");
        }
        Ok(Self { daemon, text, name: Some(name) })
    }

    /// Returns the whole name, `HOST/REPOSITORY:TAG`, under which an image is written.
    ///
    /// # Errors
    /// If this is an ID or has a digest: the image has another one after it was written.
    pub fn full_name(&self) -> Result<String> {
        let tagged = self.name.as_ref().filter(|name| name.digest.is_none());
        tagged.map(Name::full).ok_or_else(|| {
            Error::malformed(format!(
                "{self} is not a name to write to; use a name with a tag, such as app:v1"
            ))
        })
    }

    /// Returns the name that containerd has for the image.
    fn containerd_name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.text.clone(), Name::full)
    }

    /// Begins to read an archive of the image from its client.
    ///
    /// # Errors
    /// If there is no such client or image.
    pub(super) fn read(&self) -> Result<Box<dyn Read>> {
        Ok(match self.daemon {
            Daemon::Docker => Box::new(Docker::connect()?.save(self)?),
            Daemon::Podman => {
                let format = if self.is_docker_image()? { "docker-archive" } else { "oci-archive" };
                let args = ["save", "--quiet", "--format", format, "--", &self.text];
                Box::new(ProgramReader::start("podman", &args)?)
            }
            Daemon::Containerd => {
                let args = ["images", "export", "--", "-", &self.containerd_name()];
                Box::new(ProgramReader::start("ctr", &args)?)
            }
        })
    }

    /// Asks podman whether an image has docker's format, some of whose fields OCI's doesn't have.
    fn is_docker_image(&self) -> Result<bool> {
        let args = ["image", "inspect", "--format", "{{.ManifestType}}", "--", &self.text];
        let mut kind = String::new();
        let mut out = ProgramReader::start("podman", &args)?.take(MAX_PROGRAM_MESSAGE as u64);
        out.read_to_string(&mut kind)?;
        Ok(media_type::is_docker(kind.trim()))
    }

    /// Returns the error that a client put at the end of an archive that it could not complete.
    pub(super) fn error_at_end(&self, archive: &Source) -> Option<Error> {
        docker::error_at_end(archive).filter(|_| self.daemon == Daemon::Docker)
    }
}

impl fmt::Display for DaemonImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A client that is there, to load an image into.
pub(super) struct Loader {
    image: DaemonImage,
    /// The name under which it is loaded.
    pub(super) name: String,
    docker: Option<Docker>,
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("image", &self.image).finish_non_exhaustive()
    }
}

impl Loader {
    /// Checks that the client of an image is there.
    ///
    /// # Errors
    /// If it is not, or the image has no name to write to.
    pub(super) fn new(image: &DaemonImage) -> Result<Self> {
        let docker = match image.daemon {
            Daemon::Docker => Some(Docker::connect()?),
            Daemon::Podman => program::check("podman").map(|()| None)?,
            Daemon::Containerd => program::check("ctr").map(|()| None)?,
        };
        Ok(Self { name: image.full_name()?, image: image.clone(), docker })
    }

    /// Returns what to write into the layout in place of the tag alone: podman reads the name from there.
    pub(super) fn tag(&self) -> Option<&str> {
        (self.image.daemon == Daemon::Podman).then_some(&*self.name)
    }

    /// Fails if the client would not take an image.
    ///
    /// # Errors
    /// If docker does not take it.
    pub(super) fn check(&self, bundle: &Bundle) -> Result<()> {
        self.docker.as_ref().map_or(Ok(()), |docker| docker.check(bundle))
    }

    /// Loads the archive of `bundle` that `fill` writes.
    ///
    /// # Errors
    /// Those of `fill`; or if the client refuses the image.
    pub(super) fn load(
        &self,
        bundle: &Bundle,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        if let Some(docker) = &self.docker {
            return docker.load(fill);
        }
        let (program, args) = match self.image.daemon {
            // Without --all-platforms, ctr would remove the others at its next clean-up.
            Daemon::Containerd if bundle.listed.len() > 1 => {
                ("ctr", &["images", "import", "--all-platforms", "-"][..])
            }
            Daemon::Containerd => ("ctr", &["images", "import", "-"][..]),
            Daemon::Podman | Daemon::Docker => ("podman", &["load", "--quiet"][..]),
        };
        let mut out = BufWriter::with_capacity(1 << 20, ProgramWriter::start(program, args)?);
        let written = fill(&mut out).and_then(|()| Ok(out.flush()?));
        // What is left in the buffer must not follow an error.
        out.into_parts().0.finish(written)
    }
}
