//! Requests that are written by hand.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::{TestRegistry, auth};

/// A client that does nothing by itself.
pub struct Client {
    pub stream: BufReader<TcpStream>,
    pub authorization: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        found.map_or("", |(_, v)| v)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub fn new(host: &str) -> Self {
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { stream: BufReader::new(stream), authorization: None }
    }

    /// One that is logged in with the password.
    pub fn known(registry: &TestRegistry) -> Self {
        let text = format!("{}:{}", registry.user(), registry.password());
        let authorization = Some(format!("Basic {}", auth::base64_of(text.as_bytes())));
        Self { authorization, ..Self::new(registry.host()) }
    }

    pub fn try_send(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Got> {
        let path = url.strip_prefix("http://").map_or(url, |u| &u[u.find('/').unwrap()..]);
        let host = self.stream.get_ref().peer_addr()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        if method.starts_with('P') {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        let own = self.authorization.as_deref().map(|a| ("Authorization", a));
        for (name, value) in headers.iter().copied().chain(own) {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        self.stream.get_mut().write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let eof = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(eof)?;
        let mut got = Got { status, headers: Vec::new(), body: Vec::new() };
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            got.headers.push((name.to_owned(), value.to_owned()));
        }
        if method != "HEAD" {
            let is_chunked = got.header("Transfer-Encoding") == "chunked";
            while {
                let mut length = got.header("Content-Length").parse().unwrap_or(0);
                if is_chunked {
                    line.clear();
                    self.stream.read_line(&mut line)?;
                    length = u64::from_str_radix(line.trim(), 16).map_err(|_| eof())?;
                }
                let have = got.body.len() as u64;
                (&mut self.stream).take(length).read_to_end(&mut got.body)?;
                if got.body.len() as u64 != have + length {
                    return Err(eof());
                }
                if is_chunked {
                    self.stream.read_exact(&mut [0; 2])?;
                }
                is_chunked && length > 0
            } {}
        }
        Ok(got)
    }

    pub fn send(&mut self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
        self.try_send(method, url, headers, body).unwrap()
    }

    pub fn get(&mut self, url: &str) -> Got {
        self.send("GET", url, &[], b"")
    }

    /// Opens an upload. Its URL.
    pub fn open(&mut self, repo: &str) -> String {
        let got = self.send("POST", &format!("/v2/{repo}/blobs/uploads/"), &[], b"");
        assert_eq!(got.status, 202, "{got:?}");
        got.header("Location").to_owned()
    }

    pub fn chunk(&mut self, url: &str, at: usize, bytes: &[u8]) -> Got {
        let range = format!("{at}-{}", at + bytes.len() - 1);
        self.send("PATCH", url, &[("Content-Range", &range)], bytes)
    }

    pub fn finish(&mut self, url: &str, digest: &str, bytes: &[u8]) -> Got {
        let sign = if url.contains('?') { '&' } else { '?' };
        self.send("PUT", &format!("{url}{sign}digest={digest}"), &[], bytes)
    }
}

/// A token for some scopes.
pub fn token(registry: &TestRegistry, host: &str, scopes: &str, is_known: bool) -> Option<String> {
    let mut client = if is_known { Client::known(registry) } else { Client::new(host) };
    client.stream = Client::new(host).stream;
    let got = client.get(&format!("/token?service=test-registry{scopes}"));
    (got.status == 200).then(|| format!("Bearer {}", got.json()["token"].as_str().unwrap()))
}
