//! The command line: parses arguments, calls the library, prints tables or JSON.
//!
//! May import everything; nothing imports it but `main`. A file has a command, with a `run` method that
//! returns an [`Outcome`]. Types to know: [`Global`], the options of every command, and [`Terminal`],
//! which writes to standard error.

mod base;
mod bench;
mod cache;
mod client;
mod config;
mod copy;
mod delta;
mod diff;
mod display;
mod edit;
mod examples;
mod explain;
mod history;
mod inspect;
mod load;
mod markdown;
mod output;
mod rebase;
mod registry;
mod report;
mod sarif;
mod settings;
mod size;
mod split;
mod store;
mod summary;
mod table;
mod terminal;
mod update;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind as UsageError};
use clap::parser::ValueSource;
use clap::{
    ArgMatches, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    ValueHint,
};

use crate::base::defaults;
use crate::base::error::{Error, Result};
use crate::base::signals::clean_up_at_signals;
use crate::base::threads;
use crate::model::content::Budget;
use crate::transport::Reference;
use settings::Presets;
use size::Size;
use table::Layout;
use terminal::{Color, Terminal};

/// Flatten a container image and split it again into deterministic layers of similar size, grouped
/// by how often their contents change
#[derive(Debug, Parser)]
#[command(name = "relayer", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Split an image into layers of similar size, grouped by churn
    Split(Box<split::Split>),
    /// Flatten an image into one layer
    Flatten(Box<split::Flatten>),
    /// Show layers, wasted bytes, likely secrets and client incompatibilities
    Inspect(inspect::InspectArgs),
    /// Show which layers and components hold a path, what hides it, and what its changes cost clients
    Explain(explain::Explain),
    /// Compare the final file sets of two images
    Verify(verify::Verify),
    /// Show what changed between images, and what clients download as a result
    Diff(diff::DiffArgs),
    /// Measure codecs, numbers of layers and updates
    Bench(bench::BenchArgs),
    /// Write an HTML page that shows an image, its pulls and its updates
    Report(report::ReportArgs),
    /// Write a delta that turns one image into another
    Delta(delta::DeltaArgs),
    /// Make an image from an older one and a delta
    Apply(delta::Apply),
    /// Learn from earlier images how often their contents change
    History(history::HistoryArgs),
    /// Keep many images, storing each file and chunk once
    Store(store::StoreArgs),
    /// Copy an image between registries, files and folders without changing a byte
    Copy(copy::Copy),
    /// Change the config, annotations or names of an image without touching its layers
    Edit(Box<edit::EditCommand>),
    /// Move an image to a new version of its base, with conflicts found in its files
    Rebase(Box<rebase::RebaseArgs>),
    /// Manage the folder of downloaded blobs
    Cache(cache::CacheArgs),
    /// Show which options the environment and relayer.toml set
    Config(config::ConfigArgs),
    /// Print a shell completion script
    Completions {
        /// Print the script for this shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Print the page of this command, as in `store add` [default: of relayer itself]
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// Option of the commands that pipelines run.
#[derive(Debug, Args)]
struct SummaryFile {
    /// Append a summary in Markdown to this file, for `$GITHUB_STEP_SUMMARY` or a note in GitLab
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

impl SummaryFile {
    /// Checks that the file can be written, before any work begins.
    fn check(&self) -> Result<()> {
        markdown::check(self.summary.as_deref())
    }

    /// Appends what `text` formats, and what exceeds a limit.
    fn append(
        &self,
        title: &str,
        exceeded: &[String],
        text: impl FnOnce(Layout) -> String,
    ) -> Result<()> {
        let Some(path) = &self.summary else { return Ok(()) };
        let text = text(Layout::markdown());
        let text = exceeded.iter().fold(text, |text, what| text + "failed: " + what + "\n");
        markdown::append(path, title, &text)
    }
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more: digests, components, all rows of tables
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Colour messages; `auto` does so on a terminal, unless `NO_COLOR` is set
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    color: Color,
    /// Use this number of threads [default: one per core]
    #[arg(long, global = true, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(defaults::MAX_THREADS)))]
    threads: Option<u16>,
    #[arg(long, global = true, value_name = "SIZE",
          default_value_t = Size(defaults::MEMORY), hide_default_value = true,
          help = format!("Limit memory for file contents, the file index, decoders and encoders; the \
                          program itself takes up to 64 MiB more [default: {}; for `store` {}]",
                         Size(defaults::MEMORY), Size(defaults::STORE_MEMORY)))]
    memory: Size,
    /// Refuse images that expand to more bytes than this
    #[arg(long, global = true, value_name = "SIZE", default_value_t = Size(defaults::MAX_SIZE))]
    max_size: Size,
    #[command(flatten)]
    registry: registry::RegistryArgs,
}

