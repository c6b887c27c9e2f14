//! Facts from the documents of images and artifacts whose layers can't be read: encrypted, foreign, or
//! without files.

use serde::Serialize;

use super::choose::{self, Selection, entry, is_for_another, read_index};
use super::files::{Files, blob};
use super::layout::{is_unusable, read_manifest, read_root};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_INDEX_DEPTH;
use crate::model::digest::Digest;
use crate::model::oci::{Descriptor, Platform, media_type};

/// A manifest, described without reading its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// The platform that it runs on, if the index states it.
    pub platform: Option<String>,
    /// Type of the artifact or of its config; `None` for a container image.
    pub artifact_type: Option<String>,
    /// Lowest first.
    pub layers: Vec<OutlineLayer>,
}

/// One layer of an [`Outline`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineLayer {
    /// Digest as stored.
    pub digest: Digest,
    /// As the manifest states it.
    pub media_type: String,
    /// Bytes as stored, as the manifest states them.
    pub blob_bytes: u64,
    /// The reason why its files can't be listed; `None` if they can.
    pub problem: Option<String>,
}

/// Outlines the manifests that `tag` names, only those for `platform` if it is given.
pub(super) fn outline(
    files: &dyn Files,
    tag: Option<&str>,
    platform: Option<&Platform>,
) -> Result<Vec<Outline>> {
    let Selection { descriptors, .. } = choose::choose(files, &read_root(files)?, tag)?;
    let mut found = Vec::new();
    for d in &descriptors {
        walk(files, d, platform, 0, &mut found)?;
    }
    Ok(found)
}

fn walk(
    files: &dyn Files,
    d: &Descriptor,
    platform: Option<&Platform>,
    depth: usize,
    found: &mut Vec<Outline>,
) -> Result<()> {
    if is_for_another(d, platform) {
        return Ok(());
    }
    if !media_type::is_index(&d.media_type) {
        found.push(of_manifest(files, d).with_context(|| format!("manifest {}", d.digest))?);
        return Ok(());
    }
    if depth >= MAX_INDEX_DEPTH {
        return Err(Error::limit(format!("indexes are nested more than {MAX_INDEX_DEPTH} deep")));
    }
    let index = read_index(files, d).with_context(|| format!("index {}", d.digest))?;
    for d in index.manifests.iter().filter_map(|value| entry(value).ok()) {
        match walk(files, &d, platform, depth + 1, found) {
            Err(e) if is_unusable(&e) => {}
            done => done?,
        }
    }
    Ok(())
}

fn of_manifest(files: &dyn Files, d: &Descriptor) -> Result<Outline> {
    let (_, manifest) = read_manifest(files, d)?;
    let config = &manifest.config.media_type;
    let stated = manifest.other.get("artifactType").and_then(serde_json::Value::as_str);
    let artifact_type =
        (!media_type::is_config(config)).then(|| stated.unwrap_or(config.as_str()).to_owned());
    let layers = manifest.layers.iter().map(|layer| {
        let known = media_type::check_layer(&layer.media_type).err();
        let missing = || match blob(files, layer) {
            Err(e) if media_type::is_foreign(&layer.media_type) && is_unusable(&e) => Some(
                "foreign: the image states where to download it and does not include it".into(),
            ),
            done => done.err().map(|e| e.to_string()),
        };
        OutlineLayer {
            digest: layer.digest,
            media_type: layer.media_type.clone(),
            blob_bytes: layer.size,
            problem: known.or_else(missing),
        }
    });
    Ok(Outline {
        manifest: d.digest,
        platform: d.platform.as_ref().map(ToString::to_string).filter(|p| !p.is_empty()),
        artifact_type,
        layers: layers.collect(),
    })
}
