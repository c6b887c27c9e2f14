//! `relayer copy`.

use clap::Args;
use serde_json::json;

use super::load::{self, place};
use super::{Global, Outcome, output, summary, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::error::{Context, Result};
use crate::base::progress::Progress;
use crate::model::oci::Platform;
use crate::split::report::SCHEMA;
use crate::store::open::tag;
use crate::transport::{Reference, Transport};

#[derive(Debug, Args)]
pub(super) struct Copy {
    /// Copy this image
    #[arg(value_name = "IMAGE")]
    pub(super) source: Reference,
    /// Write it to this file, folder or registry
    #[arg(value_name = "DEST", value_parser = Reference::destination)]
    pub(super) destination: Reference,
    /// Copy only this platform of a multi-platform image
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Option<Platform>,
    /// Overwrite the destination if it exists
    #[arg(short, long)]
    pub(super) force: bool,
}

impl Copy {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let destination =
            load::destination(self.destination.clone(), self.force, &[&self.source], global)?;
        let budget = global.budget();
        let place = place(&self.source, &budget, global)?;
        let to_docker = self.destination.transport.is_some_and(Transport::is_for_docker);
        let pool = global.pool()?;
        let (tag, platform) = (tag(&self.source), self.platform.as_ref());
        let (bundle, notes) = pool
            .install(|| place.unchanged(tag, platform, to_docker, global.max_size.0))
            .with_context(|| format!("reading {}", self.source))?;
        for note in &notes {
            terminal.note(note);
        }
        let push = pool.install(|| destination.write(&bundle, terminal))?;
        let digest = bundle.root.as_ref().map(|root| root.digest);
        let value = || {
            json!({
                "schema": SCHEMA, "input": self.source.to_string(),
                "output": self.destination.to_string(), "digest": digest, "bytes": bundle.bytes(),
                "push": push,
            })
        };
        output::print_result(global, self.destination.is_standard(), value, || {
            let digest = digest.map_or_else(String::new, |d| d.to_string());
            let size = ByteSize(bundle.bytes());
            let pushed = push.as_ref().map(summary::pushed).unwrap_or_default();
            format!("wrote {} ({size})\n{pushed}image {digest}\n", self.destination)
        })
    }
}
