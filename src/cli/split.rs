//! `relayer split` and `relayer flatten`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::base::BaseArgs;
use super::edit::{EditArgs, NameArgs};
use super::load::{self, PreviousImage, open};
use super::update::UpdateArgs;
use super::{Global, Outcome, SummaryFile, client, output, summary, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::defaults;
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::format::codec::Compression;
use crate::model::content::BlobSink;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::{Platform, media_type};
use crate::plan::analyze::ChurnRule;
use crate::plan::{MAX_LAYERS, Target};
use crate::simulate::{self, Profile};
use crate::split::report::{ImageReport, Report, SCHEMA};
use crate::split::{self, SplitOptions};
use crate::transport::bundle::Bundle;
use crate::transport::image::Image;
use crate::transport::open::check_exists;
use crate::transport::write::Destination;
use crate::transport::{ImageLocation, Reference, Transport};

#[derive(Debug, Args)]
pub(super) struct Split {
    #[arg(long, value_name = "N", conflicts_with = "layer_size",
          help = format!("Make this number of layers [default: {}, or fewer if they would be smaller than 1 MiB; with --profile, the best number]. No \
                          effect if --previous keeps layers: see --max-layers", defaults::LAYERS),
          value_parser = layers)]
    target: Option<u32>,
    /// Limit the estimated compressed size of each layer, instead of --target. If --previous keeps
    /// layers, this can only make new ones smaller
    #[arg(long, value_name = "SIZE", value_parser = layer_size)]
    layer_size: Option<ByteSize>,
    /// Optimise first pulls of this client: simulation chooses the cuts and, without --target, the
    /// number of layers. With --layer-size, or if --previous keeps layers, pulls are only simulated
    #[arg(long, value_name = "CLIENT", value_parser = client::profile())]
    profile: Option<&'static Profile>,
    #[command(flatten)]
    common: Common,
    /// Expect this number of changes per release in what PATTERN matches: `/opt/model=0.01` for paths,
    /// `npm:*=0.5` for components; may be repeated, the last match wins
    #[arg(long, value_name = "PATTERN=RATE")]
    churn: Vec<ChurnRule>,
    /// Use the rates of change that `relayer history` has learned, from this folder
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// Leave out logs and caches: /var/log, /var/cache, `uv_cache.json`
    #[arg(long)]
    drop_noise: bool,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    update: UpdateArgs,
    #[command(flatten)]
    edits: EditArgs,
}

/// Parses a number of layers.
pub(super) fn layers(text: &str) -> std::result::Result<u32, String> {
    let valid = text.parse().ok().filter(|n| (1..=MAX_LAYERS).contains(n));
    valid.ok_or_else(|| {
        format!("an image can have 1 to {MAX_LAYERS} layers, since docker refuses more")
    })
}

/// Parses the size of a layer.
fn layer_size(text: &str) -> Result<ByteSize> {
    let size: ByteSize = text.parse()?;
    match size.0 {
        0 => Err(Error::malformed("the size must be greater than 0")),
        // Less than one block of a tar archive.
        bytes @ 1..512 if text.ends_with(|c: char| c.is_ascii_digit()) => {
            Err(Error::malformed(format!("this is {bytes} bytes; did you mean {text}MB?")))
        }
        _ => Ok(size),
    }
}

#[derive(Debug, Args)]
pub(super) struct Flatten {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    edits: EditArgs,
}

