//! The history on disk, in RocksDB.
//!
//! One write batch an image, synced: whatever happens, an image is there whole or not at all. One
//! process writes at a time; others may read what was there when they began.
//!
//! | column family | key | value |
//! |---|---|---|
//! | default | `format` | `1` |
//! | `images` | sequence, NUL, identity | JSON of [`Known`] |
//! | `last` | sequence, NUL, component | identity of the newest one |
//! | `rates` | component | JSON of [`Rate`] |
//! | `files` | sequence, NUL, path | identity, then seen and changed as little-endian u32 |

use std::path::Path;

use rocksdb::{ColumnFamily, DB, ErrorKind as DbErrorKind, Options, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Rates, Snapshot};
use crate::analyze::{ComponentKind, Learned};
use crate::error::{Context, Error, ErrorKind, Result};

const FORMAT: &[u8] = b"1";
const FAMILIES: [&str; 4] = ["images", "last", "rates", "files"];

/// A history that is open.
pub struct History {
    db: DB,
}

/// An image in the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    /// Its place in its sequence, from 0.
    number: u64,
    /// Where it was read from.
    from: String,
}

/// What is known of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// How often it changed.
    #[serde(flatten)]
    pub learned: Learned,
}

/// What adding an image came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Added {
    /// It was there before: nothing was added.
    pub known: bool,
    /// Its place in the sequence, from 0.
    pub number: u64,
    /// Components that the image before had too.
    pub seen: u64,
    /// Those of them that changed.
    pub changed: u64,
}