impl Global {
    fn threads(&self) -> usize {
        self.threads.map_or_else(|| threads::cores().min(defaults::MAX_THREADS.into()), usize::from)
    }

    /// Returns how much is shown. Without a terminal, tables have a width that fits most of them.
    fn layout(&self) -> Layout {
        let width = terminal::columns().unwrap_or(100);
        Layout { width, verbose: self.verbose, markdown: false }
    }

    /// Returns the memory of `--memory`, for a command that encodes nothing.
    fn budget(&self) -> Arc<Budget> {
        Budget::new(self.memory.0, None)
    }

    /// Returns the options of a split by default.
    fn split_options(&self) -> crate::split::SplitOptions {
        crate::split::SplitOptions {
            threads: self.threads(),
            memory: self.memory.0,
            max_size: self.max_size.0,
            ..crate::split::SplitOptions::default()
        }
    }

    /// Starts the threads of a command.
    ///
    /// # Errors
    /// If the system can't start them.
    fn pool(&self) -> Result<rayon::ThreadPool> {
        threads::pool(self.threads())
    }
}

/// Result of a command that did not fail.
enum Outcome {
    Done,
    /// `verify` found differences, `rebase` found conflicts, `inspect` exceeded limits, or `store check` found problems.
    Differs,
}

/// The exit status of a command that failed. Those of all outcomes are in [`examples::EXIT_STATUS`].
const FAILED: u8 = 1;

/// Runs the command line of this process. The exit status is 0 on success, 1 if something failed,
/// images differ or a limit is exceeded, 2 for wrong usage.
pub fn main() -> ExitCode {
    handle_file_limit();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(e) => return print_usage(&e),
    };
    let terminal = Terminal::new(
        !cli.global.quiet && !cli.global.json,
        cli.global.quiet,
        cli.global.color,
        Arc::clone(&cli.global.registry.transfers),
    );
    match run(&cli, &terminal) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::FAILURE,
        Err(e) => {
            terminal.error(&e);
            ExitCode::from(FAILED)
        }
    }
}

