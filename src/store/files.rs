//! The store's own files, beside its index.
//!
//! `packs/` holds the packs, one after the other. `records/` holds what packs do not say: every change
//! of images, blobs and layers, in order. The index can be rebuilt from both. Files are only appended
//! to; `gc` writes new ones. The index has the end of each file: anything after that was written by a
//! process that did not finish.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::encoding::{PackHeader, PackLocation};
use super::entry::{self, StoreEntry};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_STORE_RECORD;
use crate::base::varint;
use crate::format::codec::zstd_prefix::{self, Parameters};

/// Maximum number of a chunk: at the average chunk size, a petabyte.
pub(super) const MAX_CHUNK_NUMBER: u64 = 1 << 34;
/// Size at which a new pack file is begun.
const MAX_PACK_FILE: u64 = 256 << 20;
/// Tables whose changes are recorded. Records contain positions in this list.
const RECORDED: [&str; 3] = ["images", "blobs", "layers"];
/// Size of the records that a rewrite of all records writes.
const RECORD_SIZE: usize = 1 << 20;
/// Maximum number of a file, which is never reached.
const MAX_FILE_NUMBER: u64 = 1 << 40;
/// zstd level of records.
const LEVEL: i32 = 3;
/// Base-2 logarithm of their zstd window.
const WINDOW: u32 = 23;

/// The valid part of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The next chunk number. No chunk ever had it or a greater one.
    pub(super) next: u64,
    /// The end of the packs.
    pub(super) packs: FileEnd,
    /// The end of the records.
    pub(super) records: FileEnd,
}

/// The end of the file that is appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEnd {
    /// Number of the file.
    pub(super) file: u64,
    /// Its size in bytes.
    pub(super) end: u64,
}

impl State {
    /// The state of an empty store.
    pub(super) const EMPTY: Self =
        Self { next: 0, packs: FileEnd { file: 1, end: 0 }, records: FileEnd { file: 1, end: 0 } };

    /// Returns whether all numbers are within their limits.
    pub(super) fn is_valid(&self) -> bool {
        let end = |end: FileEnd| end.file <= MAX_FILE_NUMBER && i64::try_from(end.end).is_ok();
        self.next <= MAX_CHUNK_NUMBER && end(self.packs) && end(self.records)
    }
}

/// A folder of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreFolder {
    Packs,
    Records,
}

impl StoreFolder {
    /// Returns the name of a file as messages show it.
    pub(super) fn name(self, number: u64) -> String {
        let folder = match self {
            Self::Packs => "packs",
            Self::Records => "records",
        };
        format!("{folder}/{number:06}")
    }

    pub(super) fn path(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(self.name(number))
    }

    /// Returns the numbers of its files, with their sizes.
    pub(super) fn list(self, dir: &Path) -> Result<Vec<(u64, u64)>> {
        let path = self.path(dir, 0);
        let folder = path.parent().unwrap_or(dir);
        let files = match fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.with_context(|| format!("reading {}", folder.display()))?,
        };
        let mut list = Vec::new();
        for file in files {
            let file = file.with_context(|| format!("reading {}", folder.display()))?;
            let number = file.file_name().to_str().and_then(|name| name.parse().ok());
            // A file with another name does not belong to the store.
            let ours = |n: &u64| *n <= MAX_FILE_NUMBER && self.path(dir, *n) == file.path();
            let Some(number) = number.filter(ours) else { continue };
            let metadata = file.metadata();
            let metadata =
                metadata.with_context(|| format!("reading {}", file.path().display()))?;
            list.push((number, metadata.len()));
        }
        list.sort_unstable();
        Ok(list)
    }
}

/// A file that is open for appending.
struct OpenFile {
    file: File,
    number: u64,
}

/// The files that a store appends to.
#[derive(Default)]
pub(super) struct OpenFiles {
    packs: Option<OpenFile>,
    records: Option<OpenFile>,
}

