//! The images of a store: listing them, finding one by what a user calls it, taking them out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::record::{ImageRecord, key, number_of};
use super::table::{Store, digest_key, index_keys, name_key};
use crate::base::error::{Error, Result};
use crate::model::digest::Digest;
use crate::transport::name;

/// An image of a store.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// Digest of its manifest, or of the index of several.
    pub digest: Digest,
    /// Names it goes by.
    pub names: Vec<String>,
    /// Names that it had and that other images have now.
    pub former: Vec<String>,
    /// When it was added, first and since then, in seconds since 1970.
    pub added: Vec<u64>,
    /// How many layers, of all platforms.
    pub layers: u64,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// Blobs that were damaged and taken out: adding the image again makes it whole.
    pub missing: u64,
}

/// Which images to take out.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Names, tags or digests; with `keep_last`, repositories, all of them if there is none.
    pub names: Vec<String>,
    /// Of each repository, keep so many: those that were added last.
    pub keep_last: Option<usize>,
    /// Only say which.
    pub dry_run: bool,
}

impl Store {
    /// Its images, in the order they were added.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let images = self.image_records()?.into_iter();
        images.map(|(_, image)| self.summary(image)).collect()
    }

    fn summary(&self, image: ImageRecord) -> Result<ImageSummary> {
        let (mut bytes, mut missing) = (0, 0);
        for digest in &image.blobs {
            match self.known_blob(digest)? {
                Some(blob) => bytes += blob.bytes,
                None => missing += 1,
            }
        }
        Ok(ImageSummary {
            digest: image.root.digest,
            names: image.names,
            former: image.former,
            added: image.added,
            layers: image.diff_ids.len() as u64,
            bytes,
            missing,
        })
    }

    /// Takes images out. What only they use stays until [`collect_garbage`](Self::collect_garbage).
    pub fn remove(&self, removal: &RemoveOptions) -> Result<Vec<ImageSummary>> {
        let images = if let Some(keep) = removal.keep_last {
            self.outdated(&removal.names, keep)?
        } else {
            let named = removal.names.iter().map(|name| self.find(Some(name)));
            named.collect::<Result<Vec<_>>>()?
        };
        let mut batch = self.batch();
        let mut removed: Vec<ImageSummary> = Vec::new();
        for (number, image) in images {
            batch.delete("images", &key(number))?;
            for name in index_keys(&image) {
                batch.delete("names", &name)?;
            }
            if removed.iter().all(|summary| summary.digest != image.root.digest) {
                removed.push(self.summary(image)?);
            }
        }
        if !removal.dry_run && !removed.is_empty() {
            batch.write(true)?;
            self.db.flush_and_merge()?;
        }
        Ok(removed)
    }

    /// Images of repositories, of all if none is named, but for those that are among the last `keep`
    /// of one. An image whose name went to another is still of that repository.
    fn outdated(&self, repositories: &[String], keep: usize) -> Result<Vec<(u64, ImageRecord)>> {
        let mut images = self.image_records()?;
        images.sort_by_key(|(number, image)| (image.added.iter().max().copied(), *number));
        let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (number, image) in &images {
            let names = image.names.iter().chain(&image.former);
            let of: BTreeSet<_> = names.filter_map(|name| name::repository(name)).collect();
            for name in of {
                groups.entry(name).or_default().push(*number);
            }
        }
        let kept: BTreeSet<u64> = groups
            .values()
            .flat_map(|all| &all[all.len().saturating_sub(keep)..])
            .copied()
            .collect();
        let mut older = BTreeSet::new();
        for name in repositories {
            let full = name::repository(&format!("{name}:latest")).unwrap_or_default();
            let group = groups.get(&full).ok_or_else(|| {
                let known: Vec<_> = groups.keys().map(String::as_str).collect();
                Error::not_found(format!(
                    "no image of the store is of a repository {name:?}; there is {}",
                    known.join(", ")
                ))
            })?;
            older.extend(group);
        }
        if repositories.is_empty() {
            older = groups.into_values().flatten().collect();
        }
        images.retain(|(number, _)| older.contains(number) && !kept.contains(number));
        Ok(images)
    }

    /// The image of a digest, with its number.
    pub(super) fn find_by_digest(&self, digest: &Digest) -> Result<Option<(u64, ImageRecord)>> {
        self.lookup(&digest_key(digest))
    }

    /// The image that has a name, with its number.
    pub(super) fn find_by_name(&self, name: &str) -> Result<Option<(u64, ImageRecord)>> {
        self.lookup(&name_key(name))
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<(u64, ImageRecord)>> {
        let Some(number) = self.db.get("names", name)? else { return Ok(None) };
        let number = number_of(&number)?;
        let image: Option<ImageRecord> = self.db.json("images", &key(number))?;
        Ok(image.map(|image| (number, image)))
    }

    /// The number of the next image.
    pub(super) fn next_image_number(&self) -> Result<u64> {
        let last = self.db.at_or_before("images", &[0xff; 8])?;
        last.map_or(Ok(0), |(key, _)| Ok(number_of(&key)? + 1))
    }

    pub(super) fn image_records(&self) -> Result<Vec<(u64, ImageRecord)>> {
        let entries = self.db.with_prefix("images", b"")?;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                Ok((number_of(&key)?, self.db.parse(&value)?))
            })
            .collect()
    }

    /// An image by name, tag, digest, or the first digits of that; the only one there is without.
    pub(super) fn find(&self, wanted: Option<&str>) -> Result<(u64, ImageRecord)> {
        let images = self.image_records()?;
        let Some(wanted) = wanted else {
            return match &images[..] {
                [one] => Ok(one.clone()),
                [] => Err(Error::not_found("the store has no images")),
                _ => Err(Error::refused(format!(
                    "there are several images; name one, as in store:DIR:NAME: {}",
                    labels(&images)
                ))),
            };
        };
        let named = |fits: &dyn Fn(&str) -> bool| -> Vec<(u64, ImageRecord)> {
            let fits = |i: &&(u64, ImageRecord)| i.1.names.iter().any(|n| fits(n));
            images.iter().filter(fits).cloned().collect()
        };
        // What is a name in full means no other image that has the tag.
        let mut found = named(&|name| name::is_same(name, wanted));
        if found.is_empty() {
            found = named(&|name| name::matches(name, wanted));
            let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
            let digest =
                |image: &ImageRecord| hex.len() >= 6 && image.root.digest.hex().starts_with(hex);
            found.extend(images.iter().filter(|(_, image)| digest(image)).cloned());
            found.dedup_by_key(|(number, _)| *number);
        }
        match &found[..] {
            [one] => Ok(one.clone()),
            [] if images.is_empty() => Err(Error::not_found("the store has no images")),
            [] => Err(Error::not_found(format!(
                "the store has no {wanted:?}; there is {}",
                labels(&images)
            ))),
            _ => Err(Error::refused(format!(
                "several images are called {wanted:?}; name one in full or by its digest: {}",
                labels(&found)
            ))),
        }
    }
}

fn labels(images: &[(u64, ImageRecord)]) -> String {
    let some = images.iter().take(MAX_LABELS).map(|(_, image)| image.label());
    let mut text = some.collect::<Vec<_>>().join(", ");
    if images.len() > MAX_LABELS {
        let _ = write!(text, " and {} more", images.len() - MAX_LABELS);
    }
    text
}

/// A message names no more images than this.
const MAX_LABELS: usize = 20;
