//! Who may do what.

use std::fmt::Write;

use serde_json::json;

use super::answer::Answer;
use super::http::{Head, form};
use super::profile::{Auth, Bearer};
use super::route::Route;
use super::state::{Site, State, Token};

/// What identity tokens are for the token service.
pub const REFRESH_TOKEN: &str = "identity-token-0123456789";

/// Name and password of `Authorization: Basic`.
fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, text) = value.split_once(' ')?;
    let bytes = base64(text).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 of some bytes.
pub fn base64_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits =
            part.iter().fold(0, |bits, b| bits << 8 | u32::from(*b)) << (24 - 8 * part.len());
        let digit = |i: usize| DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
        text.extend((0..4).map(|i| if i <= part.len() { digit(i) } else { '=' }));
    }
    text
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | DIGITS.iter().position(|d| *d == c)? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// What a request must be allowed: repositories with actions.
fn needs(site: &Site, head: &Head, route: &Route) -> Vec<(String, Vec<&'static str>)> {
    let Some(repo) = route.repo() else { return Vec::new() };
    let mut needs = vec![(repo.to_owned(), route.actions(&head.method).to_vec())];
    if let (Route::Uploads(_), Auth::Bearer(Bearer { source_scope: true, .. })) =
        (route, &site.profile.auth)
        && let Some(from) = head.parameter("from").filter(|_| head.parameter("mount").is_some())
    {
        needs.push((from.to_owned(), vec!["pull"]));
    }
    needs
}

impl State {
    /// Why a request is refused, if it is.
    pub fn refusal(&mut self, site: &Site, head: &Head, route: &Route) -> Option<Answer> {
        let needs = needs(site, head, route);
        let denied = |s: &Self| {
            needs.iter().any(|(repo, actions)| {
                actions.iter().any(|a| s.denied.contains(&(repo.clone(), (*a).to_owned())))
            })
        };
        let forbidden = || Answer::error(403, "DENIED", "requested access is denied");
        let value = head.header("authorization");
        match &site.profile.auth {
            Auth::None => denied(self).then(forbidden),
            Auth::Basic => {
                if value.and_then(basic).is_some_and(|pair| self.is_user(site, &pair)) {
                    return denied(self).then(forbidden);
                }
                Some(unauthorized(401, site.profile.basic_challenge.to_owned()))
            }
            Auth::Bearer(bearer) => {
                let pair = value.and_then(basic);
                if pair.is_some() && bearer.basic_too {
                    if pair.is_some_and(|pair| self.is_user(site, &pair)) {
                        return denied(self).then(forbidden);
                    }
                } else if pair.is_some() {
                    self.violation(head, "a password for the token service, sent to the registry");
                }
                let token = value.and_then(|v| v.strip_prefix("Bearer "));
                let token = token.and_then(|t| self.tokens.get(t));
                let token = token.filter(|t| t.expires > self.now);
                let is_enough = token.is_some_and(|t| allows(t, &needs));
                if is_enough && !denied(self) {
                    return None;
                }
                let status = token.map_or(401, |_| site.profile.denied_status);
                let error = token.map(|_| r#",error="insufficient_scope""#);
                let challenge = challenge(site, bearer, &needs) + error.unwrap_or_default();
                let answer = unauthorized(status, challenge);
                if bearer.basic_too {
                    return Some(answer.with("WWW-Authenticate", r#"Basic realm="registry""#));
                }
                Some(answer)
            }
        }
    }

    fn is_user(&self, site: &Site, pair: &(String, String)) -> bool {
        pair.0 == site.profile.user && pair.1 == self.password
    }

    /// The token service.
    pub fn token(&mut self, site: &Site, head: &Head, body: &[u8], is_elsewhere: bool) -> Answer {
        let Auth::Bearer(bearer) = &site.profile.auth else { return not_found() };
        if bearer.elsewhere != is_elsewhere {
            return not_found();
        }
        let unauthorized = || Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
        let is_post = head.method == "POST";
        let fields =
            if is_post { form(&String::from_utf8_lossy(body)) } else { head.query.clone() };
        let field = |name: &str| fields.iter().find(|(k, _)| k == name).map(|(_, v)| &**v);
        let value = head.header("authorization");
        let is_user = if is_post {
            if !bearer.oauth {
                return Answer::error(405, "UNSUPPORTED", "method not allowed");
            }
            match field("grant_type") {
                Some("refresh_token") if field("refresh_token") == Some(REFRESH_TOKEN) => true,
                Some("password") => {
                    let pair = field("username").zip(field("password"));
                    pair.is_some_and(|(u, p)| self.is_user(site, &(u.to_owned(), p.to_owned())))
                }
                _ => false,
            }
        } else {
            value.and_then(basic).is_some_and(|pair| self.is_user(site, &pair))
        };
        // A wrong password is refused even where none is needed.
        if !is_user && (is_post || value.is_some() || !bearer.anonymous_pull) {
            return unauthorized();
        }
        if field("service") != Some("test-registry") {
            self.violation(head, "another service than the challenge names");
        }
        let mut scopes = Vec::new();
        let asked = fields.iter().filter(|(k, _)| k == "scope");
        for scope in asked.flat_map(|(_, v)| v.split(' ')).filter(|s| !s.is_empty()) {
            let mut parts = scope.rsplitn(2, ':');
            let (actions, name) = (parts.next(), parts.next());
            let Some((actions, name)) =
                actions.zip(name.and_then(|n| n.strip_prefix("repository:")))
            else {
                self.violation(head, "invalid scope");
                continue;
            };
            let may = |action: &&str| {
                (is_user || *action == "pull")
                    && !self.denied.contains(&(name.to_owned(), (*action).to_owned()))
            };
            let actions = actions.split(',').filter(may).map(str::to_owned).collect();
            scopes.push((name.to_owned(), actions));
        }
        self.issue(bearer, scopes)
    }

    fn issue(&mut self, bearer: &Bearer, scopes: Vec<(String, Vec<String>)>) -> Answer {
        let name = format!("test-token-{:06}-{}", self.id(), "x".repeat(1500));
        self.tokens.insert(name.clone(), Token { scopes, expires: self.now + bearer.lifetime });
        let mut answer = json!({"token": name});
        if bearer.sends_expires_in {
            answer["access_token"] = json!(name);
            answer["expires_in"] = json!(bearer.lifetime);
        }
        Answer::new(200).json(&answer)
    }
}

fn allows(token: &Token, needs: &[(String, Vec<&str>)]) -> bool {
    needs.iter().all(|(repo, actions)| {
        actions.iter().all(|action| {
            token.scopes.iter().any(|(r, list)| r == repo && list.iter().any(|a| a == action))
        })
    })
}

fn challenge(site: &Site, bearer: &Bearer, needs: &[(String, Vec<&str>)]) -> String {
    let host = if bearer.elsewhere { &site.elsewhere } else { &site.host };
    let mut text = format!(r#"Bearer realm="http://{host}/token",service="test-registry""#);
    let scopes: Vec<_> =
        needs.iter().map(|(repo, list)| format!("repository:{repo}:{}", list.join(","))).collect();
    if !scopes.is_empty() {
        let _ = write!(text, r#",scope="{}""#, scopes.join(" "));
    }
    text
}

fn unauthorized(status: u16, challenge: String) -> Answer {
    let code = if status == 403 { "DENIED" } else { "UNAUTHORIZED" };
    Answer::error(status, code, "authentication required").with("WWW-Authenticate", challenge)
}

pub fn not_found() -> Answer {
    Answer::new(404).with("Content-Type", "text/plain").whole("404 page not found\n")
}
