//! Files that layers hold and the final file set does not.

use crate::model::fileset::FileData;
use crate::model::index::LayerIndex;

/// Counts of the files that flattening hides.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct HiddenCounts {
    /// Regular files in lower layers that are deleted or overwritten further up.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Whiteouts and opaque markers in the layers.
    pub whiteouts: u64,
    /// Directories that no layer describes. As with clients, they get mode 0755 and owner root; the
    /// time is 1970-01-01, where clients use the current time.
    pub implied_directories: u64,
}

/// A regular file that lower layers hold and the final file set does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenFile {
    /// Its path; for a hard-link group, the first of the names that the last layer to hide one hid.
    pub path: Box<[u8]>,
    /// Its content.
    pub file: FileData,
    /// The layer that hides it, which is the file's own layer if a later entry of that
    /// layer hides it.
    pub by: LayerIndex,
    /// How it was hidden.
    pub how: How,
}

/// How a file was hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Deleted by a whiteout of the file or of a directory above it.
    Deleted,
    /// Deleted by an opaque marker of a directory above it.
    Opaque,
    /// Replaced by something else, itself or with a directory above it.
    Overwritten,
}
