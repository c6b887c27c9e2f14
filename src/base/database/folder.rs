//! The folder of a database: what it says it is, and who may write in it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Schema, damaged};
use crate::base::error::{Context, Error, Result};

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
            // It was empty, so that all there is now is of this database.
            let _ = fs::remove_dir_all(&dir);
            if stays {
                let _ = fs::create_dir(&dir);
            }
        }
    }
}

/// Locks a folder for writing, and makes a database of it if it is empty or not there.
pub(super) fn lock(schema: &Schema, dir: &Path) -> Result<(File, Fresh)> {
    let stays = dir.exists();
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut fresh = Fresh::default();
    if !is_there(schema, dir)? {
        if fs::read_dir(dir)?.next().is_some() {
            return Err(Error::refused(format!(
                "there are other files in the folder, and no {0}; name an empty folder or one \
                 that is not there yet, and a {0} is made in it",
                schema.name
            )));
        }
        write_format(schema, dir)?;
        fresh = Fresh(Mutex::new(Some(Made { dir: dir.to_owned(), stays })));
    }
    let file = File::open(dir.join(FORMAT))?;
    match file.try_lock() {
        Ok(()) => Ok((file, fresh)),
        Err(TryLockError::WouldBlock) => {
            fresh.take();
            let busy = "another relayer is writing to it; try again when that has ended";
            Err(Error::refused(busy))
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| "locking it"),
    }
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
            if dir.join("CURRENT").exists() {
                return Err(other_version(schema));
            }
            if dir.join(INDEX).join("CURRENT").exists() {
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
        _ if dir.join(INDEX).exists() => {
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
    let there = index.join("CURRENT").exists();
    if there { Ok(()) } else { Err(damaged(schema, &format!("{INDEX}/CURRENT is missing"))) }
}
