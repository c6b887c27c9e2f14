//! Limits on the resources that an input may use.
//!
//! docs/LIMITS.md is made from this file and `defaults.rs`; `RELAYER_BLESS=1 cargo test --test it limits`
//! writes it. It has a table for each heading below, with the paragraph under it, and a row for each
//! constant: the name, the value, the first paragraph of the comment, and the option after `Option:`.
//! Sizes are written as shifts (`8 << 20`), all other numbers as decimals.

// ## Memory

/// Share of `--memory` that file indexes may take; [`ENTRY_BYTES`] are counted for each entry. By
/// default an image may have a million files.
///
/// Option: `--memory`
pub(crate) const INDEX_SHARE: (u64, u64) = (3, 4);

/// Bytes that file indexes may take even if `--memory` is less: enough for 150,000 files.
pub(crate) const MIN_INDEX: u64 = 64 << 20;

/// Maximum bytes of memory that an entry takes at any time, from the index of its layer to the plan. Its
/// path is counted three times in addition, its link target and extended attributes twice.
pub(crate) const ENTRY_BYTES: u64 = 320;

/// Bytes of memory that are counted for each run of a sparse file: 16, and room for more in the list
/// while it grows.
pub(crate) const RUN_BYTES: usize = 18;

/// Share of `--memory` for the windows of concurrent decoders; further decoders wait. By default it is
/// enough for the largest window that clients decode, 128 MiB.
///
/// Option: `--memory`
pub(crate) const WINDOWS_SHARE: (u64, u64) = (1, 4);

/// Bytes that windows may take even if `--memory` is less: RFC 8878 §3.1.1.1.2 asks every decoder to
/// support 8 MiB.
pub(crate) const MIN_WINDOWS: u64 = 8 << 20;

/// Share of `--memory` that encoders may hold: fewer threads encode if all would hold more, so that
/// file contents have the rest.
///
/// Option: `--memory`
pub(crate) const ENCODERS_SHARE: (u64, u64) = (1, 2);

/// Share of the memory that decoders or encoders leave which file contents may take before they go to
/// a temporary file. The rest is for buffers and the allocator.
///
/// Option: `--memory`
pub(crate) const CONTENTS_SHARE: (u64, u64) = (7, 8);

/// Share of `--memory` for the work of `delta`, in which indexes are counted: files that are patched, and
/// parts that are compressed. Work that does not fit waits for other work to end. File contents have the
/// rest.
///
/// Option: `--memory`
pub(crate) const DELTA_SHARE: (u64, u64) = (15, 16);

/// Share of `--memory` that one piece of such work may take. A file is patched if twice the size of its
/// previous version and some 40 MiB fit: up to 165 MiB by default. Others are compressed against their
/// previous version.
///
/// Option: `--memory`
pub(crate) const DELTA_WORK_SHARE: (u64, u64) = (3, 4);

/// Share of `--memory` for the compressors that `bench` and `report` measure. A compression that takes more
/// is left out, with a note.
///
/// Option: `--memory`
pub(crate) const BENCH_SHARE: (u64, u64) = (3, 4);

// ## Expansion

/// Maximum ratio of the uncompressed to the stored bytes of an image's layers: deflate cannot exceed
/// 1,032.
pub(crate) const MAX_RATIO: u64 = 1_100;

/// Bytes that layers may expand to whatever the ratio is.
pub(crate) const RATIO_FLOOR: u64 = 256 << 20;

/// Maximum log2 of the bytes of a zstd window: libzstd's default limit, which clients have too.
///
/// Option: `--long`, for output
pub(crate) const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// Maximum bytes of memory of an xz decoder: the highest level of xz needs half of that.
pub(crate) const MAX_XZ_MEMORY: u64 = 128 << 20;

// ## Documents and archives

/// Maximum bytes of a JSON document. Clients refuse manifests of more than 4 MiB (containers/image,
/// containerd); configs have no stated limit and stay far below this.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 8 << 20;

