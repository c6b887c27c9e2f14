//! What the old layers could give to the new file set.

use std::collections::{BTreeMap, BTreeSet};

use super::OldLayer;
use super::choose::{Layers, MOST_LAYERS, Need, Offer};
use crate::fileset::{FileSet, Inode, Kind};
use crate::layer::{Change, What};

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
        for change in &layer.changes {
            let keeps = matches!(&change.what, What::Put(inode) if matches!(inode.kind, Kind::Dir));
            if !keeps {
                for entry in set.below(&change.path) {
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
            tar_bytes: 0,
        });
        need.estimate += estimates[id];
        need.tar_bytes += tar_bytes(inode, names[id].len());
    }
    Offer {
        blob_bytes: old.iter().map(|l| l.blob_bytes).collect(),
        tar_bytes: old.iter().map(|l| file_bytes(&l.changes)).collect(),
        needs: needs.into_values().collect(),
    }
}

/// Bytes of an inode's entries in a tar, but for headers beyond the first.
fn tar_bytes(inode: &Inode, names: usize) -> u64 {
    let data = match &inode.kind {
        Kind::File(file) => file.size.next_multiple_of(512),
        _ => 0,
    };
    data + 512 * names as u64
}

/// The same of all that a layer puts somewhere, directories aside.
fn file_bytes(changes: &[Change]) -> u64 {
    let bytes = |change: &Change| match &change.what {
        What::Put(inode) if !matches!(inode.kind, Kind::Dir) => tar_bytes(inode, 1),
        What::Link { .. } => 512,
        _ => 0,
    };
    changes.iter().map(bytes).sum()
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
                let inode = &mut groups[group].0;
                if !matches!(inode.kind, Kind::Symlink { .. }) {
                    inode.mode = like.mode;
                }
                (inode.uid, inode.gid, inode.mtime) = (like.uid, like.gid, like.mtime);
                inode.xattrs.clone_from(&like.xattrs);
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
