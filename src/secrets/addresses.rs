//! Finds passwords in addresses of services: in URLs, and in the connection strings of databases.

use std::ops::Range;

use super::patterns::{Hit, REACH, contains, is_secret, run, varied};

/// Schemes of databases and queues. Their passwords in a file are real; those in other URLs are mostly
/// examples in source code.
const SERVICES: [&[u8]; 15] = [
    b"amqp",
    b"amqps",
    b"clickhouse",
    b"cockroachdb",
    b"ldap",
    b"ldaps",
    b"mariadb",
    b"mongodb",
    b"mssql",
    b"mysql",
    b"nats",
    b"postgres",
    b"postgresql",
    b"redis",
    b"rediss",
];

/// How far before a password the rest of its connection string is looked for, and after it.
const NEAR: usize = 400;

/// Returns the passwords in URLs of all schemes, for texts that are meant to contain them.
pub(super) fn in_urls(text: &[u8]) -> Vec<Hit> {
    urls(text).map(|(_, at)| Hit { rule: "url-password", at }).collect()
}

/// Returns the passwords in addresses of services, for any text.
pub(super) fn of_services(text: &[u8]) -> Vec<Hit> {
    // `postgresql+psycopg2` is a dialect of postgresql.
    let service = |scheme: &[u8]| {
        let base = scheme.split(|b| *b == b'+').next().unwrap_or(scheme);
        SERVICES.contains(&base)
    };
    let urls = urls(text).filter(|(start, at)| {
        let scheme = text[..*start].rsplit(|b| !b.is_ascii_alphanumeric() && *b != b'+').next();
        scheme.is_some_and(service) && !is_default(&text[start + 3..at.end])
    });
    let urls = urls.map(|(_, at)| Hit { rule: "url-password", at });
    urls.chain(in_connection_strings(text)).collect()
}

/// Returns where the `://` of each URL with a password is, and the password.
fn urls(text: &[u8]) -> impl Iterator<Item = (usize, Range<usize>)> {
    memchr::memmem::find_iter(text, b"://").filter_map(|scheme| {
        let start = scheme + 3;
        let at = password(&text[start..text.len().min(start + REACH)])?;
        Some((scheme, start + at.start..start + at.end))
    })
}

/// Whether user and password are the same, as in `postgres:postgres`, or a password that documentation
/// has.
fn is_default(login: &[u8]) -> bool {
    let at = login.iter().position(|b| *b == b':').unwrap_or(login.len());
    let (user, password) = (&login[..at], login.get(at + 1..).unwrap_or_default());
    let filler =
        [b"guest".as_slice(), b"root", b"admin", b"secret", b"mypassword", b"yourpassword"];
    user.eq_ignore_ascii_case(password)
        || filler.iter().any(|word| password.eq_ignore_ascii_case(word))
        || password.starts_with(b"%")
}

/// Returns the password in a URL after `://`, as in `user:password@host`.
fn password(rest: &[u8]) -> Option<Range<usize>> {
    let user = run(rest, |b| b.is_ascii_graphic() && !b"/@?#\"'`<>:(){}[]\\".contains(&b));
    let start = user + 1;
    if rest.get(user) == Some(&b'@') {
        // A token without a user name, as in `https://TOKEN@host`.
        return (user >= 20 && varied(&rest[..user])).then_some(0..user);
    }
    if rest.get(user) != Some(&b':') {
        return None;
    }
    let len = run(&rest[start..], |b| b.is_ascii_graphic() && !b"/@?#\"'`<>".contains(&b));
    let value = &rest[start..start + len];
    let is = rest.get(start + len) == Some(&b'@') && is_secret(value);
    is.then_some(start..start + len)
}