impl OpenFiles {
    fn of(&mut self, folder: StoreFolder, dir: &Path, end: FileEnd) -> Result<&mut File> {
        let tail = match folder {
            StoreFolder::Packs => &mut self.packs,
            StoreFolder::Records => &mut self.records,
        };
        if tail.as_ref().is_none_or(|tail| tail.number != end.file) {
            let path = folder.path(dir, end.file);
            let above = path.parent().unwrap_or(dir);
            fs::create_dir_all(above)?;
            let file = OpenOptions::new().create(true).append(true).open(&path);
            let file = file.with_context(|| format!("opening {}", path.display()))?;
            // Sync the folders too, or the new file may not survive a crash.
            for folder in [above, dir] {
                File::open(folder)?.sync_all()?;
            }
            *tail = Some(OpenFile { file, number: end.file });
        }
        tail.as_mut().map(|tail| &mut tail.file).ok_or_else(|| Error::malformed("no file is open"))
    }

    /// Appends an entry, and advances the end.
    fn append(
        &mut self,
        folder: StoreFolder,
        dir: &Path,
        end: &mut FileEnd,
        (head, body): (&[u8], &[u8]),
    ) -> Result<()> {
        let begin = entry::encode_start(head, body);
        let file = self.of(folder, dir, *end)?;
        let done = file.write_all(&begin).and_then(|()| file.write_all(body));
        if let Err(e) = done {
            // Remove what was written of it.
            let _ = file.set_len(end.end);
            return Err(e)
                .with_context(|| format!("writing {}", folder.path(dir, end.file).display()));
        }
        end.end += (begin.len() + body.len()) as u64;
        Ok(())
    }

    /// Appends a pack and returns its location. [`sync`](Self::sync) makes it durable.
    pub(super) fn pack(
        &mut self,
        dir: &Path,
        state: &mut State,
        (first, header): (u64, &PackHeader),
        frame: &[u8],
    ) -> Result<PackLocation> {
        if state.packs.end >= MAX_PACK_FILE {
            self.sync()?;
            state.packs = FileEnd { file: state.packs.file + 1, end: 0 };
        }
        let place = PackLocation { file: state.packs.file, offset: state.packs.end };
        self.append(StoreFolder::Packs, dir, &mut state.packs, (&header.to_head(first), frame))?;
        Ok(place)
    }

    /// Syncs packs to disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.packs.iter().try_for_each(|tail| Ok(tail.file.sync_data()?))
    }

    /// Appends changes to the records, and syncs them to disk.
    pub(super) fn record(&mut self, dir: &Path, state: &mut State, changes: &[u8]) -> Result<()> {
        let mut head = Vec::new();
        varint::put(&mut head, state.next);
        varint::put(&mut head, changes.len() as u64);
        let body = zstd_prefix::compress(changes, b"", Parameters::of(LEVEL, WINDOW))?;
        self.append(StoreFolder::Records, dir, &mut state.records, (&head, &body))?;
        let tail = self.records.as_ref();
        tail.map_or(Ok(()), |tail| Ok(tail.file.sync_data()?))
    }
}

/// Removes unfinished writes: everything after the ends, and files that the index does not know.
pub(super) fn remove_unfinished(dir: &Path, state: &State) -> Result<()> {
    for (folder, end) in [(StoreFolder::Packs, state.packs), (StoreFolder::Records, state.records)]
    {
        for (number, bytes) in folder.list(dir)? {
            let path = folder.path(dir, number);
            let place = || format!("removing unfinished writes from {}", path.display());
            let older = folder == StoreFolder::Records && number < end.file;
            if number > end.file || older {
                fs::remove_file(&path).with_context(place)?;
            } else if number == end.file && bytes > end.end {
                let file = OpenOptions::new().write(true).open(&path).with_context(place)?;
                file.set_len(end.end).with_context(place)?;
            }
        }
    }
    Ok(())
}

/// Writes new records of everything.
pub(super) struct RecordWriter<'a> {
    dir: &'a Path,
    state: &'a mut State,
    tails: OpenFiles,
    changes: StoreChanges,
}

