//! The image that is measured, read once.

use std::sync::Arc;

use crate::analyze::{self, Analysis};
use crate::codec::{Format, MAGIC};
use crate::content::{Budget, Contents};
use crate::error::Result;
use crate::fileset::FileSet;
use crate::flatten;
use crate::layer::{LayerContent, Limits, MAX_ENTRIES};
use crate::progress::Progress;
use crate::pull;
use crate::transport::open::{Image, LayerBlob};

/// An image with all that is asked of it.
pub struct Subject {
    /// The final file set.
    pub files: FileSet,
    /// What files hold.
    pub contents: Contents,
    /// Its components.
    pub analysis: Analysis,
    /// Expected compressed bytes of each inode.
    pub estimates: Vec<u64>,
    /// The layers as they were built, lowest first.
    pub built: Vec<pull::Layer>,
}

impl Subject {
    /// Reads an image that may unfold to `max_size` bytes. Runs on the threads of rayon's pool.
    pub fn read(
        image: &Image,
        max_size: u64,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let limits = Limits::new(max_size, MAX_ENTRIES);
        let read = flatten::read(&image.layers, Some(budget), &limits, progress)?;
        let built = image.layers.iter().zip(&read).map(|(blob, read)| built_layer(blob, read));
        let built = built.collect::<Result<_>>()?;
        let contents = Contents::new(read.iter().map(|l| Arc::clone(&l.source)).collect());
        let names = image.layers.iter().map(|l| l.name.as_str());
        let (files, _) = flatten::apply(names.zip(read.into_iter().map(|l| l.changes)))?;
        let analysis = analyze::analyze(&files, &contents, &[])?;
        let estimates = analyze::estimate(&files, &contents, &analysis)?;
        Ok(Self { files, contents, analysis, estimates, built })
    }
}

/// A layer as a pull sees it.
pub(super) fn built_layer(blob: &LayerBlob, read: &LayerContent) -> Result<pull::Layer> {
    let mut head = [0; MAGIC];
    let n = (MAGIC as u64).min(blob.source.size()) as usize;
    blob.source.read_exact_at(&mut head[..n], 0)?;
    Ok(pull::Layer {
        stored: blob.source.size(),
        unpacked: read.tar_bytes,
        files: read.changes.len() as u64,
        compression: Format::detect(&head[..n])?.into(),
    })
}
