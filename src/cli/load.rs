//! Opening and reading images for commands.

use std::sync::Arc;

use super::{Global, terminal::Terminal};
use crate::base::error::{Context, Error, Result};
use crate::layers::flatten::{self, Flattened, Keep};
use crate::model::content::Budget;
use crate::model::oci::Platform;
use crate::transport::image::Opened;
use crate::transport::open::Place;
use crate::transport::{Reference, Transport};

/// Finds the place that a reference names: an archive, a layout or a store.
///
/// # Errors
/// If it does not exist or is not valid.
pub(super) fn place(image: &Reference, budget: &Arc<Budget>, global: &Global) -> Result<Place> {
    match (image.transport, &image.path) {
        #[cfg(feature = "store")]
        (Some(Transport::Store), Some(dir)) => {
            let workers = global.threads() as u32;
            crate::store::place(dir, image.tag.as_deref(), workers, budget)
                .with_context(|| format!("reading {image}"))
        }
        #[cfg(not(feature = "store"))]
        (Some(Transport::Store), _) => Err(without_database().context(format!("reading {image}"))),
        _ => Place::at(image, budget, global.max_size.0),
    }
}

/// Opens the images that a reference names.
pub(super) fn open(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    place(image, budget, global)?
        .images(tag(image), platform, global.max_size.0)
        .with_context(|| format!("reading {image}"))
}

/// Returns the name that selects the image of a reference in its place.
pub(super) fn tag(image: &Reference) -> Option<&str> {
    // A name in a store refers to a single image.
    image.tag.as_deref().filter(|_| image.transport != Some(Transport::Store))
}

/// Opens the one image that a reference names.
pub(super) fn open_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
) -> Result<Opened> {
    let opened = open(image, platform, budget, global)?;
    if opened.images.len() == 1 { Ok(opened) } else { Err(several_platforms(image)) }
}

/// Returns the error of a command that needs the database.
#[cfg(not(feature = "store"))]
pub(super) fn without_database() -> crate::base::error::Error {
    crate::base::error::Error::unsupported(
        "this relayer was built without a database; build it with `cargo install --path . \
         --features store`",
    )
}

/// Returns the error for an image of several platforms.
fn several_platforms(image: &Reference) -> Error {
    Error::refused(format!("{image} has images for several platforms; choose one with --platform"))
}

/// An image that was read.
pub(super) struct Loaded {
    pub(super) platform: Platform,
    /// The names of the image.
    #[cfg_attr(not(feature = "store"), expect(dead_code, reason = "only a history asks for it"))]
    pub(super) names: Vec<String>,
    /// Its files; contents of compressed layers only if they were requested.
    pub(super) flat: Flattened,
}

/// Reads all images that a reference names, with the contents of their files if `contents` is set.
pub(super) fn load(
    image: &Reference,
    platform: Option<&Platform>,
    contents: bool,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Vec<Loaded>> {
    let opened = open(image, platform, budget, global)?;
    let pool = global.pool()?;
    let keep = if contents { Keep::Contents } else { Keep::Index };
    let images = opened.images.iter().map(|one| {
        let flat = pool.install(|| {
            flatten::read(&one.layers, keep, global.max_size.0, budget, terminal)?.flatten()
        })?;
        Ok(Loaded { platform: one.platform.clone(), names: opened.names.clone(), flat })
    });
    images.collect::<Result<_>>().with_context(|| format!("reading {image}"))
}

/// Reads the one image that a reference names, with its contents.
pub(super) fn load_one(
    image: &Reference,
    platform: Option<&Platform>,
    budget: &Arc<Budget>,
    global: &Global,
    terminal: &Terminal,
) -> Result<Loaded> {
    let mut images = load(image, platform, true, budget, global, terminal)?;
    match (images.pop(), images.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(several_platforms(image)),
    }
}
