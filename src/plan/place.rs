//! Turns groups of atoms into planned layers: entries, parent directories and shares of components.

use std::collections::BTreeMap;

use super::churn::{Chances, Hazard};
use super::label::label;
use super::sequence::Sequence;
use super::{PlannedLayer, Share};
use crate::layers::order;
use crate::model::fileset::{FileSet, InodeKind, parent};
use crate::plan::analyze::Analysis;

/// Lists the entries of each group of positions in the sequence.
pub(super) fn place(
    set: &FileSet,
    analysis: &Analysis,
    sequence: &Sequence,
    groups: &[Vec<usize>],
) -> Vec<PlannedLayer> {
    let mut layer_of: Vec<Option<u8>> = vec![None; set.inodes().len()];
    let mut layers = Vec::with_capacity(groups.len());
    let chances = Chances::new(sequence.components.len());
    for (g, group) in groups.iter().enumerate() {
        let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
        for at in group {
            let atom = &sequence.atoms[*at];
            layer_of[atom.inode.index()] = Some(g as u8);
            let component = sequence.components[atom.component].component;
            let share = shares.entry(atom.component).or_insert(Share {
                component,
                files: 0,
                bytes: 0,
                estimate: 0,
            });
            share.estimate += atom.estimate;
            if let InodeKind::File(file) = &set[atom.inode].kind {
                share.files += 1;
                share.bytes += file.size;
            }
        }
        let hazards = shares.keys().map(|c| &sequence.components[*c].hazard);
        let hazard = hazards.fold(Hazard::default(), Hazard::plus);
        let mut shares: Vec<Share> = shares.into_values().collect();
        let name = |s: &Share| analysis[s.component].name.as_str();
        shares.sort_by(|a, b| b.estimate.cmp(&a.estimate).then_with(|| name(a).cmp(name(b))));
        layers.push(PlannedLayer {
            entries: Vec::new(),
            whiteouts: Vec::new(),
            estimate: shares.iter().map(|s| s.estimate).sum(),
            churn: chances.of(&hazard),
            label: label(&shares, analysis),
            shares,
        });
    }
    // For each directory one bit per layer that already has it; there are never more than 125 layers.
    let mut listed: Vec<u128> = vec![0; set.entries().len()];
    for (i, entry) in set.entries().iter().enumerate() {
        let Some(layer) = layer_of[entry.inode.index()] else { continue };
        let bit = 1u128 << layer;
        let entries = &mut layers[layer as usize].entries;
        entries.push(i as u32);
        let mut up = parent(&entry.path);
        // Once a directory is listed, so are all above it.
        while let Some(dir) = up.and_then(|path| set.position(path)) {
            if listed[dir] & bit != 0 {
                break;
            }
            listed[dir] |= bit;
            entries.push(dir as u32);
            up = parent(&set.entries()[dir].path);
        }
    }
    for layer in &mut layers {
        // An image may have nothing but its root.
        if layer.entries.is_empty() && set.position(b"").is_some() {
            layer.entries.push(0);
        }
        order::sort(set, &mut layer.entries);
    }
    layers
}
