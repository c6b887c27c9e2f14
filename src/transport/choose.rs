//! Selection of the image in an `index.json` that a name refers to.

#[cfg(feature = "store")]
use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use super::files::{Files, document_blob};
use super::name;
use crate::base::error::{Error, Result, if_valid};
use crate::base::limits::{MAX_IMAGES, MAX_INDEX_DEPTH};
use crate::base::text::count;
use crate::model::oci::{self, Descriptor, Index, Manifest, Platform, media_type};

/// The entries that a name refers to.
pub(super) struct Selection {
    /// One image or index, or several images that differ only in platform.
    pub(super) descriptors: Vec<Descriptor>,
    /// Their names.
    pub(super) names: Vec<String>,
    /// Notes for the user.
    pub(super) notes: Vec<String>,
}

/// Parses an entry of an index.
///
/// # Errors
/// If it is not a descriptor with a SHA-256 digest.
pub(super) fn entry(value: &Value) -> Result<Descriptor> {
    oci::parse(&oci::to_json(value)?, "an entry of the index")
}

/// Reads an index without parsing its entries.
pub(super) fn read_index(files: &dyn Files, d: &Descriptor) -> Result<Index<Value>> {
    let index: Index<Value> = oci::parse(&document_blob(files, d)?, "the index")?;
    if index.media_type.as_deref().is_some_and(media_type::is_manifest) {
        return Err(Error::malformed(
            "its descriptor says index, the document says manifest (CVE-2021-41190)",
        ));
    }
    if index.manifests.len() > MAX_IMAGES {
        return Err(Error::limit(format!("more than {MAX_IMAGES} manifests in one index")));
    }
    Ok(index)
}

/// Returns whether an entry is an attestation. One describes an image by its digest and does not
/// apply to a new image.
pub(crate) fn is_attestation(d: &Descriptor) -> bool {
    d.platform.as_ref().is_some_and(Platform::is_unknown)
        || d.annotation("vnd.docker.reference.type") == Some("attestation-manifest")
}

/// Returns whether the index states another platform than `wanted`.
pub(super) fn is_for_another(d: &Descriptor, wanted: Option<&Platform>) -> bool {
    let stated = d.platform.as_ref().filter(|p| !p.os.is_empty() && !p.architecture.is_empty());
    stated.zip(wanted).is_some_and(|(stated, wanted)| !stated.matches(wanted))
}

/// Selects the entries that `tag` refers to, or the only image.
pub(super) fn choose(
    files: &dyn Files,
    root: &Index<Value>,
    tag: Option<&str>,
) -> Result<Selection> {
    let (mut all, mut unusable) = (Vec::new(), Vec::new());
    for value in &root.manifests {
        match entry(value) {
            Ok(d) if is_attestation(&d) => {}
            Ok(d) => all.push(d),
            Err(e) => unusable.push(e),
        }
    }
    let mut notes = Vec::new();
    let found = match tag {
        Some(tag) => by_name(files, root, &all, tag)?,
        None if one_image(&all) => all.clone(),
        // Signatures, charts and other artifacts may be stored next to an image.
        None => {
            let (mut images, mut others) = (Vec::new(), Vec::new());
            for d in &all {
                let kind = if is_artifact(files, d)? { &mut others } else { &mut images };
                kind.push(d.clone());
            }
            notes.extend(others.iter().map(|d| {
                format!("{} is left out: it is an artifact, not a container image", label(d))
            }));
            images
        }
    };
    if found.is_empty() || !one_image(&found) {
        // The unusable entry may be the one that was meant.
        return Err(match unusable.pop() {
            Some(e) if found.is_empty() => e,
            _ => ambiguous(&all, &found, tag),
        });
    }
    notes.extend(unusable.iter().map(|e| format!("an entry of index.json is left out: {e}")));
    let names: BTreeSet<_> =
        found.iter().filter_map(name::of_descriptor).map(str::to_owned).collect();
    let mut descriptors = found;
    descriptors.sort_by_key(|d| d.platform.as_ref().map(ToString::to_string));
    // Several names of the same image.
    descriptors.dedup_by_key(|d| d.digest);
    Ok(Selection { descriptors, names: names.into_iter().collect(), notes })
}

/// Returns a name that selects each image of an index; `None` if there is only one.
#[cfg(feature = "store")]
pub(super) fn each(files: &dyn Files, root: &Index<Value>) -> Result<Vec<Option<String>>> {
    let mut all: Vec<(usize, Descriptor)> = Vec::new();
    for (place, value) in root.manifests.iter().enumerate() {
        let Ok(d) = entry(value) else { continue };
        if !is_attestation(&d) && !is_artifact(files, &d)? {
            all.push((place, d));
        }
    }
    if one_image(&all.iter().map(|(_, d)| d.clone()).collect::<Vec<_>>()) {
        return Ok(vec![None]);
    }
    let full = |d: &Descriptor| {
        name::of_descriptor(d).map(|name| name::full(name).unwrap_or_else(|| name.to_owned()))
    };
    let mut by_name: BTreeMap<_, Vec<Descriptor>> = BTreeMap::new();
    for (_, d) in &all {
        by_name.entry(full(d)).or_default().push(d.clone());
    }
    // Those of one name are an image for several platforms, or several images.
    let shared: BTreeSet<_> =
        by_name.into_iter().filter(|(_, of)| !one_image(of)).map(|(name, _)| name).collect();
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for (place, d) in &all {
        let name = name::of_descriptor(d).filter(|_| !shared.contains(&full(d)));
        let name = name.map_or_else(|| format!("@{place}"), str::to_owned);
        if seen.insert(name.clone()) {
            names.push(Some(name));
        }
    }
    Ok(names)
}

