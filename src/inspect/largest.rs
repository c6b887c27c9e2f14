//! Where the bytes of an image are: its largest files, and its folders.

use std::collections::BTreeMap;

use serde::Serialize;

use super::path;
use crate::model::fileset::{FileSet, InodeKind, parent};

/// Share of an image's bytes that a folder must have to be listed.
const LEAST: u64 = 100;

/// A file that the image shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LargeFile {
    /// Its path; the first of several.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Estimated compressed bytes in a zstd layer.
    pub estimate: u64,
    /// Number of the layer that holds it, from 1.
    pub layer: usize,
}

/// A folder, with everything below it. A file with several names counts in the folder of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderSize {
    /// Its path.
    pub path: String,
    /// Number of files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Estimated compressed bytes in a zstd layer.
    pub estimate: u64,
}

/// Returns the largest files, at most `most`, largest first.
pub(super) fn files(set: &FileSet, estimates: &[u64], most: usize) -> Vec<LargeFile> {
    let mut all = first_names(set);
    all.sort_by_key(|(path, _, bytes, _)| (std::cmp::Reverse(*bytes), *path));
    let one = |(name, id, bytes, layer): (&[u8], usize, u64, usize)| LargeFile {
        path: path(name),
        bytes,
        estimate: estimates[id],
        layer: layer + 1,
    };
    all.into_iter().take(most).map(one).collect()
}

/// Returns the files with their first names, inode numbers, sizes and layers.
fn first_names(set: &FileSet) -> Vec<(&[u8], usize, u64, usize)> {
    let mut seen = vec![false; set.inodes().len()];
    let mut files = Vec::new();
    for entry in set.entries() {
        let id = entry.inode.index();
        if let InodeKind::File(file) = &set.inode(entry).kind
            && !std::mem::replace(&mut seen[id], true)
        {
            files.push((&*entry.path, id, file.size, file.location.source().index()));
        }
    }
    files
}

/// Returns the folders with at least 1 % of the bytes, as a tree: each before those in it, and the
/// largest of those first.
pub(super) fn folders(set: &FileSet, estimates: &[u64]) -> Vec<FolderSize> {
    let mut sums: BTreeMap<&[u8], (u64, u64, u64)> = BTreeMap::new();
    for (path, id, bytes, _) in first_names(set) {
        let mut at = parent(path);
        while let Some(folder) = at {
            let sum = sums.entry(folder).or_default();
            *sum = (sum.0 + 1, sum.1 + bytes, sum.2 + estimates[id]);
            at = parent(folder);
        }
    }
    let all = sums.get(&b""[..]).map_or(0, |sum| sum.1);
    sums.retain(|path, sum| path.is_empty() || sum.1 > 0 && sum.1 >= all / LEAST);
    // By the sizes of the folders on the way to each, then by name.
    let key = |path: &[u8]| {
        let mut way = vec![];
        let mut at = path;
        while let Some(above) = parent(at) {
            way.push((std::cmp::Reverse(sums[at].1), at.to_vec()));
            at = above;
        }
        way.reverse();
        way
    };
    let mut order: Vec<_> = sums.keys().map(|path| (key(path), *path)).collect();
    order.sort();
    let one = |(_, name): (_, &[u8])| {
        let (files, bytes, estimate) = sums[name];
        FolderSize { path: path(name), files, bytes, estimate }
    };
    order.into_iter().map(one).collect()
}
