//! The HTTP requests that a registry client makes, behind a trait so that tests can answer them.

use std::fmt;
use std::io::{self, Read};

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asks whether something exists.
    Head,
    /// Downloads.
    Get,
    /// Begins an upload, or asks for a token.
    Post,
    /// Sends a part of an upload.
    Patch,
    /// Sends a blob or manifest.
    Put,
    /// Cancels an upload.
    Delete,
}

impl Method {
    /// Returns the name of the method.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// The body of a request. Its length is always stated: some registries are slow without it.
pub enum Body<'a> {
    /// No body.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// As many bytes as stated, from a reader.
    Reader(&'a mut dyn Read, u64),
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no body"),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Reader(_, bytes) => write!(f, "{bytes} bytes of a reader"),
        }
    }
}

/// A request. Its headers may hold credentials: it has no `Debug`.
#[allow(missing_debug_implementations)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The absolute URL.
    pub url: &'a str,
    /// Names and values of headers, without those of the body's length.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: Body<'a>,
}

/// An answer to a request, whatever its status is.
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, unread. It fails if the connection ends before the stated length.
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Response {
    /// Returns the first header of this name, which is in lower case.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all headers of this name, which is in lower case.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Returns the length of the body, if it is stated.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Reads at most `most` bytes of the body.
    pub(super) fn text(&mut self, most: u64) -> String {
        let mut bytes = Vec::new();
        // The message is for people: as much of it as there is.
        let _ = self.body.by_ref().take(most).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A connection to the world. Redirects are answers, not followed.
pub trait Http: Send + Sync {
    /// Sends a request and returns the answer to it.
    ///
    /// # Errors
    /// If the server can't be reached, stalls, or does not speak HTTP.
    fn send(&self, request: Request<'_>) -> io::Result<Response>;
}
