//! Threads, as many as the system allows.

use std::thread::{Builder, scope};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::base::error::{Error, ErrorKind, NO_THREAD, Result};

/// Returns the default number of threads: one for each core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs `work` on up to `threads` threads at once, the caller's among them, and waits for all of them.
/// If the system refuses more threads, fewer run: each must take its next piece of work from a shared
/// queue.
pub(crate) fn run_on(threads: usize, work: impl Fn() + Sync) {
    scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
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
