//! What is in an image, and what is wrong with it: layers, wasted bytes, recoverable files, secrets,
//! what clients would not take, and what splitting would save. docs/INSPECT.md has the rules.

mod clients;
mod limits;
mod waste;

pub use clients::{Outcome, Warning};
pub use limits::{Limit, Limits};
pub use waste::{Duplicate, Hidden, Place, Waste};

use std::sync::Arc;

use serde::Serialize;

use crate::base::error::{Context, Result};
use crate::base::progress::Progress;
use crate::base::threads;
use crate::format::codec::{self, Format, zstd_headers};
use crate::layers::flatten::{self, Flattened, Keep};
use crate::layers::read::LayerContent;
use crate::model::content::Budget;
use crate::model::counts::Counts;
use crate::model::digest::Digest;
use crate::model::fileset::{FileSet, Kind};
use crate::model::oci::{self, Manifest};
use crate::plan::analyze::{self, ComponentKind};
use crate::plan::{self, Target};
use crate::secrets::{self, Scanned, Secret};
use crate::simulate::Client;
use crate::transport::image::{Image, Opened};

/// How to inspect.
#[derive(Debug, Clone)]
pub struct Options {
    /// The clients to check for incompatibilities.
    pub clients: Vec<Client>,
    /// Into how many layers a split would be, for what it saves.
    pub target: u32,
    /// Threads to use.
    pub threads: usize,
    /// The image may expand to so many bytes.
    pub max_size: u64,
}

impl Default for Options {
    /// All clients, eight layers, one thread a core.
    fn default() -> Self {
        Self {
            clients: clients::JUDGED.to_vec(),
            target: 8,
            threads: threads::cores(),
            max_size: 256 << 30,
        }
    }
}

/// All that was found in one image for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// What it runs on.
    pub platform: String,
    /// Digest of its config, also called its image ID.
    pub config: Digest,
    /// Digest of its manifest; `None` in an archive without one.
    pub manifest: Option<Digest>,
    /// All layers together.
    pub totals: Totals,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// The final file set.
    pub files: Counts,
    /// Bytes that could be spared.
    pub waste: Waste,
    /// Likely secrets, those that the image shows first.
    pub secrets: Vec<Secret>,
    /// What was looked at for secrets.
    pub scanned: Scanned,
    /// What it is made of, largest first.
    pub components: Vec<Component>,
    /// What clients would not take, the worst first.
    pub warnings: Vec<Warning>,
    /// What `split` would make of it.
    pub savings: Savings,
    /// What a user should know: a package database that could not be read, for example.
    pub notes: Vec<String>,
}

/// All layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// How many there are.
    pub layers: usize,
    /// Bytes as stored.
    pub blob_bytes: u64,
    /// Bytes of the tars, uncompressed.
    pub tar_bytes: u64,
    /// Regular files in them, hidden ones too.
    pub files: u64,
    /// Bytes in those.
    pub file_bytes: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// From 1, lowest first.
    pub number: usize,
    /// What made it, as the history has it, shortened to what says something; secrets are `***`.
    pub created_by: String,
    /// As the manifest states it; `None` in an archive without one.
    pub media_type: Option<String>,
    /// `plain`, `gzip`, `zstd` or `zstd:chunked`, from its first bytes and annotations.
    pub compression: String,
    /// Frames with content, of zstd.
    pub zstd_frames: Option<u64>,
    /// Bytes of the largest window, of zstd.
    pub zstd_window: Option<u64>,
    /// Digest as stored.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes as stored.
    pub blob_bytes: u64,
    /// Bytes of the tar, uncompressed.
    pub tar_bytes: u64,
    /// Regular files that it puts somewhere.
    pub files: u64,
    /// Bytes in them: those that the image shows and those that are hidden.
    pub file_bytes: u64,
    /// Bytes in those that the image shows.
    pub shown_bytes: u64,
    /// Bytes in those that it does not.
    pub hidden_bytes: u64,
}

