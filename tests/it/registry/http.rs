//! HTTP/1.1 on a socket without buffers, so that bytes can be left unread: closing a socket with
//! unread bytes resets its connection, and std has no other way to do that.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;

/// A request up to its body.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        if !words.next()?.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let headers = lines
            .filter(|l| !l.is_empty())
            .map(|l| l.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().to_owned())))
            .collect::<Option<Vec<_>>>()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (path, query) = (decoded(path, false), form(query));
        Some(Self { method, target, path, query, headers })
    }

    /// A header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    /// All values of a parameter of the query.
    pub fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(k, _)| k == name).map(|(_, v)| &**v)
    }

    pub fn parameter<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.parameters(name).next()
    }

    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }

    pub fn expects_continue(&self) -> bool {
        self.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
    }

    pub fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

fn nonsense() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

fn decoded(text: &str, plus_is_space: bool) -> String {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::new(), 0);
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The pairs of a query or of a form.
pub fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|p| !p.is_empty());
    let split = pairs.map(|p| p.split_once('=').unwrap_or((p, "")));
    split.map(|(k, v)| (decoded(k, true), decoded(v, true))).collect()
}

/// How to read a body.
#[derive(Debug, Default)]
pub struct BodyPlan {
    /// Stop after this many bytes, and leave the rest unread.
    pub stop_at: Option<u64>,
    /// Pause after this many bytes.
    pub pause_at: Option<u64>,
    /// Leave the last byte unread, though it is part of the result.
    pub keep_last: bool,
}

/// What was read of a body.
#[derive(Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub is_complete: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// Whether the last byte of the head is unread.
    owes_newline: bool,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, owes_newline: false }
    }

    /// The next request, or `None` if the client closed or tries TLS; nonsense is `InvalidData`. The
    /// last byte of it stays unread until the body is.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        self.settle()?;
        let (mut head, mut block) = (Vec::new(), [0; 4096]);
        loop {
            let n = self.stream.peek(&mut block)?;
            let before = head.len();
            head.extend_from_slice(&block[..n]);
            let end = head.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 3);
            let take = end.unwrap_or(head.len()) - before;
            self.stream.read_exact(&mut block[..take])?;
            if let Some(end) = end {
                self.owes_newline = true;
                head.truncate(end - 1);
                return std::str::from_utf8(&head)
                    .ok()
                    .and_then(Head::parse)
                    .map(Some)
                    .ok_or(nonsense());
            }
            match head.first() {
                // Who tries TLS first sends byte 22.
                None | Some(22) => return Ok(None),
                Some(first) if !first.is_ascii_uppercase() => return Err(nonsense()),
                _ => {}
            }
            if n == 0 || head.len() > HEAD_MAX {
                return Err(nonsense());
            }
        }
    }

    /// Read what is still unread of the head.
    fn settle(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.owes_newline) {
            self.stream.read_exact(&mut [0])?;
        }
        Ok(())
    }

    /// The body of a request. Errors of the connection end it early.
    pub fn body(&mut self, head: &Head, plan: &BodyPlan, pause: &dyn Fn()) -> Body {
        let mut body = Body::default();
        let result = if head.is_chunked() {
            self.chunked(plan, pause, &mut body.bytes)
        } else {
            match head.length().unwrap_or(0) {
                0 if plan.stop_at.is_some() => Ok(false),
                0 if plan.keep_last => Ok(true),
                n => self.sized(n, plan, pause, &mut body.bytes),
            }
        };
        body.is_complete = result.unwrap_or(false);
        body
    }

    fn sized(
        &mut self,
        length: u64,
        plan: &BodyPlan,
        pause: &dyn Fn(),
        bytes: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.settle()?;
        let end = if plan.keep_last { length - 1 } else { length };
        let mut pause_at = plan.pause_at.filter(|p| *p < end);
        loop {
            let have = bytes.len() as u64;
            if pause_at == Some(have) {
                pause_at = None;
                pause();
            }
            if plan.stop_at == Some(have) && have < length {
                // What is closed without this byte is reset.
                self.stream.peek(&mut [0])?;
                return Ok(false);
            }
            if have == end {
                break;
            }
            let until = [plan.stop_at, pause_at].into_iter().flatten().filter(|n| *n > have);
            let until = until.fold(end, u64::min);
            if (&self.stream).take((until - have).min(64 << 10)).read_to_end(bytes)? == 0 {
                return Ok(false);
            }
        }
        if plan.keep_last {
            let mut last = [0];
            self.stream.peek(&mut last)?;
            bytes.push(last[0]);
        }
        Ok(true)
    }

    fn chunked(
        &mut self,
        plan: &BodyPlan,
        pause: &dyn Fn(),
        bytes: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.settle()?;
        if plan.pause_at.is_some() {
            pause();
        }
        loop {
            let line = self.line()?;
            let size = line.split(';').next().and_then(|n| u64::from_str_radix(n.trim(), 16).ok());
            let Some(size) = size else { return Ok(false) };
            if plan.stop_at.is_some_and(|stop| bytes.len() as u64 + size > stop) {
                self.stream.peek(&mut [0])?;
                return Ok(false);
            }
            if (&self.stream).take(size).read_to_end(bytes)? as u64 != size {
                return Ok(false);
            }
            if size == 0 && plan.keep_last {
                return Ok(true);
            }
            while !self.line()?.is_empty() {}
            if size == 0 {
                return Ok(true);
            }
        }
    }

    /// A line without its end.
    fn line(&mut self) -> io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Read and discard up to some bytes, so that a reset does not take the answer away.
    pub fn drain(&mut self, most: u64) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(500)));
        let _ = io::copy(&mut (&self.stream).take(most), &mut io::sink());
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}
