//! `relayer history`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Global, Outcome, terminal::Terminal};
use crate::base::defaults;
use crate::base::error::Result;
use crate::model::oci::Platform;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(subcommand)]
    command: Command,
    /// Use the history in this folder [default: relayer/history in the user's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    history: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add images, oldest first, and compare each with the one before it
    Add(Box<Add>),
    /// Show what changes most often and least often
    Show(Show),
}

#[derive(Debug, Args)]
struct Add {
    /// Add these images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    /// Continue the sequence with this name [default: the image's name without its tag]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Use this platform if the image has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

#[derive(Debug, Args)]
struct Show {
    /// Show this number of rows in each list
    #[arg(long, value_name = "N", default_value_t = defaults::HISTORY_ROWS)]
    top: usize,
}

impl HistoryArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        run::history(self, global, terminal)
    }
}

/// Reads the rates of change from a history.
pub(super) use run::learned;

#[cfg(not(feature = "store"))]
mod run {
    use std::path::Path;

    use super::{Global, HistoryArgs, Outcome, Terminal};
    use crate::base::error::Result;
    use crate::plan::history::Rates;
    use crate::store::open::without_database;

    pub(in crate::cli) fn learned(_: &Path) -> Result<Rates> {
        Err(without_database())
    }

    pub(super) fn history(_: &HistoryArgs, _: &Global, _: &Terminal) -> Result<Outcome> {
        Err(without_database())
    }
}

#[cfg(feature = "store")]
mod run {
    use std::fmt::Write as _;
    use std::path::Path;

    use serde_json::json;

    use super::super::load::load_one;
    use super::super::output;
    use super::super::table::{Layout, share, table};
    use super::{Add, Command, Global, HistoryArgs, Outcome, Show, Terminal};
    use crate::base::error::{Error, Result};
    use crate::base::text::{count, number};
    use crate::layers::flatten::Flattened;
    use crate::model::fileset::display;
    use crate::plan::analyze::{Component, Learned, analyze};
    use crate::plan::chance_of_change;
    use crate::plan::history::{ComponentRate, History, Rates, Snapshot, default_dir};
    use crate::split::report::SCHEMA;
    use crate::transport::{Reference, name};

    pub(in crate::cli) fn learned(dir: &Path) -> Result<Rates> {
        History::open_read(dir)?.learned()
    }

    pub(super) fn history(
        args: &HistoryArgs,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let dir = args.history.clone().map_or_else(default_dir, Ok)?;
        match &args.command {
            Command::Add(add) => self::add(add, &dir, global, terminal),
            Command::Show(show) => self::show(show, &dir, global),
        }
    }

    fn add(args: &Add, dir: &Path, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        // The lock is acquired before anything is read.
        let history = History::open(dir)?;
        let mut all = Vec::new();
        for image in &args.images {
            let (name, loaded) = read(args, image, global, terminal)?;
            let analysis = analyze(&loaded.rootfs, &[])?;
            let snapshot = Snapshot::new(&loaded.rootfs.files, &analysis);
            let added = history.add(&name, &image.to_string(), &snapshot)?;
            output::print_step(global, || {
                if added.known {
                    return format!("{image}: already in {name}\n");
                }
                format!(
                    "{image}: number {} of {name}, {} of {} changed\n",
                    added.number + 1,
                    number(added.changed),
                    count(added.seen, "component")
                )
            })?;
            all.push(json!({ "image": image.to_string(), "sequence": name, "added": added }));
        }
        let value = || json!({ "schema": SCHEMA, "images": all });
        output::print_result(global, false, value, String::new)
    }

    /// Reads an image and the name of its sequence.
    fn read(
        args: &Add,
        image: &Reference,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<(String, Flattened)> {
        let (flat, names) =
            load_one(image, args.platform.as_ref(), &global.budget(), global, terminal)?;
        let name = args.name.clone().or_else(|| names.iter().find_map(|n| name::repository(n)));
        let name = name.filter(|n| !n.is_empty() && !n.contains('\0')).ok_or_else(|| {
            Error::refused(format!(
                "{image} has no name; use --name to name the sequence that it continues"
            ))
        })?;
        Ok((name, flat))
    }

    fn show(args: &Show, dir: &Path, global: &Global) -> Result<Outcome> {
        let history = History::open_read(dir)?;
        let sequences = history.sequences()?;
        let mut rates: Vec<(ComponentRate, f64)> = history
            .rates()?
            .into_iter()
            .filter(|r| r.learned.seen > 0)
            .map(|r| {
                let (name, kind, learned) = (r.name.clone(), r.kind, r.learned);
                (r, chance_of_change(&Component { name, kind, churn: None, rapid: false, learned }))
            })
            .collect();
        // The sort is stable: names stay in order.
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        let files = history.changed_files()?;
        let value = || {
            let components: Vec<_> = rates
                .iter()
                .map(|(rate, chance)| json!({ "component": rate, "chance": chance }))
                .collect();
            let files: Vec<_> = files
                .iter()
                .map(|(path, learned)| json!({ "path": display(path), "learned": learned }))
                .collect();
            let sequences: Vec<_> =
                sequences.iter().map(|(name, n)| json!({ "name": name, "images": n })).collect();
            json!({
                "schema": SCHEMA, "sequences": sequences, "components": components, "files": files,
            })
        };
        output::print_result(global, false, value, || {
            if sequences.is_empty() {
                return format!("the history in {} is empty\n", dir.display());
            }
            summary(&sequences, &rates, &files, args.top, global.layout())
        })
    }

    /// Formats the sequences, the least and the most stable components, and the files that changed
    /// most often, `top` of each.
    fn summary(
        sequences: &[(String, u64)],
        rates: &[(ComponentRate, f64)],
        files: &[(Vec<u8>, Learned)],
        top: usize,
        layout: Layout,
    ) -> String {
        let mut text = String::new();
        for (name, images) in sequences {
            let _ = writeln!(text, "{name}: {}", count(*images, "image"));
        }
        let rows = |title: &str, rates: &mut dyn Iterator<Item = &(ComponentRate, f64)>| {
            let mut rows = table(&[title, "changed", "of", "chance per release"], 1);
            for (rate, chance) in rates {
                rows.add_row([
                    rate.name.clone(),
                    number(rate.learned.changed),
                    number(rate.learned.seen),
                    format!("{:.0} %", 100.0 * chance),
                ]);
            }
            format!("\n{}", rows.fit(layout))
        };
        text.push_str(&rows("least stable", &mut rates.iter().take(top)));
        text.push_str(&rows("most stable", &mut rates.iter().rev().take(top)));
        if !files.is_empty() {
            let mut rows = table(&["files that changed most", "changed", "of", ""], 1);
            for (path, learned) in files.iter().take(top) {
                let share = share(learned.changed, learned.seen, 0);
                rows.add_row([display(path), number(learned.changed), number(learned.seen), share]);
            }
            let _ = write!(text, "\n{}", rows.fit(layout));
        }
        text
    }
}
