//! Finds secrets in an image's config: in environment, labels, commands, and the build history, which
//! contains the values of `ARG` and `ENV` and whole `RUN` lines.

use serde_json::Value;

use super::names::{pair, suggests_secret};
use super::patterns::{Hit, Patterns, is_secret};
use super::{LikelySecret, addresses};
use crate::model::oci::Config;

/// Finds the secrets in a config.
pub(crate) fn scan_config(config: &Config, patterns: &Patterns) -> Vec<LikelySecret> {
    let mut secrets = Vec::new();
    let mut add = |place: String, text: &str| {
        let hits = find(patterns, text);
        let Some(first) = hits.first() else { return };
        secrets.push(LikelySecret {
            rule: first.rule,
            path: place,
            layer: None,
            hidden_by: None,
            line: None,
            offset: first.at.start as u64,
            length: first.at.len() as u64,
            places: hits.len() as u64,
        });
    };
    let history = config.get("history").and_then(Value::as_array);
    for (i, entry) in history.into_iter().flatten().enumerate() {
        for key in ["created_by", "comment", "author"] {
            if let Some(text) = entry.get(key).and_then(Value::as_str) {
                add(format!("history {}", i + 1), text);
            }
        }
    }
    for part in ["config", "container_config"] {
        if let Some(value) = config.get(part) {
            walk(part, value, &mut add);
        }
    }
    secrets.sort_by(|a, b| a.path.cmp(&b.path));
    secrets
}

/// Visits all texts below a value. The JSON parser has limited the depth.
fn walk(place: &str, value: &Value, add: &mut impl FnMut(String, &str)) {
    match value {
        Value::String(text) => match text.split_once('=') {
            // The variable's name is more helpful than its position.
            Some((name, _)) if place.ends_with(".Env") => add(format!("{place} {name}"), text),
            _ => add(place.to_owned(), text),
        },
        // A command is searched as one text, because its words belong together.
        Value::Array(list) if !place.ends_with(".Env") && list.iter().all(Value::is_string) => {
            let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            add(place.to_owned(), &words.join(" "));
        }
        Value::Array(list) => list.iter().for_each(|value| walk(place, value, add)),
        Value::Object(map) => {
            for (key, value) in map {
                let place = format!("{place}.{key}");
                match value.as_str() {
                    Some(text) => add(place, &format!("{key}={text}")),
                    None => walk(&place, value, add),
                }
            }
        }
        _ => {}
    }
}

/// Returns a note on secrets that were found in a config.
pub(crate) fn config_note(found: &[LikelySecret]) -> Option<String> {
    let places: Vec<&str> = found.iter().map(|secret| secret.path.as_str()).collect();
    (!places.is_empty()).then(|| {
        format!(
            "the config keeps what look like secrets: {}; everybody who has the image can read them, so \
             renew them, and build the image without them; `relayer edit` removes them from a config: \
             --env NAME-, --label KEY-, --redact-history",
            places.join(", ")
        )
    })
}