impl<'a> RecordWriter<'a> {
    /// Creates a writer that starts at the end of the records in `state`, and advances it.
    pub(super) fn new(dir: &'a Path, state: &'a mut State) -> Self {
        Self { dir, state, tails: OpenFiles::default(), changes: StoreChanges::default() }
    }

    pub(super) fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        self.changes.add(table, key, Some(value));
        if self.changes.0.len() >= RECORD_SIZE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.changes.0);
        self.tails.record(self.dir, self.state, &changes)
    }

    /// Writes the remaining changes.
    pub(super) fn finish(mut self) -> Result<()> {
        self.write()
    }
}

/// A function that gets a change: its table, its key, and the new value, or `None` for a deletion.
pub(super) type EachChange<'a> = dyn FnMut(&'static str, &[u8], Option<&[u8]>) + 'a;

/// Encoded changes.
#[derive(Default)]
pub(super) struct StoreChanges(pub(super) Vec<u8>);

impl StoreChanges {
    /// Adds a change if its table is recorded.
    pub(super) fn add(&mut self, table: &str, key: &[u8], value: Option<&[u8]>) {
        let Some(at) = RECORDED.iter().position(|name| *name == table) else { return };
        self.0.extend_from_slice(&[at as u8, u8::from(value.is_some())]);
        for bytes in [Some(key), value].into_iter().flatten() {
            varint::put(&mut self.0, bytes.len() as u64);
            self.0.extend_from_slice(bytes);
        }
    }

    /// Decodes changes. Returns `None` if they are not valid.
    fn each(mut bytes: &[u8], each: &mut EachChange<'_>) -> Option<()> {
        fn piece<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
            let size = usize::try_from(varint::take(bytes)?).ok()?;
            let (piece, rest) = bytes.split_at_checked(size)?;
            *bytes = rest;
            Some(piece)
        }
        while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
            bytes = rest;
            let table = *RECORDED.get(usize::from(head[0]))?;
            let key = piece(&mut bytes)?;
            let value = if head[1] == 0 { None } else { Some(piece(&mut bytes)?) };
            each(table, key, value);
        }
        bytes.is_empty().then_some(())
    }
}

/// Returns the names of the tables whose changes are recorded.
pub(super) fn recorded() -> impl Iterator<Item = &'static str> {
    RECORDED.into_iter()
}

/// Reads records up to an end and shows `each` every change. Returns the next chunk number at that
/// time, and the number of damaged records.
pub(super) fn replay(dir: &Path, end: FileEnd, each: &mut EachChange<'_>) -> Result<(u64, u64)> {
    let path = StoreFolder::Records.path(dir, end.file);
    if end.end == 0 {
        return Ok((0, 0));
    }
    let (mut next, mut bad, mut failed) = (0, 0, None);
    let mut one = |file: &File, entry: &StoreEntry| -> Result<Option<()>> {
        let body = entry.read_body(file)?;
        let mut head = &entry.head[..];
        let (Some(limit), Some(size)) = (varint::take(&mut head), varint::take(&mut head)) else {
            return Ok(None);
        };
        next = next.max(limit);
        if size > MAX_STORE_RECORD {
            return Ok(None);
        }
        let changes = zstd_prefix::decompress(&body, b"", size, WINDOW)?;
        Ok(StoreChanges::each(&changes, each))
    };
    let mut last = 0;
    let damaged = entry::scan(&path, end.end, &mut |file, entry| {
        last = entry.end();
        match one(file, &entry) {
            Ok(Some(())) => {}
            Err(e) if e.kind() == crate::base::error::ErrorKind::Io => failed = Some(e),
            _ => bad += 1,
        }
    });
    let damaged = match damaged {
        Err(e) if e.io_kind() == Some(io::ErrorKind::NotFound) => 1,
        damaged => damaged.with_context(|| format!("reading {}", path.display()))?,
    };
    // If the file ends at the start of an entry, no entry is damaged.
    let short = u64::from(last < end.end && damaged == 0);
    failed.map_or(Ok((next, damaged + bad + short)), Err)
}
