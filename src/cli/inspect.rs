//! `relayer inspect`.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::load;
use super::table::{Layout, about, more, share, size, table};
use super::{Global, Outcome, SummaryFile, client, output, sarif, terminal::Terminal};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::base::text::{count, number};
use crate::inspect::{
    FailOn, HiddenReport, InspectOptions, Inspection, LARGEST, LayerFacts, Severity, Warning,
    inspect,
};
use crate::layers::hidden::How;
use crate::model::oci::Platform;
use crate::secrets::LikelySecret;
use crate::simulate::Client;
use crate::split::report::SCHEMA;
use crate::store::open::tag;
use crate::transport::Reference;
use crate::transport::outline::Outline;

/// Values of `--fail-on` that shells complete.
pub(super) const LIMITS: [&str; 5] = ["secret", "client", "waste=20%", "size=500MB", "depth=100"];

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
    /// Show this number of rows of each table
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Show folders with at least 1 % of the bytes, as a tree
    #[arg(long)]
    tree: bool,
    /// Exit with status 1 if the image has likely secrets, more waste or layers than this, or fails
    /// with a client: secret,waste=20%,size=500MB,depth=100,client
    #[arg(long, value_name = "LIMITS")]
    fail_on: Option<FailOn>,
    /// Write likely secrets to this file as SARIF, for code scanning
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    #[command(flatten)]
    summary: SummaryFile,
}

impl InspectArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let mut options = InspectOptions {
            threads: global.threads(),
            max_size: global.max_size.0,
            largest: self.top.max(LARGEST),
            ..InspectOptions::default()
        };
        if !self.client.is_empty() {
            options.clients.clone_from(&self.client);
            options.clients.sort_unstable();
            options.clients.dedup();
        }
        self.summary.check()?;
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
        let text = |layout: Layout| {
            let mut text = String::new();
            for (i, image) in images.iter().enumerate() {
                if several {
                    let _ = write!(text, "{}{}\n\n", if i > 0 { "\n" } else { "" }, image.platform);
                }
                text.push_str(&self.describe(image, layout));
            }
            text
        };
        if let Some(path) = &self.sarif {
            let document = sarif::document(&self.image.to_string(), &images);
            output::write(path, |out| {
                Ok(serde_json::to_writer_pretty(out, &document).map_err(io::Error::from)?)
            })?;
        }
        let title = format!("relayer inspect {}", self.image);
        self.summary.append(&title, &exceeded, text)?;
        output::print_result(global, false, value, || text(global.layout()))?;
        Ok(terminal.judge(&exceeded))
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
        let layout = global.layout();
        output::print_result(global, false, value, || {
            outlines.iter().map(|o| describe_outline(o, layout)).collect::<Vec<_>>().join("\n")
        })
    }
}

impl InspectArgs {
    /// Describes an image, the most urgent first.
    fn describe(&self, image: &Inspection, layout: Layout) -> String {
        let shown = layout.rows(self.top);
        let mut text = secrets(image, layout);
        for part in [
            overview(image, layout),
            warnings(&image.warnings, layout),
            layers(&image.layers, layout),
            if self.tree { tree(image, layout) } else { String::new() },
            largest(image, shown, layout),
            components(image, shown, layout),
            hidden(image, shown, layout),
            duplicates(image, shown, layout),
        ] {
            if !part.is_empty() {
                text.push('\n');
                text.push_str(&part);
            }
        }
        text
    }
}

/// Describes an image or artifact by its documents.
fn describe_outline(outline: &Outline, layout: Layout) -> String {
    let what = outline.artifact_type.as_ref().map_or_else(
        || format!("image for {}", outline.platform.as_deref().unwrap_or("any platform")),
        |kind| format!("artifact {kind}"),
    );
    let mut text = format!("{what}\nmanifest {}\n\n", outline.manifest);
    let mut rows = table(&["#", "media type", "files", "stored"], 3).wrap("files");
    for (i, layer) in outline.layers.iter().enumerate() {
        let files = layer.problem.as_deref().unwrap_or("readable");
        let number = (i + 1).to_string();
        rows.add_row([&number, &layer.media_type, files, &size(layer.blob_bytes)]);
    }
    text.push_str(&rows.fit(layout));
    text
}

fn overview(image: &Inspection, layout: Layout) -> String {
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
    let mut text = rows.fit(layout);
    let download = if totals.estimated {
        format!("about {} as gzip", about(totals.download_bytes))
    } else {
        size(totals.download_bytes)
    };
    let _ = writeln!(
        text,
        "\n{}, {download} to download, {} unpacked; {}, {}, {}, {}",
        count(totals.layers as u64, "layer"),
        size(totals.tar_bytes),
        count(c.directories, "directory"),
        count(c.symlinks, "symlink"),
        count(c.hard_links, "hard link"),
        count(c.special, "special file"),
    );
    let hidden = match savings.dropped_bytes {
        0 => String::new(),
        bytes => format!(", without {} of hidden files", size(bytes)),
    };
    let layers = count(savings.layers as u64, "layer");
    let _ = writeln!(
        text,
        "split would make that about {} in {layers}{hidden}",
        about(savings.estimate)
    );
    text
}

