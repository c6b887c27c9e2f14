//! Writing into an OCI layout folder, which may be new, hold other images, or have other writers.
//!
//! A writer locks the folder itself with flock(2), so no lock file is needed, and reads `index.json`
//! under the lock, so no image is lost that another writer adds. `oci-layout` is written first and
//! `index.json` last: a writer killed in between leaves a valid layout and blobs that the next
//! writer reuses.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

use super::bundle::{Blob, Bundle};
use super::early::{EarlyBlobs, Written};
use super::files::blob_path;
use super::layout::LAYOUT;
use super::listing::{self, Guard};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::temporary::{
    ATTEMPTS, Rollback, TemporaryFile, is_at, is_temporary, replace, sweep, sync_folder,
};
use crate::model::content::{DiskFile, SourceReader};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::{self, REF_NAME};

/// Returns the names of the files in a folder.
pub(super) fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Checks that a folder is an OCI layout or empty.
pub(super) fn check(dir: &Path) -> Result<()> {
    let names = names(dir)?;
    // Another writer may be about to create a layout.
    if names.iter().any(|name| name == "oci-layout") || names.iter().all(|name| is_temporary(name))
    {
        return Ok(());
    }
    Err(Error::refused("the folder already exists and is not an OCI layout"))
}

/// Writes `bundle`, of which some blobs are written already, into the folder `dir`, under `tag` or else
/// under `names`.
pub(super) fn write(
    dir: &Path,
    (bundle, early): (&Bundle, &EarlyBlobs),
    names: &[String],
    tag: Option<&str>,
    guard: &Guard,
    progress: &dyn Progress,
) -> Result<()> {
    let _lock = open(dir, progress)?;
    // Declared after the lock: on failure, what was added is removed before the lock is released.
    let added = Rollback::new();
    check(dir)?;
    sweep(dir);
    let index = dir.join("index.json");
    added.unless_replaced(&index);
    let mut root = listing::read(dir)?;
    let new = listing::roots(bundle, names, tag)?;
    let tags: Vec<_> = new.iter().filter_map(|d| d.annotation(REF_NAME)).collect();
    guard.check(&root, &tags)?;
    let layout = dir.join("oci-layout");
    if !layout.exists() {
        added.file(&layout);
        replace(&layout, |file| Ok(file.write_all(LAYOUT)?))?;
    }
    let blobs = dir.join("blobs/sha256");
    added.folders(&blobs).with_context(|| format!("creating {}", blobs.display()))?;
    let mut written = early.finish();
    for (digest, blob) in &bundle.blobs {
        write_blob(dir, &blob_path(digest), (digest, blob), &mut written, &added, progress)?;
    }
    for folder in [&blobs, &dir.join("blobs")] {
        sync_folder(folder)?;
    }
    listing::add(&mut root, &new)?;
    let mut file = TemporaryFile::new(dir)?;
    file.file().write_all(&oci::to_json(&root)?)?;
    file.persist(&index, Some(&added))?;
    sync_folder(dir)
}

/// Creates the folder if it does not exist, and waits until no one else writes into it. It stays if
/// writing fails: other tools take no lock, and one may be about to write into it.
pub(super) fn open(dir: &Path, progress: &dyn Progress) -> Result<File> {
    let place = || format!("opening the folder {}", dir.display());
    for _ in 0..ATTEMPTS {
        let folder = match fs::create_dir_all(dir).and_then(|()| File::open(dir)) {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).with_context(place),
        };
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress
                    .note(&format!("waiting for another process that writes to {}", dir.display()));
                folder.lock().with_context(|| format!("locking the folder {}", dir.display()))?;
            }
            // Network file systems without locks.
            Err(TryLockError::Error(e)) => progress.note(&format!(
                "{} can't be locked ({e}); make sure that nothing else writes to it now",
                dir.display()
            )),
        }
        // It may have been removed in between, and created again by another writer.
        if is_at(&folder, dir).with_context(place)? {
            return Ok(folder);
        }
    }
    Err(Error::refused("another process keeps removing it").context(place()))
}

/// Writes a blob under a name in the folder `dir` unless it exists and is intact. If it is among those
/// that are `written`, it only gets its name.
pub(super) fn write_blob(
    dir: &Path,
    name: &str,
    (digest, blob): (&Digest, &Blob),
    written: &mut Written,
    added: &Rollback,
    progress: &dyn Progress,
) -> Result<()> {
    let path = dir.join(name);
    let exists = path.symlink_metadata().is_ok();
    if exists && is_intact(&path, digest, blob.source.size()) {
        progress.advance(blob.source.size());
        return Ok(());
    }
    let file = if let Some(file) = written.remove(digest) {
        progress.advance(blob.source.size());
        file
    } else {
        let mut file = TemporaryFile::new(dir)?;
        blob.copy(digest, file.file(), progress)?;
        file
    };
    // A blob that replaces a damaged one stays even if writing this image fails: other images need it.
    if !exists {
        added.file(&path);
    }
    file.persist(&path, None)
}

/// Returns whether a file has the digest that its name states: its writer may have been killed.
fn is_intact(path: &Path, digest: &Digest, size: u64) -> bool {
    let fits = |m: fs::Metadata| m.is_file() && m.len() == size;
    if !fs::metadata(path).is_ok_and(fits) {
        return false;
    }
    // A blob that can't be read is replaced too.
    let Ok(source) = File::open(path).map_err(Error::from).and_then(DiskFile::new) else {
        return false;
    };
    let mut reader = Hashing::new(SourceReader::all(&source));
    io::copy(&mut reader, &mut io::sink()).is_ok() && reader.finish().1 == *digest
}
