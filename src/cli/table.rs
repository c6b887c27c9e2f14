//! The summary of a split, for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::report::{ImageReport, LayerReport, Report, Totals};
use crate::size::ByteSize;

/// A table without lines, whose columns after `left` ones are numbers.
fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Lines without blanks at their ends.
fn lines(table: &Table) -> String {
    table.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |b| ByteSize(b).to_string())
}

/// `1234567` as `1,234,567`.
fn number(n: u64) -> String {
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

/// Everything that a split has to say.
pub(super) fn summary(report: &Report, verbose: bool) -> String {
    let mut text = String::new();
    for image in &report.images {
        if report.images.len() > 1 {
            let _ = writeln!(text, "{}", image.platform);
        }
        text.push_str(&one(image, verbose));
        text.push('\n');
    }
    match (&report.output, report.digest) {
        (Some(output), Some(digest)) => {
            let _ = writeln!(text, "wrote {output}\nimage {digest}, {:.1} s", report.seconds);
        }
        _ => {
            let _ = writeln!(text, "dry run: nothing was written, {:.1} s", report.seconds);
        }
    }
    text
}

fn one(image: &ImageReport, verbose: bool) -> String {
    let mut totals = table(&["", "layers", "stored", "unpacked"], 1);
    let row = |name: &str, t: &Totals| {
        [name.to_owned(), t.layers.to_string(), size(t.blob_bytes), size(t.tar_bytes)]
    };
    totals.add_row(row("before", &image.before));
    totals.add_row(row("after", &image.after));
    let mut text = lines(&totals);
    text.push('\n');
    text.push_str(&layer_table(&image.layers, image.after.blob_bytes.is_some()));
    text.push('\n');
    let c = &image.files;
    let _ = writeln!(
        text,
        "{} files, {} directories, {} symlinks, {} hard links, {}",
        number(c.files),
        number(c.directories),
        number(c.symlinks),
        number(c.hard_links),
        ByteSize(c.bytes)
    );
    let hidden = &image.hidden;
    if hidden.files > 0 {
        let _ = writeln!(
            text,
            "dropped: {} files, {} in lower layers that are deleted or overwritten further up",
            number(hidden.files),
            ByteSize(hidden.bytes)
        );
    }
    if verbose {
        for (i, layer) in image.layers.iter().enumerate() {
            let digest = layer.digest.map_or_else(String::new, |d| d.to_string());
            let _ = writeln!(text, "\nlayer {} {digest}", i + 1);
            for component in &layer.components {
                let _ = writeln!(
                    text,
                    "  {:>10}  {:>7} files  {}",
                    ByteSize(component.bytes),
                    number(component.files),
                    component.name
                );
            }
        }
    }
    text
}

fn layer_table(layers: &[LayerReport], encoded: bool) -> String {
    let stored = if encoded { "compressed" } else { "estimated" };
    let mut rows = table(&["#", "what is in it", "files", "bytes", stored, "share", "churn"], 2);
    let bytes = |l: &LayerReport| l.blob_bytes.unwrap_or(l.estimate);
    let total: u64 = layers.iter().map(bytes).sum();
    for (i, layer) in layers.iter().enumerate() {
        rows.add_row([
            (i + 1).to_string(),
            layer.label.clone(),
            number(layer.files),
            ByteSize(layer.bytes).to_string(),
            ByteSize(bytes(layer)).to_string(),
            format!("{:.1} %", 100.0 * bytes(layer) as f64 / total.max(1) as f64),
            format!("{:.0} %", 100.0 * layer.churn),
        ]);
    }
    lines(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1234), "1,234");
        assert_eq!(number(1_234_567), "1,234,567");
    }
}
