//! A database on disk in RocksDB: named tables, batches, and errors in our words.
//!
//! One process writes at a time; others may read what was there when they began. What a batch
//! holds is there whole or not at all, whatever happens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, Direction, IteratorMode};
use rocksdb::{
    DBCompressionType, DBRecoveryMode, FlushOptions, InfoLogger, LogLevel, Options, WriteBatch,
    WriteOptions,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Context, Error, ErrorKind, Result};

const FORMAT: &[u8] = b"1";

/// What a database is called and how it is mended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// `history`, `store`.
    pub(crate) name: &'static str,
    /// The command that makes one.
    pub(crate) made_by: &'static str,
    /// What to do when it is damaged.
    pub(crate) mend: &'static str,
    /// Its tables, each with the size from which values lie in files of their own.
    pub(crate) tables: &'static [(&'static str, Option<u64>)],
}

/// A database that is open.
pub(crate) struct Db {
    rocks: DB,
    kind: Kind,
    /// After `rocks`, which is to be closed first.
    fresh: Fresh,
}

/// Bytes of a block of RocksDB's logs.
const LOG_BLOCK: u64 = 32 << 10;

/// A folder that was made for a database, and goes again with it unless something is written.
#[derive(Default)]
struct Fresh(Mutex<Option<PathBuf>>);

impl Fresh {
    fn make(dir: &Path) -> Result<Self> {
        let made = (!dir.exists()).then(|| dir.to_owned());
        std::fs::create_dir_all(dir).context(|| format!("creating {}", dir.display()))?;
        Ok(Self(Mutex::new(made)))
    }

    fn take(&self) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(dir) = self.take() {
            // What stays behind is an empty database.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

impl Db {
    /// Opens a database for writing, and makes it if it is not there.
    pub(crate) fn open(kind: Kind, dir: &Path) -> Result<Self> {
        Self::open_as(kind, dir, &descriptors)
    }

    /// Opens a database for much to be deleted and [`compact`](Self::compact)ed.
    pub(crate) fn open_to_compact(kind: Kind, dir: &Path) -> Result<Self> {
        Self::made(&kind, dir)?;
        Self::open_as(kind, dir, &compacting)
    }

    fn open_as(
        kind: Kind,
        dir: &Path,
        tables: &dyn Fn(&Kind) -> Vec<ColumnFamilyDescriptor>,
    ) -> Result<Self> {
        let fresh = Fresh::make(dir)?;
        check_logs(&kind, dir).context(|| place(&kind, dir))?;
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, dir, tables(&kind));
        Self::checked(db, kind, Some(fresh)).context(|| place(&kind, dir))
    }

    fn made(kind: &Kind, dir: &Path) -> Result<()> {
        if dir.join("CURRENT").exists() {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "there is no {} in {}; make one with `{}`",
            kind.name,
            dir.display(),
            kind.made_by
        )))
    }

    /// Opens a database for reading, even while another process writes to it.
    pub(crate) fn open_read(kind: Kind, dir: &Path) -> Result<Self> {
        Self::made(&kind, dir)?;
        check_logs(&kind, dir).context(|| place(&kind, dir))?;
        let db = DB::open_cf_descriptors_read_only(&options(), dir, descriptors(&kind), false);
        Self::checked(db, kind, None).context(|| place(&kind, dir))
    }

    /// `fresh` is for writing.
    fn checked(db: Result<DB, rocksdb::Error>, kind: Kind, fresh: Option<Fresh>) -> Result<Self> {
        let write = fresh.is_some();
        let rocks = db.map_err(|e| failed(&kind, &e))?;
        let db = Self { rocks, kind, fresh: fresh.unwrap_or_default() };
        match db.rocks.get(b"format").map_err(|e| db.failed(&e))? {
            Some(format) if format == FORMAT => {}
            None if write => db.rocks.put(b"format", FORMAT).map_err(|e| db.failed(&e))?,
            _ => {
                return Err(Error::unsupported(format!(
                    "the {} was written by another version of relayer; delete its folder and add \
                     the images again",
                    kind.name
                )));
            }
        }
        Ok(db)
    }

    /// A value.
    pub(crate) fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.rocks.get_cf(self.table(table)?, key);
        value.map_err(|e| self.failed(&e)).context(|| format!("reading the {}", self.kind.name))
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
    pub(crate) fn below<'a>(&'a self, table: &str, prefix: &'a [u8]) -> Result<Entries<'a>> {
        let entries = self
            .rocks
            .iterator_cf(self.table(table)?, IteratorMode::From(prefix, Direction::Forward));
        let entries = entries.map_while(move |item| match item {
            Ok((key, _)) if !key.starts_with(prefix) => None,
            Ok(entry) => Some(Ok(entry)),
            Err(e) => Some(Err(self.failed(&e))),
        });
        Ok(Box::new(entries))
    }

    /// The last entry of a table whose key is `key` or before it.
    pub(crate) fn at_or_before(&self, table: &str, key: &[u8]) -> Result<Option<Entry>> {
        let mode = IteratorMode::From(key, Direction::Reverse);
        let mut entries = self.rocks.iterator_cf(self.table(table)?, mode);
        entries.next().transpose().map_err(|e| self.failed(&e))
    }

    /// Changes to be made together.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { db: self, batch: WriteBatch::default() }
    }

    /// Puts all that was written into files with checksums, which a damaged log can't take away.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        for (table, _) in self.kind.tables {
            let done = self.rocks.flush_cf_opt(self.table(table)?, &flush);
            done.map_err(|e| self.failed(&e))?;
        }
        self.rocks.flush_opt(&flush).map_err(|e| self.failed(&e))
    }

    /// Gives back the room of what was deleted.
    pub(crate) fn compact(&self) -> Result<()> {
        let mut all = rocksdb::CompactOptions::default();
        all.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::ForceOptimized);
        for (table, _) in self.kind.tables {
            let table = self.table(table)?;
            self.rocks.compact_range_cf_opt(table, None::<&[u8]>, None::<&[u8]>, &all);
        }
        Ok(())
    }

    /// Says that something in the database can't be.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        damaged(&self.kind, what)
    }

    fn table(&self, name: &str) -> Result<&ColumnFamily> {
        self.rocks.cf_handle(name).ok_or_else(|| self.damaged(&format!("there is no table {name}")))
    }

    fn failed(&self, e: &rocksdb::Error) -> Error {
        failed(&self.kind, e)
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
        self.batch.put_cf(self.db.table(table)?, key, value);
        Ok(())
    }

    pub(crate) fn put_json(
        &mut self,
        table: &str,
        key: &[u8],
        value: &impl Serialize,
    ) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(std::io::Error::from)?;
        self.put(table, key, &value)
    }

    pub(crate) fn delete(&mut self, table: &str, key: &[u8]) -> Result<()> {
        self.batch.delete_cf(self.db.table(table)?, key);
        Ok(())
    }

    /// Makes the changes. They outlive the process; with `sync`, and all before them, the machine.
    pub(crate) fn write(self, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let done = self.db.rocks.write_opt(self.batch, &options);
        done.map_err(|e| self.db.failed(&e))
            .context(|| format!("writing the {}", self.db.kind.name))?;
        self.db.fresh.take();
        Ok(())
    }
}

