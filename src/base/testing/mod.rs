//! Helpers for tests of several modules.

mod needs;

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

pub(crate) use needs::{count, needs};

/// Runs an external program on `input` and returns its output.
pub(crate) fn tool(program: &str, args: &[&str], dir: &std::path::Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
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

/// Gives a byte at a time, and is interrupted before each.
pub(crate) struct Interrupted<R>(R, bool);

impl<R> Interrupted<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self(inner, false)
    }
}

impl<R: Read> Read for Interrupted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buf.len().min(1);
        self.0.read(&mut buf[..most])
    }
}
