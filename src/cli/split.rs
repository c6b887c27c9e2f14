//! `relayer split` and `relayer flatten`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::{Global, Outcome, print, print_json, table, terminal::Terminal};
use crate::analyze::ChurnRule;
use crate::codec::Compression;
use crate::content::Budget;
use crate::error::{Context, Error, Result};
use crate::mtime::MtimePolicy;
use crate::oci::Platform;
use crate::plan::{MAX_LAYERS, Target};
use crate::progress::Progress;
use crate::report::{Report, SCHEMA};
use crate::size::ByteSize;
use crate::split::{self, Options};
use crate::transport::{Reference, Transport, open, write};

#[derive(Debug, Args)]
pub(super) struct Split {
    #[command(flatten)]
    common: Common,
    /// How many layers
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "layer_size",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LAYERS)))]
    target: u32,
    /// How large a layer may be, compressed, as estimated; instead of --target
    #[arg(long, value_name = "SIZE")]
    layer_size: Option<ByteSize>,
    /// Expected changes a release of what PATTERN matches: `/opt/model=0.01` for paths,
    /// `npm:*=0.5` for components; may be repeated, the last match counts
    #[arg(long, value_name = "PATTERN=RATE")]
    churn: Vec<ChurnRule>,
}

#[derive(Debug, Args)]
pub(super) struct Flatten {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The image to read
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Where to write [default: IMAGE's name with .relayer.tar, an archive for every client]
    #[arg(short, long, value_name = "DEST")]
    output: Option<Reference>,
    /// Codec of the layers [default: zstd; gzip for docker-archive]
    #[arg(long, value_name = "CODEC", value_parser = ["zstd", "gzip", "none"])]
    compression: Option<String>,
    /// Level of the codec [default: zstd 3, gzip 6]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    level: Option<i32>,
    /// Window of zstd, 2^N bytes, that every client must hold in memory; above 23 some refuse
    #[arg(long, value_name = "N")]
    long: Option<u32>,
    /// Modification times: preserve, zero, clamp:DATE or `clamp:SOURCE_DATE_EPOCH`
    #[arg(long, value_name = "RULE", default_value = "preserve")]
    mtime: MtimePolicy,
    /// Only this platform of several, as in linux/arm64 [default: all]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Show the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the output if it is there
    #[arg(short, long)]
    force: bool,
}

impl Split {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let target = match self.layer_size {
            Some(size) if size.0 == 0 => return Err(Error::refused("--layer-size must not be 0")),
            Some(size) => Target::Size(size.0),
            None => Target::Layers(self.target),
        };
        self.common.run(target, &self.churn, global, terminal)
    }
}

impl Flatten {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        self.common.run(Target::Layers(1), &[], global, terminal)
    }
}

impl Common {
    fn run(
        &self,
        target: Target,
        churn: &[ChurnRule],
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let start = Instant::now();
        let output = self.output()?;
        let target_file = if self.dry_run {
            None
        } else {
            Some(write::Target::new(output, self.force, &[&self.image])?)
        };
        let options = Options {
            target,
            compression: self.compression(target_file.as_ref())?,
            mtime: self.mtime,
            churn: churn.to_vec(),
            dry_run: self.dry_run,
            threads: global.threads(),
            memory: global.memory.0,
            max_size: global.max_size.0,
        };
        self.warn(&options, terminal);
        let budget = Budget::new(options.spool_memory(), None);
        let opened = open::open(&self.image, self.platform.as_ref(), &budget, options.max_size)?;
        opened.notes.iter().for_each(|note| terminal.note(note));
        let (bundle, images) = split::split(&opened, &options, &budget, terminal)
            .context(|| format!("splitting {}", self.image))?;
        images.iter().flat_map(|i| &i.notes).for_each(|note| terminal.note(note));
        if let Some(file) = &target_file {
            file.write(&bundle, terminal)?;
        }
        let report = Report {
            schema: SCHEMA,
            input: self.image.to_string(),
            output: target_file.as_ref().map(|t| t.reference().to_string()),
            digest: bundle.root.as_ref().map(|root| root.digest),
            images,
            seconds: start.elapsed().as_secs_f64(),
        };
        let to_stdout = target_file.is_some_and(|t| t.reference().path.is_none());
        if to_stdout || (global.quiet && !global.json) {
            return Ok(Outcome::Done);
        }
        if global.json {
            return print_json(&report);
        }
        print(table::summary(&report, global.verbose).as_bytes())
    }

    fn compression(&self, target: Option<&write::Target>) -> Result<Compression> {
        // Whoever asks for this form may have a client that knows no zstd.
        let docker = target.is_some_and(|t| t.form() == write::Form::Docker);
        let default = if docker { "gzip" } else { "zstd" };
        let name = self.compression.as_deref().unwrap_or(default);
        Compression::new(name, self.level, self.long)
    }

    fn warn(&self, options: &Options, terminal: &Terminal) {
        if let Some(log) = self.long.filter(|log| *log > 23) {
            terminal.note(&format!(
                "--long {log}: clients need {} of memory for each layer they unpack, and strict \
                 decoders refuse more than 8 MiB",
                ByteSize(1 << log)
            ));
        }
        let docker =
            matches!(&self.output, Some(r) if r.transport == Some(Transport::DockerArchive));
        if docker && matches!(options.compression, Compression::Zstd { .. }) {
            terminal.note("`docker load` before version 23 can't read zstd layers");
        }
    }

    /// Where to write: the name given, or `<stem>.relayer.tar` beside the input.
    fn output(&self) -> Result<Reference> {
        if let Some(output) = &self.output {
            return Ok(output.clone());
        }
        let Some(path) = &self.image.path else {
            return Ok(Reference { path: None, ..Reference::file("") });
        };
        let name = path.file_name().ok_or_else(|| {
            Error::refused(format!("{} has no name to derive an output from; use -o", self.image))
        })?;
        let mut stem = PathBuf::from(name);
        // img.tar, img.tar.gz, img.oci
        for extension in ["gz", "zst", "tgz", "tar", "oci"] {
            if stem.extension().is_some_and(|e| e == extension) {
                stem.set_extension("");
            }
        }
        let mut file = stem.into_os_string();
        file.push(".relayer.tar");
        Ok(Reference::file(path.with_file_name(file)))
    }
}
