//! What the next release is expected to cost clients that have this image.
//!
//! Without `--previous`, a client downloads each layer in which anything differs. With it, it downloads
//! what differs and some more. Both follow from the chances of change in [`super::churn`];
//! docs/UPDATES.md compares them with real releases.

use std::collections::BTreeSet;

use serde::Serialize;

use super::churn::{Chances, Hazard, chance_of_change};
use super::{Plan, PlannedLayer};
use crate::base::error::Result;
use crate::model::fileset::FileSet;
use crate::model::index::InodeId;
use crate::model::mtime::MtimePolicy;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::Analysis;
use crate::plan::recorded_times::Rule;

/// What clients download by digest without `--previous`, relative to the expected bytes of layers that
/// change. Measured: large components change more often than others of their kind. By chain ID this
/// hardly shows, since layers above a change are downloaded anyway.
const BY_DIGEST: f64 = 1.6;
/// Bytes that clients download with `--previous`, by digest and by chain ID, relative to the expected
/// bytes of components that change. Measured: about three quarters of such a component differ, layers hold
/// some unchanged files too, and large components change more often.
const WITH_PREVIOUS: (f64, f64) = (1.3, 1.8);
/// 2013-01-01, in seconds since 1970. Container images are younger, so that older times are not those of
/// a build: archives of packages have fixed ones.
const FIRST_BUILD: i64 = 1_356_998_400;

/// Bytes that clients are expected to download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UpdateBytes {
    /// By clients that recognise layers by digest or diff ID.
    pub set_bytes: u64,
    /// By clients that recognise layers by chain ID.
    pub chain_bytes: u64,
}

/// What clients that have this image are expected to download at the next release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NextRelease {
    /// If it is split with the same options.
    pub same: UpdateBytes,
    /// If both are split with `--mtime stable`; `None` if that makes no difference.
    pub stable: Option<UpdateBytes>,
    /// If it is split with `--previous`.
    pub previous: UpdateBytes,
}

/// Returns the expected downloads at the release after a first split. `sizes` are the bytes of the plan's
/// layers. `stamped` tells for each layer whether every build gives its files other times.
pub fn next_release(
    plan: &Plan,
    analysis: &Analysis,
    sizes: &[u64],
    stamped: &[bool],
) -> NextRelease {
    let same = unchanged_layers(plan, analysis, sizes, stamped);
    let stable = unchanged_layers(plan, analysis, sizes, &vec![false; sizes.len()]);
    let layers = plan.layers.iter().zip(sizes);
    let changing: f64 = layers.map(|(layer, size)| changing(layer, analysis, *size)).sum();
    // If most of an image changes, its layers are not kept.
    let previous = UpdateBytes {
        set_bytes: ((changing * WITH_PREVIOUS.0) as u64).min(stable.set_bytes),
        chain_bytes: ((changing * WITH_PREVIOUS.1) as u64).min(stable.chain_bytes),
    };
    NextRelease { same, stable: (same != stable).then_some(stable), previous }
}

/// Returns what is downloaded if the layers in which nothing differs are all that clients have.
fn unchanged_layers(
    plan: &Plan,
    analysis: &Analysis,
    sizes: &[u64],
    stamped: &[bool],
) -> UpdateBytes {
    let chances = Chances::new(analysis.components.len());
    let (mut below, mut hazard_below, mut is_stamped) = (BTreeSet::new(), Hazard::default(), false);
    let (mut set, mut chain) = (0.0, 0.0);
    for ((layer, size), stamped) in plan.layers.iter().zip(sizes).zip(stamped) {
        for share in &layer.shares {
            if below.insert(share.component) {
                hazard_below = hazard_below.plus(&Hazard::of(&analysis[share.component]));
            }
        }
        is_stamped |= stamped;
        let chance = if is_stamped { 1.0 } else { chances.of(&hazard_below) };
        chain += *size as f64 * chance;
        let chance = if *stamped { 1.0 } else { layer.churn * BY_DIGEST };
        set += *size as f64 * chance.min(1.0);
    }
    // A client that goes by digest never downloads more.
    let chain_bytes = chain as u64;
    UpdateBytes { set_bytes: (set as u64).min(chain_bytes), chain_bytes }
}

/// Returns the expected bytes of a layer of this size whose components change.
fn changing(layer: &PlannedLayer, analysis: &Analysis, size: u64) -> f64 {
    let scale = size as f64 / layer.estimate.max(1) as f64;
    let shares = layer.shares.iter();
    shares.map(|s| s.estimate as f64 * scale * chance_of_change(&analysis[s.component])).sum()
}