/// Maximum number of indexes, manifests and configs that lead to one image, each counted as often as it
/// is read.
pub(crate) const MAX_DOCUMENTS: u64 = 20_000;

/// Maximum bytes of those documents together.
pub(crate) const MAX_ALL_DOCUMENT_BYTES: u64 = 64 << 20;

/// Maximum number of JSON values in those documents, about 100 bytes of memory each; an image has
/// about 200.
pub(crate) const MAX_VALUES: u64 = 500_000;

/// Maximum depth of indexes inside indexes: an image in a layout is one or two deep.
pub(crate) const MAX_INDEX_DEPTH: usize = 8;

/// Maximum number of images in one index: more are a mistake or an attack.
pub(crate) const MAX_IMAGES: usize = 1_000;

/// Maximum bytes of an image name that is written: docker allows 255 bytes of repository and 128 of
/// tag.
pub(crate) const MAX_IMAGE_NAME: usize = 512;

/// Maximum number of members of an image archive.
pub(crate) const MAX_MEMBERS: usize = 200_000;

/// Maximum bytes of the members' names and link targets.
pub(crate) const MAX_MEMBER_NAMES: usize = 16 << 20;

// ## Registries

/// Maximum bytes of a file of credentials, of `registries.conf` or of certificates: the certificates of
/// all public authorities have 220 kB.
pub(crate) const MAX_CONFIG_FILE: u64 = 1 << 20;

/// Maximum bytes that a credential helper may print: tokens have a few kB.
pub(crate) const MAX_HELPER_OUTPUT: usize = 64 << 10;

/// Maximum bytes of a registry's name: those of a DNS name and of a port.
pub(crate) const MAX_HOST: usize = 255;

/// Maximum bytes of a blob in a registry: ECR takes 52,000 MiB, others less.
pub(crate) const MAX_BLOB_BYTES: u64 = 1 << 40;

/// Maximum bytes of the headers of an answer.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;

/// Maximum bytes of an answer with a token or an error.
pub(crate) const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// Maximum number of redirects that one request follows.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// Number of tags after which no further page of a list is asked for.
pub(crate) const MAX_TAGS: usize = 10_000;

/// Maximum seconds between two attempts, whatever a registry asks for.
pub(crate) const MAX_WAIT_SECONDS: u64 = 60;

// ## Files of an image

/// Maximum number of entries in all layers of an image.
pub(crate) const MAX_ENTRIES: u64 = 10_000_000;

/// Maximum bytes of a path or link target on Linux: `PATH_MAX` less the terminating NUL.
pub(crate) const MAX_PATH: usize = 4_095;

/// Maximum bytes of one name in a path: `NAME_MAX` of Linux.
pub(crate) const MAX_NAME: usize = 255;

/// Maximum bytes of the name of an extended attribute: `XATTR_NAME_MAX` of Linux.
pub(crate) const MAX_XATTR_NAME: usize = 255;

/// Maximum bytes of the value of an extended attribute: `XATTR_SIZE_MAX` of Linux.
pub(crate) const MAX_XATTR_VALUE: usize = 64 << 10;

/// Maximum bytes of paths that no layer lists: those of directories without an entry, and what
/// symlinks along a path add to it. One path of 4,095 bytes can imply two thousand directories.
pub(crate) const MAX_IMPLIED: usize = 16 << 20;

/// Maximum number of symlinks along one path, of a layer's entry or an archive's member: as for Linux,
/// more are a loop.
pub(crate) const MAX_SYMLINKS: usize = 40;

/// Maximum bytes of an extended header or a long name in a tar: the limit of Go's `archive/tar`.
pub(crate) const MAX_EXTENDED_HEADER: u64 = 1 << 20;

/// Maximum number of runs of a sparse file, [`RUN_BYTES`] each: Go's limit since 1.24.8.
pub(crate) const MAX_SPARSE_RUNS: usize = 1_048_576;

