//! A database on disk in RocksDB: named tables, batches, and errors in our words.
//!
//! One process writes at a time; others may read what was there when they began. What a batch
//! holds is there whole or not at all, whatever happens.
//!
//! A database lies in a folder of its own: `format` says what it is and is what a writer locks,
//! `index` is RocksDB's. All tables are one column family, told apart by the first byte of their
//! keys, so that a command adds one file and not one a table; files of like size are merged before
//! it ends, so that there are never many.

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
    Fresh, INDEX, NEW_INDEX, holds_something, is_there, lock, lock_only, made_index, write_format,
};

/// What a database is called and how it is repaired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schema {
    /// `history`, `store`.
    pub(crate) name: &'static str,
    /// The command that makes one.
    pub(crate) made_by: &'static str,
    /// What to do when it is damaged.
    pub(crate) repair_hint: &'static str,
    /// Its tables. Their places are in every key.
    pub(crate) tables: &'static [&'static str],
}

/// A database that is open.
pub(crate) struct Db {
    rocks: DB,
    schema: Schema,
    /// After `rocks`, which is to be closed first.
    fresh: Fresh,
    /// Locked for as long as it is written to.
    lock: Option<File>,
}

/// Bytes of a block of RocksDB's logs.
const LOG_BLOCK: u64 = 32 << 10;
/// Bytes that are gathered before they go to a file.
const WRITE_BUFFER: usize = 4 << 20;
/// Bytes of what was read that are kept.
const READ_CACHE: usize = 8 << 20;
/// Files of like size, from how many on they are merged.
const RUNS: i32 = 6;
/// A reader that is told of a file which a writer has taken away looks again, so often.
const ATTEMPTS: usize = 10;

impl Db {
    /// Opens a database for writing, and makes it if it is not there.
    pub(crate) fn open(schema: Schema, dir: &Path) -> Result<Self> {
        let place = || place(&schema, dir);
        let (lock, fresh) = lock(&schema, dir).with_context(place)?;
        let index = dir.join(INDEX);
        if holds_something(dir).with_context(place)? {
            made_index(&schema, &index).with_context(place)?;
        }
        check_logs(&schema, &index).with_context(place)?;
        let mut options = options();
        options.create_if_missing(true);
        let rocks =
            DB::open(&options, &index).map_err(|e| failed(&schema, &e)).with_context(place)?;
        Ok(Self { rocks, schema, fresh, lock: Some(lock) })
    }

    /// Opens a database for writing that must be there.
    pub(crate) fn open_existing(schema: Schema, dir: &Path) -> Result<Self> {
        Self::made(&schema, dir)?;
        Self::open(schema, dir)
    }

    /// Makes the tables anew; whatever else is in the folder stays. What `fill` writes takes the place
    /// of the old ones when it is done.
    pub(crate) fn remake(
        schema: Schema,
        dir: &Path,
        fill: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let place =
            || format!("making the index of the {} in {} again", schema.name, dir.display());
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
        let db = Self { rocks, schema, fresh: Fresh::default(), lock: Some(lock) };
        fill(&db)?;
        db.settle()?;
        let Self { rocks, lock: _lock, .. } = db;
        drop(rocks);
        remove(&index).with_context(place)?;
        fs::rename(&new, &index).with_context(place)?;
        Ok(File::open(dir)?.sync_all()?)
    }

