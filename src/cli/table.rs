//! Tables for people, fitted to the width of a terminal.
//!
//! A table that is too wide loses columns that it can do without, then its texts are wrapped, or shortened
//! in the middle, where paths and names differ least.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::markdown;
use crate::base::byte_size::ByteSize;
use crate::base::text::number;

/// How much a command shows, and how wide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Number of columns of the terminal.
    pub(super) width: usize,
    /// Whether everything is shown, and nothing is shortened.
    pub(super) verbose: bool,
    /// Whether tables are in Markdown.
    pub(super) markdown: bool,
}

impl Layout {
    /// Returns the layout of summaries in Markdown.
    pub(super) fn markdown() -> Self {
        Self { width: usize::MAX, verbose: false, markdown: true }
    }

    /// Returns how many rows of a table are shown that has `most` by default.
    pub(super) fn rows(self, most: usize) -> usize {
        if self.verbose { usize::MAX } else { most }
    }
}

/// Number of blanks between columns.
const GAP: usize = 2;
/// Minimum width that texts are shortened to.
const LEAST: usize = 12;
/// A column that the table can do without goes if a text would be narrower than this.
const NARROW: usize = 28;

/// A table without lines.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<String>,
    /// Number of columns, the first ones, that are text; the others are numbers, aligned right.
    left: usize,
    /// Columns that a narrow terminal does without, the first to go first.
    spare: Vec<usize>,
    /// The text that is wrapped and never shortened.
    wrapped: Option<usize>,
    rows: Vec<Vec<String>>,
}

/// Returns a table. The first `left` columns are text, the others numbers.
pub(super) fn table(header: &[&str], left: usize) -> Table {
    let header = header.iter().map(ToString::to_string).collect();
    Table { header, left, spare: Vec::new(), wrapped: None, rows: Vec::new() }
}

impl Table {
    /// Adds a row. Missing cells at its end are empty.
    pub(super) fn add_row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// Names the columns that a narrow terminal does without, the first to go first.
    pub(super) fn spare(mut self, names: &[&str]) -> Self {
        let at = |name: &&str| self.header.iter().position(|header| header == name);
        self.spare = names.iter().filter_map(at).collect();
        self
    }

    /// Names the text that must be readable to its end.
    pub(super) fn wrap(mut self, name: &str) -> Self {
        self.wrapped = self.header.iter().position(|header| header == name);
        self
    }

    /// Formats the table, without trailing blanks.
    pub(super) fn fit(&self, layout: Layout) -> String {
        if layout.markdown {
            return self.markdown();
        }
        let width = if layout.verbose { usize::MAX } else { layout.width };
        let mut widths = self.widths();
        let total = |widths: &[Option<usize>]| {
            let shown = widths.iter().flatten();
            shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
        };
        let fixed = |widths: &[Option<usize>]| {
            let (text, all) = (&widths[..self.left], total(widths));
            all - text.iter().flatten().copied().max().unwrap_or(0)
        };
        for column in &self.spare {
            if total(&widths) > width && fixed(&widths) + NARROW > width {
                widths[*column] = None;
            }
        }
        while total(&widths) > width {
            let over = total(&widths) - width;
            if let Some(wrapped) = self.wrapped.and_then(|column| widths[column].as_mut())
                && *wrapped > NARROW
            {
                *wrapped -= over.min(*wrapped - NARROW);
                continue;
            }
            let texts = widths[..self.left].iter_mut().flatten();
            // The widest text becomes as wide as the next, then both shrink.
            let Some(widest) = texts.max().filter(|widest| **widest > LEAST) else { break };
            *widest -= over.div_ceil(self.left).min(*widest - LEAST);
        }
        let mut text = String::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            self.add_lines(row, &widths, &mut text);
        }
        text
    }

    /// Formats the table in Markdown, with blank lines around it.
    fn markdown(&self) -> String {
        let columns = self.header.len();
        let ruler: String =
            (0..columns).map(|i| if i < self.left { "|---" } else { "|--:" }).collect();
        let mut text = format!("\n{}{ruler}|\n", markdown::row(&self.header, columns));
        self.rows.iter().for_each(|row| text.push_str(&markdown::row(row, self.left)));
        text + "\n"
    }

    /// Returns the width that each column needs.
    fn widths(&self) -> Vec<Option<usize>> {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let of = |column: usize| all().map(|row| row[column].width()).max();
        (0..self.header.len()).map(of).collect()
    }

    /// Formats one row; a wrapped text needs several lines.
    fn add_lines(&self, row: &[String], widths: &[Option<usize>], text: &mut String) {
        let width = |column: usize| widths[column].unwrap_or_default();
        let parts = self.wrapped.map(|column| wrap(&row[column], width(column)));
        let lines = parts.as_ref().map_or(1, |parts| parts.len().max(1));
        for line in 0..lines {
            let start = text.len();
            for (column, cell) in row.iter().enumerate() {
                let Some(width) = widths[column] else { continue };
                let cell = match &parts {
                    Some(parts) if self.wrapped == Some(column) => {
                        parts.get(line).copied().unwrap_or_default().to_owned()
                    }
                    _ if line > 0 => String::new(),
                    _ => shorten(cell, width),
                };
                let blanks = " ".repeat(width.saturating_sub(cell.width()));
                let cell =
                    if column < self.left { cell + &blanks } else { format!("{blanks}{cell}") };
                text.push_str(&cell);
                text.push_str(&" ".repeat(GAP));
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
    }
}

/// Returns the length in bytes of the longest start of `text` that fits into `width` columns.
fn fitting(text: &str, width: usize) -> usize {
    let mut used = 0;
    let too_far = |c: char| {
        used += c.width().unwrap_or(0);
        used > width
    };
    text.find(too_far).unwrap_or(text.len())
}

/// Shortens a text to `width` columns: two thirds from its beginning, the rest from its end.
fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let head = &text[..fitting(text, room - room / 3)];
    let tail = text[head.len()..].char_indices();
    let tail = tail.map(|(at, _)| &text[head.len() + at..]).find(|tail| tail.width() <= room / 3);
    format!("{}…{}", head.trim_end(), tail.unwrap_or_default())
}

