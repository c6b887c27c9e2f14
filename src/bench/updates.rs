//! What updates cost over a sequence of versions.

use std::sync::Arc;

use serde::Serialize;

use crate::content::Budget;
use crate::diff::{Layer, Loads, loads};
use crate::error::{Context, Error, Result};
use crate::flatten;
use crate::layer::{Limits, MAX_ENTRIES};
use crate::progress::Progress;
use crate::report::LayerReport;
use crate::split::{self, Options};
use crate::transport::bundle::Bundle;
use crate::transport::open::{Image, Opened};

/// From one version to the next, what clients load.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    /// Of the images as they were built.
    pub built: Loads,
    /// Of each version split by itself.
    pub split: Loads,
    /// Of each version split on top of the one before, which was itself split so.
    pub previous: Loads,
    /// Bytes of the last that layers hold and the image does not show, as estimated.
    pub dead_bytes: u64,
}

/// Layers of one version.
struct Version {
    built: Vec<Layer>,
    split: Vec<Layer>,
    previous: Vec<Layer>,
    dead_bytes: u64,
}

/// Follows the versions, each with one image, oldest first. Everything is split in full, so this
/// takes two splits a version; bytes are those of real blobs. Runs on the threads of rayon's pool.
pub fn updates(
    versions: &[Opened],
    options: &Options,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut last: Option<(Version, Bundle)> = None;
    for opened in versions {
        let [image] = opened.images.as_slice() else {
            return Err(Error::refused("an index of several platforms has no one sequence"));
        };
        let built = built(image, options, progress)?;
        let alone = split::split(opened, None, options, budget, progress)?;
        let split = stack(&alone.1[0].layers);
        let (bundle, previous, dead_bytes) = match &last {
            None => (alone.0, split.clone(), 0),
            Some((_, before)) => {
                let before = before.reopen()?;
                let (bundle, reports) =
                    split::split(opened, Some(&before), options, budget, progress)
                        .context(|| "on top of the version before")?;
                let dead = reports[0].update.as_ref().map_or(0, |u| u.dead_bytes);
                (bundle, stack(&reports[0].layers), dead)
            }
        };
        let new = Version { built, split, previous, dead_bytes };
        if let Some((old, _)) = &last {
            steps.push(Step {
                built: loads(&old.built, &new.built),
                split: loads(&old.split, &new.split),
                previous: loads(&old.previous, &new.previous),
                dead_bytes: new.dead_bytes,
            });
        }
        last = Some((new, bundle));
    }
    Ok(steps)
}

fn built(image: &Image, options: &Options, progress: &dyn Progress) -> Result<Vec<Layer>> {
    let limits = Limits::new(options.max_size, MAX_ENTRIES);
    let read = flatten::read(&image.layers, None, &limits, progress)?;
    Ok(image.layers.iter().zip(&read).map(|(blob, read)| Layer::of(blob, read)).collect())
}

fn stack(layers: &[LayerReport]) -> Vec<Layer> {
    let layers = layers.iter().filter_map(|l| {
        Some(Layer {
            digest: l.digest?,
            diff_id: l.diff_id?,
            blob_bytes: l.blob_bytes?,
            tar_bytes: l.tar_bytes?,
        })
    });
    layers.collect()
}
