//! A folder of downloaded blobs by digest, shared by all processes of a user.
//!
//! `blobs/sha256/HEX` is complete and had its digest when it was added; it is verified again when it is
//! opened. `partial/HEX` is a download in progress, locked by its process, or what is left of one:
//! `partial/HEX.bytes` notes the [pieces](Pieces) that are there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::pieces::Pieces;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_DOCUMENT_BYTES;
use crate::model::digest::{Digest, Hashing};
use crate::transport::files::open_regular;

/// Time and bytes after which the pieces of a download are noted.
const STEP: (Duration, u64) = (Duration::from_millis(200), 4 << 20);

/// The cache, or by default none: then every blob is downloaded to a temporary file.
#[derive(Debug, Default)]
pub struct Cache {
    dir: Option<PathBuf>,
    /// Bytes that complete blobs may take.
    limit: u64,
}

/// A file to download into.
pub(super) struct Partial {
    pub(super) file: File,
    /// Where it is; `None` if it is a temporary file without a name.
    path: Option<PathBuf>,
    /// Whether another process downloaded some of it.
    pub(super) resumed: bool,
    noted: Mutex<Noted>,
}

/// The notes on a partial file.
#[derive(Default)]
struct Noted {
    last: Option<Instant>,
    /// Bytes that have come since then.
    bytes: u64,
    /// Whether the file is no longer one to note anything on.
    closed: bool,
}

/// What [`Cache::prune`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Number of blobs removed.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Number of blobs left.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

