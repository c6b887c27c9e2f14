//! Writing a [`Bundle`]: an archive for every client, a docker-archive, an OCI archive, an OCI layout, a
//! folder of skopeo, or into a registry or the storage of a client.
//!
//! A file or folder appears complete or not at all: everything is written under a temporary name next to
//! it, synced, and renamed at the end.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::bundle::Bundle;
use super::daemon::{Daemon, DaemonImage, Loader};
use super::early::EarlyBlobs;
use super::files::blob_path;
use super::layout::LAYOUT;
use super::listing::Guard;
use super::registry::name::Name;
use super::registry::{Push, PushStats, Registries};
use super::{ImageLocation, Reference, Transport, dir, folder, listing, name};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::temporary::{TemporaryFile, parent_folder, replace, sweep};
use crate::base::text::shorten;
use crate::format::tar::{self, EntryKind};
use crate::model::content::{BlobSink, BlobWriter, Source};
use crate::model::digest::Digest;
use crate::model::fileset::{Mtime, Xattrs};
use crate::model::oci::{self, Index};

/// The documents that an output archive has in addition to the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OCI layout and `manifest.json`: for every client.
    Universal,
    /// `manifest.json` only.
    Docker,
    /// OCI layout only.
    Oci,
}

/// A destination, checked before any work begins.
#[derive(Debug)]
pub struct Destination {
    reference: Reference,
    form: Form,
    guard: Guard,
    writer: Writer,
}

/// What writes the image.
#[derive(Debug)]
enum Writer {
    /// Files and folders, and standard output.
    Files(EarlyBlobs),
    Registry(Push),
    Client(Loader),
}

impl Writer {
    fn files() -> Self {
        Self::Files(EarlyBlobs::default())
    }
}

impl Destination {
    /// Checks that `reference` can be written to. A registry takes blobs from the repositories of
    /// `inputs` and of `mounts` if it has them there.
    ///
    /// # Errors
    /// If a file already exists and `force` is not set, if it is one of `inputs`, if it is a folder
    /// and not a layout, or if a registry can't be reached or refuses uploads.
    pub fn new(
        reference: Reference,
        force: bool,
        inputs: &[&Reference],
        registries: &Registries,
        mounts: &[Name],
    ) -> Result<Self> {
        let place = || format!("writing {reference}");
        let guard = Guard { force, inputs: Vec::new() };
        if let ImageLocation::Registry(name) = &reference.location {
            let push = begin_push(name, force, inputs, registries, mounts).with_context(place)?;
            let writer = Writer::Registry(push);
            return Ok(Self { form: Form::Oci, guard, writer, reference });
        }
        if let ImageLocation::Daemon(image) = &reference.location {
            let writer = Writer::Client(begin_load(image, force, inputs).with_context(place)?);
            // Docker reads manifest.json, or the layout if containerd keeps its images.
            let docker = image.daemon == Daemon::Docker;
            let form = if docker { Form::Universal } else { Form::Oci };
            return Ok(Self { reference, form, guard, writer });
        }
        let form = match reference.transport {
            None => Form::Universal,
            Some(Transport::DockerArchive) => Form::Docker,
            Some(Transport::Store) => {
                return Err(Error::refused("use `relayer store add` to add images to a store")
                    .context(place()));
            }
            Some(_) => Form::Oci,
        };
        let Some(path) = reference.path() else {
            check_stdout(reference.transport).with_context(place)?;
            return Ok(Self { reference, form, guard, writer: Writer::files() });
        };
        let overwritten = |i: &&Reference| {
            // Another tag may be added to the layout that is read; a file would be destroyed.
            is_part(path, i)
                && !(path.is_dir() && reference.tag.is_some() && reference.tag != i.tag)
        };
        if inputs.iter().any(overwritten) {
            return Err(is_input().context(place()));
        }
        match (fs::metadata(path), reference.transport) {
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => {
                refuse_dangling(path).with_context(place)?;
            }
            (Err(e), _) => return Err(e).with_context(place),
            (Ok(m), Some(Transport::Oci)) if m.is_dir() => {
                folder::check(path).with_context(place)?;
            }
            (Ok(m), Some(Transport::Dir)) if m.is_dir() => {
                dir::check(path, force).with_context(place)?;
            }
            (Ok(m), _) if m.is_dir() => {
                return Err(Error::refused(
                    "this is a folder; use oci:DIR for an OCI layout or dir:DIR, or name a file",
                )
                .context(place()));
            }
            (Ok(_), Some(Transport::Oci | Transport::Dir)) => {
                return Err(Error::refused("this is a file, not a folder").context(place()));
            }
            (Ok(m), _) if m.is_file() && !force => {
                return Err(
                    Error::refused("it already exists; --force replaces it").context(place())
                );
            }
            (Ok(_), _) => {}
        }
        // Better now than after minutes of work.
        let pipe = fs::metadata(path).is_ok_and(|m| !m.is_file());
        if !is_folder(reference.transport) && !pipe {
            check_folder(path).with_context(place)?;
        }
        let same = |i: &&&Reference| i.path().and_then(real) == real(path);
        let within = inputs.iter().filter(same);
        let inputs = within.map(|i| i.tag.clone()).collect();
        let guard = Guard { force, inputs };
        if let (Some(Transport::Oci), Some(tag)) = (reference.transport, &reference.tag) {
            guard.check(&listing::read(path).with_context(place)?, &[tag]).with_context(place)?;
        }
        Ok(Self { guard, form, writer: Writer::files(), reference: reference.clone() })
    }