/// Returns the text with each secret replaced by `***`.
pub(crate) fn redact(text: &str, patterns: &Patterns) -> String {
    let mut out = String::new();
    let mut at = 0;
    for hit in find(patterns, text) {
        out.push_str(&text[at..hit.at.start]);
        out.push_str("***");
        at = hit.at.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Returns the secrets in a text of the config, in order and without overlaps.
fn find(patterns: &Patterns, text: &str) -> Vec<Hit> {
    let bytes = text.as_bytes();
    let mut hits = patterns.find(bytes);
    hits.extend(addresses::in_urls(bytes));
    hits.extend(addresses::in_connection_strings(bytes));
    hits.extend(assignments(text));
    hits.sort_by_key(|hit| (hit.at.start, std::cmp::Reverse(hit.at.end)));
    let mut end = 0;
    hits.retain(|hit| {
        // All hits end at a character boundary, since those of patterns are ASCII.
        let is = hit.at.start >= end && text.get(hit.at.clone()).is_some();
        end = if is { hit.at.end } else { end };
        is
    });
    hits
}

/// Finds secrets in `NAME=value`, `--password value` and `Bearer value`.
fn assignments(text: &str) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut before = "";
    // The value of a single variable may contain spaces.
    let alone = text.split_once('=').is_some_and(|(name, value)| {
        !name.contains(char::is_whitespace) && !value.contains('=') && !value.starts_with("--")
    });
    let words: Vec<&str> = if alone { vec![text] } else { words(text) };
    for word in words {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        let mut hit = |value: &[u8]| {
            let at = value.as_ptr() as usize - word.as_ptr() as usize + start;
            hits.push(Hit { rule: "secret-in-config", at: at..at + value.len() });
        };
        if let Some((key, value)) = pair(word.as_bytes()) {
            if suggests_secret(key, value) {
                hit(value);
            }
        } else if before.starts_with("--") && suggests_secret(before.as_bytes(), word.as_bytes())
            || before.eq_ignore_ascii_case("bearer") && word.len() >= 16
        {
            let value = word.trim_matches(['"', '\'']);
            if is_secret(value.as_bytes()) {
                hit(value.as_bytes());
            }
        }
        before = word;
    }
    hits
}

/// The words of a command; what is between quotes after `=` stays one.
fn words(text: &str) -> Vec<&str> {
    let (mut quote, mut before) = (None, ' ');
    let split = text.split(move |c: char| {
        match quote {
            Some(q) if c == q => quote = None,
            None if before == '=' && matches!(c, '"' | '\'') => quote = Some(c),
            _ => {}
        }
        before = c;
        quote.is_none() && (c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'))
    });
    split.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_without_their_secrets() {
        for (text, want) in [
            ("ENV AWS_SECRET_ACCESS_KEY=abc/DEF1", "ENV AWS_SECRET_ACCESS_KEY=***"),
            (
                "RUN |1 NPM_TOKEN=abcdef99 /bin/sh -c npm ci",
                "RUN |1 NPM_TOKEN=*** /bin/sh -c npm ci",
            ),
            ("RUN x --password hunter22 y", "RUN x --password *** y"),
            ("RUN x --password=hunter22 y", "RUN x --password=*** y"),
            (
                "curl -H \"Authorization: Bearer abcdef0123456789\" https://u:hunter22@h/",
                "curl -H \"Authorization: Bearer ***\" https://u:***@h/",
            ),
            ("ENV A=1 DB_PASSWORD=\"grün hunter 22\" B=ü", "ENV A=1 DB_PASSWORD=\"***\" B=ü"),
            ("export API_KEY='hunter22'; x", "export API_KEY='***'; x"),
            ("DB_PASSWORD=hunter22", "DB_PASSWORD=***"),
        ] {
            assert_eq!(redact(text, &Patterns::new().unwrap()), want);
        }
        for same in [
            "ENV GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D",
            "RUN TOKEN=$(cat /run/secrets/t) && curl -H \"Authorization: Bearer $TOKEN\"",
            "ENV TOKENIZERS_PARALLELISM=false PASSWORD_FILE=/run/secrets/x",
            "/bin/sh -c #(nop) COPY file:0123456789abcdef in / ",
        ] {
            assert_eq!(redact(same, &Patterns::new().unwrap()), same);
        }
    }

    #[test]
    fn each_place_of_a_config_is_looked_at() {
        let text = br#"{"config":{"Env":["PATH=/bin","DB_PASSWORD=hunter22"],"Labels":{"token":"abcdef99"},
            "Cmd":["run","--api-key","abcdef99"]},
            "history":[{"created_by":"a"},{"created_by":"ARG GIT_TOKEN=abcdef99","empty_layer":true}]}"#;
        let found = scan_config(&Config::parse(text).unwrap(), &Patterns::new().unwrap());
        let places: Vec<_> = found.iter().map(|s| (s.path.as_str(), s.offset, s.length)).collect();
        assert_eq!(
            places,
            [
                ("config.Cmd", 14, 8),
                ("config.Env DB_PASSWORD", 12, 8),
                ("config.Labels.token", 6, 8),
                ("history 2", 14, 8)
            ]
        );
    }
}
