//! Named files in a folder or an archive: what reading a layout or a docker-archive needs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_ALL_DOCUMENT_BYTES, MAX_DOCUMENT_BYTES, MAX_DOCUMENTS, MAX_VALUES};
use crate::model::content::{DiskFile, Source, SourceReader};
use crate::model::digest::Digest;
use crate::model::oci::Descriptor;

/// Files by name, with `/` as the separator.
pub trait Files {
    /// Returns the file of this name; `None` if it does not exist.
    ///
    /// # Errors
    /// If it can't be opened.
    fn get(&self, name: &str) -> Result<Option<Source>>;

    /// Returns the blob that a descriptor refers to; `None` if it does not exist.
    ///
    /// # Errors
    /// If it can't be opened.
    fn get_blob(&self, d: &Descriptor) -> Result<Option<Source>> {
        self.get(&blob_path(&d.digest))
    }

    /// Returns the counts of the documents read so far; `None` if they need no limit.
    fn documents(&self) -> Option<&Documents> {
        None
    }
}

/// Files in a folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    documents: Documents,
}

impl Folder {
    /// Returns the files of the folder `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, documents: Documents::default() }
    }
}

impl Files for Folder {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        match open_regular(&self.path.join(name)) {
            Ok(file) => Ok(Some(Arc::new(DiskFile::new(file)?))),
            Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn documents(&self) -> Option<&Documents> {
        Some(&self.documents)
    }
}

/// Opens a regular file. Pipes and devices are not even opened: that could block forever or have side
/// effects.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let place = || format!("opening {}", path.display());
    let regular = |m: &fs::Metadata| {
        let no = || Error::malformed("this is not a regular file").context(place());
        if m.is_file() { Ok(()) } else { Err(no()) }
    };
    regular(&fs::metadata(path).with_context(place)?)?;
    // In case the path has changed in the meantime.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).with_context(place)?;
    regular(&file.metadata().with_context(place)?)?;
    Ok(file)
}

/// Counts of the documents read so far for one image, which may refer to one another again and again.
#[derive(Debug, Default)]
pub struct Documents {
    count: AtomicU64,
    bytes: AtomicU64,
    values: AtomicU64,
}

impl Documents {
    /// Begins to count anew, for another image.
    pub(super) fn reset(&self) {
        for sum in [&self.count, &self.bytes, &self.values] {
            sum.store(0, Ordering::Relaxed);
        }
    }

    fn add(&self, document: &[u8]) -> Result<()> {
        let add = |sum: &AtomicU64, n, most, what| {
            if sum.fetch_add(n, Ordering::Relaxed) + n <= most {
                return Ok(());
            }
            Err(Error::limit(format!(
                "indexes, manifests and configs add up to more than {most} {what}, counting each as \
                 often as another refers to it"
            )))
        };
        add(&self.count, 1, MAX_DOCUMENTS, "documents")?;
        add(&self.bytes, document.len() as u64, MAX_ALL_DOCUMENT_BYTES, "bytes")?;
        add(&self.values, values(document), MAX_VALUES, "JSON values")
    }
}

/// Estimates the number of values in a JSON document, each of which takes far more memory than its
/// text.
fn values(json: &[u8]) -> u64 {
    let (mut count, mut string, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            b',' | b'[' | b'{' if !string => count += 1,
            _ => {}
        }
    }
    count
}

/// Returns the path of a blob in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Reads a document by its file name.
pub(crate) fn document(files: &dyn Files, name: &str) -> Result<Option<Vec<u8>>> {
    files.get(name)?.map(|source| read_document(files, &source).with_context(|| name)).transpose()
}

/// Reads a document by its descriptor and verifies its size and digest.
pub(crate) fn document_blob(files: &dyn Files, d: &Descriptor) -> Result<Vec<u8>> {
    let source = blob(files, d)?;
    let bytes = read_document(files, &source)?;
    let found = Digest::of(&bytes);
    if found != d.digest {
        return Err(Error::mismatch(format!(
            "the bytes have digest {found}; the archive is damaged; rebuild or download it again"
        )));
    }
    Ok(bytes)
}

/// Opens a blob by its descriptor and verifies its size. The reader must verify the digest.
pub(crate) fn blob(files: &dyn Files, d: &Descriptor) -> Result<Source> {
    let source = files.get_blob(d)?.ok_or_else(|| {
        Error::not_found("the blob is missing; the image was saved or copied incompletely")
    })?;
    if source.size() != d.size {
        return Err(Error::mismatch(format!(
            "the descriptor states {} bytes, the blob has {}; the archive is damaged; rebuild or \
             download it again",
            d.size,
            source.size()
        )));
    }
    Ok(source)
}

fn read_document(files: &dyn Files, source: &Source) -> Result<Vec<u8>> {
    if source.size() > MAX_DOCUMENT_BYTES {
        return Err(Error::limit(format!(
            "a document of {} bytes is larger than the limit of {MAX_DOCUMENT_BYTES}",
            source.size()
        )));
    }
    let mut bytes = Vec::with_capacity(source.size() as usize);
    SourceReader::all(source.as_ref()).read_to_end(&mut bytes)?;
    files.documents().map_or(Ok(()), |read| read.add(&bytes))?;
    Ok(bytes)
}
