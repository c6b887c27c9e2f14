//! A database in RocksDB: named tables, atomic batches, and our own errors.
//!
//! One process writes at a time; others may read the state from when they opened it. A batch is
//! written completely or not at all, even if the process is killed.
//!
//! A database has a folder of its own: the file `format` identifies it and is locked by the writer,
//! the folder `index` is RocksDB's. All tables share one column family, distinguished by the first byte
//! of their keys, so that a command adds one file and not one for each table. Files of similar size are
//! merged before a command ends, so that there are never many.

mod folder;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, DBRecoveryMode, Direction,
    FlushOptions, InfoLogger, IteratorMode, LogLevel, Options, WaitForCompactOptions, WriteBatch,
    WriteOptions,
};
use rustix::process::{Resource, getrlimit};
use serde::{Serialize, de::DeserializeOwned};

use crate::base::error::{Context, Error, ErrorKind, Result};
use folder::{
    INDEX, NEW_INDEX, NewFolderGuard, check_index, exists, has_data, lock, lock_only, write_format,
};

/// What a database is called and how it is repaired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// `history` or `store`.
    pub(crate) name: &'static str,
    /// The command that creates one.
    pub(crate) created_by: &'static str,
    /// What the user can do when it is damaged.
    pub(crate) repair_hint: &'static str,
    /// Names of its tables. Their positions are the first bytes of keys.
    pub(crate) tables: &'static [&'static str],
}

/// An open database.
pub(crate) struct Db {
    rocks: DB,
    schema: Schema,
    /// Declared after `rocks`, which must be closed first.
    guard: NewFolderGuard,
    /// Held while the database is open for writing.
    lock: Option<File>,
}

/// Size of a block of RocksDB's logs in bytes.
const LOG_BLOCK: u64 = 32 << 10;
/// Bytes that RocksDB gathers in memory before it writes a file.
const WRITE_BUFFER: usize = 4 << 20;
/// Bytes of RocksDB's read cache.
const READ_CACHE: usize = 8 << 20;
/// Number of files of similar size at which they are merged.
const MERGE_TRIGGER: i32 = 6;
/// Maximum number of times that a reader opens the database: again whenever a writer has removed a file of it.
const ATTEMPTS: usize = 10;

impl Db {
    /// Opens a database for writing, and creates it if it does not exist.
    pub(crate) fn open(schema: Schema, dir: &Path) -> Result<Self> {
        let place = || place(&schema, dir);
        let (lock, guard) = lock(&schema, dir).with_context(place)?;
        let index = dir.join(INDEX);
        if has_data(dir).with_context(place)? {
            check_index(&schema, &index).with_context(place)?;
        }
        check_logs(&schema, &index).with_context(place)?;
        let mut options = options();
        options.create_if_missing(true);
        let rocks =
            DB::open(&options, &index).map_err(|e| failed(&schema, &e)).with_context(place)?;
        Ok(Self { rocks, schema, guard, lock: Some(lock) })
    }

    /// Opens an existing database for writing.
    pub(crate) fn open_existing(schema: Schema, dir: &Path) -> Result<Self> {
        Self::check_exists(&schema, dir)?;
        Self::open(schema, dir)
    }

    /// Rebuilds the tables from what `fill` writes; they replace the old ones when it is done. Other
    /// files in the folder stay.
    pub(crate) fn rebuild(
        schema: Schema,
        dir: &Path,
        fill: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let place = || format!("rebuilding the index of the {} in {}", schema.name, dir.display());
        let (index, new) = (dir.join(INDEX), dir.join(NEW_INDEX));
        let lock = lock_only(dir).with_context(place)?;
        write_format(&schema, dir).with_context(place)?;
        let remove = |path: &Path| match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        remove(&new).with_context(place)?;
        let mut options = options();
        options.create_if_missing(true);
        let rocks =
            DB::open(&options, &new).map_err(|e| failed(&schema, &e)).with_context(place)?;
        let db = Self { rocks, schema, guard: NewFolderGuard::default(), lock: Some(lock) };
        fill(&db)?;
        db.flush_and_merge()?;
        let Self { rocks, lock: _lock, .. } = db;
        drop(rocks);
        remove(&index).with_context(place)?;
        fs::rename(&new, &index).with_context(place)?;
        Ok(File::open(dir)?.sync_all()?)
    }

