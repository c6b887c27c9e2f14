//! The root file system of an image: its file set, and the contents of its files.

use super::content::Contents;
use super::fileset::FileSet;

/// A file set and the sources that its files are read from.
#[derive(Debug, Clone, Default)]
pub struct Rootfs {
    /// Names and inodes.
    pub files: FileSet,
    /// The bytes of its regular files.
    pub contents: Contents,
}
