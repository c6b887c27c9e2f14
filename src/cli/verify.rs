//! `relayer verify`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::{Global, Outcome, print, print_json, terminal::Terminal};
use crate::content::Budget;
use crate::error::{Context, Error, Result};
use crate::fileset::FileSet;
use crate::flatten::flatten;
use crate::layer::{Limits, MAX_ENTRIES};
use crate::oci::Platform;
use crate::report::SCHEMA;
use crate::transport::{Reference, open};
use crate::verify::compare;

/// So many differences are listed for people; `--json` has them all.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// One image
    #[arg(value_name = "A")]
    first: Reference,
    /// The other
    #[arg(value_name = "B")]
    second: Reference,
    /// Which platform, where an index has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

impl Verify {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let first = self.load(&self.first, global, terminal)?;
        let second = self.load(&self.second, global, terminal)?;
        let mut differences = Vec::new();
        let names = |images: &[(Platform, FileSet)]| {
            images.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>().join(", ")
        };
        if first.len() != second.len() {
            return Err(Error::not_found(format!(
                "{} has {}, {} has {}; --platform picks one",
                self.first,
                names(&first),
                self.second,
                names(&second)
            )));
        }
        let mut paths = 0;
        for (platform, a) in &first {
            // A single image is compared whatever it says it runs on.
            let b =
                match second.as_slice() {
                    [(_, b)] => b,
                    all => all.iter().find(|(p, _)| p == platform).map(|(_, b)| b).ok_or_else(
                        || Error::not_found(format!("{} has no image for {platform}", self.second)),
                    )?,
                };
            paths += a.entries().len();
            differences.extend(compare(a, b));
        }
        let same = differences.is_empty();
        if global.json {
            print_json(&json!({
                "schema": SCHEMA, "same": same, "paths": paths, "differences": differences,
            }))?;
        } else if !global.quiet {
            let mut text = String::new();
            for d in differences.iter().take(SHOWN) {
                let _ = writeln!(text, "{d}");
            }
            let _ = match differences.len() {
                0 => writeln!(text, "same: {paths} paths"),
                n if n > SHOWN => writeln!(text, "… {n} differences; --json lists all"),
                n => writeln!(text, "{n} differences"),
            };
            print(text.as_bytes())?;
        }
        Ok(if same { Outcome::Done } else { Outcome::Differs })
    }

    fn load(
        &self,
        image: &Reference,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Vec<(Platform, FileSet)>> {
        // Contents are compared by their hash; only archives from a pipe must be kept.
        let budget = Budget::new(global.memory.0, None);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(global.threads())
            .build()
            .map_err(|e| Error::refused(format!("starting threads: {e}")))?;
        let opened = open::open(image, self.platform.as_ref(), &budget, global.max_size.0)?;
        let sets = opened.images.iter().map(|i| {
            let limits = Limits::new(global.max_size.0, MAX_ENTRIES);
            let flat = pool.install(|| flatten(&i.layers, None, &limits, terminal))?;
            Ok((i.platform.clone(), flat.files))
        });
        sets.collect::<Result<_>>().context(|| format!("reading {image}"))
    }
}