fn secrets(image: &Inspection, layout: Layout) -> String {
    let scanned = &image.scanned;
    if image.secrets.is_empty() {
        let files = count(scanned.files, "file");
        return format!("no likely secrets in {files} and the config\n");
    }
    let header = ["likely secret", "path", "layer", "hidden by", "line", "byte", "length"];
    let mut rows = table(&header, 2).spare(&["length", "byte", "line"]).wrap("path");
    let optional = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for LikelySecret { rule, path, layer, hidden_by, line, offset, length, places } in
        &image.secrets
    {
        let times = if *places > 1 { format!(" ×{places}") } else { String::new() };
        rows.add_row([
            format!("{rule}{times}"),
            path.clone(),
            optional(*layer),
            optional(*hidden_by),
            line.map_or_else(|| "-".to_owned(), number),
            number(*offset),
            number(*length),
        ]);
    }
    let mut text = rows.fit(layout);
    if image.secrets.iter().any(|s| s.layer.is_none()) {
        text.push_str(
            "`relayer edit` removes those of the config: --env NAME-, --label KEY-, --redact-history\n",
        );
    }
    if image.secrets.iter().any(|s| s.hidden_by.is_some()) {
        text.push_str("hidden files can still be read from their layers; split drops them\n");
    }
    text
}

fn warnings(warnings: &[Warning], layout: Layout) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut rows = table(&["client", "", "layers", "why"], 4).wrap("why");
    for Warning { clients, outcome, layers, what } in warnings {
        let names: Vec<_> = clients.iter().map(|c| c.name()).collect();
        let outcome = match outcome {
            Severity::Fails => "fails",
            Severity::Risks => "risks",
        };
        rows.add_row([names.join(", "), outcome.to_owned(), ranges(layers), what.clone()]);
    }
    rows.fit(layout)
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

fn layers(layers: &[LayerFacts], layout: Layout) -> String {
    let header = ["#", "made by", "kind", "stored", "unpacked", "files", "bytes", "hidden"];
    let mut rows = table(&header, 3).spare(&["bytes", "files", "kind", "unpacked"]);
    for l in layers {
        let hidden = if l.hidden_bytes > 0 { size(l.hidden_bytes) } else { String::new() };
        rows.add_row([
            l.number.to_string(),
            l.created_by.clone(),
            l.compression.clone(),
            size(l.blob_bytes),
            size(l.tar_bytes),
            number(l.files),
            size(l.file_bytes),
            hidden,
        ]);
    }
    rows.fit(layout)
}

/// Returns the word for how a file was hidden.
fn how(how: How) -> &'static str {
    match how {
        How::Deleted => "deleted",
        How::Opaque => "opaque",
        How::Overwritten => "overwritten",
    }
}

fn hidden(image: &Inspection, shown: usize, layout: Layout) -> String {
    hidden_files(&image.waste.hidden, shown, &["", "hidden by", "layer"], layout)
}

/// Lists hidden files; a narrow terminal does without the columns in `spare`.
pub(super) fn hidden_files(
    hidden: &[HiddenReport],
    shown: usize,
    spare: &[&str],
    layout: Layout,
) -> String {
    if hidden.is_empty() {
        return String::new();
    }
    let header = ["deleted or overwritten", "how", "", "layer", "hidden by", "bytes"];
    let mut rows = table(&header, 3).spare(spare);
    for h in hidden.iter().take(shown) {
        rows.add_row([
            h.path.clone(),
            how(h.how).to_owned(),
            if h.recoverable { "recoverable" } else { "" }.to_owned(),
            h.layer.to_string(),
            h.hidden_by.to_string(),
            size(h.bytes),
        ]);
    }
    rows.fit(layout) + &more(hidden.len(), shown)
}

/// Formats folders, those in another one below it.
fn tree(image: &Inspection, layout: Layout) -> String {
    let mut rows = table(&["folder", "files", "bytes", "share", "compressed"], 1)
        .spare(&["compressed", "files"]);
    for folder in &image.folders {
        let depth = folder.path.trim_end_matches('/').matches('/').count();
        let name = match folder.path.rsplit_once('/') {
            Some((_, name)) if !name.is_empty() => name,
            _ => "/",
        };
        rows.add_row([
            format!("{}{name}", "  ".repeat(depth)),
            number(folder.files),
            size(folder.bytes),
            share(folder.bytes, image.files.bytes, 1),
            size(folder.estimate),
        ]);
    }
    rows.fit(layout)
}

fn largest(image: &Inspection, shown: usize, layout: Layout) -> String {
    let mut rows = table(&["largest files", "layer", "bytes", "compressed"], 1);
    for file in image.largest.iter().take(shown) {
        rows.add_row([
            file.path.clone(),
            file.layer.to_string(),
            size(file.bytes),
            size(file.estimate),
        ]);
    }
    if image.largest.is_empty() { String::new() } else { rows.fit(layout) }
}

fn duplicates(image: &Inspection, shown: usize, layout: Layout) -> String {
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
        let mut paths: Vec<String> = d.files.iter().take(paths).map(|f| f.path.clone()).collect();
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
    rows.fit(layout) + &more(all.len(), shown)
}

fn components(image: &Inspection, shown: usize, layout: Layout) -> String {
    let all = &image.components;
    let mut rows = table(&["component", "files", "bytes", "compressed"], 1);
    for c in all.iter().take(shown) {
        rows.add_row([c.name.clone(), number(c.files), size(c.bytes), size(c.estimate)]);
    }
    rows.fit(layout) + &more(all.len(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_shortened() {
        assert_eq!(ranges(&[1, 2, 3, 5, 7, 8]), "1-3, 5, 7-8");
        assert_eq!(ranges(&[]), "");
    }
}
