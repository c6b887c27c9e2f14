//! `relayer report`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::load::open_one;
use super::{Global, Outcome, output, size::Size, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::Result;
use crate::model::oci::Platform;
use crate::page;
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
    /// Measure with this many bytes of files, taken in runs of 32 MiB from the whole image
    #[arg(long, value_name = "SIZE", default_value_t = Size(defaults::REPORT_SAMPLE))]
    sample: Size,
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
        let budget = splitting.budget();
        let open = |image| open_one(image, self.platform.as_ref(), &budget, global);
        let versions = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        let names: Vec<_> = self.images.iter().map(ToString::to_string).collect();
        let text = page::page(&versions, &names, self.sample.0, &splitting, &budget, terminal)?;
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
