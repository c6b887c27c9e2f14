//! How many transfers a registry gets at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Room for transfers, less of it when the registry asks for that.
pub(super) struct Slots {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    limit: usize,
    used: usize,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { limit: limit.max(1), used: 0 }), freed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Two numbers are valid at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room, and takes it until the result is dropped.
    pub(super) fn take(&self) -> Slot<'_> {
        let mut state = self.state();
        while state.used >= state.limit {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.used += 1;
        Slot(self)
    }

    /// Halves the room: the registry has too much to do.
    pub(super) fn fewer(&self) {
        let mut state = self.state();
        state.limit = (state.limit / 2).max(1);
    }
}

/// Room for one transfer.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.state().used -= 1;
        self.0.freed.notify_one();
    }
}
