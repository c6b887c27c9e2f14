//! Opens an image wherever it is: in an archive, a layout or a store.

use crate::base::error::{Context, Error, Result};
use crate::model::oci::Platform;
use crate::transport::image::Opened;
use crate::transport::open::{Access, Place};
use crate::transport::{Reference, Transport};

/// Finds the place that a reference names.
///
/// # Errors
/// If it does not exist or is not valid, or if it is a store and relayer was built without the feature
/// `store`.
pub fn place(image: &Reference, access: &Access) -> Result<Place> {
    match (image.transport, image.path()) {
        #[cfg(feature = "store")]
        (Some(Transport::Store), Some(dir)) => {
            super::read::place(dir, image.tag.as_deref(), access.threads, &access.budget)
                .with_context(|| format!("reading {image}"))
        }
        #[cfg(not(feature = "store"))]
        (Some(Transport::Store), _) => Err(without_database().context(format!("reading {image}"))),
        _ => Place::at(image, access),
    }
}

/// Opens the images that a reference names, or those of them for `platform`: see [`place`].
///
/// # Errors
/// If they do not exist or are not valid.
pub fn open(image: &Reference, platform: Option<&Platform>, access: &Access) -> Result<Opened> {
    place(image, access)?
        .images(tag(image), platform, access.max_size)
        .with_context(|| format!("reading {image}"))
}

/// Opens the images that a reference names and returns them if there is only one platform: see
/// [`open`].
///
/// # Errors
/// As for [`open`], or if there are images for several platforms.
pub fn open_one(image: &Reference, platform: Option<&Platform>, access: &Access) -> Result<Opened> {
    let opened = open(image, platform, access)?;
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
