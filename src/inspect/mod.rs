//! Inspection of an image: layers, wasted bytes, recoverable files, likely secrets, client
//! incompatibilities, and what splitting would save. docs/INSPECT.md has the rules.
//!
//! May import everything below `split`, and of `split` only what clients download of an image. Types to know: [`Inspection`],
//! the result for one platform; [`Waste`]; and [`Warning`], an incompatibility.

mod clients;
mod explain;
mod largest;
mod limits;
mod waste;

pub use clients::{Severity, Warning};
pub use explain::{Explanation, HolderReport, OwnerReport, explain};
pub use largest::{FolderSize, LargeFile};
pub use limits::{FailOn, Limit};
pub use waste::{Duplicate, FileLocation, HiddenReport, Waste};

use std::sync::Arc;

use serde::Serialize;

use crate::base::defaults;
use crate::base::error::{Context, Result};
use crate::base::progress::Progress;
use crate::base::threads;
use crate::format::codec::{self, Format, zstd_headers};
use crate::layers::Limits;
use crate::layers::flatten::{self, Flattened, Keep};
use crate::layers::read::LayerContent;
use crate::model::content::Budget;
use crate::model::counts::Counts;
use crate::model::digest::Digest;
use crate::model::fileset::{FileSet, InodeKind};
use crate::model::oci::{self, Manifest};
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{self, ComponentKind, Inventory};
use crate::plan::{self, MAX_LAYERS, Target};
use crate::secrets::{self, LikelySecret, Scanned};
use crate::simulate::{self, Client};
use crate::split;
use crate::transport::image::{Image, Opened};

/// Number of the largest files that are listed by default.
pub const LARGEST: usize = 100;

/// Options of an inspection.
#[derive(Debug, Clone)]
pub struct InspectOptions {
    /// The clients to check for incompatibilities.
    pub clients: Vec<Client>,
    /// Number of layers of the split whose savings are predicted.
    pub target: u32,
    /// Maximum number of the largest files.
    pub largest: usize,
    /// Number of threads.
    pub threads: usize,
    /// Maximum number of bytes that the image may expand to.
    pub max_size: u64,
}

impl Default for InspectOptions {
    /// All clients with rules of their own, one thread per core, and the values of [`defaults`].
    fn default() -> Self {
        Self {
            clients: clients::JUDGED.to_vec(),
            target: defaults::LAYERS,
            largest: LARGEST,
            threads: threads::cores(),
            max_size: defaults::MAX_SIZE,
        }
    }
}

/// The findings in an image for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The platform that it runs on.
    pub platform: String,
    /// Digest of its config, also called its image ID.
    pub config: Digest,
    /// Digest of its manifest; `None` in an archive without one.
    pub manifest: Option<Digest>,
    /// Sums over all layers.
    pub totals: InspectionTotals,
    /// The layers, lowest first.
    pub layers: Vec<LayerFacts>,
    /// The final file set.
    pub files: Counts,
    /// Bytes that could be saved.
    pub waste: Waste,
    /// Likely secrets, those in shown files first.
    pub secrets: Vec<LikelySecret>,
    /// Counts of the files searched for secrets.
    pub scanned: Scanned,
    /// Its components, largest first.
    pub components: Vec<ComponentSize>,
    /// The largest files that the image shows, largest first.
    pub largest: Vec<LargeFile>,
    /// Folders with at least 1 % of the bytes that the image shows: each before those in it, the largest
    /// of those first.
    pub folders: Vec<FolderSize>,
    /// Client incompatibilities, those that fail first.
    pub warnings: Vec<Warning>,
    /// What `split` would save.
    pub savings: Savings,
    /// Notes for the user, for example on a package database that could not be read.
    pub notes: Vec<String>,
}