    /// Returns the reference of the destination.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Writes `bundle`. A tag in the reference replaces the bundle's names. Returns what a registry was
    /// sent.
    ///
    /// # Errors
    /// If a blob does not have its digest, or writing fails; nothing is left behind then.
    pub fn write(&self, bundle: &Bundle, progress: &dyn Progress) -> Result<Option<PushStats>> {
        let written = match &self.writer {
            Writer::Registry(push) => push.finish(bundle, progress).map(Some),
            Writer::Client(loader) => self.load(loader, bundle, progress).map(|()| None),
            Writer::Files(early) => self.write_files(early, bundle, progress).map(|()| None),
        };
        written.with_context(|| format!("writing {}", self.reference))
    }

    fn write_files(
        &self,
        early: &EarlyBlobs,
        bundle: &Bundle,
        progress: &dyn Progress,
    ) -> Result<()> {
        bundle.blobs.values().for_each(|blob| blob.source.prefetch());
        let tag = self.reference.tag.as_deref();
        let (names, unsafe_names) = match tag {
            Some(tag) => (vec![tag.to_owned()], Vec::new()),
            None => bundle.names.iter().cloned().partition(|name| name::is_safe(name)),
        };
        for name in unsafe_names.iter().map(|name| shorten(name, 200)) {
            progress.note(&format!("the name {name} is left out: no client accepts it"));
        }
        self.note_platforms(bundle, progress);
        progress.begin("write", bundle.bytes());
        let done = match (self.reference.path(), self.reference.transport) {
            (None, _) => {
                let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
                write_archive(bundle, &names, tag, self.form, &mut out, progress)
                    .and_then(|()| Ok(out.flush()?))
            }
            (Some(path), Some(Transport::Oci)) => {
                folder::write(path, (bundle, early), &names, tag, &self.guard, progress)
            }
            (Some(path), Some(Transport::Dir)) => {
                dir::write(path, (bundle, early), self.guard.force, progress)
            }
            (Some(path), _) if fs::metadata(path).is_ok_and(|m| !m.is_file()) => {
                // A pipe or device: nothing to rename.
                let file = fs::OpenOptions::new().write(true).open(path)?;
                write_archive(bundle, &names, tag, self.form, file, progress)
            }
            (Some(path), _) => {
                replace(path, |file| write_archive(bundle, &names, tag, self.form, file, progress))
            }
        };
        progress.end();
        done
    }

    /// Loads `bundle` into the storage of a client.
    fn load(&self, loader: &Loader, bundle: &Bundle, progress: &dyn Progress) -> Result<()> {
        loader.check(bundle)?;
        self.note_platforms(bundle, progress);
        bundle.blobs.values().for_each(|blob| blob.source.prefetch());
        progress.begin("write", bundle.bytes());
        let names = [loader.name.clone()];
        let fill = |out: &mut dyn Write| {
            write_archive(bundle, &names, loader.tag(), self.form, out, progress)
        };
        let done = loader.load(bundle, fill);
        progress.end();
        done
    }

