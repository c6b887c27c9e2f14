//! Conversion of layers to a file set, and of a file set to layers.
//!
//! Imports `base`, `model` and `format`. To know: [`read::read_layer`], one blob to its changeset;
//! [`flatten::flatten`], changesets to what a client would show; [`encode::encode`], parts of a file set
//! to tar, digests and blobs.

pub mod changeset;
pub mod encode;
pub mod flatten;
pub mod hidden;
pub mod read;
pub mod tree;

pub(crate) mod driver;
mod limits;
mod names;

pub use limits::Limits;
