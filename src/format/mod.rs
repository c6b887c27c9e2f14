//! Formats of layers: tar archives, compression, and reproduction of other tools' compression.
//!
//! Imports `base` and `model`. To know: [`tar::TarEntry`], one member of an archive with its PAX records
//! applied; [`codec::Compression`], a codec with all of its settings.

pub mod codec;
pub mod recode;
pub mod recompress;
pub mod tar;

/// The first bytes of a delta. Its version follows.
pub(crate) const DELTA_MAGIC: &[u8; 7] = b"RLDELTA";
