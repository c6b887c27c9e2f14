//! What a registry says in answers that are not what was asked for
//! ([distribution-spec](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes)).

use std::time::Duration;

use serde::Deserialize;

use super::http::Response;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits::{MAX_MESSAGE, MAX_TOKEN_BYTES};
use crate::base::text::shorten;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    code: Option<String>,
    message: Option<String>,
}

/// Returns the error that an answer states. [`ErrorKind::NotFound`] means that what was asked for does
/// not exist.
pub(super) fn error(mut response: Response) -> Error {
    let status = response.status;
    let kind = match status {
        404 => ErrorKind::NotFound,
        _ => ErrorKind::Refused,
    };
    let text = response.text(MAX_TOKEN_BYTES);
    let stated = serde_json::from_str::<Errors>(&text).ok().and_then(|all| {
        let first = all.errors.into_iter().next()?;
        let parts = [first.code, first.message].into_iter().flatten().filter(|p| !p.is_empty());
        Some(parts.collect::<Vec<_>>().join(": "))
    });
    let words = stated.filter(|words| !words.is_empty()).or_else(|| {
        let text = text.trim();
        // An HTML page of a proxy says nothing here.
        (!text.is_empty() && !text.starts_with('<')).then(|| text.to_owned())
    });
    let words = words.map(|words| format!(": {}", shorten(&words, MAX_MESSAGE / 4)));
    Error::new(kind, format!("the registry answered {status}{}", words.unwrap_or_default()))
}

/// Returns how long the registry asks to wait. A date in place of seconds is ignored.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    response.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}
