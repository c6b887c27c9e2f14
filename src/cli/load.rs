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
use crate::transport::open::Place;

/// Finds the place that a reference names: an archive, a layout or a store.
pub(super) fn place(image: &Reference, budget: &Arc<Budget>, global: &Global) -> Result<Place> {
    open::place(image, global.threads() as u32, global.max_size.0, budget)
}

/// Opens the images that a reference names.
pub(super) fn open(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open(image, platform, global.threads() as u32, global.max_size.0, budget)
}

/// Opens the one image that a reference names.
pub(super) fn open_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    open::open_one(image, platform, global.threads() as u32, global.max_size.0, budget)
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
