//! Programs that are started.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::base::read::read_some;

/// Finds a program in the folders of `search`, a value of `PATH`. Relative folders don't count: what is
/// in the current one is not to be trusted.
pub(crate) fn find(program: &str, search: Option<&OsStr>) -> Option<PathBuf> {
    let mut files = std::env::split_paths(search?).map(|folder| folder.join(program));
    files.find(|file| {
        let about = file.metadata();
        file.is_absolute()
            && about.is_ok_and(|a| a.is_file() && a.permissions().mode() & 0o111 != 0)
    })
}

/// A program that runs. Dropping it kills and reaps it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing if it was reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what is in a pipe that is not waited for: at most `times` buffers of 4 KiB, so that a program
/// that writes without end does not keep the reader here.
pub(crate) fn drain(
    pipe: &mut impl Read,
    times: usize,
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buf = [0; 4096];
    for _ in 0..times {
        match read_some(pipe, &mut buf) {
            Ok(0) => break,
            Ok(n) => take(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Makes reading an empty pipe, or writing to a full one, an error of kind `WouldBlock`.
pub(crate) fn set_nonblocking(pipe: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&pipe)?;
    Ok(fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?)
}
