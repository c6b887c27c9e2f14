//! The format of `docker save` and `skopeo copy … docker-archive:`: `manifest.json`, a config and
//! layers, either with a folder per layer (old Docker) or as blobs of an OCI layout.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{Files, document};
use super::image::{Image, LayerBlob, Opened};
use super::{Transport, name};
use crate::base::error::{Context, Error, Result, if_valid};
use crate::base::text::count;
use crate::model::content::WindowBudget;
use crate::model::digest::Digest;
use crate::model::oci::{self, Annotations, Config, Index};

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all(serialize = "PascalCase"))]
pub(crate) struct ManifestItem {
    /// Path of the config.
    pub(crate) config: String,
    /// Names, each `repository:tag`.
    #[serde(rename(deserialize = "repotags"))]
    pub(crate) repo_tags: Option<Vec<String>>,
    /// Paths of the layers, lowest first. Go writes an empty list as `null`.
    pub(crate) layers: Option<Vec<String>>,
}

/// Parses `manifest.json`. Docker is written in Go, whose JSON parser ignores the case of keys, and
/// some tools write `config`.
fn read_items(bytes: &[u8]) -> Result<Vec<ManifestItem>> {
    type Object = serde_json::Map<String, Value>;
    let items: Option<Vec<Object>> = oci::parse(bytes, "manifest.json")?;
    let lower = |item: Object| item.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect();
    let item = |item| serde_json::from_value(Value::Object(lower(item)));
    let items: serde_json::Result<_> = items.unwrap_or_default().into_iter().map(item).collect();
    items.map_err(|e| Error::malformed(format!("manifest.json is not valid: {e}")))
}

/// Opens the image that `tag` names, or the only one, for all its platforms.
///
/// # Errors
/// If there is no such image, or a document is not valid.
pub(crate) fn open(
    archive: &dyn Files,
    tag: Option<&str>,
    max_size: u64,
    windows: &Arc<WindowBudget>,
) -> Result<Opened> {
    let bytes = document(archive, "manifest.json")?.ok_or_else(|| {
        Error::not_found("there is no manifest.json, so this is not a docker-archive")
    })?;
    let items = read_items(&bytes)?;
    let mut notes = Vec::new();
    let mut read = |item: &ManifestItem| {
        read_image(archive, item, max_size, windows, &mut notes)
            .with_context(|| format!("image {}", item.config))
    };
    if let (None, Some(named)) = (tag, of_platforms(&items)) {
        let mut images = items.iter().map(&mut read).collect::<Result<Vec<_>>>()?;
        let platforms: BTreeSet<_> = images.iter().map(|i| i.platform.to_string()).collect();
        if platforms.len() == images.len() {
            images.sort_by_key(|i| i.platform.to_string());
            let index = Some(Index::new(Vec::new()));
            return Ok(opened(images, index, named, notes));
        }
    }
    let item = choose(&items, tag)?;
    let image = read(item)?;
    Ok(opened(vec![image], None, item, notes))
}

fn opened(
    images: Vec<Image>,
    index: Option<Index<Value>>,
    named: &ManifestItem,
    notes: Vec<String>,
) -> Opened {
    let all = named.names().map(str::to_owned).collect();
    Opened { images, index, names: all, transport: Transport::DockerArchive, notes }
}

/// Returns the entry with the names if these may be one image for several platforms: only one has
/// names, since a second one would take them over.
fn of_platforms(items: &[ManifestItem]) -> Option<&ManifestItem> {
    let mut named = items.iter().filter(|item| item.names().next().is_some());
    let first = named.next().or(items.first())?;
    (items.len() > 1 && named.next().is_none()).then_some(first)
}

/// Returns the names that `manifest.json` gives to images with these configs.
pub(crate) fn names(files: &dyn Files, configs: &[Digest]) -> Result<Vec<String>> {
    let read = if_valid(document(files, "manifest.json"))?.flatten();
    let items = read.and_then(|bytes| read_items(&bytes).ok());
    let ours = |item: &ManifestItem| {
        digest_in(&item.config).is_some_and(|digest| configs.contains(&digest))
    };
    let names = |item: ManifestItem| item.names().map(str::to_owned).collect::<Vec<_>>();
    Ok(items.into_iter().flatten().filter(ours).flat_map(names).collect())
}

