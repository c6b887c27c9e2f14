//! What a request asks for.

use super::faults::On;
use super::http::Head;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// `/v2/`.
    Base,
    Token,
    /// A blob at the other host.
    Redirected(String),
    Uploads(String),
    Upload(String, String),
    Blob(String, String),
    Manifest(String, String),
    Tags(String),
    Referrers(String, String),
    Unknown,
}

impl Route {
    pub fn of(head: &Head, upload_prefix: &str) -> Self {
        let path = &*head.path;
        if path == "/token" {
            return Self::Token;
        }
        if let Some(id) = path.strip_prefix("/cdn/") {
            return Self::Redirected(id.to_owned());
        }
        let rest = path.strip_prefix("/v2/").or_else(|| path.strip_prefix(upload_prefix));
        let Some(rest) = rest else { return Self::Unknown };
        if rest.is_empty() {
            return Self::Base;
        }
        let repo = |n: usize| rest[..n].to_owned();
        if let Some(n) = rest.rfind("/blobs/uploads/") {
            return match &rest[n + "/blobs/uploads/".len()..] {
                "" => Self::Uploads(repo(n)),
                id => Self::Upload(repo(n), id.to_owned()),
            };
        }
        if let Some(repo) = rest.strip_suffix("/tags/list") {
            return Self::Tags(repo.to_owned());
        }
        let kinds = [("/blobs/", 0), ("/manifests/", 1), ("/referrers/", 2)];
        for (kind, number) in kinds {
            let Some(n) = rest.rfind(kind) else { continue };
            let last = rest[n + kind.len()..].to_owned();
            return match number {
                0 => Self::Blob(repo(n), last),
                1 => Self::Manifest(repo(n), last),
                _ => Self::Referrers(repo(n), last),
            };
        }
        Self::Unknown
    }

    /// The repository, where there is one.
    pub fn repo(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Token | Self::Redirected(_) | Self::Unknown => None,
            Self::Uploads(repo)
            | Self::Upload(repo, _)
            | Self::Blob(repo, _)
            | Self::Manifest(repo, _)
            | Self::Tags(repo)
            | Self::Referrers(repo, _) => Some(repo),
        }
    }

    /// The kind of request, for faults.
    pub fn kind(&self, method: &str) -> On {
        match (self, method) {
            (Self::Blob(..), "GET") => On::BlobGet,
            (Self::Blob(..), "HEAD") => On::BlobHead,
            (Self::Uploads(_), "POST") => On::UploadPost,
            (Self::Upload(..), "PATCH") => On::UploadPatch,
            (Self::Upload(..), "PUT") => On::UploadPut,
            (Self::Upload(..), "GET" | "HEAD") => On::UploadStatus,
            (Self::Manifest(..), "GET") => On::ManifestGet,
            (Self::Manifest(..), "HEAD") => On::ManifestHead,
            (Self::Manifest(..), "PUT") => On::ManifestPut,
            (Self::Tags(_), _) => On::Tags,
            (Self::Referrers(..), _) => On::Referrers,
            (Self::Token, _) => On::Token,
            (Self::Redirected(_), _) => On::Redirected,
            _ => On::Other,
        }
    }

    /// What a token must allow.
    pub fn actions(&self, method: &str) -> &'static [&'static str] {
        match (self, method) {
            (Self::Upload(..), _) | (_, "POST" | "PUT" | "PATCH") => &["pull", "push"],
            (_, "DELETE") => &["delete"],
            _ => &["pull"],
        }
    }
}

/// Whether a name is one that the specification of distribution allows.
pub fn is_repository(name: &str) -> bool {
    let is_alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(a, b)| is_alnum(*a) && is_alnum(*b))
            && bytes.iter().all(|b| is_alnum(*b) || b"._-".contains(b))
            && !part.contains("..")
            && !part.contains("___")
    };
    name.len() <= 255 && name.split('/').all(part)
}

pub fn is_digest(text: &str) -> bool {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

pub fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = text.bytes().next().is_some_and(is_word);
    first && text.len() <= 128 && text.bytes().all(|b| is_word(b) || b".-".contains(&b))
}

/// What is wrong with a request by itself.
pub fn wrongs(head: &Head, route: &Route, is_elsewhere: bool) -> Vec<String> {
    let mut wrongs = Vec::new();
    let mut note = |is_wrong: bool, what: &str| {
        if is_wrong {
            wrongs.push(format!("{} {}: {what}", head.method, head.target));
        }
    };
    let has = |name| head.header(name).is_some();
    note(head.target.contains("//"), "two slashes");
    note(head.target.contains('#'), "a fragment");
    note(!head.target.starts_with('/'), "not a path");
    note(!has("host"), "no Host");
    let sends = matches!(&*head.method, "POST" | "PUT" | "PATCH");
    note(sends && !has("content-length"), "no Content-Length");
    note(!sends && head.length().unwrap_or(0) > 0, "a body");
    note(*route == Route::Unknown, "unknown path");
    note(
        matches!(route, Route::Manifest(..) | Route::Tags(_)) && has("range"),
        "Range on what is not a blob",
    );
    let is_upload_elsewhere = is_elsewhere && matches!(route, Route::Upload(..));
    note(
        (is_upload_elsewhere || matches!(route, Route::Redirected(_))) && has("authorization"),
        "Authorization at another host",
    );
    let encodings = head.header("accept-encoding").unwrap_or("identity");
    note(
        matches!(route, Route::Blob(..) | Route::Redirected(_)) && encodings != "identity",
        "asks for a blob in another encoding",
    );
    note(route.repo().is_some_and(|r| !is_repository(r)), "invalid repository name");
    if let Route::Blob(_, digest) | Route::Referrers(_, digest) = route {
        note(!is_digest(digest), "invalid digest");
    }
    if let Route::Manifest(_, reference) = route {
        note(!is_digest(reference) && !is_tag(reference), "invalid reference");
    }
    wrongs
}