/// Returns the passwords in `Server=host;User Id=name;Password=word`, and in `jdbc:` URLs.
pub(super) fn in_connection_strings(text: &[u8]) -> impl Iterator<Item = Hit> {
    memchr::memmem::find_iter(text, b"wd=")
        .chain(memchr::memmem::find_iter(text, b"word="))
        .filter_map(|at| {
            let start = at + text[at..].iter().position(|b| *b == b'=')? + 1;
            let key = text[..start - 1].rsplit(|b| !b.is_ascii_alphabetic()).next()?;
            let is_key = ["password", "pwd", "passwd"].iter();
            if !is_key.clone().any(|name| key.eq_ignore_ascii_case(name.as_bytes())) {
                return None;
            }
            let rest = &text[start..text.len().min(start + NEAR)];
            let len = run(rest, |b| b.is_ascii_graphic() && !b";&\"'<>`\\".contains(&b));
            let before = &text[at.saturating_sub(NEAR)..start - 1 - key.len()];
            let line = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
            let after = rest[len..].split(|b| *b == b'\n').next().unwrap_or_default();
            let is = len >= 6 && is_secret(&rest[..len]) && is_connection(line, after);
            is.then(|| Hit { rule: "connection-string", at: start..start + len })
        })
}

/// Whether the line around a password is a connection string.
fn is_connection(before: &[u8], after: &[u8]) -> bool {
    if contains(before, b"jdbc:") {
        return before.ends_with(b"&") || before.ends_with(b"?") || before.ends_with(b";");
    }
    let around = [before, after].concat().to_ascii_lowercase();
    let keys: [&[u8]; 6] =
        [b"server=", b"data source=", b"host=", b"user id=", b"uid=", b"initial catalog="];
    let separated = before.trim_ascii_end().ends_with(b";") || after.starts_with(b";");
    separated && keys.iter().filter(|key| contains(&around, key)).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(hits: Vec<Hit>, text: &str) -> Vec<(&'static str, &str)> {
        hits.into_iter().map(|h| (h.rule, &text[h.at])).collect()
    }

    #[test]
    fn urls_may_hold_a_password() {
        let rules = |text: &'static str| texts(in_urls(text.as_bytes()), text);
        assert_eq!(rules("postgres://app:s3cr3t-9@db/x"), [("url-password", "s3cr3t-9")]);
        let url = "https://a1b2c3d4e5f6a7b8c9d0@host/x";
        assert_eq!(rules(url), [("url-password", "a1b2c3d4e5f6a7b8c9d0")]);
        for none in [
            "https://example.org/a:b@c",
            "https://user:$PASSWORD@host",
            "https://user:password@host",
            "https://host:8080/x@y",
            "git@github.com:a/b",
            "https://user@host",
        ] {
            assert_eq!(rules(none), [], "{none}");
        }
    }

    #[test]
    fn addresses_of_services_are_secrets_in_any_file() {
        let rules = |text: &'static str| texts(of_services(text.as_bytes()), text);
        for (text, rule, value) in [
            ("DB=postgres://app:s3cr3t-9@db/x", "url-password", "s3cr3t-9"),
            ("u = 'mongodb+srv://a:Tr0ub4dor@c.example.net'", "url-password", "Tr0ub4dor"),
            ("postgresql+psycopg2://a:Tr0ub4dor@c", "url-password", "Tr0ub4dor"),
            ("redis://:Tr0ub4dor@cache:6379/0", "url-password", "Tr0ub4dor"),
            (
                "\"Db\": \"Server=db;Database=x;User Id=sa;Password=Tr0ub4dor;Encrypt=yes\"",
                "connection-string",
                "Tr0ub4dor",
            ),
            ("Pwd=Tr0ub4dor;Uid=app;Server=db", "connection-string", "Tr0ub4dor"),
            ("jdbc:mysql://db/x?user=app&password=Tr0ub4dor", "connection-string", "Tr0ub4dor"),
        ] {
            assert_eq!(rules(text), [(rule, value)], "{text}");
        }
        for none in [
            "https://user:Tr0ub4dor@host",
            "postgres://postgres:postgres@localhost",
            "postgres://user:password@host/db",
            "postgres://user:${PASSWORD}@host/db",
            "xpostgres://app:s3cr3t-9@db/x",
            "amqp://guest:guest@localhost//",
            "if password=Tr0ub4dor; then",
            "Server=db;User Id=sa;Password={password};",
            "getpwd=Tr0ub4dor;Uid=app;Server=db",
        ] {
            assert_eq!(rules(none), [], "{none}");
        }
    }
}
