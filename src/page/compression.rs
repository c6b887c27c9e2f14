//! Compression: ratio and speed, and size by number of layers.

use super::chart::{self, figure, table};
use super::plot::{Axis, Point, plot};
use super::{Page, Section, size};
use crate::base::text::count;
use crate::bench::{self, Cell};

/// Colours of series. There are never more series than colours.
const COLOURS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
/// Least range of an axis in percent, so that differences that don't matter look so.
const LEAST: f64 = 2.0;

impl Page<'_> {
    pub(super) fn compression(&self) -> Section {
        let at = self.matrix.compared_at;
        let mut rows = Vec::new();
        let mut points = Vec::new();
        for row in &self.matrix.rows {
            let (ratio, speed) = (row.ratio, row.encode / 1e6);
            let class = if row.compression.starts_with("gzip") { "c2" } else { "c0" };
            let cell = row.at(at);
            let text =
                format!("{}: ratio {ratio:.2}, {} MB/s", row.compression, bench::speed(row.encode));
            let label = row.compression.clone();
            points.push(Point { label, text, x: speed.max(1e-3).log10(), y: ratio, class });
            rows.push(vec![
                row.compression.clone(),
                cell.map_or_else(String::new, Cell::size),
                format!("{ratio:.2}"),
                bench::speed(row.encode),
                bench::speed(row.decode),
            ]);
        }
        let speeds: Vec<f64> = points.iter().map(|p| p.x).collect();
        let ratios: Vec<f64> = points.iter().map(|p| p.y).collect();
        let mut x = Axis::linear("MB/s compressed by one core", &speeds, "", 0.0);
        let decades =
            [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];
        let within = decades.into_iter().filter(|v: &f64| (x.from..=x.to).contains(&v.log10()));
        x.ticks = within.map(|v| (v.log10(), chart::trimmed(v))).collect();
        let y = Axis::linear("ratio", &ratios, "", 0.0);
        let sampled = if self.matrix.sample_bytes < self.matrix.file_bytes {
            format!(" ~ is estimated from a sample of {}.", size(self.matrix.sample_bytes))
        } else {
            String::new()
        };
        let layers = count(u64::from(at), "layer");
        let text = format!(
            "With {layers}; higher is smaller, further right is faster. Speeds are by processor time.{sampled}"
        );
        let title = "Compression ratio and speed";
        let table = table(&["", "to download", "ratio", "MB/s in", "MB/s out"], 1, &rows);
        let picture = plot(&[points], &x, &y, false);
        ("compression", title, figure("compression", title, &text, &picture, &table))
    }

    pub(super) fn by_layers(&self) -> Option<Section> {
        let measured = self.matrix.rows.iter().filter(|r| r.cells.len() > 1);
        let measured: Vec<_> = measured.zip(COLOURS).collect();
        measured.first()?;
        let mut rows = Vec::new();
        let mut series = Vec::new();
        for (row, class) in &measured {
            let one = row.cells[0].blob_bytes as f64;
            let last = row.cells.len() - 1;
            let point = |(i, cell): (usize, &Cell)| {
                let more = 100.0 * (cell.blob_bytes as f64 / one - 1.0);
                let layers = count(u64::from(cell.target), "layer");
                let text = format!("{}, {layers}: {}, {more:+.1} %", row.compression, cell.size());
                let label = if i == last { row.compression.clone() } else { String::new() };
                Point { label, text, x: f64::from(cell.target).log2(), y: more, class }
            };
            series.push(row.cells.iter().enumerate().map(point).collect::<Vec<_>>());
            let cells = row.cells.iter().map(|c| (c.target.to_string(), c.size()));
            rows.extend(cells.map(|(n, bytes)| vec![row.compression.clone(), n, bytes]));
        }
        let all = |f: fn(&Point) -> f64| series.iter().flatten().map(f).collect::<Vec<f64>>();
        let y = Axis::linear("size relative to one layer", &all(|p| p.y), " %", LEAST);
        let mut x = Axis::linear("layers", &all(|p| p.x), "", 0.0);
        let counts = measured.iter().flat_map(|(r, _)| &r.cells).map(|c| c.target);
        let counts: std::collections::BTreeSet<u32> = counts.collect();
        x.ticks = counts.iter().map(|n| (f64::from(*n).log2(), n.to_string())).collect();
        let title = "Size by number of layers";
        let text = "Each layer is compressed separately, but similar files are in the same layer.";
        let table = table(&["compression", "layers", "to download"], 1, &rows);
        Some(("count", title, figure("count", title, text, &plot(&series, &x, &y, true), &table)))
    }
}
