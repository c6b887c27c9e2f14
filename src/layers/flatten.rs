//! Layers in, one file set out: what a client would have after unpacking every layer.
//!
//! Layers are read in parallel and applied in order; [`tree`](crate::layers::tree) has the rules.

use std::sync::Arc;

use rayon::prelude::*;

use super::Limits;
use super::driver::Attributes;
use super::hidden::{Hidden, HiddenFile};
use super::read::{LayerContent, read_layer};
use super::tree::Tree;
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::model::content::{Budget, Contents};
use crate::model::digest::Digest;
use crate::model::fileset::FileSet;
use crate::transport::image::LayerBlob;

/// An image's layers, read.
#[derive(Debug)]
pub struct ReadLayers<'a> {
    blobs: &'a [LayerBlob],
    /// What each of them does, lowest first; their files' sources are numbered from 0.
    pub layers: Vec<LayerContent>,
    /// What their index takes is counted as long as this lives.
    limits: Limits,
}

/// What is kept of layers when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Their index and the bytes of their files.
    Contents,
    /// The index only: files of compressed layers can't be read later.
    Index,
}

/// An image as a client would show it.
#[derive(Debug)]
pub struct Flattened {
    /// The final file set.
    pub files: FileSet,
    /// Where its contents are.
    pub contents: Contents,
    /// What it no longer holds.
    pub hidden: Hidden,
    /// The layers, lowest first.
    pub layers: Vec<LayerStats>,
    /// What people should know of what the file set lacks.
    pub notes: Vec<String>,
    /// What the file set takes is counted as long as this lives.
    pub(crate) limits: Limits,
}

/// A layer that was read.
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
    /// Entries of the tar, whiteouts among them.
    pub entries: u64,
}

/// Reads layers in parallel, on the current rayon pool. They may expand to `max_size` bytes in all.
///
/// # Errors
/// When one can't be read, is not valid or has another digest than stated, or when a bound is met.
pub fn read<'a>(
    blobs: &'a [LayerBlob],
    keep: Keep,
    max_size: u64,
    budget: &Arc<Budget>,
    progress: &dyn Progress,
) -> Result<ReadLayers<'a>> {
    let limits = Limits::new(max_size, blobs, budget);
    let spools = (keep == Keep::Contents).then_some(budget);
    progress.begin("read", blobs.iter().map(|l| l.source.size()).sum());
    let read: Vec<Result<LayerContent>> = blobs
        .par_iter()
        .enumerate()
        .with_max_len(1)
        .map(|(i, blob)| read_layer(blob, i as u32, spools, &limits, progress))
        .collect();
    progress.end();
    // Of several broken layers the lowest is reported, whichever is found first.
    Ok(ReadLayers { blobs, layers: read.into_iter().collect::<Result<_>>()?, limits })
}

impl ReadLayers<'_> {
    /// Where the bytes of files are.
    pub fn contents(&self) -> Contents {
        Contents::new(self.layers.iter().map(|l| Arc::clone(&l.source)).collect())
    }

    /// What the layers come to, one above the other.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn flatten(self) -> Result<Flattened> {
        Ok(self.flatten_with(Tree::default())?.0)
    }

    /// As [`flatten`](Self::flatten), and lists the hidden files, in no order that means anything.
    ///
    /// # Errors
    /// When the layers contradict each other.
    pub fn flatten_and_list(self) -> Result<(Flattened, Vec<HiddenFile>)> {
        self.flatten_with(Tree::listing())
    }

    fn flatten_with(self, tree: Tree) -> Result<(Flattened, Vec<HiddenFile>)> {
        let contents = self.contents();
        let notes = Attributes::note(self.layers.iter().map(|l| &l.driver)).into_iter().collect();
        let stats = |(blob, read): (&LayerBlob, &LayerContent)| LayerStats {
            digest: read.digest,
            diff_id: blob.diff_id,
            blob_bytes: blob.source.size(),
            tar_bytes: read.tar_bytes,
            entries: read.changes.len() as u64,
        };
        let layers = self.blobs.iter().zip(&self.layers).map(stats).collect();
        let names = self.blobs.iter().map(|l| l.name.as_str());
        let changes = self.layers.into_iter().map(|l| l.changes);
        let (files, hidden, list) = tree.apply_all(names.zip(changes))?;
        let limits = self.limits;
        Ok((Flattened { files, contents, hidden, layers, notes, limits }, list))
    }
}
