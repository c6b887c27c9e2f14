//! What an old image has, by content and by name.

use std::collections::BTreeMap;

use super::Place;
use crate::layers::read::LayerContent;
use crate::model::fileset::{FileData, Location, base_name};
use crate::transport::image::Image;

/// An image and its layers, read with their contents.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its layers, in order.
    pub layers: &'a [LayerContent],
}

/// What the old image has, by content and by name.
pub(super) struct Index {
    by_hash: BTreeMap<([u8; 32], u64), Place>,
    by_path: BTreeMap<Box<[u8]>, Place>,
    by_stem: BTreeMap<Vec<u8>, Vec<Place>>,
    /// Where each file's header begins, by path.
    heads: BTreeMap<Box<[u8]>, Place>,
}

impl Index {
    pub(super) fn new(old: Side<'_>) -> Self {
        let mut index = Self {
            by_hash: BTreeMap::new(),
            by_path: BTreeMap::new(),
            by_stem: BTreeMap::new(),
            heads: BTreeMap::new(),
        };
        for (layer, read) in old.layers.iter().enumerate() {
            for (path, file) in read.files() {
                let Location::Span { offset, .. } = file.location else { continue };
                let place = Place { layer: layer as u32, offset, bytes: file.size };
                if offset >= 512 {
                    index
                        .heads
                        .insert(path.into(), Place { offset: offset - 512, bytes: 512, ..place });
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

    /// The same file.
    pub(super) fn same(&self, file: &FileData) -> Option<Place> {
        self.by_hash.get(&(file.hash, file.size)).copied()
    }

    /// The header of the old file of a path.
    pub(super) fn head(&self, path: &[u8]) -> Option<Place> {
        self.heads.get(path).copied()
    }

    /// The old file that a new one is most like: of the same path, else of the same name but for
    /// versions and hashes, and of the nearest size.
    pub(super) fn alike(&self, path: &[u8], size: u64) -> Option<Place> {
        self.by_path.get(path).copied().or_else(|| {
            let alike = self.by_stem.get(&stem(path))?;
            alike.iter().copied().min_by_key(|p| (p.bytes.abs_diff(size), *p))
        })
    }
}

/// A file's name without digits, and the folder it lies in, likewise.
fn stem(path: &[u8]) -> Vec<u8> {
    let name = base_name(path);
    let dir = base_name(path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default());
    let letters = |b: &&u8| !b.is_ascii_hexdigit() && **b != b'.' && **b != b'-';
    dir.iter().chain(b"/").chain(name).filter(letters).copied().collect()
}
