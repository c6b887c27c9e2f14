//! `relayer diff`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::load::load_one;
use super::table::{Layout, more, table};
use super::{Global, Outcome, SummaryFile, output, terminal::Terminal};
use crate::base::byte_size::ByteSize;
use crate::base::error::Result;
use crate::base::text::{count, number};
use crate::compare::diff::{Changes, ComparedImage, Diff, Load, Loads, diff};
use crate::compare::limits::UpdateLimits;
use crate::layers::Limits;
use crate::layers::flatten::Flattened;
use crate::model::oci::Platform;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

/// Number of components in the table; `--json` and `-v` list all.
const SHOWN: usize = 12;

/// Values of `--fail-on` that shells complete.
pub(super) const LIMITS: [&str; 2] = ["update=50MB", "layers=5"];

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Compare these images, oldest first
    #[arg(value_name = "IMAGE", num_args = 2.., required = true)]
    images: Vec<Reference>,
    /// Use this platform if the image has several
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Exit with status 1 if clients that have the old image download more than this at a step:
    /// update=50MB,layers=5
    #[arg(long, value_name = "LIMITS")]
    fail_on: Option<UpdateLimits>,
    #[command(flatten)]
    summary: SummaryFile,
}

impl DiffArgs {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        self.summary.check()?;
        let mut steps = Vec::new();
        let budget = global.budget();
        let mut old: Option<(String, ComparedImage, Limits)> = None;
        for image in &self.images {
            let name = image.to_string();
            let (flat, _) = load_one(image, self.platform.as_ref(), &budget, global, terminal)?;
            let Flattened { rootfs, layers, limits, .. } = flat;
            let new = ComparedImage::new(rootfs, layers)?;
            if let Some((from, before, _)) = &old {
                steps.push((from.clone(), name.clone(), diff(before, &new)));
            }
            old = Some((name, new, limits));
        }
        let mut total = Loads::default();
        for (.., step) in &steps {
            add(&mut total, &step.loads);
        }
        let limits = self.fail_on.clone().unwrap_or_default();
        let several = steps.len() > 1;
        let exceeded = steps.iter().flat_map(|(_, to, diff)| {
            let place = if several { format!("{to}: ") } else { String::new() };
            limits.exceeded(&diff.loads).into_iter().map(move |what| format!("{place}{what}"))
        });
        let exceeded: Vec<String> = exceeded.collect();
        let value = || {
            let step = |(from, to, diff): &(String, String, Diff)| json!({ "from": from, "to": to, "diff": diff });
            let steps: Vec<_> = steps.iter().map(step).collect();
            json!({ "schema": SCHEMA, "steps": steps, "total": total, "exceeded": exceeded })
        };
        let text = |layout: Layout| {
            let mut text = String::new();
            for (i, (from, to, step)) in steps.iter().enumerate() {
                if i > 0 {
                    text.push('\n');
                }
                let _ = writeln!(text, "{from} → {to}");
                text.push_str(&describe(step, layout));
            }
            if steps.len() > 1 {
                let _ = writeln!(text, "\ntotal of {} steps", steps.len());
                text.push_str(&load_table(&total, layout));
            }
            text
        };
        self.summary.append("relayer diff", &exceeded, text)?;
        output::print_result(global, false, value, || text(global.layout()))?;
        Ok(terminal.judge(&exceeded))
    }
}

fn add(total: &mut Loads, step: &Loads) {
    for (sum, load) in [
        (&mut total.chain, step.chain),
        (&mut total.digest, step.digest),
        (&mut total.diff_id, step.diff_id),
        (&mut total.cold, step.cold),
    ] {
        sum.layers += load.layers;
        sum.bytes += load.bytes;
        sum.unpacked += load.unpacked;
    }
}

fn describe(diff: &Diff, layout: Layout) -> String {
    let mut files = table(&["files", "", "bytes"], 1);
    let c: &Changes = &diff.files;
    for (name, tally) in [
        ("added", c.added),
        ("removed", c.removed),
        ("content changed", c.changed),
        ("metadata changed", c.metadata),
        ("only times changed", c.mtime),
        ("same", c.same),
    ] {
        files.add_row([name.to_owned(), number(tally.files), ByteSize(tally.bytes).to_string()]);
    }
    let mut text = files.fit(layout);
    if c.mtime.files > 0 {
        let (files, bytes) = (count(c.mtime.files, "file"), ByteSize(c.mtime.bytes));
        let verb = if c.mtime.files == 1 { "differs" } else { "differ" };
        let _ = writeln!(
            text,
            "\n{bytes} of {files} {verb} in times only: --previous carries times over, and \
             --mtime stable keeps those that a rebuild would change"
        );
    }
    if !diff.components.is_empty() {
        let header = ["component", "changed", "added", "removed", "metadata", "bytes to load"];
        let mut rows = table(&header, 1).spare(&["metadata", "removed", "added"]);
        let shown = layout.rows(SHOWN);
        for component in diff.components.iter().take(shown) {
            let c = &component.changes;
            let bytes = c.changed.bytes + c.added.bytes + c.metadata.bytes;
            rows.add_row([
                component.name.clone(),
                number(c.changed.files),
                number(c.added.files),
                number(c.removed.files),
                number(c.metadata.files),
                ByteSize(bytes).to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&rows.fit(layout));
        text.push_str(&more(diff.components.len(), shown));
    }
    text.push('\n');
    text.push_str(&load_table(&diff.loads, layout));
    text
}

fn load_table(loads: &Loads, layout: Layout) -> String {
    let mut rows = table(&["a client that has the old image", "layers", "download", "unpack"], 1);
    for (name, load) in [
        ("by chain ID: docker, eks", loads.chain),
        ("by digest: containerd", loads.digest),
        ("by diff ID: podman, CRI-O", loads.diff_id),
        ("none: a cold pull", loads.cold),
    ] {
        let Load { layers, bytes, unpacked } = load;
        rows.add_row([
            name.to_owned(),
            number(layers),
            ByteSize(bytes).to_string(),
            ByteSize(unpacked).to_string(),
        ]);
    }
    rows.fit(layout)
}
