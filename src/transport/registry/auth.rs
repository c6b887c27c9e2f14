//! Authorization of requests: challenges and tokens
//! ([token specification](https://distribution.github.io/distribution/spec/auth/token/)).

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::credentials::{Credentials, Secret};
use super::http::{Body, Http, Method, Request, Response};
use super::retry::{Retry, is_momentary};
use super::{answer, url};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_TOKEN_BYTES;

/// Life of a token whose answer states none, as the specification has it.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// How long before its end a token is renewed: an upload checks it at its end too.
const EARLY: Duration = Duration::from_secs(10);

/// A demand for authorization, as a registry states it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// Authorization at one registry.
pub(super) struct Auth {
    credentials: Credentials,
    /// Whether tokens may be asked for without encryption: as for the registry itself.
    plain: bool,
    /// Whether they may be asked for at an internal address: as for the registry itself.
    internal: bool,
    retry: Retry,
    challenge: Mutex<Option<Challenge>>,
    /// By scopes.
    tokens: Mutex<HashMap<String, (Secret, Instant)>>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Auth {
    /// Prepares to ask for tokens for the registry at `base`.
    pub(super) fn new(credentials: Credentials, base: &str, retry: Retry) -> Self {
        let (challenge, tokens) = (Mutex::default(), Mutex::default());
        let (plain, internal) = (base.starts_with("http://"), url::leads_inside(base));
        Self { credentials, plain, internal, retry, challenge, tokens }
    }

    /// Returns whether no credentials are known.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.credentials, Credentials::Anonymous)
    }

    /// Remembers the challenge of an answer with status 401 to a request with the header `sent`, and
    /// forgets the token that was refused. Returns whether another request may succeed.
    pub(super) fn challenged(
        &self,
        answer: &Response,
        scopes: &[String],
        sent: Option<&Secret>,
    ) -> bool {
        let found = answer.all("www-authenticate").filter_map(challenge).last();
        let Some(found) = found else { return false };
        let (mut tokens, key) = (locked(&self.tokens), scopes.join(" "));
        // Another thread may have a new one already.
        if tokens.get(&key).is_some_and(|(token, _)| sent == Some(&bearer(token))) {
            tokens.remove(&key);
        }
        drop(tokens);
        let mut challenge = locked(&self.challenge);
        let is_new = challenge.as_ref() != Some(&found);
        let renewable = matches!(found, Challenge::Bearer { .. });
        *challenge = Some(found);
        is_new || renewable || sent.is_none()
    }

