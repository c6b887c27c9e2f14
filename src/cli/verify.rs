//! `relayer verify`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::load::load;
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::error::{Context, Result};
use crate::base::text::count;
use crate::compare::verify::{Verification, verify};
use crate::layers::flatten::Keep;
use crate::model::oci::Platform;
use crate::plan::update::CarriedOver;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

/// Number of differences in the list; `--json` has all.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Compare this image
    #[arg(value_name = "A")]
    first: Reference,
    /// Compare it with this image
    #[arg(value_name = "B")]
    second: Reference,
    /// Ignore what `split --previous` carries over: timestamps of files in B, except those that other
    /// files record, and the timestamps in compiled Python files
    #[arg(long, value_name = "WHAT", value_parser = ["carried-mtimes"])]
    allow: Option<String>,
    /// Use this platform if the images have several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

impl Verify {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let budget = global.budget();
        let read =
            |image, keep| load(image, self.platform.as_ref(), keep, &budget, global, terminal);
        let allowed = self.allow.is_some();
        let mut first = read(&self.first, if allowed { Keep::Contents } else { Keep::Index })?;
        let second = read(&self.second, Keep::Index)?;
        let found = verify(&mut first, &second, allowed)
            .with_context(|| format!("comparing {} and {}", self.first, self.second))?;
        let value = || {
            json!({
                "schema": SCHEMA, "same": found.is_same(), "paths": found.paths,
                "carried_over": found.carried_over, "held": found.held,
                "differences": found.differences,
            })
        };
        let Verification { paths, carried_over, held, differences } = &found;
        output::print_result(global, false, value, || {
            let mut text = String::new();
            for d in differences.iter().take(SHOWN) {
                let _ = writeln!(text, "{d}");
            }
            let _ = match differences.len() {
                0 if *carried_over == CarriedOver::default() => {
                    writeln!(text, "same: {}", count(*paths as u64, "path"))
                }
                0 => writeln!(
                    text,
                    "same: {}, ignoring the timestamps of {} and {}, and those in {}",
                    count(*paths as u64, "path"),
                    count(carried_over.files, "file"),
                    count(carried_over.directories, "directory"),
                    count(carried_over.bytecode, "compiled Python file")
                ),
                n if n > SHOWN => {
                    writeln!(text, "… {}; --json lists all", count(n as u64, "difference"))
                }
                n => writeln!(text, "{}", count(n as u64, "difference")),
            };
            if let Some(note) = held.note().filter(|_| !found.is_same()) {
                let _ = writeln!(text, "{note}");
            }
            if !found.is_same() && !allowed && differences.iter().all(|d| d.what == "mtime") {
                text.push_str("only times differ; --allow carried-mtimes ignores those that --previous carried over\n");
            }
            text
        })?;
        Ok(if found.is_same() { Outcome::Done } else { Outcome::Differs })
    }
}
