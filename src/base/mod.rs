//! What knows no image: errors, bounds, sizes, threads, temporary files, codings of numbers, and the
//! database behind the feature `store`.
//!
//! Imports nothing of the crate. To know: [`error::Error`] with [`error::Context`], by which every
//! failure says what was being done; [`limits`], where all bounds against hostile input stand; and
//! [`progress::Progress`], which long work is told to.

pub mod byte_size;
pub mod chunker;
#[cfg(feature = "store")]
pub(crate) mod database;
pub mod error;
pub mod limits;
pub mod progress;
pub(crate) mod range_coder;
pub(crate) mod temporary;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod text;
pub(crate) mod threads;
pub(crate) mod varint;
