//! One error type: what was being done, to what, what was found, and what to do about it.
//!
//! A message is built from the inside out. The place that finds a problem says what it found;
//! each caller that knows a wider place (the path, the layer, the file) adds it with
//! [`Context::with_context`]. Printed, the widest place comes first:
//!
//! `reading img.tar: layer 2 (sha256:9f…): tar entry at byte 1536: the checksum is wrong …`

use std::{fmt, io};

use crate::base::limits::MAX_MESSAGE;
use crate::base::text::{escape, shorten};

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The category of an [`Error`], for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused or failed.
    Io,
    /// The input breaks its format.
    Malformed,
    /// The input is valid, but relayer does not support it.
    Unsupported,
    /// Bytes do not have the digest or size that was stated for them.
    Mismatch,
    /// The input is larger than a limit allows.
    Limit,
    /// Something that was named does not exist.
    NotFound,
    /// The request would do harm or makes no sense: an output that exists, for example.
    Refused,
}

/// An error with the places it passed through. See the [module](self) for how it reads.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    /// Innermost first.
    context: Vec<String>,
    source: Option<io::Error>,
}

impl Error {
    /// Creates an error of `kind`. The message is lower case, has no full stop, and says what was
    /// found and, where there is one, the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// Creates an [`ErrorKind::Malformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Creates an [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Creates an [`ErrorKind::Mismatch`].
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    /// Creates an [`ErrorKind::Limit`].
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Creates an [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Creates an [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// Returns the category.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the kind of the system error that caused this, if one did.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.source.as_ref().map(io::Error::kind)
    }

    /// Adds the wider place: what was being done, to what.
    #[must_use]
    pub fn context(mut self, place: impl Into<String>) -> Self {
        self.0.context.push(place.into());
        self
    }
}

/// The context of a failure to start a thread.
pub(crate) const NO_THREAD: &str =
    "starting a thread; the user has too many (ulimit -u), or there is no memory for it";

/// Turns errors about invalid input into `None`, for input that may be ignored. A failure of the system
/// stays an error: to ignore it would change what is written.
pub(crate) fn if_valid<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.io_kind().is_some_and(|kind| kind != io::ErrorKind::UnexpectedEof) => Err(e),
        Err(_) => Ok(None),
    }
}

impl From<io::Error> for Error {
    /// Unwraps our own errors that a reader had wrapped in an [`io::Error`].
    fn from(e: io::Error) -> Self {
        match e.downcast::<Error>() {
            Ok(own) => own,
            Err(e) => Self(Box::new(Inner {
                kind: ErrorKind::Io,
                message: format!("{e}{}", remedy(e.kind())),
                context: Vec::new(),
                source: Some(e),
            })),
        }
    }
}

/// Returns what to do about a system error, where that does not depend on what was being done.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there, or name another place"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; name another place",
        _ => "",
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        let kind = e.io_kind().unwrap_or(io::ErrorKind::InvalidData);
        io::Error::new(kind, e)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.0.context.iter().rev() {
            write!(f, "{}: ", sanitize(place))?;
        }
        f.write_str(&sanitize(&self.0.message))
    }
}

/// Makes a part of a message safe for a terminal: names in it can be of any length and hold any bytes.
fn sanitize(part: &str) -> String {
    shorten(&escape(&shorten(part, MAX_MESSAGE), &[]), MAX_MESSAGE).into_owned()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    /// Returns the system error that caused this, whose text is also in the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

/// Adds context to an error on its way up.
pub trait Context<T> {
    /// Adds a place as [`Error::context`] does, but builds the text only if there is an error.
    ///
    /// # Errors
    /// The error of `self`, with the place added.
    fn with_context<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn with_context<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().context(place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_place_comes_first() {
        let e: Result<()> = Err(Error::malformed("no magic"));
        let e = e.with_context(|| "layer 2").with_context(|| "reading img.tar").unwrap_err();
        assert_eq!(e.to_string(), "reading img.tar: layer 2: no magic");
    }

    #[test]
    fn names_of_any_length_and_kind_make_one_line() {
        let name = "\x1b[31m\n".repeat(100_000);
        let e = Error::malformed(format!("no {name}")).context(name);
        let text = e.to_string();
        assert!(text.len() <= 2 * MAX_MESSAGE + 2, "{}", text.len());
        assert!(!text.chars().any(char::is_control), "{text}");
    }

    #[test]
    fn the_cause_of_a_failure_stays_at_hand() {
        let e = Error::from(io::Error::from(io::ErrorKind::StorageFull)).context("writing img.tar");
        let cause = std::error::Error::source(&e).and_then(|e| e.downcast_ref::<io::Error>());
        assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert!(std::error::Error::source(&Error::limit("too big")).is_none());
    }

    #[test]
    fn an_own_error_survives_the_way_through_io() {
        let e = Error::limit("too big").context("layer 1");
        let back = Error::from(io::Error::from(e));
        assert_eq!(back.kind(), ErrorKind::Limit);
        assert_eq!(back.to_string(), "layer 1: too big");
    }
}
