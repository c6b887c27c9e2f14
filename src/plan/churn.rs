//! Probability that components change from one release to the next.
//!
//! Changes are correlated: if a base image is updated, many of its packages change together; if not, none
//! does. With independent packages any layer of a hundred would be certain to change. So every kind of
//! component has events, and given an event, each component of the kind changes independently.
//! Components with a known rate change independently of all others. What a history has seen of a
//! component updates the prior of its kind, which counts as [`PRIOR_RELEASES`] observations, so that "has
//! not changed yet" is not "will never change".
//!
//! Only additions, multiplications and divisions are used: their results are the same on every machine,
//! unlike those of a library's `exp`.

use crate::plan::analyze::{Component, ComponentKind, Learned};

/// The probability of an event in a release, and that a component changes given one.
struct Prior {
    event: f64,
    given: f64,
}

/// Kinds in the order of the sequence, and whether the component is rapid. A month is taken for a release:
/// over eight months a Debian base was renewed once or twice, with 564 of 3,600 files changed; every
/// month brought new Python and npm packages, a third of those installed, and most of the rapid ones.
const PRIORS: [(ComponentKind, bool, Prior); 7] = [
    (ComponentKind::OsPackage, false, Prior { event: 0.25, given: 0.15 }),
    (ComponentKind::System, false, Prior { event: 0.30, given: 0.30 }),
    (ComponentKind::LanguagePackage, false, Prior { event: 0.90, given: 0.35 }),
    (ComponentKind::LanguagePackage, true, Prior { event: 0.95, given: 0.80 }),
    (ComponentKind::BigFile, false, Prior { event: 0.60, given: 0.80 }),
    (ComponentKind::Application, false, Prior { event: 0.98, given: 0.90 }),
    (ComponentKind::State, false, Prior { event: 1.00, given: 1.00 }),
];

/// Number of observed releases that weigh as much as the table.
const PRIOR_RELEASES: f64 = 4.0;
/// Maximum probability of a change given an event, whatever the history.
const CERTAIN: f64 = 0.98;

/// Number of kinds, each a tier of the sequence.
pub(super) const TIERS: usize = PRIORS.len();

/// Number of tiers at the beginning that belong to the operating system.
pub(super) const SYSTEM_TIERS: usize = 2;

/// Returns the position of a component's kind in the table.
pub(super) fn kind_tier(kind: ComponentKind, rapid: bool) -> usize {
    PRIORS.iter().position(|(of, fast, _)| *of == kind && *fast == rapid).unwrap_or(0)
}

fn tier_of(component: &Component) -> usize {
    kind_tier(component.kind, component.rapid)
}

/// Returns the probability that a component changes in a release, by its kind and history.
pub fn chance_of_change(component: &Component) -> f64 {
    if let Some(rate) = component.churn {
        return 1.0 - exp_of_minus(rate);
    }
    let prior = &PRIORS[tier_of(component)].2;
    let Learned { seen, changed } = component.learned;
    (prior.event * prior.given * PRIOR_RELEASES + changed as f64) / (PRIOR_RELEASES + seen as f64)
}

/// Returns the tier of a component and its hazard: the expected changes per release.
pub(super) fn tier(component: &Component) -> (usize, f64) {
    let chance = chance_of_change(component);
    if component.churn.is_none() && component.learned == Learned::default() {
        return (tier_of(component), chance);
    }
    // Among those that change about as often.
    let distance = |i: &usize| (PRIORS[*i].2.event * PRIORS[*i].2.given - chance).abs();
    let tier = (0..TIERS).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
    (tier, component.churn.unwrap_or(chance))
}

/// The hazard of a set of components, as sums that can be added and subtracted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Hazard {
    /// Components with their kind's rate, by tier.
    counts: [u32; TIERS],
    /// The sum of hazards given an event of those with a history, by tier.
    learned: [f64; TIERS],
    /// The sum of known rates.
    rate: f64,
}

impl Hazard {
    /// Returns the hazard of one component.
    pub(super) fn of(component: &Component) -> Self {
        let mut hazard = Self::default();
        match component.churn {
            Some(rate) => hazard.rate = rate,
            None if component.learned == Learned::default() => {
                hazard.counts[tier_of(component)] = 1;
            }
            None => {
                let tier = tier_of(component);
                let given = chance_of_change(component) / PRIORS[tier].2.event;
                hazard.learned[tier] = -ln(1.0 - given.min(CERTAIN));
            }
        }
        hazard
    }

    pub(super) fn plus(mut self, other: &Self) -> Self {
        for (a, b) in self.counts.iter_mut().zip(other.counts) {
            *a += b;
        }
        for (a, b) in self.learned.iter_mut().zip(other.learned) {
            *a += b;
        }
        self.rate += other.rate;
        self
    }
}

