//! Tables for people, and the summary of a split.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::base::byte_size::ByteSize;
use crate::base::text::{count, number};
use crate::plan::update::{CarriedOver, Verdict};
use crate::plan::{NextRelease, UpdateBytes};
use crate::split::report::{
    ImageReport, LayerReport, LayerTotals, PullTimes, Report, UpdateReport,
};
use crate::transport::registry::PushStats;

/// Returns a table without lines. The first `left` columns are text, the others numbers.
pub(super) fn table(header: &[&str], left: usize) -> Table {
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

/// Formats a table without trailing blanks.
pub(super) fn lines(table: &Table) -> String {
    table.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |b| ByteSize(b).to_string())
}

/// Formats what a registry was sent, as a line.
pub(super) fn pushed(push: &PushStats) -> String {
    format!(
        "uploaded {} ({}); {} existed, {} taken from other repositories\n",
        count(push.sent, "blob"),
        ByteSize(push.sent_bytes),
        push.existed,
        push.mounted
    )
}

/// Formats the result of a split.
pub(super) fn summary(report: &Report, verbose: bool) -> String {
    let mut text = String::new();
    for image in &report.images {
        if report.images.len() > 1 {
            let _ = writeln!(text, "{}", image.platform);
        }
        text.push_str(&describe(image, verbose));
        text.push('\n');
    }
    match (&report.output, report.digest) {
        (Some(output), Some(digest)) => {
            let pushed = report.push.as_ref().map(pushed).unwrap_or_default();
            let _ =
                writeln!(text, "wrote {output}\n{pushed}image {digest}, {:.1} s", report.seconds);
        }
        _ => {
            let _ = writeln!(text, "dry run: nothing was written, {:.1} s", report.seconds);
        }
    }
    text
}

fn describe(image: &ImageReport, verbose: bool) -> String {
    let mut totals = table(&["", "layers", "stored", "unpacked"], 1);
    let row = |name: &str, t: &LayerTotals| {
        [name.to_owned(), t.layers.to_string(), size(t.blob_bytes), size(t.tar_bytes)]
    };
    totals.add_row(row("before", &image.before));
    totals.add_row(row("after", &image.after));
    let mut text = lines(&totals);
    text.push('\n');
    text.push_str(&layer_table(&image.layers, image.after.blob_bytes.is_some()));
    if let Some(update) = &image.update {
        text.push_str(&update_lines(update));
    }
    text.push('\n');
    let c = &image.files;
    let _ = writeln!(
        text,
        "{}, {}, {}, {}, {}",
        count(c.files, "file"),
        count(c.directories, "directory"),
        count(c.symlinks, "symlink"),
        count(c.hard_links, "hard link"),
        ByteSize(c.bytes)
    );
    let hidden = &image.hidden;
    if hidden.files > 0 {
        let _ = writeln!(
            text,
            "dropped: {}, {} in lower layers that upper layers delete or overwrite",
            count(hidden.files, "file"),
            ByteSize(hidden.bytes)
        );
    }
    if let Some(next) = &image.next_release {
        text.push_str(&next_line(next));
    }
    if let Some(pull) = &image.pull {
        let time = |t: &PullTimes| format!("{:.1} s (at least {:.1} s)", t.seconds, t.bound);
        let _ = writeln!(
            text,
            "simulated first pull by {}: {} before, {} after",
            pull.profile,
            time(&pull.before),
            time(&pull.after)
        );
    }
    if image.held.restamped > 0 {
        let _ = writeln!(
            text,
            "set the new timestamp of the source in {}",
            count(image.held.restamped, "compiled Python file")
        );
    }
    if let Some(note) = image.held.note() {
        let _ = writeln!(text, "{note}");
    }
    if image.dropped_noise > 0 {
        let _ = writeln!(text, "left out logs and caches: {}", count(image.dropped_noise, "file"));
    }
    if verbose {
        for d in image.update.iter().flat_map(|u| &u.deleted) {
            let _ =
                writeln!(text, "deleted, in layer {}: {} ({})", d.layer, d.path, ByteSize(d.bytes));
        }
        for (i, layer) in image.layers.iter().enumerate() {
            let digest = layer.digest.map_or_else(String::new, |d| d.to_string());
            let _ = writeln!(text, "\nlayer {} {digest}", i + 1);
            for component in &layer.components {
                let _ = writeln!(
                    text,
                    "  {:>10}  {:>13}  {}",
                    ByteSize(component.bytes),
                    count(component.files, "file"),
                    component.name
                );
            }
        }
    }
    text
}

