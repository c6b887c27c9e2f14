//! Cold pulls and updates, as the chosen client does them.

use maud::html;

use super::chart::{self, Bar, Line, bars, figure, legend, table, timeline};
use super::{Page, Section, size};
use crate::base::text::count;
use crate::bench::{ColdPulls, UPDATE_COLUMNS};
use crate::simulate::{LayerTimes, Pull, Reuse};

/// Maximum number of rows in a timeline; the shortest of more are left out.
const LINES: usize = 30;

impl Page<'_> {
    /// Timelines of the chosen client's cold pulls, with a tab per link, and a table of all clients.
    pub(super) fn pulls(&self) -> Option<Section> {
        let own: Vec<&ColdPulls> =
            self.pulls.iter().filter(|p| p.client == self.client.client).collect();
        own.first()?;
        let rows = own.iter().copied().chain(self.other_clients()).flat_map(|cold| {
            ["as built", "split"].iter().zip(&cold.pulls).map(|(form, pull)| {
                vec![
                    cold.client.to_string(),
                    cold.link.clone(),
                    (*form).to_owned(),
                    format!("{:.1}", pull.makespan),
                    format!("{:.1}", pull.bound),
                    pull.requests.to_string(),
                ]
            })
        });
        let rows: Vec<_> = rows.collect();
        let text = format!(
            "Simulated for {} without any of the layers, on {}. docs/PULLS.md describes the simulation; \
             report --client chooses the client.",
            self.client.client,
            count(u64::from(self.machine.cores), "core")
        );
        let picture = html! {
            (legend(&[("download", "downloading"), ("unpack", "unpacking")]))
            div.tabs role="group" aria-label="Link" {
                @for (i, ColdPulls { link, pulls, .. }) in own.iter().enumerate() {
                    input type="radio" name="pull" id={ "pull-" (i) } checked[i == 0];
                    label for={ "pull-" (i) } {
                        (link) ": " (format!("{:.1} → {:.1} s", pulls[0].makespan, pulls[1].makespan))
                    }
                }
                @for (i, ColdPulls { rates, pulls, .. }) in own.iter().enumerate() {
                    div.panel.{ "panel-" (i) } {
                        p.note {
                            (format!("{:.0} MB/s per connection, {:.0} MB/s in total, {:.0} ms of latency",
                                rates.per_connection / 1e6, rates.total / 1e6, rates.latency * 1e3))
                        }
                        div.pair { @for (form, pull) in ["As built", "Split"].iter().zip(pulls) {
                            div {
                                h3 { (form) ": " (format!("{:.1} s", pull.makespan)) }
                                (timeline(&lines(pull), pulls.iter().map(|p| p.makespan).fold(0.0, f64::max)))
                                @if pull.spans.len() > LINES {
                                    p.note { "without the " (pull.spans.len() - LINES) " shortest layers" }
                                }
                            }
                        } }
                    }
                }
            }
        };
        let title = "Cold pulls";
        let header = ["client", "link", "image", "seconds", "at least", "requests"];
        let table = table(&header, 3, &rows);
        Some(("pulls", title, figure("pulls", title, &text, &picture, &table)))
    }

    /// What the chosen client downloads for each update: a bar a step, for each form of the image.
    pub(super) fn updates(&self) -> Option<Section> {
        self.steps.first()?;
        let reuse = self.client.reuse;
        let forms =
            [("built", "As built"), ("split", "Split"), ("previous", "Split with --previous")];
        let mut panels = forms.map(|form| (form, 0, Vec::new()));
        let mut rows = Vec::new();
        for (name, step) in self.steps {
            let mut row = vec![name.clone()];
            for ((form, sum, bars), loads) in panels.iter_mut().zip(step.loads.each()) {
                let bytes = loads.by(reuse).bytes;
                *sum += bytes;
                bars.push(Bar {
                    label: name.clone(),
                    parts: vec![(form.0, bytes as f64)],
                    text: size(bytes),
                    note: String::new(),
                });
                row.extend([size(loads.digest.bytes), size(loads.chain.bytes)]);
            }
            rows.push(row);
        }
        let largest = chart::largest(panels.iter().flat_map(|(_, _, bars)| bars));
        let by = match reuse {
            Reuse::Chain => "chain ID",
            Reuse::Digest => "digest",
            Reuse::DiffId => "diff ID",
        };
        let client = self.client.client;
        let title = "Downloads per update";
        let text = format!(
            "What {client}, which recognises layers by {by}, downloads if it has the version before."
        );
        let picture = html! {
            div.pair.three { @for ((_, title), sum, rows) in &panels {
                div {
                    h3 { (title) @if rows.len() > 1 { ": " (size(*sum)) " in all" } }
                    (bars(rows, largest))
                }
            } }
        };
        let table = table(&UPDATE_COLUMNS, 1, &rows);
        Some(("updates", title, figure("updates", title, &text, &picture, &table)))
    }
}

/// Returns the layers of a pull that take longest, each with its download and its unpacking.
fn lines(pull: &Pull) -> Vec<Line> {
    let spans = |span: &LayerTimes| {
        let each = [("download", span.download), ("unpack", span.unpack)];
        each.into_iter()
            .filter_map(|(class, i)| Some((class, i?.start, i?.end)))
            .collect::<Vec<_>>()
    };
    let mut times: Vec<(f64, usize)> = pull
        .spans
        .iter()
        .map(|span| (spans(span).iter().map(|(_, from, to)| to - from).sum(), span.layer))
        .collect();
    times.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let shown: Vec<usize> = times.into_iter().take(LINES).map(|(_, layer)| layer).collect();
    let lines = pull.spans.iter().filter(|span| shown.contains(&span.layer));
    lines.map(|span| Line { label: (span.layer + 1).to_string(), spans: spans(span) }).collect()
}