/// Computes probabilities of change from precomputed powers.
pub(super) struct Chances {
    /// For each tier and number of components, the probability that none changes given an event; zero
    /// beyond the end.
    stay: Vec<Vec<f64>>,
}

impl Chances {
    /// Prepares for sets of up to `most` components.
    pub(super) fn new(most: usize) -> Self {
        let powers = |(_, _, prior): &(_, _, Prior)| {
            // From some thousands on they are zero.
            let next = |power: &f64| Some(power * (1.0 - prior.given)).filter(|power| *power > 0.0);
            std::iter::successors(Some(1.0), next).take(most + 1).collect()
        };
        Self { stay: PRIORS.iter().map(powers).collect() }
    }

    /// Returns the probability that anything in a set changes in a release.
    pub(super) fn of(&self, hazard: &Hazard) -> f64 {
        let mut stays = if hazard.rate > 0.0 { exp_of_minus(hazard.rate) } else { 1.0 };
        for (tier, (_, _, prior)) in PRIORS.iter().enumerate() {
            let count = hazard.counts[tier] as usize;
            let mut all = self.stay[tier].get(count).copied().unwrap_or(0.0);
            if hazard.learned[tier] > 0.0 {
                all *= exp_of_minus(hazard.learned[tier]);
            }
            stays *= 1.0 - prior.event * (1.0 - all);
        }
        1.0 - stays
    }
}

/// Returns e⁻ˣ for x ≥ 0, by the series of eˣ on a small part of x and repeated squaring.
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

/// Returns the natural logarithm of 0 < x ≤ 1, by halvings and the series of the inverse hyperbolic
/// tangent.
fn ln(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let (mut x, mut sum) = (x, 0.0);
    while x < 0.7 {
        x *= 2.0;
        sum -= LN_2;
    }
    let y = (x - 1.0) / (x + 1.0);
    let (mut power, mut series) = (y, 0.0);
    for n in 0..20 {
        series += power / f64::from(2 * n + 1);
        power *= y * y;
    }
    sum + 2.0 * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for x in [1.0, 0.99, 0.7, 0.5, 0.1, 0.02, 1e-6_f64] {
            assert!((ln(x) - x.ln()).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn what_was_learned_moves_the_chance_and_never_to_the_end() {
        let with = |seen, changed| Component {
            name: "python:x".into(),
            kind: ComponentKind::LanguagePackage,
            churn: None,
            rapid: false,
            learned: Learned { seen, changed },
        };
        let chance = |seen, changed| chance_of_change(&with(seen, changed));
        assert!((chance(0, 0) - 0.315).abs() < 1e-12);
        assert!(chance(7, 0) < chance(1, 0) && chance(1, 0) < chance(0, 0) && chance(7, 0) > 0.05);
        assert!(chance(7, 7) > chance(1, 1) && chance(7, 7) < 0.9);
        // A set of it alone changes as often as it does itself.
        let chances = Chances::new(1);
        for (seen, changed) in [(1, 0), (7, 0), (7, 3)] {
            let one = chances.of(&Hazard::of(&with(seen, changed)));
            assert!((one - chance(seen, changed)).abs() < 1e-9, "{one}");
        }
        assert_eq!((tier(&with(30, 0)).0, tier(&with(30, 30)).0), (0, 5));
    }

    #[test]
    fn the_series_is_the_exponential() {
        for x in [0.0, 1e-9, 0.01, 0.5, 1.0, 3.0, 30.0, 600.0_f64] {
            let want = (-x).exp();
            assert!((exp_of_minus(x) - want).abs() <= want * 1e-9, "{x}");
        }
    }

    #[test]
    fn packages_of_one_kind_change_together() {
        let package = Component {
            name: "deb:x".into(),
            kind: ComponentKind::OsPackage,
            churn: None,
            rapid: false,
            learned: Learned::default(),
        };
        let one = Hazard::of(&package);
        let many = (0..100).fold(Hazard::default(), |h, _| h.plus(&one));
        let chances = Chances::new(100);
        assert!((chances.of(&one) - 0.0375).abs() < 1e-9);
        // Never more likely than the event.
        assert!((chances.of(&many) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_known_rate_finds_its_tier() {
        let at = |rate| {
            tier(&Component {
                name: "x".into(),
                kind: ComponentKind::State,
                churn: Some(rate),
                rapid: false,
                learned: Learned::default(),
            })
            .0
        };
        assert_eq!(at(0.0), 0);
        assert_eq!(at(0.4), 2);
        assert_eq!(at(50.0), 6);
    }
}
