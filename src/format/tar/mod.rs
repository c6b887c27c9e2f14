//! The tar format of layers: ustar with PAX and GNU extensions.
//!
//! The layout of headers comes from the `tar` crate. The reader, PAX, sparse files and the writer are
//! our own. The crate drops an extended attribute whose value contains a newline, together with all
//! records after it. It also misreads PAX sparse files and loses negative and fractional times. Where
//! readers disagree, this follows Go's `archive/tar`, which docker, containerd and podman use.

mod detail;
mod header;
mod number;
mod pax;
mod read;
mod sparse;
mod write;

pub use detail::{Detail, detail};
pub use read::{Data, Forward, Reader, Streaming, TarEntry};
pub use write::{FileWriter, Metadata, Writer, entry_size};

/// Size of a block in bytes. Headers and data are padded to it.
pub(crate) const BLOCK: usize = 512;

/// The type of an entry, with the fields that only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Size in bytes, including holes.
        size: u64,
        /// The stored runs of a sparse file, `(offset, length)`. They ascend without overlap and lie
        /// within the size. Their sum is the number of stored bytes.
        sparse: Option<Vec<(u64, u64)>>,
    },
    /// Another name for an earlier entry.
    HardLink {
        /// The path of that entry, as in the archive.
        target: Box<[u8]>,
    },
    /// A symbolic link.
    Symlink {
        /// The text of the link.
        target: Box<[u8]>,
    },
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Returns the number of zeros between `size` bytes of data and the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests;
