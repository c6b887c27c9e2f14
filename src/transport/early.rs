//! Blobs that are written into a folder while others are still being encoded.
//!
//! They have temporary names until the image is written, under the folder's lock. What fails here is
//! done again then, and reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::bundle::Blob;
use crate::base::error::Result;
use crate::base::progress::Silent;
use crate::base::temporary::TemporaryFile;
use crate::model::content::{BlobWriter, DiskFile, Source};
use crate::model::digest::Digest;

/// Complete blobs under temporary names.
pub(super) type Written = BTreeMap<Digest, TemporaryFile>;

/// What the threads do.
enum Job {
    /// Writes a blob, unless there is a file at its path.
    Write(PathBuf, Digest, Source),
    /// Syncs a blob that is written, so that little is left to sync at the end.
    Sync(Digest, File),
}

/// Number of threads, which mostly wait for the disk.
const THREADS: usize = 4;

/// The blobs of one image, and the threads that write them once there are any.
#[derive(Default)]
pub(super) struct EarlyBlobs {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<Written>>,
    begun: BTreeSet<Digest>,
    /// Blobs that were written here while they were encoded.
    encoded: Written,
}

impl fmt::Debug for EarlyBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyBlobs").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EarlyBlobs {
    /// Returns a file for a blob that will be encoded; `None` if the folder `dir` can't have one.
    pub(super) fn begin(&self, dir: &Path) -> Option<Box<dyn BlobWriter>> {
        fs::create_dir_all(dir).ok()?;
        let (file, state) = (TemporaryFile::new(dir).ok()?, Arc::clone(&self.state));
        self.start(dir, &mut lock(&self.state));
        Some(Box::new(EncodedBlob { file, state }))
    }

    /// Begins to write a blob, whose digest was verified, into the folder `dir`, unless there is a file
    /// at `path`.
    pub(super) fn add(&self, dir: &Path, path: PathBuf, digest: Digest, source: &Source) {
        let mut state = lock(&self.state);
        if state.begun.insert(digest) {
            self.start(dir, &mut state);
            state.send(Job::Write(path, digest, Arc::clone(source)));
        }
    }

    /// Starts as many threads as the system allows. Without any, blobs are written later.
    fn start(&self, dir: &Path, state: &mut State) {
        if state.queue.is_none() {
            let (queue, jobs) = channel();
            let jobs = Arc::new(Mutex::new(jobs));
            let thread = |_| {
                let (dir, jobs) = (dir.to_owned(), Arc::clone(&jobs));
                let (state, stop) = (Arc::clone(&self.state), Arc::clone(&self.stop));
                Builder::new().spawn(move || work(&dir, &jobs, &state, &stop)).ok()
            };
            state.threads = (0..THREADS).map_while(thread).collect();
            state.queue = Some(queue);
        }
    }

    /// Waits for all blobs and returns those that could be written.
    pub(super) fn finish(&self) -> Written {
        let mut state = lock(&self.state);
        state.queue = None;
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        let written = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten();
        let mut written: Written = written.collect();
        written.append(&mut lock(&self.state).encoded);
        written
    }
}

impl State {
    fn send(&self, job: Job) {
        if let Some(queue) = &self.queue {
            // It fails if there are no threads.
            let _ = queue.send(job);
        }
    }
}

/// The file of a blob while it is encoded.
struct EncodedBlob {
    file: TemporaryFile,
    state: Arc<Mutex<State>>,
}

impl Write for EncodedBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for EncodedBlob {
    fn complete(mut self: Box<Self>, digest: Digest) -> Result<Source> {
        let source = DiskFile::new(self.file.file().try_clone()?)?;
        let mut state = lock(&self.state);
        state.send(Job::Sync(digest, self.file.file().try_clone()?));
        state.begun.insert(digest);
        state.encoded.insert(digest, self.file);
        Ok(Arc::new(source))
    }
}

impl Drop for EarlyBlobs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish();
    }
}

fn work(
    dir: &Path,
    jobs: &Mutex<Receiver<Job>>,
    state: &Mutex<State>,
    stop: &AtomicBool,
) -> Written {
    let next = || lock(jobs).recv().ok().filter(|_| !stop.load(Ordering::Relaxed));
    let mut written = Written::new();
    while let Some(job) = next() {
        match job {
            Job::Write(path, digest, source) => {
                if path.symlink_metadata().is_err()
                    && let Ok(file) = write(dir, digest, source)
                {
                    written.insert(digest, file);
                }
            }
            // The system reports a failure only once, so the blob must be written again.
            Job::Sync(digest, file) => {
                if file.sync_all().is_err() {
                    lock(state).encoded.remove(&digest);
                }
            }
        }
    }
    written
}

fn write(dir: &Path, digest: Digest, source: Source) -> Result<TemporaryFile> {
    fs::create_dir_all(dir)?;
    let mut file = TemporaryFile::new(dir)?;
    Blob { source, verified: true }.copy(&digest, file.file(), &Silent)?;
    file.file().sync_all()?;
    Ok(file)
}
