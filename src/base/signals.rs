//! The end of the process by a signal: what is unfinished is removed first.

use std::{fs, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use super::error::{Context, NO_THREAD, Result};
use super::temporary::remove_all;

/// Starts the thread that waits for SIGINT, SIGTERM or SIGHUP, removes everything unfinished, and exits
/// with status 128 plus the number of the signal. Signals that the process was started to ignore, as by
/// nohup, stay ignored.
pub(crate) fn clean_up_at_signals() -> Result<()> {
    let ignored = ignored();
    let wanted = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|s| ignored >> (s - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).with_context(|| "preparing for signals")?;
    let work = move || {
        if let Some(signal) = signals.forever().next() {
            end(signal);
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(work);
    started.map(drop).with_context(|| NO_THREAD)
}

/// Returns the signals that are ignored from the start, one bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn end(signal: i32) {
    let _held = remove_all();
    let name = low_level::signal_name(signal).unwrap_or("a signal");
    let text = format!("relayer: ended by {name}; unfinished files were removed\n");
    // Another thread may hold the lock of `io::stderr()`.
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    low_level::exit(128 + signal);
}
