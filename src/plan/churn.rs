//! How likely things change from one release to the next.
//!
//! Changes come together: a base image is renewed and half of its packages move, or it is not and
//! none does; a lock file is refreshed, or it is not. Counting each package as independent would
//! call any layer of a hundred packages certain to change. So every kind of component has events,
//! and given one, each component of the kind changes on its own. Components whose rate is known
//! change independently of all others.
//!
//! Only additions, multiplications and divisions are used: their results are the same on every
//! machine, unlike those of a library's `exp`.

use crate::analyze::{Component, ComponentKind};

/// The chance of an event in a release, and that a component changes given one.
struct Prior {
    event: f64,
    given: f64,
}

/// Kinds in the order of the sequence. A month is taken for a release: over eight months a Debian
/// base was renewed once or twice, with 564 of 3,600 files changed; every month brought new Python
/// and npm packages, a third of those installed.
const PRIORS: [(ComponentKind, Prior); 6] = [
    (ComponentKind::OsPackage, Prior { event: 0.25, given: 0.15 }),
    (ComponentKind::System, Prior { event: 0.30, given: 0.30 }),
    (ComponentKind::LanguagePackage, Prior { event: 0.90, given: 0.35 }),
    (ComponentKind::BigFile, Prior { event: 0.60, given: 0.80 }),
    (ComponentKind::Application, Prior { event: 0.98, given: 0.90 }),
    (ComponentKind::State, Prior { event: 1.00, given: 1.00 }),
];

/// Number of kinds, each a tier of the sequence.
pub(super) const TIERS: usize = PRIORS.len();

/// The tier of a component, and its hazard: the expected changes a release by which its size is
/// weighed within the tier.
pub(super) fn tier(component: &Component) -> (usize, f64) {
    let Some(rate) = component.churn else {
        let tier = PRIORS.iter().position(|(kind, _)| *kind == component.kind).unwrap_or(0);
        return (tier, PRIORS[tier].1.event * PRIORS[tier].1.given);
    };
    // Among those that change about as often.
    let chance = 1.0 - exp_of_minus(rate);
    let distance = |i: &usize| (PRIORS[*i].1.event * PRIORS[*i].1.given - chance).abs();
    let tier = (0..TIERS).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
    (tier, rate)
}

/// What the chance that a set of components changes is made of: sums that can be subtracted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Hazard {
    /// Components with their kind's rate, by tier.
    counts: [u32; TIERS],
    /// The sum of rates that are known.
    rate: f64,
}

impl Hazard {
    /// That of one component.
    pub(super) fn of(component: &Component) -> Self {
        let mut hazard = Self::default();
        match component.churn {
            Some(rate) => hazard.rate = rate,
            None => hazard.counts[tier(component).0] = 1,
        }
        hazard
    }

    pub(super) fn plus(mut self, other: &Self) -> Self {
        for (a, b) in self.counts.iter_mut().zip(other.counts) {
            *a += b;
        }
        self.rate += other.rate;
        self
    }

    /// Takes away what was added before.
    pub(super) fn minus(mut self, other: &Self) -> Self {
        for (a, b) in self.counts.iter_mut().zip(other.counts) {
            *a -= b;
        }
        self.rate -= other.rate;
        self
    }
}

/// Chances of change, with powers at hand.
pub(super) struct Chances {
    /// For each tier, the chance that so many components all stay, given an event.
    stay: Vec<Vec<f64>>,
}

impl Chances {
    /// For sets of up to `most` components.
    pub(super) fn new(most: usize) -> Self {
        let powers = |(_, prior): &(_, Prior)| {
            let next = |power: &f64| Some(power * (1.0 - prior.given));
            std::iter::successors(Some(1.0), next).take(most + 1).collect()
        };
        Self { stay: PRIORS.iter().map(powers).collect() }
    }

    /// The chance that anything in the set changes in a release.
    pub(super) fn of(&self, hazard: &Hazard) -> f64 {
        let mut stays = if hazard.rate > 0.0 { exp_of_minus(hazard.rate) } else { 1.0 };
        for (tier, (_, prior)) in PRIORS.iter().enumerate() {
            let all = self.stay[tier][hazard.counts[tier] as usize];
            stays *= 1.0 - prior.event * (1.0 - all);
        }
        1.0 - stays
    }
}

/// e⁻ˣ for x ≥ 0, by the series of eˣ on a small part of x and repeated squaring.
fn exp_of_minus(x: f64) -> f64 {
    if x > 700.0 {
        return 0.0;
    }
    let small = x / 1024.0;
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 1..16 {
        term = term * small / f64::from(n);
        sum += term;
    }
    for _ in 0..10 {
        sum *= sum;
    }
    1.0 / sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_is_the_exponential() {
        for x in [0.0, 1e-9, 0.01, 0.5, 1.0, 3.0, 30.0, 600.0_f64] {
            let want = (-x).exp();
            assert!((exp_of_minus(x) - want).abs() <= want * 1e-9, "{x}");
        }
    }

    #[test]
    fn packages_of_one_kind_change_together() {
        let package =
            Component { name: "deb:x".into(), kind: ComponentKind::OsPackage, churn: None };
        let one = Hazard::of(&package);
        let many = (0..100).fold(Hazard::default(), |h, _| h.plus(&one));
        let chances = Chances::new(100);
        assert!((chances.of(&one) - 0.0375).abs() < 1e-9);
        // Never more likely than the event.
        assert!((chances.of(&many) - 0.25).abs() < 1e-6);
        assert!(chances.of(&many.minus(&many)).abs() < 1e-12);
    }

    #[test]
    fn a_known_rate_finds_its_tier() {
        let at = |rate| {
            tier(&Component { name: "x".into(), kind: ComponentKind::State, churn: Some(rate) }).0
        };
        assert_eq!(at(0.0), 0);
        assert_eq!(at(0.4), 2);
        assert_eq!(at(50.0), 5);
    }
}
