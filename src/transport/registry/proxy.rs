//! Proxies that the environment names, by the rules of curl and of Go's
//! [httpproxy](https://pkg.go.dev/golang.org/x/net/http/httpproxy).

use std::net::IpAddr;

use ureq::Proxy;

use super::config_file::Environment;
use super::url;
use crate::base::error::{Error, Result};

/// The proxies for http and https, and the hosts that are reached without one.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Exception {
    All,
    /// A host and all below it, or with a leading dot only those below it; and a port if it has one.
    Domain(String, Option<u16>),
    /// Addresses whose first bits are these.
    Network(IpAddr, u8),
}

impl Proxies {
    /// Reads the variables, in upper or lower case.
    ///
    /// # Errors
    /// If a proxy is not a valid URL of http or https.
    pub(super) fn from_env(env: Environment<'_>) -> Result<Self> {
        let text = |name: &str| {
            let value = env(&name.to_lowercase()).or_else(|| env(name))?;
            value.into_string().ok().filter(|value| !value.trim().is_empty())
        };
        let proxy = |name: &str| {
            let found = text(name).map(|value| (name.to_owned(), value));
            let found =
                found.or_else(|| text("ALL_PROXY").map(|value| ("ALL_PROXY".into(), value)));
            found.map(|(name, value)| parse(&name, value.trim())).transpose()
        };
        let except = text("NO_PROXY").unwrap_or_default();
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            except: except.split(',').filter_map(|entry| exception(entry.trim())).collect(),
        })
    }

    /// Returns the proxy for a URL; `None` if it is reached without one.
    pub(super) fn of(&self, url: &str) -> Option<&Proxy> {
        let (scheme, host, port) = url::origin(url)?;
        if url::is_loopback(&host) || self.except.iter().any(|entry| entry.matches(&host, port)) {
            return None;
        }
        if scheme == "http" { self.http.as_ref() } else { self.https.as_ref() }
    }
}

/// Parses the address of a proxy, which may hold a password: messages do not have it.
fn parse(name: &str, value: &str) -> Result<Proxy> {
    let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    if value.starts_with("socks") {
        return Err(Error::unsupported(format!(
            "{name} names a SOCKS proxy, which relayer can't use; name one that speaks http, or unset it"
        )));
    }
    Proxy::new(&value).map_err(|_| Error::malformed(format!("{name} is not the URL of a proxy")))
}

fn exception(entry: &str) -> Option<Exception> {
    if entry.is_empty() {
        return None;
    }
    if entry == "*" {
        return Some(Exception::All);
    }
    if let Some((address, bits)) = entry.split_once('/') {
        return Some(Exception::Network(address.parse().ok()?, bits.parse().ok()?));
    }
    if let Some(address) = url::address(entry) {
        return Some(Exception::Network(address, 128));
    }
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    Some(Exception::Domain(name.trim_start_matches('*').to_ascii_lowercase(), port))
}

impl Exception {
    fn matches(&self, host: &str, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                url::address(host).is_some_and(|address| is_in(address, *network, *bits))
            }
            Self::Domain(name, of) => {
                let end = name.trim_start_matches('.');
                let below = host.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
                (below || host == name) && of.is_none_or(|of| of == port)
            }
        }
    }
}

/// Returns whether the first bits of two addresses are the same.
fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, all: u32| {
        let rest = all.saturating_sub(bits.into());
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &'static [(&str, &str)]) -> Result<Proxies> {
        let env = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| value.into())
        };
        Proxies::from_env(&env)
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = proxies(&[("https_proxy", "http://a:1"), ("HTTP_PROXY", "b:2")]).unwrap();
        let host = |url| both.of(url).map(|proxy| proxy.host().to_owned());
        assert_eq!(host("https://reg.example/v2/").as_deref(), Some("a"));
        assert_eq!(host("http://reg.example/v2/").as_deref(), Some("b"));
        for url in ["http://localhost:5000/", "https://127.0.0.1/", "http://[::1]:5000/"] {
            assert_eq!(host(url), None, "{url}");
        }
        let all = proxies(&[("ALL_PROXY", "http://user:secret@c:3")]).unwrap();
        assert_eq!(all.of("https://reg.example/").map(Proxy::port), Some(3));
    }

    #[test]
    fn some_hosts_need_none() {
        let some = proxies(&[
            ("HTTPS_PROXY", "http://a:1"),
            ("NO_PROXY", "example.com, .below.test,10.0.0.0/8,192.0.2.7,ported.test:5000,fd00::/8"),
        ])
        .unwrap();
        for url in [
            "https://example.com/",
            "https://a.example.com/",
            "https://a.below.test/",
            "https://10.1.2.3/",
            "https://192.0.2.7:5000/",
            "https://ported.test:5000/",
            "https://[fd00::1]/",
        ] {
            assert!(some.of(url).is_none(), "{url}");
        }
        for url in [
            "https://badexample.com/",
            "https://below.test/",
            "https://11.1.2.3/",
            "https://ported.test/",
            "https://[fe80::1]/",
        ] {
            assert!(some.of(url).is_some(), "{url}");
        }
        let none = proxies(&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "*")]).unwrap();
        assert!(none.of("https://reg.example/").is_none());
    }

    #[test]
    fn a_proxy_that_can_not_be_used_is_told_without_its_password() {
        for value in ["socks5://user:secret@a:1", "http://user:secret@a b"] {
            let env = |name: &str| (name == "HTTPS_PROXY").then(|| value.into());
            let e = Proxies::from_env(&env).unwrap_err().to_string();
            assert!(e.contains("HTTPS_PROXY") && !e.contains("secret"), "{e}");
        }
    }
}
