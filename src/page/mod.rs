//! The HTML page of `relayer report`: what is wrong with an image, where its bytes are, its layers before
//! and after, pulls and updates. It needs no script and no network.
//!
//! May import everything below `cli`; it computes nothing of its own. To know: [`page`], which
//! measures what a page shows; [`Page`], those facts; and the charts of `chart`. Each other file has
//! the sections of one subject.

mod chart;
mod compression;
mod contents;
mod findings;
mod layers;
mod measure;
mod plot;
mod pulls;
mod treemap;

pub use measure::{PageOptions, page};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::base::byte_size::ByteSize;
use crate::base::text::count;
use crate::bench::{ColdPulls, Matrix, Step};
use crate::inspect::{Inspection, Severity};
use crate::simulate::{self, Client, ClientModel, Machine};
use crate::split::report::LayerReport;

const STYLE: &str = include_str!("page.css");

/// The facts that a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// Name of the image on the command line.
    pub input: &'a str,
    /// Its names, and when it was created, as it says.
    pub names: &'a [String],
    /// When it was created, as its config says.
    pub created: Option<&'a str>,
    /// Its inspection.
    pub inspection: &'a Inspection,
    /// Its layers as clients pull them, lowest first.
    pub built: &'a [simulate::Layer],
    /// The layers of its split, with the bytes that `split` writes.
    pub split: &'a [LayerReport],
    /// Names of components and their chances of a change per release, sorted by name.
    pub chances: &'a [(String, f64)],
    /// Cold pulls by the chosen client and then by others, over each link: of the image as built and split.
    pub pulls: &'a [ColdPulls],
    /// The chosen client.
    pub client: &'a ClientModel,
    /// The machine that unpacks.
    pub machine: &'a Machine,
    /// Its sizes by compression and number of layers.
    pub matrix: &'a Matrix,
    /// Updates between versions, each with the name of the newer version.
    pub steps: &'a [(String, Step)],
}

/// A section: its anchor, its title, and its content.
type Section = (&'static str, &'static str, Markup);

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Formats a part of a whole.
fn percent(part: u64, all: u64) -> String {
    let share = 100.0 * part as f64 / all.max(1) as f64;
    if share < 9.95 { format!("{share:.1} %") } else { format!("{share:.0} %") }
}

impl Page<'_> {
    /// Returns the page as HTML.
    pub fn render(&self) -> String {
        let sections: Vec<Section> = [
            Some(self.secrets()),
            Some(self.warnings()),
            Some(self.layers()),
            Some(self.contents()),
            self.largest(),
            Some(self.deleted()),
            Some(self.duplicates()),
            self.updates(),
            self.pulls(),
            Some(self.compression()),
            self.by_layers(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.input) " – relayer" }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    (self.header())
                    nav aria-label="Sections" { ul {
                        @for (id, title, _) in &sections { li { a href={ "#" (id) } { (title) } } }
                    } }
                    main { @for (_, _, section) in &sections { (section) } }
                    footer.note { (self.footer()) }
                }
            }
        };
        page.into_string()
    }

    /// Bytes that a client downloads, as built and split.
    fn downloads(&self) -> (u64, u64) {
        let built = self.inspection.totals.download_bytes;
        (built, self.split.iter().map(LayerReport::stored).sum())
    }

    fn header(&self) -> Markup {
        let totals = &self.inspection.totals;
        let estimate = if totals.estimated { ", estimated as gzip" } else { "" };
        html! {
            header {
                h1 { (self.input) }
                p.digest {
                    @for name in self.names { (name) " · " }
                    (self.inspection.platform)
                    @if let Some(created) = self.created {
                        " · created " (created.split('.').next().unwrap_or(created).trim_end_matches('Z').replace('T', " "))
                    }
                    " · " (size(totals.download_bytes)) " to download" (estimate)
                    ", " (size(totals.tar_bytes)) " of tar"
                }
                p.digest { "config " (self.inspection.config.to_string()) }
                (self.tiles())
            }
        }
    }

    /// The most important facts, those that need attention first, each with a link to its section.
    fn tiles(&self) -> Markup {
        let image = self.inspection;
        let (built, split) = self.downloads();
        let failing = image.warnings.iter().filter(|w| w.outcome == Severity::Fails).count();
        let risks = image.warnings.len() - failing;
        let tile = |id: &str, class: &str, value: String, text: String| {
            html! { li { a.fact.(class) href={ "#" (id) } { strong { (value) } span { (text) } } } }
        };
        let secrets = image.secrets.len() as u64;
        let bad = |bad: bool, class: &'static str| if bad { class } else { "good" };
        let gone = &image.waste;
        let largest = image.largest.first();
        html! {
            ul.facts {
                (tile("secrets", bad(secrets > 0, "bad"), secrets.to_string(),
                    if secrets == 1 { "likely secret".into() } else { "likely secrets".into() }))
                (tile("clients", if failing > 0 { "bad" } else { bad(risks > 0, "warn") },
                    (failing + risks).to_string(),
                    format!("incompatibilities: {failing} fail, {risks} risk")))
                (tile("layers", "", format!("{} → {}", size(built), size(split)), format!(
                    "to download, as built{} and split: {:+.0} %",
                    if image.totals.estimated { " (estimated)" } else { "" },
                    100.0 * (split as f64 / built.max(1) as f64 - 1.0)
                )))
                (tile("deleted", bad(gone.recoverable_bytes > 1_000_000, "warn"),
                    size(gone.hidden_bytes), format!(
                    "in {} that upper layers hide; {} recoverable",
                    count(gone.hidden_files, "file"), size(gone.recoverable_bytes)
                )))
                (tile("duplicates", "", size(gone.duplicate_bytes), "in copies of other files".into()))
                @if let Some(file) = largest {
                    (tile("largest", "", size(file.bytes), format!("in the largest file, {}", chart::short(file.path.rsplit('/').next().unwrap_or_default(), 40))))
                }
                @if let Some(ColdPulls { link, pulls, .. }) = self.pulls.first() {
                    (tile("pulls", "", format!("{:.1} → {:.1} s", pulls[0].makespan, pulls[1].makespan),
                        format!("first pull by {} over {link}, simulated", self.client.client)))
                }
                @if let Some((_, step)) = self.steps.last() {
                    @let [built, _, previous] = step.loads.each().map(|l| l.by(self.client.reuse).bytes);
                    (tile("updates", "", format!("{} → {}", size(built), size(previous)),
                        format!("last update of {}, as built and with --previous", self.client.client)))
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        let matrix = self.matrix;
        let part = if matrix.sample_bytes < matrix.file_bytes {
            format!(
                "Sizes with ~ were measured on a sample of {} of {} of files; relayer report --full \
                 measures everything.",
                size(matrix.sample_bytes),
                size(matrix.file_bytes)
            )
        } else {
            format!("All {} of files were measured.", size(matrix.file_bytes))
        };
        html! { "relayer " (env!("CARGO_PKG_VERSION")) ". " (part) }
    }

    fn other_clients(&self) -> impl Iterator<Item = &ColdPulls> {
        let chosen: Client = self.client.client;
        self.pulls.iter().filter(move |p| p.client != chosen)
    }
}
