//! What was done, as plain data: the facts of the table that people see and of `--json`.
//! docs/JSON.md describes the latter.

use serde::Serialize;

use crate::analyze::{Analysis, ComponentKind};
use crate::digest::Digest;
use crate::encode::EncodedLayer;
use crate::fileset::{FileSet, Kind};
use crate::flatten::Hidden;
use crate::plan::Plan;

/// Raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Layers and bytes of an image, before or after.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    /// Number of layers.
    pub layers: usize,
    /// Bytes of the layers as stored; `None` when nothing was encoded.
    pub blob_bytes: Option<u64>,
    /// Bytes of the layers, uncompressed; `None` when nothing was encoded.
    pub tar_bytes: Option<u64>,
}

/// How many paths of which sort there are.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Regular files; a hard-link group counts once.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Names beyond the first of hard-link groups.
    pub hard_links: u64,
    /// Devices and named pipes.
    pub special: u64,
}

/// A component in a layer.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Its files in this layer.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// One layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// What is in it, in a few words.
    pub label: String,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Expected bytes of the blob.
    pub estimate: u64,
    /// Expected chance that it changes from one release to the next.
    pub churn: f64,
    /// Bytes of the uncompressed tar; `None` when nothing was encoded, as for the fields below.
    pub tar_bytes: Option<u64>,
    /// Bytes of the blob.
    pub blob_bytes: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Digest of the blob.
    pub digest: Option<Digest>,
    /// What it is made of, largest first.
    pub components: Vec<ComponentReport>,
}

/// One image for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// What it runs on.
    pub platform: String,
    /// Digest of the input's config, also called its image ID.
    pub source: Digest,
    /// The input's layers.
    pub before: Totals,
    /// The output's layers.
    pub after: Totals,
    /// The final file set.
    pub files: Counts,
    /// What lower layers hold that the final file set does not.
    pub hidden: Hidden,
    /// Lowest first.
    pub layers: Vec<LayerReport>,
    /// Digest of the new manifest; `None` when nothing was encoded.
    pub manifest: Option<Digest>,
    /// Digest of the new config.
    pub config: Option<Digest>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// What `split` and `flatten` did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where the image was read from.
    pub input: String,
    /// Where it was written to; `None` for a dry run.
    pub output: Option<String>,
    /// Digest that a registry will know the image, or the index of several, by.
    pub digest: Option<Digest>,
    /// One a platform.
    pub images: Vec<ImageReport>,
    /// Wall time.
    pub seconds: f64,
}

/// Counts the paths of a file set.
pub fn count(files: &FileSet) -> Counts {
    let mut counts = Counts::default();
    for inode in files.inodes() {
        match &inode.kind {
            Kind::File(file) => {
                counts.files += 1;
                counts.bytes += file.size;
            }
            Kind::Dir => counts.directories += 1,
            Kind::Symlink { .. } => counts.symlinks += 1,
            _ => counts.special += 1,
        }
    }
    counts.hard_links = (files.entries().len() - files.inodes().len()) as u64;
    counts
}

/// The rows of a plan, and of its encoded layers if there are any.
pub fn layers(
    plan: &Plan,
    analysis: &Analysis,
    encoded: Option<&[EncodedLayer]>,
) -> Vec<LayerReport> {
    let rows = plan.layers.iter().enumerate().map(|(i, layer)| {
        let encoded = encoded.map(|all| &all[i]);
        let components = layer.shares.iter().map(|share| {
            let component = &analysis.components[share.component as usize];
            ComponentReport {
                name: component.name.clone(),
                kind: component.kind,
                files: share.files,
                bytes: share.bytes,
            }
        });
        LayerReport {
            label: layer.label.clone(),
            files: layer.shares.iter().map(|s| s.files).sum(),
            bytes: layer.shares.iter().map(|s| s.bytes).sum(),
            estimate: layer.estimate,
            churn: layer.churn,
            tar_bytes: encoded.map(|e| e.tar_bytes),
            blob_bytes: encoded.map(EncodedLayer::bytes),
            diff_id: encoded.map(|e| e.diff_id),
            digest: encoded.map(|e| e.digest),
            components: components.collect(),
        }
    });
    rows.collect()
}