/// Maximum bytes of all headers of one entry in a zstd:chunked layer, which are held until its file
/// begins.
pub(crate) const MAX_ENTRY_HEADERS: usize = 16 << 20;

// ## Package databases

/// Maximum bytes of the name of a package or component; files of others have no owner.
pub(crate) const MAX_COMPONENT: usize = 255;

/// Maximum bytes of a text file of a package manager (dpkg, apk, alpm, Python): a full Debian's status
/// file has about 5 MB.
pub(crate) const MAX_TEXT: u64 = 32 << 20;

/// Maximum bytes of all such text files of an image together.
pub(crate) const MAX_TEXTS: u64 = 256 << 20;

/// Maximum bytes of an rpm database, which is read by pages: a full workstation's has about 200 MB.
pub(crate) const MAX_RPM_DATABASE: u64 = 1 << 30;

/// Maximum bytes of one package's header in an rpm database: that of a kernel has about 3 MB.
pub(crate) const MAX_RPM_HEADER: u64 = 16 << 20;

/// Maximum number of folders of one package in an rpm database; one that has files in more is skipped.
pub(crate) const MAX_RPM_FOLDERS: usize = 1_048_576;

/// Maximum bytes of memory that SQLite may use for an rpm database.
pub(crate) const MAX_SQLITE_HEAP: i64 = 48 << 20;

/// Maximum number of SQLite virtual machine instructions that run for an rpm database; a package takes
/// about five.
pub(crate) const MAX_SQLITE_STEPS: u64 = 50_000_000;

/// Maximum number of instructions in one SQLite program: a schema cannot make one that takes much
/// memory.
pub(crate) const MAX_SQLITE_PROGRAM: i32 = 10_000;

/// Maximum number of packages in one database: Debian has about 70,000 in all.
pub(crate) const MAX_PACKAGES: usize = 200_000;

/// Maximum number of path lookups for package databases: one for each path they list, and one for each
/// part of a path that the image does not have under that name. A full Debian takes about two million.
/// Files that record the times of others have the same limit for themselves.
pub(crate) const MAX_LOOKUPS: u64 = 10_000_000;

/// Maximum number of notes about the package databases of one image; a last one counts the rest.
pub(crate) const MAX_NOTES: usize = 20;

// ## Planning

// ## Files that record times

/// Bytes of their text that count as one lookup: about a path with the facts beside it.
pub(crate) const TEXT_PER_LOOKUP: usize = 64;

/// Maximum bytes of a text that is read whole; longer ones were not written by the tool in question.
pub(crate) const MAX_TIMES_TEXT: u64 = 16 << 20;

/// Maximum bytes of such a text that is compressed, once uncompressed, and of the log of a build.
pub(crate) const MAX_TIMES_LOG: u64 = 128 << 20;

/// Maximum bytes of a compiled Python file that gets its source's new time, as it is held in memory.
pub(crate) const MAX_COMPILED_PYTHON: u64 = 64 << 20;

/// Maximum number of pairs of files whose times depend on each other, for each file of the image; the
/// times of further pairs do not change.
pub(crate) const MAX_TIME_PAIRS: usize = 16;

/// Maximum number of steps from one unchanged time to others that must not change as a result; longer
/// chains do not change at all.
pub(crate) const MAX_TIME_STEPS: u32 = 64;

/// Maximum number of Lisp sources of one name that are compared with a compiled file of that name; the
/// times of more do not change.
pub(crate) const MAX_LISP_SOURCES: usize = 64;

// ## Secrets

/// Maximum bytes of a file that are scanned for secrets: files that people or tools write logins into
/// are far smaller, and gigabytes of data would take most of the time.
pub(crate) const MAX_SCANNED: u64 = 64 << 20;

/// Maximum number of places that are counted in one file: one is enough to act on, and a list of keys
/// must not fill memory.
pub(crate) const MAX_SECRET_PLACES: usize = 1_000;

