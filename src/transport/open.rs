//! Opening the images that a [`Reference`] names. Their documents are verified, their layers are not
//! read yet.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::archive::Archive;
use super::bundle::Bundle;
use super::daemon::DaemonImage;
use super::dir::Dir;
use super::files::{Files, Folder, document};
use super::image::{Image, Opened, expanded_limit, too_dense};
use super::layout::has_no_layers;
use super::outline::{Outline, outline};
use super::registry::Registries;
use super::unpacked::Unpacked;
use super::{
    ImageLocation, Reference, Transport, docker_archive, is_image_name, layout, name, verbatim,
};
use crate::base::error::{Context, Error, Result};
use crate::base::read::read_some;
use crate::format::{DELTA_MAGIC, codec};
use crate::model::content::{Budget, DiskFile, ReadAt, Source, SpoolWriter, WindowBudget};
use crate::model::digest::Digest;
use crate::model::oci::Platform;

/// What opening an image needs.
#[derive(Debug, Clone)]
pub struct Access {
    /// Memory for archives that come from a pipe or are compressed, and for decoders.
    pub budget: Arc<Budget>,
    /// Bytes that such an archive, and the layers of an image, may expand to.
    pub max_size: u64,
    /// Threads that rebuild the blobs of a store.
    pub threads: u32,
    /// How registries are reached.
    pub registries: Arc<Registries>,
}

impl Access {
    /// Returns access with one thread, and to registries as the environment says.
    pub fn new(budget: &Arc<Budget>, max_size: u64) -> Self {
        let (budget, registries) = (Arc::clone(budget), Arc::default());
        Self { budget, max_size, threads: 1, registries }
    }
}

/// Opens the images that `reference` names, as [`Place::at`] and [`Place::images`] do.
///
/// # Errors
/// If there is no such image, or its documents are not valid.
pub fn open(reference: &Reference, platform: Option<&Platform>, access: &Access) -> Result<Opened> {
    let place = Place::at(reference, access)?;
    place
        .images(reference.tag.as_deref(), platform, access.max_size)
        .with_context(|| format!("reading {reference}"))
}

