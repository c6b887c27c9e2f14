//! Reading what a [`Reference`] names into images whose documents are verified and whose layers
//! are at hand, unread.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::{Arc, OnceLock};

use super::archive::Archive;
use super::files::{Files, Folder, document};
use super::{Reference, Transport, docker_archive, is_image_name, layout, name};
use crate::codec;
use crate::content::{Budget, DiskFile, Source, SourceReader, SpoolWriter};
use crate::digest::{Digest, Hashing};
use crate::error::{Context, Error, Result};
use crate::oci::{Annotations, Config, Descriptor, Index, Platform};

/// A layer of an image that was opened: its bytes are neither read nor verified yet.
#[derive(Clone)]
pub struct LayerBlob {
    /// What messages call it: `layer 3 (sha256:…)`.
    pub name: String,
    /// As the manifest states it; told from the first bytes where there is no manifest.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The bytes, perhaps compressed.
    pub source: Source,
    digest: BlobDigest,
}

/// What is known of the digest of a blob. It is never taken to be the diff ID: many tools put
/// compressed layers into docker-archives.
#[derive(Clone)]
enum BlobDigest {
    /// A document states it. Whoever reads the blob verifies it.
    Stated(Digest),
    /// It comes from the bytes, once somebody has read them, of which there may be as many as this
    /// uncompressed.
    Found(Arc<OnceLock<Digest>>, u64),
}

impl LayerBlob {
    /// A layer that a manifest describes.
    pub fn described(name: String, layer: &Descriptor, diff_id: Digest, source: Source) -> Self {
        let (digest, media_type) = (BlobDigest::Stated(layer.digest), layer.media_type.clone());
        Self { name, media_type, diff_id, source, digest }
    }

    /// A layer of which only the diff ID is known. It may unfold to `max_size` bytes.
    ///
    /// # Errors
    /// When it is compressed in a way that layers must not be, or can't be read.
    pub fn undescribed(
        name: String,
        diff_id: Digest,
        source: Source,
        max_size: u64,
    ) -> Result<Self> {
        let format = codec::Format::of(source.as_ref()).context(|| name.clone())?;
        let digest = match format {
            codec::Format::Plain => BlobDigest::Stated(diff_id),
            _ => BlobDigest::Found(Arc::default(), max_size),
        };
        Ok(Self { name, media_type: format.media_type().into(), diff_id, source, digest })
    }

    /// Digest of the bytes as they lie there. Unless a document states it or it has been found
    /// before, they are read and must have the diff ID.
    pub fn digest(&self) -> Result<Digest> {
        match &self.digest {
            BlobDigest::Stated(digest) => Ok(*digest),
            BlobDigest::Found(found, max_size) => match found.get() {
                Some(digest) => Ok(*digest),
                None => self.read(*max_size).context(|| self.name.clone()),
            },
        }
    }

    fn read(&self, max_size: u64) -> Result<Digest> {
        let mut raw = Hashing::new(SourceReader::all(self.source.as_ref()));
        let (_, decoder) = codec::decode(&mut raw)?;
        let mut plain = Hashing::new(decoder).take(max_size.saturating_add(1));
        io::copy(&mut plain, &mut io::sink())?;
        let (decoder, diff_id, bytes) = plain.into_inner().finish();
        drop(decoder);
        if bytes > max_size {
            return Err(Error::limit(format!(
                "it unfolds to more than {max_size} bytes; --max-size allows more"
            )));
        }
        self.verify(raw.finish().1, diff_id)
    }

    /// Compares the digests of bytes that were read with those that are stated, and remembers the
    /// first.
    ///
    /// # Errors
    /// When they differ.
    pub(crate) fn verify(&self, digest: Digest, diff_id: Digest) -> Result<Digest> {
        if diff_id != self.diff_id {
            return Err(Error::mismatch(format!(
                "the uncompressed layer has digest {diff_id}, but the config states diff ID {}; \
                 the image is damaged, make or fetch it again",
                self.diff_id
            )));
        }
        let stated = match &self.digest {
            BlobDigest::Stated(digest) => digest,
            BlobDigest::Found(found, _) => found.get_or_init(|| digest),
        };
        if *stated != digest {
            return Err(Error::mismatch(format!(
                "the bytes have digest {digest}, not {stated}; the image is damaged, make or \
                 fetch it again"
            )));
        }
        Ok(digest)
    }
}

