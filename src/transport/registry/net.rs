//! HTTP over TCP and TLS, by ureq.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, SendBody, http};

use super::certificates::Certificates;
use super::http::{Body, Http, Request, Response};
use super::proxy::Proxies;
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_HEADER_BYTES;

/// An answer must bring this many bytes in the time that it may stall, unless it ends.
const SLOWEST: u64 = 64 << 10;

/// A registry may take this many times as long to store a blob, and to send the headers of an answer.
const LONGER: u32 = 5;

/// Time for a connection, for an answer without a body, and for each read or write. A transfer as a
/// whole has no limit, since links differ by a factor of a thousand.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a TCP and TLS connection.
    pub connect: Duration,
    /// For each read or write of a socket.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(30), stall: Duration::from_secs(60) }
    }
}

/// Connections to one registry and to the hosts that it refers to.
pub(super) struct Net {
    agent: Agent,
    proxies: Proxies,
    stall: Duration,
}

impl Net {
    /// Prepares connections that trust the system's certificates and `certificates`; any certificate
    /// without `verify`.
    pub(super) fn new(
        verify: bool,
        certificates: &Certificates,
        proxies: Proxies,
        connections: usize,
        timeouts: Timeouts,
    ) -> Result<Self> {
        let tls = TlsConfig::builder()
            .disable_verification(!verify)
            .root_certs(roots(&certificates.roots)?)
            .client_cert(client(certificates)?)
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("relayer/", env!("CARGO_PKG_VERSION")))
            .accept("")
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEADER_BYTES)
            .max_idle_connections(4 * connections)
            .max_idle_connections_per_host(connections)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_per_read(Some(timeouts.stall))
            .timeout_per_write(Some(timeouts.stall))
            .timeout_recv_response(Some(timeouts.stall * LONGER))
            .input_buffer_size(1 << 18)
            .output_buffer_size(1 << 18)
            .tls_config(tls)
            .proxy(None)
            .build();
        Ok(Self { agent: agent.into(), proxies, stall: timeouts.stall })
    }
}

/// Returns the system's certificates and `more`. Without certificates of the system, for example in
/// an empty container, those that are built in are used.
fn roots(more: &[Vec<u8>]) -> Result<RootCerts> {
    static SYSTEM: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    let mut extra = Vec::new();
    for pem in more {
        for item in parse_pem(pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| unreadable(&e))? {
                extra.push(certificate);
            }
        }
    }
    let system = SYSTEM.get_or_init(|| {
        // Files that can't be read or parsed are ignored, as other programs do.
        let found = rustls_native_certs::load_native_certs().certs;
        found.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    });
    if system.is_empty() && extra.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    Ok(RootCerts::from(system.iter().cloned().chain(extra)))
}

fn client(certificates: &Certificates) -> Result<Option<ClientCert>> {
    let Some(client) = &certificates.client else { return Ok(None) };
    let mut found = Vec::new();
    for item in parse_pem(&client.certificate) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| unreadable(&e))? {
            found.push(certificate);
        }
    }
    let key = PrivateKey::from_pem(&client.key)
        .map_err(|e| unreadable(&e))
        .with_context(|| "the client's key")?;
    Ok(Some(ClientCert::new_with_certs(&found, key)))
}

fn unreadable(e: &ureq::Error) -> Error {
    Error::malformed(format!("a certificate or key is not valid PEM: {e}"))
}

/// Turns a failure into one whose kind says whether another attempt may succeed: see
/// [`is_momentary`](super::retry::is_momentary).
fn failure(e: ureq::Error) -> io::Error {
    match e {
        ureq::Error::HostNotFound => io::Error::new(io::ErrorKind::NotFound, "no such host"),
        ureq::Error::Timeout(_) => {
            io::Error::new(io::ErrorKind::TimedOut, "the registry does not answer")
        }
        ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::Rustls(_) => {
            io::Error::new(io::ErrorKind::InvalidData, e)
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            io::Error::new(io::ErrorKind::InvalidInput, e)
        }
        e => {
            let e = e.into_io();
            // The system's resolver has no kind of its own; `Temporary failure` is another text.
            let text = e.to_string();
            if text.starts_with("failed to lookup") && !text.contains("Temporary") {
                return io::Error::new(io::ErrorKind::NotFound, "no such host");
            }
            e
        }
    }
}

impl Http for Net {
    fn send(&self, request: Request<'_>) -> io::Result<Response> {
        let mut builder = http::Request::builder().method(request.method.as_str()).uri(request.url);
        for (name, value) in request.headers {
            let mut value = http::HeaderValue::from_str(value).map_err(io::Error::other)?;
            value.set_sensitive(*name == "authorization");
            builder = builder.header(*name, value);
        }
        let proxy = self.proxies.of(request.url);
        let run = |builder: http::request::Builder, body: SendBody<'_>, stall: Duration| {
            let request = builder.body(body).map_err(io::Error::other)?;
            let request = self.agent.configure_request(request).proxy(proxy.cloned());
            let answer = self.agent.run(request.timeout_per_read(Some(stall)).build());
            answer.map_err(failure).map_err(|e| match proxy {
                None => e,
                Some(p) => {
                    io::Error::new(e.kind(), format!("{e} (through the proxy {})", p.host()))
                }
            })
        };
        let answer = match request.body {
            Body::None => run(builder, SendBody::none(), self.stall),
            Body::Bytes(mut bytes) => {
                let builder = builder.header("content-length", bytes.len());
                run(builder, SendBody::from_reader(&mut bytes), self.stall)
            }
            Body::Reader(reader, length) => {
                let builder = builder.header("content-length", length);
                run(builder, SendBody::from_reader(&mut reader.take(length)), self.stall * LONGER)
            }
        }?;
        let (parts, body) = answer.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        Ok(Response {
            status: parts.status.as_u16(),
            headers: headers.collect(),
            body: Box::new(Steady::new(body.into_reader(), self.stall)),
        })
    }
}

/// A reader that fails if it is too slow for too long: a limit for each read is kept by single bytes.
struct Steady<R> {
    inner: R,
    stall: Duration,
    /// Time that reads took, and what they brought, since both were last looked at.
    spent: Duration,
    bytes: u64,
}

impl<R> Steady<R> {
    fn new(inner: R, stall: Duration) -> Self {
        Self { inner, stall, spent: Duration::ZERO, bytes: 0 }
    }
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        let n = self.inner.read(buf)?;
        self.spent += begin.elapsed();
        self.bytes += n as u64;
        if self.spent > self.stall && n > 0 {
            if self.bytes < SLOWEST {
                let what = "the registry sends its answer too slowly";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            (self.spent, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(n)
    }
}
