//! Packs layers of similar size where contiguous cuts can't: a few large files leave holes that only
//! small files can fill.

use std::cmp::Reverse;

use super::sequence::Sequence;

/// Packs atoms into `layers` groups: large atoms first, each into the emptiest group; then the
/// small ones in their order, filling the groups up to one level. The groups are ordered by where
/// their large atoms stand in the sequence, so that small stable files still come to lie low.
pub(super) fn pack(sequence: &Sequence, rest: &[usize], layers: usize) -> Vec<Vec<usize>> {
    let size = |i: &usize| sequence.atoms[*i].estimate;
    let total: u64 = rest.iter().map(size).sum();
    let (mut large, small): (Vec<usize>, Vec<usize>) =
        rest.iter().partition(|i| size(i) > total / layers as u64 / 8);
    large.sort_by_key(|i| (Reverse(size(i)), *i));
    let mut groups = vec![(0u64, Vec::new()); layers];
    for i in large {
        let emptiest = (0..layers).min_by_key(|g| (groups[*g].0, *g)).unwrap_or(0);
        groups[emptiest].0 += size(&i);
        groups[emptiest].1.push(i);
    }
    groups.sort_by_key(|(_, atoms)| atoms.iter().min().copied().unwrap_or(usize::MAX));
    // The groups get the same share of what is left to fill, in the order of the sequence.
    let mut left: u64 = small.iter().map(size).sum();
    let mut small = small.into_iter().peekable();
    for g in 0..layers {
        let level = level(groups[g..].iter().map(|group| group.0).collect(), left);
        let (filled, atoms) = &mut groups[g];
        while let Some(i) = small.next_if(|i| g + 1 == layers || *filled + size(i) / 2 < level) {
            *filled += size(&i);
            left -= size(&i);
            atoms.push(i);
        }
    }
    groups
        .into_iter()
        .map(|(_, mut atoms)| {
            atoms.sort_unstable();
            atoms
        })
        .collect()
}

/// Returns the level to which `water` fills `vessels`, which already have these levels.
fn level(mut vessels: Vec<u64>, water: u64) -> u64 {
    vessels.sort_unstable();
    let mut sum = water;
    for (i, height) in vessels.iter().enumerate() {
        let below = i as u64;
        if below > 0 && sum / below <= *height {
            return sum / below;
        }
        sum += height;
    }
    sum / vessels.len().max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn water_finds_its_level() {
        assert_eq!(level(vec![0, 0], 10), 5);
        assert_eq!(level(vec![10, 0, 0], 10), 5);
        assert_eq!(level(vec![10, 0, 0], 40), 16);
        assert_eq!(level(vec![3], 4), 7);
    }
}
