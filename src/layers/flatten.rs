//! Flattens layers into one file set: the files that a client would have after unpacking every layer.
//!
//! Layers are read in parallel and applied in order, by the rules of [`tree`].

use std::cmp::Reverse;
use std::sync::Arc;

use rayon::prelude::*;

use super::Limits;
use super::driver::Attributes;
use super::hidden::{HiddenCounts, HiddenFile};
pub use super::keep::{Keep, Known};
use super::read::{LayerContent, SourceNumbers, read_layer};
use super::tree::{self, Tree};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::model::content::{Budget, Contents, Source};
use crate::model::digest::Digest;
use crate::model::index::SourceId;
use crate::model::rootfs::Rootfs;
use crate::transport::image::LayerBlob;

/// An image's layers after reading.
pub struct ReadLayers<'a> {
    blobs: &'a [LayerBlob],
    /// Contents of the layers, lowest first; the sources of their files are numbered from 0.
    pub layers: Vec<LayerContent>,
    /// The sources of the other image of [`Keep::Lacking`], which follow those of the layers.
    more: Vec<Source>,
    /// Holds the index's share of the memory budget until it is dropped.
    limits: Limits,
}

impl std::fmt::Debug for ReadLayers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadLayers").field("layers", &self.layers).finish_non_exhaustive()
    }
}

/// An image's final file set, as a client would have it on disk.
#[derive(Debug)]
pub struct Flattened {
    /// The final file set and its contents.
    pub rootfs: Rootfs,
    /// Counts of the files that lower layers hold and the file set does not.
    pub hidden: HiddenCounts,
    /// Digests and sizes of the layers, lowest first.
    pub layers: Vec<LayerStats>,
    /// Notes for the user on what was left out.
    pub notes: Vec<String>,
    /// Holds the file set's share of the memory budget until it is dropped.
    pub(crate) limits: Limits,
}

/// Digests and sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerStats {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Number of changes that the tar makes, including whiteouts.
    pub entries: u64,
}

impl LayerStats {
    /// Returns those of a layer that was read.
    pub(crate) fn new(blob: &LayerBlob, read: &LayerContent) -> Self {
        Self {
            digest: read.digest,
            diff_id: blob.diff_id,
            blob_bytes: blob.source.size(),
            tar_bytes: read.tar_bytes,
            entries: read.changes.len() as u64,
        }
    }
}

/// Reads layers in parallel, on the current rayon pool. Together they may expand to `max_size` bytes.
///
/// # Errors
/// If a layer can't be read, is not valid, has another digest than stated, or exceeds a limit.
pub fn read<'a>(
    blobs: &'a [LayerBlob],
    keep: Keep<'a>,
    max_size: u64,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<ReadLayers<'a>> {
    let limits = Limits::new(max_size, blobs, budget);
    let number =
        |i| SourceNumbers { layer: SourceId::new(i), first_known: SourceId::new(blobs.len()) };
    progress.begin("read", blobs.iter().map(|l| l.source.size()).sum());
    // Largest first, so that no large one is left over for a single thread.
    let mut order: Vec<(usize, &LayerBlob)> = blobs.iter().enumerate().collect();
    order.sort_by_key(|(i, layer)| (Reverse(layer.source.size()), *i));
    for (_, layer) in &order {
        layer.source.prefetch();
    }
    let each = order.into_iter().par_bridge();
    let mut read: Vec<(usize, Result<LayerContent>)> =
        each.map(|(i, blob)| (i, read_layer(blob, number(i), keep, &limits, progress))).collect();
    progress.end();
    // If several layers are broken, the lowest is reported, no matter which is found first.
    read.sort_by_key(|(i, _)| *i);
    let layers = read.into_iter().map(|(_, layer)| layer).collect::<Result<_>>()?;
    let more = if let Keep::Lacking(known) = keep { known.sources().to_vec() } else { Vec::new() };
    Ok(ReadLayers { blobs, layers, more, limits })
}

impl ReadLayers<'_> {
    /// Applies the layers, lowest first.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn flatten(self) -> Result<Flattened> {
        Ok(self.flatten_with(Tree::default())?.0)
    }

    /// Returns what the lowest `n` layers alone make.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn lowest(&self, n: usize) -> Result<Rootfs> {
        let layers = self.blobs.iter().zip(&self.layers).take(n);
        let (files, _) = tree::apply(layers.map(|(b, l)| (b.name.as_str(), l.changes.clone())))?;
        let sources = self.layers.iter().map(|l| Arc::clone(&l.source)).collect();
        Ok(Rootfs { files, contents: Contents::new(sources) })
    }

    /// Does the same as [`flatten`](Self::flatten), and also returns the hidden files, in no
    /// particular order.
    ///
    /// # Errors
    /// If the layers contradict each other.
    pub fn flatten_and_list(self) -> Result<(Flattened, Vec<HiddenFile>)> {
        self.flatten_with(Tree::listing())
    }

    fn flatten_with(self, tree: Tree) -> Result<(Flattened, Vec<HiddenFile>)> {
        let sources = self.layers.iter().map(|l| &l.source).chain(&self.more);
        let contents = Contents::new(sources.map(Arc::clone).collect());
        let notes = Attributes::note(self.layers.iter().map(|l| &l.driver)).into_iter().collect();
        let pairs = self.blobs.iter().zip(&self.layers);
        let layers = pairs.map(|(blob, read)| LayerStats::new(blob, read)).collect();
        let names = self.blobs.iter().map(|l| l.name.as_str());
        let changes = self.layers.into_iter().map(|l| l.changes);
        let (files, hidden, list) = tree.apply_all(names.zip(changes))?;
        let limits = self.limits;
        Ok((Flattened { rootfs: Rootfs { files, contents }, hidden, layers, notes, limits }, list))
    }
}
