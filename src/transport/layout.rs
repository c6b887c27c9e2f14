//! OCI image layouts, in a folder or an archive
//! ([image-layout.md](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)).

use serde_json::Value;

use super::Transport;
use super::choose::{self, Selection, entry, is_attestation, is_for_another, read_index};
use super::files::{Files, blob, document, document_blob};
use super::image::{Image, LayerBlob, Opened};
use crate::base::error::{Context, Error, ErrorKind, Result, if_valid};
use crate::base::limits::{MAX_IMAGES, MAX_INDEX_DEPTH};
use crate::model::oci::{self, Config, Descriptor, Index, Manifest, Platform, media_type};

/// The content of `oci-layout`.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Opens the image that `tag` names, or the only one. If an index lists images for several platforms
/// and `platform` is given, the others are not read.
///
/// # Errors
/// If there is no such image, or a document is not valid.
pub(crate) fn open(
    files: &dyn Files,
    tag: Option<&str>,
    platform: Option<&Platform>,
    transport: Transport,
) -> Result<Opened> {
    let root = read_root(files)?;
    let Selection { descriptors, names, notes } = choose::choose(files, &root, tag)?;
    let mut found =
        ImageCollector { files, platform, images: Vec::new(), left_out: Vec::new(), notes };
    let mut index = None;
    if let [d] = descriptors.as_slice() {
        if media_type::is_index(&d.media_type) {
            index = Some(read_index(files, d).with_context(|| format!("index {}", d.digest))?);
        }
        found.walk(d, 0)?;
    } else {
        // Some builders list the images of several platforms directly in index.json.
        index = Some(Index::new(Vec::new()));
        for d in &descriptors {
            found.try_walk(d, 0)?;
        }
    }
    let (images, notes) = found.finish()?;
    Ok(Opened { images, index, names, transport, notes })
}

/// Returns whether index.json leads to no image with layers, as in archives of one Docker release
/// (moby#47065): `manifest.json` has to be used instead.
pub(crate) fn has_no_layers(files: &dyn Files) -> Result<bool> {
    let Some(root) = if_valid(read_root(files))? else { return Ok(true) };
    for value in &root.manifests {
        let Ok(d) = entry(value) else { return Ok(false) };
        if !media_type::is_manifest(&d.media_type)
            || !if_valid(choose::manifest(files, &d))?.is_some_and(|m| m.layers.is_empty())
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads `index.json`.
pub(super) fn read_root(files: &dyn Files) -> Result<Index<Value>> {
    let bytes = document(files, "index.json")?
        .ok_or_else(|| Error::not_found("there is no index.json, so this is not an OCI layout"))?;
    oci::parse(&bytes, "index.json")
}

/// Returns whether an error means that something in an index is missing or unsupported. The other
/// entries can still be used then; not so if something is damaged.
pub(super) fn is_unusable(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported)
}

/// Returns the name of an index entry for messages.
pub(super) fn entry_label(d: &Descriptor) -> String {
    d.platform.as_ref().map(ToString::to_string).filter(|p| !p.is_empty()).map_or_else(
        || format!("manifest {}", d.digest.short()),
        |p| format!("{p} ({})", d.digest.short()),
    )
}

/// Collects the images below an index.
struct ImageCollector<'a> {
    files: &'a dyn Files,
    platform: Option<&'a Platform>,
    images: Vec<Image>,
    /// Names of the entries that can't be used, with the reason.
    left_out: Vec<(String, Error)>,
    notes: Vec<String>,
}

