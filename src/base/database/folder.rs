//! The folder of a database: its format file and the lock of its writer.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Schema, damaged};
use crate::base::error::{Context, Error, Result};
use crate::base::temporary::{ATTEMPTS, is_at};

/// Version of the format of all databases.
const VERSION: &str = "2";
/// File that identifies a database; a writer locks it.
const FORMAT: &str = "format";
/// Folder of RocksDB's files.
pub(super) const INDEX: &str = "index";
/// The same while it is rebuilt.
pub(super) const NEW_INDEX: &str = "index.new";

/// Removes the files of a new database on drop, unless something was written to it.
#[derive(Default)]
pub(super) struct NewFolderGuard(Mutex<Option<NewFolder>>);

pub(super) struct NewFolder {
    dir: PathBuf,
    /// Whether the folder existed before, so that it is to stay.
    existed: bool,
}

impl NewFolderGuard {
    /// Keeps the files.
    pub(super) fn disarm(&self) -> Option<NewFolder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for NewFolderGuard {
    fn drop(&mut self) {
        if let Some(NewFolder { dir, existed }) = self.disarm() {
            // It was empty, so everything in it belongs to this database. The locked file is removed
            // last: from then on another process may use the folder.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name() != FORMAT && fs::remove_dir_all(&path).is_err() {
                    let _ = fs::remove_file(&path);
                }
            }
            let _ = fs::remove_file(dir.join(FORMAT));
            if !existed {
                let _ = fs::remove_dir(&dir);
            }
        }
    }
}

/// Locks a folder for writing, and makes it a database if it is empty or does not exist.
pub(super) fn lock(schema: &Schema, dir: &Path) -> Result<(File, NewFolderGuard)> {
    let existed = dir.try_exists()?;
    if !exists(schema, dir)? {
        refuse_others(schema, dir)?;
    }
    let file = lock_only(dir)?;
    // The previous owner of the lock may have created one, or removed it.
    if exists(schema, dir)? {
        return Ok((file, NewFolderGuard::default()));
    }
    refuse_others(schema, dir)?;
    write_format(schema, dir)?;
    Ok((file, NewFolderGuard(Mutex::new(Some(NewFolder { dir: dir.to_owned(), existed })))))
}

/// Locks a folder, which is created if it does not exist.
pub(super) fn lock_only(dir: &Path) -> Result<File> {
    let path = dir.join(FORMAT);
    for _ in 0..ATTEMPTS {
        match fs::create_dir_all(dir) {
            // Another process removed it while it was looked at.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !dir.exists() => continue,
            created => created.with_context(|| format!("creating {}", dir.display()))?,
        }
        let file = match File::options().append(true).create(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file.with_context(|| format!("opening {}", path.display()))?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path)? => return Ok(file),
            // The previous owner of the lock failed and removed the file.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let busy = "another relayer process is writing to it; try again when it has ended";
                return Err(Error::refused(busy));
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| "locking it"),
        }
    }
    Err(Error::refused("another process keeps removing it"))
}

/// Refuses a folder with other files. An empty `format` belongs to a process that is about to create a
/// database, or that was killed before it did.
fn refuse_others(schema: &Schema, dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        // The process that was about to create a database failed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let begun = entry.file_name() == FORMAT
            && fs::metadata(entry.path()).is_ok_and(|m| m.is_file() && m.len() == 0);
        // Another process may have created a database just now.
        if !begun && !exists(schema, dir)? {
            return Err(Error::refused(format!(
                "the folder holds other files and no {0}; to create a {0}, name an empty folder \
                 or one that does not exist",
                schema.name
            )));
        }
    }
    Ok(())
}

/// Returns the content of the format file. A checksum tells damage from another version.
fn format(name: &str, version: &str) -> String {
    let text = format!("relayer {name} {version}");
    let sum = blake3::hash(text.as_bytes()).to_hex();
    format!("{text} {}\n", &sum[..16])
}

