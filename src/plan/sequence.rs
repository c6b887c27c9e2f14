//! The sequence of everything to place, in the order of layers: stable and large first.
//!
//! The first criterion is the tier: components of a kind change together and stay together, so that a
//! month without a new base image leaves the layers of the base alone. Within a tier large components go
//! below small ones that change as often: to swap two neighbours in a stack of chain IDs shows that size
//! times the odds of no change decides. Sizes are rounded to powers of two, so that a component that has
//! grown a little does not change places with its neighbours, and each component has its own limits
//! between them, so that no growth of all moves many at once.
//!
//! Not so above the system if the image is the first of a chain of updates: when a small language package
//! changes, the next update can keep its layer and leave a few dead bytes in it. The layer of a large one
//! must be dropped, and clients with chain IDs download everything above it, so it goes on top. The system
//! changes seldom, and all at once. Among the new layers of an update, changed files are apart from others
//! already. docs/UPDATES.md has measurements.

use super::churn::{Hazard, SYSTEM_TIERS, kind_tier, tier};
use crate::model::fileset::{FileSet, InodeKind, parent};
use crate::model::index::InodeId;
use crate::plan::analyze::{ComponentId, ComponentKind, Inventory};

/// An indivisible unit: a file with all of its names, or an empty directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Atom {
    pub(super) inode: InodeId,
    /// Index in [`Sequence::components`].
    pub(super) component: usize,
    /// Expected compressed bytes.
    pub(super) estimate: u64,
    /// Rank of a cut before it, if that is within a component.
    bond: u64,
}

/// A component in the sequence.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) component: ComponentId,
    pub(super) hazard: Hazard,
    /// Its tier in the table of churn.
    tier: usize,
    /// Its kind.
    kind: ComponentKind,
    /// Its size as a rounded power of two.
    class: u32,
    /// A hash of the name, the same in every image.
    hash: u64,
}

impl Part {
    /// Returns whether it belongs to the operating system and is as stable.
    pub(super) fn is_system(&self) -> bool {
        self.tier < SYSTEM_TIERS
            && matches!(self.kind, ComponentKind::OsPackage | ComponentKind::System)
    }

    /// Returns whether every build changes it.
    pub(super) fn is_state(&self) -> bool {
        self.kind == ComponentKind::State
    }

    /// Returns whether nearly every release changes it.
    pub(super) fn is_rapid(&self) -> bool {
        self.tier == kind_tier(ComponentKind::LanguagePackage, true)
    }
}

/// Atoms in order; those of a component are contiguous, sorted by path.
#[derive(Clone)]
pub(super) struct Sequence {
    pub(super) atoms: Vec<Atom>,
    pub(super) components: Vec<Part>,
}

