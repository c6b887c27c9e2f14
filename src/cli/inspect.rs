//! `relayer inspect`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::load;
use super::table::{lines, share, table};
use super::{Global, Outcome, client, output, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::base::text::{count, number};
use crate::inspect::{FailOn, InspectOptions, Inspection, LayerFacts, Severity, Warning, inspect};
use crate::layers::hidden::How;
use crate::model::oci::Platform;
use crate::secrets::LikelySecret;
use crate::simulate::Client;
use crate::split::report::SCHEMA;
use crate::store::open::tag;
use crate::transport::Reference;
use crate::transport::outline::Outline;

/// Number of rows of each table; `--json` and `-v` list all.
const SHOWN: usize = 10;
/// Number of characters that texts in tables are cut to, except with `-v`.
const WIDE: usize = 50;

/// Values of `--fail-on` that shells complete.
pub(super) const LIMITS: [&str; 4] = ["secret", "client", "waste=20%", "depth=100"];

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Inspect this image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Use only this platform of a multi-platform image, as in linux/arm64 [default: all]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Check for incompatibilities with this client or registry; may be repeated [default: all]
    #[arg(long, value_name = "CLIENT", value_parser = client::any())]
    client: Vec<Client>,
    /// Exit with status 1 if the image has likely secrets, more waste or layers than this, or fails
    /// with a client: secret,waste=20%,depth=100,client
    #[arg(long, value_name = "LIMITS")]
    fail_on: Option<FailOn>,
}

impl InspectArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let mut options = InspectOptions {
            threads: global.threads(),
            max_size: global.max_size.0,
            ..InspectOptions::default()
        };
        if !self.client.is_empty() {
            options.clients.clone_from(&self.client);
            options.clients.sort_unstable();
            options.clients.dedup();
        }
        let budget = global.budget();
        let place = load::place(&self.image, &budget, global)?;
        let (tag, platform) = (tag(&self.image), self.platform.as_ref());
        let opened = match place.images(tag, platform, global.max_size.0) {
            Err(e) if e.kind() == ErrorKind::Unsupported && self.fail_on.is_none() => {
                let outlines = place.outline(tag, platform).unwrap_or_default();
                return self.outline(&outlines, e, global, terminal);
            }
            opened => opened.with_context(|| format!("reading {}", self.image))?,
        };
        opened.notes.iter().for_each(|note| terminal.note(note));
        let images = inspect(&opened, &options, &budget, terminal)
            .with_context(|| format!("inspecting {}", self.image))?;
        images.iter().flat_map(|i| &i.notes).for_each(|note| terminal.note(note));
        let several = images.len() > 1;
        let limits = self.fail_on.clone().unwrap_or_default();
        let exceeded: Vec<String> = images
            .iter()
            .flat_map(|image| {
                let platform =
                    if several { format!("{}: ", image.platform) } else { String::new() };
                limits.exceeded(image).into_iter().map(move |what| format!("{platform}{what}"))
            })
            .collect();
        let value = || {
            let input = self.image.to_string();
            json!({ "schema": SCHEMA, "input": input, "images": images, "exceeded": exceeded })
        };
        output::print_result(global, false, value, || {
            let mut text = String::new();
            for (i, image) in images.iter().enumerate() {
                if several {
                    let _ = write!(text, "{}{}\n\n", if i > 0 { "\n" } else { "" }, image.platform);
                }
                text.push_str(&describe(image, global.verbose));
            }
            text
        })?;
        for what in &exceeded {
            terminal.failed(what);
        }
        Ok(if exceeded.is_empty() { Outcome::Done } else { Outcome::Differs })
    }

    /// Shows what the documents state if the files can't be listed, because of `why`.
    fn outline(
        &self,
        outlines: &[Outline],
        why: Error,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let input = self.image.to_string();
        if outlines.is_empty() {
            return Err(why.context(format!("reading {input}")));
        }
        terminal.note(&format!("its files can't be listed: {why}"));
        let value = || json!({ "schema": SCHEMA, "input": input, "outlines": outlines });
        output::print_result(global, false, value, || {
            outlines.iter().map(describe_outline).collect::<Vec<_>>().join("\n")
        })
    }
}

