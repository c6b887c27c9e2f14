//! `relayer bench`.

use clap::Args;
use serde_json::json;

use super::load::open_one;
use super::table::{Layout, share, table};
use super::{Global, Outcome, client, output, size::Size, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::{Context, Result};
use crate::base::text::count;
use crate::bench::{
    self, ColdPulls, Matrix, MatrixOptions, PulledForm, Step, Subject, UpdatePulls, UpdateSequence,
};
use crate::format::codec::Compression;
use crate::model::oci::Platform;
use crate::simulate::{Client, ClientModel, LINKS, Link, Machine, NODE, Pull};
use crate::split::report::SCHEMA;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Measure this image; of several versions, oldest first, the last one and the updates between them
    #[arg(value_name = "IMAGE", num_args = 1.., required = true)]
    images: Vec<Reference>,
    /// Measure these codecs and levels, as in gzip:9,zstd:3,zstd:19:long=27 [default: gzip 6 and 9;
    /// zstd 1, 3 (with windows of 2, 8 and 128 MiB), 9 and 19]
    #[arg(long, value_name = "CODEC:LEVEL", value_delimiter = ',', value_parser = Compression::parse)]
    compression: Vec<Compression>,
    #[arg(long, value_name = "N", value_delimiter = ',',
          help = format!("Numbers of layers to measure [default: {}]",
                         defaults::BENCH_LAYERS.map(|n| n.to_string()).join(",")),
          value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::plan::MAX_LAYERS)))]
    layers: Vec<u32>,
    /// Measure with this many bytes of files, taken in short runs from the whole image
    #[arg(long, value_name = "SIZE", default_value_t = Size(defaults::BENCH_SAMPLE))]
    sample: Size,
    /// Measure with all files, which may take minutes
    #[arg(long, conflicts_with = "sample")]
    full: bool,
    /// Simulate pulls of these clients
    #[arg(long, value_name = "CLIENT", value_delimiter = ',', value_parser = client::model(),
          default_values = bench::CLIENTS.map(Client::name))]
    client: Vec<&'static ClientModel>,
    /// Simulate pulls over these links: gigabit, ecr, slow, local, or bytes per second of one
    /// connection, bytes per second in total, and latency, as in 40MB/125MB/20ms
    #[arg(long, value_name = "LINK", value_delimiter = ',', value_parser = link,
          default_value = "gigabit,ecr,slow")]
    link: Vec<(String, Link)>,
    /// Simulate pulls with this number of cores
    #[arg(long, value_name = "N", default_value_t = NODE.cores, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cores: u32,
    /// Use this platform if the image has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

/// Parses a link: its name, or its speeds and latency.
fn link(text: &str) -> std::result::Result<(String, Link), String> {
    if let Some(known) = LINKS.iter().find(|l| l.name == text) {
        return Ok((text.to_owned(), known.link));
    }
    let bad = || {
        let known: Vec<&str> = LINKS.iter().map(|l| l.name).collect();
        format!("use {}, or numbers as in 40MB/125MB/20ms", known.join(", "))
    };
    let rate = |text: &str| match text.parse::<ByteSize>() {
        Ok(size) if size.0 > 0 => Ok(size.0 as f64),
        _ => Err(bad()),
    };
    let [one, all, latency] = text.split('/').collect::<Vec<_>>()[..] else { return Err(bad()) };
    let ms = latency.strip_suffix("ms").and_then(|n| n.parse::<u32>().ok()).ok_or_else(bad)?;
    let latency = f64::from(ms) / 1e3;
    Ok((text.to_owned(), Link { per_connection: rate(one)?, total: rate(all)?, latency }))
}

impl BenchArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let sample = if self.full { u64::MAX } else { self.sample.0 };
        let options = MatrixOptions::new(&self.compression, &self.layers, sample)?;
        let splitting = global.split_options();
        let budget = bench::budget(global.memory.0);
        let open = |image| open_one(image, self.platform.as_ref(), &budget, global);
        let versions = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        let pool = global.pool()?;
        // The command line requires at least one.
        let (Some(name), Some(last)) = (self.images.last(), versions.last()) else {
            return Ok(Outcome::Done);
        };
        let (subject, matrix) = pool.install(|| -> Result<_> {
            let subject = Subject::read(&last.images[0], global.max_size.0, &budget, terminal)
                .with_context(|| format!("reading {name}"))?;
            let matrix = bench::measure(&subject, &options, &budget, terminal)?;
            Ok((subject, matrix))
        })?;
        let forms = bench::forms(&subject, &matrix);
        let machine = Machine { cores: self.cores, ..NODE };
        let cold = bench::cold_pulls(&forms, &self.client, &self.link, &machine);
        let sequence =
            pool.install(|| UpdateSequence::follow(&versions, &splitting, &budget, terminal))?;
        let steps = sequence.steps();
        let updates = sequence.pulls(&self.client, &self.link, &machine);
        let value = || {
            json!({
                "schema": SCHEMA, "input": name.to_string(), "matrix": matrix, "forms": forms,
                "machine": machine, "cold_pulls": cold, "updates": steps, "update_pulls": updates,
            })
        };
        output::print_result(global, false, value, || {
            let layout = global.layout();
            let mut parts =
                vec![size_table(&matrix, layout), pull_table(&forms, &cold, &machine, layout)];
            if !steps.is_empty() {
                parts.push(load_table(&self.images, &steps, layout));
                parts.push(update_pull_table(&updates, layout));
            }
            parts.join("\n")
        })
    }
}

