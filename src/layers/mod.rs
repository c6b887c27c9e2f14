//! Conversion of layers to a file set, and of a file set to layers.
//!
//! May import `transport` and what lies below it. To know: [`flatten::read`], which reads all layers of an
//! image and flattens them; [`tree`], the rules of that; [`encode::encode`], parts of a file set to tar,
//! digests and blobs.

pub mod changeset;
pub mod encode;
pub mod flatten;
pub mod hidden;
pub mod read;
pub mod tree;

pub(crate) mod driver;
mod keep;
mod limits;
mod names;
pub(crate) mod order;
mod stream;

pub use limits::Limits;
