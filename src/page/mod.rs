//! One page that shows an image: what is in it, what splitting it does, how long pulls take and what
//! updates cost. It needs nothing but itself: no script, no network.

mod chart;
mod treemap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::analyze::ComponentKind;
use crate::bench::{Matrix, Step};
use crate::diff::Layer;
use crate::report::{ImageReport, LayerReport};
use crate::size::ByteSize;
use chart::{Axis, Bar, Group, Point, Tile, bars, figure, legend, plot, table, treemap};

const STYLE: &str = include_str!("page.css");

/// What a page shows.
pub struct Page<'a> {
    /// The image, as it was named.
    pub input: &'a str,
    /// Its layers as they were built, lowest first.
    pub built: &'a [Layer],
    /// The same image split.
    pub split: &'a ImageReport,
    /// What compressions make of it.
    pub matrix: &'a Matrix,
    /// Updates between versions: to which, and what is loaded.
    pub steps: &'a [(String, Step)],
}

/// Classes of colours and their names, by kind of component.
const KINDS: [(ComponentKind, &str, &str); 6] = [
    (ComponentKind::OsPackage, "os", "package of the system"),
    (ComponentKind::System, "system", "other file of the system"),
    (ComponentKind::LanguagePackage, "language", "package of a language"),
    (ComponentKind::BigFile, "big", "single large file"),
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
    /// The page's HTML.
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
                        (self.compression())
                        (self.by_layers())
                        (self.updates())
                    }
                }
            }
        };
        page.into_string()
    }

    /// The numbers that matter most.
    fn facts(&self) -> Markup {
        let built: u64 = self.built.iter().map(|l| l.blob_bytes).sum();
        let split: u64 = self.split.layers.iter().map(LayerReport::stored).sum();
        let largest = self.split.layers.iter().map(LayerReport::stored).max().unwrap_or_default();
        let before = self.built.iter().map(|l| l.blob_bytes).max().unwrap_or_default();
        let fact =
            |value: String, says: String| html! { li { strong { (value) } span { (says) } } };
        html! {
            ul.facts {
                (fact(format!("{} → {}", size(built), size(split)), "stored, as built and split".into()))
                (fact(
                    format!("{} → {}", self.built.len(), self.split.layers.len()),
                    format!("layers; the largest {} → {}", size(before), size(largest)),
                ))
                (fact(
                    size(self.split.hidden.bytes),
                    format!("in {} files that upper layers hide", self.split.hidden.files),
                ))
            }
        }
    }

    fn contents(&self) -> Markup {
        let mut rows = Vec::new();
        let group = |(i, layer): (usize, &LayerReport)| {
            let tile = |c: &crate::report::ComponentReport| Tile {
                label: c.name.clone(),
                class: class(c.kind),
                bytes: c.bytes,
            };
            let mut tiles: Vec<Tile> = layer.components.iter().map(tile).collect();
            tiles.sort_by_key(|t| std::cmp::Reverse(t.bytes));
            Group { label: format!("{} {}", i + 1, layer.label), tiles }
        };
        for (i, layer) in self.split.layers.iter().enumerate() {
            let name = |c: &crate::report::ComponentReport| {
                vec![(i + 1).to_string(), c.name.clone(), size(c.bytes), c.files.to_string()]
            };
            rows.extend(layer.components.iter().map(name));
        }
        let groups: Vec<Group> = self.split.layers.iter().enumerate().map(group).collect();
        let kinds = KINDS.map(|(_, class, name)| (class, name));
        figure(
            "contents",
            "What is in it",
            "Final files by layer of the split image, and in each by component; areas are bytes.",
            &html! { (legend(&kinds)) (treemap(&groups)) },
            &table(&["layer", "component", "bytes", "files"], 2, &rows),
        )
    }

    fn layers(&self) -> Markup {
        let built: Vec<Bar> = self
            .built
            .iter()
            .enumerate()
            .map(|(i, l)| Bar {
                label: format!("{}", i + 1),
                parts: vec![("built", l.blob_bytes as f64)],
                text: size(l.blob_bytes),
            })
            .collect();
        let split: Vec<Bar> = self
            .split
            .layers
            .iter()
            .enumerate()
            .map(|(i, l)| Bar {
                label: format!("{} {}", i + 1, l.label),
                parts: vec![("split", l.stored() as f64)],
                text: size(l.stored()),
            })
            .collect();
        let row =
            |form: &str, bar: &Bar| vec![form.to_owned(), bar.label.clone(), bar.text.clone()];
        let rows: Vec<Vec<String>> = built
            .iter()
            .map(|b| row("as built", b))
            .chain(split.iter().map(|b| row("split", b)))
            .collect();
        let most = chart::most(built.iter().chain(&split));
        figure(
            "layers",
            "Layers before and after",
            "Bytes that a client downloads for each layer, the lowest first.",
            &html! {
                div.pair {
                    div { h3 { "As built" } (bars(&built, most)) }
                    div { h3 { "Split" } (bars(&split, most)) }
                }
            },
            &table(&["", "layer", "stored"], 2, &rows),
        )
    }

    fn compression(&self) -> Markup {
        let mut rows = Vec::new();
        let mut points = Vec::new();
        for row in &self.matrix.rows {
            let ratio = row.ratio();
            let speed = row.encode / 1e6;
            let class = if row.compression.starts_with("gzip") { "c2" } else { "c0" };
            let says = format!("{}: ratio {ratio:.2}, {speed:.0} MB/s", row.compression);
            points.push(Point {
                label: row.compression.clone(),
                says,
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
            "Compression against its speed",
            &format!("Measured on {part}; further up is smaller, further right is faster."),
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
                let says = format!(
                    "{}, {} layers: {}, {more:+.1} %",
                    row.compression,
                    cell.target,
                    size(cell.blob_bytes)
                );
                let label = if i == last { row.compression.clone() } else { String::new() };
                Point { label, says, x: f64::from(cell.target).log2(), y: more, class }
            };
            series.push(row.cells.iter().enumerate().map(point).collect::<Vec<_>>());
            let cells = row.cells.iter().map(|c| (c.target.to_string(), size(c.blob_bytes)));
            rows.extend(cells.map(|(n, bytes)| vec![row.compression.clone(), n, bytes]));
        }
        let all = |f: fn(&Point) -> f64| series.iter().flatten().map(f).collect::<Vec<f64>>();
        let y = Axis::linear("bytes against one layer", &all(|p| p.y), " %");
        let mut x = Axis::linear("layers", &all(|p| p.x), "");
        let counts = measured.iter().flat_map(|r| &r.cells).map(|c| c.target);
        let counts: std::collections::BTreeSet<u32> = counts.collect();
        x.ticks = counts.iter().map(|n| (f64::from(*n).log2(), n.to_string())).collect();
        figure(
            "count",
            "Does it cost bytes to have more layers?",
            "Each layer begins with an empty window, but files that are alike lie together.",
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
                ("built", "as built", step.built),
                ("split", "split", step.split),
                ("previous", "split --previous", step.previous),
            ];
            let bar = |(class, form, loads): (&'static str, &str, crate::diff::Loads)| Bar {
                label: form.to_owned(),
                parts: vec![(class, loads.digest.bytes as f64)],
                text: size(loads.digest.bytes),
            };
            groups.push((name, forms.map(bar)));
            rows.extend(forms.map(|(_, form, loads)| {
                let (digest, chain) = (size(loads.digest.bytes), size(loads.chain.bytes));
                vec![name.clone(), form.to_owned(), digest, chain]
            }));
        }
        let most = chart::most(groups.iter().flat_map(|(_, bars)| bars));
        figure(
            "updates",
            "What an update loads",
            "By a client that has the version before and goes by digest, as containerd does.",
            &html! {
                @for (name, rows) in &groups {
                    h3 { "to " (name) }
                    (bars(rows, most))
                }
            },
            &table(&["update to", "", "by digest", "by chain ID"], 2, &rows),
        )
    }
}