    fn made(schema: &Schema, dir: &Path) -> Result<()> {
        if is_there(schema, dir).with_context(|| place(schema, dir))? {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "there is no {} in {}; make one with `{}`",
            schema.name,
            dir.display(),
            schema.made_by
        )))
    }

    /// Opens a database for reading, even while another process writes to it.
    pub(crate) fn open_read(schema: Schema, dir: &Path) -> Result<Self> {
        Self::made(&schema, dir)?;
        let (index, place) = (dir.join(INDEX), || place(&schema, dir));
        made_index(&schema, &index).with_context(place)?;
        check_logs(&schema, &index).with_context(place)?;
        let mut options = options();
        let files = fs::read_dir(&index).with_context(place)?.count();
        if files <= open_files() as usize {
            // All are opened at once: a writer that merges them takes them away meanwhile.
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
        Ok(Self { rocks, schema, fresh: Fresh::default(), lock: None })
    }

    /// The database as it is now, where this is as it was when it was opened: a reader's.
    pub(crate) fn reopened(&self) -> Result<Option<Self>> {
        match (&self.lock, self.rocks.path().parent()) {
            (None, Some(dir)) => Self::open_read(self.schema, dir).map(Some),
            _ => Ok(None),
        }
    }

    /// Says that something was taken away while it was read.
    pub(crate) fn changed(&self, what: &str) -> Error {
        changed(&self.schema, what)
    }

    /// A value.
    pub(crate) fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.rocks.get(self.key(table, key)?);
        value
            .map_err(|e| self.failed(&e))
            .with_context(|| format!("reading the {}", self.schema.name))
    }

    /// A value that is JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, table: &str, key: &[u8]) -> Result<Option<T>> {
        self.get(table, key)?.map(|value| self.parse(&value)).transpose()
    }

    /// Reads a value as JSON.
    pub(crate) fn parse<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T> {
        serde_json::from_slice(value).map_err(|e| self.damaged(&e.to_string()))
    }

    /// All entries of a table whose keys begin with `prefix`, in order.
    pub(crate) fn below(&self, table: &str, prefix: &[u8]) -> Result<Entries<'_>> {
        let prefix = self.key(table, prefix)?;
        let from = IteratorMode::From(&prefix, Direction::Forward);
        let entries = self.rocks.iterator(from).map_while(move |item| match item {
            Ok((key, _)) if !key.starts_with(&prefix) => None,
            Ok((key, value)) => Some(Ok((key[1..].into(), value))),
            Err(e) => Some(Err(self.failed(&e))),
        });
        Ok(Box::new(entries))
    }

    /// The last entry of a table whose key is `key` or before it.
    pub(crate) fn at_or_before(&self, table: &str, key: &[u8]) -> Result<Option<Entry>> {
        let key = self.key(table, key)?;
        let mut entries = self.rocks.iterator(IteratorMode::From(&key, Direction::Reverse));
        let found = entries.next().transpose().map_err(|e| self.failed(&e))?;
        let found = found.filter(|(found, _)| found.first() == key.first());
        Ok(found.map(|(key, value)| (key[1..].into(), value)))
    }

    /// Changes to be made together.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { db: self, batch: WriteBatch::default() }
    }

    /// Puts all that was written into files with checksums, which a damaged log can't take away, and
    /// merges files until there are few.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.rocks.flush_opt(&flush).map_err(|e| self.failed(&e))?;
        let merged = self.rocks.wait_for_compact(&WaitForCompactOptions::default());
        merged.map_err(|e| self.failed(&e))?;
        // RocksDB writes down its settings and a name for itself. Nobody reads either, so that
        // nobody would see damage in them.
        for file in fs::read_dir(self.rocks.path())? {
            let file = file?;
            let name = file.file_name();
            if ["OPTIONS", "IDENTITY"].iter().any(|n| name.to_string_lossy().starts_with(n)) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// Gives back the room of what was deleted.
    pub(crate) fn compact(&self) {
        self.rocks.compact_range(None::<&[u8]>, None::<&[u8]>);
    }

    /// Reads every file of the database, whose checksums are verified.
    pub(crate) fn verify(&self) -> Result<()> {
        for item in self.rocks.iterator(IteratorMode::Start) {
            item.map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    /// Says that something in the database can't be.
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
pub(crate) type Entry = (Box<[u8]>, Box<[u8]>);
/// Entries of a table.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

/// Changes that are made together.
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

    /// Makes the changes. They outlive the process; with `sync`, and all before them, the machine.
    pub(crate) fn write(self, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let done = self.db.rocks.write_opt(self.batch, &options);
        done.map_err(|e| self.db.failed(&e))
            .with_context(|| format!("writing the {}", self.db.schema.name))?;
        self.db.fresh.take();
        Ok(())
    }
}

/// Memory and descriptors are bounded, whatever there is: the rest of a command needs both.
fn options() -> Options {
    let mut options = Options::default();
    // It would keep a log of what it does, larger than some stores.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| ()));
    // A record that a killed process left half written is no damage; anything else is.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_manifest_preallocation_size(1 << 16);
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_open_files(open_files());
    // Each byte is written again a few times, however many there are; by levels, a small addition
    // would write all of the next level again.
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(RUNS);
    options.set_compaction_readahead_size(1 << 20);
    options.set_write_buffer_size(WRITE_BUFFER);
    // Most of it is hashes.
    options.set_compression_type(DBCompressionType::None);
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(READ_CACHE));
    options.set_block_based_table_factory(&tables);
    options
}

/// A quarter of the descriptors that this process may have.
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

/// Refuses logs with records of kinds that are not written here: RocksDB 11.8 reads them without end,
/// and a flipped bit makes them. All else it finds itself
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
                // Four bytes of a checksum, two of the size, one of the kind.
                match head[6] {
                    0 => break,
                    1..=4 => {}
                    _ => return Err(damaged(schema, &format!("{name} has a record of no kind"))),
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
        "{what}: another relayer took something out of the {name} while this one read it; run this \
         again"
    ))
}

fn is_missing(e: &rocksdb::Error) -> bool {
    e.to_string().contains("No such file")
}

fn failed(schema: &Schema, e: &rocksdb::Error) -> Error {
    let text = e.to_string();
    if text.contains("Permission denied") {
        return Error::refused(format!("this user has no permission for that ({text})"));
    }
    if text.contains("Too many open files") {
        return Error::refused(format!("{text}; `ulimit -n` allows more"));
    }
    // What could not be read because of the system may be called corruption too.
    let damage = e.kind() == rocksdb::ErrorKind::Corruption && !text.contains("IO error");
    if damage || is_missing(e) { damaged(schema, &text) } else { Error::new(ErrorKind::Io, text) }
}
