//! `relayer rebase`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::base::registry_name;
use super::edit::NameArgs;
use super::load::open;
use super::split::{Common, Written, layers};
use super::table::{Layout, more};
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::defaults;
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::model::content::BlobSink;
use crate::model::fileset::display;
use crate::plan::Target;
use crate::rebase::{Bases, Conflict, ImageMerge, KeepRule, MergeItem, Missing, Outdated, Rebase};
use crate::split::SplitOptions;
use crate::split::report::{Report, SCHEMA};
use crate::transport::Reference;
use crate::transport::image::Image;

/// Number of conflicts in the list of a package; `-v` and `--json` have all.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct RebaseArgs {
    #[command(flatten)]
    common: Common,
    /// The base on which the image was built, or one with the same files
    #[arg(long, value_name = "OLD")]
    from: Reference,
    /// The base on which it is to be; its layers stay byte for byte
    #[arg(long, value_name = "NEW")]
    to: Reference,
    /// Decide conflicts: with `app` the image's file, field or record counts, with `base` that of NEW. For a
    /// part of them `app=PATTERN`, `app=package:NAME` or `app=config:FIELD`; may be repeated, the last match
    /// wins
    #[arg(long, value_name = "SIDE[=WHAT]")]
    keep: Vec<KeepRule>,
    #[arg(long, value_name = "N", value_parser = layers,
          help = format!("Make this number of layers above NEW [default: {}, or fewer if they would be \
                          smaller than 1 MiB]", defaults::LAYERS))]
    target: Option<u32>,
    #[command(flatten)]
    names: NameArgs,
}

/// The result as JSON.
#[derive(Serialize)]
struct RebaseReport<'a> {
    from: String,
    to: String,
    conflicts: Vec<Value>,
    decided: usize,
    outdated: Vec<Value>,
    missing: Vec<Value>,
    #[serde(flatten)]
    report: &'a Report,
}

impl RebaseArgs {
    /// Checks combinations of options.
    pub(super) fn check(&self) -> Result<()> {
        for (base, option) in [(&self.from, "--from"), (&self.to, "--to")] {
            if base.is_standard() {
                return Err(Error::refused(format!(
                    "{option}: a base can't be read from standard input"
                )));
            }
        }
        self.common.check(&self.names)
    }

    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let start = Instant::now();
        let image = &self.common.image;
        self.common.check_summary()?;
        let destination = self.common.destination(&[image, &self.from, &self.to], global)?;
        let target = |_: &_| self.target.map_or(Target::AtMost(defaults::LAYERS), Target::Layers);
        let options = self.common.options(SplitOptions::default(), target, global)?;
        self.common.warn(&options, terminal);
        let budget = options.budget();
        let platform = self.common.platform.as_ref();
        let open = |image: &Reference| open(image, platform, &budget, global);
        let (mut opened, old, new) = (open(image)?, open(&self.from)?, open(&self.to)?);
        let all = opened.notes.iter().chain(&old.notes).chain(&new.notes);
        all.for_each(|note| terminal.note(note));
        self.names.rename(&mut opened.names);
        let lost = (!self.common.is_docker())
            .then(|| opened.images.iter().find_map(Image::lost_to_podman))
            .flatten();
        let name = registry_name(&self.to);
        let bases = Bases { old: &old, new: &new, name: name.as_deref() };
        let doing = || format!("rebasing {image}");
        let rebase = global
            .pool()?
            .install(|| Rebase::merge(opened, bases, &self.keep, &options, &budget, terminal))
            .with_context(doing)?;
        for rule in &rebase.unused {
            terminal.note(&format!("--keep {} decided nothing", self.keep[*rule]));
        }
        let outdated = note_outdated(&rebase, global, terminal);
        if rebase.conflicts() > 0 {
            return self.print_conflicts(&rebase, outdated, start, global, terminal);
        }
        let notes: Vec<Vec<String>> =
            rebase.merges.iter().map(|m| [m.notes.clone(), lacking(m)].concat()).collect();
        let missing = rebase.merges.iter().flat_map(missing).collect();
        let decided = rebase.decided();
        let sink = destination.as_ref().map_or(&() as &dyn BlobSink, |target| target);
        let (bundle, mut images) =
            rebase.split(&options, &budget, terminal, sink).with_context(doing)?;
        for (report, notes) in images.iter_mut().zip(notes) {
            report.notes.splice(0..0, notes);
            // Its figures are about images that are split again.
            report.next_release = None;
        }
        if let Some(report) = images.first_mut() {
            report.notes.extend(lost);
        }
        let written = Written { start, destination: destination.as_ref(), previous: None };
        let report = self.common.write(&bundle, images, written, terminal)?;
        let value = self.report(Vec::new(), decided, (outdated, missing), &report);
        self.common.print("rebase", &report, &value, global)
    }

    fn report<'a>(
        &self,
        conflicts: Vec<Value>,
        decided: usize,
        (outdated, missing): (Vec<Value>, Vec<Value>),
        report: &'a Report,
    ) -> RebaseReport<'a> {
        let (from, to) = (self.from.to_string(), self.to.to_string());
        RebaseReport { from, to, conflicts, decided, outdated, missing, report }
    }

    /// Prints what no rule decides.
    fn print_conflicts(
        &self,
        rebase: &Rebase<'_>,
        outdated: Vec<Value>,
        start: Instant,
        global: &Global,
        terminal: &Terminal,
    ) -> Result<Outcome> {
        let merges = &rebase.merges;
        merges.iter().flat_map(|merge| &merge.notes).for_each(|note| terminal.note(note));
        let each = merges.iter().flat_map(|m| m.conflicts.iter().map(|c| value(&m.platform, c)));
        let report = Report {
            schema: SCHEMA,
            input: self.common.image.to_string(),
            previous: None,
            output: None,
            digest: None,
            push: None,
            images: Vec::new(),
            seconds: start.elapsed().as_secs_f64(),
        };
        let value =
            || self.report(each.collect(), rebase.decided(), (outdated, Vec::new()), &report);
        output::print_result(global, false, value, || list(rebase, global.layout()))?;
        Ok(Outcome::Differs)
    }
}

