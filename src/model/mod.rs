//! The parts of an image: paths, file sets, contents of files, digests and OCI documents.
//!
//! Imports `base`. To know: [`fileset::FileSet`], names that point at inodes; [`content::Contents`],
//! the bytes of regular files; [`oci`], descriptors, manifests and configs with their unknown fields.

pub mod content;
pub mod counts;
pub mod digest;
pub mod fileset;
pub mod mtime;
pub mod oci;
pub mod path_pattern;
