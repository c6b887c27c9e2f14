//! Edits as they are written on a command line.

use serde_json::{Value, json};

use super::healthcheck::healthcheck;
use super::{Edit, Redaction};
use crate::base::error::{Error, Result};
use crate::model::mtime::{date_or_epoch, rfc3339};
use crate::model::oci::Platform;

/// Parses `KEY=VALUE`, or `KEY-` for a removal.
fn pair(text: &str) -> Result<(String, Option<String>)> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text.strip_suffix('-').unwrap_or_default(), None),
    };
    if key.is_empty() {
        return Err(Error::malformed("write KEY=VALUE, or KEY- to remove it"));
    }
    Ok((key.to_owned(), value))
}

/// Parses the name of a member of an object, or a removal: `NAME` or `NAME-`.
fn member(field: &str, text: &str, normal: impl Fn(&str) -> Result<String>) -> Result<Edit> {
    let (name, value) = match text.strip_suffix('-') {
        Some(name) => (name, None),
        None => (text, Some(json!({}))),
    };
    Ok(Edit::Field { path: vec![field.to_owned(), normal(name)?], value })
}

/// Returns the edit of a field, which an empty text removes.
fn text(field: &str, text: &str) -> Edit {
    Edit::Field { path: vec![field.to_owned()], value: (!text.is_empty()).then(|| json!(text)) }
}

/// Parses a command: a JSON list of words, or one word.
fn command(field: &str, text: &str) -> Result<Edit> {
    let words = if text.starts_with('[') {
        let words: Vec<String> = serde_json::from_str(text)
            .map_err(|e| Error::malformed(format!("it is not a JSON list of texts: {e}")))?;
        words
    } else {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.len() > 1 {
            return Err(Error::malformed(format!(
                "write a command of several words as a JSON list: {}, or [\"/bin/sh\",\"-c\",{}] for a shell",
                json!(words),
                json!(text)
            )));
        }
        words
    };
    let value = (!words.is_empty()).then(|| json!(words));
    Ok(Edit::Field { path: vec![field.to_owned()], value })
}

impl Edit {
    /// Parses `NAME=VALUE` or `NAME-`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn env(text: &str) -> Result<Self> {
        pair(text).map(|(name, value)| Self::Env { name, value })
    }

    /// Parses `KEY=VALUE` or `KEY-`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn label(text: &str) -> Result<Self> {
        let (key, value) = pair(text)?;
        Ok(Self::Field { path: vec!["Labels".into(), key], value: value.map(Value::String) })
    }

    /// Parses `KEY=VALUE` or `KEY-`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn annotation(text: &str) -> Result<Self> {
        pair(text).map(|(key, value)| Self::Annotation { key, value })
    }

    /// Parses a JSON list of words, or one word; nothing removes it.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn entrypoint(text: &str) -> Result<Self> {
        command("Entrypoint", text)
    }

    /// Parses a JSON list of words, or one word; nothing removes it.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn cmd(text: &str) -> Result<Self> {
        command("Cmd", text)
    }

    /// Parses a user, with a group or not; nothing removes it.
    ///
    /// # Errors
    /// If it contains a space.
    pub fn user(user: &str) -> Result<Self> {
        if user.contains(char::is_whitespace) {
            return Err(Error::malformed("write USER or USER:GROUP, names or numbers"));
        }
        Ok(text("User", user))
    }

    /// Parses an absolute path; nothing removes it.
    ///
    /// # Errors
    /// If the path is not absolute.
    pub fn workdir(path: &str) -> Result<Self> {
        if !path.is_empty() {
            absolute(path)?;
        }
        Ok(text("WorkingDir", path))
    }

    /// Parses `PORT[-PORT][/PROTOCOL]`, with `-` after it for a removal.
    ///
    /// # Errors
    /// If it is not a port.
    pub fn expose(text: &str) -> Result<Self> {
        member("ExposedPorts", text, port)
    }

    /// Parses an absolute path, with `-` after it for a removal.
    ///
    /// # Errors
    /// If the path is not absolute.
    pub fn volume(text: &str) -> Result<Self> {
        member("Volumes", text, absolute)
    }

    /// Parses the name or number of a signal; nothing removes it.
    ///
    /// # Errors
    /// If it can't be one.
    pub fn stop_signal(signal: &str) -> Result<Self> {
        if !signal.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-')) {
            return Err(Error::malformed("write the name or number of a signal, as in SIGTERM"));
        }
        Ok(text("StopSignal", signal))
    }

    /// Parses what follows `HEALTHCHECK` in a Dockerfile; nothing removes it.
    ///
    /// # Errors
    /// If it is not valid.
    pub fn healthcheck(text: &str) -> Result<Self> {
        let value = if text.is_empty() { None } else { Some(healthcheck(text)?) };
        Ok(Self::Field { path: vec!["Healthcheck".into()], value })
    }

    /// Parses a date in UTC, `@SECONDS` or `SOURCE_DATE_EPOCH`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn created(text: &str) -> Result<Self> {
        date_or_epoch(text)?.and_then(rfc3339).map(Self::Created).ok_or_else(|| {
            Error::malformed(
                "write a date like 2025-10-01 or 2025-10-01T12:00:00Z, or SOURCE_DATE_EPOCH",
            )
        })
    }

    /// Parses `OS/ARCH[/VARIANT]`.
    ///
    /// # Errors
    /// If it is not a platform.
    pub fn platform(text: &str) -> Result<Self> {
        text.parse::<Platform>().map(Self::Platform)
    }

    /// Parses `secrets` or `all`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn redact_history(text: &str) -> Result<Self> {
        match text {
            "secrets" => Ok(Self::Redact(Redaction::Secrets)),
            "all" => Ok(Self::Redact(Redaction::All)),
            _ => Err(Error::malformed("write `secrets` or `all`")),
        }
    }
}

