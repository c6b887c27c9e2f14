//! Re-layers container images.
pub mod analyze;
pub mod codec;
pub mod content;
pub mod digest;
pub mod error;
pub mod fileset;
pub mod oci;
pub mod plan;
pub mod progress;
pub mod size;

pub mod tar;
