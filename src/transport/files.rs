//! Named files, in a folder or in an archive: all that reading a layout or a docker-archive needs.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::content::{DiskFile, Source, SourceReader};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::oci::{Descriptor, MAX_DOCUMENT};

/// Files by name, with `/` between the parts.
pub trait Files {
    /// The file of this name; `None` when there is none.
    fn get(&self, name: &str) -> Result<Option<Source>>;
}

/// The files of a folder.
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        let path = self.0.join(name);
        let place = || format!("opening {}", path.display());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context(place),
        };
        if !fs::metadata(&path).context(place)?.is_file() {
            return Err(Error::malformed("not a regular file").context(place()));
        }
        Ok(Some(Arc::new(DiskFile::new(file).context(place)?)))
    }
}

/// Where a layout keeps a blob.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document by its file name.
pub(crate) fn document(files: &dyn Files, name: &str) -> Result<Option<Vec<u8>>> {
    files.get(name)?.map(|source| read_document(&source).context(|| name)).transpose()
}

/// A document by its descriptor, with its size and digest verified.
pub(crate) fn document_blob(files: &dyn Files, d: &Descriptor) -> Result<Vec<u8>> {
    let source = blob(files, d)?;
    let bytes = read_document(&source)?;
    let found = Digest::of(&bytes);
    if found != d.digest {
        return Err(Error::mismatch(format!(
            "the bytes have digest {found}; the archive is damaged, make or fetch it again"
        )));
    }
    Ok(bytes)
}

/// A blob by its descriptor; the size is verified, the digest is for whoever reads it.
pub(crate) fn blob(files: &dyn Files, d: &Descriptor) -> Result<Source> {
    let source = files.get(&blob_path(&d.digest))?.ok_or_else(|| {
        Error::not_found("the blob is missing; the image was saved or copied only in part")
    })?;
    if source.size() != d.size {
        return Err(Error::mismatch(format!(
            "the descriptor states {} bytes, the blob has {}; the archive is damaged, make or \
             fetch it again",
            d.size,
            source.size()
        )));
    }
    Ok(source)
}

fn read_document(source: &Source) -> Result<Vec<u8>> {
    if source.size() > MAX_DOCUMENT {
        return Err(Error::limit(format!(
            "a document of {} bytes is larger than the limit of {MAX_DOCUMENT}",
            source.size()
        )));
    }
    let mut bytes = Vec::with_capacity(source.size() as usize);
    SourceReader::all(source.as_ref()).read_to_end(&mut bytes)?;
    Ok(bytes)
}