impl ImageCollector<'_> {
    fn walk(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if is_attestation(d) {
            self.notes.push(format!(
                "attestation {} is left out: it describes the original image",
                d.digest.short()
            ));
            return Ok(());
        }
        if is_for_another(d, self.platform) {
            return Ok(());
        }
        if media_type::is_index(&d.media_type) {
            return self.walk_index(d, depth).with_context(|| format!("index {}", d.digest));
        }
        if self.images.len() >= MAX_IMAGES {
            return Err(Error::limit(format!("more than {MAX_IMAGES} images in one index")));
        }
        // An index may list the same image under several names.
        let image = read_image(self.files, d).with_context(|| format!("manifest {}", d.digest))?;
        if !self.images.iter().any(|i| i.manifest == image.manifest && i.platform == image.platform)
        {
            self.images.push(image);
        }
        Ok(())
    }

    /// Walks one of several entries, which is left out if it can't be used.
    fn try_walk(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        match self.walk(d, depth) {
            Err(e) if is_unusable(&e) => self.left_out.push((entry_label(d), e)),
            done => done?,
        }
        Ok(())
    }

    fn walk_index(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if depth >= MAX_INDEX_DEPTH {
            return Err(Error::limit(format!(
                "indexes are nested more than {MAX_INDEX_DEPTH} deep"
            )));
        }
        for value in &read_index(self.files, d)?.manifests {
            match entry(value) {
                Ok(d) => self.try_walk(&d, depth + 1)?,
                Err(e) if is_unusable(&e) => self.left_out.push(("an entry".into(), e)),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Returns the images, and notes on those that were left out.
    fn finish(mut self) -> Result<(Vec<Image>, Vec<String>)> {
        let Some(first) = self.images.first() else {
            return Err(match (self.left_out.into_iter().next(), self.platform) {
                (Some((what, e)), _) => e.context(what),
                (None, Some(p)) => {
                    Error::not_found(format!("no image for platform {p} in the index"))
                }
                (None, None) => Error::not_found("no container image in the index"),
            });
        };
        for (what, e) in self.left_out {
            self.notes.push(format!(
                "{what} is left out: {e}; --platform {} selects an image that is complete",
                first.platform
            ));
        }
        Ok((self.images, self.notes))
    }
}

fn read_image(files: &dyn Files, d: &Descriptor) -> Result<Image> {
    let (bytes, manifest) = read_manifest(files, d)?;
    if !media_type::is_config(&manifest.config.media_type) {
        return Err(Error::unsupported(format!(
            "its config has media type {:?}: this is an artifact, not a container image",
            manifest.config.media_type
        )));
    }
    let place = || format!("config {}", manifest.config.digest);
    let config_bytes = document_blob(files, &manifest.config).with_context(place)?;
    let config = Config::parse(&config_bytes).with_context(place)?;
    let diff_ids = config.diff_ids_of(manifest.layers.len()).with_context(place)?;
    let layers = manifest.layers.iter().zip(&diff_ids).enumerate().map(|(i, (l, diff_id))| {
        let name = format!("layer {} ({})", i + 1, l.digest);
        media_type::check_layer(&l.media_type)
            .map_err(|why| Error::unsupported(why).context(name.clone()))?;
        let source = blob(files, l).map_err(|e| match e.kind() {
            ErrorKind::NotFound if media_type::is_foreign(&l.media_type) => Error::unsupported(
                "this is a foreign (non-distributable) layer, whose content the image does not \
                 include; build the image without it",
            ),
            _ => e,
        });
        let source = source.with_context(|| name.clone())?;
        Ok(LayerBlob::described(name, l, *diff_id, source))
    });
    let layers = layers.collect::<Result<_>>()?;
    let platform = d.platform.clone().unwrap_or_default().or(&config.platform());
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

/// Reads a manifest and its bytes.
pub(super) fn read_manifest(files: &dyn Files, d: &Descriptor) -> Result<(Vec<u8>, Manifest)> {
    if !media_type::is_manifest(&d.media_type) {
        return Err(Error::unsupported(format!(
            "its media type is {:?}, which is neither a manifest nor an index",
            d.media_type
        )));
    }
    let bytes = document_blob(files, d)?;
    let manifest: Manifest = oci::parse(&bytes, "the manifest")?;
    if manifest.media_type.as_deref().is_some_and(media_type::is_index) {
        return Err(Error::malformed(
            "its descriptor says manifest, the document says index (CVE-2021-41190)",
        ));
    }
    Ok((bytes, manifest))
}