/// What the options of a command add to the common ones.
struct Extra<'a> {
    base: Option<&'a BaseArgs>,
    previous: Option<PreviousImage<'a>>,
    edits: &'a EditArgs,
    /// Completes the report of each image.
    finish: &'a dyn Fn(&mut ImageReport),
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Read this image
    #[arg(value_name = "IMAGE")]
    pub(super) image: Reference,
    /// Write to this file, folder or registry [default: IMAGE's name with .relayer.tar, an archive for
    /// every client]
    #[arg(short, long, value_name = "DEST", value_parser = Reference::destination)]
    output: Option<Reference>,
    /// Compress layers with this codec; podman can download parts of zstd:chunked layers [default: zstd;
    /// for docker-archive, gzip]
    #[arg(long, value_name = "CODEC", value_parser = ["zstd", "zstd:chunked", "gzip", "none"])]
    compression: Option<String>,
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          help = format!("Set the compression level [default: zstd {}, gzip {}]",
                         defaults::ZSTD_LEVEL, defaults::GZIP_LEVEL))]
    level: Option<i32>,
    /// Set zstd's window to 2^N bytes, which every client needs in memory; some refuse more than 23
    #[arg(long, value_name = "N")]
    long: Option<u32>,
    /// Set modification times: preserve, stable (from contents, so that a rebuild changes none), zero,
    /// clamp:DATE or `clamp:SOURCE_DATE_EPOCH`; timestamps that other files record stay
    #[arg(long, value_name = "RULE", default_value = "preserve")]
    mtime: MtimePolicy,
    /// Use only this platform of a multi-platform image, as in linux/arm64 [default: all]
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Option<Platform>,
    /// Show the plan without writing anything
    #[arg(long)]
    dry_run: bool,
    /// Overwrite the output if it exists
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    summary: SummaryFile,
}

impl Split {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let profile = self.profile;
        let options = SplitOptions {
            profile,
            for_updates: self.update.previous_if_exists,
            churn: self.churn.clone(),
            history: self
                .history
                .as_deref()
                .map(super::history::learned)
                .transpose()?
                .unwrap_or_default(),
            drop_noise: self.drop_noise,
            update: self.update.options(),
            ..SplitOptions::default()
        };
        let target = |compression: &Compression| match (self.layer_size, profile) {
            (Some(size), _) => Target::Size(size.0),
            (None, None) => self.target.map_or(Target::AtMost(defaults::LAYERS), Target::Layers),
            (None, Some(profile)) => {
                let compression = simulate::CompressionKind::of(compression.media_type());
                Target::Pull { profile, compression, layers: self.target }
            }
        };
        let extra = Extra {
            base: Some(&self.base),
            previous: self.update.previous(),
            edits: &self.edits,
            finish: &|image| image.notes.extend(self.remarks(image)),
        };
        self.common.run(options, target, &extra, global, terminal)
    }

    /// Returns notes on options that had no effect.
    fn remarks(&self, image: &ImageReport) -> Vec<String> {
        let mut remarks = Vec::new();
        let base = image.base.as_ref().map_or(0, |base| base.layers);
        let above = &image.layers[base..];
        let keeps = above.iter().any(|l| l.kept);
        if keeps && self.target.is_some() {
            remarks.push(
                "--target has no effect because layers of the previous image are kept; --max-layers \
                 limits their number"
                    .to_owned(),
            );
        }
        let made = above.len();
        if let Some(target) = self.target.filter(|n| !keeps && made < *n as usize) {
            remarks.push(format!(
                "--target {target} makes only {}, since there is no more to split",
                count(made as u64, "layer")
            ));
        }
        let Some(size) = self.layer_size else { return remarks };
        if keeps {
            remarks.push(
                "--layer-size can only make new layers smaller because layers of the previous image \
                 are kept"
                    .to_owned(),
            );
        }
        let large = image.layers.iter().filter(|l| !l.kept && l.stored() > size.0);
        if let Some(largest) = large.clone().max_by_key(|l| l.stored()) {
            let most = if keeps { self.update.max_layers } else { MAX_LAYERS };
            let why = if image.layers.len() >= most as usize {
                format!("there can be no more than {}", count(most.into(), "layer"))
            } else if largest.files <= 1 {
                "a file cannot be split".to_owned()
            } else {
                "sizes are estimates until layers are compressed".to_owned()
            };
            remarks.push(format!(
                "layers larger than --layer-size {size}: {}, the largest of {}; {why}",
                large.count(),
                ByteSize(largest.stored())
            ));
        }
        remarks
    }

    /// Checks combinations of options.
    pub(super) fn check(&self) -> Result<()> {
        self.common.check(&self.edits.names)
    }
}

impl Flatten {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let (options, target) = (SplitOptions::default(), |_: &_| Target::Layers(1));
        // There is no `flatten --previous`.
        let finish = |image: &mut ImageReport| image.next_release = None;
        let extra = Extra { base: None, previous: None, edits: &self.edits, finish: &finish };
        self.common.run(options, target, &extra, global, terminal)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.common.check(&self.edits.names)
    }
}