/// Describes an image or artifact by its documents.
fn describe_outline(outline: &Outline) -> String {
    let what = outline.artifact_type.as_ref().map_or_else(
        || format!("image for {}", outline.platform.as_deref().unwrap_or("any platform")),
        |kind| format!("artifact {kind}"),
    );
    let mut text = format!("{what}\nmanifest {}\n\n", outline.manifest);
    let mut rows = table(&["#", "media type", "files", "stored"], 3);
    for (i, layer) in outline.layers.iter().enumerate() {
        let files = layer.problem.as_deref().unwrap_or("readable");
        let number = (i + 1).to_string();
        rows.add_row([&number, &layer.media_type, files, &size(layer.blob_bytes)]);
    }
    text.push_str(&lines(&rows));
    text
}

/// Describes an image, the most urgent first.
fn describe(image: &Inspection, verbose: bool) -> String {
    let shown = if verbose { usize::MAX } else { SHOWN };
    let wide = if verbose { usize::MAX } else { WIDE };
    let mut text = overview(image);
    for part in [
        secrets(image, shown, wide),
        warnings(&image.warnings),
        layers(&image.layers, wide),
        hidden(image, shown, wide),
        duplicates(image, shown, wide),
        components(image, shown, wide),
    ] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    text
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Cuts the middle out of a long text.
fn cut(text: &str, wide: usize) -> String {
    let all = text.chars().count();
    if all <= wide {
        return text.to_owned();
    }
    let (head, tail) = (wide / 2, wide - wide / 2 - 1);
    let head: String = text.chars().take(head).collect();
    let tail: String = text.chars().skip(all - tail).collect();
    format!("{head}…{tail}")
}

/// Cuts the end off a long command.
fn head(text: &str, wide: usize) -> String {
    match text.char_indices().nth(wide) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// Returns the line below a table that does not show all rows.
fn more(all: usize, shown: usize) -> String {
    if all > shown {
        format!("and {} more; -v lists all\n", number((all - shown) as u64))
    } else {
        String::new()
    }
}

fn overview(image: &Inspection) -> String {
    let (totals, waste, savings) = (&image.totals, &image.waste, &image.savings);
    let c = &image.files;
    let mut rows = table(&["", "files", "bytes", "share"], 1);
    let mut row = |what: &str, files: u64, bytes: u64| {
        let part = share(bytes, totals.file_bytes, 1);
        rows.add_row([what.to_owned(), number(files), size(bytes), part]);
    };
    row("all layers", totals.files, totals.file_bytes);
    row("the image shows", c.files, c.bytes);
    row("deleted or overwritten", waste.hidden_files, waste.hidden_bytes);
    row("  recoverable from lower layers", waste.recoverable_files, waste.recoverable_bytes);
    row(
        "  written again unchanged",
        waste.hidden_files - waste.recoverable_files,
        waste.hidden_bytes - waste.recoverable_bytes,
    );
    row("duplicates", waste.duplicate_files, waste.duplicate_bytes);
    row("wasted", waste.hidden_files + waste.duplicate_files, waste.bytes);
    let mut text = lines(&rows);
    let _ = writeln!(
        text,
        "\n{}, {} stored, {} unpacked; {}, {}, {}, {}",
        count(totals.layers as u64, "layer"),
        size(totals.blob_bytes),
        size(totals.tar_bytes),
        count(c.directories, "directory"),
        count(c.symlinks, "symlink"),
        count(c.hard_links, "hard link"),
        count(c.special, "special file"),
    );
    let _ = writeln!(
        text,
        "split would drop {} of files and store about {} in {}",
        size(savings.dropped_bytes),
        size(savings.estimate),
        count(savings.layers as u64, "layer")
    );
    text
}

fn secrets(image: &Inspection, shown: usize, wide: usize) -> String {
    let scanned = &image.scanned;
    if image.secrets.is_empty() {
        let files = count(scanned.files, "file");
        return format!("no likely secrets in {files} and the config\n");
    }
    let header = ["likely secret", "path", "layer", "hidden by", "line", "byte", "length"];
    let mut rows = table(&header, 2);
    let optional = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for LikelySecret { rule, path, layer, hidden_by, line, offset, length, places } in
        image.secrets.iter().take(shown)
    {
        let times = if *places > 1 { format!(" ×{places}") } else { String::new() };
        rows.add_row([
            format!("{rule}{times}"),
            cut(path, wide),
            optional(*layer),
            optional(*hidden_by),
            line.map_or_else(|| "-".to_owned(), number),
            number(*offset),
            number(*length),
        ]);
    }
    let mut text = lines(&rows);
    text.push_str(&more(image.secrets.len(), shown));
    if image.secrets.iter().any(|s| s.hidden_by.is_some()) {
        text.push_str("hidden files can still be read from their layers; split drops them\n");
    }
    text
}

fn warnings(warnings: &[Warning]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut rows = table(&["client", "", "layers", "why"], 4);
    for Warning { clients, outcome, layers, what } in warnings {
        let names: Vec<_> = clients.iter().map(|c| c.name()).collect();
        let outcome = match outcome {
            Severity::Fails => "fails",
            Severity::Risks => "risks",
        };
        rows.add_row([names.join(", "), outcome.to_owned(), ranges(layers), what.clone()]);
    }
    lines(&rows)
}

/// Formats numbers as in `1-4, 7`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let run = |(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

fn layers(layers: &[LayerFacts], wide: usize) -> String {
    let header = ["#", "made by", "kind", "stored", "unpacked", "files", "bytes", "hidden"];
    let mut rows = table(&header, 3);
    for l in layers {
        let hidden = if l.hidden_bytes > 0 { size(l.hidden_bytes) } else { String::new() };
        rows.add_row([
            l.number.to_string(),
            head(&l.created_by, wide),
            l.compression.clone(),
            size(l.blob_bytes),
            size(l.tar_bytes),
            number(l.files),
            size(l.file_bytes),
            hidden,
        ]);
    }
    lines(&rows)
}

fn hidden(image: &Inspection, shown: usize, wide: usize) -> String {
    let waste = &image.waste;
    if waste.hidden.is_empty() {
        return String::new();
    }
    let mut rows = table(&["deleted or overwritten", "how", "layer", "hidden by", "bytes", ""], 2);
    for h in waste.hidden.iter().take(shown) {
        let how = match h.how {
            How::Deleted => "deleted",
            How::Opaque => "opaque",
            How::Overwritten => "overwritten",
        };
        rows.add_row([
            cut(&h.path, wide),
            how.to_owned(),
            h.layer.to_string(),
            h.hidden_by.to_string(),
            size(h.bytes),
            if h.recoverable { "recoverable" } else { "" }.to_owned(),
        ]);
    }
    lines(&rows) + &more(waste.hidden.len(), shown)
}

fn duplicates(image: &Inspection, shown: usize, wide: usize) -> String {
    let all = &image.waste.duplicates;
    if all.is_empty() {
        return String::new();
    }
    let mut rows = table(&["duplicate", "layers", "copies", "size", "wasted"], 2);
    for d in all.iter().take(shown) {
        let mut layers: Vec<usize> = d.files.iter().map(|f| f.layer).collect();
        layers.dedup();
        // With -v every path has a line of its own.
        let paths = if shown == usize::MAX { d.files.len() } else { 1 };
        let mut paths: Vec<String> =
            d.files.iter().take(paths).map(|f| cut(&f.path, wide)).collect();
        let rest = paths.split_off(1);
        rows.add_row([
            paths.concat(),
            ranges(&layers),
            number(d.files.len() as u64),
            size(d.size),
            size(d.bytes),
        ]);
        for path in rest {
            rows.add_row([format!("  {path}")]);
        }
    }
    lines(&rows) + &more(all.len(), shown)
}

fn components(image: &Inspection, shown: usize, wide: usize) -> String {
    let all = &image.components;
    let mut rows = table(&["component", "files", "bytes", "compressed"], 1);
    for c in all.iter().take(shown) {
        rows.add_row([cut(&c.name, wide), number(c.files), size(c.bytes), size(c.estimate)]);
    }
    lines(&rows) + &more(all.len(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_and_lists_are_shortened() {
        assert_eq!(cut("äbcdefghij", 5), "äb…ij");
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(head("ä b c", 2), "ä…");
        assert_eq!(ranges(&[1, 2, 3, 5, 7, 8]), "1-3, 5, 7-8");
        assert_eq!(ranges(&[]), "");
    }
}
