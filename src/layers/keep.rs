//! What is stored of layers while they are read.

use std::collections::HashMap;
use std::fmt;

use crate::model::content::Source;
use crate::model::fileset::{InodeKind, Location};
use crate::model::index::SourceId;
use crate::model::rootfs::Rootfs;

/// Which parts of the layers are stored while they are read.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// The index and the bytes of all files.
    Contents,
    /// The index only: files of compressed layers can't be read later.
    Index,
    /// The index and the bytes of the files that another image lacks; the others are read from there.
    Lacking(&'a Known<'a>),
}

/// The files of an image by content, except sparse ones.
pub struct Known<'a> {
    rootfs: &'a Rootfs,
    /// Source and offset by BLAKE3 hash.
    files: HashMap<&'a [u8; 32], (SourceId, u64)>,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl<'a> Known<'a> {
    /// Returns the files of `rootfs`.
    pub fn new(rootfs: &'a Rootfs) -> Self {
        let files = rootfs.files.inodes().iter().filter_map(|inode| match &inode.kind {
            InodeKind::File(file) => match file.location {
                Location::Span { source, offset } => Some((&file.hash, (source, offset))),
                Location::Sparse(_) => None,
            },
            _ => None,
        });
        Self { rootfs, files: files.collect() }
    }

    /// Returns the location of this content among sources of which those of the image begin at `first`.
    pub(super) fn get(&self, hash: &[u8; 32], first: SourceId) -> Option<Location> {
        let (source, offset) = *self.files.get(hash)?;
        Some(Location::Span { source: SourceId::new(first.index() + source.index()), offset })
    }

    /// Returns the sources of the image.
    pub(super) fn sources(&self) -> &'a [Source] {
        self.rootfs.contents.sources()
    }
}
