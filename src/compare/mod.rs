//! Comparison of two images: differences of their file sets, and the cost of an update.
//!
//! May import `plan` and everything below it. To know: [`verify::compare`], which lists every
//! [`Difference`](verify::Difference), and [`diff::diff`], which sums them up as a [`Diff`](diff::Diff).

pub mod diff;
pub mod limits;
pub mod verify;

use std::sync::Arc;

use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::layers::flatten::{self, Flattened, Keep};
use crate::model::content::Budget;
use crate::model::oci::Platform;
use crate::transport::image::Opened;

/// An image that was read to be compared.
#[derive(Debug)]
pub struct ReadImage {
    /// What it runs on.
    pub platform: Platform,
    /// Its files.
    pub flat: Flattened,
}

/// Reads the images of all platforms, on the current rayon pool; see [`flatten::read`].
///
/// # Errors
/// If one can't be read or is not valid.
pub fn read(
    opened: &Opened,
    keep: Keep,
    max_size: u64,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<Vec<ReadImage>> {
    let images = opened.images.iter().map(|image| {
        let flat = flatten::read(&image.layers, keep, max_size, budget, progress)?.flatten()?;
        Ok(ReadImage { platform: image.platform.clone(), flat })
    });
    images.collect()
}
