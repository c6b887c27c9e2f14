//! What the old layers could give to the new file set.

use std::collections::{BTreeMap, BTreeSet};

use super::OldLayer;
use super::choose::{Layers, MOST_LAYERS, Need, Offer};
use crate::layers::changeset::{Change, What, set_by_link};
use crate::model::fileset::{FileSet, Inode, Kind};
use crate::plan::analyze::HEADER_BYTES;

/// Tells for everything in the new file set which old layers say something about it, and which
/// of them what it should be. `estimates` has the expected compressed bytes of each inode.
///
/// Paths are taken literally: where an old layer writes through a symlink of another, the prices
/// are a little off, and nothing else.
pub(super) fn offer(set: &FileSet, estimates: &[u64], old: &[OldLayer]) -> Offer {
    let names = set.names();
    let mut touched = vec![Layers::default(); set.inodes().len()];
    let mut given = vec![Layers::default(); set.inodes().len()];
    for (i, layer) in old.iter().enumerate().take(MOST_LAYERS) {
        let bit = 1 << i;
        // A layer may say the same of a folder again and again.
        let mut seen = BTreeSet::new();
        for change in &layer.changes {
            let keeps = matches!(&change.what, What::Put(inode) if matches!(inode.kind, Kind::Dir));
            let below = set.below(&change.path);
            if !keeps && !below.is_empty() && seen.insert(&change.path) {
                for entry in below {
                    touched[entry.inode as usize] |= bit;
                }
            }
            if !matches!(change.what, What::Opaque)
                && let Some(at) = set.position(&change.path)
            {
                touched[set.entries()[at].inode as usize] |= bit;
            }
        }
        for (inode, paths) in grouped(&layer.changes) {
            let at = paths.first().and_then(|path| set.position(path));
            let Some(id) = at.map(|at| set.entries()[at].inode) else { continue };
            let mine = &names[id as usize];
            let all = mine.len() == paths.len()
                && mine.iter().all(|n| paths.contains(&*set.entries()[*n as usize].path));
            if all && inode.same(&set.inodes()[id as usize]) {
                given[id as usize] |= bit;
            }
        }
    }
    let mut needs: BTreeMap<(Layers, Layers), Need> = BTreeMap::new();
    for (id, inode) in set.inodes().iter().enumerate() {
        // A directory comes along with what is in it.
        if matches!(inode.kind, Kind::Dir) {
            continue;
        }
        let need = needs.entry((touched[id], given[id])).or_insert(Need {
            touched: touched[id],
            given: given[id],
            estimate: 0,
        });
        need.estimate += estimates[id];
    }
    Offer {
        blob_bytes: old.iter().map(|l| l.blob_bytes).collect(),
        weights: old.iter().map(|l| weight(set, estimates, &l.changes)).collect(),
        needs: needs.into_values().collect(),
    }
}

/// How well files are compressed when nothing is known of them.
const RATIO: f64 = 0.35;

/// Expected compressed bytes of all that a layer puts somewhere, directories aside. What the new
/// image does not have is thought to be compressed like its successor of the same name, or else
/// like the rest of the layer.
fn weight(set: &FileSet, estimates: &[u64], changes: &[Change]) -> u64 {
    let (mut known, mut known_bytes, mut unknown_bytes) = (0.0, 0, 0);
    for change in changes {
        let size = match &change.what {
            What::Put(Inode { kind: Kind::File(file), .. }) => file.size,
            What::Put(Inode { kind: Kind::Dir, .. }) | What::Whiteout | What::Opaque => continue,
            _ => 0,
        };
        known += HEADER_BYTES as f64;
        let successor = set.position(&change.path).map(|at| set.entries()[at].inode);
        match successor.map(|id| (&set.inodes()[id as usize].kind, estimates[id as usize])) {
            Some((Kind::File(file), estimate)) if file.size > 0 => {
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

/// What a layer puts, each inode with all names that it has in this layer.
fn grouped(changes: &[Change]) -> Vec<(Inode, BTreeSet<&[u8]>)> {
    let mut groups: Vec<(Inode, BTreeSet<&[u8]>)> = Vec::new();
    let mut group_of: BTreeMap<&[u8], usize> = BTreeMap::new();
    for change in changes {
        let path = &*change.path;
        let group = match &change.what {
            What::Put(inode) => {
                groups.push((inode.clone(), BTreeSet::new()));
                groups.len() - 1
            }
            What::Link { target, like } => {
                // A link into a lower layer gives nothing that can be counted on.
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
