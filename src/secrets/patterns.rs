//! Finds secrets by their form, in any file: private keys, and tokens of services that use a fixed prefix.
//!
//! One automaton finds the prefixes. A bounded number of bytes after each is then checked by hand, so
//! that the time is linear in the length of any text.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::base::error::{Error, Result};

/// A secret in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// Name of the rule.
    pub(super) rule: &'static str,
    /// Range of its bytes in the text.
    pub(super) at: Range<usize>,
}

/// Maximum number of bytes that a pattern checks: enough for a private key of 8,192 bits.
pub(super) const REACH: usize = 8 << 10;

/// The form of a service's token: `start`, then `least` to `most` bytes of its alphabet, and no further
/// byte of it.
struct Token {
    rule: &'static str,
    start: &'static str,
    alphabet: fn(u8) -> bool,
    least: usize,
    most: usize,
}

fn alphanumeric(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn capital(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

/// Letters, digits, `-` and `_`.
fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn word_dots(b: u8) -> bool {
    word(b) || b == b'.'
}

fn path(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'/'
}

fn base64(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')
}

fn hex(b: u8) -> bool {
    b.is_ascii_hexdigit()
}

const ANY: usize = 400;

/// The tokens as the services document them, or as their own secret scanning matches them. Keys that
/// are meant to be public in web pages (Google's `AIza`, Stripe's `pk_`) are not secrets.
const TOKENS: [Token; 38] = {
    const fn t(
        rule: &'static str,
        start: &'static str,
        alphabet: fn(u8) -> bool,
        least: usize,
        most: usize,
    ) -> Token {
        Token { rule, start, alphabet, least, most }
    }
    [
        t("aws-access-key", "AKIA", capital, 16, 16),
        t("aws-access-key", "ASIA", capital, 16, 16),
        t("github-token", "ghp_", alphanumeric, 36, ANY),
        t("github-token", "gho_", alphanumeric, 36, ANY),
        t("github-token", "ghu_", alphanumeric, 36, ANY),
        t("github-token", "ghs_", alphanumeric, 36, ANY),
        t("github-token", "ghr_", alphanumeric, 36, ANY),
        t("github-token", "github_pat_", word, 50, ANY),
        t("gitlab-token", "glpat-", word_dots, 20, ANY),
        t("gitlab-token", "gldt-", word_dots, 20, ANY),
        t("gitlab-token", "glrt-", word_dots, 20, ANY),
        t("slack-token", "xoxb-", word, 20, ANY),
        t("slack-token", "xoxp-", word, 20, ANY),
        t("slack-token", "xoxa-", word, 20, ANY),
        t("slack-token", "xoxr-", word, 20, ANY),
        t("slack-token", "xoxs-", word, 20, ANY),
        t("slack-token", "xapp-", word, 20, ANY),
        t("slack-webhook", "hooks.slack.com/services/T", path, 30, ANY),
        t("stripe-key", "sk_live_", alphanumeric, 16, ANY),
        t("stripe-key", "rk_live_", alphanumeric, 16, ANY),
        t("npm-token", "npm_", alphanumeric, 36, 36),
        t("pypi-token", "pypi-AgEIcHlwaS5vcmc", word, 40, ANY),
        t("docker-token", "dckr_pat_", word, 27, ANY),
        t("docker-token", "dckr_oat_", word, 27, ANY),
        t("google-secret", "GOCSPX-", word, 28, 28),
        t("anthropic-key", "sk-ant-", word, 32, ANY),
        t("openai-key", "sk-proj-", word, 40, ANY),
        t("huggingface-token", "hf_", alphanumeric, 34, 34),
        t("digitalocean-token", "dop_v1_", hex, 64, 64),
        t("sendgrid-key", "SG.", word_dots, 66, 66),
        t("shopify-token", "shpat_", hex, 32, 32),
        t("vault-token", "hvs.", word, 24, ANY),
        t("age-key", "AGE-SECRET-KEY-1", capital, 58, 58),
        t("azure-key", "AccountKey=", base64, 86, 90),
        t("azure-key", "SharedAccessKey=", base64, 43, 90),
        t("private-key", "PuTTY-User-Key-File-", |b| b.is_ascii_digit(), 1, 1),
        // Checked by `web_token`, too.
        t("json-web-token", JWT, word_dots, 60, 4096),
        // Checked by `private_key`, which does not use the alphabet.
        t("private-key", PEM, word, 0, 0),
    ]
};

const PEM: &str = "-----BEGIN ";

/// How a JSON Web Token begins: the base64 of `{"`.
const JWT: &str = "eyJ";

/// Finds secrets in texts.
pub(crate) struct Patterns(AhoCorasick);

impl Patterns {
    pub(crate) fn new() -> Result<Self> {
        AhoCorasick::new(TOKENS.iter().map(|t| t.start))
            .map(Self)
            .map_err(|e| Error::unsupported(format!("the patterns of secrets: {e}")))
    }

    /// Returns all secrets in a text, in order.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        for found in self.0.find_iter(text) {
            let token = &TOKENS[found.pattern().as_usize()];
            let rest = &text[found.end()..text.len().min(found.end() + REACH)];
            let before = found.start().checked_sub(1).map(|i| text[i]);
            let len = match token.start {
                PEM => private_key(rest),
                JWT => token.check(before, rest).filter(|len| web_token(&rest[..*len])),
                _ => token.check(before, rest),
            };
            // The body of a key may look like any token.
            let inside = hits.last().is_some_and(|h| found.start() < h.at.end);
            if let Some(len) = len.filter(|_| !inside) {
                hits.push(Hit { rule: token.rule, at: found.start()..found.end() + len });
            }
        }
        hits
    }
}

