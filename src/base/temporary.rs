//! Files and folders that go away unless the work they are for is finished.
//!
//! What is unfinished has a name like `.relayer-Ab12Cd.tmp`, and its owner holds a lock on it, as of
//! flock(2). A killed process leaves such a file without the lock, and whoever writes to that folder
//! next removes it. What this process has begun also stands in one list, for the thread that ends
//! the process when a signal asks for it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::base::error::{Context, Error, NO_THREAD, Result};

const PREFIX: &str = ".relayer-";
const SUFFIX: &str = ".tmp";

/// Bytes between them.
const RANDOM: usize = 6;

/// A sweep by another process may take a file before its owner locks it, and a folder may go before
/// something is made in it: so many times in a row is no coincidence.
pub(crate) const ATTEMPTS: usize = 100;

/// What is removed at the end, oldest first: who began it, and what it is. Whoever gives something
/// its final name holds this meanwhile, so that no signal comes between that and its leaving the list.
static BEGUN: Mutex<Vec<(u64, Begun)>> = Mutex::new(Vec::new());

enum Begun {
    File(PathBuf),
    /// A folder, if it is empty by then.
    Folder(PathBuf),
    /// A folder and all that is in it.
    Tree(PathBuf),
    /// Files after this one stay if that file is another by then.
    Unless(PathBuf, Option<(u64, u64)>),
}

fn begun() -> MutexGuard<'static, Vec<(u64, Begun)>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what `owner` began off the list.
fn take(list: &mut Vec<(u64, Begun)>, owner: u64) -> Vec<Begun> {
    let mine = list.extract_if(.., |(by, _)| *by == owner);
    mine.map(|(_, what)| what).collect()
}

fn remove(what: &[Begun]) {
    let stay = what.iter().any(|b| matches!(b, Begun::Unless(path, was) if identity(path) != *was));
    for one in what.iter().rev() {
        // Nothing can be done about what can't be removed; the error that ended the work is told.
        let _ = match one {
            Begun::File(path) if !stay => fs::remove_file(path),
            Begun::Folder(path) => fs::remove_dir(path),
            Begun::Tree(path) => fs::remove_dir_all(path),
            Begun::File(_) | Begun::Unless(..) => Ok(()),
        };
    }
}

/// Tells a file from one that replaces it.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// Whether a path leads to this open file: between opening a file and locking it, whoever had the lock
/// may have removed it.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    Ok(identity(path) == Some((open.dev(), open.ino())))
}

/// What was added to a folder; removed again unless it is kept.
pub(crate) struct Added {
    owner: u64,
}

impl Added {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { owner: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn begin(&self, what: Begun) {
        begun().push((self.owner, what));
    }

    /// A file that was not there and is made now.
    pub(crate) fn file(&self, path: &Path) {
        self.begin(Begun::File(path.to_owned()));
    }

    /// Files stay if somebody replaces the one at `path` from now on, who may count on them.
    pub(crate) fn unless_replaced(&self, path: &Path) {
        self.begin(Begun::Unless(path.to_owned(), identity(path)));
    }

