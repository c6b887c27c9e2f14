//! Summaries in Markdown, as GitHub and GitLab show them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::base::error::{Context, Result};
use crate::model::fileset::printable;

/// Appends a summary to a file, as `GITHUB_STEP_SUMMARY` wants it: other commands have theirs in the same.
///
/// # Errors
/// If the file can't be written.
pub(super) fn append(path: &Path, title: &str, body: &str) -> Result<()> {
    let place = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().append(true).create(true).open(path).with_context(place)?;
    let text = format!("### {}\n\n{}\n", escape(&printable(title)), lines(body));
    file.write_all(text.as_bytes()).with_context(place)
}

/// Checks that [`append`] will be able to.
///
/// # Errors
/// If the file can't be written.
pub(super) fn check(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let open = OpenOptions::new().append(true).create(true).open(path);
    open.map(drop).with_context(|| format!("writing {}", path.display()))
}

/// Keeps the ends of lines outside tables, which Markdown would join.
fn lines(body: &str) -> String {
    let mut text = String::new();
    for line in body.lines() {
        let line = printable(line);
        let is_row = line.starts_with('|');
        let line = if is_row { line } else { escape(&line) };
        text.push_str(&line);
        text.push_str(if is_row || line.is_empty() { "\n" } else { "  \n" });
    }
    text
}

/// Escapes what has a meaning in Markdown, and names that would notify people.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '@' => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' => out.extend(['\\', c]),
            _ => out.push(c),
        }
        out
    })
}

/// Formats a row of a table, whose first `left` cells are texts.
pub(super) fn row(cells: &[String], left: usize) -> String {
    let cell = |(column, text): (usize, &String)| {
        let text = text.trim_end();
        let plain = |c: char| c.is_alphanumeric() || " ,.-/:%()#…".contains(c);
        if column >= left || text.trim_start().chars().all(plain) {
            return text.replace("  ", "&ensp; ");
        }
        // In code nothing has a meaning but what ends it.
        let blanks = text.len() - text.trim_start().len();
        let code = text.trim_start().replace('|', "\\|").replace('`', "'");
        format!("{}`{code}`", "&ensp; ".repeat(blanks / 2))
    };
    let cells: Vec<String> = cells.iter().enumerate().map(cell).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_an_image_are_text() {
        let cells = ["npm:@next/swc", "a|b`c", "  sub_dir", "plain: 5 %", "12.0 MB"];
        let cells = cells.map(str::to_owned);
        let want = "| `npm:@next/swc` | `a\\|b'c` | &ensp; `sub_dir` | plain: 5 % | 12.0 MB |\n";
        assert_eq!(row(&cells, 4), want);
        assert_eq!(
            lines("a <b> @c\n\n| x |\n__init__.py"),
            "a &lt;b> &#64;c  \n\n| x |\n\\_\\_init\\_\\_.py  \n"
        );
    }

    #[test]
    fn summaries_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary.md");
        check(Some(&path)).unwrap();
        append(&path, "one", "text\n").unwrap();
        append(&path, "two", "").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "### one\n\ntext  \n\n### two\n\n\n");
        assert!(check(Some(&dir.path().join("no/folder"))).is_err());
    }
}
