//! `relayer verify`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use super::load::load;
use super::table::{Layout, more, table};
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::error::{Context, Error, Result};
use crate::base::text::{count, number};
use crate::compare::verify::{Allowed, Verification, verify};
use crate::layers::flatten::Keep;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::Platform;
use crate::plan::update::CarriedOver;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

/// Number of differences in the list; `-v` and `--json` have all.
const SHOWN: usize = 20;

const ONLY_TIMES: &str = "only times differ; --allow carried-mtimes ignores those that --previous \
                          carried over, and --allow mtime=RULE those of --mtime RULE\n";

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Compare this image
    #[arg(value_name = "A")]
    first: Reference,
    /// Compare it with this image
    #[arg(value_name = "B")]
    second: Reference,
    /// Ignore what a split of A changes in timestamps, and those in compiled Python files: mtime=RULE
    /// for `split --mtime RULE`, carried-mtimes for `split --previous`; repeat it if both apply
    #[arg(long, value_name = "WHAT")]
    allow: Vec<Allow>,
    /// Use this platform if the images have several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

/// Lists differences: how many of each kind, then the gravest.
fn list(found: &Verification, layout: Layout) -> String {
    if found.is_same() {
        return String::new();
    }
    let mut kinds = table(&["different", "paths"], 1);
    for (kind, paths) in found.counts() {
        kinds.add_row([kind.to_owned(), number(paths)]);
    }
    let mut text = kinds.fit(layout) + "\n";
    let mut sorted: Vec<_> = found.differences.iter().collect();
    sorted.sort_by_cached_key(|d| d.kind());
    let shown = layout.rows(SHOWN);
    for d in sorted.iter().take(shown) {
        let _ = writeln!(text, "{d}");
    }
    text + &more(sorted.len(), shown) + "\n"
}

/// A value of `--allow`.
#[derive(Debug, Clone, Copy)]
enum Allow {
    Mtime(MtimePolicy),
    Carried,
}

impl FromStr for Allow {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s.strip_prefix("mtime=") {
            Some(rule) => rule.parse().map(Self::Mtime),
            None if s == "carried-mtimes" => Ok(Self::Carried),
            None => Err(Error::malformed(format!("{s:?} is not carried-mtimes or mtime=RULE"))),
        }
    }
}

impl Verify {
    /// Returns an error if the arguments contradict each other.
    pub(super) fn check(&self) -> Result<()> {
        self.allowed().map(drop)
    }

    fn allowed(&self) -> Result<Allowed> {
        let mut allowed = Allowed { mtime: MtimePolicy::Preserve, carried: false };
        for allow in &self.allow {
            match allow {
                Allow::Carried => allowed.carried = true,
                Allow::Mtime(rule) if allowed.mtime == MtimePolicy::Preserve => {
                    allowed.mtime = *rule;
                }
                Allow::Mtime(_) => {
                    return Err(Error::refused("--allow mtime=RULE can be given only once"));
                }
            }
        }
        Ok(allowed)
    }

    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let budget = global.budget();
        let read =
            |image, keep| load(image, self.platform.as_ref(), keep, &budget, global, terminal);
        let allowed = self.allowed()?;
        let exact = self.allow.is_empty();
        let mut first = read(&self.first, if exact { Keep::Index } else { Keep::Contents })?;
        let second = read(&self.second, Keep::Index)?;
        let found = verify(&mut first, &second, allowed)
            .with_context(|| format!("comparing {} and {}", self.first, self.second))?;
        let value = || {
            let counts: BTreeMap<_, _> = found.counts().into_iter().collect();
            json!({
                "schema": SCHEMA, "same": found.is_same(), "paths": found.paths,
                "carried_over": found.carried_over, "held": found.held,
                "counts": counts, "differences": found.differences,
            })
        };
        let Verification { paths, carried_over, held, differences } = &found;
        output::print_result(global, false, value, || {
            let mut text = list(&found, global.layout());
            let mut same = count(*paths as u64, "path");
            if allowed.mtime != MtimePolicy::Preserve {
                let _ = write!(same, " with the timestamps of --mtime {}", allowed.mtime);
            }
            let _ = match differences.len() {
                0 if *carried_over == CarriedOver::default() => writeln!(text, "same: {same}"),
                0 => writeln!(
                    text,
                    "same: {same}, ignoring the timestamps of {} and {}, and those in {}",
                    count(carried_over.files, "file"),
                    count(carried_over.directories, "directory"),
                    count(carried_over.bytecode, "compiled Python file")
                ),
                n => writeln!(text, "{}", count(n as u64, "difference")),
            };
            if let Some(note) = held.note().filter(|_| !found.is_same()) {
                let _ = writeln!(text, "{note}");
            }
            if !found.is_same() && exact && differences.iter().all(|d| d.what == "mtime") {
                text.push_str(ONLY_TIMES);
            }
            text
        })?;
        Ok(if found.is_same() { Outcome::Done } else { Outcome::Differs })
    }
}
