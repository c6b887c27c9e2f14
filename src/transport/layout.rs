//! OCI image layouts, in a folder or an archive
//! ([image-layout.md](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)).

use super::files::{Files, blob, document, document_blob};
use super::open::{Image, LayerBlob, Opened};
use super::{Transport, name};
use crate::error::{Context, Error, Result};
use crate::oci::{self, Config, Descriptor, Index, Manifest, Platform, media_type};

/// Indexes in indexes, at most so deep.
const MAX_DEPTH: usize = 8;
/// More images than this in one index are a mistake or an attack.
const MAX_IMAGES: usize = 1000;

/// Reads the image that `tag` names, or the only one there is. Where an index holds images for
/// several platforms and `platform` is given, the others are not read.
pub fn open(
    files: &dyn Files,
    tag: Option<&str>,
    platform: Option<&Platform>,
    transport: Transport,
) -> Result<Opened> {
    let root = read_root(files)?;
    let mut chosen = choose(&root, tag)?;
    let names: Vec<_> = chosen
        .iter()
        .filter_map(|d| name::of_descriptor(d))
        .map(str::to_owned)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    // Several names of one image, as it is one that is named.
    chosen.dedup_by_key(|d| d.digest);
    let mut found = Found { files, platform, images: Vec::new(), notes: Vec::new() };
    let mut index = None;
    for d in &chosen {
        if media_type::is_index(&d.media_type) && chosen.len() == 1 {
            let bytes = document_blob(files, d).context(|| format!("index {}", d.digest))?;
            index = Some(oci::parse::<Index>(&bytes, "the index")?);
        }
        found.walk(d, 0)?;
    }
    if chosen.len() > 1 {
        // Images for several platforms straight in index.json, as some builders write them.
        index = Some(Index::new(Vec::new()));
    }
    let Found { images, notes, .. } = found;
    if images.is_empty() {
        return Err(Error::not_found(match platform {
            Some(p) => format!("no image for platform {p} in the index"),
            None => "no container image in the index".into(),
        }));
    }
    Ok(Opened { images, index, names, transport, notes })
}

/// Whether index.json leads to no image with layers, as an archive of one Docker release does
/// (moby#47065): its manifest.json is the better guide then.
pub(crate) fn is_hollow(files: &dyn Files) -> bool {
    let Ok(root) = read_root(files) else { return true };
    root.manifests.iter().all(|d| {
        media_type::is_manifest(&d.media_type)
            && document_blob(files, d)
                .and_then(|bytes| oci::parse::<Manifest>(&bytes, "the manifest"))
                .is_ok_and(|m| m.layers.is_empty())
    })
}

fn read_root(files: &dyn Files) -> Result<Index> {
    let bytes = document(files, "index.json")?
        .ok_or_else(|| Error::not_found("there is no index.json, so it is no OCI layout"))?;
    oci::parse(&bytes, "index.json")
}

/// The descriptors that make up one image: one, or several that differ only in platform.
fn choose<'a>(root: &'a Index, tag: Option<&str>) -> Result<Vec<&'a Descriptor>> {
    let all: Vec<_> = root.manifests.iter().filter(|d| !is_attestation(d)).collect();
    let mut chosen: Vec<_> = match tag {
        Some(tag) => all.iter().copied().filter(|d| name::is_of(d, tag)).collect(),
        None => all.clone(),
    };
    // One image under several names is one image.
    let digests: std::collections::BTreeSet<_> = chosen.iter().map(|d| d.digest).collect();
    if digests.len() == 1 && chosen.iter().all(|d| d.platform == chosen[0].platform) {
        return Ok(chosen);
    }
    let mut platforms: Vec<_> = chosen.iter().filter_map(|d| d.platform.as_ref()).collect();
    platforms.sort_by_key(ToString::to_string);
    platforms.dedup();
    let one_name =
        chosen.windows(2).all(|w| name::of_descriptor(w[0]) == name::of_descriptor(w[1]));
    if !chosen.is_empty() && platforms.len() == chosen.len() && one_name {
        chosen.sort_by_key(|d| d.platform.as_ref().map(ToString::to_string));
        return Ok(chosen);
    }
    let names: Vec<_> = all.iter().filter_map(|d| name::of_descriptor(d)).collect();
    Err(match tag {
        _ if all.is_empty() => Error::not_found("index.json names no image"),
        Some(tag) if chosen.is_empty() => {
            Error::not_found(format!("no image is tagged {tag:?}; there is {}", names.join(", ")))
        }
        Some(tag) => Error::refused(format!("several images are tagged {tag:?}")),
        None => Error::refused(format!(
            "there are several images; name one by its tag, as in oci:DIR:TAG: {}",
            names.join(", ")
        )),
    })
}

