//! Temporary files and folders, removed unless the work they belong to is finished.
//!
//! An unfinished file has a name like `.relayer-Ab12Cd.tmp`, and its owner holds a flock(2) on it. A
//! killed process leaves such a file unlocked, and the next process that writes to that folder removes
//! it. All unfinished files of this process are also in one list, for the thread that ends the process
//! on a signal.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::error::{Context, Error, Result};

const PREFIX: &str = ".relayer-";
const SUFFIX: &str = ".tmp";

/// Number of random characters between prefix and suffix.
const RANDOM: usize = 6;

/// Attempts to create a file. A sweep by another process may remove a file before its owner locks it,
/// or the folder before a file is created in it, but not this many times by chance.
pub(crate) const ATTEMPTS: usize = 100;

/// What to remove if the process ends now, oldest first, each with the number of its owner. It is locked
/// while a file gets its final name, so that no signal comes between that and its removal from the list.
static UNFINISHED: Mutex<Vec<(u64, Unfinished)>> = Mutex::new(Vec::new());

pub(super) enum Unfinished {
    File(PathBuf),
    /// A folder, removed only if it is empty.
    Folder(PathBuf),
    /// A folder with everything in it.
    Tree(PathBuf),
    /// Something that is not a file, with how to end it.
    Call(Arc<dyn Fn() + Send + Sync>),
    /// Files are not removed if the file at this path is no longer the one with this identity.
    Unless(PathBuf, Option<(u64, u64)>),
}

fn unfinished() -> MutexGuard<'static, Vec<(u64, Unfinished)>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes everything of `owner` from the list and returns it.
fn take(list: &mut Vec<(u64, Unfinished)>, owner: u64) -> Vec<Unfinished> {
    let mine = list.extract_if(.., |(by, _)| *by == owner);
    mine.map(|(_, what)| what).collect()
}

fn remove(what: &[Unfinished]) {
    let stay =
        what.iter().any(|b| matches!(b, Unfinished::Unless(path, was) if identity(path) != *was));
    for unfinished in what.iter().rev() {
        // If removal fails nothing more can be done; the error that ended the work is reported.
        let _ = match unfinished {
            Unfinished::File(path) if !stay => fs::remove_file(path),
            Unfinished::Folder(path) => fs::remove_dir(path),
            Unfinished::Tree(path) => fs::remove_dir_all(path),
            Unfinished::Call(end) => {
                end();
                Ok(())
            }
            Unfinished::File(_) | Unfinished::Unless(..) => Ok(()),
        };
    }
}

/// Returns device and inode number, which tell a file from one that replaces it.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Whether a path leads to this open file: between opening a file and locking it, whoever had the lock
/// may have removed it.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    Ok(identity(path) == Some((open.dev(), open.ino())))
}

/// Files and folders that were created; removed on drop unless [`TemporaryFile::persist`] keeps them.
pub(crate) struct Rollback {
    owner: u64,
}

impl Rollback {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { owner: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn begin(&self, what: Unfinished) {
        unfinished().push((self.owner, what));
    }

    /// Adds a file that is about to be created.
    pub(crate) fn file(&self, path: &Path) {
        self.begin(Unfinished::File(path.to_owned()));
    }

    /// Adds something that is not a file. `end` is called once, unless it is [kept](Self::keep). It must
    /// not take long, and must not begin or finish files.
    pub(crate) fn call(&self, end: impl Fn() + Send + Sync + 'static) {
        self.begin(Unfinished::Call(Arc::new(end)));
    }

    /// Keeps everything: it is finished.
    pub(crate) fn keep(&self) {
        take(&mut unfinished(), self.owner);
    }

    /// Keeps the files if another process replaces the file at `path` from now on: it may refer to them.
    pub(crate) fn unless_replaced(&self, path: &Path) {
        self.begin(Unfinished::Unless(path.to_owned(), identity(path)));
    }

