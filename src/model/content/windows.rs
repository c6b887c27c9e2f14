//! Memory for decoder windows: the data that a zstd frame may refer back to.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::error::{Error, Result};
use crate::base::limits::{MIN_WINDOWS, WINDOWS_SHARE};

/// The memory for windows, shared by concurrent decoders. A decoder waits until there is enough.
#[derive(Debug)]
pub struct WindowBudget {
    memory: u64,
    left: Mutex<u64>,
    freed: Condvar,
}

/// A decoder's share of that memory, released on drop.
#[derive(Debug)]
pub(crate) struct WindowReservation {
    windows: Arc<WindowBudget>,
    bytes: u64,
}

impl WindowBudget {
    /// Reserves a share of `memory` bytes for windows, but at least what every decoder must support.
    pub fn new(memory: u64) -> Arc<Self> {
        Arc::new(Self { memory, left: Mutex::new(Self::capacity(memory)), freed: Condvar::new() })
    }

    /// Returns the bytes for windows of `memory` bytes in all.
    pub(super) fn capacity(memory: u64) -> u64 {
        (memory / WINDOWS_SHARE.1 * WINDOWS_SHARE.0).max(MIN_WINDOWS)
    }

    /// Returns the size of the largest possible window.
    pub(crate) fn max_window(&self) -> u64 {
        Self::capacity(self.memory)
    }

    /// Waits until there is memory for a window. The caller must hold no other.
    ///
    /// # Errors
    /// If it is larger than the largest possible window.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<WindowReservation> {
        if bytes > Self::capacity(self.memory) {
            return Err(Error::limit(format!(
                "its zstd frames need {bytes} bytes of memory to decompress; --memory {}MiB allows it",
                bytes.saturating_mul(WINDOWS_SHARE.1).div_ceil(WINDOWS_SHARE.0 << 20)
            )));
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            left = self.freed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= bytes;
        Ok(WindowReservation { windows: Arc::clone(self), bytes })
    }
}

impl WindowReservation {
    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for WindowReservation {
    fn drop(&mut self) {
        *self.windows.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.windows.freed.notify_all();
    }
}
