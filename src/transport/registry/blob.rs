//! The state of a blob while it is downloaded: which pieces are there, and who waits for them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::cache::Partial;
use super::pieces::Pieces;
use crate::base::error::{Error, ErrorKind};
use crate::base::transfers::Transfer;
use crate::model::digest::{Digest, Hashing};

/// A blob that is downloaded once, for all who read it.
pub(super) struct Download {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The file once it is complete.
    pub(super) complete: OnceLock<File>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// From when it is asked for until it has ended.
    transfer: Mutex<Option<Transfer>>,
}

pub(super) enum State {
    /// Nobody has asked for it.
    Idle,
    Queued,
    Active(Active),
    Done,
    Failed(ErrorKind, String),
}

/// A download in progress.
pub(super) struct Active {
    pub(super) pieces: Pieces,
    /// The piece whose task brings all others too, because there are no ranges.
    pub(super) whole: Option<usize>,
    pub(super) partial: Arc<Partial>,
    /// The digest of the first bytes; none when it is complete.
    pub(super) hashing: Arc<Mutex<Option<Hashing<io::Sink>>>>,
}

impl Active {
    /// Returns the range that is missing in a piece; all of the blob if there are no ranges and no
    /// other task brings it. `None` if there is nothing to do.
    pub(super) fn missing(&mut self, piece: usize, no_ranges: bool) -> Option<(u64, u64)> {
        if no_ranges && self.pieces.count() > 1 {
            let (mine, size) = (*self.whole.get_or_insert(piece) == piece, self.pieces.size());
            return (mine && self.pieces.prefix() < size).then_some((0, size));
        }
        self.pieces.missing(piece)
    }
}

impl Download {
    pub(super) fn new(digest: Digest, size: u64) -> Self {
        let (complete, changed) = (OnceLock::new(), Condvar::new());
        let (state, transfer) = (Mutex::new(State::Idle), Mutex::default());
        Self { digest, size, complete, state, changed, transfer }
    }

    pub(super) fn transfer(&self) -> MutexGuard<'_, Option<Transfer>> {
        // A transfer is set or taken as a whole.
        self.transfer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes a download in progress; `None` if it is not.
    pub(super) fn active<T>(&self, read: impl FnOnce(&mut Active) -> T) -> Option<T> {
        match &mut *self.state() {
            State::Active(active) => Some(read(active)),
            _ => None,
        }
    }

    /// As [`Download::active`], while it is being downloaded into `partial`.
    pub(super) fn of<T>(
        &self,
        partial: &Arc<Partial>,
        read: impl FnOnce(&mut Active) -> T,
    ) -> Option<T> {
        self.active(|a| Arc::ptr_eq(&a.partial, partial).then(|| read(a))).flatten()
    }

    /// Takes the task to bring all of the blob, unless another piece has it.
    pub(super) fn claim_whole(&self, piece: usize) -> bool {
        self.active(|a| *a.whole.get_or_insert(piece) == piece).unwrap_or(false)
    }

    pub(super) fn finish(&self, file: File) {
        if let Some(transfer) = self.transfer().take() {
            transfer.finish();
        }
        let _ = self.complete.set(file);
        *self.state() = State::Done;
        self.changed.notify_all();
    }

    pub(super) fn fail(&self, e: &Error) {
        self.transfer().take();
        *self.state() = State::Failed(e.kind(), e.to_string());
        self.changed.notify_all();
    }

    /// Waits until a range has come, and reads it.
    pub(super) fn read(&self, buf: &mut [u8], from: u64, to: u64) -> io::Result<()> {
        let mut state = self.state();
        let partial = loop {
            match &*state {
                State::Done => break None,
                // The last byte is read only once the digest is verified. What another process left may
                // be wrong anywhere.
                State::Active(active)
                    if to < self.size && !active.partial.resumed && active.pieces.has(from, to) =>
                {
                    break Some(Arc::clone(&active.partial));
                }
                State::Failed(kind, text) => return Err(Error::new(*kind, text.clone()).into()),
                State::Idle | State::Queued | State::Active(_) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        match (partial, self.complete.get()) {
            (Some(partial), _) => partial.file.read_exact_at(buf, from),
            (None, Some(file)) => file.read_exact_at(buf, from),
            (None, None) => Err(io::Error::other("a downloaded blob has no file")),
        }
    }
}