/// What a report says about how the result came to be.
pub(super) struct Written<'a> {
    pub(super) start: Instant,
    /// `None` in a dry run.
    pub(super) destination: Option<&'a Destination>,
    pub(super) previous: Option<String>,
}

impl Common {
    fn run(
        &self,
        options: SplitOptions,
        target: impl Fn(&Compression) -> Target,
        extra: &Extra<'_>,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let (start, previous) = (Instant::now(), extra.previous);
        self.check_summary()?;
        let bases = extra.base.map(BaseArgs::references).transpose()?.unwrap_or_default();
        let inputs: Vec<&Reference> =
            std::iter::once(&self.image).chain(previous.map(|p| p.image)).chain(&bases).collect();
        let destination = self.destination(&inputs, global)?;
        let mut options = self.options(options, target, global)?;
        self.warn(&options, terminal);
        let budget = options.budget();
        let mut opened = open(&self.image, self.platform.as_ref(), &budget, global)?;
        opened.notes.iter().for_each(|note| terminal.note(note));
        let open_base = |args: &BaseArgs| {
            args.open(&opened, &bases, self.platform.as_ref(), &budget, global, terminal)
        };
        let candidates = extra.base.map(open_base).transpose()?;
        extra.edits.apply(&mut opened, terminal)?;
        let found = candidates.as_ref().map(|all| all.bases(&opened, terminal)).transpose()?;
        let platform = self.platform.as_ref();
        let open_previous = |p: PreviousImage<'_>| p.open(platform, &budget, global, terminal);
        let before = previous.map(open_previous).transpose()?.flatten();
        let previous = previous.filter(|_| before.is_some()).map(|p| p.image);
        if before.is_none() {
            // Patterns of an update that is none would match nothing.
            options.update.purge.clear();
        }
        let (bundle, mut images) = split::split_early(
            &opened,
            (before.as_ref(), &found.unwrap_or_default()),
            &options,
            &budget,
            terminal,
            destination.as_ref().map_or(&(), |target| target as &dyn BlobSink),
        )
        .with_context(|| format!("splitting {}", self.image))?;
        images.iter_mut().for_each(extra.finish);
        if let (Some(report), false) = (images.first_mut(), self.is_docker()) {
            report.notes.extend(opened.images.iter().find_map(Image::lost_to_podman));
        }
        let previous = previous.map(ToString::to_string);
        let written = Written { start, destination: destination.as_ref(), previous };
        let report = self.write(&bundle, images, written, terminal)?;
        self.print("split", &report, &report, global)
    }

    /// Checks that the file of the summary can be written, before any work begins.
    pub(super) fn check_summary(&self) -> Result<()> {
        self.summary.check()
    }

    /// Checks the destination, before any work begins; `None` in a dry run.
    pub(super) fn destination(
        &self,
        inputs: &[&Reference],
        global: &Global,
    ) -> Result<Option<Destination>> {
        if self.dry_run {
            return Ok(None);
        }
        load::destination(self.output()?, self.force, inputs, global).map(Some)
    }