fn options() -> Options {
    let mut options = Options::default();
    // It would keep a log of what it does, larger than some stores.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| ()));
    // A record that a killed process left half written is no damage; anything else is.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_manifest_preallocation_size(1 << 16);
    options
}

fn descriptors(kind: &Kind) -> Vec<ColumnFamilyDescriptor> {
    tables(kind, &Options::default())
}

/// Values in files of their own are only moved when room is to be had: all of them, when we say so.
fn compacting(kind: &Kind) -> Vec<ColumnFamilyDescriptor> {
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(1.0);
    options.set_blob_gc_force_threshold(0.0);
    tables(kind, &options)
}

fn tables(kind: &Kind, options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let of = |(name, large): &(&str, Option<u64>)| {
        let mut options = options.clone();
        options.set_compression_type(DBCompressionType::Zstd);
        if let Some(bytes) = large {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(*bytes);
            options.set_blob_file_size(256 << 20);
        }
        ColumnFamilyDescriptor::new(*name, options)
    };
    kind.tables.iter().map(of).collect()
}

fn place(kind: &Kind, dir: &Path) -> String {
    format!("opening the {} in {}", kind.name, dir.display())
}

fn damaged(Kind { name, mend, .. }: &Kind, what: &str) -> Error {
    Error::malformed(format!("the {name} is damaged: {what}; {mend}"))
}

/// Refuses logs with records of kinds that are not written here: RocksDB 11.8 reads them without end,
/// and a flipped bit makes them. All else it finds itself
/// ([format](https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format)).
fn check_logs(kind: &Kind, dir: &Path) -> Result<()> {
    let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap_or_default();
    for file in std::fs::read_dir(dir)? {
        let name = file?.file_name();
        let name = name.to_string_lossy();
        if !name.ends_with(".log") && name != current.trim_end() {
            continue;
        }
        // Another process may remove it meanwhile.
        let Ok(mut file) = File::open(dir.join(&*name)) else { continue };
        let mut block = Vec::new();
        while (&mut file).take(LOG_BLOCK).read_to_end(&mut block)? > 0 {
            let mut rest = &block[..];
            while let Some((head, after)) = rest.split_first_chunk::<7>() {
                // Four bytes of a checksum, two of the size, one of the kind.
                match head[6] {
                    0 => break,
                    1..=4 => {}
                    _ => return Err(damaged(kind, &format!("{name} has a record of no kind"))),
                }
                let size = u16::from_le_bytes([head[4], head[5]]);
                rest = after.get(usize::from(size)..).unwrap_or_default();
            }
            block.clear();
        }
    }
    Ok(())
}

fn failed(kind: &Kind, e: &rocksdb::Error) -> Error {
    let text = e.to_string();
    match e.kind() {
        rocksdb::ErrorKind::IOError if text.contains("Permission denied") => {
            Error::refused(format!("this user has no permission for that ({text})"))
        }
        rocksdb::ErrorKind::IOError
            if ["While lock file", "lock hold by current process"]
                .iter()
                .any(|held| text.contains(held)) =>
        {
            Error::refused("another relayer is writing to it; try again when that has ended")
        }
        rocksdb::ErrorKind::Corruption => {
            Error::malformed(format!("the {} is damaged ({text}); {}", kind.name, kind.mend))
        }
        // What it lists itself: lost, or collected while somebody read.
        rocksdb::ErrorKind::IOError if text.contains("No such file") => Error::malformed(format!(
            "the {} is damaged, unless something was taken out of it meanwhile ({text}); {}",
            kind.name, kind.mend
        )),
        _ => Error::new(ErrorKind::Io, text),
    }
}
