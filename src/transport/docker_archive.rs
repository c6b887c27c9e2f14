//! What `docker save` and `skopeo copy … docker-archive:` write: `manifest.json`, a config and
//! layers, either in a folder a layer (old Docker) or among an OCI layout's blobs.

use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::files::{Files, document};
use super::open::{Image, LayerBlob, Opened};
use super::{Transport, name};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::oci::{self, Annotations, Config, media_type};

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Item {
    /// Path of the config.
    pub(crate) config: String,
    /// `repository:tag` each.
    pub(crate) repo_tags: Option<Vec<String>>,
    /// Paths of the layers, lowest first.
    pub(crate) layers: Vec<String>,
}

/// Reads the image that `tag` names, or the only one there is.
pub fn open(archive: &Archive, tag: Option<&str>) -> Result<Opened> {
    let bytes = document(archive, "manifest.json")?
        .ok_or_else(|| Error::not_found("there is no manifest.json, so it is no docker-archive"))?;
    let items: Vec<Item> = oci::parse(&bytes, "manifest.json")?;
    let item = choose(&items, tag)?;
    let image = read_image(archive, item).context(|| format!("image {}", item.config))?;
    let names = item.repo_tags.clone().unwrap_or_default();
    Ok(Opened {
        images: vec![image],
        index: None,
        names,
        transport: Transport::DockerArchive,
        notes: Vec::new(),
    })
}

fn choose<'a>(items: &'a [Item], tag: Option<&str>) -> Result<&'a Item> {
    let tags = |item: &Item| item.repo_tags.clone().unwrap_or_default();
    let all = || items.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
    match (items, tag) {
        ([], _) => Err(Error::not_found("manifest.json names no image")),
        ([one], None) => Ok(one),
        (_, None) => Err(Error::refused(format!(
            "there are {} images; name one by its tag, as in docker-archive:FILE:NAME:TAG: {}",
            items.len(),
            all()
        ))),
        (_, Some(tag)) => {
            items.iter().find(|item| tags(item).iter().any(|t| name::matches(t, tag))).ok_or_else(
                || Error::not_found(format!("no image is tagged {tag:?}; there is {}", all())),
            )
        }
    }
}

fn read_image(archive: &Archive, item: &Item) -> Result<Image> {
    let config_bytes = document(archive, &item.config)?
        .ok_or_else(|| Error::not_found("the config is missing from the archive"))?;
    if let Some(stated) = digest_in(&item.config) {
        let found = Digest::of(&config_bytes);
        if found != stated {
            return Err(Error::mismatch(format!(
                "the config has digest {found}; the archive is damaged, make or fetch it again"
            )));
        }
    }
    let config = Config::parse(&config_bytes)?;
    let diff_ids = config.diff_ids()?;
    if diff_ids.len() != item.layers.len() {
        return Err(Error::malformed(format!(
            "manifest.json has {} layers, the config {} diff IDs",
            item.layers.len(),
            diff_ids.len()
        )));
    }
    let layers = item.layers.iter().zip(&diff_ids).enumerate().map(|(i, (path, diff_id))| {
        let name = format!("layer {} ({path})", i + 1);
        let source = archive
            .get(path)?
            .ok_or_else(|| Error::not_found("it is missing from the archive").context(&*name))?;
        // Blobs are named by the digest of what lies there; `<digest>.tar` names a diff ID.
        let digest = path.starts_with("blobs/").then(|| digest_in(path)).flatten();
        let media_type = media_type::LAYER.to_owned();
        Ok(LayerBlob { name, media_type, digest, diff_id: *diff_id, source })
    });
    let layers = layers.collect::<Result<_>>()?;
    Ok(Image {
        manifest: None,
        annotations: Annotations::new(),
        descriptor_annotations: Annotations::new(),
        platform: config.platform(),
        config_bytes,
        config,
        layers,
    })
}

/// The digest that a member's name states: `<hex>.json`, `blobs/sha256/<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let base = path.rsplit('/').next()?;
    format!("sha256:{}", base.strip_suffix(".json").unwrap_or(base)).parse().ok()
}
