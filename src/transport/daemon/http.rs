//! HTTP/1.1 over a unix socket, as far as docker's API needs it: one request for each connection.
//!
//! The HTTP client of registries, ureq, has no stable way to connect to a unix socket.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_HEADER_BYTES, MAX_TOKEN_BYTES};

/// The beginning of an answer, and a reader of the rest.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: AnswerBody,
}

impl Answer {
    /// Reads a short body.
    ///
    /// # Errors
    /// If it is long, or ends early.
    pub(super) fn bytes(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.take(MAX_TOKEN_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_TOKEN_BYTES {
            return Err(Error::limit(format!("its answer has more than {MAX_TOKEN_BYTES} bytes")));
        }
        Ok(bytes)
    }
}

/// A connection for one request.
pub(super) struct Connection {
    stream: UnixStream,
    /// How long to wait for each part of the answer.
    wait: Duration,
}

impl Connection {
    /// Connects to a socket.
    ///
    /// # Errors
    /// If nothing listens there, or this user may not connect.
    pub(super) fn open(socket: &Path, wait: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Self { stream, wait })
    }

    /// Asks for `path`, whose characters are those of a URL.
    ///
    /// # Errors
    /// If the connection fails, or the answer is not HTTP.
    pub(super) fn get(mut self, path: &str) -> Result<Answer> {
        self.stream.write_all(head("GET", path, "").as_bytes())?;
        self.answer()
    }

    /// Sends what `fill` writes, whose length need not be known.
    ///
    /// # Errors
    /// Those of `fill`; or if the connection fails and there is no answer.
    pub(super) fn post(
        mut self,
        path: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Answer> {
        let fields = "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n";
        self.stream.write_all(head("POST", path, fields).as_bytes())?;
        let mut out = BufWriter::with_capacity(1 << 20, Chunks(&self.stream));
        let sent = fill(&mut out).and_then(|()| Ok(out.flush()?));
        // What is left in the buffer must not follow an error.
        let (Chunks(mut stream), _) = out.into_parts();
        let sent = sent.and_then(|()| Ok(stream.write_all(b"0\r\n\r\n")?));
        match sent {
            Ok(()) => self.answer(),
            Err(e) if is_closed(&e) => self.answer().map_err(|_| e),
            Err(e) => Err(e),
        }
    }

    fn answer(self) -> Result<Answer> {
        let wait = self.wait;
        let mut stream = Timed { stream: BufReader::new(self.stream), wait };
        let mut left = MAX_HEADER_BYTES as u64;
        loop {
            let line = stream.line(&mut left)?;
            let status = status(&line).ok_or_else(|| {
                Error::malformed(format!(
                    "it does not answer in HTTP but with {line:?}; is this the socket of docker?"
                ))
            })?;
            let framing = framing(&mut stream, &mut left)?;
            // 100 to 199 come before the answer.
            if status >= 200 {
                return Ok(Answer { status, body: AnswerBody { stream, framing } });
            }
        }
    }
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: relayer\r\nConnection: close\r\n{fields}\r\n"
    )
}

/// Returns whether the other side closed the connection.
fn is_closed(e: &Error) -> bool {
    matches!(e.io_kind(), Some(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset))
}

fn status(line: &str) -> Option<u16> {
    let code = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

/// How the end of a body is found.
enum Framing {
    /// Bytes until its end.
    Length(u64),
    /// Bytes until the end of this chunk; `None` before the size of the next one.
    Chunked(Option<u64>),
    ToTheEnd,
}

/// Reads the fields of a head and returns the framing that they state.
fn framing(stream: &mut Timed, left: &mut u64) -> Result<Framing> {
    let mut framing = Framing::ToTheEnd;
    loop {
        let line = stream.line(left)?;
        let Some((name, value)) = line.split_once(':') else {
            if line.is_empty() {
                return Ok(framing);
            }
            return Err(Error::malformed(format!("a field of its answer is not valid: {line:?}")));
        };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match (&*name, &framing) {
            ("transfer-encoding", _) if value.eq_ignore_ascii_case("chunked") => {
                framing = Framing::Chunked(None);
            }
            ("transfer-encoding", _) => {
                return Err(Error::unsupported(format!("its answer is encoded as {value:?}")));
            }
            ("content-length", Framing::ToTheEnd) => {
                let length = value.parse().map_err(|_| {
                    Error::malformed(format!("its answer states a length of {value:?}"))
                })?;
                framing = Framing::Length(length);
            }
            _ => {}
        }
    }
}

/// A stream whose time limit is an error that says so.
struct Timed {
    stream: BufReader<UnixStream>,
    wait: Duration,
}

impl Timed {
    /// Reads a line without its end, at most `left` bytes.
    fn line(&mut self, left: &mut u64) -> Result<String> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(*left);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(|e| late(e, self.wait))?;
        *left -= line.len() as u64;
        if line.pop() != Some(b'\n') {
            return Err(if *left == 0 { too_long() } else { early().into() });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf).map_err(|e| late(e, self.wait))
    }
}

fn too_long() -> Error {
    Error::limit(format!("the head of its answer has more than {MAX_HEADER_BYTES} bytes"))
}

fn early() -> io::Error {
    let why = "it ended its answer early; its log may say why";
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

/// Says what a time limit means.
fn late(e: io::Error, wait: Duration) -> io::Error {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::limit(format!("it has been silent for {} s", wait.as_secs())).into()
        }
        _ => e,
    }
}

/// The rest of an answer. An early end is an error.
pub(super) struct AnswerBody {
    stream: Timed,
    framing: Framing,
}

impl AnswerBody {
    /// Reads the size of a chunk, and the fields after the last one.
    fn next_chunk(&mut self) -> Result<u64> {
        let mut left = MAX_HEADER_BYTES as u64;
        let line = self.stream.line(&mut left)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_| Error::malformed(format!("a chunk of its answer has size {digits:?}")))?;
        while size == 0 && !self.stream.line(&mut left)?.is_empty() {}
        Ok(size)
    }
}

impl Read for AnswerBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked(None) = self.framing {
            let size = self.next_chunk().with_context(|| "reading its answer")?;
            self.framing =
                if size == 0 { Framing::Length(0) } else { Framing::Chunked(Some(size)) };
        }
        let (Framing::Length(left) | Framing::Chunked(Some(left))) = &mut self.framing else {
            return self.stream.read(buf);
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.stream.read(&mut buf[..most])?;
        if n == 0 {
            return Err(early());
        }
        *left -= n as u64;
        if let Framing::Chunked(Some(0)) = self.framing {
            match self.stream.line(&mut 2) {
                Ok(line) if line.is_empty() => {}
                Err(e) if e.io_kind().is_some() => return Err(e.into()),
                _ => return Err(Error::malformed("a chunk of its answer does not end").into()),
            }
            self.framing = Framing::Chunked(None);
        }
        Ok(n)
    }
}

/// Writes each part as a chunk.
struct Chunks<'a>(&'a UnixStream);

impl Write for Chunks<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // An empty chunk would end the body.
        if !buf.is_empty() {
            self.0.write_all(format!("{:x}\r\n", buf.len()).as_bytes())?;
            self.0.write_all(buf)?;
            self.0.write_all(b"\r\n")?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
