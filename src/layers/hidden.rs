//! What layers hold and the final file set does not.

use crate::model::fileset::FileData;

/// What flattening found beside the file set.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Hidden {
    /// Regular files in lower layers that are deleted or overwritten further up.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whiteouts and opaque markers in the layers.
    pub whiteouts: u64,
    /// Directories that no layer describes; they get mode 0755, root and 1970 as clients would
    /// make them, but for the time.
    pub implied_directories: u64,
}

/// A regular file that lower layers hold and the final file set does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenFile {
    /// Its path; of a hard-link group the first of the names that were lost last.
    pub path: Box<[u8]>,
    /// Its content.
    pub file: FileData,
    /// Position of the layer that hides it: the layer itself where a later entry does.
    pub by: u32,
    /// In which way.
    pub how: How,
}

/// How a name was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Deleted by a whiteout, its own or that of a directory above it.
    Deleted,
    /// Deleted by an opaque marker of a directory above it.
    Opaque,
    /// Something else was put in its place, or in that of a directory above it.
    Overwritten,
}
