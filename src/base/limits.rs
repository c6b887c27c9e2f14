//! Limits on the resources that an input may use. docs/SECURITY.md lists them in one table, with the
//! options that change them.

/// Default of `--memory`, in bytes.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// Maximum number of entries in all layers of an image.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// Share of `--memory` that file indexes may take, as a fraction; [`ENTRY_BYTES`] are counted for each
/// entry. An image of a million files needs the default memory.
pub(crate) const INDEX_SHARE: (u64, u64) = (3, 4);

/// Bytes that file indexes may take even if `--memory` is less: enough for 150,000 files.
pub(crate) const MIN_INDEX: u64 = 64 << 20;

/// Maximum bytes of memory that an entry takes at any time, from the index of its layer to the plan,
/// not counting its path, link target and extended attributes.
pub(crate) const ENTRY_BYTES: u64 = 320;

/// Maximum bytes of paths that no layer lists: those of directories without an entry, and what
/// symlinks along a path add to it. One path of 4,095 bytes can imply two thousand directories.
pub(crate) const MAX_IMPLIED: usize = 16 << 20;

/// Divisor of `--memory` that gives the bytes for the windows of concurrent decoders. The default of
/// 512 MiB is enough for the largest window that clients decode, 128 MiB.
pub(crate) const WINDOWS_SHARE: u64 = 4;

/// Bytes that windows may take even if `--memory` is less: RFC 8878 §3.1.1.1.2 asks every decoder to
/// support 8 MiB.
pub(crate) const MIN_WINDOWS: u64 = 8 << 20;

/// Maximum ratio of a layer's uncompressed to its stored bytes: deflate can't exceed 1,032.
pub(crate) const MAX_RATIO: u64 = 1_100;

/// Bytes that layers may expand to whatever the ratio is.
pub(crate) const RATIO_FLOOR: u64 = 256 << 20;

/// Maximum number of indexes, manifests and configs of one input, each counted as often as it is read:
/// a layout of a thousand images has about three thousand.
pub(crate) const MAX_DOCUMENTS: u64 = 20_000;

/// Maximum bytes of those documents.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// Maximum number of JSON values in those documents, about 100 bytes of memory each; an image has
/// about 200.
pub(crate) const MAX_VALUES: u64 = 500_000;

/// Maximum number of members of an image archive.
pub(crate) const MAX_MEMBERS: usize = 200_000;

/// Maximum bytes of the members' names and link targets.
pub(crate) const MAX_MEMBER_NAMES: usize = 16 << 20;

/// Maximum bytes of a text file of a package manager: a full Debian's status file has about 5 MB.
pub(crate) const MAX_TEXT: u64 = 32 << 20;

/// Maximum bytes of all such text files of an image together.
pub(crate) const MAX_TEXTS: u64 = 256 << 20;

/// Maximum bytes of an rpm database, which is read by pages: a full workstation's has about 200 MB.
pub(crate) const MAX_RPM_DATABASE: u64 = 1 << 30;

/// Maximum bytes of one package's header in an rpm database: that of a kernel has about 3 MB.
pub(crate) const MAX_RPM_HEADER: u64 = 16 << 20;

/// Maximum bytes of memory that SQLite may use for an rpm database.
pub(crate) const MAX_SQLITE_HEAP: i64 = 48 << 20;

/// Maximum number of SQLite virtual machine instructions for an rpm database; a package takes about
/// five.
pub(crate) const MAX_SQLITE_STEPS: u64 = 50_000_000;

/// Maximum number of packages in one database: Debian has about 70,000 in all.
pub(crate) const MAX_PACKAGES: usize = 200_000;

/// Maximum bytes of the name of a package or component.
pub(crate) const MAX_COMPONENT: usize = 255;

/// Maximum number of path lookups for package databases: one for each path they list, and one for each
/// part of a path that the image does not have under that name. A full Debian takes about two million.
/// The same limit holds for paths in files that record times of others.
pub(crate) const MAX_LOOKUPS: u64 = 10_000_000;

/// Maximum number of notes about the package databases of one image.
pub(crate) const MAX_NOTES: usize = 20;

/// Maximum bytes of each part of an error message.
pub(crate) const MAX_MESSAGE: usize = 600;

/// Maximum bytes of a path on Linux: `PATH_MAX` less the terminating NUL.
pub(crate) const MAX_PATH: usize = 4095;