/// An archive, a layout, or an image of a store or registry, whose documents are not read yet.
pub struct Place {
    files: Box<dyn Files + Send + Sync>,
    transport: Transport,
    /// Memory for decoder windows of layers that are read only for their digest.
    windows: Arc<WindowBudget>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl Place {
    /// Creates a place of `files` in the format of `transport`. Decompression takes memory from
    /// `budget`.
    pub fn new(
        files: impl Files + Send + Sync + 'static,
        transport: Transport,
        budget: &Budget,
    ) -> Self {
        Self { files: Box::new(files), transport, windows: Arc::clone(budget.windows()) }
    }

    /// Finds the place that `reference` names. Archives that come from a pipe or are compressed go to
    /// a spool.
    ///
    /// # Errors
    /// If it does not exist, is not an image archive or layout, or exceeds a limit.
    pub fn at(reference: &Reference, access: &Access) -> Result<Self> {
        Self::find(reference, access).with_context(|| format!("reading {reference}"))
    }

    fn find(reference: &Reference, access: &Access) -> Result<Self> {
        let (budget, max_size) = (&access.budget, access.max_size);
        let source: Source = match &reference.location {
            ImageLocation::Standard => {
                let source = stdin(budget, max_size)?;
                if source.size() == 0 {
                    return Err(Error::malformed(
                        "standard input is empty; did the command before the pipe fail?",
                    ));
                }
                source
            }
            ImageLocation::Registry(name) => {
                return Ok(Self::new(access.registries.open(name)?, Transport::Registry, budget));
            }
            ImageLocation::Daemon(image) => return Self::in_daemon(image, budget, max_size),
            ImageLocation::Path(_) if reference.transport == Some(Transport::Store) => {
                return Err(Error::unsupported("a store can be read by the command line only"));
            }
            ImageLocation::Path(path) => {
                let metadata = fs::metadata(path).map_err(|e| missing(e, reference))?;
                if metadata.is_dir() {
                    return Self::in_folder(path, reference.transport, budget);
                }
                if matches!(reference.transport, Some(Transport::Oci | Transport::Dir)) {
                    return Err(Error::malformed(
                        "this is a file, not a folder; did you mean oci-archive: ?",
                    ));
                }
                if metadata.file_type().is_char_device() {
                    return Err(Error::malformed("this is a device, not an image"));
                }
                let file = File::open(path)?;
                if file.metadata()?.is_file() {
                    Arc::new(DiskFile::new(file)?)
                } else {
                    spool(file, budget, max_size, u64::MAX)?
                }
            }
        };
        Self::in_archive(source, reference.transport, budget, max_size)
    }

    /// Opens an image in the storage of a client.
    fn in_daemon(image: &DaemonImage, budget: &Arc<Budget>, max_size: u64) -> Result<Self> {
        let source = spool(image.read()?, budget, max_size, u64::MAX)?;
        Self::in_archive(Arc::clone(&source), None, budget, max_size)
            .map_err(|e| image.error_at_end(&source).unwrap_or(e))
    }

    /// Opens an image in a folder.
    fn in_folder(path: &Path, transport: Option<Transport>, budget: &Budget) -> Result<Self> {
        let folder = Folder::new(path.to_owned());
        let (found, stated) = match transport {
            Some(transport) => (transport, true),
            None => (detect(&folder)?, false),
        };
        match found {
            Transport::Oci => Ok(Self::new(folder, found, budget)),
            Transport::Dir => Ok(Self::new(Dir::open(folder)?, found, budget)),
            Transport::DockerArchive if !stated => {
                Ok(Self::new(Unpacked::new(path)?, found, budget))
            }
            _ => Err(Error::malformed("this is a folder, not an archive")),
        }
    }

    /// Opens an image archive that can be read at any offset, compressed or not.
    ///
    /// # Errors
    /// If it is not an image archive, or exceeds a limit.
    pub fn in_archive(
        source: Source,
        transport: Option<Transport>,
        budget: &Arc<Budget>,
        max_size: u64,
    ) -> Result<Self> {
        let most = expanded_limit(source.size());
        let plain = codec::decode_archive(source.as_ref(), budget.windows())?
            .map(|(format, plain)| {
                spool(plain, budget, max_size, most)
                    .with_context(|| format!("decompressing the {format} archive"))
            })
            .transpose()?;
        let source = plain.unwrap_or(source);
        let archive =
            Archive::open(Arc::clone(&source)).map_err(|e| no_archive(source.as_ref(), e))?;
        let (has_layout, has_docker) =
            (archive.get("index.json")?.is_some(), archive.get("manifest.json")?.is_some());
        let transport = match transport {
            Some(transport) => transport,
            None if has_layout && !(has_docker && has_no_layers(&archive)?) => {
                Transport::OciArchive
            }
            None if has_docker => Transport::DockerArchive,
            None => {
                let names: Vec<_> = archive.names().take(4).collect();
                return Err(Error::malformed(format!(
                    "this is not an image archive: it has neither manifest.json nor index.json, and {}; \
                     `docker save` and `skopeo copy` write image archives",
                    if names.is_empty() {
                        "is empty".into()
                    } else {
                        format!("begins with {}", names.join(", "))
                    }
                )));
            }
        };
        Ok(Self::new(archive, transport, budget))
    }

    /// Reads the documents of the images that `tag` names, or of the only image; only those for
    /// `platform` if it is given. Layers may expand to `max_size` bytes.
    ///
    /// # Errors
    /// If there is no such image, or a document is not valid.
    pub fn images(
        &self,
        tag: Option<&str>,
        platform: Option<&Platform>,
        max_size: u64,
    ) -> Result<Opened> {
        if self.transport == Transport::DockerArchive {
            return docker_archive::open(self.another(), tag, max_size, &self.windows)?
                .only(platform);
        }
        let mut opened =
            layout::open(self.another(), tag, platform, self.transport)?.only(platform)?;
        let configs: Vec<_> = opened.images.iter().map(|i| Digest::of(&i.config_bytes)).collect();
        self.add_names(&mut opened.names, &configs)?;
        Ok(opened)
    }

    /// Returns the files, of which another image is to be read: each may have as many documents.
    fn another(&self) -> &dyn Files {
        let files = self.files.as_ref();
        if let Some(documents) = files.documents() {
            documents.reset();
        }
        files
    }

    /// Returns a name that selects each image; `None` if there is only one.
    #[cfg(feature = "store")]
    pub(crate) fn each(&self) -> Result<Vec<Option<String>>> {
        let files = self.files.as_ref();
        if self.transport == Transport::DockerArchive {
            return docker_archive::each(files);
        }
        super::choose::each(files, &layout::read_root(files)?)
    }

    /// Returns what `tag` names with every byte unchanged, images or artifacts, only those for
    /// `platform` if it is given; and notes for the user, which depend on whether it is written
    /// `to_docker`, to a docker-archive.
    ///
    /// # Errors
    /// If there is no such image, or a document is not valid.
    pub fn unchanged(
        &self,
        tag: Option<&str>,
        platform: Option<&Platform>,
        to_docker: bool,
        max_size: u64,
    ) -> Result<(Bundle, Vec<String>)> {
        if self.transport == Transport::DockerArchive {
            let mut opened = self.images(tag, platform, max_size)?;
            if !to_docker {
                opened.notes.extend(opened.images.iter().find_map(Image::lost_to_podman));
            }
            return Ok((Bundle::unchanged(&opened)?, opened.notes));
        }
        let (mut bundle, notes) = verbatim::collect(self.another(), tag, platform)?;
        let configs: Vec<_> = bundle.listed.iter().map(|listed| listed.config).collect();
        self.add_names(&mut bundle.names, &configs)?;
        Ok((bundle, notes))
    }

    /// Outlines the images and artifacts that `tag` names, including those that [`Place::images`]
    /// refuses; empty for a docker-archive, which has no manifests.
    ///
    /// # Errors
    /// If there is no such manifest, or a document is not valid.
    pub fn outline(&self, tag: Option<&str>, platform: Option<&Platform>) -> Result<Vec<Outline>> {
        if self.transport == Transport::DockerArchive {
            return Ok(Vec::new());
        }
        outline(self.files.as_ref(), tag, platform)
    }

    /// Adds the names that an archive for every client lists in `manifest.json` only, since its
    /// `index.json` must list an image once.
    fn add_names(&self, names: &mut Vec<String>, configs: &[Digest]) -> Result<()> {
        let more = docker_archive::names(self.files.as_ref(), configs)?;
        for name in more {
            if !names.iter().any(|old| name::is_same(old, &name)) {
                names.push(name);
            }
        }
        Ok(())
    }
}

/// Opens an image archive that can be read at any offset, as [`Place::in_archive`] and
/// [`Place::images`] do.
///
/// # Errors
/// If there is no such image, or its documents are not valid.
pub fn open_archive(
    source: Source,
    transport: Option<Transport>,
    tag: Option<&str>,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    max_size: u64,
) -> Result<Opened> {
    Place::in_archive(source, transport, budget, max_size)?.images(tag, platform, max_size)
}

/// Returns the error for a file that `e` says is not a valid archive. If it does not begin as one, it says
/// what is there.
fn no_archive(source: &dyn ReadAt, e: Error) -> Error {
    let mut block = [0; 512];
    let size = source.size().min(512) as usize;
    if source.read_exact_at(&mut block[..size], 0).is_err() || &block[257..262] == b"ustar" {
        return e;
    }
    if block.starts_with(DELTA_MAGIC) {
        return Error::malformed(
            "this is a delta, not an image; `relayer apply OLD DELTA -o NEW` makes the image from it",
        );
    }
    if block[..size].iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
        return Error::malformed(
            "this is text, not a tar archive; `docker save` and `skopeo copy` write image archives",
        );
    }
    e
}

