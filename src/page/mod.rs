//! The HTML page of `relayer report`: contents of an image, its layers before and after, pulls and
//! updates. It needs no script and no network.
//!
//! May import everything below `cli`; it computes nothing of its own. To know: [`page`], which
//! measures what a page shows; [`Page`], those facts; and the charts of `chart`.

mod chart;
mod measure;
mod treemap;

pub use measure::page;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::base::byte_size::ByteSize;
use crate::base::text::count;
use crate::bench::{ColdPulls, Matrix, Step};
use crate::inspect::Inspection;
use crate::plan::analyze::ComponentKind;
use crate::simulate::{self, Machine, Pull};
use crate::split::report::{ImageReport, LayerReport};
use chart::{
    Axis, Bar, Group, Line, Point, Tile, bars, figure, legend, plot, table, timeline, treemap,
};

const STYLE: &str = include_str!("page.css");

/// The facts that a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// Name of the image on the command line.
    pub input: &'a str,
    /// Its inspection.
    pub inspection: &'a Inspection,
    /// Report of its split.
    pub split: &'a ImageReport,
    /// Cold pulls over one link by client, each of the image as built and split.
    pub pulls: &'a [ColdPulls],
    /// The machine that unpacks.
    pub machine: &'a Machine,
    /// Its sizes by compression and number of layers.
    pub matrix: &'a Matrix,
    /// Updates between versions, each with the name of the newer version.
    pub steps: &'a [(String, Step)],
}

/// Number of rows in each list of findings; `relayer inspect -v` shows all.
const LISTED: usize = 50;

/// CSS classes and names by kind of component.
const KINDS: [(ComponentKind, &str, &str); 6] = [
    (ComponentKind::OsPackage, "os", "OS package"),
    (ComponentKind::System, "system", "other OS file"),
    (ComponentKind::LanguagePackage, "language", "language package"),
    (ComponentKind::BigFile, "big", "large file"),
    (ComponentKind::Application, "app", "application"),
    (ComponentKind::State, "state", "database, cache or log"),
];

fn class(kind: ComponentKind) -> &'static str {
    KINDS.iter().find(|(k, ..)| *k == kind).map_or("other", |(_, class, _)| class)
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