impl Sequence {
    /// Builds the sequence of all inodes, or of those that `only` marks. Directories that are not empty
    /// are placed with their content, unless they are marked.
    pub(super) fn new(
        set: &FileSet,
        inventory: &Inventory,
        only: Option<&[bool]>,
        for_updates: bool,
    ) -> Self {
        let Inventory { analysis, estimates } = inventory;
        let has_children = has_children(set);
        let mut seen = vec![false; set.inodes().len()];
        // By path, since entries are.
        let mut found: Vec<(ComponentId, InodeId, &[u8])> = Vec::new();
        let mut sizes = vec![0u64; analysis.components.len()];
        for (i, entry) in set.entries().iter().enumerate() {
            let inode = entry.inode.index();
            let dir = matches!(set.inode(entry).kind, InodeKind::Dir);
            let wanted = match only {
                Some(only) => only[inode],
                None => !dir || !(has_children[i] || entry.path.is_empty()),
            };
            if !wanted || std::mem::replace(&mut seen[inode], true) {
                continue;
            }
            let component = analysis.owner[inode];
            sizes[component.index()] += estimates[inode];
            found.push((component, entry.inode, &entry.path));
        }
        let mut order: Vec<usize> = (0..sizes.len()).filter(|i| sizes[*i] > 0).collect();
        order.sort_by_cached_key(|i| {
            let component = &analysis.components[*i];
            let (tier, hazard) = tier(component);
            // Size over hazard, to a power of two; a hazard of zero is as steady as can be.
            let weight = (sizes[*i] as f64 / hazard.max(1e-6)) as u64;
            let class = i64::from(class(weight, hash(component.name.as_bytes())));
            let large_on_top = for_updates && tier >= SYSTEM_TIERS;
            (tier, if large_on_top { class } else { -class }, &component.name)
        });
        let mut place = vec![0; sizes.len()];
        let mut components = Vec::with_capacity(order.len());
        for (new, old) in order.into_iter().enumerate() {
            place[old] = new;
            let component = &analysis.components[old];
            let hash = hash(component.name.as_bytes());
            components.push(Part {
                component: ComponentId::new(old),
                hazard: Hazard::of(component),
                tier: tier(component).0,
                kind: component.kind,
                class: class(sizes[old], hash),
                hash,
            });
        }
        // The sort is stable: paths stay in order within a component.
        found.sort_by_key(|(component, ..)| place[component.index()]);
        let mut before: &[u8] = b"";
        let atoms = found.into_iter().map(|(component, inode, path)| {
            let bond = bond(std::mem::replace(&mut before, path), path);
            let component = place[component.index()];
            Atom { inode, component, estimate: estimates[inode.index()], bond }
        });
        let atoms = atoms.collect();
        Self { atoms, components }
    }

    /// Returns the expected compressed bytes of all atoms.
    pub(super) fn total(&self) -> u64 {
        self.atoms.iter().map(|a| a.estimate).sum()
    }

    /// Returns the expected compressed bytes of the atoms at these positions.
    pub(super) fn bytes(&self, atoms: &[usize]) -> u64 {
        atoms.iter().map(|i| self.atoms[*i].estimate).sum()
    }

    /// Returns the rank of a cut between two atoms, the higher the better: between tiers, then between
    /// components, large ones first, then between folders of a component. Names decide among those alike.
    pub(super) fn rank(&self, before: usize, after: usize) -> u64 {
        let (before, after) = (&self.atoms[before], &self.atoms[after]);
        if before.component == after.component {
            return after.bond;
        }
        let (below, above) =
            (&self.components[before.component], &self.components[after.component]);
        if below.tier != above.tier {
            return (3 << 60) + (above.hash >> 4);
        }
        // A name is worth up to six powers of two.
        let class = u64::from(below.class.max(above.class)) << 50;
        BETWEEN + class + (above.hash >> 14) * 6
    }
}

/// The lowest rank of a cut between two components.
const BETWEEN: u64 = 2 << 60;

/// Returns whether a cut of this rank is between two components.
pub(super) fn is_between(rank: u64) -> bool {
    rank >= BETWEEN
}

/// Returns a hash of a name.
fn hash(name: &[u8]) -> u64 {
    blake3::hash(name).as_bytes()[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Returns a size as a power of two, rounded up or down by the hash of its name.
fn class(size: u64, hash: u64) -> u32 {
    let more = (u128::from(size) * u128::from(hash)) >> 64;
    (size + more as u64).max(1).ilog2()
}

/// Returns the rank of a cut between two files of a component, given their paths: the fewer folders they
/// have in common, the higher.
fn bond(before: &[u8], after: &[u8]) -> u64 {
    let same = before.iter().zip(after).take_while(|(a, b)| a == b);
    let common = same.filter(|(a, _)| **a == b'/').count().min(15) as u64;
    let folder = |path: &[u8]| parent(path).map_or(0, <[u8]>::len);
    let is_same =
        folder(before) == folder(after) && before[..folder(before)] == after[..folder(after)];
    let level = if is_same { 0 } else { 16 - common };
    (level << 54) + (hash(after) >> 12)
}

/// Returns for each entry whether another is below it.
fn has_children(set: &FileSet) -> Vec<bool> {
    let mut has = vec![false; set.entries().len()];
    for entry in set.entries() {
        if let Some(i) = parent(&entry.path).and_then(|dir| set.position(dir)) {
            has[i] = true;
        }
    }
    has
}
