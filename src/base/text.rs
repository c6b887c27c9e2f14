//! Text for terminals, logs and URLs: numbers, and text from an image, which is escaped and shortened.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns whether a character controls a terminal or misleads the reader: control characters,
/// invisible characters, and those that change the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Escapes all characters that are unsafe for a terminal, except those in `keep`.
pub(crate) fn escape<'a>(text: &'a str, keep: &[char]) -> Cow<'a, str> {
    let bad = |c: char| is_unsafe(c) && !keep.contains(&c);
    if !text.chars().any(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Escapes characters that are unsafe for a terminal in a JSON document, where they are always inside
/// strings.
#[cfg(any(test, feature = "cli"))]
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    let bad = |c: char| is_unsafe(c) && c != '\n';
    if !json.chars().any(bad) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if bad(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Shortens a text to at most `most` bytes: about two thirds from its beginning, the rest from its end.
pub(crate) fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let room = most.saturating_sub('…'.len_utf8());
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=room / 3 * 2).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - (room - room / 3 * 2)..text.len()).find(boundary);
    let tail = tail.unwrap_or(text.len());
    Cow::Owned(format!("{}…{}", &text[..head], &text[tail..]))
}

/// Formats `1234567` as `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Escapes a text for a URL: everything but ASCII letters, digits and the bytes in `keep`.
pub(crate) fn percent_encode(text: &str, keep: &[u8]) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Formats a number with its noun, which is given in the singular: `1 layer`, `2 layers`, `0 copies`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    let (stem, end) = match noun.strip_suffix('y') {
        _ if n == 1 => (noun, ""),
        Some(stem) => (stem, "ies"),
        None => (noun, "s"),
    };
    format!("{} {stem}{end}", number(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_nouns_are_counted() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1234), "1,234");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(count(1, "layer"), "1 layer");
        assert_eq!(count(1234, "layer"), "1,234 layers");
        assert_eq!(count(1, "directory"), "1 directory");
        assert_eq!(count(0, "directory"), "0 directories");
    }

    #[test]
    fn a_terminal_gets_text_only() {
        assert_eq!(escape("plain é 中", &[]), "plain é 中");
        let bad = "a\x1b[31m\n\t\u{9b}\u{7f}\u{202e}b";
        assert_eq!(escape(bad, &['\n']), "a\\u{1b}[31m\n\\t\\u{9b}\\u{7f}\\u{202e}b");
        let json = serde_json::to_string(bad).unwrap();
        let escaped = escape_json(&json);
        assert!(!escaped.chars().any(is_unsafe), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), bad);
        let far = "\u{e0041}";
        let json = serde_json::to_string(far).unwrap();
        assert_eq!(serde_json::from_str::<String>(&escape_json(&json)).unwrap(), far);
    }

    #[test]
    fn what_is_too_long_is_cut_in_its_middle() {
        assert_eq!(shorten("short", 5), "short");
        let long = "é".repeat(1000);
        for most in [3, 10, 100, 101, 102] {
            let cut = shorten(&long, most);
            assert!(cut.len() <= most && cut.contains('…'), "{most}: {cut}");
        }
        assert_eq!(shorten("0123456789abcdef", 12), "012345…def");
    }
}
