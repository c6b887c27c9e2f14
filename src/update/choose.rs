//! Which old layers to keep: a pure function of prices.
//!
//! What is kept is not loaded again by clients that have it; what is dead in it, because the new
//! image has something else in its place or nothing, is loaded by all that have not. Clients that
//! go by digest load the new layers only, those that go by chain ID everything above the first
//! old layer that is missing.

/// A set of old layers, one bit each, the lowest layer in the lowest bit.
pub(super) type Layers = u128;

/// Old layers beyond this number are given up.
pub(super) const MOST_LAYERS: usize = 127;

/// Things in the new file set that the same old layers speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Layers that say something about them.
    pub(super) touched: Layers,
    /// Those that say what the new file set has.
    pub(super) given: Layers,
    /// Compressed bytes, as estimated.
    pub(super) estimate: u64,
}

impl Need {
    /// The layer that gives it when these are kept: the topmost of all that speak of it counts.
    fn giver(&self, keep: Layers) -> Option<usize> {
        let touched = self.touched & keep;
        let top = touched.checked_ilog2()?;
        (self.given >> top & 1 == 1).then_some(top as usize)
    }
}

/// All that the choice depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    /// Compressed bytes of each old layer.
    pub(super) blob_bytes: Vec<u64>,
    /// The same as estimated, to tell by which part of a layer is in use.
    pub(super) weights: Vec<u64>,
    /// What the new file set needs.
    pub(super) needs: Vec<Need>,
}

/// Which clients are thought of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Client {
    /// Both sorts alike.
    #[default]
    Any,
    /// They go by chain ID, as dockerd does, and containerd where it discards unpacked layers.
    Chain,
    /// They go by digest or diff ID, as podman, CRI-O and containerd do.
    Set,
}

/// How the choice is made.
#[derive(Debug, Clone, Copy)]
pub struct Prices {
    /// What clients are like.
    pub client: Client,
    /// Cold pulls per update: the price of a dead byte.
    pub beta: f64,
    /// Dead bytes may be this share of the image.
    pub max_dead: f64,
    /// There may be so many layers.
    pub max_layers: u32,
}

/// What a choice costs, in compressed bytes as estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    /// New layers.
    pub(super) new: u64,
    /// What clients that go by chain ID load.
    pub(super) chain: u64,
    /// Bytes in kept layers that the new image does not show.
    pub(super) dead: u64,
    /// The whole image.
    pub(super) total: u64,
    /// Layers kept.
    pub(super) kept: u32,
}

impl Offer {
    /// Number of old layers that can be kept.
    pub(super) fn len(&self) -> usize {
        self.blob_bytes.len().min(MOST_LAYERS)
    }

    /// All layers that can be kept.
    pub(super) fn all(&self) -> Layers {
        (1 << self.len()) - 1
    }

    pub(super) fn cost(&self, keep: Layers) -> Cost {
        let mut cost = Cost { kept: keep.count_ones(), ..Cost::default() };
        let mut live = 0;
        for need in &self.needs {
            match need.giver(keep) {
                Some(layer) => live += self.live(layer, need.estimate),
                None => cost.new += need.estimate,
            }
        }
        let prefix = keep.trailing_ones() as usize;
        let mut kept = 0;
        for (i, bytes) in self.blob_bytes.iter().enumerate().take(self.len()) {
            if keep >> i & 1 == 1 {
                kept += bytes;
                if i >= prefix {
                    cost.chain += bytes;
                }
            }
        }
        cost.chain += cost.new;
        cost.total = kept + cost.new;
        cost.dead = kept.saturating_sub(live);
        cost
    }

    /// For each old layer, its bytes that are in use when these are kept.
    pub(super) fn live_bytes(&self, keep: Layers) -> Vec<u64> {
        let mut live = vec![0; self.blob_bytes.len()];
        for need in &self.needs {
            if let Some(layer) = need.giver(keep) {
                live[layer] += self.live(layer, need.estimate);
            }
        }
        live
    }