impl Page<'_> {
    /// Returns the page as HTML.
    pub fn render(&self) -> String {
        let title = format!("{} – relayer", self.input);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (self.input) }
                        p.digest { (self.split.platform) ", config " (self.split.source.to_string()) }
                        (self.facts())
                    }
                    main {
                        (self.contents())
                        (self.layers())
                        (self.pulls())
                        (self.compression())
                        (self.by_layers())
                        (self.updates())
                        (self.findings())
                    }
                }
            }
        };
        page.into_string()
    }

    /// The most important numbers.
    fn facts(&self) -> Markup {
        let built: u64 = self.split.input.iter().map(|l| l.blob_bytes).sum();
        let split: u64 = self.split.layers.iter().map(LayerReport::stored).sum();
        let largest = self.split.layers.iter().map(LayerReport::stored).max().unwrap_or_default();
        let before = self.split.input.iter().map(|l| l.blob_bytes).max().unwrap_or_default();
        let fact =
            |value: String, text: String| html! { li { strong { (value) } span { (text) } } };
        let secrets = self.inspection.secrets.len();
        html! {
            ul.facts {
                (fact(format!("{} → {}", size(built), size(split)), "stored, as built and split".into()))
                (fact(
                    format!("{} → {}", self.split.input.len(), self.split.layers.len()),
                    format!("layers; the largest {} → {}", size(before), size(largest)),
                ))
                (fact(
                    size(self.inspection.waste.hidden_bytes),
                    format!(
                        "in {} hidden by upper layers",
                        count(self.inspection.waste.hidden_files, "file")
                    ),
                ))
                li .bad[secrets > 0] {
                    strong { (secrets) }
                    span { "likely secrets" }
                }
            }
        }
    }

    fn contents(&self) -> Markup {
        let mut rows = Vec::new();
        let group = |(i, layer): (usize, &LayerReport)| {
            let tile = |c: &crate::split::report::ComponentReport| Tile {
                label: c.name.clone(),
                class: class(c.kind),
                bytes: c.bytes,
            };
            let mut tiles: Vec<Tile> = layer.components.iter().map(tile).collect();
            tiles.sort_by_key(|t| std::cmp::Reverse(t.bytes));
            Group { label: format!("{} {}", i + 1, layer.label), tiles }
        };
        for (i, layer) in self.split.layers.iter().enumerate() {
            let name = |c: &crate::split::report::ComponentReport| {
                vec![(i + 1).to_string(), c.name.clone(), size(c.bytes), c.files.to_string()]
            };
            rows.extend(layer.components.iter().map(name));
        }
        let groups: Vec<Group> = self.split.layers.iter().enumerate().map(group).collect();
        let kinds = KINDS.map(|(_, class, name)| (class, name));
        figure(
            "contents",
            "Contents",
            "Final files by layer of the split image, then by component; areas show bytes.",
            &html! { (legend(&kinds)) (treemap(&groups)) },
            &table(&["layer", "component", "bytes", "files"], 2, &rows),
        )
    }

    fn layers(&self) -> Markup {
        let built = self.inspection.layers.iter().map(|l| {
            // Hidden bytes are known uncompressed only, so this is a share of the blob.
            let hidden = l.blob_bytes as f64 * l.hidden_bytes as f64 / l.file_bytes.max(1) as f64;
            let made = if l.created_by.is_empty() { "" } else { " " };
            let note = if l.hidden_bytes > 0 {
                format!(", {} of files hidden", size(l.hidden_bytes))
            } else {
                String::new()
            };
            Bar {
                label: format!("{}{made}{}", l.number, l.created_by),
                parts: vec![("built", l.blob_bytes as f64 - hidden), ("hidden", hidden)],
                text: size(l.blob_bytes),
                note,
            }
        });
        let built: Vec<Bar> = built.collect();
        let split: Vec<Bar> = self
            .split
            .layers
            .iter()
            .enumerate()
            .map(|(i, l)| Bar {
                label: format!("{} {}", i + 1, l.label),
                parts: vec![("split", l.stored() as f64)],
                text: size(l.stored()),
                note: String::new(),
            })
            .collect();
        let row = |form: &str, bar: &Bar| {
            vec![form.to_owned(), bar.label.clone(), format!("{}{}", bar.text, bar.note)]
        };
        let rows: Vec<Vec<String>> = built
            .iter()
            .map(|b| row("as built", b))
            .chain(split.iter().map(|b| row("split", b)))
            .collect();
        let largest = chart::largest(built.iter().chain(&split));
        figure(
            "layers",
            "Layers before and after",
            "Bytes that a client downloads for each layer, the lowest first.",
            &html! {
                (legend(&[("built", "as built"), ("hidden", "hidden by upper layers"), ("split", "split")]))
                div.pair {
                    div { h3 { "As built" } (bars(&built, largest)) }
                    div { h3 { "Split" } (bars(&split, largest)) }
                }
            },
            &table(&["", "layer", "stored"], 2, &rows),
        )
    }

    /// Timelines of cold pulls, with a tab per client.
    fn pulls(&self) -> Markup {
        let Some(ColdPulls { rates, .. }) = self.pulls.first() else { return html! {} };
        let mut rows = Vec::new();
        for ColdPulls { client, pulls, .. } in self.pulls {
            for (form, pull) in ["as built", "split"].iter().zip(pulls) {
                rows.push(vec![
                    client.to_string(),
                    (*form).to_owned(),
                    format!("{:.1}", pull.makespan),
                    format!("{:.1}", pull.bound),
                    pull.requests.to_string(),
                ]);
            }
        }
        let axis = |pulls: &[Pull]| pulls.iter().map(|p| p.makespan).fold(0.0, f64::max);
        let text = format!(
            "Simulated for an empty client with {:.0} MB/s per connection, {:.0} MB/s in total, a latency of \
             {:.0} ms and {}. docs/PULLS.md describes the simulation.",
            rates.per_connection / 1e6,
            rates.total / 1e6,
            rates.latency * 1e3,
            count(u64::from(self.machine.cores), "core")
        );
        let picture = html! {
            (legend(&[("download", "downloading"), ("unpack", "unpacking")]))
            div.tabs role="group" aria-label="Client" {
                style { @for i in 0..self.pulls.len() {
                    "#pull-" (i) ":checked~.panel-" (i) "{display:grid}"
                } }
                @for (i, ColdPulls { client, pulls, .. }) in self.pulls.iter().enumerate() {
                    input type="radio" name="pull" id={ "pull-" (i) } checked[i == 0];
                    label for={ "pull-" (i) } {
                        (client) " " (format!("{:.1} → {:.1} s", pulls[0].makespan, pulls[1].makespan))
                    }
                }
                @for (i, ColdPulls { pulls, .. }) in self.pulls.iter().enumerate() {
                    div.pair.panel.{ "panel-" (i) } {
                        @for (form, pull) in ["As built", "Split"].iter().zip(pulls) {
                            div {
                                h3 { (form) ": " (format!("{:.1} s", pull.makespan)) }
                                (timeline(&lines(pull), axis(pulls)))
                            }
                        }
                    }
                }
            }
        };
        let header = ["client", "image", "seconds", "at least", "requests"];
        figure("pulls", "Cold pulls", &text, &picture, &table(&header, 2, &rows))
    }

    fn compression(&self) -> Markup {
        let mut rows = Vec::new();
        let mut points = Vec::new();
        for row in &self.matrix.rows {
            let ratio = row.ratio();
            let speed = row.encode / 1e6;
            let class = if row.compression.starts_with("gzip") { "c2" } else { "c0" };
            let text = format!("{}: ratio {ratio:.2}, {speed:.0} MB/s", row.compression);
            points.push(Point {
                label: row.compression.clone(),
                text,
                x: speed.log10(),
                y: ratio,
                class,
            });
            rows.push(vec![
                row.compression.clone(),
                format!("{ratio:.2}"),
                format!("{speed:.0}"),
                format!("{:.0}", row.decode / 1e6),
            ]);
        }
        let speeds: Vec<f64> = points.iter().map(|p| p.x).collect();
        let ratios: Vec<f64> = points.iter().map(|p| p.y).collect();
        let mut x = Axis::linear("MB/s compressed by one core", &speeds, "");
        let decades = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];
        let within = decades.into_iter().filter(|v: &f64| (x.from..=x.to).contains(&v.log10()));
        x.ticks = within.map(|v| (v.log10(), chart::trimmed(v))).collect();
        let y = Axis::linear("ratio", &ratios, "");
        let part = if self.matrix.sample_bytes < self.matrix.file_bytes {
            format!("a sample of {} of the files", size(self.matrix.sample_bytes))
        } else {
            "all files".to_owned()
        };
        figure(
            "compression",
            "Compression ratio and speed",
            &format!("Measured on {part}; higher is smaller, further right is faster."),
            &plot(&[points], &x, &y, false),
            &table(&["", "ratio", "MB/s in", "MB/s out"], 1, &rows),
        )
    }

    fn by_layers(&self) -> Markup {
        let measured: Vec<_> = self.matrix.rows.iter().filter(|r| r.cells.len() > 1).collect();
        if measured.is_empty() {
            return html! {};
        }
        let classes = ["c0", "c1", "c2", "c3", "c4", "c5"];
        let mut rows = Vec::new();
        let mut series = Vec::new();
        for (row, class) in measured.iter().zip(classes.iter().cycle()) {
            let one = row.cells[0].blob_bytes as f64;
            let last = row.cells.len() - 1;
            let point = |(i, cell): (usize, &crate::bench::Cell)| {
                let more = 100.0 * (cell.blob_bytes as f64 / one - 1.0);
                let text = format!(
                    "{}, {}: {}, {more:+.1} %",
                    row.compression,
                    count(u64::from(cell.target), "layer"),
                    size(cell.blob_bytes)
                );
                let label = if i == last { row.compression.clone() } else { String::new() };
                Point { label, text, x: f64::from(cell.target).log2(), y: more, class }
            };
            series.push(row.cells.iter().enumerate().map(point).collect::<Vec<_>>());
            let cells = row.cells.iter().map(|c| (c.target.to_string(), size(c.blob_bytes)));
            rows.extend(cells.map(|(n, bytes)| vec![row.compression.clone(), n, bytes]));
        }
        let all = |f: fn(&Point) -> f64| series.iter().flatten().map(f).collect::<Vec<f64>>();
        let y = Axis::linear("size relative to one layer", &all(|p| p.y), " %");
        let mut x = Axis::linear("layers", &all(|p| p.x), "");
        let counts = measured.iter().flat_map(|r| &r.cells).map(|c| c.target);
        let counts: std::collections::BTreeSet<u32> = counts.collect();
        x.ticks = counts.iter().map(|n| (f64::from(*n).log2(), n.to_string())).collect();
        figure(
            "count",
            "Size by number of layers",
            "Each layer is compressed separately, but similar files are in the same layer.",
            &plot(&series, &x, &y, true),
            &table(&["compression", "layers", "stored"], 1, &rows),
        )
    }

    fn updates(&self) -> Markup {
        if self.steps.is_empty() {
            return html! {};
        }
        let mut rows = Vec::new();
        let mut groups = Vec::new();
        for (name, step) in self.steps {
            let forms = [
                ("built", "as built", step.loads.built),
                ("split", "split", step.loads.split),
                ("previous", "split --previous", step.loads.previous),
            ];
            let bar =
                |(class, form, loads): (&'static str, &str, crate::compare::diff::Loads)| Bar {
                    label: form.to_owned(),
                    parts: vec![(class, loads.digest.bytes as f64)],
                    text: size(loads.digest.bytes),
                    note: String::new(),
                };
            groups.push((name, forms.map(bar)));
            rows.extend(forms.map(|(_, form, loads)| {
                let (digest, chain) = (size(loads.digest.bytes), size(loads.chain.bytes));
                vec![name.clone(), form.to_owned(), digest, chain]
            }));
        }
        let largest = chart::largest(groups.iter().flat_map(|(_, bars)| bars));
        figure(
            "updates",
            "Downloads per update",
            "For a client that has the previous version and recognises layers by digest, as containerd does.",
            &html! {
                @for (name, rows) in &groups {
                    h3 { "to " (name) }
                    (bars(rows, largest))
                }
            },
            &table(&["update to", "", "by digest", "by chain ID"], 2, &rows),
        )
    }

    /// The findings of `relayer inspect`.
    fn findings(&self) -> Markup {
        let image = self.inspection;
        let secrets = image.secrets.iter().map(|s| {
            let layer = s.layer.map_or_else(|| "config".to_owned(), |l| l.to_string());
            let seen = s.hidden_by.map_or_else(|| "shown".to_owned(), |l| format!("hidden by {l}"));
            vec![s.path.clone(), s.rule.to_owned(), layer, seen]
        });
        let secrets: Vec<_> = secrets.collect();
        let hidden = image.waste.hidden.iter().take(LISTED).map(|h| {
            vec![h.path.clone(), size(h.bytes), h.layer.to_string(), h.hidden_by.to_string()]
        });
        let hidden: Vec<_> = hidden.collect();
        let duplicates = image.waste.duplicates.iter().take(LISTED).map(|d| {
            let first = d.files.first().map_or_else(String::new, |f| f.path.clone());
            vec![first, size(d.bytes), d.files.len().to_string()]
        });
        let duplicates: Vec<_> = duplicates.collect();
        html! {
            section id="findings" {
                h2 { "Findings" }
                @if !secrets.is_empty() {
                    h3 { "Likely secrets" }
                    div.scroll tabindex="0" { (table(&["where", "what", "layer", ""], 4, &secrets)) }
                }
                @if !image.warnings.is_empty() {
                    h3 { "Clients" }
                    ul { @for w in &image.warnings {
                        li { (w.clients.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ")) ": " (w.what) }
                    } }
                }
                @if !hidden.is_empty() {
                    h3 { "Deleted or overwritten, but still in lower layers" }
                    p.note { (size(image.waste.hidden_bytes)) " in " (image.waste.hidden_files) " files; the largest:" }
                    div.scroll tabindex="0" {
                        (table(&["path", "bytes", "layer", "hidden by"], 1, &hidden))
                    }
                }
                @if !duplicates.is_empty() {
                    h3 { "Duplicates" }
                    p.note { (size(image.waste.duplicate_bytes)) " could be saved; the largest:" }
                    div.scroll tabindex="0" { (table(&["path", "could be saved", "copies"], 1, &duplicates)) }
                }
            }
        }
    }
}

/// Returns the layers of a pull, each with its download and its unpacking.
fn lines(pull: &Pull) -> Vec<Line> {
    let line = |span: &simulate::LayerTimes| Line {
        label: (span.layer + 1).to_string(),
        spans: [("download", span.download), ("unpack", span.unpack)]
            .into_iter()
            .filter_map(|(class, interval)| Some((class, interval?.start, interval?.end)))
            .collect(),
    };
    pull.spans.iter().map(line).collect()
}
