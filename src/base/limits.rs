//! Bounds on what an input may ask of this machine. docs/SECURITY.md has them in one table, with the
//! options that move them.

/// `--memory` by default.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// An image may have so many entries in all of its layers.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// Indexes of files may take three quarters of `--memory`, in bytes as [`ENTRY`] counts them; an
/// image of a million files needs the default.
pub(crate) const INDEX_SHARE: (u64, u64) = (3, 4);

/// Indexes may take so much even if `--memory` is less: an image of 150,000 files.
pub(crate) const MIN_INDEX: u64 = 64 << 20;

/// Bytes that an entry takes at most at any time, from its layer's index to the plan, beside its
/// path and whatever else it brings.
pub(crate) const ENTRY: u64 = 320;

/// Bytes of paths that no layer states: those of directories without an entry, and what symlinks on
/// their way add to others. One of 4,095 bytes can imply two thousand directories.
pub(crate) const MAX_IMPLIED: usize = 16 << 20;

/// The windows of decoders that run side by side may take one part in so many of `--memory`. The
/// default, 512 MiB, is enough for the largest window that clients decode, 128 MiB.
pub(crate) const WINDOWS_SHARE: u64 = 4;

/// Windows may take so much even if `--memory` is less: RFC 8878 §3.1.1.1.2 asks every decoder to
/// support 8 MiB.
pub(crate) const MIN_WINDOWS: u64 = 8 << 20;

/// Layers may expand to so many times their stored bytes: deflate can't do more than 1,032.
pub(crate) const MAX_RATIO: u64 = 1_100;

/// Bytes that they may expand to whatever the ratio is.
pub(crate) const RATIO_FLOOR: u64 = 256 << 20;

/// Indexes, manifests and configs of one input, each counted as often as it is read: a layout of a
/// thousand images has some three thousand.
pub(crate) const MAX_DOCUMENTS: u64 = 20_000;

/// Bytes of them.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// JSON values in them, some 100 bytes of memory each; an image has some 200.
pub(crate) const MAX_VALUES: u64 = 500_000;

/// Members of an image archive.
pub(crate) const MAX_MEMBERS: usize = 200_000;

/// Bytes of their names and of what links among them name.
pub(crate) const MAX_MEMBER_NAMES: usize = 16 << 20;

/// Bytes of a text that says what is installed: a full Debian's status file has some 5 MB.
pub(crate) const MAX_TEXT: u64 = 32 << 20;

/// Bytes that all such texts of an image may have together.
pub(crate) const MAX_TEXTS: u64 = 256 << 20;

/// Bytes of an rpm database, which is read by pages: a full workstation's has some 200 MB.
pub(crate) const MAX_RPM_DATABASE: u64 = 1 << 30;

/// Bytes of one package's header in it: a kernel's with all of its files has some 3 MB.
pub(crate) const MAX_RPM_HEADER: u64 = 16 << 20;

/// Memory of SQLite for it.
pub(crate) const MAX_SQLITE_HEAP: i64 = 48 << 20;

/// Instructions of SQLite's machine for it; a package takes some five.
pub(crate) const MAX_SQLITE_STEPS: u64 = 50_000_000;

/// Packages that one database may list: Debian has some 70,000 in all.
pub(crate) const MAX_PACKAGES: usize = 200_000;

/// Bytes of the name of a package or component.
pub(crate) const MAX_COMPONENT: usize = 255;

/// Lookups of what databases list: one for each path, and one for each part of those that are not
/// there under their own name. A full Debian takes some two million. As many of what files that
/// remember times of others name.
pub(crate) const MAX_LOOKUPS: u64 = 10_000_000;

/// Notes about the texts and databases of one image.
pub(crate) const MAX_NOTES: usize = 20;

/// Bytes of each part of an error's message: what was being done, to what, and what was found.
pub(crate) const MAX_MESSAGE: usize = 600;

/// Bytes of the longest path that Linux takes: `PATH_MAX` less the NUL at its end.
pub(crate) const MAX_PATH: usize = 4095;