/// Returns the format of the image in a folder.
fn detect(folder: &Folder) -> Result<Transport> {
    let manifest = document(folder, "manifest.json")?;
    if folder.get("index.json")?.is_some() && !(manifest.is_some() && has_no_layers(folder)?) {
        return Ok(Transport::Oci);
    }
    Ok(match manifest {
        Some(bytes) if bytes.trim_ascii_start().starts_with(b"[") => Transport::DockerArchive,
        Some(_) => Transport::Dir,
        None => Transport::Oci,
    })
}

/// Checks that the file or folder of a reference exists.
///
/// # Errors
/// If it does not, or can't be looked at.
pub fn check_exists(reference: &Reference) -> Result<()> {
    let looked = reference.path().map(fs::metadata).transpose();
    looked
        .map(drop)
        .map_err(|e| missing(e, reference))
        .with_context(|| format!("reading {reference}"))
}

/// Returns the error for a missing file. If the name looks like an image name, it says how to name
/// that image.
fn missing(e: io::Error, reference: &Reference) -> Error {
    let name = reference.to_string();
    let foreign = ["https://", "http://", "docker:", "registry:"];
    if let Some(name) = foreign.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        return Error::not_found(format!(
            "no such file or folder; an image in a registry is named docker://{}",
            name.trim_start_matches('/')
        ));
    }
    // A name with one of these extensions is meant as a file.
    let file = [".tar", ".gz", ".tgz", ".zst", ".xz", ".txz", ".oci"]
        .iter()
        .any(|end| name.ends_with(end));
    if e.kind() != io::ErrorKind::NotFound
        || reference.transport.is_some()
        || file
        || !is_image_name(&name)
    {
        return e.into();
    }
    Error::not_found(format!(
        "no such file or folder; if this is the name of an image, say where it is: docker://{name} in its \
         registry, docker-daemon:{name} in docker, or containers-storage:{name} in podman"
    ))
}

/// Spools standard input, so that it can be read at any offset.
pub(crate) fn stdin(budget: &Arc<Budget>, max_size: u64) -> Result<Source> {
    if io::stdin().is_terminal() {
        return Err(Error::refused("standard input is a terminal; pipe an image or delta into it"));
    }
    spool(io::stdin().lock(), budget, max_size, u64::MAX)
}

/// Spools everything from `reader`, so that it can be read at any offset.
fn spool(
    mut reader: impl Read,
    budget: &Arc<Budget>,
    max_size: u64,
    max_expanded: u64,
) -> Result<Source> {
    let mut writer = SpoolWriter::new(budget);
    let mut buf = vec![0; 1 << 18];
    loop {
        let n = read_some(&mut reader, &mut buf)?;
        if n == 0 {
            return Ok(Arc::new(writer.finish()?));
        }
        if writer.size() + n as u64 > max_size {
            return Err(Error::limit(format!(
                "it is larger than {max_size} bytes; --max-size allows more"
            )));
        }
        if writer.size() + n as u64 > max_expanded {
            return Err(too_dense());
        }
        writer.write_all(&buf[..n])?;
    }
}