    /// Makes a folder, and those above it that are not there.
    pub(crate) fn folders(&self, path: &Path) -> io::Result<()> {
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists());
        for dir in missing.collect::<Vec<_>>().into_iter().rev() {
            let mut list = begun();
            match fs::create_dir(dir) {
                Ok(()) => list.push((self.owner, Begun::Folder(dir.to_owned()))),
                // Somebody else was first.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Added {
    fn drop(&mut self) {
        let mut list = begun();
        let mine = take(&mut list, self.owner);
        remove(&mine);
    }
}

/// A file without its name, which goes away unless it gets that.
pub(crate) struct Temporary {
    // Dropped in this order.
    added: Added,
    file: File,
    path: PathBuf,
}

impl Temporary {
    /// An empty file in `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let open = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
        let (added, file, path) = make(dir, open, Begun::File)?;
        Ok(Self { added, file, path })
    }

    /// To write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file the name `path`, in the same file system, when all of it is on the disk. What
    /// `others` lists is kept from the same moment on.
    pub(crate) fn persist(self, path: &Path, others: Option<&Added>) -> Result<()> {
        self.file.sync_all()?;
        let mut list = begun();
        fs::rename(&self.path, path)?;
        for added in others.into_iter().chain([&self.added]) {
            take(&mut list, added.owner);
        }
        Ok(())
    }
}

/// A folder for files of a known name, which goes away with all that is in it.
pub(crate) struct Folder {
    _added: Added,
    _lock: File,
    path: PathBuf,
}

impl Folder {
    /// An empty folder where temporary files go.
    pub(crate) fn new() -> Result<Self> {
        let dir = folder();
        sweep(&dir);
        let open = |path: &Path| {
            DirBuilder::new().mode(0o700).create(path)?;
            File::open(path)
        };
        let (added, lock, path) = make(&dir, open, Begun::Tree)
            .with_context(|| "making a temporary folder, in the one that TMPDIR names")?;
        Ok(Self { _added: added, _lock: lock, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where temporary files go: `TMPDIR`, else `/var/tmp`, as `/tmp` is memory on many systems.
pub(crate) fn folder() -> PathBuf {
    match std::env::var_os("TMPDIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => "/var/tmp".into(),
    }
}

/// Makes something with a temporary name, and locks and lists it.
fn make(
    dir: &Path,
    open: impl Fn(&Path) -> io::Result<File>,
    begin: impl Fn(PathBuf) -> Begun,
) -> Result<(Added, File, PathBuf)> {
    let place = || format!("creating a file in {}", dir.display());
    for _ in 0..ATTEMPTS {
        let added = Added::new();
        let mut list = begun();
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .rand_bytes(RANDOM)
            .make_in(dir, &open)
            .with_context(place)?;
        let (file, path) = made.keep().map_err(|e| Error::from(e.error).context(place()))?;
        list.push((added.owner, begin(path.clone())));
        drop(list);
        // Where files can't be locked, no sweep finds them either.
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if !taken && file.metadata().with_context(place)?.nlink() > 0 {
            return Ok((added, file, path));
        }
    }
    Err(Error::refused("somebody removes what is created").context(place()))
}

/// Whether a file has the name of something unfinished.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let inner = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    let random = inner.and_then(|name| name.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|name| name.len() == RANDOM && name.iter().all(u8::is_ascii_alphanumeric))
}

/// Removes what killed processes left in a folder. Those that run hold locks on what is theirs.
pub(crate) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name())) {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        // Until it is removed the lock is held, so that nobody takes it for theirs.
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            let is = if kind.is_dir() { Begun::Tree(path) } else { Begun::File(path) };
            remove(&[is]);
        }
    }
}

/// The folder a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("syncing the folder {}", dir.display()))
}

/// Writes a file under a temporary name and moves it to its own.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let dir = folder_of(path);
    let mut temporary = Temporary::new(dir)?;
    fill(temporary.file())?;
    temporary.persist(path, None)?;
    sync_folder(dir)
}

/// Has SIGINT, SIGTERM and SIGHUP remove what was begun before they end the process, with 128 and
/// their number as its status. Those that whoever started the process ignores stay ignored.
pub(crate) fn end_at_signals() -> Result<()> {
    let ignored = ignored();
    let wanted = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|s| ignored >> (s - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).with_context(|| "preparing for signals")?;
    let work = move || {
        if let Some(signal) = signals.forever().next() {
            end(signal);
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(work);
    started.map(drop).with_context(|| NO_THREAD)
}

/// The signals that are ignored from the beginning, as nohup does, a bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn end(signal: i32) {
    // Held to the end: nothing is begun or finished any more. What was begun last goes first.
    let mut list = begun();
    while let Some(owner) = list.iter().map(|(owner, _)| *owner).max() {
        let mine = take(&mut list, owner);
        remove(&mine);
    }
    let name = low_level::signal_name(signal).unwrap_or("a signal");
    let text = format!("relayer: ended by {name}; what was unfinished is removed\n");
    // Another thread may hold the lock of `io::stderr()`.
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    low_level::exit(128 + signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_goes_and_what_has_its_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let all = fs::read_dir(dir.path()).unwrap();
            all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        let temporary = Temporary::new(dir.path()).unwrap();
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
            let added = Added::new();
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
        let mut temporary = Temporary::new(dir.path()).unwrap();
        io::Write::write_all(temporary.file(), b"x").unwrap();
        let added = Added::new();
        added.file(&path("two"));
        temporary.persist(&path("index"), Some(&added)).unwrap();
        drop(added);
        assert_eq!(fs::read(path("index")).unwrap(), b"x");
        assert!(path("two").exists());
    }
}
