//! Memory that concurrent work waits for.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Memory shared by concurrent work. Who needs some waits until there is enough, in the order of the
/// requests, so that a large request is not overtaken by small ones for ever.
///
/// A thread that waits must hold no other reservation, and one that holds a reservation must not wait
/// for other work: a thread of rayon's pool that waits for a job may run another one, which would wait
/// for the memory of its own thread.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    capacity: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    left: u64,
    /// Number of the next request, and of the one whose turn it is.
    next: u64,
    turn: u64,
}

/// A share of that memory, released on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<SharedMemory>,
    bytes: u64,
}

impl SharedMemory {
    /// Creates memory of `capacity` bytes. Without any, one request has its turn at a time.
    pub(crate) fn new(capacity: u64) -> Arc<Self> {
        let capacity = capacity.max(1);
        let state = Mutex::new(State { left: capacity, next: 0, turn: 0 });
        Arc::new(Self { capacity, state, changed: Condvar::new() })
    }

    /// Returns the bytes of all shares together.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Waits until there is memory. A request for more than all of it gets all of it.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.capacity);
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        while state.turn != number || state.left < bytes {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.left -= bytes;
        // The next request may fit, too.
        self.changed.notify_all();
        drop(state);
        Reservation { memory: Arc::clone(self), bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The numbers are consistent between any two operations, so a poisoned lock does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Releases all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        if let Some(released) = self.bytes.checked_sub(bytes) {
            self.bytes = bytes;
            self.memory.lock().left += released;
            self.memory.changed.notify_all();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::{scope, sleep};
    use std::time::Duration;

    use super::*;

    /// Waits until that many requests were made.
    fn wait_for(memory: &SharedMemory, requests: u64) {
        while memory.lock().next < requests {
            sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn reservations_never_exceed_the_capacity() {
        let memory = SharedMemory::new(100);
        let used = AtomicU64::new(0);
        scope(|scope| {
            for thread in 0..4 {
                let (memory, used) = (&memory, &used);
                scope.spawn(move || {
                    for i in 0..300 {
                        let mut held = memory.reserve((thread * 37 + i * 13) % 110);
                        let bytes = held.bytes();
                        assert!(used.fetch_add(bytes, Ordering::SeqCst) + bytes <= 100);
                        std::thread::yield_now();
                        used.fetch_sub(bytes - bytes / 2, Ordering::SeqCst);
                        held.shrink(bytes / 2);
                        used.fetch_sub(bytes / 2, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((used.into_inner(), memory.lock().left), (0, 100));
    }

    #[test]
    fn more_than_all_gets_all_and_is_not_overtaken() {
        let memory = SharedMemory::new(100);
        let first = memory.reserve(60);
        let done = Mutex::new(Vec::new());
        scope(|scope| {
            let (memory, done) = (&memory, &done);
            let reserve = |bytes| {
                let held = memory.reserve(bytes);
                done.lock().unwrap().push(held.bytes());
            };
            scope.spawn(move || reserve(1 << 40));
            wait_for(memory, 2);
            // This would fit, but comes later.
            scope.spawn(move || reserve(10));
            wait_for(memory, 3);
            sleep(Duration::from_millis(20));
            assert!(done.lock().unwrap().is_empty());
            drop(first);
        });
        assert_eq!(*done.lock().unwrap(), [100, 10]);
    }

    #[test]
    fn what_is_released_early_lets_others_begin() {
        let memory = SharedMemory::new(100);
        let mut first = memory.reserve(100);
        scope(|scope| {
            let second = scope.spawn(|| memory.reserve(70).bytes());
            wait_for(&memory, 2);
            assert!(!second.is_finished());
            first.shrink(30);
            // Shrinking never takes more.
            first.shrink(90);
            assert_eq!((second.join().unwrap(), first.bytes()), (70, 30));
        });
    }
}
