//! The few things to know about URLs that registries send.

use std::net::{IpAddr, ToSocketAddrs};

use ureq::http::Uri;

use crate::base::error::{Error, Result};
use crate::base::text::percent_encode;

/// Returns the absolute URL that `location` means in an answer to a request for `base`.
///
/// # Errors
/// If it is not a URL of http or https.
pub(super) fn resolve(base: &str, location: &str) -> Result<String> {
    let bad = || Error::malformed(format!("the registry sent an invalid location {location:?}"));
    let from: Uri = base.parse().map_err(|_| bad())?;
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map(ToString::to_string).unwrap_or_default();
    let url = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        // Another scheme.
        return Err(bad());
    } else {
        let path = from.path();
        let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
        format!("{scheme}://{authority}{folder}{location}")
    };
    let parsed: Uri = url.parse().map_err(|_| bad())?;
    // Credentials in a URL would be sent in place of ours.
    if parsed.host().is_none_or(str::is_empty)
        || parsed.authority().is_some_and(|a| a.as_str().contains('@'))
    {
        return Err(bad());
    }
    Ok(url)
}

/// Returns scheme, host and port of a URL, which are the same for every URL of one server.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let parsed: Uri = url.parse().ok()?;
    let scheme = parsed.scheme_str()?.to_owned();
    let port = parsed.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    Some((scheme, parsed.host()?.to_ascii_lowercase(), port))
}

/// Returns the host of a URL for messages, without its port.
pub(super) fn host(url: &str) -> String {
    origin(url).map_or_else(|| url.to_owned(), |(_, host, _)| host)
}

/// Returns whether both URLs lead to the same server.
pub(super) fn is_same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some_and(|a| Some(a) == origin(b))
}

/// Returns whether the host of a URL, or a host with its port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = bare(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || address(name).is_some_and(|ip| ip.is_loopback())
}

/// Returns whether a host is an address that only this machine or its network has.
pub(super) fn is_internal(host: &str) -> bool {
    is_loopback(host)
        || address(bare(host)).is_some_and(|ip| match ip {
            IpAddr::V4(ip) => {
                let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
                ip.is_private() || ip.is_link_local() || ip.is_unspecified() || shared
            }
            IpAddr::V6(ip) => {
                ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
            }
        })
}

/// Returns whether a URL leads to such an address, or nowhere.
pub(super) fn leads_inside(url: &str) -> bool {
    origin(url).is_none_or(|(_, host, _)| is_internal(&host))
}

/// Returns whether the host of a URL has such an address by its name.
pub(super) fn resolves_inside(url: &str) -> bool {
    let Some((_, host, port)) = origin(url) else { return false };
    let found = (bare(&host), port).to_socket_addrs();
    found.is_ok_and(|mut all| all.any(|address| is_internal(&address.ip().to_string())))
}

/// Returns a host without its port.
fn bare(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    }
}

/// Returns the address that a host is, if it is one.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let address: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(address.to_canonical())
}

/// Adds a parameter to the query of a URL. The value needs no escapes.
pub(super) fn with_query(url: &str, key: &str, value: &str) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}{key}={value}")
}

/// Escapes a value for a query or form.
pub(super) fn escape(value: &str) -> String {
    percent_encode(value, b"-._~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_relative_to_the_request() {
        let base = "https://reg:5000/v2/app/blobs/uploads/";
        for (location, url) in [
            ("/v2/x?_state=a", "https://reg:5000/v2/x?_state=a"),
            ("https://other/x", "https://other/x"),
            ("//other/x", "https://other/x"),
            ("1234", "https://reg:5000/v2/app/blobs/uploads/1234"),
        ] {
            assert_eq!(resolve(base, location).unwrap(), url);
        }
        for location in
            ["http://", "https://a:b@other/x", "/a b", "ftp://other/x", "file:/etc/passwd"]
        {
            assert!(resolve(base, location).is_err(), "{location}");
        }
    }

    #[test]
    fn the_same_server_has_one_origin() {
        assert!(is_same_origin("https://Reg/v2/", "https://reg:443/x"));
        for other in ["http://reg/", "https://reg:444/", "https://reg.evil/", "https://r/"] {
            assert!(!is_same_origin("https://reg/", other), "{other}");
        }
    }

    #[test]
    fn internal_addresses_are_known() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "::1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(host) && is_internal(host), "{host}");
        }
        for host in
            ["10.0.0.1", "192.168.1.1:80", "169.254.169.254", "[fe80::1]", "[fd00::1]:1", "0.0.0.0"]
        {
            assert!(is_internal(host) && !is_loopback(host), "{host}");
        }
        assert!(!is_internal("reg.example.com") && !is_internal("8.8.8.8"));
    }

    #[test]
    fn queries_are_added() {
        assert_eq!(with_query("https://r/x", "a", "b"), "https://r/x?a=b");
        assert_eq!(with_query("https://r/x?s=1", "a", "b"), "https://r/x?s=1&a=b");
        assert_eq!(escape("a b/c:é"), "a%20b%2Fc%3A%C3%A9");
    }
}
