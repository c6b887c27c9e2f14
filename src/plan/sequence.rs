//! The sequence of everything to place, in the order of layers: stable first.
//!
//! The first criterion is the tier: components of a kind change together and stay together, so that a
//! month without a new base image leaves the layers of the base alone. Within a tier, size over hazard
//! decides, rounded to powers of two, so that a component that has grown a little does not change places
//! with its neighbours.
//!
//! To swap two neighbours in a stack of chain IDs shows that size times the odds of no change decides, so
//! large components go below. Not so in a whole image above the system: when a small language package
//! changes, the next update can keep its layer and leave a few dead bytes in it. The layer of a large one
//! must be dropped, and clients with chain IDs download everything above it, so it goes on top. The system
//! changes seldom, and all at once. Among the new layers of an update, changed files are apart from others
//! already. docs/UPDATES.md has measurements.

use super::churn::{Hazard, SYSTEM_TIERS, tier};
use crate::model::fileset::{FileSet, InodeKind};
use crate::model::index::InodeId;
use crate::plan::analyze::{ComponentId, Inventory};

/// An indivisible unit: a file with all of its names, or an empty directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Atom {
    pub(super) inode: InodeId,
    /// Index in [`Sequence::components`].
    pub(super) component: usize,
    /// Expected compressed bytes.
    pub(super) estimate: u64,
}

/// A component in the sequence.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) component: ComponentId,
    pub(super) hazard: Hazard,
    /// A hash of the name, the same in every image.
    pub(super) hash: u64,
}

/// Atoms in order; those of a component are contiguous, sorted by path.
#[derive(Clone)]
pub(super) struct Sequence {
    pub(super) atoms: Vec<Atom>,
    pub(super) components: Vec<Part>,
}

impl Sequence {
    /// Builds the sequence of all inodes, or of those that `only` marks for the new layers of an update.
    /// Directories that are not empty are placed with their content, unless they are marked.
    pub(super) fn new(set: &FileSet, inventory: &Inventory, only: Option<&[bool]>) -> Self {
        let Inventory { analysis, estimates } = inventory;
        let has_children = has_children(set);
        let mut seen = vec![false; set.inodes().len()];
        // By path, since entries are.
        let mut found: Vec<(ComponentId, InodeId)> = Vec::new();
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
            found.push((component, entry.inode));
        }
        let mut order: Vec<usize> = (0..sizes.len()).filter(|i| sizes[*i] > 0).collect();
        order.sort_by_cached_key(|i| {
            let component = &analysis.components[*i];
            let (tier, hazard) = tier(component);
            // Size over hazard, to a power of two; a hazard of zero is as steady as can be.
            let weight = (sizes[*i] as f64 / hazard.max(1e-6)) as u64;
            let weight = weight.checked_ilog2().map_or(-1, u32::cast_signed);
            let large_on_top = only.is_none() && tier >= SYSTEM_TIERS;
            (tier, if large_on_top { weight } else { -weight }, &component.name)
        });
        let mut place = vec![0; sizes.len()];
        let mut components = Vec::with_capacity(order.len());
        for (new, old) in order.into_iter().enumerate() {
            place[old] = new;
            let component = &analysis.components[old];
            let hash = blake3::hash(component.name.as_bytes());
            components.push(Part {
                component: ComponentId::new(old),
                hazard: Hazard::of(component),
                hash: hash.as_bytes()[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
            });
        }
        let mut atoms: Vec<Atom> = found
            .into_iter()
            .map(|(component, inode)| Atom {
                inode,
                component: place[component.index()],
                estimate: estimates[inode.index()],
            })
            .collect();
        // The sort is stable: paths stay in order within a component.
        atoms.sort_by_key(|atom| atom.component);
        Self { atoms, components }
    }

    /// Returns the expected compressed bytes of all atoms.
    pub(super) fn total(&self) -> u64 {
        self.atoms.iter().map(|a| a.estimate).sum()
    }
}

/// Returns for each entry whether another is below it.
fn has_children(set: &FileSet) -> Vec<bool> {
    let mut has = vec![false; set.entries().len()];
    for entry in set.entries() {
        if let Some(i) =
            crate::model::fileset::parent(&entry.path).and_then(|dir| set.position(dir))
        {
            has[i] = true;
        }
    }
    has
}
