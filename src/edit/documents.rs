//! Rewriting the documents of an image: its configs, its manifests, and the indexes that lead to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Edit, Edits, Object, set_platform};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_INDEX_DEPTH;
use crate::model::digest::Digest;
use crate::model::oci::{self, Config, Descriptor, Manifest, Platform, media_type};
use crate::secrets::{config_note, scan_config};
use crate::transport::bundle::Bundle;
use crate::transport::files::document_blob;
use crate::transport::is_attestation;

/// An image after its edits.
#[derive(Debug)]
pub struct Edited {
    /// What to write.
    pub bundle: Bundle,
    /// Number of images that were changed.
    pub changed: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Applies `edits` to every image of a bundle. Documents that none of them changes keep their bytes, and
/// what describes the old documents by their digests is left out.
///
/// # Errors
/// If there is no image, a document is not valid, or an edit is for one image and there are several.
pub fn edit(old: Bundle, edits: &[Edit]) -> Result<Edited> {
    let root = old.root.clone().ok_or_else(|| Error::not_found("there is no image"))?;
    if old.listed.is_empty() {
        return Err(Error::unsupported("there is no container image, only artifacts"));
    }
    let edits = Edits::new(edits, old.listed.len())?;
    let mut rewriter =
        Rewriter { bundle: old, edits, gone: BTreeSet::new(), notes: BTreeSet::new() };
    let new = rewriter.descriptor(&json!(root), 0)?;
    let Rewriter { mut bundle, edits, gone, notes } = rewriter;
    bundle.root = Some(parse_descriptor(&new)?);
    retain(&mut bundle)?;
    let notes = notes.into_iter().chain(edits.note()).collect();
    Ok(Edited { bundle, changed: gone.len(), notes })
}

struct Rewriter<'a> {
    /// New documents are added to the old ones.
    bundle: Bundle,
    edits: Edits<'a>,
    /// Manifests of images that were changed.
    gone: BTreeSet<Digest>,
    notes: BTreeSet<String>,
}

