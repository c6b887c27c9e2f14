//! Default values of options.

/// Number of layers: `--target`.
pub const LAYERS: u32 = 8;

/// Bytes of memory: `--memory`. An image of a million files needs this much.
pub const MEMORY: u64 = 512 << 20;

/// Maximum number of bytes that an image may expand to: `--max-size`.
pub const MAX_SIZE: u64 = 256 << 30;
