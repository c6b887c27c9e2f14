//! The base of an image: its lowest layers, which stay as they are, since other images share them.

use super::kept::KeptLayer;
use crate::base::error::{Context, Error, Result};
use crate::layers::flatten::{LayerStats, ReadLayers};
use crate::layers::tree;
use crate::model::digest::Digest;
use crate::model::fileset::FileSet;
use crate::plan::MAX_LAYERS;
use crate::plan::update::{self, OldLayer};
use crate::transport::image::Image;

/// What the lowest layers of an image are.
#[derive(Debug, Clone)]
pub struct Base<'a> {
    /// How many they are.
    pub layers: usize,
    /// The image that they are from; its blobs are used instead of those of the image that is split.
    pub image: Option<&'a Image>,
    /// Its name in a registry.
    pub name: Option<String>,
}

impl<'a> Base<'a> {
    /// Returns the layers that `image` shares with `base`, from the lowest on, by diff ID; `None` if there
    /// are none.
    pub fn shared(image: &Image, base: &'a Image, name: Option<String>) -> Option<Self> {
        let pairs = image.layers.iter().zip(&base.layers);
        let layers = pairs.take_while(|(a, b)| a.diff_id == b.diff_id).count();
        (layers > 0).then_some(Self { layers, image: Some(base), name })
    }

    /// Returns whether all layers of the base are in the image, which is then built on it.
    pub fn is_whole(&self) -> bool {
        self.image.is_some_and(|image| image.layers.len() == self.layers)
    }

    /// Returns the name and the digest of the manifest of the image, if the whole of it is the base.
    pub(super) fn source(&self) -> (Option<&str>, Option<Digest>) {
        let image = self.image.filter(|_| self.is_whole());
        let name = image.and(self.name.as_deref());
        (name, image.and_then(|image| image.manifest.as_deref()).map(Digest::of))
    }
}

/// The layers of a base after reading.
pub struct BaseLayers {
    /// Their file set.
    pub(super) files: FileSet,
    /// The layers, lowest first, as they are kept.
    pub(super) kept: Vec<KeptLayer>,
    pub(super) layers: Vec<OldLayer>,
}

impl std::fmt::Debug for BaseLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseLayers").field("files", &self.files).finish_non_exhaustive()
    }
}

impl BaseLayers {
    /// Returns the layers of the base of `image`, whose layers were read.
    ///
    /// # Errors
    /// If the image has fewer layers, or there is no room above the base.
    pub fn new(base: &Base<'_>, image: &Image, read: &ReadLayers<'_>) -> Result<Self> {
        let n = base.layers;
        if n > image.layers.len() || n >= MAX_LAYERS as usize {
            return Err(Error::refused(format!(
                "--base {n}: the image has {} layers, and can have {MAX_LAYERS} at most, of which one is \
                 needed above the base",
                image.layers.len()
            )));
        }
        let of = base.image.unwrap_or(image);
        let manifest = super::kept::manifest(of);
        let labels = super::kept::labels(of, manifest.as_ref());
        let (mut kept, mut layers) = (Vec::new(), Vec::new());
        for (i, (content, blob)) in read.layers.iter().zip(&image.layers).take(n).enumerate() {
            let stats = LayerStats::new(blob, content);
            let own = of.layers[i].digest().with_context(|| "the base")?;
            let noted = manifest.as_ref().and_then(|m| m.layers.get(i));
            let layer = if own == stats.digest {
                KeptLayer::new(blob, &stats, noted, &labels[i])?
            } else {
                KeptLayer::unread(&of.layers[i], own, &stats, noted, &labels[i])
            };
            kept.push(layer.of_base().with_changes(&content.changes));
            layers.push(OldLayer {
                name: blob.name.clone(),
                must_drop: false,
                changes: content.changes.clone(),
                blob_bytes: of.layers[i].source.size(),
            });
        }
        let applied = tree::apply(layers.iter().map(|l| (l.name.as_str(), l.changes.clone())));
        Ok(Self { files: applied?.0, kept, layers })
    }

    /// Returns for each inode of a file set whether the base has it.
    pub(super) fn unchanged(&self, files: &FileSet) -> Vec<bool> {
        update::unchanged(&self.files, files)
    }
}