/// Attestations describe an image by its digest and so can't follow it to a new one.
fn is_attestation(d: &Descriptor) -> bool {
    d.platform.as_ref().is_some_and(Platform::is_unknown)
        || d.annotation("vnd.docker.reference.type") == Some("attestation-manifest")
}

struct Found<'a> {
    files: &'a dyn Files,
    platform: Option<&'a Platform>,
    images: Vec<Image>,
    notes: Vec<String>,
}

impl Found<'_> {
    fn walk(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if is_attestation(d) {
            self.notes.push(format!(
                "attestation {} is left out: it describes the old image",
                d.digest.short()
            ));
            return Ok(());
        }
        if let (Some(wanted), Some(p)) = (self.platform, &d.platform)
            && !p.matches(wanted)
        {
            return Ok(());
        }
        if media_type::is_index(&d.media_type) {
            return self.walk_index(d, depth).context(|| format!("index {}", d.digest));
        }
        if !media_type::is_manifest(&d.media_type) {
            return Err(Error::unsupported(format!(
                "{} has media type {:?}, which is neither manifest nor index",
                d.digest, d.media_type
            )));
        }
        if self.images.len() >= MAX_IMAGES {
            return Err(Error::limit(format!("more than {MAX_IMAGES} images in one index")));
        }
        // The same image may stand in an index under several names.
        let image = read_image(self.files, d).context(|| format!("manifest {}", d.digest))?;
        if !self.images.iter().any(|i| i.manifest == image.manifest && i.platform == image.platform)
        {
            self.images.push(image);
        }
        Ok(())
    }

    fn walk_index(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if depth >= MAX_DEPTH {
            return Err(Error::limit(format!("more than {MAX_DEPTH} indexes inside one another")));
        }
        let bytes = document_blob(self.files, d)?;
        let index: Index = oci::parse(&bytes, "the index")?;
        if index.manifests.len() > MAX_IMAGES {
            return Err(Error::limit(format!("more than {MAX_IMAGES} manifests in one index")));
        }
        index.manifests.iter().try_for_each(|m| self.walk(m, depth + 1))
    }
}

fn read_image(files: &dyn Files, d: &Descriptor) -> Result<Image> {
    let bytes = document_blob(files, d)?;
    let manifest: Manifest = oci::parse(&bytes, "the manifest")?;
    if !media_type::is_config(&manifest.config.media_type) {
        return Err(Error::unsupported(format!(
            "its config has media type {:?}: this is an artifact and no container image",
            manifest.config.media_type
        )));
    }
    let place = || format!("config {}", manifest.config.digest);
    let config_bytes = document_blob(files, &manifest.config).context(place)?;
    let config = Config::parse(&config_bytes).context(place)?;
    let diff_ids = config.diff_ids().context(place)?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(Error::malformed(format!(
            "the manifest has {} layers, its config {} diff IDs",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let layers = manifest.layers.iter().zip(&diff_ids).enumerate().map(|(i, (l, diff_id))| {
        let name = format!("layer {} ({})", i + 1, l.digest);
        media_type::check_layer(&l.media_type)
            .map_err(|why| Error::unsupported(why).context(name.clone()))?;
        let source = blob(files, l).context(|| name.clone())?;
        Ok(LayerBlob::described(name, l, *diff_id, source))
    });
    let layers = layers.collect::<Result<_>>()?;
    let platform = d.platform.clone().unwrap_or_else(|| config.platform());
    Ok(Image {
        annotations: manifest.annotations.unwrap_or_default(),
        descriptor_annotations: d.annotations.clone().unwrap_or_default(),
        manifest: Some(bytes),
        config_bytes,
        config,
        platform,
        layers,
    })
}
