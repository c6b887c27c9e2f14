//! Files of credentials: `auth.json` of podman and skopeo, `config.json` of docker.
//!
//! Both have one format. Its keys are found as `containers-auth.json(5)` and `findCredentialsInFile` of
//! containers/image (`pkg/docker/config/config.go`) say: a helper for the host comes first, then the
//! longest key that leads to the repository. `credsStore` comes last: docker (`cli/config/configfile`)
//! has it, containers/image does not.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::credentials::{Credentials, Secret};
use crate::base::error::{Error, Result};

/// Docker Hub in names of images. Other names of its hosts mean it too.
const HUB: &str = "docker.io";

/// Docker Hub as docker writes it into its files, and as helpers know it.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Padding may be missing, as some tools write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parts of a file of credentials that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AuthFile {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
    creds_store: Option<String>,
}

/// Credentials of one registry or namespace. Docker writes an empty entry if a helper keeps them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// What a file says of a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Nothing,
    Credentials(Credentials),
    /// The helper `name` is to be asked for `server`. It is `for_all` registries if nothing in the file
    /// names this one.
    Helper {
        name: &'a str,
        server: &'a str,
        for_all: bool,
    },
}

impl AuthFile {
    /// Parses a file.
    ///
    /// # Errors
    /// If it is not JSON of this form. They don't quote it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            // The text of the error can quote a value.
            let what = if e.is_data() { "a value has the wrong type" } else { "it is not JSON" };
            Error::malformed(format!("{what}, at line {}, column {}", e.line(), e.column()))
        })
    }

    /// Returns what the file says of a repository on a host.
    ///
    /// # Errors
    /// If the entry for it is invalid.
    pub(super) fn find<'a>(&'a self, host: &'a str, repository: &str) -> Result<Found<'a>> {
        let helper = self.cred_helpers.as_ref().and_then(|helpers| by_host(helpers, host));
        if let Some((key, Some(name))) = helper
            && !name.is_empty()
        {
            let server = if is_hub(host) { key } else { host };
            return Ok(Found::Helper { name, server, for_all: false });
        }
        if let Some((key, entry)) = self.entry(host, repository)
            && let Some(credentials) =
                entry.credentials().map_err(|e| e.context(format!("entry {key:?}")))?
        {
            return Ok(Found::Credentials(credentials));
        }
        match self.creds_store.as_deref() {
            // For docker, an empty helper of a host means that it has none.
            Some(name) if !name.is_empty() && helper.is_none() => {
                let server = if is_hub(host) { HUB_SERVER } else { host };
                Ok(Found::Helper { name, server, for_all: true })
            }
            _ => Ok(Found::Nothing),
        }
    }

    /// Returns the entry with the longest key that leads to a repository.
    fn entry(&self, host: &str, repository: &str) -> Option<(&str, &Entry)> {
        let auths = self.auths.as_ref()?;
        let host = if is_hub(host) { HUB } else { host };
        let mut repository = repository;
        while !repository.is_empty() {
            if let Some((key, entry)) = auths.get_key_value(&format!("{host}/{repository}")) {
                return Some((key, entry.as_ref()?));
            }
            repository = repository.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        let (key, entry) = by_host(auths, host)?;
        Some((key, entry.as_ref()?))
    }
}

