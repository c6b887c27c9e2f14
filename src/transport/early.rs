//! Blobs that are written into a folder while others are still being encoded.
//!
//! They have temporary names until the image is written, under the folder's lock. What fails here is
//! done again then, and reported.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::bundle::Blob;
use crate::base::error::Result;
use crate::base::progress::Silent;
use crate::base::temporary::TemporaryFile;
use crate::model::content::Source;
use crate::model::digest::Digest;

/// Complete blobs under temporary names.
pub(super) type Written = BTreeMap<Digest, TemporaryFile>;

/// A blob with the path that it will have.
struct Job {
    path: PathBuf,
    digest: Digest,
    source: Source,
}

/// The blobs of one image, and the thread that writes them once there are any.
#[derive(Default)]
pub(super) struct EarlyBlobs {
    worker: Mutex<Option<(Sender<Job>, JoinHandle<Written>)>>,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for EarlyBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyBlobs").finish_non_exhaustive()
    }
}

impl EarlyBlobs {
    fn worker(&self) -> MutexGuard<'_, Option<(Sender<Job>, JoinHandle<Written>)>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to write a blob, whose digest was verified, into the folder `dir`, unless there is a file
    /// at `path`. Does nothing if the system refuses a thread.
    pub(super) fn add(&self, dir: &Path, path: PathBuf, digest: Digest, source: &Source) {
        let mut worker = self.worker();
        if worker.is_none() {
            let (queue, jobs) = channel();
            let (dir, stop) = (dir.to_owned(), Arc::clone(&self.stop));
            let started = Builder::new().spawn(move || work(&dir, &jobs, &stop));
            *worker = started.ok().map(|thread| (queue, thread));
        }
        if let Some((queue, _)) = &*worker {
            // The thread ends early only if it panics, and then the blob is written later.
            let _ = queue.send(Job { path, digest, source: Arc::clone(source) });
        }
    }

    /// Waits for all blobs and returns those that could be written.
    pub(super) fn finish(&self) -> Written {
        let Some((queue, thread)) = self.worker().take() else { return Written::new() };
        drop(queue);
        thread.join().unwrap_or_default()
    }
}

impl Drop for EarlyBlobs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish();
    }
}

fn work(dir: &Path, jobs: &Receiver<Job>, stop: &AtomicBool) -> Written {
    let mut written = Written::new();
    for Job { path, digest, source } in jobs {
        let needed = !stop.load(Ordering::Relaxed)
            && !written.contains_key(&digest)
            && path.symlink_metadata().is_err();
        if needed && let Ok(file) = write(dir, digest, source) {
            written.insert(digest, file);
        }
    }
    written
}

fn write(dir: &Path, digest: Digest, source: Source) -> Result<TemporaryFile> {
    fs::create_dir_all(dir)?;
    let mut file = TemporaryFile::new(dir)?;
    Blob { source, verified: true }.copy(&digest, file.file(), &Silent)?;
    // So that little is left to sync at the end.
    file.file().sync_all()?;
    Ok(file)
}
