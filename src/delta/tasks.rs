//! Runs pieces of work that reserve memory, on threads of their own.
//!
//! A thread of rayon's pool that waits may run another job in the meantime. If that job reserved memory
//! while the first one has some, both could wait for ever. These threads do one piece of work after the
//! other.

use std::sync::{Mutex, PoisonError};

use crate::base::error::Result;
use crate::base::threads;

/// Does the work of each item on up to `threads` threads, and returns the results in the same order. Those
/// that are `large` are begun first, one at a time, so that others fit beside them.
///
/// # Errors
/// The first error in the order of the items; after it, no more work is begun.
pub(super) fn run<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    large: impl Fn(&T) -> bool,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let (large, rest): (Vec<_>, Vec<_>) = (0..items.len()).partition(|i| large(&items[*i]));
    let (large, rest) = (Mutex::new(large.into_iter()), Mutex::new(rest.into_iter()));
    let take = || {
        // Locked until the work is done.
        let mut lane = large.try_lock().ok();
        let next = lane.as_mut().and_then(|lane| lane.next()).or_else(|| {
            lane = None;
            rest.lock().unwrap_or_else(PoisonError::into_inner).next()
        });
        Some((next?, lane))
    };
    threads::collect(threads, items.len(), take, || |at| work(&items[at]))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_are_in_order_and_large_work_is_done_one_at_a_time() {
        let items: Vec<usize> = (0..100).collect();
        let running = AtomicUsize::new(0);
        for threads in [0, 1, 4] {
            let done = run(
                threads,
                &items,
                |i| i % 3 == 0,
                |i| {
                    if i % 3 == 0 {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::sleep(std::time::Duration::from_micros(200));
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                    Ok(i * 2)
                },
            );
            assert!(done.unwrap().into_iter().eq((0..200).step_by(2)));
        }
    }
}
