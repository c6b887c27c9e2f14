//! Requests to one registry: authorization, redirects, and repetition of what failed.

use std::io::{self, Read};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::auth::Auth;
use super::credentials::Credentials;
use super::http::{Body, Http, Method, Request, Response};
use super::quirks::Dialect;
use super::retry::{Retry, is_momentary};
use super::slots::Slots;
use super::warnings::Warnings;
use super::{answer, url};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_REDIRECTS;
use crate::base::read::read_some;
use crate::model::content::{ReadAt, SourceReader};

/// How often one request is made with another token. One may expire on its way, or while a long body
/// is sent.
const MAX_TOKENS: u32 = 3;

/// A body that can be sent again.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// A range of a source: offset and length. The function gets the offset that was reached.
    Range(&'a dyn ReadAt, u64, u64, &'a (dyn Fn(u64) + Sync)),
}

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Absolute.
    pub(super) url: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) payload: Payload<'a>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: &'a str, scopes: &'a [String]) -> Self {
        Self { method, url, scopes, headers: &[], payload: Payload::None }
    }
}

/// A registry.
pub(super) struct RegistryClient {
    http: Arc<dyn Http>,
    /// `https://HOST`.
    base: String,
    /// Whether it has an internal address; resolved when that matters.
    inside: OnceLock<bool>,
    auth: Auth,
    pub(super) retry: Retry,
    pub(super) downloads: Slots,
    pub(super) uploads: Slots,
    pub(super) dialect: Dialect,
    /// The smallest blob that was too large for one request.
    pub(super) too_large: AtomicU64,
    warnings: Arc<Warnings>,
}

/// What to connect to, and how.
pub(super) struct Connection<'a> {
    pub(super) http: Arc<dyn Http>,
    pub(super) host: &'a str,
    /// Whether http will do.
    pub(super) allow_http: bool,
    pub(super) credentials: Credentials,
    pub(super) retry: Retry,
    /// Numbers of transfers at a time.
    pub(super) downloads: usize,
    pub(super) uploads: usize,
    pub(super) warnings: Arc<Warnings>,
}

impl RegistryClient {
    /// Connects to a registry: by http if it may and the registry does not answer https.
    ///
    /// # Errors
    /// If it can't be reached, or is no registry.
    pub(super) fn connect(target: Connection<'_>) -> Result<Self> {
        let Connection { http, host, allow_http, credentials, retry, .. } = target;
        let mut schemes = vec!["https"];
        if allow_http {
            schemes.push("http");
        }
        let mut last = None;
        for scheme in schemes {
            let base = format!("{scheme}://{host}");
            let auth = Auth::new(credentials.clone(), &base, retry);
            let mut client = Self {
                http: Arc::clone(&http),
                base,
                inside: OnceLock::new(),
                auth,
                retry,
                downloads: Slots::new(target.downloads),
                uploads: Slots::new(target.uploads),
                dialect: Dialect::Common,
                too_large: AtomicU64::new(u64::MAX),
                warnings: Arc::clone(&target.warnings),
            };
            match client.ping(allow_http && scheme == "https") {
                Ok(challenge) => {
                    client.dialect = Dialect::of(host, &challenge);
                    return Ok(client);
                }
                Err(e) => last = last.or(Some(e)),
            }
        }
        let e = last.unwrap_or_else(|| Error::not_found("no such registry"));
        Err(e.context(format!("connecting to {host}")))
    }