    /// Returns the header for a request that needs `scopes`; `None` if none is needed as far as is
    /// known.
    pub(super) fn header(&self, http: &dyn Http, scopes: &[String]) -> Result<Option<Secret>> {
        let challenge = locked(&self.challenge).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(match &self.credentials {
                Credentials::Basic { user, password } => Some(basic(user, password)),
                Credentials::Anonymous | Credentials::IdentityToken(_) => None,
            }),
            Some(Challenge::Bearer { realm, service }) => {
                // Held while a token is asked for: several threads would ask for the same.
                let mut tokens = locked(&self.tokens);
                let key = scopes.join(" ");
                if let Some((token, end)) = tokens.get(&key)
                    && *end > Instant::now()
                {
                    return Ok(Some(bearer(token)));
                }
                let (token, life) = self
                    .ask(http, &realm, service.as_deref(), scopes)
                    .with_context(|| format!("asking {} for a token", url::host(&realm)))?;
                let life = life.saturating_sub(EARLY.min(life / 5));
                let header = bearer(&token);
                tokens.insert(key, (token, Instant::now() + life));
                Ok(Some(header))
            }
        }
    }

    fn ask(
        &self,
        http: &dyn Http,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<(Secret, Duration)> {
        if !(realm.starts_with("https://") || (self.plain && realm.starts_with("http://"))) {
            return Err(Error::refused(
                "the registry asks for credentials over an unencrypted connection",
            ));
        }
        if url::leads_inside(realm) && !self.internal {
            return Err(Error::refused("it is an address inside this network"));
        }
        let once = || match &self.credentials {
            Credentials::IdentityToken(token) => {
                let form = [
                    "grant_type=refresh_token".to_owned(),
                    "client_id=relayer".to_owned(),
                    format!("scope={}", url::escape(&scopes.join(" "))),
                    format!("service={}", url::escape(service.unwrap_or_default())),
                    format!("refresh_token={}", url::escape(token.expose())),
                ];
                http.send(Request {
                    method: Method::Post,
                    url: realm,
                    headers: &[("content-type", "application/x-www-form-urlencoded")],
                    body: Body::Bytes(form.join("&").as_bytes()),
                })
            }
            credentials => {
                let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
                let url = scopes
                    .chain(service.map(|service| ("service", service)))
                    .fold(realm.to_owned(), |url, (key, value)| {
                        url::with_query(&url, key, &url::escape(value))
                    });
                let secret = match credentials {
                    Credentials::Basic { user, password } => Some(basic(user, password)),
                    _ => None,
                };
                let header = secret.as_ref().map(|s| ("authorization", s.expose()));
                http.send(Request {
                    method: Method::Get,
                    url: &url,
                    headers: header.as_slice(),
                    body: Body::None,
                })
            }
        };
        let mut response = self.retry.send(is_momentary, once)?;
        match response.status {
            200 => token(&mut response),
            401 | 403 => Err(self.denied(response)),
            _ => Err(answer::error(response)),
        }
    }

    fn denied(&self, response: Response) -> Error {
        let e = answer::error(response);
        if self.is_anonymous() {
            return e;
        }
        Error::refused(format!("{e}; the stored credentials are wrong or too old"))
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is valid at any time.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a token and its life.
fn token(response: &mut Response) -> Result<(Secret, Duration)> {
    let mut bytes = Vec::new();
    response.body.by_ref().take(MAX_TOKEN_BYTES).read_to_end(&mut bytes)?;
    // The parser's message could quote the token.
    let bad = || Error::malformed("the answer has no token");
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token =
        token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic())).ok_or_else(bad)?;
    let life = answer.expires_in.filter(|life| *life > 0.0 && *life < 1e9);
    Ok((Secret::new(token), life.map_or(DEFAULT_LIFE, Duration::from_secs_f64)))
}

fn basic(user: &str, password: &Secret) -> Secret {
    let text = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
    Secret::new(format!("Basic {text}"))
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

/// Returns the challenge of a header that relayer can meet; the bearer's if there are several.
fn challenge(header: &str) -> Option<Challenge> {
    let all = http_auth::parse_challenges(header).ok()?;
    let of = |scheme: &str| all.iter().find(|c| c.scheme.eq_ignore_ascii_case(scheme));
    let Some(bearer) = of("bearer") else { return of("basic").map(|_| Challenge::Basic) };
    let param = |key: &str| {
        let found = bearer.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some(Challenge::Bearer { realm: param("realm")?, service: param("service") })
}

/// Returns the scope to pull from a repository, and to push to it.
pub(super) fn scope(repository: &str, push: bool) -> String {
    format!("repository:{repository}:{}", if push { "pull,push" } else { "pull" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        assert_eq!(
            challenge(
                r#"Bearer realm="https://auth/token?a=b,c",service="reg \"x\"",scope="a:b:c""#
            ),
            Some(Challenge::Bearer {
                realm: "https://auth/token?a=b,c".into(),
                service: Some("reg \"x\"".into())
            })
        );
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(
            challenge("basic realm=x, BEARER Realm=\"https://t\"").map(|c| c != Challenge::Basic),
            Some(true)
        );
        for header in ["Bearer", "", "Negotiate", "Bearer realm", "\u{1}"] {
            assert_eq!(challenge(header), None, "{header}");
        }
    }
}
