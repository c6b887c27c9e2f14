//! Writing the documents that name images: `index.json` and `manifest.json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::bundle::{Bundle, ManifestEntry};
use super::docker_archive::ManifestItem;
use super::files::{Folder, blob_path, document};
use super::{is_image_name, name};
use crate::base::error::{Error, Result};
use crate::model::oci::{self, CONTAINERD_NAME, Descriptor, Index, REF_NAME};

/// Reads the index of a layout; it is empty if there is none. Entries that other tools wrote stay
/// unchanged.
pub(super) fn read(dir: &Path) -> Result<Index<Value>> {
    match document(&Folder::new(dir.to_owned()), "index.json")? {
        Some(bytes) => oci::parse(&bytes, "index.json"),
        None => Ok(Index::new(Vec::new())),
    }
}

/// Returns the tag of an index entry.
pub(super) fn tag(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

/// Returns whether a user refers to this entry by `wanted`.
pub(super) fn is_of(entry: &Value, wanted: &str) -> bool {
    let known = |d: Descriptor| name::is_of(&d, wanted);
    serde_json::from_value(entry.clone()).is_ok_and(known)
}

/// Adds images to an index, replacing those with the same tags.
pub(super) fn add(index: &mut Index<Value>, new: &[Descriptor]) -> Result<()> {
    index.manifests.retain(|old| {
        !new.iter().any(|n| match n.annotation(REF_NAME) {
            Some(new) => tag(old) == Some(new),
            None => old.get("digest").and_then(Value::as_str) == Some(&n.digest.to_string()),
        })
    });
    index.schema_version = 2;
    for d in new {
        index.manifests.push(
            serde_json::to_value(d).map_err(|e| Error::malformed(format!("writing JSON: {e}")))?,
        );
    }
    Ok(())
}

/// Returns the descriptors of an `index.json`: the root, once for each tag. A `tag` from the command
/// line is written unchanged, as skopeo does.
pub(super) fn roots(
    bundle: &Bundle,
    names: &[String],
    tag: Option<&str>,
) -> Result<Vec<Descriptor>> {
    let root = bundle.root.clone().ok_or_else(|| Error::malformed("there is no image to write"))?;
    let with_name = |n: &String| {
        let mut d = root.clone();
        let mut annotations = d.annotations.take().unwrap_or_default();
        annotations.insert(REF_NAME.into(), tag.unwrap_or(name::tag(n)).into());
        if let Some(full) = name::full(n).filter(|full| is_image_name(full)) {
            annotations.insert(CONTAINERD_NAME.into(), full);
        }
        d.annotations = Some(annotations);
        d
    };
    // Names that differ only in the repository would give the same tag twice.
    let mut tags = BTreeSet::new();
    let distinct = names.iter().filter(|n| tags.insert(name::tag(n)));
    Ok(if names.is_empty() { vec![root] } else { distinct.map(with_name).collect() })
}

/// Returns `manifest.json`. The first image has the names, since a second one would take them over.
/// Names that docker does not accept are left out.
pub(super) fn docker(bundle: &Bundle, names: &[String]) -> Result<Vec<u8>> {
    let docker = |n: &&String| name::full(n).is_some() && is_image_name(n);
    let tags: Vec<_> = names.iter().filter(docker).map(ToString::to_string).collect();
    let items: Vec<_> = ordered(bundle)
        .into_iter()
        .enumerate()
        .map(|(i, image)| ManifestItem {
            config: blob_path(&image.config),
            repo_tags: (i == 0 && !tags.is_empty()).then(|| tags.clone()),
            layers: Some(image.layers.iter().map(blob_path).collect()),
        })
        .collect();
    oci::to_json(&items)
}

/// Returns the images in the order of `manifest.json`: linux/amd64 first, since most machines that
/// load one of several platforms have it. The writing machine makes no difference.
pub(super) fn ordered(bundle: &Bundle) -> Vec<&ManifestEntry> {
    let mut all: Vec<_> = bundle.listed.iter().collect();
    all.sort_by_key(|image| (image.platform.os != "linux", image.platform.architecture != "amd64"));
    all
}

/// Protection of the images that are already in a layout.
#[derive(Debug)]
pub(super) struct Guard {
    /// Whether tags may be moved to other images.
    pub(super) force: bool,
    /// Tags of the inputs that are in the layout that is written to.
    pub(super) inputs: Vec<Option<String>>,
}

impl Guard {
    /// Checks that no image of a layout loses its tag without `force`.
    pub(super) fn check(&self, index: &Index<Value>, tags: &[&str]) -> Result<()> {
        for old in &index.manifests {
            let Some(tag) = tag(old).filter(|tag| tags.contains(tag)) else { continue };
            let read =
                |input: &Option<String>| input.as_ref().is_none_or(|input| is_of(old, input));
            if self.inputs.iter().any(read) {
                return Err(Error::refused(format!(
                    "{tag} is the input, which is never overwritten; use another tag"
                )));
            }
            if !self.force {
                return Err(Error::refused(format!(
                    "an image {tag} already exists; --force replaces it"
                )));
            }
        }
        Ok(())
    }
}
