//! The images of a store: listing, finding and removing them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::record::{ImageRecord, key, number_of};
use super::table::{Store, digest_key, index_keys, name_key};
use crate::base::error::{Error, Result};
use crate::model::digest::Digest;
use crate::transport::name;

/// An image of a store, as [`Store::list`] returns it.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// Digest of the manifest, or of the index if there are several manifests.
    pub digest: Digest,
    /// Its names.
    pub names: Vec<String>,
    /// Names that it had and that other images have now.
    pub former: Vec<String>,
    /// Times at which it was added, oldest first, in seconds since 1970.
    pub added: Vec<u64>,
    /// Number of layers, of all platforms.
    pub layers: u64,
    /// Size of its blobs in bytes.
    pub bytes: u64,
    /// Number of blobs that were damaged and removed. Adding the image again restores them.
    pub missing: u64,
}

/// Options of [`Store::remove`]: which images to remove.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Names, tags or digests. With `keep_last`, repositories, or none for all.
    pub names: Vec<String>,
    /// How many images of each repository to keep: those that were added last.
    pub keep_last: Option<usize>,
    /// Only return the images, without removing them.
    pub dry_run: bool,
}

impl Store {
    /// Returns all images, in the order in which they were added.
    ///
    /// # Errors
    /// If the store is damaged or can't be read.
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

    /// Removes images and returns them. Data that only they use remains until
    /// [`collect_garbage`](Self::collect_garbage).
    ///
    /// # Errors
    /// If a name matches no image or several, or the store is damaged or can't be written.
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

    /// Returns all images of the repositories, or of all repositories if none is named, except the
    /// last `keep` of each. An image whose name was moved to another still belongs to the repository.
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
                    "the store has no images of repository {name:?}; it has {}",
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

    /// Returns the image with a digest, and its number.
    pub(super) fn find_by_digest(&self, digest: &Digest) -> Result<Option<(u64, ImageRecord)>> {
        self.lookup(&digest_key(digest))
    }

    /// Returns the image with a name, and its number.
    pub(super) fn find_by_name(&self, name: &str) -> Result<Option<(u64, ImageRecord)>> {
        self.lookup(&name_key(name))
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<(u64, ImageRecord)>> {
        let Some(number) = self.db.get("names", name)? else { return Ok(None) };
        let number = number_of(&number)?;
        let image: Option<ImageRecord> = self.db.json("images", &key(number))?;
        Ok(image.map(|image| (number, image)))
    }

    /// Returns the number of the next image.
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

    /// Finds an image by name, tag, digest or prefix of the digest; without any of these, the only
    /// image.
    pub(super) fn find(&self, wanted: Option<&str>) -> Result<(u64, ImageRecord)> {
        let images = self.image_records()?;
        let Some(wanted) = wanted else {
            return match &images[..] {
                [one] => Ok(one.clone()),
                [] => Err(Error::not_found("the store has no images")),
                _ => Err(Error::refused(format!(
                    "the store has several images; name one, as in store:DIR:NAME: {}",
                    labels(&images)
                ))),
            };
        };
        let named = |fits: &dyn Fn(&str) -> bool| -> Vec<(u64, ImageRecord)> {
            let fits = |i: &&(u64, ImageRecord)| i.1.names.iter().any(|n| fits(n));
            images.iter().filter(fits).cloned().collect()
        };
        // An exact name has precedence over images with that tag.
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
                "the store has no image {wanted:?}; it has {}",
                labels(&images)
            ))),
            _ => Err(Error::refused(format!(
                "several images match {wanted:?}; use a full name or a digest: {}",
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

/// Maximum number of images that a message names.
const MAX_LABELS: usize = 20;
