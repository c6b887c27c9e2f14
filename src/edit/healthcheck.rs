//! Health checks, written as in a Dockerfile.

use serde_json::{Map, Value, json};

use crate::base::error::{Error, Result};

/// Options of `HEALTHCHECK` that are times, and their fields.
const TIMES: [(&str, &str); 4] = [
    ("--interval", "Interval"),
    ("--timeout", "Timeout"),
    ("--start-period", "StartPeriod"),
    ("--start-interval", "StartInterval"),
];

/// Parses `[--interval=30s …] CMD COMMAND`, where the command is a text for a shell or a JSON list, or
/// `NONE`.
pub(super) fn healthcheck(text: &str) -> Result<Value> {
    let mut fields = Map::new();
    let mut rest = text.trim();
    while rest.starts_with("--") {
        let (option, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let (field, value) = match TIMES.iter().find(|(option, _)| *option == name) {
            Some((_, field)) => (*field, json!(nanoseconds(value)?)),
            None if name == "--retries" => {
                let retries: Option<u32> = value.parse().ok().filter(|n| *n > 0);
                ("Retries", json!(retries.ok_or_else(|| malformed("a number of retries", value))?))
            }
            None => return Err(malformed("an option of HEALTHCHECK", name)),
        };
        fields.insert(field.into(), value);
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    let words = match (word, command) {
        ("NONE", "") if fields.is_empty() => vec!["NONE".to_owned()],
        ("CMD", list) if list.starts_with('[') => {
            let words: Vec<String> = serde_json::from_str(list)
                .map_err(|e| Error::malformed(format!("{list} is not a JSON list: {e}")))?;
            std::iter::once("CMD".to_owned()).chain(words).collect()
        }
        ("CMD", command) if !command.is_empty() => vec!["CMD-SHELL".into(), command.into()],
        _ => {
            return Err(Error::malformed(
                "write what follows HEALTHCHECK in a Dockerfile: --interval=30s CMD curl -f \
                 http://localhost/, or NONE",
            ));
        }
    };
    // The order in which docker writes them.
    let mut all = Map::new();
    all.insert("Test".into(), json!(words));
    all.append(&mut fields);
    Ok(Value::Object(all))
}

fn malformed(what: &str, text: &str) -> Error {
    Error::malformed(format!("{text:?} is not {what}"))
}

/// Parses a duration as Go writes it: `1m30s`, `500ms`. Docker accepts none below a millisecond.
fn nanoseconds(text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 4] =
        [("ms", 1_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)];
    let invalid = || malformed("a duration such as 30s or 1m30s", text);
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit));
        let (unit, size) = unit.ok_or_else(invalid)?;
        let part = number.checked_mul(*size);
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = &rest[digits + unit.len()..];
    }
    // Go has it in a signed number.
    Some(total).filter(|n| (1..=i64::MAX as u64).contains(n)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_that_of_a_dockerfile() {
        for (text, want) in [
            ("NONE", r#"{"Test":["NONE"]}"#),
            (
                "CMD curl -f http://h/ || exit 1",
                r#"{"Test":["CMD-SHELL","curl -f http://h/ || exit 1"]}"#,
            ),
            (
                r#"--interval=1m30s --timeout=500ms --retries=3 CMD ["ok", "x y"]"#,
                r#"{"Test":["CMD","ok","x y"],"Interval":90000000000,"Timeout":500000000,"Retries":3}"#,
            ),
        ] {
            assert_eq!(healthcheck(text).unwrap().to_string(), want);
        }
        for bad in [
            "",
            "curl x",
            "CMD",
            "CMD [1]",
            "NONE x",
            "--interval=30 CMD x",
            "--interval=0s CMD x",
            "--interval=99999999999h CMD x",
            "--retries=x CMD x",
            "--no=1s CMD x",
        ] {
            assert!(healthcheck(bad).is_err(), "{bad}");
        }
    }
}
