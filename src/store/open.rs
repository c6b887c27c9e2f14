//! Opens an image wherever it is: in an archive, a layout or a store.

use std::sync::Arc;

use crate::base::error::{Context, Error, Result};
use crate::model::content::Budget;
use crate::model::oci::Platform;
use crate::transport::image::Opened;
use crate::transport::open::Place;
use crate::transport::{Reference, Transport};

/// Finds the place that a reference names. Blobs of a store are rebuilt on `workers` threads. Archives
/// that come through a pipe or are compressed go to a spool on `budget`, up to `max_size` bytes.
///
/// # Errors
/// If it does not exist or is not valid, or if it is a store and relayer was built without the feature
/// `store`.
pub fn place(
    image: &Reference,
    workers: u32,
    max_size: u64,
    budget: &Arc<Budget>,
) -> Result<Place> {
    match (image.transport, &image.path) {
        #[cfg(feature = "store")]
        (Some(Transport::Store), Some(dir)) => {
            super::read::place(dir, image.tag.as_deref(), workers, budget)
                .with_context(|| format!("reading {image}"))
        }
        #[cfg(not(feature = "store"))]
        (Some(Transport::Store), _) => {
            let _ = workers;
            Err(without_database().context(format!("reading {image}")))
        }
        _ => Place::at(image, budget, max_size),
    }
}

/// Opens the images that a reference names, or those of them for `platform`: see [`place`].
///
/// # Errors
/// If they do not exist or are not valid.
pub fn open(
    image: &Reference,
    platform: Option<&Platform>,
    workers: u32,
    max_size: u64,
    budget: &Arc<Budget>,
) -> Result<Opened> {
    place(image, workers, max_size, budget)?
        .images(tag(image), platform, max_size)
        .with_context(|| format!("reading {image}"))
}

/// Opens the images that a reference names and returns them if there is only one platform: see
/// [`open`].
///
/// # Errors
/// As for [`open`], or if there are images for several platforms.
pub fn open_one(
    image: &Reference,
    platform: Option<&Platform>,
    workers: u32,
    max_size: u64,
    budget: &Arc<Budget>,
) -> Result<Opened> {
    let opened = open(image, platform, workers, max_size, budget)?;
    if opened.images.len() == 1 {
        return Ok(opened);
    }
    Err(Error::refused(format!(
        "{image} has images for several platforms; choose one with --platform"
    )))
}

/// Returns the name that selects an image of [`place`].
pub fn tag(image: &Reference) -> Option<&str> {
    // A name in a store refers to a single image.
    image.tag.as_deref().filter(|_| image.transport != Some(Transport::Store))
}

/// Returns the error of commands that need the database.
#[cfg(not(feature = "store"))]
pub(crate) fn without_database() -> Error {
    Error::unsupported(
        "this relayer was built without a database; build it with `cargo install --path . \
         --features store`",
    )
}
