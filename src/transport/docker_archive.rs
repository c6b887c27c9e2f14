//! What `docker save` and `skopeo copy … docker-archive:` write: `manifest.json`, a config and
//! layers, either in a folder a layer (old Docker) or among an OCI layout's blobs.

use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::files::{Files, document};
use super::open::{Image, LayerBlob, Opened};
use super::{Transport, name};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::oci::{self, Annotations, Config};

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all(serialize = "PascalCase"))]
pub(crate) struct Item {
    /// Path of the config.
    pub(crate) config: String,
    /// `repository:tag` each.
    #[serde(rename(deserialize = "repotags"))]
    pub(crate) repo_tags: Option<Vec<String>>,
    /// Paths of the layers, lowest first. Go writes an empty list as `null`.
    pub(crate) layers: Option<Vec<String>>,
}

/// Reads `manifest.json`. Docker is written in Go, for which the case of a key means nothing, and
/// some tools write `config`.
fn read_items(bytes: &[u8]) -> Result<Vec<Item>> {
    type Object = serde_json::Map<String, serde_json::Value>;
    let items: Option<Vec<Object>> = oci::parse(bytes, "manifest.json")?;
    let lower = |item: Object| item.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect();
    let item = |item| serde_json::from_value(serde_json::Value::Object(lower(item)));
    let items: serde_json::Result<_> = items.unwrap_or_default().into_iter().map(item).collect();
    items.map_err(|e| Error::malformed(format!("manifest.json is not valid: {e}")))
}

/// Reads the image that `tag` names, or the only one there is.
pub fn open(archive: &Archive, tag: Option<&str>, max_size: u64) -> Result<Opened> {
    let bytes = document(archive, "manifest.json")?
        .ok_or_else(|| Error::not_found("there is no manifest.json, so it is no docker-archive"))?;
    let items = read_items(&bytes)?;
    let item = choose(&items, tag)?;
    let mut notes = Vec::new();
    let image = read_image(archive, item, max_size, &mut notes)
        .context(|| format!("image {}", item.config))?;
    let names = item.repo_tags.clone().unwrap_or_default();
    Ok(Opened {
        images: vec![image],
        index: None,
        names,
        transport: Transport::DockerArchive,
        notes,
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

fn read_image(
    archive: &Archive,
    item: &Item,
    max_size: u64,
    notes: &mut Vec<String>,
) -> Result<Image> {
    let config_bytes = document(archive, &item.config)?
        .ok_or_else(|| Error::not_found("the config is missing from the archive"))?;
    let found = Digest::of(&config_bytes);
    // Docker and skopeo don't ask what its name is.
    if let Some(stated) = digest_in(&item.config).filter(|stated| *stated != found) {
        notes.push(format!(
            "the config has digest {found} and not that of its name, {stated}: somebody edited \
             it, or it is damaged"
        ));
    }
    let config = Config::parse(&config_bytes)?;
    let diff_ids = config.diff_ids()?;
    let paths = item.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != paths.len() {
        return Err(Error::malformed(format!(
            "manifest.json has {} layers, the config {} diff IDs",
            paths.len(),
            diff_ids.len()
        )));
    }
    let layers = paths.iter().zip(&diff_ids).enumerate().map(|(i, (path, diff_id))| {
        let name = format!("layer {} ({path})", i + 1);
        let source = archive
            .get(path)?
            .ok_or_else(|| Error::not_found("it is missing from the archive").context(&*name))?;
        LayerBlob::undescribed(name, *diff_id, source, max_size)
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

/// The digest that the name of a config states: `<hex>.json`, `sha256:<hex>`, `blobs/sha256/<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let base = path.rsplit('/').next()?;
    let hex = base.strip_suffix(".json").unwrap_or(base);
    format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex)).parse().ok()
}