fn absolute(path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    Err(Error::malformed("write an absolute path"))
}

/// Returns a port or a range of ports with its protocol, as docker writes it.
fn port(text: &str) -> Result<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = |n: &str| n.parse::<u16>().ok().filter(|n| *n > 0);
    let valid = match ports.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(a, b)| a <= b),
        None => number(ports).is_some(),
    };
    if valid && ["tcp", "udp", "sctp"].contains(&protocol) {
        return Ok(format!("{ports}/{protocol}"));
    }
    Err(Error::malformed("write PORT or PORT/udp, or PORT- to remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_docker_reads_them() {
        let field = |edit: Result<Edit>| match edit.unwrap() {
            Edit::Field { path, value } => (path.join("."), value.map(|v| v.to_string())),
            other => panic!("{other:?}"),
        };
        let some = |path: &str, value: &str| (path.to_owned(), Some(value.to_owned()));
        let none = |path: &str| (path.to_owned(), None);
        assert_eq!(field(Edit::entrypoint("/bin/app")), some("Entrypoint", r#"["/bin/app"]"#));
        assert_eq!(field(Edit::cmd(r#"["a","b c"]"#)), some("Cmd", r#"["a","b c"]"#));
        assert_eq!(field(Edit::cmd("")), none("Cmd"));
        assert_eq!(field(Edit::cmd("[]")), none("Cmd"));
        assert_eq!(field(Edit::expose("80")), some("ExposedPorts.80/tcp", "{}"));
        assert_eq!(field(Edit::expose("53-54/udp-")), none("ExposedPorts.53-54/udp"));
        assert_eq!(field(Edit::volume("/data")), some("Volumes./data", "{}"));
        assert_eq!(field(Edit::label("a=b=c")), some("Labels.a", r#""b=c""#));
        assert_eq!(field(Edit::stop_signal("SIGRTMIN+3")), some("StopSignal", r#""SIGRTMIN+3""#));
        assert_eq!(
            Edit::created("2025-10-01").unwrap(),
            Edit::Created("2025-10-01T00:00:00Z".into())
        );
        let said = Edit::cmd("serve --port 80").unwrap_err().to_string();
        assert!(said.contains(r#"["serve","--port","80"]"#), "{said}");
        for refused in [
            Edit::env("=x"),
            Edit::env("A"),
            Edit::env("-"),
            Edit::user("a b"),
            Edit::workdir("srv"),
            Edit::volume("data-"),
            Edit::expose("http"),
            Edit::expose("90-80"),
            Edit::expose("80/xyz"),
            Edit::stop_signal("SIG TERM"),
            Edit::cmd("[1]"),
            Edit::created("yesterday"),
            Edit::platform("linux"),
            Edit::redact_history("some"),
        ] {
            assert!(refused.is_err(), "{refused:?}");
        }
    }
}
