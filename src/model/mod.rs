//! The parts of an image: paths, file sets, contents of files, digests and OCI documents.
//!
//! Uses only `base`. Start with [`fileset::FileSet`], names that refer to inodes;
//! [`content::Contents`], the bytes of regular files; and [`oci`], descriptors, manifests and configs
//! with their unknown fields.

pub mod content;
pub mod counts;
pub mod digest;
pub mod fileset;
pub mod index;
pub mod mtime;
pub mod oci;
pub mod path_pattern;
pub mod rootfs;
