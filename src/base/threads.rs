//! Threads beside the caller's, as many as there are to be had.

use std::thread::{Builder, scope};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::base::error::{Error, ErrorKind, NO_THREAD, Result};

/// How many threads there are where nobody says how many: one a core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs `work` on up to `threads` threads at once, the caller's among them, and waits for all. Where
/// the system has no more threads to give, fewer do the same work: it must be divided as it goes.
pub(crate) fn share(threads: usize, work: impl Fn() + Sync) {
    scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// A pool for what is divided by rayon; of fewer threads if there are no more.
///
/// # Errors
/// When there is not a single one.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let build = |threads| ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = build(threads).or_else(|_| build(1));
    pool.map_err(|e| Error::new(ErrorKind::Io, e.to_string()).context(NO_THREAD))
}
