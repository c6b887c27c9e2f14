//! `relayer delta` and `relayer apply`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::load::{self, open, open_one};
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::delta::{self, Delta, DeltaStats, ImageContents};
use crate::layers::flatten::{self, Keep};
use crate::model::content::{Budget, DiskFile, Source};
use crate::model::oci::Platform;
use crate::split::report::SCHEMA;
use crate::transport::Reference;
use crate::transport::files::open_regular;
use crate::transport::image::Image;
use crate::transport::open::stdin;

/// Memory for the old image's layers while a delta is applied, in bytes. The rest goes to a temporary
/// file.
const SPOOL: u64 = 16 << 20;

#[derive(Debug, Args)]
pub(super) struct DeltaArgs {
    /// Start from this image, which the other side has
    #[arg(value_name = "OLD")]
    old: Reference,
    /// Describe how to make this image from it
    #[arg(value_name = "NEW")]
    new: Reference,
    /// Write the delta to this file; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Use this platform if the images have several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Set the zstd level for contents that are not copied from OLD; it does not affect patches of
    /// programs
    #[arg(long, value_name = "N", default_value_t = defaults::DELTA_LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Overwrite the output if it exists
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// Read this image, for which the delta was made
    #[arg(value_name = "OLD")]
    old: Reference,
    /// Apply this delta; - for standard input
    #[arg(value_name = "FILE")]
    delta: PathBuf,
    /// Write the new image to this place: a file, a folder, a registry or a client
    #[arg(short, long, value_name = "DEST", value_parser = Reference::destination)]
    output: Reference,
    /// Overwrite the output if it exists
    #[arg(short, long)]
    force: bool,
}

impl DeltaArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let start = Instant::now();
        output::check(&self.output, self.force, &[&self.old, &self.new])?;
        let budget = delta::budget(global.memory.0);
        let open_one = |image| open_one(image, self.platform.as_ref(), &budget, global);
        let (old, new) = (open_one(&self.old)?, open_one(&self.new)?);
        let stats = global.pool()?.install(|| {
            let (old, new_image) = (&old.images[0], &new.images[0]);
            let (keep, max_size) = (Keep::Contents, global.max_size.0);
            let old_read = flatten::read(&old.layers, keep, max_size, &budget, terminal)
                .with_context(|| format!("reading {}", self.old))?;
            let new_read = flatten::read(&new_image.layers, keep, max_size, &budget, terminal)
                .with_context(|| format!("reading {}", self.new))?;
            let mut stats = DeltaStats::default();
            output::write(&self.output, |out| {
                let old = ImageContents { image: old, layers: &old_read.layers };
                let new_contents = ImageContents { image: new_image, layers: &new_read.layers };
                let level = self.level;
                stats = delta::make(old, new_contents, &new.names, level, &budget, out, terminal)?;
                Ok(())
            })?;
            Ok::<_, Error>(stats)
        })?;
        if stats.other_blobs > 0 {
            terminal.note(&format!(
                "can't reproduce the compressed bytes of {}: the result has other blobs with the same \
                 content",
                count(stats.other_blobs, "layer")
            ));
        }
        let seconds = start.elapsed().as_secs_f64();
        let value = json!({
            "schema": SCHEMA, "old": self.old.to_string(), "new": self.new.to_string(),
            "output": self.output.display().to_string(), "delta": stats, "seconds": seconds,
        });
        output::print_result(
            global,
            output::is_standard(&self.output),
            || value,
            || {
                format!(
                    "wrote {}: {}, {seconds:.1} s\n{} unchanged; files in the others: {} copied from \
                     the old image, {} new or changed\n",
                    self.output.display(),
                    ByteSize(stats.bytes),
                    count(stats.same_layers, "layer"),
                    ByteSize(stats.copied),
                    ByteSize(stats.changed)
                )
            },
        )
    }
}

impl Apply {
    /// Returns the error for a file that is not a delta; another one if OLD is one.
    fn swapped(&self, e: Error) -> Error {
        let old = self.old.path().filter(|_| e.kind() == ErrorKind::Malformed);
        let opened = old.and_then(|old| DiskFile::new(open_regular(old).ok()?).ok());
        match opened.map(|file| Delta::open(Arc::new(file))) {
            Some(Ok(_)) => Error::refused(format!(
                "this is not a delta, but {} is: the delta comes second, `relayer apply {} {}`",
                self.old,
                self.delta.display(),
                self.old
            )),
            _ => e,
        }
    }

    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let start = Instant::now();
        let destination = load::destination(
            self.output.clone(),
            self.force,
            &[&self.old, &Reference::file(&self.delta)],
            global,
        )?;
        let place = || format!("reading {}", self.delta.display());
        let budget =
            Budget::with_reserved(global.memory.0, global.memory.0.saturating_sub(SPOOL), None);
        let file = || -> Result<Source> {
            if output::is_standard(&self.delta) {
                return stdin(&budget, global.max_size.0);
            }
            Ok(Arc::new(DiskFile::new(open_regular(&self.delta)?)?))
        };
        let delta =
            file().and_then(Delta::open).map_err(|e| self.swapped(e)).with_context(place)?;
        let opened = open(&self.old, None, &budget, global)?;
        let fits =
            |image: &&Image| image.layers.iter().map(|l| l.diff_id).eq(delta.old().iter().copied());
        let old = opened.images.iter().find(fits).ok_or_else(|| {
            Error::mismatch(format!(
                "{} is not the image that {} was made for: their layers differ",
                self.old,
                self.delta.display()
            ))
        })?;
        let (bundle, stats) = global.pool()?.install(|| {
            let read =
                flatten::read(&old.layers, Keep::Contents, global.max_size.0, &budget, terminal)
                    .with_context(|| format!("reading {}", self.old))?;
            let workers = rayon::current_num_threads() as u32;
            delta::apply(&delta, old, &read.layers, workers, global.max_size.0, &budget, terminal)
                .with_context(|| format!("applying {}", self.delta.display()))
        })?;
        destination.write(&bundle, terminal)?;
        let (digest, seconds) = (delta.new_manifest(), start.elapsed().as_secs_f64());
        let value = json!({
            "schema": SCHEMA, "old": self.old.to_string(), "output": self.output.to_string(),
            "digest": digest, "rebuilt": stats, "seconds": seconds,
        });
        output::print_result(
            global,
            self.output.is_standard(),
            || value,
            || format!("wrote {}\nimage {digest}, {seconds:.1} s\n", self.output),
        )
    }
}
