//! An open store: its index, and the files that are appended to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::encoding::{ChunkRuns, PackHeader, PackLocation};
use super::files::{self, MAX_CHUNK_NUMBER, OpenFiles, State, StoreChanges};
use super::pack::{self, PackReader};
use super::record::{BlobRecord, ImageRecord, LayerRecord, key, number_of};
use crate::base::database::{Batch, Db, Schema};
use crate::base::error::{Context, Error, Result};
use crate::model::content::Budget;
use crate::model::digest::Digest;
use crate::transport::name;

pub(super) const SCHEMA: Schema = Schema {
    name: "store",
    created_by: "relayer store add",
    repair_hint: "`relayer store check --repair` removes the damage and keeps the rest",
    tables: &["state", "packs", "chunks", "files", "paths", "layers", "blobs", "images", "names"],
};

/// An open store.
pub struct Store {
    pub(super) db: Db,
    pub(super) packs: PackReader,
    pub(super) dir: PathBuf,
    writing: Mutex<Writing>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The end of the store's files, and those that are open for appending.
struct Writing {
    state: State,
    tails: OpenFiles,
}

impl Store {
    /// Opens a store for writing, and creates it if it does not exist. Only one process can do so at a
    /// time. Packs that were read are cached on `budget`.
    ///
    /// # Errors
    /// If the folder holds something else, is damaged or can't be written, or another process writes
    /// to it.
    pub fn open(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Self::writable(Db::open(SCHEMA, dir)?, dir, budget)
    }

    /// Opens an existing store for writing: see [`open`](Self::open).
    ///
    /// # Errors
    /// As for [`open`](Self::open), or if the store does not exist.
    pub fn open_existing(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Self::writable(Db::open_existing(SCHEMA, dir)?, dir, budget)
    }

    fn writable(db: Db, dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        let store = Self::with(db, dir, budget)?;
        let mut state = store.state();
        files::remove_unfinished(dir, &state)?;
        // If the end of a file is lost, new packs go after its current end.
        let files = files::StoreFolder::Packs.list(dir)?;
        let last = files.iter().find(|(number, _)| *number == state.packs.file);
        state.packs.end = state.packs.end.min(last.map_or(0, |(_, bytes)| *bytes));
        store.set_state(state);
        Ok(store)
    }

    /// Opens a store for reading, even while another process writes to it. Packs that were read are
    /// cached on `budget`.
    ///
    /// # Errors
    /// If it does not exist, can't be read or is damaged.
    pub fn open_read(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Self::with(Db::open_read(SCHEMA, dir)?, dir, budget)
    }

    fn with(db: Db, dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        let state = match db.json::<State>("state", b"")? {
            Some(state) if !state.is_valid() => {
                return Err(db.damaged("its number of chunks or files exceeds the maximum"));
            }
            Some(state) => state,
            None if db.with_prefix("packs", b"")?.next().is_none() => State::EMPTY,
            None => return Err(db.damaged("the ends of its files are missing")),
        };
        let writing = Mutex::new(Writing { state, tails: OpenFiles::default() });
        Ok(Self { db, packs: PackReader::new(dir, budget), dir: dir.to_owned(), writing })
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.writing().state
    }

    /// Continues in the files of `state`. The next batch writes it to the index.
    pub(super) fn set_state(&self, state: State) {
        *self.writing() = Writing { state, tails: OpenFiles::default() };
    }

    /// Appends packs and syncs them to disk. Returns their locations.
    pub(super) fn write_packs(
        &self,
        packs: &[(u64, &PackHeader, &[u8])],
    ) -> Result<Vec<PackLocation>> {
        let writing = &mut *self.writing();
        let mut places = Vec::new();
        for (first, header, frame) in packs {
            let state = &mut writing.state;
            places.push(writing.tails.pack(&self.dir, state, (*first, header), frame)?);
            let end = first + header.chunks.len() as u64;
            writing.state.next = writing.state.next.max(end);
        }
        writing.tails.sync()?;
        Ok(places)
    }

    /// Starts a batch of changes.
    pub(super) fn batch(&self) -> StoreBatch<'_> {
        StoreBatch { store: self, batch: self.db.batch(), changes: StoreChanges::default() }
    }

    /// Returns a blob, which must exist.
    pub(super) fn blob(&self, digest: &Digest) -> Result<BlobRecord> {
        self.known_blob(digest)?.ok_or_else(|| {
            Error::malformed(format!(
                "blob {digest} was damaged and removed; add an image that has it again"
            ))
        })
    }