impl History {
    /// Opens a history for writing, and makes it if it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        std::fs::create_dir_all(dir).context(|| format!("creating {}", dir.display()))?;
        let db =
            DB::open_cf(&options, dir, FAMILIES).map_err(|e| failed(&e)).context(|| place(dir))?;
        let history = Self { db };
        match history.db.get(b"format").map_err(|e| failed(&e))? {
            Some(format) if format == FORMAT => {}
            Some(_) => return Err(other_format().context(place(dir))),
            None => history.db.put(b"format", FORMAT).map_err(|e| failed(&e))?,
        }
        Ok(history)
    }

    /// Opens a history for reading, even while another process writes to it.
    pub fn open_read(dir: &Path) -> Result<Self> {
        if !dir.join("CURRENT").exists() {
            return Err(Error::not_found(format!(
                "there is no history in {}; make one with `relayer history add`",
                dir.display()
            )));
        }
        let db = DB::open_cf_for_read_only(&Options::default(), dir, FAMILIES, false);
        let history = Self { db: db.map_err(|e| failed(&e)).context(|| place(dir))? };
        match history.db.get(b"format").map_err(|e| failed(&e))? {
            Some(format) if format == FORMAT => Ok(history),
            _ => Err(other_format().context(place(dir))),
        }
    }

    /// Adds the next image of a sequence, read from `from`.
    pub fn add(&self, sequence: &str, from: &str, image: &Snapshot) -> Result<Added> {
        let key = |rest: &[u8]| [sequence.as_bytes(), &[0], rest].concat();
        let images = self.family("images")?;
        let identity = image.identity();
        if let Some(Known { number, .. }) = self.json(images, &key(&identity))? {
            return Ok(Added { known: true, number, ..Added::default() });
        }
        let mut added =
            Added { number: self.below(images, &key(b""))?.len() as u64, ..Added::default() };
        let mut batch = WriteBatch::default();
        let known = Known { number: added.number, from: from.to_owned() };
        batch.put_cf(images, key(&identity), json(&known)?);
        self.components(image, &key, &mut batch, &mut added)?;
        self.files(image, &key, &mut batch)?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db
            .write_opt(batch, &options)
            .map_err(|e| failed(&e))
            .context(|| "writing the history")?;
        Ok(added)
    }

    fn components(
        &self,
        image: &Snapshot,
        key: &dyn Fn(&[u8]) -> Vec<u8>,
        batch: &mut WriteBatch,
        added: &mut Added,
    ) -> Result<()> {
        let (last, rates) = (self.family("last")?, self.family("rates")?);
        for (name, (kind, identity)) in &image.components {
            let before = self.get(last, &key(name.as_bytes()))?;
            batch.put_cf(last, key(name.as_bytes()), identity);
            let rate: Option<Rate> = self.json(rates, name.as_bytes())?;
            let mut learned = rate.map(|r| r.learned).unwrap_or_default();
            if let Some(before) = before {
                let changed = u64::from(before != identity);
                learned.seen += 1;
                learned.changed += changed;
                added.seen += 1;
                added.changed += changed;
            }
            let rate = Rate { name: name.clone(), kind: *kind, learned };
            batch.put_cf(rates, name, json(&rate)?);
        }
        // What comes back one day is not compared with what it was long ago.
        let prefix = key(b"");
        for old in self.below(last, &prefix)? {
            let name = std::str::from_utf8(&old[prefix.len()..]).unwrap_or_default();
            if !image.components.contains_key(name) {
                batch.delete_cf(last, old);
            }
        }
        Ok(())
    }

    fn files(
        &self,
        image: &Snapshot,
        key: &dyn Fn(&[u8]) -> Vec<u8>,
        batch: &mut WriteBatch,
    ) -> Result<()> {
        let files = self.family("files")?;
        for (path, identity) in &image.files {
            let (mut seen, mut changed) = (0, 0);
            if let Some(value) = self.get(files, &key(path))? {
                let (before, counts) = file_value(&value)?;
                seen = counts.seen as u32 + 1;
                changed = counts.changed as u32 + u32::from(before != identity);
            }
            let value = [&identity[..], &seen.to_le_bytes(), &changed.to_le_bytes()].concat();
            batch.put_cf(files, key(path), value);
        }
        let prefix = key(b"");
        for old in self.below(files, &prefix)? {
            if !image.files.contains_key(&old[prefix.len()..]) {
                batch.delete_cf(files, old);
            }
        }
        Ok(())
    }

    /// What is known of every component, by name.
    pub fn rates(&self) -> Result<Vec<Rate>> {
        let mut rates = Vec::new();
        for item in self.db.iterator_cf(self.family("rates")?, rocksdb::IteratorMode::Start) {
            let (_, value) = item.map_err(|e| failed(&e))?;
            rates.push(parse(&value)?);
        }
        Ok(rates)
    }

    /// The same, for the planner: those of which anything was learned.
    pub fn learned(&self) -> Result<Rates> {
        let known = self.rates()?.into_iter().filter(|r| r.learned.seen > 0);
        Ok(known.map(|r| (r.name, r.learned)).collect())
    }

    /// The names of sequences, and how many images each has.
    pub fn sequences(&self) -> Result<Vec<(String, u64)>> {
        let mut found: Vec<(String, u64)> = Vec::new();
        for key in self.below(self.family("images")?, b"")? {
            let name = key.split(|b| *b == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            match found.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => found.push((name, 1)),
            }
        }
        Ok(found)
    }

    /// Files that have changed, in all sequences, most often changed first.
    pub fn changed_files(&self) -> Result<Vec<(Vec<u8>, Learned)>> {
        let mut found = Vec::new();
        for item in self.db.iterator_cf(self.family("files")?, rocksdb::IteratorMode::Start) {
            let (key, value) = item.map_err(|e| failed(&e))?;
            let (_, learned) = file_value(&value)?;
            let path = key.iter().position(|b| *b == 0).map_or(&key[..], |at| &key[at + 1..]);
            if learned.changed > 0 {
                found.push((path.to_vec(), learned));
            }
        }
        // The sort is stable: paths stay in order.
        found.sort_by_key(|(_, learned)| std::cmp::Reverse(learned.changed));
        Ok(found)
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        self.db.cf_handle(name).ok_or_else(|| damaged(&format!("there is no {name}")))
    }

    fn get(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(family, key).map_err(|e| failed(&e)).context(|| "reading the history")
    }

    fn json<T: DeserializeOwned>(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<T>> {
        self.get(family, key)?.map(|value| parse(&value)).transpose()
    }

    /// All keys with a prefix.
    fn below(&self, family: &ColumnFamily, prefix: &[u8]) -> Result<Vec<Box<[u8]>>> {
        let from = rocksdb::IteratorMode::From(prefix, rocksdb::Direction::Forward);
        let mut keys = Vec::new();
        for item in self.db.iterator_cf(family, from) {
            let (key, _) = item.map_err(|e| failed(&e))?;
            if !key.starts_with(prefix) {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

fn file_value(value: &[u8]) -> Result<(&[u8], Learned)> {
    let (identity, counts) =
        value.split_at_checked(32).ok_or_else(|| damaged("a file's entry is short"))?;
    let word = |at: usize| {
        let bytes = counts.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_le_bytes).map(u64::from)
    };
    match (word(0), word(4)) {
        (Some(seen), Some(changed)) => Ok((identity, Learned { seen, changed })),
        _ => Err(damaged("a file's entry is short")),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::from(std::io::Error::from(e)))
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|e| damaged(&e.to_string()))
}

fn damaged(what: &str) -> Error {
    Error::malformed(format!(
        "the history is damaged: {what}; delete its folder and add the images again"
    ))
}

fn other_format() -> Error {
    Error::unsupported(
        "the history was written by another version of relayer; delete its folder and add the images again",
    )
}

fn place(dir: &Path) -> String {
    format!("opening the history in {}", dir.display())
}

fn failed(e: &rocksdb::Error) -> Error {
    let text = e.to_string();
    if e.kind() == DbErrorKind::IOError && text.contains("lock") {
        return Error::refused("another relayer is writing to it; try again when that has ended");
    }
    Error::new(ErrorKind::Io, text)
}
