//! Threads, as many as the system allows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::base::error::{Error, ErrorKind, NO_THREAD, Result};

/// Returns the default number of threads: one for each core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Returns what gives out these numbers, one after the other, to [`collect`].
pub(crate) fn in_turn(
    numbers: impl Iterator<Item = usize> + Send,
) -> impl Fn() -> Option<(usize, ())> + Sync {
    let numbers = Mutex::new(numbers);
    move || Some((numbers.lock().unwrap_or_else(PoisonError::into_inner).next()?, ()))
}

/// Does `count` pieces of work on up to `threads` threads at once, the caller's among them, and returns the
/// results in the order of the pieces' numbers. If the system refuses more threads, fewer run.
///
/// A thread takes the number of its next piece from `take`, with what it holds until the piece is done.
/// It does its pieces with the function that `worker` has returned to it.
///
/// # Errors
/// The error of the piece with the lowest number; after the first error, no more work is begun.
pub(crate) fn collect<R: Send, H, W: FnMut(usize) -> Result<R>>(
    threads: usize,
    count: usize,
    take: impl Fn() -> Option<(usize, H)> + Sync,
    worker: impl Fn() -> W + Sync,
) -> Result<Vec<R>> {
    let results: Vec<Mutex<Option<Result<R>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let failed = AtomicBool::new(false);
    let work = &|| {
        let mut work = worker();
        while !failed.load(Ordering::Relaxed) {
            let Some((at, _held)) = take() else { break };
            let result = work(at);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            if let Ok(mut slot) = results[at].lock() {
                *slot = Some(result);
            }
        }
    };
    scope(|scope| {
        for _ in 1..threads.min(count) {
            if Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let results = results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten());
    let done = results.collect::<Result<Vec<R>>>()?;
    if done.len() != count {
        return Err(Error::malformed("some work was not done"));
    }
    Ok(done)
}

/// Creates a rayon pool. If the system refuses that many threads, it has one.
///
/// # Errors
/// If the system refuses even one.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let build = |threads| ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = build(threads).or_else(|_| build(1));
    pool.map_err(|e| Error::new(ErrorKind::Io, e.to_string()).context(NO_THREAD))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn results_are_in_the_order_of_numbers() {
        for threads in [0, 1, 4] {
            let turn = in_turn((0..100).rev());
            let done = collect(threads, 100, turn, || |i| Ok(i * 2)).unwrap();
            assert!(done.into_iter().eq((0..200).step_by(2)));
        }
        assert!(collect(2, 0, in_turn(0..0), || |_| Ok(())).unwrap().is_empty());
    }

    #[test]
    fn an_error_ends_the_work() {
        let done = AtomicUsize::new(0);
        let work = |i| {
            done.fetch_add(1, Ordering::SeqCst);
            if i == 5 { Err(Error::malformed("five")) } else { Ok(()) }
        };
        let result = collect(3, 1000, in_turn(0..1000), || work);
        assert_eq!(result.unwrap_err().to_string(), "five");
        assert!(done.into_inner() < 1000);
    }
}
