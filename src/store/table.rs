//! The store that is open, and the images it lists.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::pack::{self, Packs};
use super::record::{BlobRecord, ImageRecord, LayerRecord, PackHeader, Runs};
use super::record::{key, number_of};
use crate::content::Budget;
use crate::db::{Db, Kind};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::transport::name;

const KIND: Kind = Kind {
    name: "store",
    made_by: "relayer store add",
    mend: "`relayer store check` says which images are whole",
    tables: &[
        ("packs", None),
        ("data", Some(1 << 12)),
        ("chunks", None),
        ("files", None),
        ("paths", None),
        ("layers", None),
        ("blobs", None),
        ("images", None),
    ],
};

/// Chunks have numbers up to this; of the usual size, so many are a petabyte.
const MAX_NUMBER: u64 = 1 << 34;

/// A store that is open.
pub struct Store {
    pub(super) db: Db,
    pub(super) packs: Packs,
}

/// An image of a store.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Digest of its manifest, or of the index of several.
    pub digest: Digest,
    /// Names it goes by.
    pub names: Vec<String>,
    /// How many layers, of all platforms.
    pub layers: u64,
    /// Bytes of its blobs.
    pub bytes: u64,
}

impl Store {
    /// Opens a store for writing, and makes it if it is not there. One process can at a time. What
    /// is read of it is kept on `budget`.
    pub fn open(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Ok(Self { db: Db::open(KIND, dir)?, packs: Packs::new(budget) })
    }

    pub(super) fn open_to_collect(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Ok(Self { db: Db::open_to_compact(KIND, dir)?, packs: Packs::new(budget) })
    }

    /// Opens a store for reading. What is read is kept on `budget`.
    pub fn open_read(dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        Ok(Self { db: Db::open_read(KIND, dir)?, packs: Packs::new(budget) })
    }

    /// Its images, in the order they were added.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let listed = self.images()?.into_iter().map(|(_, image)| {
            let mut bytes = 0;
            for digest in &image.blobs {
                bytes += self.blob(digest)?.bytes;
            }
            Ok(Listed {
                digest: image.root.digest,
                names: image.names,
                layers: image.diff_ids.len() as u64,
                bytes,
            })
        });
        listed.collect()
    }

    /// Takes images out, by name or digest. What only they use stays until
    /// [`collect`](Self::collect).
    pub fn remove(&self, names: &[String]) -> Result<Vec<Digest>> {
        let mut removed = Vec::new();
        let mut batch = self.db.batch();
        for name in names {
            let (number, image) = self.find(Some(name))?;
            batch.delete("images", &key(number))?;
            removed.push(image.root.digest);
        }
        batch.write(true)?;
        self.db.settle()?;
        Ok(removed)
    }

    pub(super) fn images(&self) -> Result<Vec<(u64, ImageRecord)>> {
        let entries = self.db.below("images", b"")?;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                Ok((number_of(&key)?, self.db.parse(&value)?))
            })
            .collect()
    }

    /// An image by name, tag, digest, or the first digits of that; the only one there is without.
    pub(super) fn find(&self, wanted: Option<&str>) -> Result<(u64, ImageRecord)> {
        let images = self.images()?;
        let known = || {
            let names = images.iter().map(|(_, i)| match i.names.first() {
                Some(name) => name.clone(),
                None => i.root.digest.short(),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        let fits: Vec<_> = images
            .iter()
            .filter(|(_, image)| {
                let Some(wanted) = wanted else { return true };
                let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
                let digest = hex.len() >= 6 && image.root.digest.hex().starts_with(hex);
                digest || image.names.iter().any(|n| name::matches(n, wanted))
            })
            .collect();
        match (&fits[..], wanted) {
            ([one], _) => Ok((*one).clone()),
            ([], _) if images.is_empty() => Err(Error::not_found("the store has no images")),
            ([], Some(wanted)) => {
                Err(Error::not_found(format!("the store has no {wanted:?}; there is {}", known())))
            }
            (_, Some(wanted)) => Err(Error::refused(format!(
                "several images are called {wanted:?}; name one in full or by its digest: {}",
                known()
            ))),
            (_, None) => Err(Error::refused(format!(
                "there are several images; name one, as in store:DIR:NAME: {}",
                known()
            ))),
        }
    }

    pub(super) fn blob(&self, digest: &Digest) -> Result<BlobRecord> {
        let record: Option<BlobRecord> = self.db.json("blobs", digest.as_bytes())?;
        let limit = self.limit()?;
        let fine = |record: &BlobRecord| record.made.chunks().is_none_or(|c| c.below(limit));
        let missing = || self.db.damaged(&format!("there is no blob {digest}"));
        record.filter(fine).ok_or_else(missing)
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> Result<LayerRecord> {
        let record: Option<LayerRecord> = self.db.json("layers", diff_id.as_bytes())?;
        let limit = self.limit()?;
        let fine = |record: &LayerRecord| record.steps.below(limit) && record.heads.below(limit);
        let missing = || self.db.damaged(&format!("there is no layer {diff_id}"));
        record.filter(fine).ok_or_else(missing)
    }

    /// The number that no chunk has yet.
    pub(super) fn limit(&self) -> Result<u64> {
        let Some((at, value)) = self.db.at_or_before("packs", &[0xff; 8])? else { return Ok(0) };
        let first = number_of(&at)?;
        Ok(first + pack::parse(&self.db, first, &value)?.chunks.len() as u64)
    }

    /// All packs, the first ones first.
    pub(super) fn headers(&self) -> Result<Vec<(u64, PackHeader)>> {
        let entries = self.db.below("packs", b"")?;
        let mut next = 0;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let first = number_of(&key)?;
                let header = pack::parse(&self.db, first, &value)?;
                if first < next || first > MAX_NUMBER {
                    return Err(self.db.damaged(&format!("pack {first} is where none can be")));
                }
                next = first + header.chunks.len() as u64;
                Ok((first, header))
            })
            .collect()
    }

    /// Numbers of chunks, from a table; `limit` is the number that no chunk has yet.
    pub(super) fn runs(&self, table: &str, key: &[u8], limit: u64) -> Result<Option<Runs>> {
        let damaged = || self.db.damaged(&format!("an entry of {table} makes no sense"));
        let Some(value) = self.db.get(table, key)? else { return Ok(None) };
        Runs::parse(&value, limit).ok_or_else(damaged).map(Some)
    }
}
