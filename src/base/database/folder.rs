//! The folder of a database: what it says it is, and who may write in it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Schema, damaged};
use crate::base::error::{Context, Error, Result};
use crate::base::temporary::{ATTEMPTS, is_at};

/// Of all databases: what is in their files.
const VERSION: &str = "2";
/// What says what a folder is, and what a writer locks.
const FORMAT: &str = "format";
/// Where RocksDB's files are.
pub(super) const INDEX: &str = "index";
/// The same while it is made again.
pub(super) const NEW_INDEX: &str = "index.new";

/// What was made for a database, and goes again with it unless something is written.
#[derive(Default)]
pub(super) struct Fresh(Mutex<Option<Made>>);

pub(super) struct Made {
    dir: PathBuf,
    /// Whether the folder was there, and is to stay.
    stays: bool,
}

impl Fresh {
    pub(super) fn take(&self) -> Option<Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(Made { dir, stays }) = self.take() {
            // It was empty, so that all there is now is of this database. What is locked goes last:
            // from then on the folder is another's.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name() != FORMAT && fs::remove_dir_all(&path).is_err() {
                    let _ = fs::remove_file(&path);
                }
            }
            let _ = fs::remove_file(dir.join(FORMAT));
            if !stays {
                let _ = fs::remove_dir(&dir);
            }
        }
    }
}

/// Locks a folder for writing, and makes a database of it if it is empty or not there.
pub(super) fn lock(schema: &Schema, dir: &Path) -> Result<(File, Fresh)> {
    let stays = dir.try_exists()?;
    if !is_there(schema, dir)? {
        refuse_others(schema, dir)?;
    }
    let file = lock_only(dir)?;
    // Whoever had the lock before may have made one, or removed it.
    if is_there(schema, dir)? {
        return Ok((file, Fresh::default()));
    }
    refuse_others(schema, dir)?;
    write_format(schema, dir)?;
    Ok((file, Fresh(Mutex::new(Some(Made { dir: dir.to_owned(), stays })))))
}

/// Locks a folder, which is made if it is not there.
pub(super) fn lock_only(dir: &Path) -> Result<File> {
    let path = dir.join(FORMAT);
    for _ in 0..ATTEMPTS {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let file = match File::options().append(true).create(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file.with_context(|| format!("opening {}", path.display()))?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path)? => return Ok(file),
            // Whoever had the lock failed, and removed what was made.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let busy = "another relayer is writing to it; try again when that has ended";
                return Err(Error::refused(busy));
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| "locking it"),
        }
    }
    Err(Error::refused("somebody removes it again and again"))
}

/// Refuses a folder with files of others. An empty `format` is of somebody who is about to make a
/// database, or was killed before.
fn refuse_others(schema: &Schema, dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        // Who was about to make one failed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let begun = entry.file_name() == FORMAT
            && fs::metadata(entry.path()).is_ok_and(|m| m.is_file() && m.len() == 0);
        // What was made just now is no other file.
        if !begun && !is_there(schema, dir)? {
            return Err(Error::refused(format!(
                "there are other files in the folder, and no {0}; name an empty folder or one \
                 that is not there yet, and a {0} is made in it",
                schema.name
            )));
        }
    }
    Ok(())
}

/// What `format` says: what this is, and a sum of that, so that damage is no other version.
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

/// Whether a folder holds a database of this schema; an error when it holds another.
pub(super) fn is_there(schema: &Schema, dir: &Path) -> Result<bool> {
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
                    "this is a {name} and no {}; `relayer {name}` reads it",
                    schema.name
                ))),
            }
        }
        _ if dir.join(INDEX).try_exists()? => {
            Err(damaged(schema, &format!("its file {FORMAT} is not what it was")))
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

/// Whether anything was ever put in a folder: a process that was killed while it made one left an
/// index without tables, or none.
pub(super) fn holds_something(dir: &Path) -> Result<bool> {
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

pub(super) fn made_index(schema: &Schema, index: &Path) -> Result<()> {
    let there = index.join("CURRENT").try_exists()?;
    if there { Ok(()) } else { Err(damaged(schema, &format!("{INDEX}/CURRENT is missing"))) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SCHEMA: Schema =
        Schema { name: "store", made_by: "", repair_hint: "", tables: &["state"] };

    #[test]
    fn one_holds_the_lock_whoever_fails_and_removes_the_folder() {
        let above = tempfile::tempdir().unwrap();
        for stays in [false, true] {
            let dir = above.path().join(format!("{stays}"));
            if stays {
                fs::create_dir(&dir).unwrap();
            }
            let (holders, locked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..300 {
                            let (file, fresh) = match lock(&SCHEMA, &dir) {
                                Ok(lock) => lock,
                                Err(e) => {
                                    assert!(e.to_string().contains("another relayer"), "{e}");
                                    continue;
                                }
                            };
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            assert!(is_there(&SCHEMA, &dir).unwrap());
                            fs::create_dir(dir.join(INDEX)).unwrap();
                            locked.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            // In the order of a database that nothing was written to.
                            drop(fresh);
                            drop(file);
                        }
                    });
                }
            });
            assert!(locked.into_inner() > 8);
            // Who comes while it is there leaves it, as if it had always been.
            assert!(!stays || dir.exists());
            assert_eq!(fs::read_dir(&dir).map_or(0, Iterator::count), 0);
        }
    }

    #[test]
    fn what_can_not_be_looked_at_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        // Whoever the user is, this can't be followed.
        std::os::unix::fs::symlink("index", dir.path().join(INDEX)).unwrap();
        let e = made_index(&SCHEMA, &dir.path().join(INDEX)).unwrap_err();
        assert!(e.io_kind().is_some(), "{e}");
        assert!(is_there(&SCHEMA, dir.path()).unwrap_err().io_kind().is_some());
    }
}
