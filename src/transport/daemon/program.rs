//! Programs of clients that stream an image out of their storage, or into it.

use std::io::{self, Read, Write};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_PROGRAM_MESSAGE;
use crate::base::program::{Running, drain, find, set_nonblocking};
use crate::base::read::read_some;

/// Time between looks at a pipe that is empty or full.
const PAUSE: Duration = Duration::from_micros(500);

/// How long a program may take to end after its image turned out to be damaged.
const GRACE: Duration = Duration::from_secs(10);

/// Fails if a program is not installed.
pub(super) fn check(program: &str) -> Result<()> {
    prepare(program).map(drop)
}

fn prepare(program: &str) -> Result<Command> {
    let file = find(program, std::env::var_os("PATH").as_deref());
    file.map(Command::new).ok_or_else(|| {
        Error::not_found(format!(
            "{program} is in no folder of PATH; install it, or use an archive of the image"
        ))
    })
}

/// A program that runs. Its pipes are used without waiting, because a process that it started can keep
/// them open, and because it can wait for one while we wait for another.
struct Program {
    child: Running,
    /// As people would type it, for messages.
    line: String,
    out: ChildStdout,
    err: ChildStderr,
    /// The end of its messages.
    messages: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Program {
    /// Starts a program. The arguments go to it as they are, through no shell.
    fn start(program: &str, args: &[&str], stdin: Stdio) -> Result<(Self, Option<ChildStdin>)> {
        let line = format!("{program} {}", args.join(" "));
        let place = || format!("running `{line}`");
        let mut command = prepare(program)?;
        command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().with_context(place)?);
        let pipes = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
        let (stdin, Some(out), Some(err)) = pipes else {
            return Err(Error::malformed("its pipes are missing").context(place()));
        };
        set_nonblocking(&out).and_then(|()| set_nonblocking(&err)).with_context(place)?;
        let (messages, status) = (Vec::new(), None);
        Ok((Self { child, line, out, err, messages, status }, stdin))
    }

    /// Looks whether it has ended, and takes its messages. Returns whether it runs.
    fn look(&mut self, with_output: bool) -> io::Result<bool> {
        // Asked before the last reading, which then sees all that it wrote.
        let ended = self.child.0.try_wait()?;
        keep_end(&mut self.err, &mut self.messages)?;
        if with_output {
            keep_end(&mut self.out, &mut self.messages)?;
        }
        self.status = ended;
        Ok(ended.is_none())
    }

    /// Waits until it has ended, at most `limit`, and returns its failure.
    fn finish(&mut self, with_output: bool, limit: Option<Duration>) -> Result<()> {
        let start = Instant::now();
        while self.look(with_output)? {
            if limit.is_some_and(|limit| start.elapsed() > limit) {
                return Err(self.failure("it does not end"));
            }
            sleep(PAUSE);
        }
        match self.status {
            Some(status) if !status.success() => {
                Err(self.failure(&format!("it failed with {status}")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the error of a program with its messages, in one line.
    fn failure(&self, what: &str) -> Error {
        let text = String::from_utf8_lossy(&self.messages);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let colon = if lines.is_empty() { "" } else { ": " };
        Error::refused(format!("{what}{colon}{}", lines.join("; ")))
            .context(format!("running `{}`", self.line))
    }
}

/// Reads what is in a pipe and keeps the end of it.
fn keep_end(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<()> {
    drain(pipe, 64, |bytes| {
        into.extend_from_slice(bytes);
        let excess = into.len().saturating_sub(MAX_PROGRAM_MESSAGE);
        into.drain(..excess);
    })
}

/// The output of a program. Its end is an error if the program fails.
pub(super) struct ProgramReader(Program);

impl ProgramReader {
    /// Starts a program whose output is read.
    ///
    /// # Errors
    /// If it is not installed or can't be started.
    pub(super) fn start(program: &str, args: &[&str]) -> Result<Self> {
        Ok(Self(Program::start(program, args, Stdio::null())?.0))
    }
}

impl Read for ProgramReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match read_some(&mut self.0.out, buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.0.status.is_none() => {
                    if self.0.look(false)? {
                        sleep(PAUSE);
                    }
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                Ok(n) if n > 0 => return Ok(n),
                _ => {
                    self.0.finish(false, None)?;
                    return Ok(0);
                }
            }
        }
    }
}

/// The input of a program.
pub(super) struct ProgramWriter {
    program: Program,
    stdin: Option<ChildStdin>,
}

impl ProgramWriter {
    /// Starts a program that reads what is written.
    ///
    /// # Errors
    /// If it is not installed or can't be started.
    pub(super) fn start(program: &str, args: &[&str]) -> Result<Self> {
        let (program, stdin) = Program::start(program, args, Stdio::piped())?;
        if let Some(stdin) = &stdin {
            set_nonblocking(stdin)?;
        }
        Ok(Self { program, stdin })
    }

    /// Ends the input and waits for the program. `written` is what came of writing.
    ///
    /// # Errors
    /// If writing failed, or the program fails.
    pub(super) fn finish(mut self, written: Result<()>) -> Result<()> {
        self.stdin = None;
        match written {
            Ok(()) => self.program.finish(true, None),
            // Its own words say why it reads no more.
            Err(e) if e.io_kind() == Some(io::ErrorKind::BrokenPipe) => {
                self.program.finish(true, Some(GRACE))?;
                Err(self.program.failure("it ended before it had read the image"))
            }
            // It finds the archive incomplete and removes what it has begun.
            Err(e) => {
                let _ = self.program.finish(true, Some(GRACE));
                Err(e)
            }
        }
    }
}

impl Write for ProgramWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            let Some(stdin) = &mut self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
            match stdin.write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if !self.program.look(true)? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            sleep(PAUSE);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
