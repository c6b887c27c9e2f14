//! Finds files of the old image by content and by name.

use std::collections::BTreeMap;

use super::Place;
use crate::layers::read::LayerContent;
use crate::model::fileset::{FileData, Location, base_name};
use crate::model::index::LayerIndex;
use crate::transport::image::Image;

/// An image and its layers, read with their contents.
#[derive(Clone, Copy)]
pub struct ImageContents<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its layers, lowest first.
    pub layers: &'a [LayerContent],
}

impl std::fmt::Debug for ImageContents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers: Vec<_> = self.layers.iter().map(|l| l.digest).collect();
        f.debug_struct("ImageContents").field("layers", &layers).finish_non_exhaustive()
    }
}

/// The files of the old image, by content and by name.
pub(super) struct OldIndex {
    by_hash: BTreeMap<([u8; 32], u64), Place>,
    by_path: BTreeMap<Box<[u8]>, Place>,
    by_stem: BTreeMap<Vec<u8>, Vec<Place>>,
    /// The header of each file, by path.
    headers: BTreeMap<Box<[u8]>, Place>,
}

impl OldIndex {
    /// Indexes the files of an image.
    pub(super) fn new(old: ImageContents<'_>) -> Self {
        let mut index = Self {
            by_hash: BTreeMap::new(),
            by_path: BTreeMap::new(),
            by_stem: BTreeMap::new(),
            headers: BTreeMap::new(),
        };
        for (layer, read) in old.layers.iter().enumerate() {
            for (path, file) in read.files() {
                let Location::Span { offset, .. } = file.location else { continue };
                let place = Place { layer: LayerIndex::new(layer), offset, bytes: file.size };
                if offset >= 512 {
                    let header = Place { offset: offset - 512, bytes: 512, ..place };
                    index.headers.insert(path.into(), header);
                }
                if file.size == 0 {
                    continue;
                }
                index.by_hash.entry((file.hash, file.size)).or_insert(place);
                // Upper layers have the newer ones.
                index.by_path.insert(path.into(), place);
                index.by_stem.entry(stem(path)).or_default().push(place);
            }
        }
        index
    }

    /// Finds a file with the same content.
    pub(super) fn same(&self, file: &FileData) -> Option<Place> {
        self.by_hash.get(&(file.hash, file.size)).copied()
    }

    /// Finds the header of the file of the same path.
    pub(super) fn header(&self, path: &[u8]) -> Option<Place> {
        self.headers.get(path).copied()
    }

    /// Finds the file that a new one is most likely a version of: that of the same path, else of
    /// those whose names differ in versions and hashes only the one of the nearest size.
    pub(super) fn similar(&self, path: &[u8], size: u64) -> Option<Place> {
        self.by_path.get(path).copied().or_else(|| {
            let similar = self.by_stem.get(&stem(path))?;
            similar.iter().copied().min_by_key(|p| (p.bytes.abs_diff(size), *p))
        })
    }
}

/// Returns the names of a file and of its folder without hexadecimal digits, dots and dashes.
fn stem(path: &[u8]) -> Vec<u8> {
    let name = base_name(path);
    let dir = base_name(path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default());
    let letters = |b: &&u8| !b.is_ascii_hexdigit() && **b != b'.' && **b != b'-';
    dir.iter().chain(b"/").chain(name).filter(letters).copied().collect()
}