    /// Asks whether this is a registry and what authorization it demands. `once` does so without
    /// repetition, because another scheme is tried next. Returns the challenge.
    fn ping(&self, once: bool) -> Result<String> {
        let url = format!("{}/v2/", self.base);
        let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
        let answer = self.retry.send(
            |e| !once && is_momentary(e) && !refused(e),
            || {
                self.http.send(Request {
                    method: Method::Get,
                    url: &url,
                    headers: &[],
                    body: Body::None,
                })
            },
        );
        let answer = answer.map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => untrusted(&e),
            _ => e.into(),
        })?;
        self.warnings.add(self.host(), &answer);
        self.auth.challenged(&answer, &[], None);
        let challenge = answer.all("www-authenticate").collect::<Vec<_>>().join(", ");
        match answer.status {
            // Some answer 404 here and have images all the same.
            200 | 401 | 403 | 404 => Ok(challenge),
            _ => Err(answer::error(answer)),
        }
    }

    fn host(&self) -> &str {
        self.base.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the URL of a path below `/v2/REPOSITORY/`.
    pub(super) fn url(&self, repository: &str, path: &str) -> String {
        format!("{}/v2/{repository}/{path}", self.base)
    }

    /// Sends a request once; again only if its token was refused, and where it is redirected to.
    ///
    /// # Errors
    /// Those of [`Http::send`] as they are; others if there is no token, or a redirect leads astray.
    pub(super) fn once(&self, call: &Call<'_>) -> io::Result<Response> {
        let mut url = call.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.authorized(call, &url)?;
            let redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let reads = matches!(call.method, Method::Get | Method::Head);
            let location = answer.header("location").filter(|_| redirect && reads);
            let Some(location) = location else { return Ok(answer) };
            url = self.follow(&url, location)?;
        }
        Err(Error::refused(format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    /// Returns where an answer leads to, if a client may go there.
    pub(super) fn follow(&self, from: &str, location: &str) -> Result<String> {
        let url = url::resolve(from, location)?;
        let refused =
            |why| Err(Error::refused(format!("the registry refers to {}, {why}", url::host(&url))));
        if url.starts_with("http://") && !self.base.starts_with("http://") {
            return refused("over an unencrypted connection");
        }
        // A registry inside may have its storage there too.
        let inside = || url::leads_inside(&self.base) || url::resolves_inside(&self.base);
        if url::leads_inside(&url) && !self.inside.get_or_init(inside) {
            return refused("an address inside this network");
        }
        Ok(url)
    }

    /// Sends a request, with authorization if it goes to the registry itself.
    fn authorized(&self, call: &Call<'_>, url: &str) -> io::Result<Response> {
        let own = url::is_same_origin(&self.base, url);
        let mut attempt = 1;
        loop {
            let token = if own { self.auth.header(self.http.as_ref(), call.scopes)? } else { None };
            let mut headers = call.headers.to_vec();
            headers.extend(token.as_ref().map(|token| ("authorization", token.expose())));
            let answer = self.send(call, url, &headers)?;
            if own {
                self.warnings.add(self.host(), &answer);
            }
            let refused = answer.status == 401
                && own
                && self.auth.challenged(&answer, call.scopes, token.as_ref());
            if !refused || attempt == MAX_TOKENS {
                return Ok(answer);
            }
            attempt += 1;
        }
    }

    fn send(&self, call: &Call<'_>, url: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        match call.payload {
            Payload::None if matches!(call.method, Method::Post | Method::Put | Method::Patch) => {
                self.send_body(call, url, headers, Body::Bytes(&[]))
            }
            Payload::None => self.send_body(call, url, headers, Body::None),
            Payload::Bytes(bytes) => self.send_body(call, url, headers, Body::Bytes(bytes)),
            Payload::Range(source, offset, length, sent) => {
                let inner = SourceReader::new(source, offset, length);
                let mut reader = Counted { inner, at: offset, sent };
                self.send_body(call, url, headers, Body::Reader(&mut reader, length))
            }
        }
    }

    fn send_body<'a>(
        &'a self,
        call: &Call<'_>,
        url: &'a str,
        headers: &'a [(&'a str, &'a str)],
        body: Body<'a>,
    ) -> io::Result<Response> {
        self.http.send(Request { method: call.method, url, headers, body })
    }

    /// Sends a request until it is answered, within the limits of the client's patience.
    ///
    /// # Errors
    /// If the registry can't be reached.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Response> {
        let once = || {
            let answer = self.once(call)?;
            if answer.status == 429 {
                self.uploads.fewer();
            }
            Ok(answer)
        };
        Ok(self.retry.send(is_momentary, once)?)
    }

    /// Returns the error of an answer, with what a user can do about it.
    pub(super) fn error(&self, response: Response) -> Error {
        let status = response.status;
        let e = answer::error(response);
        let host = self.host();
        match status {
            401 | 403 if self.auth.is_anonymous() => Error::refused(format!(
                "{e}; no credentials for {host} were found; log in with `docker login {host}` or \
                 `podman login {host}`"
            )),
            401 => Error::refused(format!("{e}; the credentials for {host} are wrong or too old")),
            403 => Error::refused(format!("{e}; the account that is logged in may not do this")),
            429 => Error::refused(format!("{e}; the registry limits requests; try again later")),
            _ => e,
        }
    }
}

/// Returns the error of a TLS connection that could not be made.
fn untrusted(e: &io::Error) -> Error {
    Error::refused(format!(
        "{e}; --cert-dir DIR trusts the certificates in a folder, --tls-verify=false any certificate, and \
         plain http too"
    ))
}

