//! `relayer report`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::bench::CLIENTS;
use super::load::open_one;
use super::{Global, Outcome, output, size::Size, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::{Context, Result};
use crate::bench::{self, Form, Options, Sequence, Subject};
use crate::inspect;
use crate::model::oci::Platform;
use crate::page::Page;
use crate::simulate::{Client, CompressionKind, LINKS, NODE};
use crate::split;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The image, or its versions, oldest first: shows the last one and the updates between them
    #[arg(value_name = "IMAGE", num_args = 1.., required = true)]
    images: Vec<Reference>,
    /// The HTML file to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Number of bytes of files to measure with, taken in runs of 32 MiB from the whole image
    #[arg(long, value_name = "SIZE", default_value_t = Size(defaults::REPORT_SAMPLE))]
    sample: Size,
    /// The platform to use if the image has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Overwrite the page if it exists
    #[arg(short, long)]
    force: bool,
}

impl ReportArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        output::check(&self.output, self.force, &self.images.iter().collect::<Vec<_>>())?;
        let splitting = global.split_options();
        let budget = splitting.budget();
        let open = |image| open_one(image, self.platform.as_ref(), &budget, global);
        let versions = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        // There is at least one, says the command line.
        let (Some(name), Some(last)) = (self.images.last(), versions.last()) else {
            return Ok(Outcome::Done);
        };
        let options = Options::new(&[], &[], self.sample.0)?;
        let pool = global.pool()?;
        let matrix = pool.install(|| -> Result<_> {
            let subject = Subject::read(&last.images[0], global.max_size.0, &budget, terminal)
                .with_context(|| format!("reading {name}"))?;
            bench::measure(&subject, &options, &budget, terminal)
        })?;
        let inspecting = inspect::Options {
            threads: global.threads(),
            max_size: global.max_size.0,
            ..inspect::Options::default()
        };
        let inspections = inspect::inspect(last, &inspecting, &budget, terminal)
            .with_context(|| format!("inspecting {name}"))?;
        let sequence =
            pool.install(|| Sequence::follow(&versions, &splitting, &budget, terminal))?;
        let report = match sequence.last.clone() {
            Some(report) => report,
            None => split::split(last, None, &splitting, &budget, terminal)?.1.swap_remove(0),
        };
        let pulled = report.layers.iter().map(|l| l.pulled(CompressionKind::Zstd)).collect();
        let forms = [
            Form { target: None, layers: report.input.clone() },
            Form { target: Some(report.layers.len() as u32), layers: pulled },
        ];
        let clients: Vec<_> = CLIENTS.into_iter().filter_map(Client::model).collect();
        let link = (LINKS[0].name.to_owned(), LINKS[0].link);
        let pulls = bench::cold_pulls(&forms, &clients, &[link], &NODE);
        let names = self.images[1..].iter().map(ToString::to_string);
        let steps: Vec<_> = names.zip(sequence.steps()).collect();
        let page = Page {
            input: &name.to_string(),
            inspection: &inspections[0],
            split: &report,
            pulls: &pulls,
            machine: &NODE,
            matrix: &matrix,
            steps: &steps,
        };
        let text = page.render();
        output::write(&self.output, |out| Ok(out.write_all(text.as_bytes())?))?;
        let value = || {
            json!({
                "schema": SCHEMA, "input": name.to_string(),
                "output": self.output.display().to_string(), "bytes": text.len(),
            })
        };
        output::print_result(global, output::is_standard(&self.output), value, || {
            format!("wrote {}: {}\n", self.output.display(), ByteSize(text.len() as u64))
        })
    }
}
