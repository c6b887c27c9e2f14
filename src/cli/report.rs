//! `relayer report`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::load::open_one;
use super::{Global, Outcome, client, output, size::Size, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::Result;
use crate::bench;
use crate::model::oci::Platform;
use crate::page::{self, PageOptions};
use crate::simulate::ClientModel;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Show this image; of several versions, oldest first, the last one and the updates between them
    #[arg(value_name = "IMAGE", num_args = 1.., required = true)]
    images: Vec<Reference>,
    /// Write the HTML page to this file; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Measure compression with this many bytes of files, taken in short runs from the whole image
    #[arg(long, value_name = "SIZE", default_value_t = Size(defaults::BENCH_SAMPLE))]
    sample: Size,
    /// Measure compression with all files, which may take minutes
    #[arg(long, conflicts_with = "sample")]
    full: bool,
    /// Show pulls and updates of this client
    #[arg(long, value_name = "CLIENT", value_parser = client::model(), default_value = "docker")]
    client: &'static ClientModel,
    /// Use this platform if the image has several
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
        let budget = bench::budget(global.memory.0);
        let open = |image| open_one(image, self.platform.as_ref(), &budget, global);
        let versions = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        let names: Vec<_> = self.images.iter().map(ToString::to_string).collect();
        let options = PageOptions {
            sample: if self.full { u64::MAX } else { self.sample.0 },
            client: self.client,
        };
        let text = page::page(&versions, &names, &options, &splitting, &budget, terminal)?;
        output::write(&self.output, |out| Ok(out.write_all(text.as_bytes())?))?;
        let value = || {
            json!({
                "schema": SCHEMA, "input": names.last(),
                "output": self.output.display().to_string(), "bytes": text.len(),
            })
        };
        output::print_result(global, output::is_standard(&self.output), value, || {
            format!("wrote {}: {}\n", self.output.display(), ByteSize(text.len() as u64))
        })
    }
}
