//! A store of many images: each file and chunk once, each image as it came.
//!
//! Layers are kept as files in chunks. What an image was when it was added is made again of them
//! byte for byte: every tar from its headers and files, every blob by the compression that it had.
//! docs/STORE.md has the format.
//!
//! Packs and records are files of the store's own; the tables are an index of them in RocksDB.
//!
//! | table | key | value |
//! |---|---|---|
//! | `state` | none | how far files are good, and the number that no chunk has yet |
//! | `packs` | number of the first chunk | where it lies, sizes and hashes of chunks, what they are compressed against |
//! | `chunks` | BLAKE3 of a chunk | its number |
//! | `files` | BLAKE3 of a file of several chunks | numbers of its chunks |
//! | `paths` | half of the BLAKE3 of a path | chunks of the newest file there, to compress the next against |
//! | `layers` | diff ID | how its tar is put together |
//! | `blobs` | digest | how it is made of a tar, or the chunks that it was kept as |
//! | `images` | number | root, names, blobs |
//! | `names` | name in full, or digest | number of its image |

#[cfg(feature = "store")]
mod add;
#[cfg(feature = "store")]
mod check;
#[cfg(feature = "store")]
mod entry;
#[cfg(feature = "store")]
mod files;
#[cfg(feature = "store")]
mod gaps;
#[cfg(feature = "store")]
mod gc;
#[cfg(feature = "store")]
mod images;
#[cfg(feature = "store")]
mod marks;
pub mod open;
#[cfg(feature = "store")]
mod pack;
#[cfg(feature = "store")]
mod packer;
#[cfg(feature = "store")]
mod read;
pub mod record;
#[cfg(feature = "store")]
mod repair;
#[cfg(feature = "store")]
mod stats;
#[cfg(feature = "store")]
mod table;
#[cfg(test)]
#[cfg(feature = "store")]
mod tests;

use std::path::PathBuf;

use crate::base::error::Result;

#[cfg(feature = "store")]
pub use {
    add::{AddOptions, AddedImage},
    check::{CheckOptions, CheckReport},
    gc::GcStats,
    images::{ImageSummary, RemoveOptions},
    pack::Packing,
    stats::{ImageStats, Stats},
    table::Store,
};

/// Where a store lies unless something else is said: in the user's data folder.
pub fn default_dir() -> Result<PathBuf> {
    crate::plan::history::data_dir("store")
}
