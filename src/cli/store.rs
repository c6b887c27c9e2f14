//! `relayer store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Global, Outcome, terminal::Terminal};
use crate::error::Result;
use crate::oci::Platform;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: Command,
    /// The store's folder [default: relayer/store in the user's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add images
    Add(Add),
    /// List the images
    List,
    /// Write an image as it was added, with the same digest
    Extract(Extract),
    /// Show what is stored, and what sharing saves
    Stats,
    /// Take images out; `gc` frees their room
    Rm {
        /// Names, tags or digests
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Free the room of what no image uses
    Gc {
        /// Level of zstd for what is compressed again
        #[arg(long, value_name = "N", default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
        level: i32,
    },
    /// Read everything and verify every hash
    Check {
        /// Make every blob as well, and verify its digest
        #[arg(long)]
        blobs: bool,
    },
}

/// docs/STORE.md has sizes and times of others.
const LEVEL: i32 = 12;

#[derive(Debug, Args)]
struct Add {
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    /// A name for it, in the place of those that it has; for one image
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Only this platform of several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Level of zstd
    #[arg(long, value_name = "N", default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

#[derive(Debug, Args)]
struct Extract {
    /// Name, tag or digest; may be left out where there is one image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Where to write it
    #[arg(short, long, value_name = "DEST", value_parser = Reference::destination)]
    output: Reference,
    /// Replace the output if it is there
    #[arg(short, long)]
    force: bool,
}

impl StoreArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        run::store(self, global, terminal)
    }
}

#[cfg(not(feature = "store"))]
mod run {
    use super::super::load::without_database;
    use super::{Global, Outcome, StoreArgs, Terminal};
    use crate::error::Result;

    pub(super) fn store(_: &StoreArgs, _: &Global, _: &Terminal) -> Result<Outcome> {
        Err(without_database())
    }
}

#[cfg(feature = "store")]
mod run {
    use std::fmt::Write as _;
    use std::path::Path;
    use std::time::Instant;

    use serde_json::json;

    use super::super::copy::Copy;
    use super::super::load::open;
    use super::super::output;
    use super::super::table::{lines, number, share, table};
    use super::{Add, Command, Extract, Global, Outcome, StoreArgs, Terminal};
    use crate::content::Budget;
    use crate::digest::Digest;
    use crate::error::{Context, Error, Result};
    use crate::progress::Progress;
    use crate::report::SCHEMA;
    use crate::size::ByteSize;
    use crate::store::{Options, Store, default_dir};
    use crate::transport::{Reference, Transport};

    pub(super) fn store(args: &StoreArgs, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let dir = args.store.clone().map_or_else(default_dir, Ok)?;
        match &args.command {
            Command::Add(add) => self::add(add, &dir, global, terminal),
            Command::List => list(&dir, global),
            Command::Extract(extract) => self::extract(extract, &dir, global, terminal),
            Command::Stats => stats(&dir, global),
            Command::Rm { names } => remove(names, &dir, global),
            Command::Gc { level } => collect(*level, &dir, global, terminal),
            Command::Check { blobs } => check(*blobs, &dir, global, terminal),
        }
    }

    fn add(args: &Add, dir: &Path, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        if args.images.len() > 1 && !args.name.is_empty() {
            return Err(Error::refused("--name is for one image; add them one by one"));
        }
        // The lock is had before anything is read.
        let budget = Budget::new(global.memory.0, None);
        let store = Store::open(dir, &budget)?;
        let options = Options { level: args.level, max_size: global.max_size.0 };
        let names = (!args.name.is_empty()).then_some(args.name.as_slice());
        let mut all = Vec::new();
        for image in &args.images {
            let start = Instant::now();
            let opened = open(image, args.platform.as_ref(), &budget, global)?;
            opened.notes.iter().for_each(|note| terminal.note(note));
            let added = global
                .pool()?
                .install(|| store.add(&opened, names, options, &budget, terminal))
                .context(|| format!("adding {image}"))?;
            if added.kept > 0 {
                terminal.note(&format!(
                    "{} layers can't be made again of their files, and are kept as they are",
                    added.kept
                ));
            }
            for (name, digest) in &added.moved {
                terminal.note(&format!(
                    "{name} was the name of {0} until now; that is still there as {0}",
                    digest.short()
                ));
            }
            if !global.json && !global.quiet {
                let what = if added.known {
                    "was there already".to_owned()
                } else {
                    format!(
                        "{} of blobs; {} unpacked are new, stored in {}; {:.1} s",
                        ByteSize(added.blob_bytes),
                        ByteSize(added.new_bytes),
                        ByteSize(added.stored_bytes),
                        start.elapsed().as_secs_f64()
                    )
                };
                output::say(&format!("{}: {what}\n", named(&added.names, added.digest)))?;
            }
            all.push(json!({
                "image": image.to_string(), "added": added,
                "seconds": start.elapsed().as_secs_f64(),
            }));
        }
        finish(global, json!({ "images": all }), String::new)
    }