impl Cache {
    /// Opens the cache in `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// If it can't be written to.
    pub fn open(dir: &Path, limit: u64) -> Result<Self> {
        for folder in ["blobs/sha256", "partial"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path)
                .with_context(|| format!("creating the cache {}", path.display()))?;
        }
        Ok(Self { dir: Some(dir.to_owned()), limit })
    }

    /// Returns the default folder: `relayer` in the user's folder of caches.
    pub fn default_dir(env: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
        let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        caches.map(|dir| dir.join("relayer"))
    }

    fn blob(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join("blobs/sha256").join(digest.hex()))
    }

    /// Returns the complete blob of this digest and size, if it is there. It is removed if it is damaged.
    pub(super) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let path = self.blob(digest)?;
        let mut file = open_regular(&path).ok()?;
        if file.metadata().ok()?.len() != size || !has_digest(&mut file, digest).ok()? {
            // If it can't be removed, it is replaced.
            let _ = fs::remove_file(&path);
            return None;
        }
        // The time of the last use, for the next removal. It is a help, not a need.
        let _ =
            File::options().write(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        Some(file)
    }

    /// Returns the document of this digest, if it is there and intact.
    pub(super) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.blob(digest)?;
        let file = open_regular(&path).ok()?;
        if file.metadata().ok()?.len() > MAX_DOCUMENT_BYTES {
            return None;
        }
        let bytes = fs::read(path).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Adds a document. Without room for it, it is downloaded again next time.
    pub(super) fn add_document(&self, digest: &Digest, bytes: &[u8]) {
        let (Some(path), Some(dir)) = (self.blob(digest), &self.dir) else { return };
        let _ = tempfile::NamedTempFile::new_in(dir.join("partial")).and_then(|mut file| {
            io::Write::write_all(&mut file, bytes)?;
            file.persist(path).map_err(io::Error::from)
        });
    }

    /// Returns a file to download the `pieces` of a blob into, and adds to them what an earlier process
    /// left of it.
    ///
    /// # Errors
    /// If no file can be created.
    pub(super) fn partial(&self, digest: &Digest, pieces: &mut Pieces) -> Result<Partial> {
        if let Some(dir) = &self.dir {
            let path = dir.join("partial").join(digest.hex());
            if let Some(partial) = Self::resume(&path, pieces)
                .with_context(|| format!("opening {} in the cache", path.display()))?
            {
                return Ok(partial);
            }
        }
        let file = tempfile::tempfile().with_context(|| "creating a temporary file")?;
        file.set_len(pieces.size()).with_context(|| "creating a temporary file")?;
        Ok(Partial { file, path: None, resumed: false, noted: Mutex::default() })
    }

    /// Opens a partial file; `None` if another process is downloading into it.
    fn resume(path: &Path, pieces: &mut Pieces) -> Result<Option<Partial>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.try_lock().is_err() || !crate::base::temporary::is_at(&file, path)? {
            return Ok(None);
        }
        if file.metadata()?.len() == pieces.size()
            && let Ok(note) = fs::read_to_string(note_on(path))
            && let Some(noted) = pieces.noted(&note)
        {
            *pieces = noted;
        }
        // No room is taken before bytes come.
        file.set_len(pieces.size())?;
        let (resumed, path) = (pieces.bytes() > 0, Some(path.to_owned()));
        Ok(Some(Partial { file, path, resumed, noted: Mutex::default() }))
    }

    /// Makes a complete and verified download a blob of the cache.
    pub(super) fn publish(&self, digest: &Digest, partial: &Partial) -> Result<()> {
        let (Some(from), Some(to)) = (&partial.path, self.blob(digest)) else { return Ok(()) };
        partial.close(from);
        fs::rename(from, &to).with_context(|| format!("adding {} to the cache", to.display()))
    }

    /// Removes the blobs that were not used for longest, until those left have at most `limit` bytes,
    /// and what unfinished downloads left behind.
    ///
    /// # Errors
    /// If the folder can't be read or a blob can't be removed.
    pub fn prune(&self, limit: u64) -> Result<Pruned> {
        let Some(dir) = &self.dir else { return Ok(Pruned::default()) };
        let place = || format!("pruning the cache {}", dir.display());
        remove_partial(&dir.join("partial")).with_context(place)?;
        let mut blobs = blobs(dir).with_context(place)?;
        blobs.sort_unstable();
        let mut pruned = Pruned::default();
        let mut bytes: u64 = blobs.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in blobs {
            if bytes <= limit {
                pruned.kept += 1;
                pruned.kept_bytes += size;
                continue;
            }
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).with_context(place),
                _ => {}
            }
            bytes -= size;
            pruned.removed += 1;
            pruned.removed_bytes += size;
        }
        Ok(pruned)
    }

    /// Keeps to the cache's own limit.
    ///
    /// # Errors
    /// As for [`Cache::prune`].
    pub(super) fn trim(&self) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let bytes: u64 = blobs(dir)?.iter().map(|(_, size, _)| size).sum();
        if bytes > self.limit { self.prune(self.limit).map(drop) } else { Ok(()) }
    }
}

impl Partial {
    /// Notes the pieces that are there, for another process if this one ends, when enough `bytes` or
    /// time have come since the last note.
    pub(super) fn note(&self, bytes: u64, pieces: impl FnOnce() -> Option<String>) {
        // Another thread notes the same.
        let (Some(path), Ok(mut noted)) = (&self.path, self.noted.try_lock()) else { return };
        noted.bytes = noted.bytes.saturating_add(bytes);
        let is_new = noted.last.is_some_and(|last| last.elapsed() < STEP.0);
        if noted.closed || (is_new && noted.bytes < STEP.1) {
            return;
        }
        if let Some(note) = pieces() {
            // Without the note another process begins from the start.
            let new = path.with_extension("new");
            let _ = fs::write(&new, note).and_then(|()| fs::rename(new, note_on(path)));
        }
        *noted = Noted { last: Some(Instant::now()), ..Noted::default() };
    }

    /// Removes the note, now that no other process goes on with the file.
    fn close(&self, path: &Path) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        let _ = fs::remove_file(note_on(path));
    }

    /// Removes the file: its bytes are wrong.
    pub(super) fn discard(&self) {
        if let Some(path) = &self.path {
            self.close(path);
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the complete blobs: when each was used last, its bytes and its path.
fn blobs(dir: &Path) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut blobs = Vec::new();
    for entry in fs::read_dir(dir.join("blobs/sha256"))? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) => blobs.push((metadata.modified()?, metadata.len(), entry.path())),
            // Another process has removed it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(blobs)
}

