//! The image to measure, read once.

use std::fmt;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::limits::BENCH_SHARE;
use crate::base::progress::Progress;
use crate::layers::Limits;
use crate::layers::flatten::{self, Flattened, Keep};
use crate::model::content::Budget;
use crate::model::rootfs::Rootfs;
use crate::plan::MAX_LAYERS;
use crate::plan::analyze::{self, Inventory};
use crate::simulate;
use crate::split;
use crate::transport::image::Image;

/// Returns the part of `memory` bytes for compressors that are measured.
pub(super) fn share(memory: u64) -> u64 {
    memory / BENCH_SHARE.1 * BENCH_SHARE.0
}

/// Creates a budget for measurements, with the compressors' memory reserved.
pub fn budget(memory: u64) -> Arc<Budget> {
    Budget::with_reserved(memory, share(memory), None)
}

/// An image that was read for measurements.
pub struct Subject {
    /// The final file set.
    pub rootfs: Rootfs,
    /// Its components and estimates.
    pub inventory: Inventory,
    /// The layers as built, lowest first; see [`split::pulled`].
    pub built: Vec<simulate::Layer>,
    /// Counts the memory of the file set against the budget until it is dropped.
    pub limits: Limits,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut subject = f.debug_struct("Subject");
        subject.field("analysis", &self.inventory.analysis).field("built", &self.built);
        subject.finish_non_exhaustive()
    }
}

impl Subject {
    /// Reads an image that may expand to `max_size` bytes. Runs on the threads of rayon's pool.
    ///
    /// # Errors
    /// If the image is damaged or exceeds a limit.
    pub fn read(
        image: &Image,
        max_size: u64,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let flat =
            flatten::read(&image.layers, Keep::Contents, max_size, budget, progress)?.flatten()?;
        let analysis = analyze::analyze(&flat.rootfs, &[])?;
        let inventory = analyze::estimate(&flat.rootfs, analysis, MAX_LAYERS.into(), &[])?;
        let built = split::pulled(image, &flat, &inventory.estimates)?;
        let Flattened { rootfs, limits, .. } = flat;
        Ok(Self { rootfs, inventory, built, limits })
    }
}
