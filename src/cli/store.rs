//! `relayer store`.

#[cfg(feature = "store")]
mod add;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Global, Outcome, terminal::Terminal};
use crate::base::defaults;
use crate::base::error::Result;
use crate::model::oci::Platform;
use crate::transport::Reference;

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: Command,
    /// Use the store in this folder [default: relayer/store in the user's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add images to the store
    Add(Add),
    /// List the images
    List,
    /// Write an image exactly as it was added, with the same digest
    Extract(Extract),
    /// Show sizes of images and what sharing saves
    Stats,
    /// Write one file of an image to standard output
    Cat {
        /// Read from this image: a name, tag or digest
        #[arg(value_name = "NAME")]
        name: String,
        /// Print the file with this path in the image, following symlinks
        #[arg(value_name = "PATH")]
        path: OsString,
        /// Use this platform if the image has several
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<Platform>,
    },
    /// Remove images from the store; `gc` reclaims their space
    Rm {
        /// Remove these images (names, tags or digests); with --keep-last, images of these repositories
        #[arg(value_name = "NAME", required_unless_present = "keep_last")]
        names: Vec<String>,
        /// Remove all images of each repository except the N that were added last
        #[arg(long, value_name = "N")]
        keep_last: Option<usize>,
        /// Print what would be removed without removing it
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove data that no image uses
    Gc {
        /// Set the zstd level of packs that are compressed again
        #[arg(long, value_name = "N", default_value_t = defaults::STORE_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
        level: i32,
    },
    /// Read everything and verify every hash
    Check {
        /// Also rebuild every blob and verify its digest
        #[arg(long)]
        blobs: bool,
        /// Remove damaged data; incomplete images can then be added again
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// Add these images; an archive or layout without a tag stands for all of its images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    /// Store the image by this name instead of its own names; only for a single image
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Add only this platform if the image has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Set the zstd level of packs
    #[arg(long, value_name = "N", default_value_t = defaults::STORE_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

#[derive(Debug, Args)]
struct Extract {
    /// Extract this image: a name, tag or digest; optional if the store has one image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Write the image to this place: a file, a folder, a registry or a client
    #[arg(short, long, value_name = "DEST", value_parser = Reference::destination)]
    output: Reference,
    /// Overwrite the output if it exists
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
    use super::{Global, Outcome, StoreArgs, Terminal};
    use crate::base::error::Result;
    use crate::store::open::without_database;

    pub(super) fn store(_: &StoreArgs, _: &Global, _: &Terminal) -> Result<Outcome> {
        Err(without_database())
    }
}

#[cfg(feature = "store")]
mod run {
    use std::ffi::OsStr;
    use std::fmt::Write as _;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use serde_json::json;

    use super::super::copy::Copy;
    use super::super::load::load_one;
    use super::super::output;
    use super::super::size::Size;
    use super::super::table::{share, table};
    use super::add::{add, named, room};
    use super::{Command, Extract, Global, Outcome, Platform, StoreArgs, Terminal};
    use crate::base::byte_size::ByteSize;
    use crate::base::defaults;
    use crate::base::error::{Context, Error, Result};
    use crate::base::text::{count, number};
    use crate::model::fileset::{InodeKind, display, parts};
    use crate::model::mtime::time;
    use crate::split::report::SCHEMA;
    use crate::store::{CheckOptions, ImageSummary, Packing, RemoveOptions, Store, default_dir};
    use crate::transport::Reference;

    pub(super) fn store(args: &StoreArgs, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let dir = args.store.clone().map_or_else(default_dir, Ok)?;
        match &args.command {
            Command::Add(args) => {
                let images = add(args, &dir, global, terminal)?;
                finish(global, json!({ "images": images }), String::new)
            }
            Command::List => list(&dir, global),
            Command::Extract(extract) => self::extract(extract, &dir, global, terminal),
            Command::Stats => stats(&dir, global),
            Command::Cat { name, path, platform } => {
                cat(name, path, platform.as_ref(), &dir, global, terminal)
            }
            Command::Rm { names, keep_last, dry_run } => {
                let (names, keep_last, dry_run) = (names.clone(), *keep_last, *dry_run);
                remove(&RemoveOptions { names, keep_last, dry_run }, &dir, global)
            }
            Command::Gc { level } => collect(*level, &dir, global, terminal),
            Command::Check { blobs, repair } => {
                let options = CheckOptions { blobs: *blobs, repair: *repair };
                check(options, &dir, global, terminal)
            }
        }
    }

    fn read(dir: &Path, global: &Global) -> Result<Store> {
        Store::open_read(dir, &global.budget())
    }

    fn list(dir: &Path, global: &Global) -> Result<Outcome> {
        let images = read(dir, global)?.list()?;
        finish(global, json!({ "images": images }), || {
            let mut rows = table(&["name", "digest", "added", "layers", "size"], 3);
            for image in &images {
                let size = ByteSize(image.bytes).to_string();
                rows.add_row([
                    all_names(image),
                    image.digest.short(),
                    image.added.iter().max().map_or_else(String::new, |at| time(*at)),
                    number(image.layers),
                    match image.missing {
                        0 => size,
                        n => format!("{size}, {} missing", count(n, "blob")),
                    },
                ]);
            }
            rows.fit(global.layout())
        })
    }

    fn extract(
        args: &Extract,
        dir: &Path,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let source = Reference::in_store(dir, args.name.clone());
        let (destination, force) = (args.output.clone(), args.force);
        // Threads that read packs need memory, too.
        let packing = Packing::new(defaults::STORE_LEVEL, global.memory.0, global.threads());
        let threads = Some(packing.threads as u16);
        let global = &Global { threads, memory: Size(packing.spool), ..global.clone() };
        Copy { source, destination, platform: None, force }.run(global, terminal)
    }

    fn stats(dir: &Path, global: &Global) -> Result<Outcome> {
        let stats = read(dir, global)?.stats(dir)?;
        finish(global, json!({ "stats": stats }), || {
            let mut rows =
                table(&["image", "blobs", "unpacked", "own", "new", "stored as blobs"], 1);
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
                        format!("{}, {}", count(image.kept, "layer"), ByteSize(image.kept_bytes))
                    },
                ]);
            }
            let mut text = rows.fit(global.layout());
            let mut rows = table(&["", "", ""], 1);
            let all = stats.blob_bytes;
            for (what, bytes) in [
                ("blobs of all images", all),
                ("blobs, each once", stats.unique_blob_bytes),
                ("unpacked, total", stats.tar_bytes),
                ("unpacked, each file once", stats.unique_file_bytes),
                ("unpacked, each chunk once", stats.unique_chunk_bytes),
                ("on disk", stats.disk_bytes),
            ] {
                let part = share(bytes, all, 1);
                rows.add_row([what.to_owned(), ByteSize(bytes).to_string(), part]);
            }
            text.push_str(&rows.fit(global.layout()));
            if stats.unused_bytes > 0 {
                let _ = writeln!(
                    text,
                    "\nno image uses {}, unpacked; `relayer store gc` reclaims most of the space",
                    ByteSize(stats.unused_bytes)
                );
            }
            text
        })
    }

    fn remove(removal: &RemoveOptions, dir: &Path, global: &Global) -> Result<Outcome> {
        let budget = global.budget();
        let store = if removal.dry_run { Store::open_read } else { Store::open_existing };
        let removed = store(dir, &budget)?.remove(removal)?;
        let value = json!({ "removed": removed, "dry_run": removal.dry_run });
        finish(global, value, || {
            let did = if removal.dry_run { "would remove" } else { "removed" };
            let mut text = String::new();
            for image in &removed {
                let _ = writeln!(text, "{did} {} {}", image.digest, all_names(image));
            }
            if removed.is_empty() {
                text.push_str("nothing to remove\n");
            }
            text
        })
    }

    fn cat(
        name: &str,
        path: &OsStr,
        platform: Option<&Platform>,
        dir: &Path,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let image = Reference::in_store(dir, Some(name.to_owned()));
        let (flat, _) = load_one(&image, platform, &global.budget(), global, terminal)?;
        let wanted = path.as_bytes();
        let relative: Vec<&[u8]> = parts(wanted).collect();
        let file = flat.rootfs.files.resolve(&relative.join(&b'/'));
        let inode = file.as_ref().and_then(|path| flat.rootfs.files.get(path));
        let place = || format!("{} of {image}", display(wanted));
        match inode.map(|inode| &inode.kind) {
            Some(InodeKind::File(file)) => {
                let copy = |out: &mut dyn io::Write| {
                    io::copy(&mut flat.rootfs.contents.open(file), out)
                        .with_context(place)
                        .map(drop)
                };
                output::write(Path::new("-"), copy)?;
                Ok(Outcome::Done)
            }
            Some(other) => {
                let what = format!("it is a {}, not a regular file", other.word());
                Err(Error::refused(what).context(place()))
            }
            None => Err(Error::not_found("the image has no such file").context(place())),
        }
    }

    fn collect(level: i32, dir: &Path, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let packing = Packing::new(level, global.memory.0, global.threads());
        let (budget, pool) = room(packing)?;
        let collected = pool.install(|| Store::collect_garbage(dir, packing, &budget, terminal))?;
        finish(global, json!({ "collected": collected }), || {
            format!(
                "freed {}: {}, {} unpacked; {} left\n",
                ByteSize(collected.before_bytes.saturating_sub(collected.after_bytes)),
                count(collected.chunks, "chunk"),
                ByteSize(collected.chunk_bytes),
                ByteSize(collected.after_bytes)
            )
        })
    }

    fn check(
        options: CheckOptions,
        dir: &Path,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let packing = Packing::new(defaults::STORE_LEVEL, global.memory.0, global.threads());
        let (budget, pool) = room(packing)?;
        let checked = pool.install(|| Store::check(dir, options, &budget, terminal))?;
        finish(global, json!({ "checked": checked }), || {
            let mut text = String::new();
            for line in checked.problems.iter().chain(&checked.repaired) {
                let _ = writeln!(text, "{line}");
            }
            let blobs = if options.blobs {
                format!(", {}", count(checked.blobs, "blob"))
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "{}, {} unpacked, {}{blobs}: {}",
                count(checked.chunks, "chunk"),
                ByteSize(checked.chunk_bytes),
                count(checked.images, "image"),
                match checked.problems.len() {
                    0 => "no damage".to_owned(),
                    n if options.repair => format!(
                        "{} repaired, {} to be added again",
                        count(n as u64 - checked.incomplete, "problem"),
                        count(checked.incomplete, "image")
                    ),
                    n => format!(
                        "{}; `relayer store check --repair` removes damaged data",
                        count(n as u64, "problem")
                    ),
                }
            );
            text
        })?;
        let fine = checked.problems.is_empty() || options.repair && checked.incomplete == 0;
        Ok(if fine { Outcome::Done } else { Outcome::Differs })
    }

    fn all_names(image: &ImageSummary) -> String {
        let escape = |name: &String| name.escape_debug().to_string();
        let names = image.names.iter().map(escape);
        let former = image.former.iter().map(|name| format!("(was {})", escape(name)));
        names.chain(former).collect::<Vec<_>>().join(", ")
    }

    /// Prints a result, as JSON or as text.
    fn finish(
        global: &Global,
        mut value: serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> Result<Outcome> {
        value["schema"] = SCHEMA.into();
        output::print_result(global, false, || value, text)
    }
}
