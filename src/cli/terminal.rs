//! What goes to standard error: progress bars on a terminal, notes, errors.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use crate::base::error::Error;
use crate::base::limits::MAX_MESSAGE;
use crate::base::progress::Progress;
use crate::base::text::shorten;
use crate::model::fileset::printable;

/// Standard error, with a progress bar when it is a terminal.
pub(super) struct Terminal {
    bar: Mutex<Option<ProgressBar>>,
    bars: bool,
    quiet: bool,
}

impl Terminal {
    pub(super) fn new(no_bars: bool, quiet: bool) -> Self {
        let bars = !no_bars && io::stderr().is_terminal();
        Self { bar: Mutex::new(None), bars, quiet }
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

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        // A thread that panicked while holding the lock leaves the bar intact.
        act(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Terminal {
    fn begin(&self, stage: &str, bytes: u64) {
        if !self.bars {
            return;
        }
        let style = ProgressStyle::with_template(
            "{msg:>8} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}",
        );
        let bar = ProgressBar::new(bytes).with_message(stage.to_owned());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.with_bar(|slot| *slot = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        if self.bars {
            self.with_bar(|slot| {
                if let Some(bar) = slot {
                    bar.inc(bytes);
                }
            });
        }
    }

    fn end(&self) {
        self.with_bar(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "note: {}", printable(&shorten(text, 4 * MAX_MESSAGE)));
        }
    }
}