pub(super) fn write_format(schema: &Schema, dir: &Path) -> Result<()> {
    let mut file = File::create(dir.join(FORMAT))?;
    file.write_all(format(schema.name, VERSION).as_bytes())?;
    Ok(file.sync_all()?)
}

/// Returns whether a folder holds a database of this schema; an error if it holds another.
pub(super) fn exists(schema: &Schema, dir: &Path) -> Result<bool> {
    let found = match fs::read(dir.join(FORMAT)) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if dir.join("CURRENT").try_exists()? {
                return Err(other_version(schema));
            }
            if dir.join(INDEX).join("CURRENT").try_exists()? {
                return Err(damaged(schema, &format!("its file {FORMAT} is missing")));
            }
            return Ok(false);
        }
        Err(e) => return Err(e.into()),
    };
    let found = String::from_utf8_lossy(&found);
    let words: Vec<&str> = found.split_whitespace().collect();
    match words[..] {
        ["relayer", name, version, _] if format(name, version) == found => {
            match (name == schema.name, version == VERSION) {
                (true, true) => Ok(true),
                (true, false) => Err(other_version(schema)),
                (false, _) => Err(Error::refused(format!(
                    "this is a {name}, not a {}; `relayer {name}` reads it",
                    schema.name
                ))),
            }
        }
        _ if dir.join(INDEX).try_exists()? => {
            Err(damaged(schema, &format!("its file {FORMAT} is not valid")))
        }
        _ => Ok(false),
    }
}

fn other_version(schema: &Schema) -> Error {
    Error::unsupported(format!(
        "the {} was written by another version of relayer; delete its folder and add the images \
         again",
        schema.name
    ))
}

/// Returns whether anything was ever written to a database. A process that was killed while it created
/// one leaves an index without tables, or no index.
pub(super) fn has_data(dir: &Path) -> Result<bool> {
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        if name != FORMAT && name != INDEX && name != NEW_INDEX {
            return Ok(true);
        }
    }
    let index = match fs::read_dir(dir.join(INDEX)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        files => files?,
    };
    for file in index {
        if file?.path().extension().is_some_and(|e| e == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that RocksDB's files exist.
pub(super) fn check_index(schema: &Schema, index: &Path) -> Result<()> {
    let exists = index.join("CURRENT").try_exists()?;
    if exists { Ok(()) } else { Err(damaged(schema, &format!("{INDEX}/CURRENT is missing"))) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SCHEMA: Schema =
        Schema { name: "store", created_by: "", repair_hint: "", tables: &["state"] };

    #[test]
    fn one_holds_the_lock_whoever_fails_and_removes_the_folder() {
        let above = tempfile::tempdir().unwrap();
        for existed in [false, true] {
            let dir = above.path().join(format!("{existed}"));
            if existed {
                fs::create_dir(&dir).unwrap();
            }
            let (holders, locked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..300 {
                            let (file, guard) = match lock(&SCHEMA, &dir) {
                                Ok(lock) => lock,
                                Err(e) => {
                                    assert!(e.to_string().contains("another relayer"), "{e}");
                                    continue;
                                }
                            };
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            assert!(exists(&SCHEMA, &dir).unwrap());
                            fs::create_dir(dir.join(INDEX)).unwrap();
                            locked.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            // In the order of a database that nothing was written to.
                            drop(guard);
                            drop(file);
                        }
                    });
                }
            });
            assert!(locked.into_inner() > 8);
            // Who comes while it is there leaves it, as if it had always been.
            assert!(!existed || dir.exists());
            assert_eq!(fs::read_dir(&dir).map_or(0, Iterator::count), 0);
        }
    }

    #[test]
    fn what_can_not_be_looked_at_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        // Whoever the user is, this can't be followed.
        std::os::unix::fs::symlink("index", dir.path().join(INDEX)).unwrap();
        let e = check_index(&SCHEMA, &dir.path().join(INDEX)).unwrap_err();
        assert!(e.io_kind().is_some(), "{e}");
        assert!(exists(&SCHEMA, dir.path()).unwrap_err().io_kind().is_some());
    }
}
