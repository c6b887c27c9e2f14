//! Records of images, blobs and layers: values of the index, which the files of records repeat.

use serde::{Deserialize, Serialize};

use super::encoding::ChunkRuns;
use crate::base::error::{Error, Result};
use crate::format::codec::Compression;
use crate::model::digest::Digest;
use crate::model::oci::Descriptor;
use crate::transport::name;

/// How the tar of a layer is composed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// Size of the tar in bytes.
    pub(super) tar_bytes: u64,
    /// The encoded [`TarStep`](super::encoding::TarStep)s.
    pub(super) steps: ChunkRuns,
    /// Headers and padding: everything outside of file contents.
    #[serde(rename = "heads")]
    pub(super) headers: ChunkRuns,
}

/// A blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlobRecord {
    /// Size of the blob in bytes.
    pub(super) bytes: u64,
    /// How it is rebuilt.
    #[serde(rename = "made")]
    pub(super) recipe: BlobRecipe,
}

/// How a blob is rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BlobRecipe {
    /// From chunks: a manifest, a config or an index.
    Document(ChunkRuns),
    /// From chunks: a layer that can't be rebuilt from its tar.
    #[serde(rename = "kept")]
    Verbatim(ChunkRuns),
    /// By compressing a tar.
    Compressed {
        /// Diff ID of the tar.
        diff_id: Digest,
        /// Name, level and window of the compression.
        compression: (String, Option<i32>, Option<u32>),
    },
    /// By compressing a tar as another tool did.
    Recoded {
        /// Diff ID of the tar.
        diff_id: Digest,
        /// Corrections for [`recode`](crate::format::recode).
        corrections: ChunkRuns,
    },
}

impl BlobRecipe {
    /// Returns the chunks that the recipe itself refers to.
    pub(super) fn chunks(&self) -> Option<&ChunkRuns> {
        match self {
            Self::Document(chunks) | Self::Verbatim(chunks) => Some(chunks),
            Self::Recoded { corrections, .. } => Some(corrections),
            Self::Compressed { .. } => None,
        }
    }

    /// Returns the diff ID of the tar that is compressed.
    pub(super) fn diff_id(&self) -> Option<&Digest> {
        match self {
            Self::Compressed { diff_id, .. } | Self::Recoded { diff_id, .. } => Some(diff_id),
            Self::Document(_) | Self::Verbatim(_) => None,
        }
    }

    /// Returns the compression for the parts in a recipe.
    ///
    /// # Errors
    /// If the codec is unknown, or the level or window is out of its range.
    pub(super) fn compression(parts: &(String, Option<i32>, Option<u32>)) -> Result<Compression> {
        Compression::new(&parts.0, parts.1, parts.2)
    }
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// Descriptor of the manifest, or of the index if there are several manifests.
    pub(super) root: Descriptor,
    /// Its names.
    pub(super) names: Vec<String>,
    /// Digests of all blobs, with the root.
    pub(super) blobs: Vec<Digest>,
    /// Diff IDs of the layers.
    pub(super) diff_ids: Vec<Digest>,
    /// Times at which it was added, oldest first, in seconds since 1970.
    pub(super) added: Vec<u64>,
    /// Names that were moved to other images.
    pub(super) former: Vec<String>,
}

impl ImageRecord {
    /// Takes over names, times and layers of an older record of the same image.
    pub(super) fn absorb(&mut self, old: Self) {
        let new = |name: &String| !self.names.iter().any(|n| name::is_same(n, name));
        let (names, former) = (old.names.into_iter(), old.former.into_iter());
        let (names, former): (Vec<_>, Vec<_>) =
            (names.filter(new).collect(), former.filter(new).collect());
        self.names.extend(names);
        self.former = former;
        let added = std::mem::replace(&mut self.added, old.added);
        self.added.extend(added);
        if self.diff_ids.is_empty() {
            self.diff_ids = old.diff_ids;
        }
    }

    /// Returns what messages call the image: its first name or a short digest.
    pub(super) fn label(&self) -> String {
        self.names
            .first()
            .map_or_else(|| self.root.digest.short(), |n| n.escape_debug().to_string())
    }
}

/// Encodes a number as a key. Keys have the order of their numbers.
pub(super) fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Decodes a key, the inverse of [`key`].
///
/// # Errors
/// If it does not have eight bytes.
pub(super) fn number_of(key: &[u8]) -> Result<u64> {
    let bytes =
        key.try_into().map_err(|_| Error::malformed("a key of the store is not a number"))?;
    Ok(u64::from_be_bytes(bytes))
}
