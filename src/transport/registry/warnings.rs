//! What registries want users to know
//! ([distribution-spec](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#warnings)).

use std::sync::{Mutex, PoisonError};

use super::http::Response;
use crate::base::limits::MAX_MESSAGE;
use crate::base::text::shorten;

/// Most warnings of all registries together. A registry may send a new one with each answer.
const MAX_WARNINGS: usize = 10;

/// Warnings of registries, each text once.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    all: Vec<String>,
    taken: usize,
}

impl Warnings {
    /// Adds those that come with an answer of the registry `host`.
    pub(super) fn add(&self, host: &str, answer: &Response) {
        for text in answer.all("warning").filter_map(parse) {
            let text = shorten(&text, MAX_MESSAGE / 4).into_owned();
            let warning = format!("{host} warns: {text}");
            let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if list.all.len() < MAX_WARNINGS && !list.all.contains(&warning) {
                list.all.push(warning);
            }
        }
    }

    /// Returns those since the last call.
    pub(super) fn take(&self) -> Vec<String> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = list.all[list.taken..].to_vec();
        list.taken = list.all.len();
        new
    }
}

/// Returns the text of `299 - "text"`. Other codes are not for clients of registries.
fn parse(header: &str) -> Option<String> {
    let quoted = header.trim().strip_prefix("299 - ")?.trim().strip_prefix('"')?;
    let (mut text, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => text.push(chars.next()?),
            c => text.push(c),
        }
    }
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[String]) -> Response {
        let headers = headers.iter().map(|text| ("warning".to_owned(), text.clone())).collect();
        Response { status: 200, headers, body: Box::new(&[][..]) }
    }

    #[test]
    fn warnings_are_quoted_strings_of_code_299() {
        for (header, text) in [
            (r#"299 - "tags will go""#, Some("tags will go")),
            (r#" 299 - "a \"b\" \\ c" "#, Some(r#"a "b" \ c"#)),
            (r#"110 - "stale""#, None),
            (r#"299 - """#, None),
            (r#"299 - "no end"#, None),
            ("299 - plain", None),
            ("", None),
        ] {
            assert_eq!(parse(header).as_deref(), text, "{header}");
        }
    }

    #[test]
    fn each_text_is_told_once_and_there_are_not_many() {
        let warnings = Warnings::default();
        let all: Vec<_> = (0..30).map(|i| format!("299 - \"{i}{}\"", "x".repeat(5_000))).collect();
        warnings.add("a:5000", &answer(&all[..1]));
        warnings.add("a:5000", &answer(&all[..1]));
        let taken = warnings.take();
        assert_eq!(taken.len(), 1);
        assert!(taken[0].starts_with("a:5000 warns: 0x") && taken[0].len() < MAX_MESSAGE);
        warnings.add("a:5000", &answer(&all));
        assert_eq!(warnings.take().len(), MAX_WARNINGS - 1);
        assert!(warnings.take().is_empty());
    }
}