    fn read(dir: &Path, global: &Global) -> Result<Store> {
        Store::open_read(dir, &Budget::new(global.memory.0, None))
    }

    fn list(dir: &Path, global: &Global) -> Result<Outcome> {
        let images = read(dir, global)?.list()?;
        finish(global, json!({ "images": images }), || {
            let mut rows = table(&["name", "digest", "layers", "size"], 2);
            for image in &images {
                rows.add_row([
                    image.names.join(", "),
                    image.digest.short(),
                    number(image.layers),
                    ByteSize(image.bytes).to_string(),
                ]);
            }
            lines(&rows)
        })
    }

    fn extract(
        args: &Extract,
        dir: &Path,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let (path, tag) = (Some(dir.to_owned()), args.name.clone());
        let source = Reference { transport: Some(Transport::Store), path, tag };
        let (destination, force) = (args.output.clone(), args.force);
        Copy { source, destination, platform: None, force }.run(global, terminal)
    }

    fn stats(dir: &Path, global: &Global) -> Result<Outcome> {
        let stats = read(dir, global)?.stats(dir)?;
        finish(global, json!({ "stats": stats }), || {
            let mut rows = table(&["image", "blobs", "unpacked", "own", "new", "kept"], 1);
            for image in &stats.images {
                rows.add_row([
                    named(&image.names, image.digest),
                    ByteSize(image.blob_bytes).to_string(),
                    ByteSize(image.tar_bytes).to_string(),
                    ByteSize(image.own_chunk_bytes).to_string(),
                    ByteSize(image.new_chunk_bytes).to_string(),
                    if image.kept == 0 {
                        String::new()
                    } else {
                        format!("{} layers, {}", image.kept, ByteSize(image.kept_bytes))
                    },
                ]);
            }
            let mut text = lines(&rows);
            let mut rows = table(&["", "", ""], 1);
            let all = stats.blob_bytes;
            for (what, bytes) in [
                ("blobs of all images", all),
                ("blobs, each once", stats.unique_blob_bytes),
                ("unpacked, in all", stats.tar_bytes),
                ("unpacked, each file once", stats.unique_file_bytes),
                ("unpacked, each chunk once", stats.unique_chunk_bytes),
                ("on disk", stats.disk_bytes),
            ] {
                let part = share(bytes, all, 1);
                rows.add_row([what.to_owned(), ByteSize(bytes).to_string(), part]);
            }
            text.push_str(&lines(&rows));
            if stats.unused_bytes > 0 {
                let _ = writeln!(
                    text,
                    "\n{} unpacked are of no image; `relayer store gc` frees most of their room",
                    ByteSize(stats.unused_bytes)
                );
            }
            text
        })
    }

    fn remove(names: &[String], dir: &Path, global: &Global) -> Result<Outcome> {
        let budget = Budget::new(global.memory.0, None);
        let removed = Store::open(dir, &budget)?.remove(names)?;
        finish(global, json!({ "removed": removed }), || {
            removed.iter().fold(String::new(), |mut text, digest| {
                let _ = writeln!(text, "removed {digest}");
                text
            })
        })
    }

    fn collect(level: i32, dir: &Path, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let budget = Budget::new(global.memory.0, None);
        let collected = global.pool()?.install(|| Store::collect(dir, level, &budget, terminal))?;
        finish(global, json!({ "collected": collected }), || {
            format!(
                "freed {}: {} chunks of {} unpacked; {} left\n",
                ByteSize(collected.before_bytes.saturating_sub(collected.after_bytes)),
                number(collected.chunks),
                ByteSize(collected.chunk_bytes),
                ByteSize(collected.after_bytes)
            )
        })
    }

    fn check(blobs: bool, dir: &Path, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let store = read(dir, global)?;
        let checked = global.pool()?.install(|| store.check(blobs, terminal))?;
        finish(global, json!({ "checked": checked }), || {
            let mut text = String::new();
            for problem in &checked.problems {
                let _ = writeln!(text, "{problem}");
            }
            let _ = writeln!(
                text,
                "{} chunks of {} unpacked and {} images{}: {}",
                number(checked.chunks),
                ByteSize(checked.chunk_bytes),
                number(checked.images),
                if blobs {
                    format!(" with {} blobs", number(checked.blobs))
                } else {
                    String::new()
                },
                match checked.problems.len() {
                    0 => "no damage".to_owned(),
                    n => format!("{} problems", number(n as u64)),
                }
            );
            text
        })?;
        Ok(if checked.problems.is_empty() { Outcome::Done } else { Outcome::Differs })
    }

    fn named(names: &[String], digest: Digest) -> String {
        names.first().cloned().unwrap_or_else(|| digest.short())
    }

    /// Prints what was done, as JSON or for people.
    fn finish(
        global: &Global,
        mut value: serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> Result<Outcome> {
        value["schema"] = SCHEMA.into();
        output::tell(global, false, &value, text)
    }
}
