//! Archives that were unpacked into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::archive::clean;
use super::files::{Documents, Files, Folder};
use crate::base::error::{Context, Error, Result};
use crate::model::content::Source;

/// The folder of an unpacked archive. Its documents state the names of its files, so a name and the
/// symlinks that it leads through must stay inside the folder.
pub(super) struct Unpacked {
    folder: Folder,
    path: PathBuf,
}

impl Unpacked {
    /// Returns the files of the folder `path`.
    ///
    /// # Errors
    /// If it does not exist.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)?;
        Ok(Self { folder: Folder::new(path.clone()), path })
    }
}

impl Files for Unpacked {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        let clean = clean(name.as_bytes(), b"");
        let Ok(clean) = String::from_utf8(clean) else { return Ok(None) };
        let real = match fs::canonicalize(self.path.join(&clean)) {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("opening {name}")),
        };
        if !real.starts_with(&self.path) {
            return Err(Error::malformed(format!("{name}: a symlink leads out of the folder")));
        }
        self.folder.get(&clean)
    }

    fn documents(&self) -> Option<&Documents> {
        self.folder.documents()
    }
}