    /// Tells which platforms docker does not load.
    fn note_platforms(&self, bundle: &Bundle, progress: &dyn Progress) {
        if let (Form::Universal | Form::Docker, [first, _, ..]) =
            (self.form, listing::ordered(bundle).as_slice())
        {
            progress.note(&format!(
                "`docker load` without containerd's image store loads only {} of the platforms under \
                 this name; use --platform to write another one",
                first.platform
            ));
        }
    }
}

/// Writes blobs at once if they can be written one by one, as in a registry or a folder. They must be
/// among those of the bundle that is written at the end.
impl BlobSink for Destination {
    fn begin(&self) -> Option<Box<dyn BlobWriter>> {
        match (&self.writer, self.reference.path(), self.reference.transport) {
            (Writer::Files(early), Some(dir), Some(Transport::Oci | Transport::Dir)) => {
                early.begin(dir)
            }
            _ => None,
        }
    }

    fn add(&self, digest: Digest, source: &Source) {
        match (&self.writer, self.reference.path(), self.reference.transport) {
            (Writer::Registry(push), ..) => push.add(digest, source),
            (Writer::Files(early), Some(dir), Some(Transport::Oci)) => {
                early.add(dir, dir.join(blob_path(&digest)), digest, source);
            }
            (Writer::Files(early), Some(dir), Some(Transport::Dir)) => {
                early.add(dir, dir.join(digest.hex()), digest, source);
            }
            _ => {}
        }
    }
}

/// Checks that the client of an image is there.
fn begin_load(image: &DaemonImage, force: bool, inputs: &[&Reference]) -> Result<Loader> {
    let is = |input: &&Reference| input.location == ImageLocation::Daemon(image.clone());
    if !force && inputs.iter().any(is) {
        return Err(is_name_of_input());
    }
    Loader::new(image)
}

/// Returns whether an image in this format is a folder.
pub(super) fn is_folder(transport: Option<Transport>) -> bool {
    matches!(transport, Some(Transport::Oci | Transport::Dir))
}

/// Checks that an image can be written to standard output.
fn check_stdout(transport: Option<Transport>) -> Result<()> {
    if is_folder(transport) {
        return Err(Error::refused("a folder can't be written to standard output"));
    }
    if io::stdout().is_terminal() {
        return Err(Error::refused(
            "standard output is a terminal; redirect it or name a file with -o",
        ));
    }
    Ok(())
}

/// Begins a push to a registry that is reached and takes uploads.
fn begin_push(
    name: &Name,
    force: bool,
    inputs: &[&Reference],
    registries: &Registries,
    mounts: &[Name],
) -> Result<Push> {
    let read = inputs.iter().filter_map(|input| match &input.location {
        ImageLocation::Registry(name) => Some(name),
        _ => None,
    });
    // The tag of a previous image is there to be moved.
    if !force && inputs.first().is_some_and(|i| i.location == ImageLocation::Registry(name.clone()))
    {
        return Err(is_name_of_input());
    }
    let push = registries.push(name, mounts.iter().chain(read))?;
    push.check()?;
    Ok(push)
}

/// Checks that a file other than an image can be written.
///
/// # Errors
/// If it already exists and `force` is not set, if it is one of `inputs` or not a file, or if no file
/// can be created next to it.
pub fn check_file(path: &Path, force: bool, inputs: &[&Reference]) -> Result<()> {
    let place = || format!("writing {}", path.display());
    if inputs.iter().any(|i| is_part(path, i)) {
        return Err(is_input().context(place()));
    }
    match fs::metadata(path) {
        Ok(m) if m.is_file() => {}
        Ok(_) => {
            return Err(
                Error::refused("it already exists and is not a regular file").context(place())
            );
        }
        Err(_) => refuse_dangling(path).with_context(place)?,
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(Error::refused("it already exists; --force replaces it").context(place()));
    }
    check_folder(path).with_context(place)
}

