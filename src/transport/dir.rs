//! Folders in the `dir:` format of skopeo: the manifest as `manifest.json`, and all other blobs beside it
//! under the hex digits of their digests. The manifests that an index lists have `.manifest.json` after
//! the digits ([directory_transport.go](https://github.com/containers/image/blob/main/directory/directory_transport.go)).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::bundle::Bundle;
use super::early::EarlyBlobs;
use super::files::{Documents, Files, Folder, document, document_blob};
use super::folder::{names, open, write_blob};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::temporary::{Rollback, TemporaryFile, is_temporary, replace, sweep, sync_folder};
use crate::model::content::Source;
use crate::model::oci::{self, Descriptor, Index, media_type};

const MANIFEST: &str = "manifest.json";

/// The version that skopeo 0.1.27 and later write.
const VERSION: &[u8] = b"Directory Transport Version: 1.1\n";

/// What a version begins with.
const ANY_VERSION: &[u8] = b"Directory Transport Version: ";

/// A folder as an image whose index names only the manifest.
pub(super) struct Dir {
    folder: Folder,
    root: Descriptor,
}

impl Dir {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// If there is none, or it is not valid.
    pub(super) fn open(folder: Folder) -> Result<Self> {
        let bytes = document(&folder, MANIFEST)?.ok_or_else(|| {
            Error::not_found("there is no manifest.json, so this is not a folder of skopeo's dir:")
        })?;
        let root =
            Descriptor::of(&oci::media_type_of(&bytes, None).with_context(|| MANIFEST)?, &bytes);
        Ok(Self { folder, root })
    }
}

impl Files for Dir {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        if name != "index.json" {
            return Ok(None);
        }
        Ok(Some(Arc::new(oci::to_json(&Index::new(vec![self.root.clone()]))?)))
    }

    fn get_blob(&self, d: &Descriptor) -> Result<Option<Source>> {
        self.folder.get(&file_name(d, &self.root))
    }

    fn documents(&self) -> Option<&Documents> {
        self.folder.documents()
    }
}

/// Returns the name of a blob's file.
fn file_name(d: &Descriptor, root: &Descriptor) -> String {
    let is_document = media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type);
    match (d.digest == root.digest, is_document) {
        (true, _) => MANIFEST.to_owned(),
        (false, true) => format!("{}.{MANIFEST}", d.digest.hex()),
        (false, false) => d.digest.hex(),
    }
}

/// Checks that a folder can be written to: it is empty, or has this format and `force` is set.
pub(super) fn check(dir: &Path, force: bool) -> Result<()> {
    let names = names(dir)?;
    // Another writer may be about to create one.
    if names.iter().all(|name| is_temporary(name)) {
        return Ok(());
    }
    let version = document(&Folder::new(dir.to_owned()), "version")?;
    if !version.is_some_and(|version| version.starts_with(ANY_VERSION)) {
        return Err(Error::refused(
            "the folder already exists and is not one that `skopeo copy` to dir: wrote",
        ));
    }
    if names.iter().any(|name| name == MANIFEST) && !force {
        return Err(Error::refused("it already exists; --force replaces it"));
    }
    Ok(())
}

/// Writes `bundle`, of which some blobs are written already, into the folder `dir`. An image that is there
/// stays complete until the new one is.
pub(super) fn write(
    dir: &Path,
    (bundle, early): (&Bundle, &EarlyBlobs),
    force: bool,
    progress: &dyn Progress,
) -> Result<()> {
    let root =
        bundle.root.as_ref().ok_or_else(|| Error::malformed("there is no image to write"))?;
    let _lock = open(dir, progress)?;
    // Declared after the lock: on failure, what was added is removed before the lock is released.
    let added = Rollback::new();
    check(dir, force)?;
    sweep(dir);
    let manifest = dir.join(MANIFEST);
    added.unless_replaced(&manifest);
    let version = dir.join("version");
    if !version.exists() {
        added.file(&version);
    }
    replace(&version, |file| Ok(file.write_all(VERSION)?))?;
    let documents = bundle.manifests()?;
    let mut names = BTreeSet::from([MANIFEST.to_owned(), "version".to_owned()]);
    let mut written = early.finish();
    for (digest, blob) in bundle.blobs.iter().filter(|(digest, _)| **digest != root.digest) {
        let document = documents.iter().find(|d| d.digest == *digest);
        let name = document.map_or_else(|| digest.hex(), |d| file_name(d, root));
        write_blob(dir, &name, (digest, blob), &mut written, &added, progress)?;
        names.insert(name);
    }
    let mut file = TemporaryFile::new(dir)?;
    file.file().write_all(&document_blob(bundle, root)?)?;
    progress.advance(root.size);
    file.persist(&manifest, Some(&added))?;
    sync_folder(dir)?;
    remove_others(dir, &names);
    sync_folder(dir)
}

/// Removes the files of the image that was replaced. Files of other names stay.
fn remove_others(dir: &Path, keep: &BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let is_hex = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (first, rest) = name.split_once('.').unwrap_or((&name, ""));
        let is_signature = |s: &str| {
            let number = s.strip_prefix("signature-");
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let ours = is_signature(&name)
            || is_hex(first) && (matches!(rest, "" | MANIFEST) || is_signature(rest));
        if ours && !keep.contains(&name) {
            // If one stays, the image is still complete.
            let _ = fs::remove_file(entry.path());
        }
    }
}
