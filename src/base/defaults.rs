//! Default values of options. docs/LIMITS.md is made from this file and `limits.rs`, which says how.

// ## Defaults of options

/// Number of layers; fewer if they would be smaller than 1 MiB on average.
///
/// Option: `split --target`
pub const LAYERS: u32 = 8;

/// Bytes of memory for file contents, the file index, decoders and encoders; the program itself takes up
/// to 64 MiB more. An image of a million files needs this much.
///
/// Option: `--memory`
pub const MEMORY: u64 = 512 << 20;

/// Bytes of memory for the commands of `store`: STORE.md has a curve.
///
/// Option: `store --memory`
pub const STORE_MEMORY: u64 = 256 << 20;

/// Maximum bytes that the uncompressed layers and sparse files of an image may have.
///
/// Option: `--max-size`
pub const MAX_SIZE: u64 = 256 << 30;

/// Maximum number of threads; by default one per core, up to this. Buffers grow with it.
///
/// Option: `--threads`
pub const MAX_THREADS: u16 = 512;

/// Maximum share of dead bytes after an update: UPDATES.md says why.
///
/// Option: `split --max-dead`
pub const MAX_DEAD: f64 = 0.19;

/// Maximum number of layers after an update.
///
/// Option: `split --max-layers`
pub const UPDATE_LAYERS: u32 = 64;

/// Cost of a dead byte relative to a downloaded byte: UPDATES.md says why.
///
/// Option: `split --beta`
pub const DEAD_COST: f64 = 0.5;

/// The same for clients that identify layers by digest. They need no unbroken sequence of kept layers, so
/// dead bytes can be removed for less.
///
/// Option: `split --client`
pub const DEAD_COST_BY_DIGEST: f64 = 0.3;

/// Level of zstd for layers.
///
/// Option: `split --level`
pub const ZSTD_LEVEL: i32 = 3;

/// Level of gzip for layers.
///
/// Option: `split --level`
pub const GZIP_LEVEL: i32 = 6;

/// Level of zstd for packs: STORE.md has sizes and times of others.
///
/// Option: `store --level`
pub const STORE_LEVEL: i32 = 12;

/// Level of zstd for contents that a delta does not copy.
///
/// Option: `delta --level`
pub const DELTA_LEVEL: i32 = 19;

/// Bytes of downloaded blobs that are kept.
///
/// Option: `--cache-size`
pub const CACHE: u64 = 10 << 30;

/// Number of rows in each list.
///
/// Option: `history show --top`
pub const HISTORY_ROWS: usize = 12;

/// Bytes of files to measure with; the slowest compressions with an eighth of that.
///
/// Option: `bench --sample`, `report --sample`
pub const BENCH_SAMPLE: u64 = 32 << 20;

/// Numbers of layers to measure.
///
/// Option: `bench --layers`
pub const BENCH_LAYERS: [u32; 6] = [1, 4, 8, 16, 32, 64];
