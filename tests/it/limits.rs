//! docs/LIMITS.md is made from `src/base/limits.rs` and `src/base/defaults.rs`.

use std::fmt::Write;
use std::fs;

use relayer::base::defaults;
use relayer::plan::MAX_LAYERS;

use crate::tidy::root;

const HEAD: &str = "\
# Limits

All limits on the resources that an input may use. An input that exceeds one is refused with a message and
status 1; a row says so if something else happens. A package database beyond a limit is skipped with a note,
and its files are grouped by folder. Options that set limits are in the last table. [SECURITY.md](SECURITY.md)
says what the limits protect, and what was measured at them.

This file is made from `src/base/limits.rs` and `src/base/defaults.rs`: change those, and run
`RELAYER_BLESS=1 cargo test --test it limits`.
";

/// Formats a number with a comma before each three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats the value of a constant: `8 << 20` is 8 MiB, `(3, 4)` is 3/4.
fn value(code: &str) -> String {
    let number = |text: &str| {
        let n = text.trim().replace('_', "").parse();
        n.unwrap_or_else(|_| panic!("{code} is not a form that tests/it/limits.rs reads"))
    };
    let within = |open, close| code.strip_prefix(open).and_then(|c: &str| c.strip_suffix(close));
    if let Some(pair) = within('(', ')') {
        return pair.replace(", ", "/");
    }
    if let Some(list) = within('[', ']') {
        return list.to_owned();
    }
    if code.parse::<f64>().is_ok() && code.contains('.') {
        return code.to_owned();
    }
    let Some((n, shift)) = code.split_once("<<") else { return grouped(number(code)) };
    let (unit, rest) = match number(shift) {
        shift @ 30.. => ("GiB", shift - 30),
        shift @ 20.. => ("MiB", shift - 20),
        shift => ("KiB", shift.checked_sub(10).expect("whole KiB")),
    };
    format!("{} {unit}", grouped(number(n) << rest))
}

/// Makes docs/LIMITS.md from the text of both files.
fn document(source: &str) -> String {
    let mut text = HEAD.to_owned();
    let (mut what, mut option, mut ended) = (String::new(), String::new(), false);
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("// ## ") {
            write!(text, "\n## {title}\n\n").unwrap();
            for line in lines.by_ref().map_while(|l| l.strip_prefix("// ")) {
                writeln!(text, "{line}").unwrap();
            }
            let space = if text.ends_with("\n\n") { "" } else { "\n" };
            let header = "| name | value | what | option |\n|---|--:|---|---|";
            writeln!(text, "{space}{header}").unwrap();
        } else if let Some(comment) = line.strip_prefix("///") {
            let comment = comment.trim();
            if let Some(value) = comment.strip_prefix("Option: ") {
                option = format!(" {value}");
            } else if comment.is_empty() {
                ended = true;
            } else {
                assert!(!ended, "{comment}: only Option: may follow the first paragraph");
                let space = if what.is_empty() { "" } else { " " };
                write!(what, "{space}{comment}").unwrap();
            }
        } else if let Some(code) =
            line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("const ")
        {
            let (name, rest) = code.split_once(": ").unwrap();
            let value = value(rest.split_once(" = ").unwrap().1.trim_end_matches(';'));
            assert!(!what.is_empty(), "{name} has no comment");
            let text_of = std::mem::take(&mut what).replace("[`", "`").replace("`]", "`");
            let option = std::mem::take(&mut option);
            writeln!(text, "| `{name}` | {value} | {text_of} |{option} |").unwrap();
            ended = false;
        } else {
            let is_other = line.is_empty() || line.starts_with("//") || line.starts_with("#[cfg(");
            assert!(is_other, "a line of another form than docs/LIMITS.md is made from: {line}");
        }
    }
    text
}

#[test]
fn the_list_of_limits_is_that_of_the_source() {
    let source = |name| fs::read_to_string(root().join("src/base").join(name)).unwrap();
    let expected = document(&[source("limits.rs"), source("defaults.rs")].concat());
    let path = root().join("docs/LIMITS.md");
    if std::env::var_os("RELAYER_BLESS").is_some_and(|v| v == "1") {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let stale = expected.lines().zip(found.lines().chain([""])).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "docs/LIMITS.md is stale, first at {stale:?}; run RELAYER_BLESS=1 cargo test --test it limits"
    );
}

#[test]
fn the_readme_has_the_defaults() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let row = |option: &str| {
        let row = text.lines().find(|l| l.starts_with('|') && l.contains(&format!("`{option} ")));
        row.unwrap_or_else(|| panic!("README.md has no row for {option}"))
    };
    let mib = |bytes| format!("{} MiB", bytes >> 20);
    let expected = [
        ("--target", format!("{} by default", defaults::LAYERS)),
        ("--target", format!("{MAX_LAYERS} at most")),
        ("--level", format!("zstd {} by default", defaults::ZSTD_LEVEL)),
        ("--max-dead", format!("{} % by default", defaults::MAX_DEAD * 100.0)),
        ("--max-layers", format!("at most {} layers", defaults::UPDATE_LAYERS)),
        ("--beta", format!("{} by default", defaults::DEAD_COST)),
        ("--threads", format!("at most {}", defaults::MAX_THREADS)),
        ("--memory", mib(defaults::MEMORY)),
        ("--memory", format!("{} for `store`", mib(defaults::STORE_MEMORY))),
        ("--max-size", format!("{} GiB", defaults::MAX_SIZE >> 30)),
    ];
    for (option, text) in expected {
        assert!(
            row(option).contains(&text),
            "README.md: {option}: {text} is not in {}",
            row(option)
        );
    }
}

#[test]
fn values_are_written_for_people() {
    let examples = [
        ("8 << 20", "8 MiB"),
        ("1 << 31", "2 GiB"),
        ("3 << 10", "3 KiB"),
        ("10_000_000", "10,000,000"),
        ("(3, 4)", "3/4"),
        ("40", "40"),
        ("0.6", "0.6"),
        ("[1, 4]", "1, 4"),
    ];
    for (code, text) in examples {
        assert_eq!(value(code), text);
    }
}
