//! Copying everything in a layout that a name leads to, byte for byte, whether or not it is an image.

use super::bundle::{Blob, Bundle, ManifestEntry};
use super::choose::{self, Selection, entry, is_attestation, read_index};
use super::files::{Files, blob, document_blob};
use super::layout::{entry_label, is_unusable, read_manifest, read_root};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::limits::MAX_INDEX_DEPTH;
use crate::model::oci::{
    CONTAINERD_NAME, Config, Descriptor, Manifest, Platform, REF_NAME, media_type,
};

/// Collects what `tag` names, only that for `platform` if it is given, and notes on missing parts.
pub(super) fn collect(
    files: &dyn Files,
    tag: Option<&str>,
    platform: Option<&Platform>,
) -> Result<(Bundle, Vec<String>)> {
    let Selection { mut descriptors, names, notes } =
        choose::choose(files, &read_root(files)?, tag)?;
    if let Some(wanted) = platform {
        descriptors = of_platform(files, &descriptors, wanted)?;
    }
    let bundle = Bundle { names, ..Bundle::default() };
    let mut collector = BlobCollector { files, bundle, notes };
    if let [root] = descriptors.as_mut_slice() {
        without_names(root);
        collector.follow(root, 0)?;
        collector.bundle.root = Some(root.clone());
    } else {
        for d in &mut descriptors {
            without_names(d);
            collector.try_follow(d, 0)?;
        }
        collector.bundle.finish(None, descriptors)?;
    }
    Ok((collector.bundle, collector.notes))
}

/// Removes the names: the target adds its own.
fn without_names(d: &mut Descriptor) {
    if let Some(annotations) = &mut d.annotations {
        annotations.remove(REF_NAME);
        annotations.remove(CONTAINERD_NAME);
    }
    d.annotations = d.annotations.take().filter(|all| !all.is_empty());
}

/// Returns the images for a platform.
fn of_platform(
    files: &dyn Files,
    chosen: &[Descriptor],
    wanted: &Platform,
) -> Result<Vec<Descriptor>> {
    let mut all = Vec::new();
    chosen.iter().try_for_each(|d| platforms(files, d, 0, &mut all))?;
    let mut found: Vec<_> = all.iter().filter(|(_, p)| p.matches(wanted)).collect();
    if found.iter().any(|(_, p)| p.same(wanted)) {
        found.retain(|(_, p)| p.same(wanted));
    }
    if found.is_empty() {
        let platforms: Vec<_> = all.iter().map(|(_, p)| p.to_string()).collect();
        return Err(Error::not_found(format!(
            "no image for platform {wanted}; the platforms are {}",
            platforms.join(", ")
        )));
    }
    // The result for a single platform is that image, not an entry of an index.
    let alone = |(d, _): &(Descriptor, Platform)| Descriptor {
        platform: None,
        annotations: None,
        ..d.clone()
    };
    let single = found.len() == 1;
    Ok(found.into_iter().map(|one| if single { alone(one) } else { one.0.clone() }).collect())
}

/// Lists the manifests below `d` with their platforms.
fn platforms(
    files: &dyn Files,
    d: &Descriptor,
    depth: usize,
    found: &mut Vec<(Descriptor, Platform)>,
) -> Result<()> {
    if is_attestation(d) || depth > MAX_INDEX_DEPTH {
        return Ok(());
    }
    if media_type::is_index(&d.media_type) {
        let index = read_index(files, d).with_context(|| format!("index {}", d.digest))?;
        let entries = index.manifests.iter().filter_map(|value| entry(value).ok());
        return entries.into_iter().try_for_each(|d| platforms(files, &d, depth + 1, found));
    }
    let config = || -> Result<Platform> {
        let (_, manifest) = read_manifest(files, d)?;
        Ok(Config::parse(&document_blob(files, &manifest.config)?)?.platform())
    };
    let stated = d.platform.clone().unwrap_or_default();
    let platform = if stated.os.is_empty() || stated.architecture.is_empty() {
        // A config that can't be read states no platform.
        config().map_or(stated.clone(), |config| stated.or(&config))
    } else {
        stated
    };
    found.push((d.clone(), platform));
    Ok(())
}

/// Collects the blobs below an index.
struct BlobCollector<'a> {
    files: &'a dyn Files,
    bundle: Bundle,
    notes: Vec<String>,
}

impl BlobCollector<'_> {
    /// Adds what `d` refers to and everything below.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if some of it is missing; the rest is added.
    fn follow(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if media_type::is_index(&d.media_type) {
            return self.index(d, depth).with_context(|| format!("index {}", d.digest));
        }
        if media_type::is_manifest(&d.media_type) {
            return self.manifest(d).with_context(|| format!("manifest {}", d.digest));
        }
        self.blob(d).with_context(|| format!("{:?} {}", d.media_type, d.digest))
    }

    /// Follows one of several. An index may name more than was saved with it.
    fn try_follow(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        match self.follow(d, depth) {
            Err(e) if is_unusable(&e) => {
                self.notes.push(format!("{} is incomplete: {e}", entry_label(d)));
            }
            done => done?,
        }
        Ok(())
    }

    fn index(&mut self, d: &Descriptor, depth: usize) -> Result<()> {
        if depth >= MAX_INDEX_DEPTH {
            return Err(Error::limit(format!(
                "indexes are nested more than {MAX_INDEX_DEPTH} deep"
            )));
        }
        let index = read_index(self.files, d)?;
        self.blob(d)?;
        for value in &index.manifests {
            match entry(value) {
                Ok(d) => self.try_follow(&d, depth + 1)?,
                Err(e) if is_unusable(&e) => {
                    self.notes.push(format!("an entry of the index is left out: {e}"));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn manifest(&mut self, d: &Descriptor) -> Result<()> {
        let (_, manifest) = read_manifest(self.files, d)?;
        self.blob(d)?;
        let mut missing = self.blob(&manifest.config).with_context(|| "the config").err();
        for (i, layer) in manifest.layers.iter().enumerate() {
            match self.blob(layer).with_context(|| format!("layer {} ({})", i + 1, layer.digest)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    let elsewhere = media_type::is_foreign(&layer.media_type);
                    missing = missing.or((!elsewhere).then_some(e));
                }
                done => done?,
            }
        }
        match missing {
            Some(e) => Err(e),
            None => self.list(d, &manifest),
        }
    }

    /// Lists a container image for clients that read `manifest.json`.
    fn list(&mut self, d: &Descriptor, manifest: &Manifest) -> Result<()> {
        let known = |l: &Descriptor| {
            media_type::check_layer(&l.media_type).is_ok()
                && self.bundle.blobs.contains_key(&l.digest)
        };
        let listed = self.bundle.listed.iter().any(|one| one.config == manifest.config.digest);
        if is_attestation(d)
            || listed
            || !media_type::is_config(&manifest.config.media_type)
            || !manifest.layers.iter().all(known)
        {
            return Ok(());
        }
        let config = Config::parse(&document_blob(self.files, &manifest.config)?)?;
        self.bundle.listed.push(ManifestEntry {
            config: manifest.config.digest,
            layers: manifest.layers.iter().map(|l| l.digest).collect(),
            platform: d.platform.clone().unwrap_or_default().or(&config.platform()),
        });
        Ok(())
    }

    /// Adds a blob. Its digest is verified when it is written.
    fn blob(&mut self, d: &Descriptor) -> Result<()> {
        let source = blob(self.files, d)?;
        self.bundle.blobs.insert(d.digest, Blob { source, verified: false });
        Ok(())
    }
}
