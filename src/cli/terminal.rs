//! What goes to standard error: progress, notes, errors.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::base::byte_size::ByteSize;
use crate::base::error::Error;
use crate::base::limits::MAX_MESSAGE;
use crate::base::progress::Progress;
use crate::base::text::shorten;
use crate::model::fileset::printable;

/// How often a line tells of progress where there is no terminal: logs of CI systems end a command that
/// is silent for minutes.
const STEP: Duration = Duration::from_secs(10);

/// Standard error, with a progress bar if it is a terminal and a line now and then if it is not.
pub(super) struct Terminal {
    shared: Arc<Shared>,
    bars: bool,
    /// Whether progress is shown at all.
    shows: bool,
    quiet: bool,
}

#[derive(Default)]
struct Shared {
    stage: Mutex<Option<Stage>>,
    ended: Condvar,
}

/// A stage in progress.
struct Stage {
    name: String,
    total: u64,
    done: u64,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Stage {
    /// Says how far it is.
    fn line(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let rate = self.done as f64 / seconds;
        let mut text = format!(
            "{}: {} of {}, {}/s",
            self.name,
            ByteSize(self.done),
            ByteSize(self.total),
            ByteSize(rate as u64)
        );
        if rate >= 1.0 {
            let left = self.total.saturating_sub(self.done) as f64 / rate;
            let _ = write!(text, ", {left:.0} s left");
        }
        text
    }
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // A thread that panicked while holding the lock leaves the stage intact.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints lines until the stage that began at this time ends.
    fn print_lines(&self, begun: Instant) {
        let mut stage = self.stage();
        let mut next = begun + STEP;
        loop {
            let rest = next.saturating_duration_since(Instant::now());
            let waited = self.ended.wait_timeout(stage, rest);
            stage = waited.unwrap_or_else(PoisonError::into_inner).0;
            let Some(running) = stage.as_ref().filter(|stage| stage.begun == begun) else { return };
            if Instant::now() >= next {
                let _ = writeln!(io::stderr(), "{}", running.line());
                next += STEP;
            }
        }
    }
}

impl Terminal {
    pub(super) fn new(no_progress: bool, quiet: bool) -> Self {
        let bars = io::stderr().is_terminal();
        Self { shared: Arc::default(), bars, shows: !no_progress, quiet }
    }

    /// Prints an error: one line, for people and for logs.
    pub(super) fn error(&self, e: &Error) {
        self.end();
        let _ = writeln!(io::stderr(), "relayer: {}", printable(&e.to_string()));
    }

    /// Prints a limit that an image exceeds, also with `--quiet`.
    pub(super) fn failed(&self, what: &str) {
        self.end();
        let _ = writeln!(io::stderr(), "failed: {}", printable(what));
    }
}

impl Progress for Terminal {
    fn begin(&self, stage: &str, bytes: u64) {
        if !self.shows {
            return;
        }
        let begun = Instant::now();
        let bar = self.bars.then(|| {
            let style = ProgressStyle::with_template(
                "{msg:>8} {wide_bar} {decimal_bytes:>10} of {decimal_total_bytes:<10} \
                 {decimal_bytes_per_sec:>12} {eta:>4}",
            );
            let bar = ProgressBar::new(bytes).with_message(stage.to_owned());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() {
            let shared = Arc::clone(&self.shared);
            // Without a thread there are no lines.
            let _ = thread::Builder::new().spawn(move || shared.print_lines(begun));
        }
        let stage = Stage { name: stage.to_owned(), total: bytes, done: 0, begun, bar };
        *self.shared.stage() = Some(stage);
    }

    fn advance(&self, bytes: u64) {
        if !self.shows {
            return;
        }
        if let Some(stage) = self.shared.stage().as_mut() {
            stage.done += bytes;
            if let Some(bar) = &stage.bar {
                bar.inc(bytes);
            }
        }
    }

    fn end(&self) {
        let stage = self.shared.stage().take();
        self.shared.ended.notify_all();
        if let Some(bar) = stage.and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "note: {}", printable(&shorten(text, 4 * MAX_MESSAGE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_stage_is() {
        let begun = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let name = "upload".to_owned();
        let stage = Stage { name, total: 300_000_000, done: 100_000_000, begun, bar: None };
        let line = stage.line();
        assert!(line.starts_with("upload: 100.0 MB of 300.0 MB, "), "{line}");
        assert!(line.ends_with(" MB/s, 20 s left"), "{line}");
    }

    #[test]
    fn lines_end_with_their_stage() {
        let shared = Shared::default();
        // Returns at once: there is no stage.
        shared.print_lines(Instant::now());
    }
}