/// One image for one platform.
#[derive(Clone)]
pub struct Image {
    /// The manifest's bytes; `None` in a docker-archive, which has none.
    pub manifest: Option<Vec<u8>>,
    /// The manifest's annotations.
    pub annotations: Annotations,
    /// The descriptor's annotations in the index that named the image.
    pub descriptor_annotations: Annotations,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// The config.
    pub config: Config,
    /// From the index where it says, else from the config.
    pub platform: Platform,
    /// Lowest first; as many as the config has diff IDs.
    pub layers: Vec<LayerBlob>,
}

impl Image {
    /// What its descriptor says in an index of several images: all but the names, which are the
    /// whole index's.
    pub fn index_annotations(&self) -> Option<Annotations> {
        let mut annotations = self.descriptor_annotations.clone();
        annotations.remove(name::REF_NAME);
        annotations.remove(name::CONTAINERD_NAME);
        (!annotations.is_empty()).then_some(annotations)
    }
}

/// Everything that a reference names.
pub struct Opened {
    /// One image a platform; at least one.
    pub images: Vec<Image>,
    /// The image index that holds them; `None` when the reference names one image.
    pub index: Option<Index>,
    /// The names it has there: `repository:tag`, or bare tags in some layouts.
    pub names: Vec<String>,
    /// How it was stored.
    pub transport: Transport,
    /// What a user should know: attestations left out, for example.
    pub notes: Vec<String>,
}

/// Opens what `reference` names. Archives that come through a pipe or are compressed go to a
/// spool on `budget`, at most `max_size` bytes of them. Only images that `platform` matches are
/// kept, when it is given.
pub fn open(
    reference: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    max_size: u64,
) -> Result<Opened> {
    let opened = open_any(reference, platform, budget, max_size);
    opened.and_then(|opened| opened.only(platform)).context(|| format!("reading {reference}"))
}

impl Opened {
    /// Keeps the images that `platform` matches, when it is given.
    pub fn only(mut self, platform: Option<&Platform>) -> Result<Self> {
        let Some(wanted) = platform else { return Ok(self) };
        let found: Vec<_> = self.images.iter().map(|i| i.platform.to_string()).collect();
        self.images.retain(|i| i.platform.matches(wanted));
        if self.images.is_empty() {
            return Err(Error::not_found(format!(
                "no image for platform {wanted}; there is {}",
                found.join(", ")
            )));
        }
        // One platform was asked for: what comes out is that image, and no index.
        if self.images.len() == 1 {
            self.index = None;
        }
        Ok(self)
    }
}

fn open_any(
    reference: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    max_size: u64,
) -> Result<Opened> {
    let tag = reference.tag.as_deref();
    let source: Source = match &reference.path {
        None => stdin(budget, max_size)?,
        Some(_) if reference.transport == Some(Transport::Store) => {
            return Err(Error::unsupported("a store is read by the command line only"));
        }
        Some(path) => {
            let file = File::open(path).map_err(|e| missing(e, reference))?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                if !matches!(reference.transport, None | Some(Transport::Oci)) {
                    return Err(Error::malformed("this is a folder and no archive"));
                }
                let folder = Folder(path.clone());
                check_layout(&folder, &path.display().to_string())?;
                return layout::open(&folder, tag, platform, Transport::Oci);
            }
            if reference.transport == Some(Transport::Oci) {
                return Err(Error::malformed(
                    "this is a file and no OCI layout folder; did you mean oci-archive: ?",
                ));
            }
            if metadata.is_file() {
                Arc::new(DiskFile::new(file)?)
            } else {
                spool(file, budget, max_size)?
            }
        }
    };
    open_archive(source, reference.transport, tag, platform, budget, max_size)
}

