//! A store of many images, in which each file and chunk exists once.
//!
//! Layers are split into files, and files into chunks. Images are rebuilt byte for byte as they were
//! added: every tar from its headers and files, every blob with its own compression. docs/STORE.md has
//! the format.
//!
//! Imports `base`, `model`, `format`, `layers`, `transport`, from `plan` the default folder, and from
//! `split` the compression an image was written with. To know: `Store`, an open store; [`open::open`],
//! which opens an image of a store, an archive or a layout alike.
//!
//! Packs and records are the store's own files. Everything in RocksDB, except `files` and `paths`, is an
//! index that can be rebuilt from them:
//!
//! | table | key | value |
//! |---|---|---|
//! | `state` | none | ends of the store's own files, and the next chunk number |
//! | `packs` | number of the first chunk | location, sizes and hashes of chunks, references |
//! | `chunks` | BLAKE3 of a chunk | its number |
//! | `files` | BLAKE3 of a file of several chunks | numbers of its chunks |
//! | `paths` | half of the BLAKE3 of a path | chunks of the newest file there, to compress the next against |
//! | `layers` | diff ID | how the tar is composed |
//! | `blobs` | digest | how the blob is rebuilt |
//! | `images` | number | root, names, blobs |
//! | `names` | full name or digest | number of the image |

#[cfg(feature = "store")]
mod add;
#[cfg(feature = "store")]
mod check;
pub mod encoding;
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
#[cfg(feature = "store")]
mod record;
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

/// Returns the default folder of a store, in the user's data folder.
///
/// # Errors
/// If the user has no home folder.
pub fn default_dir() -> Result<PathBuf> {
    crate::plan::history::data_dir("store")
}
