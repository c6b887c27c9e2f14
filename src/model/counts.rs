//! Counts of the files in a file set, by type.

use serde::Serialize;

use super::fileset::{FileSet, InodeKind};

/// The number of files of each type.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Regular files; a hard-link group counts once.
    pub files: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Names of hard-link groups beyond the first of each.
    pub hard_links: u64,
    /// Devices and named pipes.
    pub special: u64,
}

impl Counts {
    /// Counts the files of a file set.
    pub fn of(files: &FileSet) -> Self {
        let mut counts = Self::default();
        for inode in files.inodes() {
            match &inode.kind {
                InodeKind::File(file) => {
                    counts.files += 1;
                    counts.bytes += file.size;
                }
                InodeKind::Dir => counts.directories += 1,
                InodeKind::Symlink { .. } => counts.symlinks += 1,
                _ => counts.special += 1,
            }
        }
        counts.hard_links = (files.entries().len() - files.inodes().len()) as u64;
        counts
    }
}
