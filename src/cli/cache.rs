//! `relayer cache`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::size::Size;
use super::{Global, Outcome, output};
use crate::base::byte_size::ByteSize;
use crate::base::error::Result;
use crate::base::text::count;
use crate::split::report::SCHEMA;

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove the blobs that were not used for longest, and what unfinished downloads left
    Prune {
        /// Keep at most this many bytes
        #[arg(long, value_name = "SIZE", default_value_t = Size(0))]
        keep: Size,
    },
}

impl CacheArgs {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome> {
        let Command::Prune { keep } = &self.command;
        let pruned = global.registry.whole_cache()?.prune(keep.0)?;
        let value = || json!({ "schema": SCHEMA, "cache": pruned });
        output::print_result(global, false, value, || {
            format!(
                "removed {} ({}), kept {} ({})\n",
                count(pruned.removed, "blob"),
                ByteSize(pruned.removed_bytes),
                count(pruned.kept, "blob"),
                ByteSize(pruned.kept_bytes)
            )
        })
    }
}