    /// Creates a folder and its missing parents.
    pub(crate) fn folders(&self, path: &Path) -> io::Result<()> {
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        for dir in missing.collect::<Vec<_>>().into_iter().rev() {
            let mut list = unfinished();
            match fs::create_dir(dir) {
                Ok(()) => list.push((self.owner, Unfinished::Folder(dir.to_owned()))),
                // Another process was first.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        let mut list = unfinished();
        let mine = take(&mut list, self.owner);
        remove(&mine);
    }
}

/// A file under a temporary name, removed on drop unless it is given its final name.
pub(crate) struct TemporaryFile {
    // Dropped in this order.
    added: Rollback,
    file: File,
    path: PathBuf,
}

impl TemporaryFile {
    /// Creates an empty file in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let open = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
        let (added, file, path) = make(dir, open, Unfinished::File)?;
        Ok(Self { added, file, path })
    }

    /// Returns the file, to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and renames it to `path`, which must be in the same file system. Everything in
    /// `others` is kept from the same moment on.
    pub(crate) fn persist(self, path: &Path, others: Option<&Rollback>) -> Result<()> {
        self.file.sync_all()?;
        let mut list = unfinished();
        fs::rename(&self.path, path)?;
        for added in others.into_iter().chain([&self.added]) {
            take(&mut list, added.owner);
        }
        Ok(())
    }
}

/// A temporary folder, removed on drop with everything in it.
pub(crate) struct TemporaryFolder {
    _added: Rollback,
    _lock: File,
    path: PathBuf,
}

impl TemporaryFolder {
    /// Creates an empty folder in the default place for temporary files.
    pub(crate) fn new() -> Result<Self> {
        let dir = default_folder();
        sweep(&dir);
        let open = |path: &Path| {
            DirBuilder::new().mode(0o700).create(path)?;
            File::open(path)
        };
        let (added, lock, path) = make(&dir, open, Unfinished::Tree)
            .with_context(|| "creating a temporary folder in TMPDIR")?;
        Ok(Self { _added: added, _lock: lock, path })
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the folder for temporary files: `TMPDIR`, else `/var/tmp`, as `/tmp` is memory on many
/// systems.
pub(crate) fn default_folder() -> PathBuf {
    match std::env::var_os("TMPDIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => "/var/tmp".into(),
    }
}

/// Creates a file or folder with a temporary name, adds it to the list and locks it.
fn make(
    dir: &Path,
    open: impl Fn(&Path) -> io::Result<File>,
    begin: impl Fn(PathBuf) -> Unfinished,
) -> Result<(Rollback, File, PathBuf)> {
    let place = || format!("creating a file in {}", dir.display());
    for _ in 0..ATTEMPTS {
        let added = Rollback::new();
        let mut list = unfinished();
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .rand_bytes(RANDOM)
            .make_in(dir, &open)
            .with_context(place)?;
        let (file, path) = made.keep().map_err(|e| Error::from(e.error).context(place()))?;
        list.push((added.owner, begin(path.clone())));
        drop(list);
        // On file systems without locks, sweeps remove nothing either.
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if !taken && file.metadata().with_context(place)?.nlink() > 0 {
            return Ok((added, file, path));
        }
    }
    Err(Error::refused("another process keeps removing it").context(place()))
}

/// Returns whether a name is that of an unfinished file.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let inner = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    let random = inner.and_then(|name| name.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|name| name.len() == RANDOM && name.iter().all(u8::is_ascii_alphanumeric))
}

/// Removes what killed processes left in a folder. Running ones hold locks on their files.
pub(crate) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name())) {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        // The lock is held until the file is removed, so that no other process takes it over.
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let is = if kind.is_dir() { Unfinished::Tree(path) } else { Unfinished::File(path) };
            remove(&[is]);
        }
    }
}

/// Returns the folder that a file is in.
pub(crate) fn parent_folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Syncs the names in a folder to disk.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("syncing the folder {}", dir.display()))
}

/// Writes a file under a temporary name and renames it to `path`.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let dir = parent_folder(path);
    let mut temporary = TemporaryFile::new(dir)?;
    fill(temporary.file())?;
    temporary.persist(path, None)?;
    sync_folder(dir)
}

/// Removes all unfinished files of this process, the latest first. Nothing new begins or finishes as
/// long as the result lives.
#[cfg(feature = "cli")]
pub(super) fn remove_all() -> MutexGuard<'static, Vec<(u64, Unfinished)>> {
    let mut list = unfinished();
    while let Some(owner) = list.iter().map(|(owner, _)| *owner).max() {
        let mine = take(&mut list, owner);
        remove(&mine);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_one_that_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let first = File::create(&path).unwrap();
        assert!(is_at(&first, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&first, &path).unwrap());
        let second = File::create(&path).unwrap();
        assert!(!is_at(&first, &path).unwrap() && is_at(&second, &path).unwrap());
    }

    #[test]
    fn what_is_unfinished_goes_and_what_has_its_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let all = fs::read_dir(dir.path()).unwrap();
            all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        let temporary = TemporaryFile::new(dir.path()).unwrap();
        assert!(is_temporary(names()[0].as_ref()), "{:?}", names());
        sweep(dir.path());
        assert_eq!(names().len(), 1, "its owner lives");
        drop(temporary);
        assert!(names().is_empty());
        fs::write(dir.path().join(".relayer-abc123.tmp"), "").unwrap();
        fs::create_dir_all(dir.path().join(".relayer-ABC123.tmp/x")).unwrap();
        for name in [".relayer-config", ".relayer-abc123", ".relayer-a-c123.tmp", "x.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path());
        assert_eq!(names().len(), 4, "{:?}", names());
    }

    #[test]
    fn what_another_may_count_on_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (replaced, left) in [(false, 1), (true, 3)] {
            fs::write(path("index"), "").unwrap();
            let added = Rollback::new();
            added.unless_replaced(&path("index"));
            added.folders(&path("a/b")).unwrap();
            for name in ["a/b/one", "two"] {
                added.file(&path(name));
                fs::write(path(name), "").unwrap();
            }
            if replaced {
                fs::write(path("new"), "").unwrap();
                fs::rename(path("new"), path("index")).unwrap();
            }
            drop(added);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), left);
        }
        let mut temporary = TemporaryFile::new(dir.path()).unwrap();
        io::Write::write_all(temporary.file(), b"x").unwrap();
        let added = Rollback::new();
        added.file(&path("two"));
        temporary.persist(&path("index"), Some(&added)).unwrap();
        drop(added);
        assert_eq!(fs::read(path("index")).unwrap(), b"x");
        assert!(path("two").exists());
    }
}