/// Tells which files may be made from files that the new base changed, and returns them as JSON.
fn note_outdated(rebase: &Rebase<'_>, global: &Global, terminal: &Terminal) -> Vec<Value> {
    let all = rebase.merges.iter().flat_map(|m| m.outdated.iter().map(|o| (&m.platform, o)));
    let all: Vec<_> = all.collect();
    if let Some((_, first)) = all.first().filter(|_| !global.verbose) {
        terminal.note(&format!(
            "{} may be made from files that the new base changed, such as {} from {}; -v lists all",
            count(all.len() as u64, "file"),
            display(&first.path),
            display(&first.source)
        ));
    }
    for (_, file) in all.iter().filter(|_| global.verbose) {
        let (path, source) = (display(&file.path), display(&file.source));
        terminal.note(&format!("{path} may be made from {source}, which the new base changed"));
    }
    let value = |(platform, file): (&String, &Outdated)| json!({"platform": platform, "path": display(&file.path), "source": display(&file.source)});
    all.into_iter().map(value).collect()
}

/// Returns a conflict as JSON.
fn value(platform: &str, conflict: &Conflict) -> Value {
    let (field, path, record) = match &conflict.subject {
        MergeItem::Config(field) => (Some(field), None, None),
        MergeItem::Path(path) => (None, Some(display(path)), None),
        MergeItem::Record(path, record) => (None, Some(display(path)), Some(record)),
    };
    json!({
        "platform": platform, "field": field, "path": path, "record": record,
        "package": conflict.package, "reason": conflict.reason,
    })
}

/// Returns what the files of an image need and no longer have as JSON.
fn missing(merge: &ImageMerge) -> impl Iterator<Item = Value> {
    let value = |missing: &Missing| {
        json!({
            "platform": merge.platform, "path": missing.path, "need": missing.need,
            "name": missing.name, "version": missing.version, "was": missing.was,
        })
    };
    merge.missing.iter().map(value)
}

/// Returns a line for each library, version or interpreter that files of an image no longer have.
fn lacking(merge: &ImageMerge) -> Vec<String> {
    let mut all: BTreeMap<_, Vec<&Missing>> = BTreeMap::new();
    for missing in &merge.missing {
        let what = (missing.need, &missing.name, &missing.version, &missing.was);
        all.entry(what).or_default().push(missing);
    }
    let line = |missing: Vec<&Missing>| {
        let more = match missing.len() - 1 {
            0 => String::new(),
            1 => "; so is 1 more".into(),
            others => format!("; so are {others} more"),
        };
        format!("no longer there: {}{more}", missing[0])
    };
    all.into_values().map(line).collect()
}

/// Lists the conflicts of each image, by package.
fn list(rebase: &Rebase<'_>, layout: Layout) -> String {
    let mut text = String::new();
    let shown = layout.rows(SHOWN);
    for merge in &rebase.merges {
        if rebase.merges.len() > 1 && !merge.conflicts.is_empty() {
            let _ = writeln!(text, "{}", merge.platform);
        }
        for group in merge.conflicts.chunk_by(|a, b| a.package == b.package) {
            if let Some(package) = &group[0].package {
                let _ = writeln!(text, "package {package}");
            }
            for conflict in group.iter().take(shown) {
                let _ = writeln!(text, "  {}: {}", conflict.subject, conflict.reason);
            }
            text.push_str(&more(group.len(), shown));
        }
    }
    let _ = writeln!(
        text,
        "{}; nothing was written. --keep decides: app or base, for a part base=/PATH, base=package:NAME or \
         base=config:FIELD",
        count(rebase.conflicts() as u64, "conflict")
    );
    text
}
