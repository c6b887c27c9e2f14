//! Bytes that clients download and containers don't need: hidden files in lower layers, and duplicate
//! contents.
//!
//! All counts are uncompressed bytes of regular files, with holes as zeros; a hard-link group counts
//! once. Every file of a layer is either shown or hidden, so the two add up to all.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::path;
use crate::layers::hidden::{HiddenFile, How};
use crate::model::fileset::{FileSet, InodeKind};

/// Bytes that the image could do without.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Waste {
    /// Sum of `hidden_bytes` and `duplicate_bytes`.
    pub bytes: u64,
    /// The same as a share of the bytes of all files in all layers.
    pub share: f64,
    /// Number of hidden files: lower layers hold them, the image does not show them.
    pub hidden_files: u64,
    /// Bytes in them.
    pub hidden_bytes: u64,
    /// Number of hidden files whose content the image shows nowhere. They were deleted or overwritten,
    /// but can still be read from the layers.
    pub recoverable_files: u64,
    /// Bytes in them. The other hidden bytes were written again by `chown`, `chmod` or `mv`.
    pub recoverable_bytes: u64,
    /// Number of shown files with the same content as another one, not counting the first of each
    /// content. Empty files are not duplicates.
    pub duplicate_files: u64,
    /// Bytes in them.
    pub duplicate_bytes: u64,
    /// The hidden files, largest first.
    pub hidden: Vec<HiddenReport>,
    /// The duplicate contents, those that waste most bytes first.
    pub duplicates: Vec<Duplicate>,
}

/// A hidden file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HiddenReport {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Number of the layer that holds it, from 1.
    pub layer: usize,
    /// Number of the layer that hides it; the same layer if a later entry of it does.
    pub hidden_by: usize,
    /// How it was hidden.
    pub how: How,
    /// Whether the image shows its content nowhere.
    pub recoverable: bool,
}

/// A content that several files of the image have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// Bytes of one file.
    pub size: u64,
    /// Bytes of all but one.
    pub bytes: u64,
    /// Its files, sorted by layer and path; of a hard-link group the first name.
    pub files: Vec<FileLocation>,
}

/// Location of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FileLocation {
    /// Number of the layer that holds it, from 1.
    pub layer: usize,
    /// Its path.
    pub path: String,
}

/// Counts hidden and duplicate files.
pub(super) fn waste(set: &FileSet, list: &[HiddenFile]) -> Waste {
    let shown: BTreeSet<&[u8; 32]> = set
        .inodes()
        .iter()
        .filter_map(|inode| match &inode.kind {
            InodeKind::File(file) => Some(&file.hash),
            _ => None,
        })
        .collect();
    let mut hidden: Vec<HiddenReport> = list
        .iter()
        .map(|h| HiddenReport {
            path: path(&h.path),
            bytes: h.file.size,
            layer: h.file.location.source().index() + 1,
            hidden_by: h.by.number(),
            how: h.how,
            recoverable: h.file.size > 0 && !shown.contains(&h.file.hash),
        })
        .collect();
    let order =
        |h: &HiddenReport| (std::cmp::Reverse(h.bytes), h.path.clone(), h.layer, h.hidden_by);
    hidden.sort_by_cached_key(order);
    let duplicates = duplicates(set);
    let sum = |only: bool| {
        let counted = hidden.iter().filter(|h| h.recoverable || !only);
        counted.fold((0, 0), |(files, bytes), h| (files + 1, bytes + h.bytes))
    };
    let ((hidden_files, hidden_bytes), (recoverable_files, recoverable_bytes)) =
        (sum(false), sum(true));
    let duplicate_bytes = duplicates.iter().map(|d| d.bytes).sum();
    let sizes = set.inodes().iter().map(|inode| match &inode.kind {
        InodeKind::File(file) => file.size,
        _ => 0,
    });
    let bytes = hidden_bytes + duplicate_bytes;
    Waste {
        bytes,
        share: bytes as f64 / (hidden_bytes + sizes.sum::<u64>()).max(1) as f64,
        hidden_files,
        hidden_bytes,
        recoverable_files,
        recoverable_bytes,
        duplicate_files: duplicates.iter().map(|d| d.files.len() as u64 - 1).sum(),
        duplicate_bytes,
        hidden,
        duplicates,
    }
}

/// Returns the contents that several inodes have.
fn duplicates(set: &FileSet) -> Vec<Duplicate> {
    let mut by_content: BTreeMap<&[u8; 32], Vec<u32>> = BTreeMap::new();
    let mut seen = vec![false; set.inodes().len()];
    for (i, entry) in set.entries().iter().enumerate() {
        if let InodeKind::File(file) = &set.inode(entry).kind
            && file.size > 0
            && !std::mem::replace(&mut seen[entry.inode.index()], true)
        {
            by_content.entry(&file.hash).or_default().push(i as u32);
        }
    }
    let several = by_content.into_values().filter(|files| files.len() > 1);
    let mut found: Vec<Duplicate> = several
        .map(|files| {
            let (mut size, mut places) = (0, Vec::new());
            for i in files {
                let entry = &set.entries()[i as usize];
                if let InodeKind::File(file) = &set.inode(entry).kind {
                    size = file.size;
                    let layer = file.location.source().index() + 1;
                    places.push(FileLocation { layer, path: path(&entry.path) });
                }
            }
            places.sort();
            Duplicate { size, bytes: size * (places.len() as u64 - 1), files: places }
        })
        .collect();
    found.sort_by(|a, b| (b.bytes, &a.files).cmp(&(a.bytes, &b.files)));
    found
}
