//! The database of a history: one batch per image.
//!
//! | table | key | value |
//! |---|---|---|
//! | `images` | sequence, NUL, identity | JSON of [`ImageEntry`] |
//! | `last` | sequence, NUL, component | identity in the newest image |
//! | `rates` | component | JSON of [`ComponentRate`] |
//! | `files` | sequence, NUL, path | identity, then `seen` and `changed` as little-endian u32 |

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Rates, Snapshot};
use crate::base::database::{Batch, Db, Schema};
use crate::base::error::Result;
use crate::plan::analyze::{ComponentKind, Learned};

const SCHEMA: Schema = Schema {
    name: "history",
    created_by: "relayer history add",
    repair_hint: "delete its folder and add the images again",
    tables: &["images", "last", "rates", "files"],
};

/// An open history.
pub struct History {
    db: Db,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

/// An image in the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageEntry {
    /// Position in its sequence, from 0.
    number: u64,
    /// The reference it was read from.
    from: String,
}

/// How often a component changed, in all sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentRate {
    /// Name of the component.
    pub name: String,
    /// Kind of the component.
    pub kind: ComponentKind,
    /// The counts.
    #[serde(flatten)]
    pub learned: Learned,
}

/// Result of adding an image to a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AddedSnapshot {
    /// Whether the image was in the sequence already, so that nothing was added.
    pub known: bool,
    /// Position in the sequence, from 0.
    pub number: u64,
    /// Number of components that the previous image had too.
    pub seen: u64,
    /// Number of these components that changed.
    pub changed: u64,
}

impl History {
    /// Opens a history for writing, and creates it if it does not exist.
    ///
    /// # Errors
    /// If the folder holds something else, is damaged, or another process writes to it.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self { db: Db::open(SCHEMA, dir)? })
    }

    /// Opens a history for reading, even while another process writes to it.
    ///
    /// # Errors
    /// If it does not exist or is damaged.
    pub fn open_read(dir: &Path) -> Result<Self> {
        Ok(Self { db: Db::open_read(SCHEMA, dir)? })
    }

    /// Adds the next image of a sequence. `from` is the reference it was read from.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn add(&self, sequence: &str, from: &str, image: &Snapshot) -> Result<AddedSnapshot> {
        let key = |rest: &[u8]| [sequence.as_bytes(), &[0], rest].concat();
        let identity = image.identity();
        if let Some(ImageEntry { number, .. }) = self.db.json("images", &key(&identity))? {
            return Ok(AddedSnapshot { known: true, number, ..AddedSnapshot::default() });
        }
        let mut added = AddedSnapshot {
            number: self.keys("images", &key(b""))?.len() as u64,
            ..AddedSnapshot::default()
        };
        let mut batch = self.db.batch();
        let known = ImageEntry { number: added.number, from: from.to_owned() };
        batch.put_json("images", &key(&identity), &known)?;
        self.components(image, &key, &mut batch, &mut added)?;
        self.files(image, &key, &mut batch)?;
        batch.write(true)?;
        self.db.flush_and_merge()?;
        Ok(added)
    }

    fn components(
        &self,
        image: &Snapshot,
        key: &dyn Fn(&[u8]) -> Vec<u8>,
        batch: &mut Batch<'_>,
        added: &mut AddedSnapshot,
    ) -> Result<()> {
        for (name, (kind, identity)) in &image.components {
            let before = self.db.get("last", &key(name.as_bytes()))?;
            batch.put("last", &key(name.as_bytes()), identity)?;
            let rate: Option<ComponentRate> = self.db.json("rates", name.as_bytes())?;
            let mut learned = rate.map(|r| r.learned).unwrap_or_default();
            if let Some(before) = before {
                let changed = u64::from(before != identity);
                learned.seen += 1;
                learned.changed += changed;
                added.seen += 1;
                added.changed += changed;
            }
            let rate = ComponentRate { name: name.clone(), kind: *kind, learned };
            batch.put_json("rates", name.as_bytes(), &rate)?;
        }
        // A component that returns later is not compared with its state long ago.
        let prefix = key(b"");
        for old in self.keys("last", &prefix)? {
            let name = std::str::from_utf8(&old[prefix.len()..]).unwrap_or_default();
            if !image.components.contains_key(name) {
                batch.delete("last", &old)?;
            }
        }
        Ok(())
    }

    fn files(
        &self,
        image: &Snapshot,
        key: &dyn Fn(&[u8]) -> Vec<u8>,
        batch: &mut Batch<'_>,
    ) -> Result<()> {
        for (path, identity) in &image.files {
            let (mut seen, mut changed) = (0, 0);
            if let Some(value) = self.db.get("files", &key(path))? {
                let (before, counts) = self.file_value(&value)?;
                seen = counts.seen as u32 + 1;
                changed = counts.changed as u32 + u32::from(before != identity);
            }
            let value = [&identity[..], &seen.to_le_bytes(), &changed.to_le_bytes()].concat();
            batch.put("files", &key(path), &value)?;
        }
        let prefix = key(b"");
        for old in self.keys("files", &prefix)? {
            if !image.files.contains_key(&old[prefix.len()..]) {
                batch.delete("files", &old)?;
            }
        }
        Ok(())
    }

    /// Returns the rates of all components, by name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn rates(&self) -> Result<Vec<ComponentRate>> {
        let mut rates = Vec::new();
        for item in self.db.with_prefix("rates", b"")? {
            rates.push(self.db.parse(&item?.1)?);
        }
        Ok(rates)
    }

    /// Returns the counts of components that were in two consecutive images, for the planner.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn learned(&self) -> Result<Rates> {
        let known = self.rates()?.into_iter().filter(|r| r.learned.seen > 0);
        Ok(known.map(|r| (r.name, r.learned)).collect())
    }

    /// Returns the names of all sequences, and the number of images in each.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn sequences(&self) -> Result<Vec<(String, u64)>> {
        let mut found: Vec<(String, u64)> = Vec::new();
        for key in self.keys("images", b"")? {
            let name = key.split(|b| *b == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            match found.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => found.push((name, 1)),
            }
        }
        Ok(found)
    }

    /// Returns the files of all sequences that ever changed, most often changed first.
    ///
    /// # Errors
    /// If the database can't be read.
    pub fn changed_files(&self) -> Result<Vec<(Vec<u8>, Learned)>> {
        let mut found = Vec::new();
        for item in self.db.with_prefix("files", b"")? {
            let (key, value) = item?;
            let (_, learned) = self.file_value(&value)?;
            let path = key.iter().position(|b| *b == 0).map_or(&key[..], |at| &key[at + 1..]);
            if learned.changed > 0 {
                found.push((path.to_vec(), learned));
            }
        }
        // The sort is stable: paths stay in order.
        found.sort_by_key(|(_, learned)| std::cmp::Reverse(learned.changed));
        Ok(found)
    }

    /// Returns all keys with a prefix.
    fn keys(&self, table: &str, prefix: &[u8]) -> Result<Vec<Box<[u8]>>> {
        self.db.with_prefix(table, prefix)?.map(|item| Ok(item?.0)).collect()
    }

    fn file_value<'a>(&self, value: &'a [u8]) -> Result<(&'a [u8], Learned)> {
        let short = || self.db.damaged("the entry of a file is too short");
        let (identity, counts) = value.split_at_checked(32).ok_or_else(short)?;
        let word = |at: usize| {
            let bytes = counts.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).map(u64::from)
        };
        match (word(0), word(4)) {
            (Some(seen), Some(changed)) => Ok((identity, Learned { seen, changed })),
            _ => Err(short()),
        }
    }
}
