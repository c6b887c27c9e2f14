//! Re-layers container images: flattens an image to its final file set and splits that again into
//! deterministic layers of similar size, grouped by how often their contents change.
//!
//! ```text
//! transport::open → flatten → analyze → plan → encode → transport::write
//!      Opened       FileSet   Analysis   Plan   blobs       Bundle
//! ```
//!
//! [`split`] is that pipeline for every image of an [`Opened`](transport::open::Opened); the
//! stages between are functions from one plain value to the next. docs/ARCHITECTURE.md tells why
//! each is as it is.
//!
//! ```no_run
//! use relayer::codec::Compression;
//! use relayer::progress::Silent;
//! use relayer::transport::{Reference, open, write};
//!
//! # fn main() -> relayer::error::Result<()> {
//! let options = relayer::split::Options {
//!     target: relayer::plan::Target::Layers(8),
//!     compression: Compression::new("zstd", None, None)?,
//!     ..Default::default()
//! };
//! let budget = options.budget();
//! let input: Reference = "img.tar".parse()?;
//! let opened = open::open(&input, None, &budget, options.max_size)?;
//! let target = write::Target::new("img.relayer.tar".parse()?, false, &[&input])?;
//! let (bundle, reports) = relayer::split::split(&opened, None, &options, &budget, &Silent)?;
//! target.write(&bundle, &Silent)?;
//! println!("{} layers", reports[0].layers.len());
//! # Ok(())
//! # }
//! ```

pub mod analyze;
pub mod bench;
pub mod chunk;
pub mod cli;
pub mod codec;
pub mod content;
#[cfg(feature = "store")]
mod db;
pub mod delta;
pub mod diff;
pub mod digest;
pub mod encode;
pub mod error;
pub mod fileset;
pub mod flatten;
pub mod history;
pub mod inspect;
pub mod layer;
pub mod limits;
pub mod mtime;
mod number;
pub mod oci;
pub mod page;
pub mod pattern;
pub mod plan;
pub mod progress;
pub mod pull;
mod range;
pub mod recode;
pub mod recompress;
pub mod recorded_times;
pub mod report;
pub mod secrets;
pub mod size;
pub mod split;
pub mod store;
pub mod tar;
mod temporary;
#[cfg(test)]
mod testing;
mod text;
mod threads;
pub mod transport;
pub mod update;
pub mod verify;
