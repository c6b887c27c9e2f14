//! Explanation of a path: what owns it, in which layers it is, what hides it, and what its changes cost
//! clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::waste::{self, HiddenReport};
use super::{InspectOptions, created_by, each, measure};
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::layers::flatten::{self, Flattened, Keep};
use crate::layers::hidden::HiddenFile;
use crate::model::content::Budget;
use crate::model::fileset::{FileSet, InodeKind, display};
use crate::model::index::InodeId;
use crate::plan::analyze::{ComponentKind, Inventory};
use crate::plan::{self, Plan, PlanOptions, Target};
use crate::secrets::Patterns;
use crate::transport::image::{Image, Opened};

/// What there is to know of a path in an image for one platform.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The platform that the image runs on.
    pub platform: String,
    /// The path, with a leading slash.
    pub path: String,
    /// What the image shows there: `file`, `directory`, `symlink`, …; `None` if nothing.
    pub shown: Option<&'static str>,
    /// Number of files at the path and below it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The components that own them, largest first.
    pub components: Vec<OwnerReport>,
    /// The layers of the image that hold them, lowest first.
    pub layers: Vec<HolderReport>,
    /// The layers that a split would put them into, lowest first.
    pub split: Vec<HolderReport>,
    /// Number of layers of that split.
    pub split_layers: usize,
    /// Files at the path and below it that lower layers hold and the image does not show, largest first.
    pub hidden: Vec<HiddenReport>,
}

/// A component that owns some of the files.
#[derive(Debug, Clone, Serialize)]
pub struct OwnerReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ComponentKind,
    /// Number of the files that it owns.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Chance, from 0 to 1, that it changes from one release to the next.
    pub chance: f64,
}

/// A layer that holds some of the files.
#[derive(Debug, Clone, Serialize)]
pub struct HolderReport {
    /// Its number, from 1.
    pub layer: usize,
    /// The command that made it, or its contents.
    pub what: String,
    /// Number of the files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Chance, from 0 to 1, that it changes from one release to the next; `None` if that is not known.
    pub chance: Option<f64>,
    /// What clients that go by digest download when one of the files changes: the layer. As gzip if
    /// it is not compressed, since a push compresses it.
    pub set_bytes: u64,
    /// What clients that go by chain ID download then: this layer and all above.
    pub chain_bytes: u64,
}

/// Explains a path in every image of `opened`.
///
/// # Errors
/// If an image can't be read, or if no layer of any has something at the path.
pub fn explain(
    opened: &Opened,
    path: &str,
    options: &InspectOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Vec<Explanation>> {
    let path = path.trim_matches('/').as_bytes();
    let one = |image: &Image| explain_one(image, path, options, budget, progress);
    let found: Vec<Explanation> = each(opened, options, one)?;
    if found.iter().all(|e| e.shown.is_none() && e.hidden.is_empty()) {
        let path = display(path);
        return Err(Error::not_found(format!(
            "no layer has a file at {path}; `relayer inspect --tree` shows the folders"
        )));
    }
    Ok(found)
}

fn explain_one(
    image: &Image,
    path: &[u8],
    options: &InspectOptions,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Explanation> {
    let read = flatten::read(&image.layers, Keep::Contents, options.max_size, budget, progress)?;
    let (flat, hidden) = read.flatten_and_list()?;
    let (inventory, pulled) = measure(image, &flat, progress)?;
    let Flattened { rootfs, .. } = &flat;
    let target = PlanOptions::new(Target::AtMost(options.target));
    let plan = plan::plan(&rootfs.files, &inventory, &target);
    let within = |other: &[u8]| {
        let below = other.strip_prefix(path);
        below.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest[0] == b'/')
    };
    let set = &rootfs.files;
    let sizes: Vec<u64> = pulled.iter().map(|layer| layer.blob_bytes).collect();
    let commands = created_by(image, &Patterns::new()?);
    let holder = |(layer, (files, bytes))| HolderReport {
        what: commands.get(layer).cloned().unwrap_or_default(),
        ..holder(layer, files, bytes, &sizes)
    };
    let files = files(set, within);
    let layer_of = |id: InodeId| match &set[id].kind {
        InodeKind::File(file) => file.location.source().index(),
        _ => 0,
    };
    let hidden: Vec<HiddenFile> = hidden.into_iter().filter(|h| within(&h.path)).collect();
    let position = set.position(path);
    Ok(Explanation {
        platform: image.platform.to_string(),
        path: display(path),
        shown: position.map(|at| set.inode(&set.entries()[at]).kind.word()),
        files: files.len() as u64,
        bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        components: owners(&files, &inventory),
        layers: sums(&files, layer_of).into_iter().map(holder).collect(),
        split: planned(set, &files, &plan),
        split_layers: plan.layers.len(),
        hidden: waste::waste(set, &hidden).hidden,
    })
}

/// Returns the files at paths that `within` accepts, each inode once, with their sizes.
fn files(set: &FileSet, within: impl Fn(&[u8]) -> bool) -> Vec<(InodeId, u64)> {
    let mut found: Vec<(InodeId, u64)> = Vec::new();
    for entry in set.entries().iter().filter(|entry| within(&entry.path)) {
        if let InodeKind::File(file) = &set.inode(entry).kind {
            found.push((entry.inode, file.size));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Returns the number and bytes of files by a key.
fn sums<K: Ord>(files: &[(InodeId, u64)], key: impl Fn(InodeId) -> K) -> BTreeMap<K, (u64, u64)> {
    let mut sums = BTreeMap::new();
    for (id, bytes) in files {
        let sum: &mut (u64, u64) = sums.entry(key(*id)).or_default();
        (sum.0, sum.1) = (sum.0 + 1, sum.1 + bytes);
    }
    sums
}

fn owners(files: &[(InodeId, u64)], inventory: &Inventory) -> Vec<OwnerReport> {
    let analysis = &inventory.analysis;
    let sums = sums(files, |id| analysis.owner[id.index()]);
    let owner = |(id, (files, bytes))| {
        let component = &analysis[id];
        let (name, kind) = (component.name.clone(), component.kind);
        OwnerReport { name, kind, files, bytes, chance: plan::chance_of_change(component) }
    };
    let mut owners: Vec<OwnerReport> = sums.into_iter().map(owner).collect();
    owners.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    owners
}

/// Returns what a split would make of the files.
fn planned(set: &FileSet, files: &[(InodeId, u64)], plan: &Plan) -> Vec<HolderReport> {
    let mut layer_of = vec![0; set.inodes().len()];
    for (number, layer) in plan.layers.iter().enumerate() {
        for at in &layer.entries {
            layer_of[set.entries()[*at as usize].inode.index()] = number;
        }
    }
    let sizes: Vec<u64> = plan.layers.iter().map(|layer| layer.estimate).collect();
    let one = |(layer, (files, bytes)): (usize, (u64, u64))| HolderReport {
        what: plan.layers[layer].label.clone(),
        chance: Some(plan.layers[layer].churn),
        ..holder(layer, files, bytes, &sizes)
    };
    sums(files, |id| layer_of[id.index()]).into_iter().map(one).collect()
}

/// Returns the report on a layer of an image whose layers have these sizes.
fn holder(layer: usize, files: u64, bytes: u64, sizes: &[u64]) -> HolderReport {
    HolderReport {
        layer: layer + 1,
        what: String::new(),
        files,
        bytes,
        chance: None,
        set_bytes: sizes[layer],
        chain_bytes: sizes[layer..].iter().sum(),
    }
}
