//! A folder of downloaded blobs by digest, shared by all processes of a user.
//!
//! `blobs/sha256/HEX` is complete and had its digest when it was added; whoever reads it verifies it
//! again. `partial/HEX` is a download in progress, locked by its process, or what is left of one:
//! `partial/HEX.bytes` has the number of bytes from its beginning that are there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_DOCUMENT_BYTES;
use crate::model::digest::Digest;
use crate::transport::files::open_regular;

/// The cache, or by default none: then every blob is downloaded to a temporary file.
#[derive(Debug, Default)]
pub struct Cache {
    dir: Option<PathBuf>,
    /// Bytes that complete blobs may take.
    limit: u64,
}

/// A file to download into.
pub(super) struct Partial {
    pub(super) file: Arc<File>,
    /// Bytes from the beginning that are there already.
    pub(super) bytes: u64,
    /// Where it is; `None` if it is a temporary file without a name.
    path: Option<PathBuf>,
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

    /// Returns the complete blob of this digest and size, if it is there.
    pub(super) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let path = self.blob(digest)?;
        let file = open_regular(&path).ok()?;
        if file.metadata().ok()?.len() != size {
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

    /// Returns a file to download a blob into, with what an earlier process left of it.
    ///
    /// # Errors
    /// If no file can be created.
    pub(super) fn partial(&self, digest: &Digest, size: u64) -> Result<Partial> {
        if let Some(dir) = &self.dir {
            let path = dir.join("partial").join(digest.hex());
            if let Some(partial) = Self::resume(&path, size)
                .with_context(|| format!("opening {} in the cache", path.display()))?
            {
                return Ok(partial);
            }
        }
        let file = tempfile::tempfile().with_context(|| "creating a temporary file")?;
        Ok(Partial { file: Arc::new(file), bytes: 0, path: None })
    }

    /// Opens a partial file; `None` if another process is downloading into it.
    fn resume(path: &Path, size: u64) -> Result<Option<Partial>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.try_lock().is_err() || !crate::base::temporary::is_at(&file, path)? {
            return Ok(None);
        }
        let stated = fs::read_to_string(counter(path)).ok().and_then(|text| text.parse().ok());
        let there = file.metadata()?.len().min(size);
        let bytes = stated.filter(|bytes| *bytes <= there).unwrap_or(0);
        file.set_len(size)?;
        Ok(Some(Partial { file: Arc::new(file), bytes, path: Some(path.to_owned()) }))
    }

    /// Makes a complete and verified download a blob of the cache.
    pub(super) fn publish(&self, digest: &Digest, partial: &Partial) -> Result<()> {
        let (Some(from), Some(to)) = (&partial.path, self.blob(digest)) else { return Ok(()) };
        let _ = fs::remove_file(counter(from));
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
        let mut blobs = Vec::new();
        for entry in fs::read_dir(dir.join("blobs/sha256")).with_context(place)? {
            let entry = entry.with_context(place)?;
            let metadata = entry.metadata().with_context(place)?;
            blobs.push((metadata.modified().with_context(place)?, metadata.len(), entry.path()));
        }
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
        let mut bytes = 0;
        for entry in fs::read_dir(dir.join("blobs/sha256"))? {
            bytes += entry?.metadata().map_or(0, |m| m.len());
        }
        if bytes > self.limit { self.prune(self.limit).map(drop) } else { Ok(()) }
    }
}

impl Partial {
    /// Notes that the first `bytes` are there, for another process if this one ends.
    pub(super) fn note(&self, bytes: u64) {
        if let Some(path) = &self.path {
            // Without the note another process begins from the start.
            let _ = fs::write(counter(path), bytes.to_string());
        }
    }

    /// Removes the file: its bytes are wrong.
    pub(super) fn discard(&self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(counter(path));
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the path of the note on a partial file.
fn counter(path: &Path) -> PathBuf {
    path.with_extension("bytes")
}

/// Removes partial files that no process is downloading into.
fn remove_partial(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some() {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(counter(&path));
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::from(e)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn add(cache: &Cache, bytes: &[u8], age: u64) -> Digest {
        let digest = Digest::of(bytes);
        let partial = cache.partial(&digest, bytes.len() as u64).unwrap();
        partial.file.write_all_at(bytes, 0).unwrap();
        let time = SystemTime::now() - std::time::Duration::from_secs(age);
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
        let partial = cache.partial(&digest, 10).unwrap();
        partial.file.write_all_at(b"12345", 0).unwrap();
        partial.note(5);
        // While one process has it, another one uses a file of its own.
        assert_eq!(cache.partial(&digest, 10).unwrap().path, None);
        drop(partial);
        let again = cache.partial(&digest, 10).unwrap();
        assert_eq!(again.bytes, 5);
        drop(again);
        // A note on more than there can be is not believed.
        fs::write(dir.path().join(format!("partial/{}.bytes", digest.hex())), "99").unwrap();
        assert_eq!(cache.partial(&digest, 10).unwrap().bytes, 0);
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