/// Opens an image archive that can be read at any offset, compressed or not.
pub fn open_archive(
    source: Source,
    transport: Option<Transport>,
    tag: Option<&str>,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    max_size: u64,
) -> Result<Opened> {
    let plain = codec::decode_archive(source.as_ref())?
        .map(|(format, plain)| {
            spool(plain, budget, max_size).context(|| format!("decompressing the {format} archive"))
        })
        .transpose()?;
    let source = plain.unwrap_or(source);
    let archive = Archive::open(source)?;
    let (has_layout, has_docker) =
        (archive.get("index.json")?.is_some(), archive.get("manifest.json")?.is_some());
    match transport {
        Some(Transport::DockerArchive) => docker_archive::open(&archive, tag, max_size),
        Some(_) => layout::open(&archive, tag, platform, Transport::OciArchive),
        None if has_layout && !(has_docker && layout::is_hollow(&archive)) => {
            layout::open(&archive, tag, platform, Transport::OciArchive)
        }
        None if has_docker => docker_archive::open(&archive, tag, max_size),
        None => {
            let names: Vec<_> = archive.names().take(4).collect();
            Err(Error::malformed(format!(
                "neither manifest.json nor index.json in the archive, so it is no image; it \
                 begins with {}; `docker save` and `skopeo copy` write image archives",
                if names.is_empty() { "nothing".into() } else { names.join(", ") }
            )))
        }
    }
}

/// Tells who names a folder that another tool wrote how to make an archive of it.
fn check_layout(folder: &Folder, path: &str) -> Result<()> {
    if folder.get("index.json")?.is_some() {
        return Ok(());
    }
    let Some(bytes) = document(folder, "manifest.json")? else { return Ok(()) };
    let what = match bytes.trim_ascii_start().first() {
        Some(b'[') => format!(
            "this is what `docker save` writes, unpacked; pack it again: `tar -C {path} -cf \
             img.tar .`"
        ),
        _ => format!(
            "this is a folder that skopeo calls dir: and no OCI layout; write an archive: `skopeo \
             copy dir:{path} oci-archive:img.tar`"
        ),
    };
    Err(Error::unsupported(what))
}

/// Tells who gives an image's name for a file's how to come by a file.
fn missing(e: io::Error, reference: &Reference) -> Error {
    let name = reference.to_string();
    // A name with these ends is meant for a file.
    let file = [".tar", ".gz", ".tgz", ".zst", ".oci"].iter().any(|end| name.ends_with(end));
    if e.kind() != io::ErrorKind::NotFound
        || reference.transport.is_some()
        || file
        || !is_image_name(&name)
    {
        return e.into();
    }
    Error::not_found(format!(
        "there is no such file or folder; if it is the name of an image, write that to a file \
         first: `docker save {name} -o img.tar` or `skopeo copy docker://{name} \
         oci-archive:img.tar`"
    ))
}

/// Everything from standard input, to be read at any offset.
pub(crate) fn stdin(budget: &Arc<Budget>, max_size: u64) -> Result<Source> {
    if io::stdin().is_terminal() {
        return Err(Error::refused("standard input is a terminal; pipe something in"));
    }
    spool(io::stdin().lock(), budget, max_size)
}

/// Everything from `reader`, to be read at any offset.
fn spool(mut reader: impl Read, budget: &Arc<Budget>, max_size: u64) -> Result<Source> {
    let mut writer = SpoolWriter::new(budget);
    let mut buf = vec![0; 1 << 18];
    loop {
        let n = match reader.read(&mut buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            n => n?,
        };
        if n == 0 {
            return Ok(Arc::new(writer.finish()?));
        }
        if writer.size() + n as u64 > max_size {
            return Err(Error::limit(format!(
                "it is larger than {max_size} bytes; --max-size allows more"
            )));
        }
        writer.write_all(&buf[..n])?;
    }
}
