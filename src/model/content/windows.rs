//! Memory for decoder windows: the data that a zstd frame may refer back to.

use std::sync::Arc;

use super::reserve::{Reservation, SharedMemory};
use crate::base::error::{Error, Result};
use crate::base::limits::{MIN_WINDOWS, WINDOWS_SHARE};

/// The memory for windows, shared by concurrent decoders. A decoder waits until there is enough.
#[derive(Debug)]
pub struct WindowBudget(Arc<SharedMemory>);

/// A decoder's share of that memory, released on drop.
pub(crate) type WindowReservation = Reservation;

impl WindowBudget {
    /// Reserves a share of `memory` bytes for windows, but at least what every decoder must support.
    pub fn new(memory: u64) -> Arc<Self> {
        Arc::new(Self(SharedMemory::new(Self::share(memory))))
    }

    /// Returns the bytes for windows of `memory` bytes in all.
    pub(super) fn share(memory: u64) -> u64 {
        (memory / WINDOWS_SHARE.1 * WINDOWS_SHARE.0).max(MIN_WINDOWS)
    }

    /// Returns the size of the largest possible window.
    pub(crate) fn max_window(&self) -> u64 {
        self.0.capacity()
    }

    /// Waits until there is memory for a window. The caller must hold no other.
    ///
    /// # Errors
    /// If it is larger than the largest possible window.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<WindowReservation> {
        if bytes > self.max_window() {
            return Err(Error::limit(format!(
                "its zstd frames need {bytes} bytes of memory to decompress; --memory {}MiB allows it",
                bytes.saturating_mul(WINDOWS_SHARE.1).div_ceil(WINDOWS_SHARE.0 << 20)
            )));
        }
        Ok(self.0.reserve(bytes))
    }
}