/// Sums over all layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InspectionTotals {
    /// Number of layers.
    pub layers: usize,
    /// Bytes as stored.
    pub blob_bytes: u64,
    /// Bytes that a client without any of the layers downloads. Uncompressed layers count as gzip, since
    /// a push compresses them.
    pub download_bytes: u64,
    /// Whether those bytes are an estimate.
    pub estimated: bool,
    /// Bytes of the tars, uncompressed.
    pub tar_bytes: u64,
    /// Number of regular files in them, including hidden ones.
    pub files: u64,
    /// Bytes in those files.
    pub file_bytes: u64,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerFacts {
    /// Its number from 1, lowest first.
    pub number: usize,
    /// The command that made it, from the history, shortened; secrets are `***`.
    pub created_by: String,
    /// As the manifest states it; `None` in an archive without one.
    pub media_type: Option<String>,
    /// `plain`, `gzip`, `zstd` or `zstd:chunked`, from its first bytes and annotations.
    pub compression: String,
    /// Number of zstd frames with content.
    pub zstd_frames: Option<u64>,
    /// Bytes of the largest zstd window.
    pub zstd_window: Option<u64>,
    /// Digest as stored.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes as stored.
    pub blob_bytes: u64,
    /// Bytes of the tar, uncompressed.
    pub tar_bytes: u64,
    /// Number of regular files that it adds.
    pub files: u64,
    /// Bytes in them, shown and hidden.
    pub file_bytes: u64,
    /// Bytes in the files that the image shows.
    pub shown_bytes: u64,
    /// Bytes in the files that upper layers hide.
    pub hidden_bytes: u64,
}

/// A component, for example a package, with its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentSize {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ComponentKind,
    /// Number of its regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Estimated compressed bytes in a zstd layer.
    pub estimate: u64,
}

/// Savings of `split`, as predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Savings {
    /// Number of layers.
    pub layers: usize,
    /// Estimated bytes of the layers as stored with zstd.
    pub estimate: u64,
    /// Uncompressed bytes of hidden files that are dropped.
    pub dropped_bytes: u64,
}