    fn check_exists(schema: &Schema, dir: &Path) -> Result<()> {
        if exists(schema, dir).with_context(|| place(schema, dir))? {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "there is no {} in {}; create one with `{}`",
            schema.name,
            dir.display(),
            schema.created_by
        )))
    }

    /// Opens a database for reading, even while another process writes to it.
    pub(crate) fn open_read(schema: Schema, dir: &Path) -> Result<Self> {
        Self::check_exists(&schema, dir)?;
        let (index, place) = (dir.join(INDEX), || place(&schema, dir));
        check_index(&schema, &index).with_context(place)?;
        check_logs(&schema, &index).with_context(place)?;
        let mut options = options();
        let files = fs::read_dir(&index).with_context(place)?.count();
        if files <= open_files() as usize {
            // Opens all of them now: a writer may merge and remove them later.
            options.set_max_open_files(-1);
        }
        let open = || DB::open_for_read_only(&options, &index, false);
        let mut rocks = open();
        for _ in 1..ATTEMPTS {
            match &rocks {
                // A writer merged files meanwhile; one that is lost is missing each time.
                Err(e) if is_missing(e) => rocks = open(),
                _ => break,
            }
        }
        let rocks = rocks.map_err(|e| failed(&schema, &e)).with_context(place)?;
        Ok(Self { rocks, schema, guard: NewFolderGuard::default(), lock: None })
    }

    /// The database as it is now, where this is as it was when it was opened: a reader's.
    pub(crate) fn reopened(&self) -> Result<Option<Self>> {
        match (&self.lock, self.rocks.path().parent()) {
            (None, Some(dir)) => Self::open_read(self.schema, dir).map(Some),
            _ => Ok(None),
        }
    }

    /// Creates an error that says that another process removed something during the read.
    pub(crate) fn changed(&self, what: &str) -> Error {
        changed(&self.schema, what)
    }

    /// Returns a value.
    pub(crate) fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.rocks.get(self.key(table, key)?);
        value
            .map_err(|e| self.failed(&e))
            .with_context(|| format!("reading the {}", self.schema.name))
    }

    /// Returns a JSON value, parsed.
    pub(crate) fn json<T: DeserializeOwned>(&self, table: &str, key: &[u8]) -> Result<Option<T>> {
        self.get(table, key)?.map(|value| self.parse(&value)).transpose()
    }

    /// Parses a JSON value.
    pub(crate) fn parse<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T> {
        serde_json::from_slice(value).map_err(|e| self.damaged(&e.to_string()))
    }

    /// Returns all entries of a table whose keys begin with `prefix`, in order.
    pub(crate) fn with_prefix(&self, table: &str, prefix: &[u8]) -> Result<Entries<'_>> {
        let prefix = self.key(table, prefix)?;
        let from = IteratorMode::From(&prefix, Direction::Forward);
        let entries = self.rocks.iterator(from).map_while(move |item| match item {
            Ok((key, _)) if !key.starts_with(&prefix) => None,
            Ok((key, value)) => Some(Ok((key[1..].into(), value))),
            Err(e) => Some(Err(self.failed(&e))),
        });
        Ok(Box::new(entries))
    }

    /// Returns the last entry of a table whose key is at most `key`.
    pub(crate) fn at_or_before(&self, table: &str, key: &[u8]) -> Result<Option<DatabaseEntry>> {
        let key = self.key(table, key)?;
        let mut entries = self.rocks.iterator(IteratorMode::From(&key, Direction::Reverse));
        let found = entries.next().transpose().map_err(|e| self.failed(&e))?;
        let found = found.filter(|(found, _)| found.first() == key.first());
        Ok(found.map(|(key, value)| (key[1..].into(), value)))
    }

    /// Starts a batch of changes.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { db: self, batch: WriteBatch::default() }
    }

    /// Flushes everything to files with checksums, so that a damaged log loses nothing, and merges files
    /// until there are few.
    pub(crate) fn flush_and_merge(&self) -> Result<()> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.rocks.flush_opt(&flush).map_err(|e| self.failed(&e))?;
        let merged = self.rocks.wait_for_compact(&WaitForCompactOptions::default());
        merged.map_err(|e| self.failed(&e))?;
        // RocksDB saves its options and an ID. Nothing reads them, so damage in them would go
        // unnoticed.
        for file in fs::read_dir(self.rocks.path())? {
            let file = file?;
            let name = file.file_name();
            if ["OPTIONS", "IDENTITY"].iter().any(|n| name.to_string_lossy().starts_with(n)) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// Reclaims the space of deleted entries.
    pub(crate) fn compact(&self) {
        self.rocks.compact_range(None::<&[u8]>, None::<&[u8]>);
    }

    /// Reads every file of the database and verifies the checksums.
    pub(crate) fn verify(&self) -> Result<()> {
        for item in self.rocks.iterator(IteratorMode::Start) {
            item.map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    /// Creates an error that says what is damaged, and how to repair it.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        damaged(&self.schema, what)
    }

    fn key(&self, table: &str, key: &[u8]) -> Result<Vec<u8>> {
        let at = self.schema.tables.iter().position(|name| *name == table);
        let at = at.ok_or_else(|| self.damaged(&format!("there is no table {table}")))?;
        Ok([&[at as u8], key].concat())
    }

    fn failed(&self, e: &rocksdb::Error) -> Error {
        let text = e.to_string();
        let lists = |db: &Self| {
            let files = db.rocks.live_files().unwrap_or_default();
            files.iter().any(|file| text.contains(file.name.trim_start_matches('/')))
        };
        if is_missing(e)
            && let Ok(Some(now)) = self.reopened()
            && !lists(&now)
        {
            return self.changed(&text);
        }
        failed(&self.schema, e)
    }
}

/// A key and its value.
pub(crate) type DatabaseEntry = (Box<[u8]>, Box<[u8]>);
/// An iterator over entries of a table.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<DatabaseEntry>> + 'a>;

/// Changes that are written together or not at all.
pub(crate) struct Batch<'a> {
    db: &'a Db,
    batch: WriteBatch,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.batch.put(self.db.key(table, key)?, value);
        Ok(())
    }

    pub(crate) fn put_json(
        &mut self,
        table: &str,
        key: &[u8],
        value: &impl Serialize,
    ) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(io::Error::from)?;
        self.put(table, key, &value)
    }

    pub(crate) fn delete(&mut self, table: &str, key: &[u8]) -> Result<()> {
        self.batch.delete(self.db.key(table, key)?);
        Ok(())
    }

    /// Writes the changes. They survive the end of the process; with `sync` they and all before them
    /// also survive a crash of the machine.
    pub(crate) fn write(self, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let done = self.db.rocks.write_opt(self.batch, &options);
        done.map_err(|e| self.db.failed(&e))
            .with_context(|| format!("writing the {}", self.db.schema.name))?;
        self.db.guard.disarm();
        Ok(())
    }
}