/// Cuts a text into lines of `width` columns, at blanks where there are any.
fn wrap(text: &str, width: usize) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let mut end =
            fitting(rest, width.max(1)).max(rest.chars().next().map_or(1, char::len_utf8));
        if end < rest.len() && !rest[end..].starts_with(' ') {
            end = rest[..end].rfind(' ').filter(|blank| *blank > 0).unwrap_or(end);
        }
        lines.push(rest[..end].trim_end());
        rest = rest[end..].trim_start();
    }
    lines
}

/// Wraps lines that are wider than a number of columns, at blanks; what continues a line is indented.
pub(super) fn paragraphs(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let parts = if line.trim_end().width() <= width {
            vec![line]
        } else {
            wrap(line.trim_end(), width - GAP)
        };
        out.push_str(&parts.join("\n  "));
        if line.ends_with('\n') && !out.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

/// Returns the line below a list that does not show all of its rows.
pub(super) fn more(all: usize, shown: usize) -> String {
    if all > shown {
        format!("and {} more; -v lists all\n", number((all - shown) as u64))
    } else {
        String::new()
    }
}

/// Formats `part` of `all` in percent.
pub(super) fn share(part: u64, all: u64, digits: usize) -> String {
    format!("{:.digits$} %", 100.0 * part as f64 / all.max(1) as f64)
}

/// Formats a number of bytes.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Formats an estimated number of bytes: without a fraction, unless it is small.
pub(super) fn about(bytes: u64) -> String {
    let text = size(bytes);
    match text.split_once('.') {
        Some((whole, unit)) if whole.len() > 1 => {
            format!("{whole}{}", unit.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut rows = table(&["#", "contents", "files", "share"], 2).spare(&["share", "files"]);
        rows.add_row(["1", "deb:python3.11, glibc, coreutils and 1 more", "1,619", "8.9 %"]);
        rows.add_row(["10", "中文", "7", "100.0 %"]);
        rows
    }

    fn at(width: usize) -> Layout {
        Layout { width, verbose: false, markdown: false }
    }

    #[test]
    fn a_table_takes_the_room_that_it_needs() {
        let want = "\
#   contents                                     files    share
1   deb:python3.11, glibc, coreutils and 1 more  1,619    8.9 %
10  中文                                             7  100.0 %
";
        for width in [usize::MAX, 200, 63] {
            assert_eq!(example().fit(at(width)), want, "{width}");
        }
        assert_eq!(example().fit(Layout { verbose: true, ..at(20) }), want);
    }

    #[test]
    fn a_narrow_table_loses_columns_and_then_shortens_texts() {
        for width in 23..70 {
            let text = example().fit(at(width));
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
            assert_eq!(text.contains("share"), width >= 48, "{width}:\n{text}");
            assert_eq!(text.contains("files"), width >= 39, "{width}:\n{text}");
        }
    }

    #[test]
    fn a_table_can_be_markdown() {
        let want = "
| # | contents | files | share |
|---|---|--:|--:|
| 1 | deb:python3.11, glibc, coreutils and 1 more | 1,619 | 8.9 % |
| 10 | 中文 | 7 | 100.0 % |

";
        assert_eq!(example().fit(Layout::markdown()), want);
    }

    #[test]
    fn what_must_be_read_is_wrapped() {
        let mut rows = table(&["client", "why"], 2).wrap("why");
        rows.add_row(["docker", "layers above the 125th are refused by overlay2"]);
        assert_eq!(
            rows.fit(at(30)),
            "client  why\ndocker  layers above the 125th\n        are refused by\n        overlay2\n"
        );
        assert_eq!(wrap("/a/long/path", 5), ["/a/lo", "ng/pa", "th"]);
        assert_eq!(wrap("中文", 1), ["中", "文"]);
        assert_eq!(paragraphs("one two\n\none two three\n", 9), "one two\n\none two\n  three\n");
    }

    #[test]
    fn a_text_is_shortened_in_its_middle() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("äbcdefghij", 7), "äbcd…ij");
        assert_eq!(shorten("中文中文", 5), "中…");
    }

    #[test]
    fn estimates_have_no_fraction() {
        assert_eq!([9_949, 99_900, 231_905_384].map(about), ["9.9 kB", "99 kB", "231 MB"]);
    }
}
