//! Helpers for tests of several modules.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs an external program on `input` and returns its output.
pub(crate) fn tool(program: &str, args: &[&str], dir: &std::path::Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}; install it: apt-get install {program}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().unwrap();
    feed.join().unwrap().unwrap();
    assert!(out.status.success(), "{program} failed");
    out.stdout
}

/// Returns the CPU time of this thread in seconds, which does not depend on other load.
pub(crate) fn cpu_seconds() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::ThreadCPUTime).tv_sec.cast_unsigned()
}
