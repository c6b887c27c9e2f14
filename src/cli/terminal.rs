//! What goes to standard error: progress, notes, errors.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressDrawTarget};

use super::Outcome;
use super::display::{Display, Stage};
use crate::base::error::Error;
use crate::base::limits::MAX_MESSAGE;
use crate::base::progress::Progress;
use crate::base::text::shorten;
use crate::base::transfers::Transfers;
use crate::model::fileset::printable;

/// A terminal that says that it is narrower does not know.
const MIN_COLUMNS: usize = 20;

/// When messages have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Returns whether standard error gets colours.
    fn is_on(self) -> bool {
        let plain = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Self::Auto => is_terminal() && !plain(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Returns whether standard error is a terminal that can move its cursor.
fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns the number of columns of standard output: what `COLUMNS` says, or of the terminal if it is one.
pub(super) fn columns() -> Option<usize> {
    let stated = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let shown = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col.into());
    stated.or_else(shown).filter(|n: &usize| *n >= MIN_COLUMNS)
}

/// How a message is introduced, with the code of its colour.
#[derive(Clone, Copy)]
enum Kind {
    Error,
    Failed,
    Note,
}

impl Kind {
    fn label(self) -> (&'static str, u8) {
        match self {
            Self::Error => ("relayer", 31),
            Self::Failed => ("failed", 31),
            Self::Note => ("note", 36),
        }
    }
}

/// Standard error, with progress bars if it is a terminal and a line now and then if it is not.
pub(super) struct Terminal {
    shared: Arc<Shared>,
    /// The thread that shows progress.
    shows: Mutex<Option<JoinHandle<()>>>,
    /// Whether progress is shown at all.
    progress: bool,
    quiet: bool,
    color: bool,
}

struct Shared {
    stage: Mutex<Option<Stage>>,
    ended: Condvar,
    transfers: Arc<Transfers>,
    /// Where bars are drawn, if standard error is a terminal.
    bars: Option<MultiProgress>,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // A thread that panicked while holding the lock leaves the stage intact.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows progress until the stage that began at this time ends.
    fn show(&self, begun: Instant) {
        let mut display = Display::new(self.bars.as_ref(), begun);
        let mut stage = self.stage();
        while let Some(running) = stage.as_ref().filter(|stage| stage.begun == begun) {
            display.show(running, &self.transfers);
            let rest = display.next().saturating_duration_since(Instant::now());
            let waited = self.ended.wait_timeout(stage, rest);
            stage = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(stage);
        display.clear();
    }
}

impl Terminal {
    pub(super) fn new(
        progress: bool,
        quiet: bool,
        color: Color,
        transfers: Arc<Transfers>,
    ) -> Self {
        let target = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let (stage, ended) = (Mutex::default(), Condvar::new());
        let shared = Shared { stage, ended, transfers, bars: is_terminal().then(target) };
        let (shared, shows) = (Arc::new(shared), Mutex::default());
        Self { shared, shows, progress, quiet, color: color.is_on() }
    }

    /// Prints an error: one line, for people and for logs.
    pub(super) fn error(&self, e: &Error) {
        self.end();
        self.print(Kind::Error, &e.to_string());
    }

    /// Prints a limit that an image exceeds, also with `--quiet`.
    pub(super) fn failed(&self, what: &str) {
        self.end();
        self.print(Kind::Failed, what);
    }

    /// Prints what exceeds a limit, and returns how the command ends.
    pub(super) fn judge(&self, exceeded: &[String]) -> Outcome {
        for what in exceeded {
            self.failed(what);
        }
        if exceeded.is_empty() { Outcome::Done } else { Outcome::Differs }
    }

    fn print(&self, kind: Kind, text: &str) {
        let text = printable(text);
        let (label, code) = kind.label();
        let line = if self.color {
            format!("\x1b[1;{code}m{label}:\x1b[0m {text}\n")
        } else {
            format!("{label}: {text}\n")
        };
        // What can't be printed to standard error can't be printed anywhere.
        let print = || drop(io::stderr().write_all(line.as_bytes()));
        match &self.shared.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    fn showing(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        // A thread is set or taken as a whole.
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Terminal {
    fn begin(&self, stage: &str, bytes: u64) {
        if !self.progress {
            return;
        }
        self.end();
        let stage = Stage::new(stage, bytes);
        let begun = stage.begun;
        *self.shared.stage() = Some(stage);
        let shared = Arc::clone(&self.shared);
        let show = thread::Builder::new().name("progress".into()).spawn(move || shared.show(begun));
        // Without a thread nothing is shown.
        *self.showing() = show.ok();
    }

    fn advance(&self, bytes: u64) {
        if let Some(stage) = self.shared.stage().as_mut() {
            stage.done += bytes;
        }
    }

    fn end(&self) {
        self.shared.stage().take();
        self.shared.ended.notify_all();
        // Bars are gone before anything else is printed.
        if let Some(shows) = self.showing().take() {
            let _ = shows.join();
        }
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            self.print(Kind::Note, &shorten(text, 4 * MAX_MESSAGE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_replace_each_other_and_end() {
        let terminal = Terminal::new(true, false, Color::Never, Arc::default());
        terminal.begin("read", 10);
        terminal.advance(4);
        assert_eq!(terminal.shared.stage().as_ref().map(|stage| stage.done), Some(4));
        terminal.begin("encode", 10);
        assert!(terminal.shared.stage().as_ref().is_some_and(|stage| stage.done == 0));
        terminal.end();
        assert!(terminal.shared.stage().is_none() && terminal.showing().is_none());
        // Returns at once: there is no stage.
        terminal.shared.show(Instant::now());
    }
}
