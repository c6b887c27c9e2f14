//! The tar format of layers: ustar with PAX and GNU extensions.
//!
//! The header's layout comes from the `tar` crate. The reader's loop, PAX, sparse files and the
//! writer are ours: the crate drops extended attributes whose value holds a newline, with every
//! record after them, misreads PAX sparse files, and loses negative and fractional times. Where
//! readers differ the rule is that of Go's `archive/tar`, which every stock client uses.

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

/// Everything is laid out in blocks of this size.
pub(crate) const BLOCK: usize = 512;

/// What an entry is, with what only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes, holes included.
        size: u64,
        /// For a sparse file its stored runs, `(offset, length)`: ascending, without overlap,
        /// within the size, and together as long as what is stored.
        sparse: Option<Vec<(u64, u64)>>,
    },
    /// Another name for an entry before it.
    HardLink {
        /// That entry's path, as it came.
        target: Box<[u8]>,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
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

/// Zeros after `size` bytes up to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests;