    /// Returns a blob, unless it was damaged and removed.
    pub(super) fn known_blob(&self, digest: &Digest) -> Result<Option<BlobRecord>> {
        let record: Option<BlobRecord> = self.db.json("blobs", digest.as_bytes())?;
        let limit = self.limit();
        if record.as_ref().and_then(|r| r.recipe.chunks()).is_some_and(|c| !c.all_below(limit)) {
            return Err(self
                .db
                .damaged(&format!("blob {digest} refers to chunks that do not exist")));
        }
        Ok(record)
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> Result<LayerRecord> {
        let record: Option<LayerRecord> = self.db.json("layers", diff_id.as_bytes())?;
        let limit = self.limit();
        let fine =
            |record: &LayerRecord| record.steps.all_below(limit) && record.headers.all_below(limit);
        let missing = || self.db.damaged(&format!("layer {diff_id} is missing or not valid"));
        record.filter(fine).ok_or_else(missing)
    }

    /// Returns the number of the next chunk.
    pub(super) fn limit(&self) -> u64 {
        self.state().next
    }

    /// Returns the headers of all packs, in order.
    pub(super) fn headers(&self) -> Result<Vec<(u64, PackHeader)>> {
        let entries = self.db.with_prefix("packs", b"")?;
        let mut next = 0;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let first = number_of(&key)?;
                let header = pack::parse(&self.db, first, &value)?;
                if first < next || first > MAX_CHUNK_NUMBER {
                    return Err(self
                        .db
                        .damaged(&format!("the number of pack {first} is out of range or taken")));
                }
                next = first + header.chunks.len() as u64;
                Ok((first, header))
            })
            .collect()
    }

    /// Returns a list of chunks of a table. All must be below `limit`.
    pub(super) fn runs(&self, table: &str, key: &[u8], limit: u64) -> Result<Option<ChunkRuns>> {
        let damaged = || self.db.damaged(&format!("an entry of {table} is not valid"));
        let Some(value) = self.db.get(table, key)? else { return Ok(None) };
        ChunkRuns::parse(&value, limit).ok_or_else(damaged).map(Some)
    }
}

/// Changes that are written together or not at all. Those of images, blobs and layers are recorded
/// too.
pub(super) struct StoreBatch<'a> {
    store: &'a Store,
    batch: Batch<'a>,
    changes: StoreChanges,
}

impl StoreBatch<'_> {
    pub(super) fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.changes.add(table, key, Some(value));
        self.batch.put(table, key, value)
    }

    pub(super) fn put_json(
        &mut self,
        table: &str,
        key: &[u8],
        value: &impl Serialize,
    ) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(std::io::Error::from)?;
        self.put(table, key, &value)
    }

    /// Puts an image and the index entries to find it by.
    pub(super) fn put_image(&mut self, number: u64, image: &ImageRecord) -> Result<()> {
        for name in index_keys(image) {
            self.put("names", &name, &key(number))?;
        }
        self.put_json("images", &key(number), image)
    }

    pub(super) fn delete(&mut self, table: &str, key: &[u8]) -> Result<()> {
        self.changes.add(table, key, None);
        self.batch.delete(table, key)
    }

    /// Writes the changes. They survive the end of the process; with `sync` they and all before them
    /// also survive a crash of the machine.
    pub(super) fn write(mut self, sync: bool) -> Result<()> {
        let writing = &mut *self.store.writing();
        if !self.changes.0.is_empty() {
            let state = &mut writing.state;
            let done = writing.tails.record(&self.store.dir, state, &self.changes.0);
            done.with_context(|| "writing the records")?;
        }
        self.batch.put_json("state", b"", &writing.state)?;
        self.batch.write(sync)
    }
}

/// Returns the keys of the table `names` for an image.
pub(super) fn index_keys(image: &ImageRecord) -> Vec<Vec<u8>> {
    let names = image.names.iter().map(|name| name_key(name));
    names.chain([digest_key(&image.root.digest)]).collect()
}

pub(super) fn name_key(name: &str) -> Vec<u8> {
    format!("name {}", name::full(name).as_deref().unwrap_or(name)).into_bytes()
}

pub(super) fn digest_key(digest: &Digest) -> Vec<u8> {
    digest.to_string().into_bytes()
}
