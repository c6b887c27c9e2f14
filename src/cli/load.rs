//! Opening and reading images for commands.

use std::sync::Arc;

use super::{Global, terminal::Terminal};
use crate::base::error::{Context, Result};
use crate::compare::{self, ReadImage};
use crate::layers::flatten::{Flattened, Keep};
use crate::model::content::Budget;
use crate::model::oci::Platform;
use crate::store::open;
use crate::transport::Reference;
use crate::transport::image::Opened;
use crate::transport::open::{Access, Place};
use crate::transport::write::Destination;

/// Returns what opening an image needs.
fn access(budget: &Arc<Budget>, global: &Global) -> Result<Access> {
    Ok(Access {
        budget: Arc::clone(budget),
        max_size: global.max_size.0,
        threads: global.threads() as u32,
        registries: global.registry.sources()?,
    })
}

/// Finds the place that a reference names: an archive, a layout, a registry or a store.
pub(super) fn place(image: &Reference, budget: &Arc<Budget>, global: &Global) -> Result<Place> {
    open::place(image, &access(budget, global)?)
}

/// Checks that an image can be written to `reference`.
pub(super) fn destination(
    reference: Reference,
    force: bool,
    inputs: &[&Reference],
    global: &Global,
) -> Result<Destination> {
    let registries = global.registry.destinations()?;
    Destination::new(reference, force, inputs, &registries, &global.registry.mount_from)
}

/// Opens the images that a reference names.
pub(super) fn open(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open(image, platform, &access(budget, global)?)
}

/// Opens the one image that a reference names.
pub(super) fn open_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open_one(image, platform, &access(budget, global)?)
}

/// Reads all images that a reference names.
pub(super) fn load(
    image: &Reference,
    platform: Option<&Platform>,
    keep: Keep,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<ReadImage>> {
    read(image, &open(image, platform, budget, global)?, keep, budget, global, terminal)
}

/// Reads the one image that a reference names, with the contents of its files. Gives its names too.
pub(super) fn load_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<(Flattened, Vec<String>)> {
    let opened = open_one(image, platform, budget, global)?;
    let mut images = read(image, &opened, Keep::Contents, budget, global, terminal)?;
    Ok((images.swap_remove(0).flat, opened.names))
}

fn read(
    image: &Reference,
    opened: &Opened,
    keep: Keep,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<ReadImage>> {
    let read = || compare::read(opened, keep, global.max_size.0, budget, terminal);
    global.pool()?.install(read).with_context(|| format!("reading {image}"))
}