    /// Writes the result, and returns the report.
    pub(super) fn write(
        &self,
        bundle: &Bundle,
        images: Vec<ImageReport>,
        written: Written<'_>,
        terminal: &Terminal,
    ) -> Result<Report> {
        images.iter().flat_map(|i| &i.notes).for_each(|note| terminal.note(note));
        let Written { start, destination, previous } = written;
        let write = |file: &Destination| file.write(bundle, terminal);
        let push = destination.map(write).transpose()?.flatten();
        Ok(Report {
            schema: SCHEMA,
            input: self.image.to_string(),
            previous,
            output: destination.map(|t| t.reference().to_string()),
            digest: bundle.root.as_ref().map(|root| root.digest),
            push,
            images,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Appends the summary to its file, and prints the result of a command: `value` as JSON.
    pub(super) fn print(
        &self,
        command: &str,
        report: &Report,
        value: &impl serde::Serialize,
        global: &Global,
    ) -> Result<Outcome> {
        self.summary.append(&format!("relayer {command} {}", self.image), &[], |layout| {
            let mut text = summary::summary(report, layout);
            for note in report.images.iter().flat_map(|image| &image.notes) {
                text.extend(["note: ", note, "\n"]);
            }
            text
        })?;
        let to_stdout = !self.dry_run && self.output()?.is_standard();
        let text = || summary::summary(report, global.layout());
        output::print_result(global, to_stdout, || value, text)
    }

    /// Completes the options of the split.
    pub(super) fn options(
        &self,
        options: SplitOptions,
        target: impl Fn(&Compression) -> Target,
        global: &Global,
    ) -> Result<SplitOptions> {
        let compression = self.compression()?;
        Ok(SplitOptions {
            target: target(&compression),
            compression,
            mtime: self.mtime,
            dry_run: self.dry_run,
            threads: global.threads(),
            memory: global.memory.0,
            max_size: global.max_size.0,
            ..options
        })
    }

    /// Returns whether the output is a docker-archive by name, or goes to docker.
    pub(super) fn is_docker(&self) -> bool {
        let transport = self.output.as_ref().and_then(|r| r.transport);
        transport.is_some_and(Transport::is_for_docker)
    }

    pub(super) fn check(&self, names: &NameArgs) -> Result<()> {
        names.check(self.output.as_ref())?;
        self.compression().map(drop)
    }

    fn compression(&self) -> Result<Compression> {
        // Users of this format may have a client without zstd.
        let default = if self.is_docker() { "gzip" } else { "zstd" };
        let name = self.compression.as_deref().unwrap_or(default);
        Compression::new(name, self.level, self.long)
    }

    pub(super) fn warn(&self, options: &SplitOptions, terminal: &Terminal) {
        if let Some(log) = self.long.filter(|log| *log > 23) {
            terminal.note(&format!(
                "--long {log}: clients need {} of memory for each layer that they unpack, and strict \
                 decoders refuse more than 8 MiB",
                ByteSize(1 << log)
            ));
        }
        if self.is_docker() && options.compression.media_type() == media_type::LAYER_ZSTD {
            terminal.note("`docker load` before version 23 cannot read zstd layers");
        }
    }

    /// Returns where to write: the given name, or `<stem>.relayer.tar` next to the input.
    fn output(&self) -> Result<Reference> {
        if let Some(output) = &self.output {
            return Ok(output.clone());
        }
        let path = match &self.image.location {
            ImageLocation::Standard => {
                return Ok(Reference { location: ImageLocation::Standard, ..Reference::file("") });
            }
            ImageLocation::Path(path) => {
                // Rather than that nothing can be written beside it.
                check_exists(&self.image)?;
                path
            }
            ImageLocation::Registry(_) | ImageLocation::Daemon(_) => {
                return Err(Error::refused(
                    "name the output with -o, for example -o docker://NAME or -o img.tar",
                ));
            }
        };
        let stored = self.image.transport == Some(Transport::Store);
        let name = path.file_name().filter(|_| !stored).ok_or_else(|| {
            Error::refused(format!(
                "{} has no name to derive the output's name from; use -o",
                self.image
            ))
        })?;
        let mut file = stem(name);
        file.push(".relayer.tar");
        Ok(Reference::file(path.with_file_name(file)))
    }
}

/// Returns the name of an image's file without the extensions of its format.
fn stem(name: &OsStr) -> OsString {
    let mut stem = PathBuf::from(name);
    // img.tar, img.tar.gz, img.oci
    for extension in ["gz", "zst", "xz", "tgz", "txz", "tar", "oci"] {
        if stem.extension().is_some_and(|e| e == extension) {
            stem.set_extension("");
        }
    }
    stem.into_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_an_input_is_not_part_of_its_name() {
        for name in
            ["img.tar", "img.tar.gz", "img.tar.zst", "img.tar.xz", "img.txz", "img.oci", "img"]
        {
            assert_eq!(stem(name.as_ref()), "img", "{name}");
        }
        assert_eq!(stem("v1.2.tar".as_ref()), "v1.2");
    }
}