/// Inspects every image of `opened`.
///
/// # Errors
/// If an image is damaged, exceeds a limit, or can't be read.
pub fn inspect(
    opened: &Opened,
    options: &InspectOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Vec<Inspection>> {
    let in_index = opened.index.is_some();
    each(opened, options, |image| {
        Ok(inspect_one(image, in_index, options, budget, progress)?.inspection)
    })
}

/// An image that was inspected, and what was read for that.
#[derive(Debug)]
pub struct Inspected {
    /// The findings.
    pub inspection: Inspection,
    /// The final file set.
    pub rootfs: Rootfs,
    /// Its components and estimates.
    pub inventory: Inventory,
    /// The layers as clients pull them, lowest first.
    pub pulled: Vec<simulate::Layer>,
    /// Counts the memory of the file set against the budget until it is dropped.
    pub limits: Limits,
}

/// Inspects the first image of `opened`, and keeps what was read.
///
/// # Errors
/// Those of [`inspect`].
pub fn inspect_and_keep(
    opened: &Opened,
    options: &InspectOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Inspected> {
    let in_index = opened.index.is_some();
    let pool = threads::pool(options.threads)?;
    pool.install(|| inspect_one(&opened.images[0], in_index, options, budget, progress))
}

/// Calls `one` for each image, on the threads of `options`.
fn each<T: Send>(
    opened: &Opened,
    options: &InspectOptions,
    one: impl Fn(&Image) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let pool = threads::pool(options.threads)?;
    let named = |image: &Image| {
        pool.install(|| one(image)).with_context(|| format!("image {}", image.platform))
    };
    opened.images.iter().map(named).collect()
}

/// Returns the components of an image, with estimates, and its layers as clients pull them.
fn measure(
    image: &Image,
    flat: &Flattened,
    progress: &dyn Progress,
) -> Result<(Inventory, Vec<simulate::Layer>)> {
    progress.begin("analyze", 0);
    let analysis = analyze::analyze(&flat.rootfs, &[])?;
    let inventory = analyze::estimate(&flat.rootfs, analysis, MAX_LAYERS.into(), &[])?;
    let pulled = split::pulled(image, flat, &inventory.estimates)?;
    progress.end();
    Ok((inventory, pulled))
}

fn inspect_one(
    image: &Image,
    in_index: bool,
    options: &InspectOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Inspected> {
    let read = flatten::read(&image.layers, Keep::Contents, options.max_size, budget, progress)?;
    let patterns = secrets::Patterns::new()?;
    let mut layers = layers(image, &read.layers, &patterns)?;
    let (flat, hidden) = read.flatten_and_list()?;
    for h in &hidden {
        layers[h.file.location.source().index()].hidden_bytes += h.file.size;
    }
    for layer in &mut layers {
        layer.shown_bytes = layer.file_bytes - layer.hidden_bytes;
    }
    let (inventory, pulled) = measure(image, &flat, progress)?;
    let Flattened { rootfs, mut notes, limits, .. } = flat;
    let totals = InspectionTotals {
        layers: layers.len(),
        blob_bytes: layers.iter().map(|l| l.blob_bytes).sum(),
        download_bytes: pulled.iter().map(|l| l.blob_bytes).sum(),
        estimated: split::is_estimated(image),
        tar_bytes: layers.iter().map(|l| l.tar_bytes).sum(),
        files: layers.iter().map(|l| l.files).sum(),
        file_bytes: layers.iter().map(|l| l.file_bytes).sum(),
    };
    let files = &rootfs.files;
    let analysis = &inventory.analysis;
    let target = plan::PlanOptions::new(Target::AtMost(options.target));
    let plan = plan::plan(files, &inventory, &target);
    let mut found = secrets::scan_config(&image.config, &patterns);
    let (in_files, scanned) = secrets::scan(&rootfs, analysis, &hidden, &patterns, progress)?;
    found.extend(in_files);
    let waste = waste::waste(files, &hidden);
    let history = image.config.layer_history().len();
    let facts = clients::Facts {
        layers: &layers,
        totals: &totals,
        history: image.config.get("history").is_some().then_some(history),
        manifest_bytes: image.manifest.as_ref().map_or(0, |m| m.len() as u64),
        in_index,
    };
    notes.extend_from_slice(&analysis.notes);
    let inspection = Inspection {
        platform: image.platform.to_string(),
        config: Digest::of(&image.config_bytes),
        manifest: image.manifest.as_deref().map(Digest::of),
        totals,
        files: Counts::of(files),
        secrets: found,
        scanned,
        components: components(files, &inventory),
        largest: largest::files(files, &inventory.estimates, options.largest),
        folders: largest::folders(files, &inventory.estimates),
        warnings: clients::check(&facts, &options.clients),
        savings: Savings {
            layers: plan.layers.len(),
            estimate: plan.layers.iter().map(|l| l.estimate).sum(),
            dropped_bytes: waste.hidden_bytes,
        },
        layers,
        waste,
        notes,
    };
    Ok(Inspected { inspection, rootfs, inventory, pulled, limits })
}

/// Returns the facts of each layer, except how much of it is shown.
fn layers(
    image: &Image,
    read: &[LayerContent],
    patterns: &secrets::Patterns,
) -> Result<Vec<LayerFacts>> {
    let commands = created_by(image, patterns);
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
        layers.push(LayerFacts {
            number: i + 1,
            created_by: commands.get(i).cloned().unwrap_or_default(),
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

/// Returns the command that made each layer, or nothing if the history doesn't tell.
fn created_by(image: &Image, patterns: &secrets::Patterns) -> Vec<String> {
    let history = image.config.layer_history();
    // Without an entry for each layer, entries can't be assigned to layers.
    let known = Some(history).filter(|lines| lines.len() == image.layers.len());
    let lines = known.unwrap_or_default().into_iter();
    lines.map(|line| shorten(&secrets::redact(line, patterns))).collect()
}

/// Returns a Dockerfile command as its author wrote it, without what builders add.
fn shorten(created_by: &str) -> String {
    let words = created_by.split_whitespace().map(short_digest).collect::<Vec<_>>().join(" ");
    let text = words.strip_suffix("# buildkit").unwrap_or(&words).trim_end();
    let text = text.strip_prefix("/bin/sh -c #(nop)").unwrap_or(text).trim_start();
    let text = text.strip_prefix("RUN ").filter(|t| t.starts_with(['|', '/'])).unwrap_or(text);
    // Values of build arguments precede the shell: `|1 NAME=value /bin/sh -c …`.
    match text.split_once("/bin/sh -c ") {
        Some((before, command)) if before.is_empty() || before.starts_with('|') => {
            format!("RUN {command}")
        }
        _ => text.to_owned(),
    }
}

/// Shortens the digest in a word such as `file:` and 64 digits.
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

/// Returns the size of each component with files, largest first.
fn components(set: &FileSet, inventory: &analyze::Inventory) -> Vec<ComponentSize> {
    let analyze::Inventory { analysis, estimates } = inventory;
    let of = |c: &analyze::Component| ComponentSize {
        name: c.name.clone(),
        kind: c.kind,
        files: 0,
        bytes: 0,
        estimate: 0,
    };
    let mut components: Vec<ComponentSize> = analysis.components.iter().map(of).collect();
    for (id, inode) in set.inodes().iter().enumerate() {
        let component = &mut components[analysis.owner[id].index()];
        component.estimate += estimates[id];
        if let InodeKind::File(file) = &inode.kind {
            component.files += 1;
            component.bytes += file.size;
        }
    }
    components.retain(|c| c.files > 0);
    components.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    components
}

/// Formats a path for JSON: with a leading `/`, unprintable bytes escaped.
fn path(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lose_what_builders_add() {
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