/// Refuses a dangling symlink: writing would replace it.
fn refuse_dangling(path: &Path) -> Result<()> {
    const WHY: &str = "this is a dangling symlink; remove it, or name its target";
    if path.is_symlink() { Err(Error::refused(WHY)) } else { Ok(()) }
}

/// Returns whether `path` exists and is `input`, or is inside the layout or store that it names.
fn is_part(path: &Path, input: &Reference) -> bool {
    let Some((path, place)) = real(path).zip(input.path().and_then(real)) else {
        return false;
    };
    // The folder of a layout, but not of other formats, may have other files too.
    let is_layout = place.join("index.json").exists();
    let layout =
        || ["blobs", "index.json", "oci-layout"].iter().any(|f| path.starts_with(place.join(f)));
    path == place
        || if input.transport == Some(Transport::Store) || !is_layout {
            path.starts_with(&place)
        } else {
            layout()
        }
}

/// Returns a path without symlinks, if it exists.
fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

fn is_name_of_input() -> Error {
    Error::refused("this is the input, whose name would refer to the new image; --force does that")
}

fn is_input() -> Error {
    Error::refused("this is the input, which is never overwritten; name another output with -o")
}

/// Checks that a file can be created next to `path`.
fn check_folder(path: &Path) -> Result<()> {
    let dir = parent_folder(path);
    if !dir.exists() {
        return Err(Error::not_found(format!("the folder {} does not exist", dir.display())));
    }
    sweep(dir);
    TemporaryFile::new(dir).map(drop)
}

/// Writes a file other than an image, under a temporary name that is renamed at the end.
///
/// # Errors
/// Those of `fill` and of writing.
pub fn file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let fill = |file: &mut File| -> Result<()> {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        Ok(out.flush()?)
    };
    replace(path, fill).with_context(|| format!("writing {}", path.display()))
}

/// Writes an archive to `out`: the small documents first, so that a reader of a stream has them
/// early, then the blobs by digest. The layout in it names the image by `tag`, else by the tag of the
/// first of `names`.
///
/// # Errors
/// If a blob does not have its digest, or writing fails.
pub fn write_archive(
    bundle: &Bundle,
    names: &[String],
    tag: Option<&str>,
    form: Form,
    out: impl Write,
    progress: &dyn Progress,
) -> Result<()> {
    let mut tar = tar::Writer::new(out);
    let mut documents = Vec::new();
    if form != Form::Docker {
        documents.push(("oci-layout", LAYOUT.to_vec()));
        // Only one name: with several descriptors skopeo asks which image is meant, even if they are
        // the same. The other names are in manifest.json.
        let first = &names[..names.len().min(1)];
        let index = Index::new(listing::roots(bundle, first, tag)?);
        documents.push(("index.json", oci::to_json(&index)?));
    }
    if form == Form::Docker && bundle.listed.is_empty() {
        return Err(Error::unsupported(
            "a docker-archive can hold container images only, and this is not one; write oci:DIR or \
             oci-archive:FILE",
        ));
    }
    if form != Form::Oci && !bundle.listed.is_empty() {
        documents.push(("manifest.json", listing::docker(bundle, names)?));
    }
    for (path, bytes) in &documents {
        let mut w = tar.file(&metadata(path, bytes.len() as u64))?;
        w.write_all(bytes)?;
        w.finish()?;
    }
    for dir in ["blobs", "blobs/sha256"] {
        tar.entry(&tar::Metadata { kind: EntryKind::Dir, mode: 0o755, ..metadata(dir, 0) })?;
    }
    for (digest, blob) in &bundle.blobs {
        let path = blob_path(digest);
        let mut w = tar.file(&metadata(&path, blob.source.size()))?;
        blob.copy(digest, &mut w, progress)?;
        w.finish()?;
    }
    tar.finish()?.flush()?;
    Ok(())
}

const NO_XATTRS: &Xattrs = &Xattrs::new();

fn metadata(path: &str, size: u64) -> tar::Metadata<'_> {
    tar::Metadata {
        path: path.as_bytes(),
        kind: EntryKind::File { size, sparse: None },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        xattrs: NO_XATTRS,
    }
}
