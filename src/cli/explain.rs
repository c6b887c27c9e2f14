//! `relayer explain`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use super::inspect::hidden_files;
use super::load::open;
use super::table::{Layout, about, more, size, table};
use super::{Global, Outcome, output, terminal::Terminal};
use crate::base::error::{Context, Result};
use crate::base::progress::Progress;
use crate::base::text::{count, number};
use crate::inspect::{Explanation, HolderReport, InspectOptions, explain};
use crate::model::oci::Platform;
use crate::split::report::SCHEMA;
use crate::transport::Reference;

/// Number of components and of hidden files; `-v` and `--json` list all.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Look into this image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Explain this file, or this folder with everything below it
    #[arg(value_name = "PATH")]
    path: String,
    /// Use only this platform of a multi-platform image, as in linux/arm64 [default: all]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

impl Explain {
    pub(super) fn run(&self, global: &Global, terminal: &Terminal) -> Result<Outcome> {
        let options = InspectOptions {
            threads: global.threads(),
            max_size: global.max_size.0,
            ..InspectOptions::default()
        };
        let budget = global.budget();
        let opened = open(&self.image, self.platform.as_ref(), &budget, global)?;
        opened.notes.iter().for_each(|note| terminal.note(note));
        let found = explain(&opened, &self.path, &options, &budget, terminal)
            .with_context(|| format!("explaining {} of {}", self.path, self.image))?;
        let value = || {
            let input = self.image.to_string();
            json!({ "schema": SCHEMA, "input": input, "images": found })
        };
        output::print_result(global, false, value, || {
            let mut text = String::new();
            for (i, one) in found.iter().enumerate() {
                if found.len() > 1 {
                    let _ = write!(text, "{}{}\n\n", if i > 0 { "\n" } else { "" }, one.platform);
                }
                text.push_str(&describe(one, global.layout()));
            }
            text
        })
    }
}

fn describe(found: &Explanation, layout: Layout) -> String {
    let mut text = match found.shown {
        None => format!("{}: the image shows nothing here\n", found.path),
        Some("directory") => {
            let files = count(found.files, "file");
            format!("{}: a directory with {files}, {}\n", found.path, size(found.bytes))
        }
        Some("file") => format!("{}: a file of {}\n", found.path, size(found.bytes)),
        Some(kind) => format!("{}: a {kind}\n", found.path),
    };
    if !found.components.is_empty() {
        let header = ["component", "files", "bytes", "chance of a change"];
        let mut rows = table(&header, 1);
        let shown = layout.rows(SHOWN);
        for owner in found.components.iter().take(shown) {
            let chance = format!("{:.0} %", 100.0 * owner.chance);
            rows.add_row([owner.name.clone(), number(owner.files), size(owner.bytes), chance]);
        }
        let _ = write!(text, "\n{}{}", rows.fit(layout), more(found.components.len(), shown));
    }
    if !found.layers.is_empty() {
        let _ = write!(text, "\n{}", holders("made by", &found.layers, layout));
        text.push_str(
            "a change of a file costs clients the layer by digest, all above it by chain ID\n",
        );
        let layers = count(found.split_layers as u64, "layer");
        let _ = write!(text, "\nas split into {layers}\n");
        text.push_str(&holders("contents", &found.split, layout));
    }
    if !found.hidden.is_empty() {
        let files = hidden_files(&found.hidden, layout.rows(SHOWN), &[""], layout);
        let _ = write!(text, "\n{files}");
    }
    text
}

/// Formats layers, and what changes of them cost.
fn holders(what: &str, layers: &[HolderReport], layout: Layout) -> String {
    let header = ["layer", what, "files", "bytes", "churn", "by digest", "by chain ID"];
    let mut rows = table(&header, 2).spare(&["bytes", "files", "churn"]);
    for layer in layers {
        rows.add_row([
            layer.layer.to_string(),
            layer.what.clone(),
            number(layer.files),
            size(layer.bytes),
            layer.chance.map_or_else(String::new, |chance| format!("{:.0} %", 100.0 * chance)),
            about(layer.set_bytes),
            about(layer.chain_bytes),
        ]);
    }
    rows.fit(layout)
}