/// Maximum bytes of a file that is parsed because of its name, such as `.npmrc`; larger ones are
/// something else.
pub(crate) const MAX_LOGIN_FILE: u64 = 1 << 20;

// ## Deltas
// These are part of the format, since `delta` and `apply` must agree on them: changing one is a new
// version of it.

/// Maximum bytes of an uncompressed header or blob of a delta. The header for an image of 125 layers has
/// about 100 kB.
pub(crate) const MAX_DELTA_PLAIN: u64 = 64 << 20;

/// Maximum bytes of a blob as the delta stores it.
pub(crate) const MAX_DELTA_PACKED: u64 = 256 << 20;

/// Maximum bytes of a file that is patched, and of its previous version, which is held in memory.
pub(crate) const MAX_PATCHED_FILE: u64 = 512 << 20;

/// Maximum size of the previous version, as a multiple of the patched file's: a small delta cannot make
/// `apply` read much.
pub(crate) const MAX_PATCH_RATIO: u64 = 4;

/// Maximum bytes of all references of a layer, as a multiple of its tar's size: a small delta cannot
/// make `apply` read much.
pub(crate) const MAX_REFERENCE_RATIO: u64 = 16;

/// Bytes of a patched file for each of its matches at least, because each takes time when the delta is
/// applied.
pub(crate) const BYTES_PER_MATCH: u64 = 1_536;

/// Number of matches that a patched file may have whatever its size.
pub(crate) const MIN_MATCHES: u64 = 256;

/// Maximum number of loaded parts of a patched ELF file.
pub(crate) const MAX_ELF_LOADS: u64 = 64;

/// Maximum number of sections of an ELF file that are read.
pub(crate) const MAX_ELF_SECTIONS: u64 = 4_096;

/// Maximum number of addresses of constants in an ELF file that are remembered.
pub(crate) const MAX_ELF_BASES: usize = 2_097_152;

/// Maximum bytes of a table of an ELF file whose libraries are looked for: program headers, the dynamic section,
/// needed and defined versions. That of libc has 1 KB.
pub(crate) const MAX_ELF_TABLE: u64 = 64 << 10;

/// Maximum bytes of a name in such a table, or of the folders that it names.
pub(crate) const MAX_ELF_NAME: u64 = 4_096;

/// Maximum number of versions of symbols that an ELF file needs, and that it defines.
pub(crate) const MAX_ELF_VERSIONS: usize = 4_096;

/// Maximum number of parts of paths that are looked up to find the libraries of an image's programs: some
/// hundred thousand programs.
pub(crate) const MAX_ELF_LOOKUPS: u64 = 1_000_000_000;

/// Maximum bytes of the corrections of one segment of a gzip blob.
pub(crate) const MAX_CORRECTIONS: u64 = 16 << 20;

/// Maximum bytes of a segment that corrections reproduce, more than the parser makes.
pub(crate) const MAX_CORRECTED: usize = 16 << 20;

// ## Stores

/// Maximum bytes of the head or the body of an entry in a store's file: more than any has.
#[cfg(feature = "store")]
pub(crate) const MAX_STORE_ENTRY: u64 = 1 << 30;

/// Maximum bytes of changes that are recorded together in a store.
#[cfg(feature = "store")]
pub(crate) const MAX_STORE_RECORD: u64 = 1 << 30;

/// Maximum bytes of the steps that make a layer's tar in a store, some four for each file.
#[cfg(feature = "store")]
pub(crate) const MAX_STORE_STEPS: u64 = 256 << 20;

// ## Clients

/// Bytes of the messages of `podman` or `ctr` that an error shows at most: the last ones.
pub(crate) const MAX_PROGRAM_MESSAGE: usize = 4 << 10;

// ## Messages

/// Maximum bytes of each part of an error message; longer ones are cut in the middle.
pub(crate) const MAX_MESSAGE: usize = 600;