impl Rewriter<'_> {
    /// Rewrites what a descriptor refers to, and returns the descriptor of the result.
    fn descriptor(&mut self, value: &Value, depth: usize) -> Result<Value> {
        if depth > MAX_INDEX_DEPTH {
            return Err(Error::limit(format!("more than {MAX_INDEX_DEPTH} indexes in each other")));
        }
        // A copy leaves out what is missing or in another form.
        let Ok(d) = parse_descriptor(value) else { return Ok(value.clone()) };
        if !self.bundle.blobs.contains_key(&d.digest) || is_attestation(&d) {
            return Ok(value.clone());
        }
        if media_type::is_index(&d.media_type) {
            return self.index(value, &d, depth).with_context(|| format!("index {}", d.digest));
        }
        if media_type::is_manifest(&d.media_type) {
            return self.manifest(value, &d).with_context(|| format!("manifest {}", d.digest));
        }
        Ok(value.clone())
    }

    fn index(&mut self, value: &Value, d: &Descriptor, depth: usize) -> Result<Value> {
        let bytes = document_blob(&self.bundle, d)?;
        let old: Object = oci::parse(&bytes, "the index")?;
        let mut new = old.clone();
        if let Some(Value::Array(entries)) = new.get_mut("manifests") {
            for entry in entries.iter_mut() {
                *entry = self.descriptor(entry, depth + 1)?;
            }
            entries.retain(|entry| !self.describes_old(entry));
        }
        self.edits.annotations(&mut new);
        self.replaced(value, d, &old, &new)
    }

    /// Whether an entry of an index is an attestation of an image that was changed.
    fn describes_old(&mut self, entry: &Value) -> bool {
        let Ok(d) = parse_descriptor(entry) else { return false };
        let of = d.annotation("vnd.docker.reference.digest").map(str::parse::<Digest>);
        let gone = match of {
            Some(Ok(of)) => self.gone.contains(&of),
            // It states no image, so it may be about any.
            _ => !self.gone.is_empty(),
        };
        let left_out = is_attestation(&d) && gone;
        if left_out {
            self.notes.insert(format!(
                "attestation {} is left out: it describes the original image",
                d.digest.short()
            ));
        }
        left_out
    }

    fn manifest(&mut self, value: &Value, d: &Descriptor) -> Result<Value> {
        let bytes = document_blob(&self.bundle, d)?;
        let manifest: Manifest = oci::parse(&bytes, "the manifest")?;
        let config = &manifest.config;
        let Some(listed) = self.bundle.listed.iter().position(|l| l.config == config.digest) else {
            return Ok(value.clone());
        };
        let old: Object = oci::parse(&bytes, "the manifest")?;
        let mut new = old.clone();
        let parsed = Config::parse(&document_blob(&self.bundle, config)?)?;
        let edited = self.edits.config(&parsed);
        self.notes.extend(config_note(&scan_config(&edited, &self.edits.patterns)));
        if edited != parsed {
            let added = self.bundle.document(&config.media_type, edited.to_bytes()?);
            if let Some(descriptor) = new.get_mut("config") {
                point(descriptor, &added);
            }
        }
        self.edits.annotations(&mut new);
        if media_type::is_docker(&d.media_type) && new.contains_key("annotations") {
            self.notes.insert(
                "the manifest has docker's format, in which most clients ignore annotations".into(),
            );
        }
        let mut value = self.replaced(value, d, &old, &new)?;
        if value["digest"] != json!(d.digest) {
            self.gone.insert(d.digest);
        }
        let platform = self.edits.platform();
        let stated = value.get_mut("platform").and_then(Value::as_object_mut);
        if let Some((stated, platform)) = stated.zip(platform) {
            set_platform(stated, platform);
        }
        self.list(listed, &edited, platform)?;
        Ok(value)
    }

    /// Lists the image with its new config, beside the old one, which another manifest may have.
    fn list(&mut self, at: usize, config: &Config, platform: Option<&Platform>) -> Result<()> {
        let mut entry = self.bundle.listed[at].clone();
        entry.config = Digest::of(&config.to_bytes()?);
        if let Some(platform) = platform {
            entry.platform = platform.clone();
        }
        if self.bundle.blobs.contains_key(&entry.config)
            && !self.bundle.listed.iter().any(|l| l.config == entry.config)
        {
            self.bundle.listed.push(entry);
        }
        Ok(())
    }

    /// Returns the descriptor of a new document in the place of an old one.
    fn replaced(
        &mut self,
        value: &Value,
        d: &Descriptor,
        old: &Object,
        new: &Object,
    ) -> Result<Value> {
        let mut value = value.clone();
        if old != new {
            let added = self.bundle.document(&d.media_type, oci::to_json(new)?);
            point(&mut value, &added);
        }
        Ok(value)
    }
}

/// Parses a descriptor.
fn parse_descriptor(value: &Value) -> Result<Descriptor> {
    oci::parse(&oci::to_json(value)?, "a descriptor")
}

/// Makes a descriptor refer to another document. All other fields stay, except an embedded copy of the
/// old one.
fn point(descriptor: &mut Value, to: &Descriptor) {
    if let Some(fields) = descriptor.as_object_mut() {
        fields.insert("digest".into(), json!(to.digest));
        fields.insert("size".into(), json!(to.size));
        fields.shift_remove("data");
    }
}

/// Removes blobs and entries of `manifest.json` that the root no longer leads to.
fn retain(bundle: &mut Bundle) -> Result<()> {
    let mut used = BTreeSet::new();
    for d in bundle.manifests()? {
        used.insert(d.digest);
        if media_type::is_manifest(&d.media_type) {
            let manifest: Manifest = oci::parse(&document_blob(bundle, &d)?, "the manifest")?;
            used.insert(manifest.config.digest);
            used.extend(manifest.layers.iter().map(|layer| layer.digest));
        }
    }
    bundle.blobs.retain(|digest, _| used.contains(digest));
    bundle.listed.retain(|entry| used.contains(&entry.config));
    Ok(())
}
