//! What an image is made of: paths, file sets and the bytes of files, digests, the OCI documents, and
//! an image as it was opened.
//!
//! Imports `base`. To know: [`fileset::FileSet`], names that point at inodes; [`content::Contents`],
//! the bytes of those; [`oci`], descriptors, manifests and configs with their unknown fields.

pub mod content;
pub mod counts;
pub mod digest;
pub mod fileset;
pub mod mtime;
pub mod oci;
pub mod path_pattern;