fn layer_table(layers: &[LayerReport], encoded: bool) -> String {
    let stored = if encoded { "compressed" } else { "estimated" };
    let update = layers.iter().any(|l| l.kept);
    let last = if update { "in use" } else { "churn" };
    let mut header = vec!["#", "contents", "files", "bytes", stored, "share", last];
    if update {
        header.insert(1, "");
    }
    let mut rows = table(&header, 2 + usize::from(update));
    let total: u64 = layers.iter().map(LayerReport::stored).sum();
    for (i, layer) in layers.iter().enumerate() {
        let last = if update {
            layer.live.map_or_else(String::new, |live| share(live, layer.stored(), 0))
        } else {
            format!("{:.0} %", 100.0 * layer.churn.unwrap_or_default())
        };
        let mut row = vec![
            (i + 1).to_string(),
            layer.label.clone(),
            number(layer.files),
            ByteSize(layer.bytes).to_string(),
            ByteSize(layer.stored()).to_string(),
            share(layer.stored(), total, 1),
            last,
        ];
        if update {
            row.insert(1, if layer.kept { "kept" } else { "new" }.to_owned());
        }
        rows.add_row(row);
    }
    lines(&rows)
}

/// Formats `part` of `all` in percent.
pub(super) fn share(part: u64, all: u64, digits: usize) -> String {
    format!("{:.digits$} %", 100.0 * part as f64 / all.max(1) as f64)
}

/// Formats what the next release is expected to cost.
fn next_line(next: &NextRelease) -> String {
    let NextRelease { same, stable, previous } = next;
    let mut text = format!(
        "next release: about {} by digest, {} by chain ID;",
        about(same.set_bytes),
        about(same.chain_bytes)
    );
    let both = |d: &UpdateBytes| {
        let [set, chain] = [d.set_bytes, d.chain_bytes].map(about);
        match set.split_once(' ') {
            Some((number, unit)) if chain.ends_with(&format!(" {unit}")) => {
                format!("{number} / {chain}")
            }
            _ => format!("{set} / {chain}"),
        }
    };
    if let Some(stable) = stable {
        let _ = write!(text, " with --mtime stable {},", both(stable));
    }
    text + &format!(" with --previous {}\n", both(previous))
}

/// Formats an expected number of bytes: without a fraction, unless it is small.
fn about(bytes: u64) -> String {
    let text = ByteSize(bytes).to_string();
    match text.split_once('.') {
        Some((whole, unit)) if whole.len() > 1 => {
            format!("{whole}{}", unit.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        _ => text,
    }
}

/// Formats the cost of an update, and the layers that were dropped.
fn update_lines(update: &UpdateReport) -> String {
    let mut text = String::new();
    let dropped: Vec<_> =
        update.previous.iter().enumerate().filter(|(_, l)| l.verdict != Verdict::Kept).collect();
    let all = update.previous.len();
    let kept = all - dropped.len();
    let _ = writeln!(text, "\nkept {kept} of {}", count(all as u64, "previous layer"));
    if !dropped.is_empty() {
        let mut rows = table(&["#", "dropped", "bytes", "in use", "why"], 2);
        for (i, layer) in dropped {
            let why = match layer.verdict {
                Verdict::Purged => "holds a file to purge",
                Verdict::Secret => "holds a deleted file that is a likely secret",
                _ if layer.live == 0 => "not in use",
                _ => "downloading it again costs less than keeping it",
            };
            rows.add_row([
                (i + 1).to_string(),
                layer.label.clone(),
                ByteSize(layer.bytes).to_string(),
                share(layer.live, layer.bytes, 0),
                why.to_owned(),
            ]);
        }
        text.push_str(&lines(&rows));
    }
    let _ = writeln!(
        text,
        "\nupdate: {} by digest ({} of the image), {} by chain ID; {} dead ({})",
        ByteSize(update.set_bytes),
        share(update.set_bytes, update.total_bytes, 0),
        ByteSize(update.chain_bytes),
        ByteSize(update.dead_bytes),
        share(update.dead_bytes, update.total_bytes, 1),
    );
    let carried_over = &update.carried_over;
    if *carried_over != CarriedOver::default() {
        let _ = writeln!(
            text,
            "carried over: timestamps of {} ({}), {} and {} without other changes",
            count(carried_over.files, "file"),
            ByteSize(carried_over.bytes),
            count(carried_over.directories, "directory"),
            count(carried_over.bytecode, "compiled Python file")
        );
    }
    if let Some(largest) = update.deleted.first() {
        let bytes = update.deleted.iter().map(|d| d.bytes).sum();
        let _ = writeln!(
            text,
            "deleted, but still in kept layers: {}, {}, the largest {}; --purge PATTERN drops their \
             layers",
            count(update.deleted.len() as u64, "file"),
            ByteSize(bytes),
            largest.path
        );
    }
    text
}
