//! Chooses the number and sizes of layers for a client: several plans are made and their pulls simulated.
//! Of those whose first pull is about as fast as the fastest, the one with the smallest updates wins.

use std::collections::BTreeSet;

use super::churn::{Chances, Hazard};
use super::sequence::Sequence;
use super::{MAX_LAYERS, SLACK, by_count};
use crate::model::fileset::{FileSet, InodeKind};
use crate::simulate::{self, CompressionKind, Profile, Reuse};

/// Maximum number of layers to try; more cost more than they save.
const MAX_TRIED: u32 = 40;
/// Plans are about as fast as the fastest if they take at most this many times as long.
const ABOUT_AS_FAST: f64 = 1.02;
/// Caps on the size of layers to try, as multiples of the mean: see [`SLACK`].
const SLACKS: [f64; 3] = [SLACK, 1.1, 1.05];
/// Mean bytes of a tar header and padding per entry.
pub(crate) const HEADER: u64 = 768;

/// Ratio of compressed bytes of gzip to those of zstd, for which the estimates are.
const GZIP_FOR_ZSTD: f64 = 1.15;

struct Candidate {
    groups: Vec<Vec<usize>>,
    makespan: f64,
    update: f64,
}

/// Returns the best groups of atoms; exactly `layers` of them, if given.
pub(super) fn best(
    set: &FileSet,
    sequence: &Sequence,
    profile: &Profile,
    compression: CompressionKind,
    layers: Option<u32>,
) -> Vec<Vec<usize>> {
    let counts = match layers {
        Some(n) => n..=n,
        None => 1..=MAX_TRIED,
    };
    let chances = Chances::new(sequence.components.len());
    let mut found: Vec<Candidate> = Vec::new();
    let weighed =
        (profile.client.unpacks > 1).then(|| by_work(set, sequence, profile, compression));
    let mut ways: Vec<(&Sequence, f64)> = SLACKS.map(|slack| (sequence, slack)).into();
    ways.extend(weighed.as_ref().map(|weighed| (weighed, SLACK)));
    let candidate = |layers: &[(Vec<usize>, simulate::Layer)]| {
        let pulled: Vec<simulate::Layer> = layers.iter().map(|(_, layer)| *layer).collect();
        let Profile { client, link, machine, .. } = profile;
        let groups: Vec<_> = layers.iter().map(|(group, _)| group.clone()).collect();
        Candidate {
            makespan: simulate::simulate(&pulled, client, link, machine).makespan,
            update: update(sequence, &chances, &groups, client.reuse),
            groups,
        }
    };
    let mut last = Vec::new();
    for n in counts {
        for (way, slack) in &ways {
            let groups = by_count(way, n.clamp(1, MAX_LAYERS) as usize, *slack);
            if groups == last {
                continue;
            }
            last.clone_from(&groups);
            let mut layers: Vec<(Vec<usize>, simulate::Layer)> = groups
                .into_iter()
                .map(|group| {
                    let layer = layer(set, sequence, &group, compression);
                    (group, layer)
                })
                .collect();
            found.push(candidate(&layers));
            // Where a layer counts whatever lies below it, what takes longest may come first.
            if profile.client.reuse != Reuse::Chain {
                layers.sort_by_cached_key(|(_, layer)| {
                    // The bits of times, which are not negative, are in their order.
                    std::cmp::Reverse(alone(layer, profile).to_bits())
                });
                found.push(candidate(&layers));
            }
        }
    }
    let fastest = found.iter().map(|c| c.makespan).fold(f64::INFINITY, f64::min);
    found.retain(|c| c.makespan <= fastest * ABOUT_AS_FAST);
    let cheapest = found
        .into_iter()
        .min_by(|a, b| a.update.total_cmp(&b.update).then(a.makespan.total_cmp(&b.makespan)));
    cheapest.map_or_else(Vec::new, |c| c.groups)
}

/// Returns the seconds to download and unpack a layer by itself.
fn alone(layer: &simulate::Layer, profile: &Profile) -> f64 {
    simulate::simulate(&[*layer], &profile.client, &profile.link, &profile.machine).makespan
}

/// The sequence with sizes that count unpacking for half: layers of many small files are the work of
/// one unpacker among several, and should not be left for the end.
fn by_work(
    set: &FileSet,
    sequence: &Sequence,
    profile: &Profile,
    compression: CompressionKind,
) -> Sequence {
    let work = |group: &[usize]| {
        simulate::unpacking(
            &layer(set, sequence, group, compression),
            &profile.client,
            &profile.machine,
        )
    };
    let each = work(&[]);
    let all: Vec<usize> = (0..sequence.atoms.len()).collect();
    let bytes_a_second = sequence.total() as f64 / (work(&all) - each).max(1e-9);
    let mut weighed = sequence.clone();
    for (i, atom) in weighed.atoms.iter_mut().enumerate() {
        let work = ((work(&[i]) - each) * bytes_a_second) as u64;
        atom.estimate = atom.estimate.midpoint(work);
    }
    weighed
}

/// Returns the layer of a group, as input of a simulation.
fn layer(
    set: &FileSet,
    sequence: &Sequence,
    group: &[usize],
    compression: CompressionKind,
) -> simulate::Layer {
    let mut layer = simulate::Layer { blob_bytes: 0, tar_bytes: 0, entries: 0, compression };
    for at in group {
        let atom = &sequence.atoms[*at];
        layer.blob_bytes += atom.estimate;
        layer.tar_bytes += HEADER;
        layer.entries += 1;
        if let InodeKind::File(file) = &set[atom.inode].kind {
            layer.tar_bytes += file.size;
        }
    }
    layer.blob_bytes = stored(layer.blob_bytes, layer.tar_bytes, compression);
    layer
}

/// Converts the size that a blob has with zstd to that with `compression`.
pub(crate) fn stored(estimate: u64, unpacked: u64, compression: CompressionKind) -> u64 {
    match compression {
        CompressionKind::None => unpacked,
        CompressionKind::Gzip => (estimate as f64 * GZIP_FOR_ZSTD) as u64,
        CompressionKind::Zstd => estimate,
    }
}

/// Returns the bytes that a client is expected to download again at a release.
fn update(sequence: &Sequence, chances: &Chances, groups: &[Vec<usize>], reuse: Reuse) -> f64 {
    let hazard = |components: &BTreeSet<usize>| {
        let all = components.iter().map(|c| &sequence.components[*c].hazard);
        all.fold(Hazard::default(), Hazard::plus)
    };
    let (mut below, mut bytes) = (BTreeSet::new(), 0.0);
    for group in groups {
        let here: BTreeSet<usize> = group.iter().map(|at| sequence.atoms[*at].component).collect();
        below.extend(&here);
        let changing = if reuse == Reuse::Chain { &below } else { &here };
        let size: u64 = group.iter().map(|at| sequence.atoms[*at].estimate).sum();
        bytes += size as f64 * chances.of(&hazard(changing));
    }
    bytes
}