    /// Compressed bytes of a part of a layer.
    fn live(&self, layer: usize, estimate: u64) -> u64 {
        let share = u128::from(self.blob_bytes[layer]) * u128::from(estimate);
        (share / u128::from(self.weights[layer].max(1))) as u64
    }
}

impl Prices {
    /// What is to be as small as can be: first how far limits are exceeded, then the price.
    fn price(&self, cost: &Cost, new_layers: u32) -> (f64, f64) {
        let dead = (cost.dead as f64 - self.max_dead * cost.total as f64).max(0.0);
        // Rather than to give up layers, new ones may be fewer and larger; but not all in one.
        let new_layers = new_layers.min((self.max_layers / 8).max(1));
        let layers = (cost.kept + new_layers).saturating_sub(self.max_layers);
        let update = match self.client {
            Client::Any => f64::midpoint(cost.chain as f64, cost.new as f64),
            Client::Chain => cost.chain as f64,
            Client::Set => cost.new as f64,
        };
        (dead + f64::from(layers) * cost.total as f64, update + self.beta * cost.dead as f64)
    }
}

/// With no more layers than this all choices are tried.
const EXHAUSTIVE: usize = 14;

/// The cheapest layers to keep among those `allowed`. `new_layers` tells how many layers so many
/// new bytes become.
pub(super) fn choose(
    offer: &Offer,
    allowed: Layers,
    prices: &Prices,
    new_layers: &dyn Fn(u64) -> u32,
) -> Layers {
    let price = |keep: Layers| {
        let cost = offer.cost(keep);
        prices.price(&cost, new_layers(cost.new))
    };
    let better = |a: (f64, f64), b: (f64, f64)| {
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)) == std::cmp::Ordering::Less
    };
    let candidates: Vec<usize> = (0..offer.len()).filter(|i| allowed >> i & 1 == 1).collect();
    let set_of = |bits: usize| -> Layers {
        candidates.iter().enumerate().map(|(n, i)| ((bits >> n & 1) as Layers) << i).sum()
    };
    // Of equals the one that keeps more, the lower ones first.
    let mut best = allowed & offer.all();
    let mut least = price(best);
    if candidates.len() <= EXHAUSTIVE {
        for bits in (0..1usize << candidates.len()).rev() {
            let keep = set_of(bits);
            let this = price(keep);
            if better(this, least) {
                (best, least) = (keep, this);
            }
        }
        return best;
    }
    // From every unbroken beginning, and from all layers but one, downhill.
    let mut starts = vec![best, 0];
    for (p, i) in candidates.iter().enumerate() {
        starts.push(candidates[..p].iter().map(|i| 1 << i).sum());
        starts.push(best & !(1 << i));
    }
    for start in starts {
        let (keep, this) = downhill(start, &candidates, false, &price, &better);
        if better(this, least) {
            (best, least) = (keep, this);
        }
    }
    downhill(best, &candidates, true, &price, &better).0
}

/// Flips one layer, or with `pairs` two, as long as that is better.
fn downhill(
    mut keep: Layers,
    candidates: &[usize],
    pairs: bool,
    price: &dyn Fn(Layers) -> (f64, f64),
    better: &dyn Fn((f64, f64), (f64, f64)) -> bool,
) -> (Layers, (f64, f64)) {
    let mut least = price(keep);
    loop {
        let mut found = None;
        for (n, i) in candidates.iter().enumerate() {
            let others = if pairs { &candidates[n + 1..] } else { &[] };
            for j in std::iter::once(i).chain(others) {
                let flipped = keep ^ (1 << i) ^ if i == j { 0 } else { 1 << j };
                let this = price(flipped);
                if better(this, least) {
                    least = this;
                    found = Some(flipped);
                }
            }
        }
        match found {
            Some(flipped) => keep = flipped,
            None => return (keep, least),
        }
    }
}
