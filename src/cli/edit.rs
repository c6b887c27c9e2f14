//! `relayer edit`, and the same options of `split` and `flatten`.

use clap::Args;
use serde_json::json;

use super::load::{self, place};
use super::{Global, Outcome, output, summary, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::edit::{self, Edit};
use crate::model::oci::Platform;
use crate::split::report::SCHEMA;
use crate::store::open::tag;
use crate::transport::image::Opened;
use crate::transport::{Reference, Transport, name};

/// What may be changed of an image without touching its layers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Edits")]
pub(super) struct EditArgs {
    /// Set a variable of the environment, or remove it with `NAME-`; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = Edit::env)]
    env: Vec<Edit>,
    /// Set a label, or remove it with `KEY-`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = Edit::label)]
    label: Vec<Edit>,
    /// Set an annotation of the manifest and of the index, or remove it with `KEY-`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = Edit::annotation)]
    annotation: Vec<Edit>,
    /// Set the entrypoint: a program, or a JSON list of it and its arguments; "" removes it. Unlike in a
    /// Dockerfile, the command stays
    #[arg(long, value_name = "COMMAND", value_parser = Edit::entrypoint)]
    entrypoint: Option<Edit>,
    /// Set the command in the same form; "" removes it
    #[arg(long, value_name = "COMMAND", value_parser = Edit::cmd)]
    cmd: Option<Edit>,
    /// Set the user; "" removes it
    #[arg(long, value_name = "USER[:GROUP]", value_parser = Edit::user)]
    user: Option<Edit>,
    /// Set the working directory; "" removes it
    #[arg(long, value_name = "PATH", value_parser = Edit::workdir)]
    workdir: Option<Edit>,
    /// Declare a port, as in 53/udp, or remove it with `PORT-`; may be repeated
    #[arg(long, value_name = "PORT", value_parser = Edit::expose)]
    expose: Vec<Edit>,
    /// Declare a volume, or remove it with `PATH-`; may be repeated
    #[arg(long, value_name = "PATH", value_parser = Edit::volume)]
    volume: Vec<Edit>,
    /// Set the signal that stops a container; "" removes it
    #[arg(long, value_name = "SIGNAL", value_parser = Edit::stop_signal)]
    stop_signal: Option<Edit>,
    /// Set the health check as in a Dockerfile: `--interval=30s CMD curl -f http://localhost/`, or NONE;
    /// "" removes it
    #[arg(long, value_name = "CHECK", value_parser = Edit::healthcheck, allow_hyphen_values = true)]
    healthcheck: Option<Edit>,
    /// Set the time of creation: a date, or `SOURCE_DATE_EPOCH`
    #[arg(long, value_name = "DATE", value_parser = Edit::created)]
    created: Option<Edit>,
    /// Set the platform that a single image states
    #[arg(long, value_name = "OS/ARCH", value_parser = Edit::platform)]
    set_platform: Option<Edit>,
    /// Replace likely secrets in the history of the build by ***, or remove all its commands, comments and
    /// authors with =all
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "secrets", value_parser = Edit::redact_history)]
    redact_history: Option<Edit>,
    #[command(flatten)]
    pub(super) names: NameArgs,
}

/// The names of the result.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// Give the image this name in a file or folder, instead of those that it has; may be repeated. In
    /// a registry or client, the name is part of DEST
    #[arg(long, value_name = "NAME", value_parser = tag_name)]
    tag: Vec<String>,
}

impl NameArgs {
    /// Checks that names can be written to `destination`.
    pub(super) fn check(&self, destination: Option<&Reference>) -> Result<()> {
        let named = destination.filter(|d| {
            d.tag.is_some()
                || matches!(d.transport, Some(Transport::Registry | Transport::Daemon(_)))
        });
        match named {
            Some(destination) if !self.tag.is_empty() => {
                Err(Error::refused(format!("--tag: the name is part of {destination}")))
            }
            _ => Ok(()),
        }
    }

    /// Replaces the names of an image by those that are given.
    pub(super) fn rename(&self, names: &mut Vec<String>) {
        if !self.tag.is_empty() {
            names.clone_from(&self.tag);
        }
    }
}

/// Parses a name for an image in an archive or layout.
fn tag_name(text: &str) -> Result<String> {
    if name::is_name(text) && name::is_safe(text) {
        return Ok(text.to_owned());
    }
    Err(Error::malformed("this is not a valid name; write NAME:TAG, or a tag"))
}

impl EditArgs {
    /// Returns the edits, in the order of the options in the help.
    fn edits(&self) -> Vec<Edit> {
        let lists = [&self.env, &self.label, &self.annotation, &self.expose, &self.volume];
        let options = [
            &self.entrypoint,
            &self.cmd,
            &self.user,
            &self.workdir,
            &self.stop_signal,
            &self.healthcheck,
            &self.created,
            &self.set_platform,
            &self.redact_history,
        ];
        lists.into_iter().flatten().chain(options.into_iter().flatten()).cloned().collect()
    }

    /// Changes images that were opened, and tells what had no effect.
    pub(super) fn apply(&self, opened: &mut Opened, terminal: &Terminal) -> Result<()> {
        for note in edit::edit_opened(opened, &self.edits())? {
            terminal.note(&note);
        }
        self.names.rename(&mut opened.names);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct EditCommand {
    /// Edit this image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Write to this file, folder or registry
    #[arg(short, long, value_name = "DEST", value_parser = Reference::destination)]
    output: Reference,
    /// Edit only this platform of a multi-platform image, and leave out the others [default: all]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Overwrite the output if it exists; in a registry, move IMAGE's own tag
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    edits: EditArgs,
}

impl EditCommand {
    /// Checks that there is something to do.
    pub(super) fn check(&self) -> Result<()> {
        if self.edits.edits().is_empty() && self.edits.names.tag.is_empty() {
            return Err(Error::refused("say what to change, as in --env NAME=VALUE"));
        }
        self.edits.names.check(Some(&self.output))
    }

    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let destination =
            load::destination(self.output.clone(), self.force, &[&self.image], global)?;
        let place = place(&self.image, &global.budget(), global)?;
        let to_docker = self.output.transport.is_some_and(Transport::is_for_docker);
        let pool = global.pool()?;
        let (tag, platform) = (tag(&self.image), self.platform.as_ref());
        let (bundle, notes) = pool
            .install(|| place.unchanged(tag, platform, to_docker, global.max_size.0))
            .with_context(|| format!("reading {}", self.image))?;
        let mut edited = edit::edit(bundle, &self.edits.edits())
            .with_context(|| format!("editing {}", self.image))?;
        self.edits.names.rename(&mut edited.bundle.names);
        notes.iter().chain(&edited.notes).for_each(|note| terminal.note(note));
        if edited.changed == 0 {
            terminal.note("no image has changed, so its digest is the same");
        }
        let bundle = &edited.bundle;
        let push = pool.install(|| destination.write(bundle, terminal))?;
        let digest = bundle.root.as_ref().map(|root| root.digest);
        let value = || {
            json!({
                "schema": SCHEMA, "input": self.image.to_string(),
                "output": self.output.to_string(), "digest": digest, "bytes": bundle.bytes(),
                "changed": edited.changed, "notes": edited.notes, "push": push,
            })
        };
        output::print_result(global, self.output.is_standard(), value, || {
            let digest = digest.map_or_else(String::new, |d| d.to_string());
            let size = ByteSize(bundle.bytes());
            let pushed = push.as_ref().map(summary::pushed).unwrap_or_default();
            format!("wrote {} ({size})\n{pushed}image {digest}\n", self.output)
        })
    }
}