/// Returns for each layer of a plan whether it holds a file or directory whose time is that of its
/// installation. A build without cache gives it another time, though nothing else differs.
///
/// # Errors
/// If a package database can't be read.
pub fn stamped_layers(plan: &Plan, rootfs: &Rootfs, analysis: &Analysis) -> Result<Vec<bool>> {
    let rule = Rule::new(MtimePolicy::Stable, rootfs)?;
    let files: &FileSet = &rootfs.files;
    let is_stamped = |id: InodeId| {
        let inode = &files[id];
        // Their databases record the times of files.
        let owner = &analysis.owner_of(id).name;
        let is_recorded = owner.starts_with("rpm:") || owner.starts_with("alpm:");
        inode.mtime.secs >= FIRST_BUILD && !is_recorded && rule.apply(id, inode) != inode.mtime
    };
    let holds = |layer: &PlannedLayer| {
        layer.entries.iter().any(|i| is_stamped(files.entries()[*i as usize].inode))
    };
    Ok(plan.layers.iter().map(holds).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Share;
    use crate::plan::analyze::{Component, ComponentId, ComponentKind, Learned};

    /// A rate of change so high that the chance is 1.
    const ALWAYS: Option<f64> = Some(1000.0);
    const NEVER: Option<f64> = Some(0.0);

    fn analysis(rates: &[Option<f64>]) -> Analysis {
        let component = |(i, churn): (usize, &Option<f64>)| Component {
            name: format!("c{i}"),
            kind: ComponentKind::LanguagePackage,
            churn: *churn,
            rapid: false,
            learned: Learned::default(),
        };
        let components = rates.iter().enumerate().map(component).collect();
        Analysis { components, ..Analysis::default() }
    }

    /// A plan of layers with these components, of 100 estimated bytes each.
    fn plan(layers: &[&[usize]], analysis: &Analysis) -> Plan {
        let chances = Chances::new(analysis.components.len());
        let layer = |components: &&[usize]| {
            let share = |c: &usize| Share {
                component: ComponentId::new(*c),
                files: 1,
                bytes: 300,
                estimate: 100,
            };
            let hazards = components.iter().map(|c| Hazard::of(&analysis.components[*c]));
            let hazard = hazards.fold(Hazard::default(), |sum, one| sum.plus(&one));
            PlannedLayer {
                estimate: 100 * components.len() as u64,
                shares: components.iter().map(share).collect(),
                churn: chances.of(&hazard),
                ..PlannedLayer::default()
            }
        };
        Plan { layers: layers.iter().map(layer).collect() }
    }

    fn download(set_bytes: u64, chain_bytes: u64) -> UpdateBytes {
        UpdateBytes { set_bytes, chain_bytes }
    }

    #[test]
    fn by_chain_id_what_lies_above_a_change_is_downloaded_too() {
        let analysis = analysis(&[NEVER, ALWAYS, NEVER]);
        let plan = plan(&[&[0], &[1], &[2]], &analysis);
        // The layers as stored are larger than estimated.
        let next = next_release(&plan, &analysis, &[1000, 2000, 3000], &[false; 3]);
        assert_eq!((next.same, next.stable), (download(2000, 5000), None));
    }

    #[test]
    fn a_layer_with_times_of_the_build_is_always_downloaded() {
        let analysis = analysis(&[NEVER, ALWAYS, NEVER]);
        let plan = plan(&[&[0], &[1], &[2]], &analysis);
        let next = |stamped| next_release(&plan, &analysis, &[1000, 2000, 3000], stamped);
        let stable = Some(download(2000, 5000));
        let lowest = next(&[true, false, false]);
        assert_eq!((lowest.same, lowest.stable), (download(3000, 6000), stable));
        let highest = next(&[false, false, true]);
        assert_eq!((highest.same, highest.stable), (download(5000, 5000), stable));
        assert_eq!(lowest.previous, next(&[false; 3]).previous);
    }

    #[test]
    fn a_component_of_several_layers_changes_once() {
        let analysis = analysis(&[None]);
        let chance = chance_of_change(&analysis.components[0]);
        let plan = plan(&[&[0], &[0]], &analysis);
        let next = next_release(&plan, &analysis, &[1_000_000; 2], &[false; 2]);
        let expected = (2e6 * chance) as u64;
        for bytes in [next.same.set_bytes, next.same.chain_bytes] {
            assert!(bytes.abs_diff(expected) <= 1, "{bytes}");
        }
    }

    #[test]
    fn by_digest_layers_count_by_themselves_and_somewhat_more_than_their_chance() {
        let analysis = analysis(&[None, NEVER, None]);
        let chance = chance_of_change(&analysis.components[0]);
        let plan = plan(&[&[0], &[1], &[2]], &analysis);
        let next = next_release(&plan, &analysis, &[1_000_000; 3], &[false; 3]);
        assert!(next.same.set_bytes.abs_diff((2e6 * chance * BY_DIGEST) as u64) <= 1);
        // The highest lies above another that may change.
        assert!(next.same.chain_bytes > (3e6 * chance) as u64);
    }

    #[test]
    fn with_a_previous_image_bytes_of_changing_components_count_and_never_more_than_without() {
        let analysis = analysis(&[ALWAYS, NEVER]);
        // Half of the layer.
        let next = next_release(&plan(&[&[0, 1]], &analysis), &analysis, &[1000], &[false]);
        let (set, chain) = WITH_PREVIOUS;
        assert_eq!(next.previous, download((500.0 * set) as u64, (500.0 * chain) as u64));
        let next = next_release(&plan(&[&[0]], &analysis), &analysis, &[1000], &[false]);
        assert_eq!((next.same, next.previous), (download(1000, 1000), download(1000, 1000)));
    }

    #[test]
    fn nothing_is_expected_of_an_empty_image() {
        let empty = next_release(&plan(&[&[]], &analysis(&[])), &analysis(&[]), &[0], &[false]);
        assert_eq!((empty.same, empty.previous), (download(0, 0), download(0, 0)));
    }
}