/// A reader that tells how far it is.
struct Counted<'a> {
    inner: SourceReader<'a>,
    at: u64,
    sent: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = read_some(&mut self.inner, buf)?;
        self.at += n as u64;
        (self.sent)(self.at);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::transport::registry::credentials::Secret;

    /// The status of an answer and one header.
    type Answer = (u16, &'static str, String);

    /// Answers requests by their URL, and remembers them with their authorization.
    struct Fake<F>(F, Mutex<Vec<String>>);

    impl<F: Fn(&str) -> Answer + Send + Sync> Http for Fake<F> {
        fn send(&self, request: Request<'_>) -> io::Result<Response> {
            let authorization = request.headers.iter().find(|(name, _)| *name == "authorization");
            let authorization = authorization.map_or("", |(_, value)| value);
            self.1.lock().unwrap().push(format!("{} {authorization}", request.url));
            let (status, name, value) = (self.0)(request.url);
            let body = Box::new(&br#"{"token":"t"}"#[..]);
            Ok(Response { status, headers: vec![(name.to_owned(), value)], body })
        }
    }

    /// Asks `https://reg.example` for a blob. Returns the answer, and all requests after the first.
    fn ask(
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> (io::Result<u16>, Vec<String>) {
        let fake = Arc::new(Fake(answer, Mutex::default()));
        let client = RegistryClient::connect(Connection {
            http: Arc::clone(&fake) as Arc<dyn Http>,
            host: "reg.example",
            allow_http: false,
            credentials: Credentials::Basic { user: "u".into(), password: Secret::new("p") },
            retry: Retry { attempts: 2, first: std::time::Duration::ZERO },
            downloads: 1,
            uploads: 1,
            warnings: Arc::default(),
        });
        let client = client.unwrap();
        let (url, scopes) = (client.url("app", "blobs/x"), ["repository:app:pull".to_owned()]);
        let answer = client.once(&Call::new(Method::Get, &url, &scopes)).map(|a| a.status);
        let seen = fake.1.lock().unwrap()[1..].to_vec();
        (answer, seen)
    }

    #[test]
    fn authorization_goes_to_the_registry_only() {
        let to = |place: &'static str| {
            ask(move |url| match url {
                "https://reg.example/v2/" => (401, "www-authenticate", "Basic realm=x".into()),
                "https://reg.example/v2/app/blobs/x" => (307, "location", place.into()),
                _ => (200, "x", String::new()),
            })
        };
        for place in
            ["https://cdn.example/x", "https://reg.example:444/x", "https://reg.example.evil/"]
        {
            let (answer, seen) = to(place);
            assert_eq!(answer.unwrap(), 200);
            let wanted =
                ["https://reg.example/v2/app/blobs/x Basic dTpw".into(), format!("{place} ")];
            assert_eq!(seen, wanted);
        }
        assert_eq!(to("/other").1[1], "https://reg.example/other Basic dTpw");
    }

    #[test]
    fn redirects_lead_neither_inside_nor_to_plain_http() {
        for place in [
            "http://reg.example/x",
            "http://cdn.example/x",
            "https://127.0.0.1/x",
            "https://localhost/x",
            "https://[::1]/x",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/x",
            "https://u:p@cdn.example/x",
            "ftp://cdn.example/x",
            "file:///etc/passwd",
        ] {
            let (answer, seen) = ask(move |url| match url {
                "https://reg.example/v2/app/blobs/x" => (307, "location", place.into()),
                _ => (200, "x", String::new()),
            });
            let e = answer.unwrap_err();
            assert!(!is_momentary(&e), "{place}: {e}");
            assert!(seen.iter().all(|line| line.starts_with("https://reg.example/")), "{seen:?}");
        }
    }

    #[test]
    fn redirects_come_to_an_end() {
        let (answer, seen) = ask(|url| match url {
            "https://reg.example/v2/" => (200, "x", String::new()),
            url => (302, "location", url.into()),
        });
        assert!(answer.unwrap_err().to_string().contains("redirects"));
        assert_eq!(seen.len(), MAX_REDIRECTS + 1);
    }

    #[test]
    fn tokens_are_asked_for_outside_and_with_encryption_only() {
        let ask_at = |realm: &'static str| {
            ask(move |url| match url {
                "https://reg.example/v2/" => {
                    (401, "www-authenticate", format!("Bearer realm=\"{realm}\""))
                }
                _ => (200, "x", String::new()),
            })
        };
        for realm in [
            "http://auth.example/token",
            "https://127.0.0.1/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://169.254.169.254/token",
            "file:///etc/passwd",
            "/token",
        ] {
            let (answer, seen) = ask_at(realm);
            assert!(answer.is_err() && seen.is_empty(), "{realm}: {seen:?}");
        }
        let (answer, seen) = ask_at("https://auth.example/token");
        assert_eq!(answer.unwrap(), 200);
        let scope = "https://auth.example/token?scope=repository%3Aapp%3Apull Basic dTpw";
        assert_eq!(seen, [scope, "https://reg.example/v2/app/blobs/x Bearer t"]);
    }
}