impl ManifestItem {
    /// Returns the valid names.
    fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.repo_tags.iter().flatten().map(String::as_str);
        all.filter(|name| name::is_name(name))
    }
}

/// Returns a name that selects each image: its position, as two may have one name; `None` if there is
/// only one.
#[cfg(feature = "store")]
pub(crate) fn each(files: &dyn Files) -> Result<Vec<Option<String>>> {
    let bytes = document(files, "manifest.json")?;
    let items = bytes.map_or(Ok(Vec::new()), |bytes| read_items(&bytes))?;
    if items.len() < 2 || of_platforms(&items).is_some() {
        return Ok(vec![None]);
    }
    Ok((0..items.len()).map(|place| Some(format!("@{place}"))).collect())
}

/// Returns the image that `tag` names: by position, by full name, else by tag alone.
fn choose<'a>(items: &'a [ManifestItem], tag: Option<&str>) -> Result<&'a ManifestItem> {
    let list = |items: &mut dyn Iterator<Item = &ManifestItem>| {
        items.flat_map(ManifestItem::names).collect::<Vec<_>>().join(", ")
    };
    let (all, by_tag): (Vec<&ManifestItem>, _) = match (items, tag) {
        ([], _) => return Err(Error::not_found("manifest.json lists no image")),
        ([one], None) => return Ok(one),
        (_, None) => {
            return Err(Error::refused(format!(
                "the archive has {}; select one by name, as in docker-archive:FILE:NAME:TAG: {}",
                count(items.len() as u64, "image"),
                list(&mut items.iter())
            )));
        }
        (_, Some(tag)) => {
            let place = tag.strip_prefix('@').and_then(|n| n.parse::<usize>().ok());
            if let Some(item) = place.and_then(|place| items.get(place)) {
                return Ok(item);
            }
            let of = |is: fn(&str, &str) -> bool| {
                items.iter().filter(|item| item.names().any(|name| is(name, tag))).collect()
            };
            let exact: Vec<_> = of(name::is_same);
            (if exact.is_empty() { of(name::matches) } else { exact }, tag)
        }
    };
    match all.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::not_found(format!(
            "no image is named {by_tag:?}; the images are {}",
            list(&mut items.iter())
        ))),
        _ => Err(Error::refused(format!(
            "several images are named {by_tag:?}; use a full name: {}",
            list(&mut all.iter().copied())
        ))),
    }
}

fn read_image(
    archive: &dyn Files,
    item: &ManifestItem,
    max_size: u64,
    windows: &Arc<WindowBudget>,
    notes: &mut Vec<String>,
) -> Result<Image> {
    let config_bytes = document(archive, &item.config)?
        .ok_or_else(|| Error::not_found("the config is missing from the archive"))?;
    let found = Digest::of(&config_bytes);
    // Docker and skopeo ignore the name of the config.
    if let Some(stated) = digest_in(&item.config).filter(|stated| *stated != found) {
        notes.push(format!(
            "the config has digest {found}, but its name says {stated}: it was edited or is damaged"
        ));
    }
    let config = Config::parse(&config_bytes)?;
    let paths = item.layers.as_deref().unwrap_or_default();
    let diff_ids = config.diff_ids_of(paths.len())?;
    let layers = paths.iter().zip(&diff_ids).enumerate().map(|(i, (path, diff_id))| {
        let name = format!("layer {} ({path})", i + 1);
        let source = archive.get(path)?.ok_or_else(|| {
            Error::not_found("the file is missing from the archive").context(&*name)
        })?;
        LayerBlob::undescribed(name, *diff_id, source, max_size, windows)
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

/// Returns the digest in the name of a config: `<hex>.json`, `sha256:<hex>`, `blobs/sha256/<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let base = path.rsplit('/').next()?;
    let hex = base.strip_suffix(".json").unwrap_or(base);
    format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex)).parse().ok()
}
