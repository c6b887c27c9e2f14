//! When a request that failed is made again, and after how long.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::thread;
use std::time::Duration;

use super::answer;
use super::http::Response;
use crate::base::limits::MAX_WAIT_SECONDS;

/// How often and how soon requests are made again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Number of attempts without progress until the error is final.
    pub attempts: u32,
    /// Time before the second attempt; it doubles with each.
    pub first: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_secs(1) }
    }
}

impl Retry {
    /// Returns whether there is another attempt after number `attempt`, from 0.
    pub(super) fn goes_on(self, attempt: u32) -> bool {
        attempt + 1 < self.attempts
    }

    /// Makes a request until its answer is final: the last answer, whatever it is, or the last failure.
    /// Failures that are not `worth` another attempt are final too.
    pub(super) fn send(
        self,
        worth: impl Fn(&io::Error) -> bool,
        mut once: impl FnMut() -> io::Result<Response>,
    ) -> io::Result<Response> {
        let mut attempt = 0;
        loop {
            let wait = match once() {
                Ok(answer) if is_transient(answer.status) && self.goes_on(attempt) => {
                    answer::retry_after(&answer)
                }
                Err(e) if worth(&e) && self.goes_on(attempt) => None,
                done => return done,
            };
            self.wait(attempt, wait);
            attempt += 1;
        }
    }

    /// Waits before the attempt that follows number `attempt`, as long as the registry asked if it did.
    pub(super) fn wait(self, attempt: u32, asked: Option<Duration>) {
        let most = Duration::from_secs(MAX_WAIT_SECONDS);
        let delay = self.first.saturating_mul(1 << attempt.min(6)).min(most);
        // Between half and all of it, so that clients that failed together do not come back together.
        let random = RandomState::new().hash_one(attempt) % 1024;
        let delay = delay / 2 + delay / 2 * random as u32 / 1024;
        thread::sleep(asked.map_or(delay, |asked| asked.min(most)));
    }
}

/// Returns whether a status is one of the moment.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || (500..600).contains(&status)
}

/// Returns whether a failure may be one of the moment: a connection that broke or could not be
/// made, but not a certificate that is not trusted or a host that does not exist.
pub(super) fn is_momentary(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotConnected, NotFound, Unsupported};
    !matches!(e.kind(), InvalidData | InvalidInput | NotConnected | NotFound | Unsupported)
}