/// Returns the descriptors with this name, digest or position; failing that, with this tag.
fn by_name(
    files: &dyn Files,
    root: &Index<Value>,
    all: &[Descriptor],
    wanted: &str,
) -> Result<Vec<Descriptor>> {
    if let Some(place) = wanted.strip_prefix('@').and_then(|n| n.parse::<usize>().ok()) {
        return match root.manifests.get(place) {
            Some(value) => Ok(vec![entry(value)?]),
            None => Err(Error::not_found(format!(
                "index.json has no entry @{place}; it has {}, from @0",
                count(root.manifests.len() as u64, "entry")
            ))),
        };
    }
    let mut found: Vec<_> = all.iter().filter(|d| name::is_of(d, wanted)).cloned().collect();
    if name::digest(wanted).is_some() {
        if found.is_empty() {
            for d in all {
                search(files, d, wanted, 0, &mut found)?;
            }
        }
        found.truncate(1);
    } else if !one_image(&found) {
        let exact = |d: &&Descriptor| name::stated(d).any(|name| name::is_same(name, wanted));
        let exact: Vec<_> = found.iter().filter(exact).cloned().collect();
        if !exact.is_empty() {
            return Ok(exact);
        }
    }
    Ok(found)
}

/// Searches indexes for a digest, as far as they can be read.
fn search(
    files: &dyn Files,
    d: &Descriptor,
    wanted: &str,
    depth: usize,
    found: &mut Vec<Descriptor>,
) -> Result<()> {
    if depth >= MAX_INDEX_DEPTH || !found.is_empty() || !media_type::is_index(&d.media_type) {
        return Ok(());
    }
    let Some(index) = if_valid(read_index(files, d))? else { return Ok(()) };
    for d in index.manifests.iter().filter_map(|value| entry(value).ok()) {
        if name::is_of(&d, wanted) {
            found.push(d);
            return Ok(());
        }
        search(files, &d, wanted, depth + 1, found)?;
    }
    Ok(())
}

/// Returns whether these are one image under one or more names, or one image per platform.
fn one_image(all: &[Descriptor]) -> bool {
    let digests: BTreeSet<_> = all.iter().map(|d| d.digest).collect();
    if digests.len() == 1 && all.iter().all(|d| d.platform == all[0].platform) {
        return true;
    }
    let platforms: BTreeSet<_> =
        all.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
    let one_name = all.windows(2).all(|w| name::of_descriptor(&w[0]) == name::of_descriptor(&w[1]));
    platforms.len() == all.len() && one_name
}

/// Reads the manifest that a descriptor refers to.
pub(super) fn manifest(files: &dyn Files, d: &Descriptor) -> Result<Manifest> {
    document_blob(files, d).and_then(|bytes| oci::parse(&bytes, "the manifest"))
}

/// Returns whether a manifest is that of a signature, a chart or another artifact. An invalid one
/// is not: reading it again reports the error.
fn is_artifact(files: &dyn Files, d: &Descriptor) -> Result<bool> {
    if !media_type::is_manifest(&d.media_type) {
        return Ok(!media_type::is_index(&d.media_type));
    }
    Ok(if_valid(manifest(files, d))?.is_some_and(|m| {
        let layer = |l: &Descriptor| media_type::check_layer(&l.media_type).is_ok();
        !media_type::is_config(&m.config.media_type)
            || (!m.layers.is_empty() && !m.layers.iter().any(layer))
    }))
}

/// Returns a name for messages that also selects the image.
fn label(d: &Descriptor) -> String {
    match name::of_descriptor(d) {
        Some(name) => name.to_owned(),
        None => format!("@{}", d.digest),
    }
}

/// Returns the error for a name that refers to no image or to several.
fn ambiguous(all: &[Descriptor], found: &[Descriptor], tag: Option<&str>) -> Error {
    let list = |some: &[Descriptor]| some.iter().map(label).collect::<Vec<_>>().join(", ");
    match tag {
        _ if all.is_empty() => Error::not_found("index.json lists no image"),
        Some(tag) if found.is_empty() => {
            Error::not_found(format!("no image is named {tag:?}; the images are {}", list(all)))
        }
        Some(tag) => Error::refused(format!(
            "several images are named {tag:?}; use a full name or a digest: {}",
            list(found)
        )),
        None if found.is_empty() => Error::unsupported(format!(
            "there are only artifacts, no container image: {}",
            list(all)
        )),
        None => Error::refused(format!(
            "there are several images; select one by tag or digest, as in oci:DIR:TAG or \
             oci:DIR@sha256:…: {}",
            list(found)
        )),
    }
}