/// Returns options that bound memory and file descriptors, since the rest of a command needs both.
fn options() -> Options {
    let mut options = Options::default();
    // RocksDB's own log would be larger than some stores.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| ()));
    // A record that a killed process left incomplete is not damage; everything else is.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_manifest_preallocation_size(1 << 16);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_open_files(open_files());
    // This rewrites each byte only a few times, whatever the size of the database; by levels, a small
    // addition would rewrite all of the next level.
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(MERGE_TRIGGER);
    options.set_compaction_readahead_size(1 << 20);
    options.set_write_buffer_size(WRITE_BUFFER);
    // Most of the data is hashes.
    options.set_compression_type(DBCompressionType::None);
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(READ_CACHE));
    options.set_block_based_table_factory(&tables);
    options
}

/// Returns a quarter of the file descriptors that this process may open.
fn open_files() -> i32 {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (allowed / 4).clamp(20, 256) as i32
}

fn place(schema: &Schema, dir: &Path) -> String {
    format!("opening the {} in {}", schema.name, dir.display())
}

fn damaged(Schema { name, repair_hint, .. }: &Schema, what: &str) -> Error {
    Error::malformed(format!("the {name} is damaged: {what}; {repair_hint}"))
}

/// Refuses logs with record types that this database never writes: a flipped bit can make one, and
/// RocksDB 11.8 then loops forever. RocksDB finds all other damage itself
/// ([format](https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format)).
fn check_logs(schema: &Schema, index: &Path) -> Result<()> {
    let current = match fs::read(index.join("CURRENT")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        current => current.with_context(|| "reading CURRENT")?,
    };
    let current = String::from_utf8_lossy(&current);
    let files = match fs::read_dir(index) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let name = file?.file_name();
        let name = name.to_string_lossy();
        if !name.ends_with(".log") && name != current.trim_end() {
            continue;
        }
        let mut file = match File::open(index.join(&*name)) {
            // Another process has removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file.with_context(|| format!("reading {name}"))?,
        };
        let mut block = Vec::new();
        while (&mut file).take(LOG_BLOCK).read_to_end(&mut block)? > 0 {
            let mut rest = &block[..];
            while let Some((head, after)) = rest.split_first_chunk::<7>() {
                // Four bytes of checksum, two of size, one of type.
                match head[6] {
                    0 => break,
                    1..=4 => {}
                    _ => {
                        return Err(damaged(schema, &format!("{name} has an invalid record type")));
                    }
                }
                let size = u16::from_le_bytes([head[4], head[5]]);
                rest = after.get(usize::from(size)..).unwrap_or_default();
            }
            block.clear();
        }
    }
    Ok(())
}

fn changed(Schema { name, .. }: &Schema, what: &str) -> Error {
    Error::refused(format!(
        "{what}: another relayer process removed something from the {name} during the read; run the \
         command again"
    ))
}

fn is_missing(e: &rocksdb::Error) -> bool {
    e.to_string().contains("No such file")
}

fn failed(schema: &Schema, e: &rocksdb::Error) -> Error {
    let text = e.to_string();
    if text.contains("Permission denied") {
        return Error::refused(format!("this user lacks permission ({text})"));
    }
    if text.contains("Too many open files") {
        return Error::refused(format!("{text}; `ulimit -n` allows more"));
    }
    // RocksDB calls some I/O errors corruption too.
    let damage = e.kind() == rocksdb::ErrorKind::Corruption && !text.contains("IO error");
    if damage || is_missing(e) { damaged(schema, &text) } else { Error::new(ErrorKind::Io, text) }
}
