//! Compares the old layers with the new file set.

use std::collections::{BTreeMap, BTreeSet};

use super::OldLayer;
use super::choose::{Layers, MAX_OLD_LAYERS, NeedGroup, OldContent};
use crate::layers::changeset::{Change, ChangeKind, set_by_link};
use crate::model::fileset::{FileSet, Inode, InodeKind};
use crate::plan::analyze::HEADER_BYTES;

/// Finds for every inode of the new file set which old layers touch it, and which of them have it as it
/// should be. `estimates` has the expected compressed bytes of each inode.
///
/// Paths are taken literally: where an old layer writes through a symlink of another, the costs are
/// slightly wrong, and nothing else.
pub(super) fn old_content(set: &FileSet, estimates: &[u64], old: &[OldLayer]) -> OldContent {
    let names = set.names();
    let mut touched_by = vec![Layers::default(); set.inodes().len()];
    let mut provided_by = vec![Layers::default(); set.inodes().len()];
    for (i, layer) in old.iter().enumerate().take(MAX_OLD_LAYERS) {
        let bit = 1 << i;
        // A layer may have many entries for the same directory.
        let mut seen = BTreeSet::new();
        for change in &layer.changes {
            let keeps = matches!(&change.kind, ChangeKind::Add(inode) if matches!(inode.kind, InodeKind::Dir));
            let below = set.below(&change.path);
            if !keeps && !below.is_empty() && seen.insert(&change.path) {
                for entry in below {
                    touched_by[entry.inode.index()] |= bit;
                }
            }
            if !matches!(change.kind, ChangeKind::Opaque)
                && let Some(at) = set.position(&change.path)
            {
                touched_by[set.entries()[at].inode.index()] |= bit;
            }
        }
        for (inode, paths) in grouped(&layer.changes) {
            let at = paths.first().and_then(|path| set.position(path));
            let Some(id) = at.map(|at| set.entries()[at].inode) else { continue };
            let mine = &names[id.index()];
            let all = mine.len() == paths.len()
                && mine.iter().all(|n| paths.contains(&*set.entries()[*n as usize].path));
            if all && inode.same(&set[id]) {
                provided_by[id.index()] |= bit;
            }
        }
    }
    let mut needs: BTreeMap<(Layers, Layers), NeedGroup> = BTreeMap::new();
    for (id, inode) in set.inodes().iter().enumerate() {
        // A directory is written with whatever is in it.
        if matches!(inode.kind, InodeKind::Dir) {
            continue;
        }
        let need = needs.entry((touched_by[id], provided_by[id])).or_insert(NeedGroup {
            touched_by: touched_by[id],
            provided_by: provided_by[id],
            estimate: 0,
        });
        need.estimate += estimates[id];
    }
    OldContent {
        blob_bytes: old.iter().map(|l| l.blob_bytes).collect(),
        weights: old.iter().map(|l| weight(set, estimates, &l.changes)).collect(),
        needs: needs.into_values().collect(),
        fixed: 0,
    }
}

/// Compression ratio of files about which nothing is known.
const RATIO: f64 = 0.35;

/// Returns the expected compressed bytes of everything that a layer adds except directories. Files that
/// the new image does not have are estimated like the file that now has their path, or else like the
/// rest of the layer.
fn weight(set: &FileSet, estimates: &[u64], changes: &[Change]) -> u64 {
    let (mut known, mut known_bytes, mut unknown_bytes) = (0.0, 0, 0);
    for change in changes {
        let size = match &change.kind {
            ChangeKind::Add(Inode { kind: InodeKind::File(file), .. }) => file.size,
            ChangeKind::Add(Inode { kind: InodeKind::Dir, .. })
            | ChangeKind::Whiteout
            | ChangeKind::Opaque => continue,
            _ => 0,
        };
        known += HEADER_BYTES as f64;
        let successor = set.id(&change.path);
        match successor.map(|id| (&set[id].kind, estimates[id.index()])) {
            Some((InodeKind::File(file), estimate)) if file.size > 0 => {
                let data = estimate.saturating_sub(HEADER_BYTES) as f64;
                known += data / file.size as f64 * size as f64;
                known_bytes += size;
            }
            _ => unknown_bytes += size,
        }
    }
    let ratio = if known_bytes > 0 { known / known_bytes as f64 } else { RATIO };
    (known + ratio.min(1.0) * unknown_bytes as f64) as u64
}

/// Returns the inodes that a layer adds, each with all names that it has in this layer.
fn grouped(changes: &[Change]) -> Vec<(Inode, BTreeSet<&[u8]>)> {
    let mut groups: Vec<(Inode, BTreeSet<&[u8]>)> = Vec::new();
    let mut group_of: BTreeMap<&[u8], usize> = BTreeMap::new();
    for change in changes {
        let path = &*change.path;
        let group = match &change.kind {
            ChangeKind::Add(inode) => {
                groups.push((inode.clone(), BTreeSet::new()));
                groups.len() - 1
            }
            ChangeKind::Link { target, metadata: like } => {
                // A link into a lower layer depends on that layer and provides nothing by itself.
                let Some(group) = group_of.get(&**target).copied() else { continue };
                set_by_link(&mut groups[group].0, like);
                group
            }
            _ => continue,
        };
        if let Some(before) = group_of.insert(path, group) {
            groups[before].1.remove(path);
        }
        groups[group].1.insert(path);
    }
    groups
}
