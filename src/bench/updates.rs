//! Cost of updates over a sequence of versions.

use std::sync::Arc;

use serde::Serialize;

use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::compare::diff::{Loads, loads};
use crate::layers::flatten::LayerStats;
use crate::model::content::Budget;
use crate::simulate::{
    self, Client, ClientModel, Identity, Link, Machine, Pull, needs, simulate_update,
};
use crate::split::report::ImageReport;
use crate::split::{self, SplitOptions};
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, Opened};

/// A value for each form of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Forms<T> {
    /// For the version as built.
    pub built: T,
    /// For the version split from scratch.
    pub split: T,
    /// For the version split with `--previous`, as the one before was.
    pub previous: T,
}

impl<T> Forms<T> {
    /// Returns all three in order.
    pub fn each(&self) -> [&T; 3] {
        [&self.built, &self.split, &self.previous]
    }

    fn with<U, V>(&self, other: &Forms<U>, f: impl Fn(&T, &U) -> V) -> Forms<V> {
        Forms {
            built: f(&self.built, &other.built),
            split: f(&self.split, &other.split),
            previous: f(&self.previous, &other.previous),
        }
    }
}

/// A layer of a version with its identity and sizes.
#[derive(Debug, Clone, Copy)]
struct Held {
    identity: Identity,
    layer: simulate::Layer,
}

/// A version in all forms.
#[derive(Debug)]
struct Version {
    /// The layers, lowest first.
    stacks: Forms<Vec<Held>>,
    /// Estimated bytes that kept layers hold and the image does not show.
    dead_bytes: u64,
}

/// Columns of a table of updates: the version, and what is downloaded of each form by digest and by chain ID.
pub const UPDATE_COLUMNS: [&str; 7] = [
    "update to",
    "as built: digest",
    "chain ID",
    "split: digest",
    "chain ID",
    "--previous: digest",
    "chain ID",
];

/// An update from one version to the next.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    /// What clients download.
    pub loads: Forms<Loads>,
    /// Estimated bytes that layers of the version split with `--previous` hold and the image does not
    /// show.
    pub dead_bytes: u64,
}

/// Pulls of updates by one client over one link.
#[derive(Debug, Clone, Serialize)]
pub struct UpdatePulls {
    /// The client.
    pub client: Client,
    /// The link's name.
    pub link: String,
    /// The pulls of each step.
    pub steps: Vec<Forms<Pull>>,
}

/// A sequence of versions in all forms.
#[derive(Debug, Default)]
pub struct UpdateSequence {
    versions: Vec<Version>,
    /// Report of the last version split from scratch.
    pub last: Option<ImageReport>,
}

impl UpdateSequence {
    /// Splits versions, each with one image, oldest first, both from scratch and with `--previous`. A
    /// single version gives an empty sequence. Bytes are those of real blobs, except that uncompressed
    /// layers count as gzip, as a push would compress them.
    ///
    /// # Errors
    /// If a version has several images or can't be split.
    pub fn follow(
        versions: &[Opened],
        options: &SplitOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if versions.len() < 2 {
            return Ok(Self::default());
        }
        let mut followed = Vec::new();
        let (mut before, mut last): (Option<Bundle>, _) = (None, None);
        for opened in versions {
            let [image] = opened.images.as_slice() else {
                return Err(Error::refused(
                    "updates can be measured for one platform only; choose it with --platform",
                ));
            };
            let split = |previous: Option<&Opened>| -> Result<(Bundle, ImageReport)> {
                let (bundle, mut reports) =
                    split::split(opened, previous, options, budget, progress)?;
                Ok((bundle, reports.remove(0)))
            };
            let (mut bundle, alone) = split(None)?;
            let split_alone = stack(&alone);
            let (mut previous, mut dead_bytes) = (split_alone.clone(), 0);
            if let Some(before) = &before {
                let (next, report) = split(Some(&before.reopen()?))
                    .with_context(|| "splitting with the previous version")?;
                (bundle, previous) = (next, stack(&report));
                dead_bytes = report.update.map_or(0, |u| u.dead_bytes);
            }
            let built = built(image, &alone)?;
            followed.push(Version {
                stacks: Forms { built, split: split_alone, previous },
                dead_bytes,
            });
            (before, last) = (Some(bundle), Some(alone));
        }
        Ok(Self { versions: followed, last })
    }

    /// Returns what clients download at each step.
    pub fn steps(&self) -> Vec<Step> {
        let layers = |stack: &[Held]| stack.iter().map(Held::as_diffed).collect::<Vec<_>>();
        let step = |pair: &[Version]| Step {
            loads: pair[0]
                .stacks
                .with(&pair[1].stacks, |old, new| loads(&layers(old), &layers(new))),
            dead_bytes: pair[1].dead_bytes,
        };
        self.versions.windows(2).map(step).collect()
    }

    /// Simulates the pulls of each step by every client over every link, on one machine.
    pub fn pulls(
        &self,
        clients: &[&ClientModel],
        links: &[(String, Link)],
        machine: &Machine,
    ) -> Vec<UpdatePulls> {
        let one = |client: &ClientModel, old: &[Held], new: &[Held], link: &Link| {
            let ids = |stack: &[Held]| stack.iter().map(|h| h.identity).collect::<Vec<_>>();
            let layers: Vec<simulate::Layer> = new.iter().map(|h| h.layer).collect();
            let needs = needs(client.reuse, &ids(old), &ids(new));
            simulate_update(&layers, &needs, client, link, machine)
        };
        let all = |client: &ClientModel, (name, link): &(String, Link)| UpdatePulls {
            client: client.client,
            link: name.clone(),
            steps: self
                .versions
                .windows(2)
                .map(|pair| {
                    pair[0].stacks.with(&pair[1].stacks, |old, new| one(client, old, new, link))
                })
                .collect(),
        };
        links.iter().flat_map(|link| clients.iter().map(move |client| all(client, link))).collect()
    }
}

impl Held {
    fn as_diffed(&self) -> LayerStats {
        LayerStats {
            digest: self.identity.digest,
            diff_id: self.identity.diff_id,
            blob_bytes: self.layer.blob_bytes,
            tar_bytes: self.layer.tar_bytes,
            entries: self.layer.entries,
        }
    }
}

fn built(image: &Image, report: &ImageReport) -> Result<Vec<Held>> {
    let held = image.layers.iter().zip(&report.input).map(|(blob, layer)| {
        let identity = Identity { digest: blob.digest()?, diff_id: blob.diff_id };
        Ok(Held { identity, layer: *layer })
    });
    held.collect()
}

fn stack(report: &ImageReport) -> Vec<Held> {
    let held = report.layers.iter().filter_map(|l| {
        let identity = Identity { digest: l.digest?, diff_id: l.diff_id? };
        Some(Held { identity, layer: l.pulled(simulate::CompressionKind::Zstd) })
    });
    held.collect()
}
