//! Re-layers container images: flattens an image to its final file set and splits that again into
//! deterministic layers of similar size, grouped by how often their contents change.
//!
//! ```text
//! transport::open → flatten → analyze → plan → encode → transport::write
//!      Opened       FileSet   Analysis   Plan   blobs       Bundle
//! ```
//!
//! [`split`] is that pipeline for every image of an [`Opened`](transport::image::Opened); the
//! stages between are functions from one plain value to the next. docs/ARCHITECTURE.md tells why
//! each is as it is.
//!
//! ```no_run
//! use relayer::format::codec::Compression;
//! use relayer::base::progress::Silent;
//! use relayer::transport::{Reference, open, write};
//!
//! # fn main() -> relayer::base::error::Result<()> {
//! let options = relayer::split::SplitOptions {
//!     target: relayer::plan::Target::Layers(8),
//!     compression: Compression::new("zstd", None, None)?,
//!     ..Default::default()
//! };
//! let budget = options.budget();
//! let input: Reference = "img.tar".parse()?;
//! let access = open::Access::new(&budget, options.max_size);
//! let opened = open::open(&input, None, &access)?;
//! let destination = write::Destination::new(
//!     "img.relayer.tar".parse()?,
//!     false,
//!     &[&input],
//!     &access.registries,
//!     &[],
//! )?;
//! let (bundle, reports) = relayer::split::split(&opened, None, &options, &budget, &Silent)?;
//! destination.write(&bundle, &Silent)?;
//! println!("{} layers", reports[0].layers.len());
//! # Ok(())
//! # }
//! ```

pub mod base;
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compare;
pub mod delta;
pub mod edit;
pub mod format;
pub mod inspect;
pub mod layers;
pub mod model;
#[cfg(feature = "cli")]
pub mod page;
pub mod plan;
pub mod rebase;
pub mod secrets;
pub mod simulate;
pub mod split;
pub mod store;
pub mod transport;