/// Formats sizes by compression and number of layers.
fn size_table(matrix: &Matrix, layout: Layout) -> String {
    let estimated = matrix.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.estimated);
    let sampled = if estimated {
        let part = share(matrix.sample_bytes, matrix.file_bytes, 0);
        let sample = ByteSize(matrix.sample_bytes);
        format!("; ~ is estimated from a sample of {sample} ({part}), --full measures everything")
    } else {
        String::new()
    };
    let layers = count(u64::from(matrix.compared_at), "layer");
    let mut text =
        format!("{} of files; ratios with {layers}{sampled}\n", ByteSize(matrix.file_bytes));
    let counts = matrix.counts();
    let mut header: Vec<String> =
        ["", "window", "MB/s in", "MB/s out", "ratio"].map(str::to_owned).into();
    header.extend(counts.iter().map(|n| count(u64::from(*n), "layer")));
    let ends = counts.first().zip(counts.last()).filter(|(one, many)| one != many);
    header.extend(ends.map(|(one, many)| format!("{many} vs {one}")));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = table(&header, 1);
    for row in &matrix.rows {
        let mut cells = vec![
            row.compression.clone(),
            binary(row.window),
            bench::speed(row.encode),
            bench::speed(row.decode),
            format!("{:.2}", row.ratio),
        ];
        cells.extend(counts.iter().map(|n| row.at(*n).map_or_else(String::new, bench::Cell::size)));
        if let (Some(_), [one, .., many]) = (ends, row.cells.as_slice()) {
            let more = 100.0 * (many.blob_bytes as f64 / one.blob_bytes as f64 - 1.0);
            cells.push(format!("{more:+.1} %"));
        }
        rows.add_row(cells);
    }
    text.push_str(&rows.fit(layout));
    text
}

/// Formats the size of a window, which is about a power of two.
fn binary(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes.div_ceil(1 << 10)),
    }
}

/// Formats how long clients take to pull each form.
fn pull_table(
    forms: &[PulledForm],
    cold: &[ColdPulls],
    machine: &Machine,
    layout: Layout,
) -> String {
    let mut text = format!(
        "seconds for a cold pull, simulated with {}\n",
        count(u64::from(machine.cores), "core")
    );
    let mut header = vec!["client".to_owned(), "link".to_owned()];
    header.extend(forms.iter().map(|f| match f.target {
        None => format!("as built, {}", f.layers.len()),
        Some(n) => n.to_string(),
    }));
    header.push("at least".to_owned());
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = table(&header, 2);
    for row in cold {
        let mut cells = vec![row.client.to_string(), row.link.clone()];
        cells.extend(row.pulls.iter().map(|p| format!("{:.1}", p.makespan)));
        let least = row.pulls[1..].iter().map(|p| p.bound).fold(f64::INFINITY, f64::min);
        cells.push(format!("{least:.1}"));
        rows.add_row(cells);
    }
    text.push_str(&rows.fit(layout));
    text
}

/// Formats what clients download from version to version.
fn load_table(images: &[Reference], steps: &[Step], layout: Layout) -> String {
    let header = [&bench::UPDATE_COLUMNS[..], &["dead"]].concat();
    let mut rows = table(&header, 1);
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let mut total = [0; 6];
    for (image, step) in images[1..].iter().zip(steps) {
        let bytes = step.loads.each().into_iter().flat_map(|l| [l.digest.bytes, l.chain.bytes]);
        let mut row = vec![image.to_string()];
        for (sum, bytes) in total.iter_mut().zip(bytes) {
            *sum += bytes;
            row.push(size(bytes));
        }
        row.push(share(step.dead_bytes, step.loads.previous.cold.bytes, 1));
        rows.add_row(row);
    }
    if steps.len() > 1 {
        let sums = total.iter().map(|bytes| size(*bytes));
        rows.add_row(std::iter::once("total".to_owned()).chain(sums));
    }
    rows.fit(layout)
}

/// Formats how long clients take for all updates.
fn update_pull_table(updates: &[UpdatePulls], layout: Layout) -> String {
    let mut text = "seconds for all updates, simulated\n".to_owned();
    let mut rows = table(&["client", "link", "as built", "split", "--previous", "at least"], 2);
    for row in updates {
        let sum = |form: usize, of: fn(&Pull) -> f64| {
            let steps = row.steps.iter().map(|step| of(step.each()[form]));
            format!("{:.1}", steps.sum::<f64>())
        };
        let mut cells = vec![row.client.to_string(), row.link.clone()];
        cells.extend((0..3).map(|form| sum(form, |p| p.makespan)));
        cells.push(sum(2, |p| p.bound));
        rows.add_row(cells);
    }
    text.push_str(&rows.fit(layout));
    text
}