/// Returns the path of the note on a partial file.
fn note_on(path: &Path) -> PathBuf {
    path.with_extension("bytes")
}

/// Returns whether a file has this digest.
fn has_digest(file: &mut File, digest: &Digest) -> io::Result<bool> {
    let mut hashing = Hashing::new(io::BufReader::with_capacity(1 << 18, &*file));
    io::copy(&mut hashing, &mut io::sink())?;
    let (_, found, _) = hashing.finish();
    file.rewind()?;
    Ok(found == *digest)
}

/// Removes partial files that no process is downloading into, and notes on files that are gone.
fn remove_partial(dir: &Path) -> Result<()> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::from(e)),
        _ => Ok(()),
    };
    let mut notes = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some() {
            notes.push(path);
        } else if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            remove(&path)?;
        }
    }
    let orphans = notes.iter().filter(|path| !path.with_extension("").exists());
    orphans.into_iter().try_for_each(|path| remove(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn add(cache: &Cache, bytes: &[u8], age: u64) -> Digest {
        let digest = Digest::of(bytes);
        let mut pieces = Pieces::new(bytes.len() as u64, 1 << 20);
        let partial = cache.partial(&digest, &mut pieces).unwrap();
        partial.file.write_all_at(bytes, 0).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        partial.file.set_modified(time).unwrap();
        cache.publish(&digest, &partial).unwrap();
        digest
    }

    #[test]
    fn the_longest_unused_is_removed_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 10).unwrap();
        let all: Vec<_> = [3, 2, 1].map(|age| add(&cache, &[age as u8; 5], age * 100)).into();
        assert!(cache.get(&all[0], 5).is_some(), "its use counts");
        cache.trim().unwrap();
        let left: Vec<_> = all.iter().map(|d| cache.get(d, 5).is_some()).collect();
        assert_eq!(left, [true, false, true]);
        assert_eq!(
            cache.prune(0).unwrap(),
            Pruned { removed: 2, removed_bytes: 10, ..Pruned::default() }
        );
    }

    #[test]
    fn a_download_goes_on_where_another_process_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 100).unwrap();
        let digest = Digest::of(b"x");
        let new = || Pieces::new(10, 4);
        let (mut pieces, mut others) = (new(), new());
        let partial = cache.partial(&digest, &mut pieces).unwrap();
        partial.file.write_all_at(b"12345", 0).unwrap();
        pieces.add(0, 4);
        pieces.add(1, 5);
        partial.note(9, || Some(pieces.note()));
        // While one process has it, another one uses a file of its own.
        assert_eq!(cache.partial(&digest, &mut others).unwrap().path, None);
        assert_eq!(others, new());
        drop(partial);
        let again = cache.partial(&digest, &mut others).unwrap();
        assert!(again.resumed && others == pieces);
        drop(again);
        // An unfinished note, other pieces, and a file of another length.
        fs::write(dir.path().join("partial").join(format!("{}.new", digest.hex())), "4 1").unwrap();
        let mut other = Pieces::new(10, 3);
        assert!(!cache.partial(&digest, &mut other).unwrap().resumed);
        File::options()
            .write(true)
            .open(dir.path().join("partial").join(digest.hex()))
            .unwrap()
            .set_len(9)
            .unwrap();
        assert!(!cache.partial(&digest, &mut new()).unwrap().resumed);
        cache.prune(100).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_document_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 100).unwrap();
        let digest = Digest::of(b"{}");
        cache.add_document(&digest, b"{}");
        assert_eq!(cache.document(&digest).as_deref(), Some(&b"{}"[..]));
        fs::write(cache.blob(&digest).unwrap(), b"{ }").unwrap();
        assert_eq!(cache.document(&digest), None);
    }
}
