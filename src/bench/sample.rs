//! Selection of a sample of an image's files.

use crate::model::fileset::{FileSet, InodeKind};
use crate::model::index::InodeId;

/// Bytes of adjacent files that are taken together: up to this size, compression windows see what they
/// would see in the whole image.
const RUN: u64 = 32 << 20;

/// The files to measure with.
pub(super) struct Sample {
    /// For each inode, whether it is in the sample.
    pub(super) inodes: Vec<bool>,
    /// Bytes of files in the sample.
    pub(super) bytes: u64,
    /// Bytes in all files.
    pub(super) all_bytes: u64,
}

impl Sample {
    /// Selects about `wanted` bytes of files: evenly spread runs in path order, or all files if they have
    /// no more bytes than that.
    pub(super) fn new(files: &FileSet, wanted: u64) -> Self {
        let size = |inode: InodeId| match &files[inode].kind {
            InodeKind::File(file) => Some(file.size),
            _ => None,
        };
        let ids = || (0..files.inodes().len()).map(InodeId::new);
        let all_bytes = ids().filter_map(size).sum::<u64>();
        if all_bytes <= wanted {
            return Self { inodes: vec![true; files.inodes().len()], bytes: all_bytes, all_bytes };
        }
        let runs = (wanted / RUN).max(1);
        let period = all_bytes.div_ceil(runs);
        // Everything but files is small and included.
        let mut inodes: Vec<bool> = ids().map(|inode| size(inode).is_none()).collect();
        let mut seen = vec![false; inodes.len()];
        let (mut at, mut bytes) = (0, 0);
        for entry in files.entries() {
            let Some(size) = size(entry.inode) else { continue };
            if std::mem::replace(&mut seen[entry.inode.index()], true) {
                continue;
            }
            if at % period < wanted / runs {
                inodes[entry.inode.index()] = true;
                bytes += size;
            }
            at += size;
        }
        Self { inodes, bytes, all_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::analyze::fixture::Fixture;

    #[test]
    fn a_sample_is_spread_over_the_image() {
        let mut image = Fixture::default();
        for i in 0..1000 {
            image = image.file(&format!("{i:03}"), "x".repeat(100));
        }
        let files = image.build().files;
        let all = Sample::new(&files, 100_000);
        assert_eq!((all.bytes, all.all_bytes), (100_000, 100_000));
        assert!(all.inodes.iter().all(|i| *i));
        let some = Sample::new(&files, 10_000);
        assert_eq!((some.bytes, some.all_bytes), (10_000, 100_000));
    }
}