/// Prints help, the version, or the error in the command line.
fn print_usage(e: &clap::Error) -> ExitCode {
    match output::ignore_closed(e.print().and_then(|()| io::stdout().flush())) {
        Err(lost) if !e.use_stderr() => {
            Terminal::new(false, true, Color::default(), Arc::default())
                .error(&output::not_printed(lost));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::from(e.exit_code() as u8),
    }
}

/// Makes a file that exceeds the limit of its size (`ulimit -f`) an error, as on a full disk. Without a
/// handler the system kills the process, and its unfinished files are left behind.
fn handle_file_limit() {
    let seen = std::sync::Arc::default();
    // On failure the default behaviour stays.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen);
}

/// Returns the colours that a command line asks for, also if the rest of it is wrong.
fn color(args: &[OsString]) -> Color {
    let of = |text: &str| Color::from_str(text, true).ok();
    let mut found = args.iter().enumerate().filter_map(|(i, arg)| match arg.to_str()? {
        "--color" => of(args.get(i + 1)?.to_str()?),
        arg => of(arg.strip_prefix("--color=")?),
    });
    found.next_back().unwrap_or_default()
}

/// Returns the error of wrong usage, with a hint if it is one that users of other tools make.
fn hint(e: clap::Error, command: &mut clap::Command) -> clap::Error {
    let Some(ContextValue::String(arg)) = e.get(ContextKind::InvalidArg) else { return e };
    let hint = match (e.kind(), arg.as_str()) {
        (UsageError::UnknownArgument, "--tag" | "-t") => {
            "the tag is part of the name: oci:DIR:TAG, docker-archive:FILE:NAME:TAG, docker://NAME:TAG"
        }
        (UsageError::UnknownArgument, arg) if !arg.starts_with('-') => {
            "the output is named with -o, except by `copy`"
        }
        _ => return e,
    };
    let text = format!("unexpected argument '{arg}' found; {hint}");
    let name = std::env::args_os().nth(1).unwrap_or_default();
    let command = match command.find_subcommand_mut(name) {
        Some(sub) => sub,
        None => command,
    };
    command.error(UsageError::UnknownArgument, text)
}

/// Parses the command line, and checks what does not depend on the images.
fn parse() -> Result<Cli, clap::Error> {
    let args: Vec<_> = std::env::args_os().collect();
    let mut command = examples::explain(Cli::command()).color(match color(&args) {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    });
    let settings = Presets::read().and_then(|settings| settings.apply(command.clone()));
    command = settings.map_err(|e| command.error(UsageError::ValueValidation, e))?;
    let matches = command.try_get_matches_from_mut(args).map_err(|e| hint(e, &mut command))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
    let is_default = matches.value_source("memory") == Some(ValueSource::DefaultValue);
    let is_default = is_default && cli.global.memory.0 == defaults::MEMORY;
    if is_default && matches!(cli.command, Command::Store(_)) {
        cli.global.memory = Size(defaults::STORE_MEMORY);
    }
    let checked = match &cli.command {
        _ if count_pipes(&matches) > 1 => {
            Err(Error::refused("standard input can be read only once"))
        }
        Command::Split(args) => args.check(),
        Command::Flatten(args) => args.check(),
        Command::Verify(args) => args.check(),
        Command::Edit(args) => args.check(),
        Command::Rebase(args) => args.check(),
        _ => Ok(()),
    };
    checked.map_err(|e| {
        let name = matches.subcommand_name().unwrap_or_default();
        let command = match command.find_subcommand_mut(name) {
            Some(sub) => sub,
            None => &mut command,
        };
        command.error(UsageError::ValueValidation, e)
    })?;
    Ok(cli)
}

/// Counts the inputs that are standard input.
fn count_pipes(matches: &ArgMatches) -> usize {
    let mut count = matches.subcommand().map_or(0, |(_, matches)| count_pipes(matches));
    for id in matches.ids().map(clap::Id::as_str) {
        if ["output", "destination"].contains(&id) {
            continue;
        }
        // Asking for a value of another type is an error.
        if let Ok(Some(images)) = matches.try_get_many::<Reference>(id) {
            count += images.filter(|image| image.is_standard()).count();
        }
        if let ("delta", Ok(Some(file))) = (id, matches.try_get_one::<PathBuf>(id)) {
            count += usize::from(output::is_standard(file));
        }
    }
    count
}

fn run(cli: &Cli, terminal: &Terminal) -> Result<Outcome> {
    clean_up_at_signals()?;
    let done = run_command(cli, terminal);
    cli.global.registry.print_notes(terminal);
    done
}

fn run_command(cli: &Cli, terminal: &Terminal) -> Result<Outcome> {
    match &cli.command {
        Command::Split(args) => args.run(&cli.global, terminal),
        Command::Flatten(args) => args.run(&cli.global, terminal),
        Command::Inspect(args) => args.run(&cli.global, terminal),
        Command::Explain(args) => args.run(&cli.global, terminal),
        Command::Verify(args) => args.run(&cli.global, terminal),
        Command::Diff(args) => args.run(&cli.global, terminal),
        Command::Bench(args) => args.run(&cli.global, terminal),
        Command::Report(args) => args.run(&cli.global, terminal),
        Command::Delta(args) => args.run(&cli.global, terminal),
        Command::Apply(args) => args.run(&cli.global, terminal),
        Command::History(args) => args.run(&cli.global, terminal),
        Command::Store(args) => args.run(&cli.global, terminal),
        Command::Copy(args) => args.run(&cli.global, terminal),
        Command::Edit(args) => args.run(&cli.global, terminal),
        Command::Rebase(args) => args.run(&cli.global, terminal),
        Command::Cache(args) => args.run(&cli.global),
        Command::Config(args) => args.run(&cli.global),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = with_hints(Cli::command());
            clap_complete::generate(*shell, &mut command, "relayer", &mut script);
            output::print_document(&script)
        }
        Command::Man { command } => man(command),
    }
}

/// Tells shells what the values of a command are, by their names.
fn with_hints(mut command: clap::Command) -> clap::Command {
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, with_hints);
    }
    let is_diff = command.get_name() == "diff";
    command.mut_args(|arg| {
        let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        match name.as_deref() {
            Some("IMAGE" | "DEST" | "OLD" | "NEW" | "A" | "B") => {
                arg.value_hint(ValueHint::AnyPath)
            }
            Some("FILE") => arg.value_hint(ValueHint::FilePath),
            Some("DIR") => arg.value_hint(ValueHint::DirPath),
            Some("LIMITS") if is_diff => arg.value_parser(diff::LIMITS),
            Some("LIMITS") => arg.value_parser(inspect::LIMITS),
            _ => arg,
        }
    })
}

/// Prints a manual page. Pages refer to those of subcommands as `relayer-split(1)`.
fn man(path: &[String]) -> Result<Outcome> {
    let mut command = Cli::command();
    command.build();
    for name in path {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| {
            Error::not_found(format!(
                "there is no command {}; `relayer --help` lists all",
                path.join(" ")
            ))
        })?;
    }
    let name = if path.is_empty() { "relayer".to_owned() } else { path.join(" ") };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    page.extend_from_slice(examples::manual(&name).as_bytes());
    output::print_document(&page)
}
