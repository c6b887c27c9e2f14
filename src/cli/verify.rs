//! `relayer verify`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::load::{Loaded, load};
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::error::{Error, Result};
use crate::compare::verify::compare;
use crate::layers::flatten::Flattened;
use crate::model::content::Budget;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::Platform;
use crate::plan::recorded_times::Held;
use crate::plan::update::{CarriedOver, carry_over};
use crate::split::report::SCHEMA;
use crate::transport::Reference;

/// Number of differences in the list; `--json` has all.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The first image
    #[arg(value_name = "A")]
    first: Reference,
    /// The second image
    #[arg(value_name = "B")]
    second: Reference,
    /// Ignore what `split --previous` carries over: timestamps of files in B, except those that other
    /// files record, and the timestamps in compiled Python files
    #[arg(long, value_name = "WHAT", value_parser = ["carried-mtimes"])]
    allow: Option<String>,
    /// The platform to use if the images have several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

impl Verify {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let budget = global.budget();
        let read = |image, contents| {
            load(image, self.platform.as_ref(), contents, &budget, global, terminal)
        };
        let mut first = read(&self.first, self.allow.is_some())?;
        let second = read(&self.second, false)?;
        let mut differences = Vec::new();
        let names = |images: &[Loaded]| {
            images.iter().map(|i| i.platform.to_string()).collect::<Vec<_>>().join(", ")
        };
        if first.len() != second.len() {
            return Err(Error::not_found(format!(
                "{} has {}, {} has {}; choose one with --platform",
                self.first,
                names(&first),
                self.second,
                names(&second)
            )));
        }
        let mut paths = 0;
        let mut carried_over = CarriedOver::default();
        let mut held = Held::default();
        // Files that are rewritten for the comparison go to disk: memory is for the two images.
        let on_disk = Budget::new(0, None);
        let platforms =
            |images: &[Loaded]| images.iter().map(|i| i.platform.clone()).collect::<Vec<_>>();
        let (here, there) = (platforms(&first), platforms(&second));
        for (at, Loaded { platform, flat, .. }) in first.iter_mut().enumerate() {
            let b =
                Platform::counterpart(&here, at, &there).map(|b| &second[b]).ok_or_else(|| {
                    Error::not_found(format!("{} has fewer images for {platform}", self.second))
                })?;
            if self.allow.is_some() {
                // What B carried over from its previous image is what A would carry over from B.
                let policy = MtimePolicy::Preserve;
                let Flattened { files, contents, .. } = flat;
                let (one, kept) = carry_over(files, contents, &on_disk, &b.flat.files, policy)?;
                held.add(&kept);
                carried_over.files += one.files;
                carried_over.bytes += one.bytes;
                carried_over.directories += one.directories;
                carried_over.bytecode += one.bytecode;
            }
            paths += flat.files.entries().len();
            differences.extend(compare(&flat.files, &b.flat.files));
        }
        let same = differences.is_empty();
        let value = || {
            json!({
                "schema": SCHEMA, "same": same, "paths": paths, "carried_over": carried_over, "held": held,
                "differences": differences,
            })
        };
        output::print_result(global, false, value, || {
            let mut text = String::new();
            for d in differences.iter().take(SHOWN) {
                let _ = writeln!(text, "{d}");
            }
            let _ = match differences.len() {
                0 if carried_over == CarriedOver::default() => {
                    writeln!(text, "same: {paths} paths")
                }
                0 => writeln!(
                    text,
                    "same: {paths} paths, ignoring the timestamps of {} files and {} directories, \
                     and those in {} compiled Python files",
                    carried_over.files, carried_over.directories, carried_over.bytecode
                ),
                n if n > SHOWN => writeln!(text, "… {n} differences; --json lists all"),
                n => writeln!(text, "{n} differences"),
            };
            if let Some(note) = held.note().filter(|_| !same) {
                let _ = writeln!(text, "{note}");
            }
            if !same && self.allow.is_none() && differences.iter().all(|d| d.what == "mtime") {
                text.push_str("only times differ; --allow carried-mtimes ignores those that --previous carried over\n");
            }
            text
        })?;
        Ok(if same { Outcome::Done } else { Outcome::Differs })
    }
}