impl Token {
    /// Returns the length of the bytes after the token's start, if it is a token.
    fn check(&self, before: Option<u8>, rest: &[u8]) -> Option<usize> {
        if before.is_some_and(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let len = run(&rest[..rest.len().min(self.most + 1)], self.alphabet);
        let fits = (self.least..=self.most).contains(&len);
        // Placeholders for a token: `ghp_xxxxxxxx`, `AKIAIOSFODNN7EXAMPLE`.
        let real = self.least == 1 || varied(&rest[..len]) && !rest[..len].ends_with(b"EXAMPLE");
        (fits && real).then_some(len)
    }
}

/// Returns the number of bytes of an alphabet at the start of a text.
pub(super) fn run(text: &[u8], alphabet: fn(u8) -> bool) -> usize {
    text.iter().position(|b| !alphabet(*b)).unwrap_or(text.len())
}

/// Whether a text has as many different bytes as secrets usually have.
pub(super) fn varied(text: &[u8]) -> bool {
    let mut seen = [false; 256];
    for b in text {
        seen[usize::from(*b)] = true;
    }
    seen.iter().filter(|s| **s).count() >= 8
}

/// Whether this is a JSON Web Token after `eyJ`: header, payload and signature (RFC 7519). Documentation
/// has that of jwt.io, whose subject is 1234567890.
fn web_token(rest: &[u8]) -> bool {
    let mut parts = rest.split(|b| *b == b'.').skip(1);
    let (payload, signature) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    payload.starts_with(JWT.as_bytes())
        && !payload.starts_with(b"eyJzdWIiOiIxMjM0NTY3ODkw")
        && signature.len() >= 20
        && varied(signature)
        && parts.next().is_none()
}

/// Returns the length of a private key after `-----BEGIN `. A header without a body, as in programs
/// that read keys, is not a key.
fn private_key(rest: &[u8]) -> Option<usize> {
    let name = run(rest, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
    let kind = rest[..name].strip_suffix(b" BLOCK").unwrap_or(&rest[..name]);
    let body = rest[name..].strip_prefix(b"-----")?;
    if name > 40 || !kind.ends_with(b"PRIVATE KEY") {
        return None;
    }
    let start = rest.len() - body.len();
    // The next dashes end the body, so that many headers can't share one body.
    let end = memchr::memmem::find(body, b"-----");
    // Old formats have headers before the body (`Proc-Type: 4,ENCRYPTED`).
    let within = &body[..end.unwrap_or(body.len())];
    let mut at = 0;
    while at < within.len() {
        let len = run(&within[at..], base64);
        if len >= 40 && varied(&within[at..at + len]) {
            let to_end = end.filter(|end| body[*end..].starts_with(b"-----END")).map(|end| {
                let close = memchr::memmem::find(&body[end + 5..], b"-----");
                end + 5 + close.map_or(0, |c| c + 5)
            });
            return Some(start + to_end.unwrap_or(at + len));
        }
        at += len + 1;
    }
    None
}

/// Prefixes of placeholders, which continue in lower-case letters: `change_me`.
const FILLERS: [&str; 8] =
    ["change", "your", "example", "placeholder", "redacted", "replace", "insert", "xxx"];

/// Words of which other placeholders consist: `secret`, `my-password`, `no token`.
const FILLER_WORDS: [&str; 31] = [
    "a",
    "access",
    "api",
    "auth",
    "default",
    "disabled",
    "dummy",
    "enter",
    "false",
    "fake",
    "foobar",
    "here",
    "key",
    "me",
    "my",
    "no",
    "none",
    "null",
    "pass",
    "passwd",
    "password",
    "secret",
    "some",
    "test",
    "the",
    "this",
    "todo",
    "token",
    "true",
    "undefined",
    "value",
];

/// Whether a value given as a password or token is a real one, and not a placeholder.
pub(super) fn is_secret(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    if value.len() < 4 {
        return false;
    }
    let lower = String::from_utf8_lossy(value).to_ascii_lowercase();
    let small = |rest: &str| rest.bytes().all(|b| b.is_ascii_lowercase() || !alphanumeric(b));
    let filler = FILLERS.iter().any(|filler| lower.strip_prefix(filler).is_some_and(small))
        || lower
            .split(|c: char| !c.is_alphanumeric())
            .all(|word| word.is_empty() || FILLER_WORDS.contains(&word));
    !filler
        && !matches!(value[0], b'$' | b'<' | b'{' | b'%' | b'@' | b'*' | b'(' | b'!' | b'[')
        && !value.windows(2).all(|w| w[0] == w[1])
        && !contains(value, b"${")
        && !contains(value, b"...")
}

pub(super) fn contains(text: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(text, what).is_some()
}

/// Returns the range of a text that is one word and may be a token: long enough, printable, and not a
/// path or URL.
pub(super) fn lone_word(text: &[u8]) -> Option<Range<usize>> {
    let start = text.len() - text.trim_ascii_start().len();
    let value = text.trim_ascii();
    let is = (12..=4096).contains(&value.len())
        && value.iter().all(u8::is_ascii_graphic)
        && !value.starts_with(b"/")
        && !contains(value, b"://")
        && varied(value)
        && is_secret(value);
    is.then_some(start..start + value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<(&'static str, &str)> {
        let hits = Patterns::new().unwrap().find(text.as_bytes());
        hits.into_iter().map(|h| (h.rule, &text[h.at])).collect()
    }

    #[test]
    fn tokens_are_recognised_by_prefix_length_and_alphabet() {
        let github = format!("ghp_{}", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX");
        assert_eq!(rules(&format!("t={github};")), [("github-token", &*github)]);
        // Concatenated here, so that secret scanners do not report the test as a leak.
        let aws = format!("AKIA{}", "Z3MPLEKEY4TEST5Q");
        assert_eq!(rules(&format!("id: {aws}\n")), [("aws-access-key", &*aws)]);
        let web = format!(
            "{}.{}.{}",
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
            "eyJpc3MiOiJkZXBsb3kiLCJleHAiOjQxMDI0NDQ4MDB9",
            "Kq0d9wXnGv3mZs7TtB2aYc5LhR8fUoPjE1iVxWkQyNM"
        );
        assert_eq!(rules(&format!("token: '{web}'")), [("json-web-token", &*web)]);
        for none in [
            "AKIAIOSFODNN7EXAMPLE",
            &format!("X{aws}"),
            &format!("{aws}A"),
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "ghp_short",
            "xoxb-not-a-token",
            "npm_config_registry",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
            "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLCJleHAiOjEzMDA4MTkzODB9.",
        ] {
            assert_eq!(rules(none), [], "{none}");
        }
    }

    #[test]
    fn private_keys_have_a_body() {
        let body = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        for (head, breaks) in
            [("", "\n"), ("RSA ", "\r\n"), ("OPENSSH ", "\\n"), ("FAKE ", "\nodd-line\n")]
        {
            let key = format!(
                "-----BEGIN {head}PRIVATE KEY-----{breaks}{body}{breaks}-----END {head}PRIVATE KEY-----"
            );
            assert_eq!(rules(&format!("x {key}\n")), [("private-key", &*key)]);
        }
        for none in [
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----".to_owned(),
            "if line == \"-----BEGIN RSA PRIVATE KEY-----\" { return parse(line) }".to_owned(),
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"),
            format!("-----BEGIN RSA TESTING KEY-----\n{body}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n{body}"),
        ] {
            assert_eq!(rules(&none), [], "{none}");
        }
        let cut = format!("-----BEGIN PRIVATE KEY-----\n{body}");
        assert_eq!(rules(&cut).len(), 1, "a key whose end is missing");
    }

    #[test]
    fn what_stands_in_place_of_a_secret_is_none() {
        for real in ["hunter22", "wJalrXUtnFEMI/K7MDENG", "/AbCdEf+12", "secret-agent", "root"] {
            assert!(is_secret(real.as_bytes()), "{real}");
        }
        for none in [
            "",
            "abc",
            "changeme",
            "change_me",
            "your-token-here",
            "my_secret",
            "no",
            "${TOKEN}",
            "<token>",
            "xxxxxxxx",
            "********",
            "{{ token }}",
            "true",
            "secret",
            "a...b..",
        ] {
            assert!(!is_secret(none.as_bytes()), "{none}");
        }
        assert_eq!(lone_word(b" CORPUS-TOKEN-v1 \n"), Some(1..16));
        assert!(lone_word(b"redacted\n").is_none() && lone_word(b"two words of text").is_none());
    }
}