impl Entry {
    /// Returns the credentials of an entry, if it has any.
    fn credentials(&self) -> Result<Option<Credentials>> {
        let text = |secret: &Option<Secret>| {
            secret.as_ref().map(Secret::expose).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        if let Some(token) = text(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        let (user, password) = match text(&self.auth) {
            Some(auth) => {
                let bytes = BASE64.decode(auth.trim()).ok();
                let decoded = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
                let split = decoded.as_deref().and_then(|text| text.split_once(':'));
                let Some((user, password)) = split else {
                    return Err(Error::malformed(
                        "`auth` is not the base64 of USER:PASSWORD; log in again",
                    ));
                };
                // Old versions of docker padded the password.
                (user.to_owned(), password.trim_matches('\0').to_owned())
            }
            None => (
                self.username.clone().unwrap_or_default(),
                text(&self.password).unwrap_or_default(),
            ),
        };
        let given = !user.is_empty() || !password.is_empty();
        Ok(given.then(|| Credentials::Basic { user, password: Secret::new(password) }))
    }
}

/// Returns whether a host is one of Docker Hub's.
fn is_hub(host: &str) -> bool {
    matches!(host, HUB | "index.docker.io" | "registry-1.docker.io")
}

/// Returns the entry of a host: with its name as the key, or with a URL of it.
fn by_host<'a, T>(map: &'a BTreeMap<String, T>, host: &str) -> Option<(&'a str, &'a T)> {
    let same = |key: &str| host_of(key) == host || is_hub(host_of(key)) && is_hub(host);
    let url = || map.iter().find(|(key, _)| same(key));
    map.get_key_value(host).or_else(url).map(|(key, value)| (key.as_str(), value))
}

/// Returns the host in a key that docker wrote: it had URLs of the registry's API there.
fn host_of(key: &str) -> &str {
    let url = ["https://", "http://"].into_iter().find_map(|scheme| key.strip_prefix(scheme));
    match url {
        Some(url) => url.split('/').next().unwrap_or_default(),
        None => ["/v1/", "/v2/"].into_iter().find_map(|end| key.strip_suffix(end)).unwrap_or(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Found<'static> {
        let password = Secret::new(password);
        Found::Credentials(Credentials::Basic { user: user.into(), password })
    }

    /// What a file says; `@u:p` in it is the base64 of `u:p`.
    fn check(json: &str, host: &str, repository: &str, expected: &Found<'_>) {
        let mut text = String::new();
        for (i, part) in json.split('@').enumerate() {
            let (plain, rest) = if i == 0 { ("", part) } else { part.split_once('"').unwrap() };
            text += &BASE64.encode(plain.replace("\\0", "\0"));
            text += if i == 0 { "" } else { "\"" };
            text += rest;
        }
        let file = AuthFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.find(host, repository).unwrap(), *expected, "{json} {host}/{repository}");
    }

    #[test]
    fn the_longest_key_wins() {
        let json = r#"{"auths": {
            "reg.io": {"auth": "@host:1"}, "reg.io/org": {"auth": "@org:2"},
            "reg.io/org/app": {"auth": "@app:3"}, "docker.io/me": {"auth": "@me:4"}}}"#;
        check(json, "reg.io", "org/app", &basic("app", "3"));
        check(json, "reg.io", "org/apple", &basic("org", "2"));
        check(json, "reg.io", "organ/app", &basic("host", "1"));
        check(json, "reg.io", "", &basic("host", "1"));
        check(json, "reg.io:5000", "org/app", &Found::Nothing);
        for host in ["docker.io", "registry-1.docker.io", "index.docker.io"] {
            check(json, host, "me/app", &basic("me", "4"));
            check(json, host, "you/app", &Found::Nothing);
        }
    }

    #[test]
    fn urls_are_keys_of_their_host() {
        for key in ["https://reg.io", "http://reg.io/v2/", "https://reg.io/v1/", "reg.io/v1/"] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "@u:p"}}}}}}"#);
            check(&json, "reg.io", "a", &basic("u", "p"));
            check(&json, "reg.io:443", "a", &Found::Nothing);
        }
        for key in [HUB_SERVER, "docker.io", "index.docker.io", "registry-1.docker.io"] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "@u:p"}}}}}}"#);
            check(&json, "docker.io", "library/a", &basic("u", "p"));
            check(&json, "registry-1.docker.io", "library/a", &basic("u", "p"));
        }
        let json =
            r#"{"auths": {"https://reg.io/": {"auth": "@u:1"}, "reg.io": {"auth": "@u:2"}}}"#;
        check(json, "reg.io", "a", &basic("u", "2"));
    }

    #[test]
    fn entries_have_several_forms() {
        let entry = |entry: &str, expected: &Found<'_>| {
            check(&format!(r#"{{"auths": {{"r": {entry}}}}}"#), "r", "a", expected);
        };
        entry(r#"{"auth": "@u:a:b"}"#, &basic("u", "a:b"));
        entry(r#"{"auth": "@u:p\0\0"}"#, &basic("u", "p"));
        entry(r#"{"auth": "dTpwcA"}"#, &basic("u", "pp"));
        entry(r#"{"username": "u", "password": "p"}"#, &basic("u", "p"));
        entry(r#"{"auth": "@u:p", "username": "x", "password": "y"}"#, &basic("u", "p"));
        let token = Found::Credentials(Credentials::IdentityToken(Secret::new("t")));
        entry(r#"{"auth": "@0000:", "identitytoken": "t"}"#, &token);
        for empty in ["{}", "null", r#"{"auth": ""}"#, r#"{"auth": null, "email": "e"}"#] {
            entry(empty, &Found::Nothing);
        }
    }

    #[test]
    fn helpers_of_a_host_come_first_and_the_store_last() {
        let helper = |name, server, for_all| Found::Helper { name, server, for_all };
        let json = r#"{"auths": {"a": {"auth": "@u:p"}, "b": {"auth": "@u:p"}, "c": {}, "e": {}},
            "credHelpers": {"a": "one", "https://d/": "one", "e": ""}, "credsStore": "all"}"#;
        check(json, "a", "x", &helper("one", "a", false));
        check(json, "b", "x", &basic("u", "p"));
        check(json, "c", "x", &helper("all", "c", true));
        check(json, "d", "x", &helper("one", "d", false));
        check(json, "e", "x", &Found::Nothing);
        check(json, "docker.io", "x", &helper("all", HUB_SERVER, true));
        for key in [HUB_SERVER, "docker.io"] {
            let json = format!(r#"{{"credHelpers": {{"{key}": "hub"}}}}"#);
            check(&json, "docker.io", "x", &helper("hub", key, false));
        }
        check(r#"{"auths": null, "HttpHeaders": {"a": "b"}}"#, "a", "x", &Found::Nothing);
    }

    #[test]
    fn errors_quote_nothing() {
        for json in [
            r#"{"auths": "hunter2"}"#,
            r#"{"auths": {"r": "hunter2"}}"#,
            r#"{"auths": {"r": {"auth": ["hunter2"]}}}"#,
            r#"{"credsStore": {"hunter2": 1}}"#,
            "hunter2",
            r#"{"auths": {"r": {"auth": "hunter2"#,
        ] {
            let error = AuthFile::parse(json.as_bytes()).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("line 1") && !text.contains("hunter"), "{text}");
        }
        // Not base64, not UTF-8, and without a colon.
        for auth in ["hunter2!", "/////w==", "aHVudGVyMg=="] {
            let file = format!(r#"{{"auths": {{"r": {{"auth": "{auth}"}}}}}}"#);
            let file = AuthFile::parse(file.as_bytes()).unwrap();
            let text = file.find("r", "a").unwrap_err().to_string();
            assert!(text.starts_with("entry \"r\": `auth`") && !text.contains("hunter"), "{text}");
        }
    }
}
