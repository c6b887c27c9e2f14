//! Answers, and the faults in them.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::faults::Fault;
use super::http::{Head, Wire};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Arc<Vec<u8>>,
    /// The part of the body that is sent.
    pub range: Range<usize>,
    /// Whether the body is sent with `Transfer-Encoding: chunked`.
    pub is_chunked: bool,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default(), range: 0..0, is_chunked: false }
    }

    /// An error, in the form that the specification has for it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let errors = json!({"errors": [{"code": code, "message": message, "detail": null}]});
        Self::new(status).json(&errors)
    }

    /// A JSON document.
    pub fn json(self, document: &Value) -> Self {
        self.with("Content-Type", "application/json").whole(document.to_string())
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn whole(self, body: impl Into<Vec<u8>>) -> Self {
        self.shared(Arc::new(body.into()))
    }

    pub fn shared(mut self, body: Arc<Vec<u8>>) -> Self {
        self.range = 0..body.len();
        self.body = body;
        self
    }

    /// A blob, or the range of it that is asked for.
    pub fn blob(bytes: Arc<Vec<u8>>, head: &Head, honours_ranges: bool) -> Self {
        let total = bytes.len();
        let answer = Self::new(200).with("Content-Type", "application/octet-stream").shared(bytes);
        let asked = head.header("range").filter(|_| honours_ranges);
        let mut answer = match asked.and_then(|r| r.strip_prefix("bytes=")) {
            None => answer,
            Some(range) => match parse_range(range, total) {
                Some(range) => {
                    let said = format!("bytes {}-{}/{total}", range.start, range.end - 1);
                    let answer = Self { status: 206, range, ..answer };
                    answer.with("Content-Range", said)
                }
                None => Self::error(416, "RANGE_INVALID", "invalid range")
                    .with("Content-Range", format!("bytes */{total}")),
            },
        };
        if honours_ranges {
            answer = answer.with("Accept-Ranges", "bytes");
        }
        answer
    }

    /// Send it. Returns how many bytes of the body were written, and whether the connection can be
    /// used again.
    pub fn send(
        mut self,
        wire: &mut Wire,
        has_body: bool,
        fault: Option<Fault>,
        keep: bool,
        pause: &dyn Fn(Duration),
    ) -> (u64, bool) {
        let keep = keep && !fault.is_some_and(closes);
        if let Some(Fault::WrongContentRange) = fault {
            let (start, end) = (self.range.start + 1, self.range.end);
            let wrong = format!("bytes {start}-{end}/{}", self.body.len() + 1);
            self.headers.retain(|(name, _)| *name != "Content-Range");
            self.headers.push(("Content-Range", wrong));
        }
        if let Some(Fault::WrongLocation(text)) = fault {
            self.headers.retain(|(name, _)| *name != "Location");
            self.headers.push(("Location", text.to_owned()));
        }
        self.is_chunked &= has_body;
        let head = self.head(fault, keep);
        if self.is_chunked {
            let data = &self.body[self.range.clone()];
            let start = format!("{:x}\r\n", data.len());
            let all = [start.as_bytes(), data, b"\r\n0\r\n\r\n"].concat();
            self = self.whole(all);
        }
        let body = if has_body { &self.body[self.range.clone()] } else { &[] };
        let mut sent = 0;
        let result = faulty(wire, head.as_bytes(), body, fault, pause, &mut sent);
        (sent, keep && result.is_ok() && fault != Some(Fault::Close))
    }

    fn head(&self, fault: Option<Fault>, keep: bool) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if fault == Some(Fault::HugeHeaders) {
            for i in 0..1024 {
                let _ = write!(head, "X-Padding-{i}: {}\r\n", "x".repeat(1024));
            }
        }
        if self.is_chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if self.status != 204 && fault != Some(Fault::Endless) {
            let _ = write!(head, "Content-Length: {}\r\n", self.range.len());
        }
        if !keep {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// Whether the connection cannot be used after a fault.
fn closes(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::ResetResponse(_)
            | Fault::LostAnswer
            | Fault::Truncate(_)
            | Fault::TooLong
            | Fault::Endless
            | Fault::Garbage
    )
}

/// Write an answer with a fault in it.
fn faulty(
    wire: &mut Wire,
    head: &[u8],
    body: &[u8],
    fault: Option<Fault>,
    pause: &dyn Fn(Duration),
    written: &mut u64,
) -> std::io::Result<()> {
    let place = |at: u64| (at % (body.len() as u64).max(1)).min(body.len() as u64) as usize;
    let mut send = |wire: &mut Wire, bytes: &[u8]| {
        wire.send(bytes)?;
        *written += bytes.len() as u64;
        Ok(())
    };
    match fault {
        Some(Fault::LostAnswer) => Ok(()),
        Some(Fault::Garbage) => wire.send(b"\x16\x03\x01 what is this\r\n\r\n"),
        Some(Fault::ResetResponse(at) | Fault::Truncate(at)) => {
            wire.send(head)?;
            send(wire, &body[..place(at)])
        }
        Some(Fault::Stall(at, millis)) => {
            wire.send(head)?;
            send(wire, &body[..place(at)])?;
            pause(Duration::from_millis(millis));
            send(wire, &body[place(at)..])
        }
        Some(Fault::WrongByte(at)) if !body.is_empty() => {
            let mut wrong = body.to_vec();
            wrong[place(at)] ^= 1;
            wire.send(head)?;
            send(wire, &wrong)
        }
        Some(Fault::TooLong) => {
            wire.send(head)?;
            send(wire, body)?;
            send(wire, &vec![b'+'; 1 << 20])
        }
        Some(Fault::Endless) => {
            wire.send(head)?;
            send(wire, body)?;
            let more = vec![b'+'; 1 << 16];
            (0..1 << 12).try_for_each(|_| send(wire, &more))
        }
        Some(Fault::Slow(count)) => {
            let (count, all) = (count as usize, [head, body].concat());
            for byte in all.iter().take(count) {
                wire.send(&[*byte])?;
                pause(Duration::from_millis(2));
            }
            *written += count.saturating_sub(head.len()).min(body.len()) as u64;
            let rest = count.min(head.len());
            wire.send(&head[rest..])?;
            let rest = (count - rest).min(body.len());
            wire.send(&body[rest..])?;
            *written = body.len() as u64;
            Ok(())
        }
        _ => {
            // Small answers in one write, as servers do.
            if body.len() < 16 << 10 {
                wire.send(&[head, body].concat())?;
                *written = body.len() as u64;
                return Ok(());
            }
            wire.send(head)?;
            body.chunks(64 << 10).try_for_each(|part| send(wire, part))
        }
    }
}

/// `a-b`, `a-` or `-n` of so many bytes.
fn parse_range(text: &str, total: usize) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let range = if start.is_empty() {
        total.saturating_sub(end.parse().ok()?)..total
    } else {
        let end = if end.is_empty() { total } else { end.parse::<usize>().ok()?.saturating_add(1) };
        start.parse().ok()?..end.min(total)
    };
    (range.start < range.end).then_some(range)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Other",
    }
}