/// A component: paths that change together, a package for example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Its regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The same as a part of a zstd layer, as estimated.
    pub estimate: u64,
}

/// What `split` would make of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Savings {
    /// Layers.
    pub layers: usize,
    /// Bytes of them as stored, zstd, as estimated.
    pub estimate: u64,
    /// Bytes of hidden files, uncompressed, that are dropped.
    pub dropped_bytes: u64,
}

/// Inspects every image of `opened`.
pub fn inspect(
    opened: &Opened,
    options: &Options,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Vec<Inspection>> {
    let pool = threads::pool(options.threads)?;
    let one = |image: &Image| {
        pool.install(|| inspect_one(image, opened.index.is_some(), options, budget, progress))
            .with_context(|| format!("image {}", image.platform))
    };
    opened.images.iter().map(one).collect()
}

fn inspect_one(
    image: &Image,
    in_index: bool,
    options: &Options,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Inspection> {
    let read = flatten::read(&image.layers, Keep::Contents, options.max_size, budget, progress)?;
    let patterns = secrets::Patterns::new()?;
    let mut layers = layers(image, &read.layers, &patterns)?;
    let (flat, hidden) = read.flatten_and_list()?;
    let Flattened { files, contents, mut notes, .. } = flat;
    for h in &hidden {
        layers[h.file.location.source() as usize].hidden_bytes += h.file.size;
    }
    for layer in &mut layers {
        layer.shown_bytes = layer.file_bytes - layer.hidden_bytes;
    }
    let totals = Totals {
        layers: layers.len(),
        blob_bytes: layers.iter().map(|l| l.blob_bytes).sum(),
        tar_bytes: layers.iter().map(|l| l.tar_bytes).sum(),
        files: layers.iter().map(|l| l.files).sum(),
        file_bytes: layers.iter().map(|l| l.file_bytes).sum(),
    };
    let analysis = analyze::analyze(&files, &contents, &[])?;
    let estimates = analyze::estimate(&files, &contents, &analysis)?;
    let target = plan::Options { target: Target::Layers(options.target), only: None };
    let plan = plan::plan(&files, &analysis, &estimates, &target);
    let mut found = secrets::scan_config(&image.config, &patterns);
    let (in_files, scanned) =
        secrets::scan(&files, &analysis, &hidden, &contents, &patterns, progress)?;
    found.extend(in_files);
    let waste = waste::waste(&files, &hidden);
    let history = image.config.layer_history().len();
    let facts = clients::Facts {
        layers: &layers,
        totals: &totals,
        history: image.config.get("history").is_some().then_some(history),
        manifest_bytes: image.manifest.as_ref().map_or(0, |m| m.len() as u64),
        in_index,
    };
    notes.extend_from_slice(&analysis.notes);
    Ok(Inspection {
        platform: image.platform.to_string(),
        config: Digest::of(&image.config_bytes),
        manifest: image.manifest.as_deref().map(Digest::of),
        totals,
        files: Counts::of(&files),
        secrets: found,
        scanned,
        components: components(&files, &analysis, &estimates),
        warnings: clients::check(&facts, &options.clients),
        savings: Savings {
            layers: plan.layers.len(),
            estimate: plan.layers.iter().map(|l| l.estimate).sum(),
            dropped_bytes: waste.hidden_bytes,
        },
        layers,
        waste,
        notes,
    })
}

/// The facts of each layer but for what the image shows of it.
fn layers(
    image: &Image,
    read: &[LayerContent],
    patterns: &secrets::Patterns,
) -> Result<Vec<Layer>> {
    let history = image.config.layer_history();
    // Without a line for each layer nobody knows which belongs to which.
    let history = Some(history).filter(|lines| lines.len() == image.layers.len());
    let manifest: Option<Manifest> =
        image.manifest.as_deref().map(|m| oci::parse(m, "the manifest")).transpose()?;
    let mut layers = Vec::new();
    for (i, (blob, content)) in image.layers.iter().zip(read).enumerate() {
        let format = Format::of(blob.source.as_ref())?;
        let annotations = manifest.as_ref().and_then(|m| m.layers.get(i)?.annotations.as_ref());
        let chunked = annotations
            .is_some_and(|a| a.keys().any(|key| key.starts_with(codec::chunked::ANNOTATION)));
        let frames = (format == Format::Zstd).then(|| zstd_headers::frames(blob.source.as_ref()));
        let sizes = || content.files().map(|(_, file)| file.size);
        let created_by = history.as_ref().map_or("", |lines| lines[i]);
        layers.push(Layer {
            number: i + 1,
            created_by: shorten(&secrets::redact(created_by, patterns)),
            media_type: manifest.is_some().then(|| blob.media_type.clone()),
            compression: if chunked { "zstd:chunked".into() } else { format.to_string() },
            zstd_frames: frames.map(|f| f.content),
            zstd_window: frames.map(|f| f.window),
            digest: content.digest,
            diff_id: blob.diff_id,
            blob_bytes: blob.source.size(),
            tar_bytes: content.tar_bytes,
            files: sizes().count() as u64,
            file_bytes: sizes().sum(),
            shown_bytes: 0,
            hidden_bytes: 0,
        });
    }
    Ok(layers)
}

/// A command of a Dockerfile as its author wrote it, without what builders put around it.
fn shorten(created_by: &str) -> String {
    let words = created_by.split_whitespace().map(short_digest).collect::<Vec<_>>().join(" ");
    let text = words.strip_suffix("# buildkit").unwrap_or(&words).trim_end();
    let text = text.strip_prefix("/bin/sh -c #(nop)").unwrap_or(text).trim_start();
    let text = text.strip_prefix("RUN ").filter(|t| t.starts_with(['|', '/'])).unwrap_or(text);
    // The values of build arguments stand before the shell: `|1 NAME=value /bin/sh -c …`.
    match text.split_once("/bin/sh -c ") {
        Some((before, command)) if before.is_empty() || before.starts_with('|') => {
            format!("RUN {command}")
        }
        _ => text.to_owned(),
    }
}

/// `file:` and a digest, with as much of it as people compare.
fn short_digest(word: &str) -> &str {
    match word.split_once(':') {
        Some((kind, digest))
            if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            &word[..kind.len() + 13]
        }
        _ => word,
    }
}

/// Files and bytes of each component, largest first; none of those that only have directories.
fn components(set: &FileSet, analysis: &analyze::Analysis, estimates: &[u64]) -> Vec<Component> {
    let of = |c: &analyze::Component| Component {
        name: c.name.clone(),
        kind: c.kind,
        files: 0,
        bytes: 0,
        estimate: 0,
    };
    let mut components: Vec<Component> = analysis.components.iter().map(of).collect();
    for (id, inode) in set.inodes().iter().enumerate() {
        let component = &mut components[analysis.owner[id] as usize];
        component.estimate += estimates[id];
        if let Kind::File(file) = &inode.kind {
            component.files += 1;
            component.bytes += file.size;
        }
    }
    components.retain(|c| c.files > 0);
    components.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    components
}

/// A path as a document has it: `/` before it, odd bytes escaped.
fn path(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lose_what_builders_put_around_them() {
        for (text, want) in [
            ("/bin/sh -c #(nop) ADD file:0 in / ", "ADD file:0 in /"),
            ("/bin/sh -c apt-get  update", "RUN apt-get update"),
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("RUN |1 A=b /bin/sh -c make # buildkit", "RUN make"),
            ("|1 A=b c /bin/sh -c make", "RUN make"),
            ("RUN make", "RUN make"),
            ("COPY . . # buildkit", "COPY . ."),
            (
                &format!("ADD file:{} in /", "0123456789abcdef".repeat(4)),
                "ADD file:0123456789ab in /",
            ),
            ("", ""),
        ] {
            assert_eq!(shorten(text), want);
        }
    }
}
