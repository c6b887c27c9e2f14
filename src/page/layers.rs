//! Layers before and after.

use super::chart::{self, Bar, bars, figure, legend, table};
use super::{Page, Section, size};
use crate::base::text::count;

/// Maximum number of bars; the smallest layers of a longer list are one bar.
const BARS: usize = 12;
/// Layers below this are one bar if there are more than [`FEW`].
const SMALL: u64 = 1_000_000;
const FEW: usize = 3;

/// A layer as a bar, and its bytes.
struct Row {
    bytes: u64,
    bar: Bar,
}

/// Returns the bars of layers in order, with one bar at the end for those that are small.
fn fold(rows: Vec<Row>) -> Vec<Bar> {
    let mut sizes: Vec<u64> = rows.iter().map(|row| row.bytes).collect();
    sizes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    let limit = sizes.get(BARS).map_or(SMALL, |bytes| SMALL.max(bytes + 1));
    let small = sizes.iter().filter(|bytes| **bytes < limit).count();
    if small <= FEW {
        return rows.into_iter().map(|row| row.bar).collect();
    }
    let sum: u64 = sizes.iter().filter(|bytes| **bytes < limit).sum();
    let label = format!("{} below {}", count(small as u64, "layer"), size(limit));
    let class = rows.iter().find_map(|row| row.bar.parts.first()).map_or("other", |part| part.0);
    let rest =
        Bar { label, parts: vec![(class, sum as f64)], text: size(sum), note: String::new() };
    let large = rows.into_iter().filter(|row| row.bytes >= limit).map(|row| row.bar);
    large.chain([rest]).collect()
}

impl Page<'_> {
    pub(super) fn layers(&self) -> Section {
        let built = self.inspection.layers.iter().zip(self.built).map(|(l, pulled)| {
            let bytes = pulled.blob_bytes;
            // Hidden bytes are known uncompressed only, so this is a share of the blob.
            let hidden = bytes as f64 * l.hidden_bytes as f64 / l.file_bytes.max(1) as f64;
            let made = if l.created_by.is_empty() { "" } else { " " };
            let note = if l.hidden_bytes > 0 {
                format!(", {} of files hidden", size(l.hidden_bytes))
            } else {
                String::new()
            };
            let label = format!("{}{made}{}", l.number, l.created_by);
            let parts = vec![("built", bytes as f64 - hidden), ("hidden", hidden)];
            Row { bytes, bar: Bar { label, parts, text: size(bytes), note } }
        });
        let built: Vec<Row> = built.collect();
        let split = self.split.iter().enumerate().map(|(i, l)| {
            let label = format!("{} {}", i + 1, chart::unprefixed(&l.label));
            let parts = vec![("split", l.stored() as f64)];
            let bar = Bar { label, parts, text: size(l.stored()), note: String::new() };
            Row { bytes: l.stored(), bar }
        });
        let split: Vec<Row> = split.collect();
        let row = |form: &str, row: &Row| {
            let Bar { label, text, note, .. } = &row.bar;
            vec![form.to_owned(), label.clone(), format!("{text}{note}")]
        };
        let all =
            built.iter().map(|b| row("as built", b)).chain(split.iter().map(|b| row("split", b)));
        let rows: Vec<Vec<String>> = all.collect();
        let heads = [("As built", &built), ("Split", &split)].map(|(name, rows)| {
            let bytes = rows.iter().map(|row| row.bytes).sum();
            format!("{name}: {}, {}", size(bytes), count(rows.len() as u64, "layer"))
        });
        let (built, split) = (fold(built), fold(split));
        let largest = chart::largest(built.iter().chain(&split));
        let estimate = if self.inspection.totals.estimated {
            " The image is not compressed; as built, bytes are an estimate for gzip, as a push compresses it."
        } else {
            ""
        };
        let [head_built, head_split] = heads;
        let picture = maud::html! {
            (legend(&[("built", "as built"), ("hidden", "hidden by upper layers"), ("split", "split, zstd 3")]))
            div.pair {
                div { h3 { (head_built) } (bars(&built, largest)) }
                div { h3 { (head_split) } (bars(&split, largest)) }
            }
        };
        let title = "Layers before and after";
        let text =
            format!("Bytes that a client downloads for each layer, the lowest first.{estimate}");
        let table = table(&["", "layer", "to download"], 2, &rows);
        ("layers", title, figure("layers", title, &text, &picture, &table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_are_one_bar() {
        let row = |bytes: u64| Row {
            bytes,
            bar: Bar {
                label: bytes.to_string(),
                parts: vec![("built", bytes as f64)],
                text: size(bytes),
                note: String::new(),
            },
        };
        let texts = |sizes: &[u64]| -> Vec<String> {
            fold(sizes.iter().map(|bytes| row(*bytes)).collect())
                .into_iter()
                .map(|b| b.label)
                .collect()
        };
        assert_eq!(texts(&[5_000_000, 10, 20, 30]), ["5000000", "10", "20", "30"]);
        assert_eq!(texts(&[10, 5_000_000, 20, 30, 40]), ["5000000", "4 layers below 1.0 MB"]);
        let many: Vec<u64> = (1..=60).map(|i| i * 1_000_000).collect();
        let bars = texts(&many);
        assert_eq!(bars.len(), BARS + 1);
        assert_eq!(bars[BARS], "48 layers below 48.0 MB");
    }
}
