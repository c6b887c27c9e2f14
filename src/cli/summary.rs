//! The summary of a split.

use std::fmt::Write as _;

use super::table::{Layout, about, share, size, table};
use crate::base::byte_size::ByteSize;
use crate::base::text::{count, number};
use crate::plan::update::{CarriedOver, Verdict};
use crate::plan::{NextRelease, UpdateBytes};
use crate::simulate::CompressionKind;
use crate::split::report::{
    BaseReport, ImageReport, LayerReport, LayerTotals, PullTimes, Report, UpdateReport,
};
use crate::transport::registry::PushStats;

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
pub(super) fn summary(report: &Report, layout: Layout) -> String {
    let mut text = String::new();
    for image in &report.images {
        if report.images.len() > 1 {
            let _ = writeln!(text, "{}", image.platform);
        }
        text.push_str(&describe(image, layout));
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

fn describe(image: &ImageReport, layout: Layout) -> String {
    let mut text = totals(&image.before, &image.after, layout);
    text.push('\n');
    text.push_str(&layer_table(&image.layers, image.after.blob_bytes.is_some(), layout));
    if let Some(base) = &image.base {
        text.push_str(&base_lines(base));
    }
    if let Some(update) = &image.update {
        text.push_str(&update_lines(update, layout));
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
    // Those of a base stay in it.
    if hidden.files > 0 && image.base.is_none() {
        let _ = writeln!(
            text,
            "dropped: {}, {} in lower layers that upper layers delete or overwrite",
            count(hidden.files, "file"),
            ByteSize(hidden.bytes)
        );
    }
    if let Some(next) = &image.next_release {
        text.push_str(&next_table(next, layout));
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
    if layout.verbose {
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

/// Formats what clients download before and after.
fn totals(before: &LayerTotals, after: &LayerTotals, layout: Layout) -> String {
    let mut rows = table(&["", "layers", "download", "unpacked", ""], 1);
    for (name, totals) in [("before", before), ("after", after)] {
        let codec = match totals.compression {
            Some(CompressionKind::Gzip) => ", as gzip",
            Some(CompressionKind::Zstd) => ", as zstd",
            Some(CompressionKind::None) | None => "",
        };
        let bytes = totals.download_bytes;
        let saved = if name == "before" { 0 } else { before.download_bytes.abs_diff(bytes) };
        let less = if bytes < before.download_bytes { "less" } else { "more" };
        rows.add_row([
            format!("{name}{codec}"),
            totals.layers.to_string(),
            if totals.estimated { format!("about {}", about(bytes)) } else { size(bytes) },
            totals.tar_bytes.map_or_else(String::new, size),
            match 100 * saved / before.download_bytes.max(1) {
                0 => String::new(),
                percent => format!("{percent} % {less}"),
            },
        ]);
    }
    rows.fit(layout)
}

fn layer_table(layers: &[LayerReport], encoded: bool, layout: Layout) -> String {
    let stored = if encoded { "compressed" } else { "estimated" };
    let update = layers.iter().any(|l| l.kept);
    let last = if update { "in use" } else { "churn" };
    let mut header = vec!["#", "contents", "files", "bytes", stored, "share", last];
    if update {
        header.insert(1, "");
    }
    let mut rows = table(&header, 2 + usize::from(update)).spare(&["share", "files", "bytes"]);
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
            size(layer.bytes),
            size(layer.stored()),
            share(layer.stored(), total, 1),
            last,
        ];
        if update {
            row.insert(1, if layer.kept { "kept" } else { "new" }.to_owned());
        }
        rows.add_row(row);
    }
    rows.fit(layout)
}

/// Formats what the next release is expected to cost.
fn next_table(next: &NextRelease, layout: Layout) -> String {
    let NextRelease { same, stable, previous } = next;
    let mut rows = table(&["next release, about", "by digest", "by chain ID"], 1);
    let mut row = |name: &str, bytes: &UpdateBytes| {
        rows.add_row([name.to_owned(), about(bytes.set_bytes), about(bytes.chain_bytes)]);
    };
    row("split in the same way", same);
    if let Some(stable) = stable {
        row("with --mtime stable", stable);
    }
    row("with --previous", previous);
    format!("\n{}", rows.fit(layout))
}

/// Formats what stays of the base, and what of it is dead.
fn base_lines(base: &BaseReport) -> String {
    let name = base.name.as_ref().map_or_else(String::new, |name| format!(" {name}"));
    let mut text = format!(
        "\nbase{name}: {} ({}) as they are, {} of them dead ({})\n",
        count(base.layers as u64, "layer"),
        ByteSize(base.bytes),
        ByteSize(base.dead_bytes),
        share(base.dead_bytes, base.bytes, 1),
    );
    let bytes = base.deleted.iter().map(|d| d.bytes).sum();
    if let Some(largest) = base.deleted.first() {
        let _ = writeln!(
            text,
            "in the base, but deleted above it: {}, {}, the largest {}; overwritten: {}",
            count(base.deleted.len() as u64, "file"),
            ByteSize(bytes),
            largest.path,
            count(base.overwritten, "file")
        );
    } else if base.overwritten > 0 {
        let overwritten = count(base.overwritten, "file");
        let _ = writeln!(text, "in the base, but overwritten above it: {overwritten}");
    }
    text
}

/// Formats the cost of an update, and the layers that were dropped.
fn update_lines(update: &UpdateReport, layout: Layout) -> String {
    let mut text = String::new();
    let dropped: Vec<_> =
        update.previous.iter().enumerate().filter(|(_, l)| l.verdict != Verdict::Kept).collect();
    let all = update.previous.len();
    let kept = all - dropped.len();
    let _ = writeln!(text, "\nkept {kept} of {}", count(all as u64, "previous layer"));
    if !dropped.is_empty() {
        let mut rows = table(&["#", "dropped", "why", "bytes", "in use"], 3).wrap("why");
        for (i, layer) in dropped {
            let why = match layer.verdict {
                Verdict::Purged => "holds a file to purge",
                Verdict::Secret => "holds a deleted file that is a likely secret",
                _ if layer.live == 0 => "not in use",
                _ => "cheaper to download again",
            };
            rows.add_row([
                (i + 1).to_string(),
                layer.label.clone(),
                why.to_owned(),
                size(layer.bytes),
                share(layer.live, layer.bytes, 0),
            ]);
        }
        text.push_str(&rows.fit(layout));
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
        let mut parts = vec![format!(
            "{} ({})",
            count(carried_over.files, "file"),
            ByteSize(carried_over.bytes)
        )];
        for (n, noun) in [
            (carried_over.directories, "directory"),
            (carried_over.bytecode, "compiled Python file"),
        ] {
            parts.extend((n > 0).then(|| count(n, noun)));
        }
        let parts = parts.join(", ");
        let _ = writeln!(text, "carried over: timestamps without other changes of {parts}");
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
