//! Foundations that know nothing of images: errors, limits, byte sizes, threads, temporary files,
//! integer encodings, and the database behind the feature `store`.
//!
//! Imports nothing else of the crate. To know: [`error::Error`] with [`error::Context`], which adds
//! what was being done to every failure; [`limits`], the bounds against hostile input; and
//! [`progress::Progress`], to which long work reports, with [`transfers::Transfers`] for what moves between
//! machines meanwhile.

pub mod byte_size;
pub mod chunker;
#[cfg(feature = "store")]
pub(crate) mod database;
pub mod defaults;
pub mod error;
pub(crate) mod limits;
pub(crate) mod program;
pub mod progress;
pub(crate) mod range_coder;
pub(crate) mod read;
#[cfg(feature = "cli")]
pub(crate) mod signals;
pub(crate) mod temporary;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;
pub(crate) mod threads;
pub mod transfers;
pub(crate) mod varint;
