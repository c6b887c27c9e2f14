//! The documents of the new image: config, history, manifest.

use std::sync::Arc;

use super::options::{HISTORY, Options, PLAN, SOURCE, VERSION};
use super::previous::Decision;
use super::stale::{Stale, note};
use crate::base::error::Result;
use crate::layers::encode::EncodedLayer;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::oci::{Annotations, Config, Descriptor, HistoryEntry, Manifest, media_type};
use crate::transport::bundle::{Blob, Bundle};
use crate::transport::image::Image;

/// What a new image is made of.
pub(super) struct Parts<'a> {
    /// The input.
    pub(super) image: &'a Image,
    /// The image that it follows.
    pub(super) before: Option<&'a Image>,
    /// Its layers.
    pub(super) decision: &'a Decision,
    /// What was asked for.
    pub(super) options: &'a Options,
}

impl Parts<'_> {
    /// Adds the image to the bundle, its new layers `encoded`, and gives its descriptor in an index.
    pub(super) fn write(
        &self,
        encoded: &[EncodedLayer],
        bundle: &mut Bundle,
        notes: &mut Vec<String>,
    ) -> Result<Descriptor> {
        let layers = self.layers(encoded);
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
        let mut descriptor = match self.before.filter(|before| self.is_unchanged(before)) {
            Some(before) => bundle.add_unchanged(before)?,
            None => self.documents(layers, bundle, notes)?,
        };
        descriptor.platform = Some(self.image.platform.clone());
        descriptor.annotations = index_annotations(self.image, &diff_ids, notes);
        Ok(descriptor)
    }

    /// Whether the new image is the previous one.
    fn is_unchanged(&self, before: &Image) -> bool {
        self.decision.plan.layers.is_empty()
            && self.decision.kept.len() == before.layers.len()
            && same_but_layers(self.image, before)
    }

    /// All layers, lowest first.
    fn layers<'b>(&'b self, encoded: &'b [EncodedLayer]) -> Vec<Layer<'b>> {
        let kept = self.decision.kept.iter().map(|layer| Layer {
            descriptor: layer.descriptor.clone(),
            diff_id: layer.diff_id,
            label: &layer.label,
            source: &layer.source,
        });
        let kind = self.options.compression.media_type();
        let new = encoded.iter().zip(&self.decision.plan.layers).map(|(layer, planned)| {
            let mut descriptor = Descriptor::new(kind, layer.digest, layer.bytes());
            let mut annotations = layer.annotations.clone();
            annotations.insert(PLAN.to_owned(), planned.label.clone());
            descriptor.annotations = Some(annotations);
            let (label, source) = (&planned.label, &layer.source);
            Layer { descriptor, diff_id: layer.diff_id, label, source }
        });
        kept.chain(new).collect()
    }

    /// Adds layers, config and manifest to the bundle.
    fn documents(
        &self,
        layers: Vec<Layer<'_>>,
        bundle: &mut Bundle,
        notes: &mut Vec<String>,
    ) -> Result<Descriptor> {
        let image = self.image;
        let (mut descriptors, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for Layer { descriptor, diff_id, label, source } in layers {
            // Its digest was verified when it was read, or is that of what was written.
            let blob = Blob { source: Arc::clone(source), verified: true };
            bundle.blobs.insert(descriptor.digest, blob);
            descriptors.push(descriptor);
            diff_ids.push(diff_id);
            history.push(HistoryEntry {
                created: image.config.created().map(str::to_owned),
                created_by: Some(format!("{HISTORY}{label}")),
            });
        }
        let stale = Stale::of(image, &diff_ids);
        let (config, mut dropped) = stale.config(&image.config);
        let blobs: Vec<_> = descriptors.iter().map(|d| d.digest).collect();
        let mut annotations = stale.manifest_annotations(image, &blobs, &mut dropped);
        let config = config.without_history(HISTORY).with_layers(&diff_ids, &history);
        let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b""), descriptors);
        // An image that is split again keeps the name of what it once was, so that splitting a result
        // with the same options gives that result.
        let source = || Digest::of(&image.config_bytes).to_string();
        annotations.entry(SOURCE.into()).or_insert_with(source);
        annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
        annotations.insert(PLAN.into(), self.options.describe());
        manifest.annotations = Some(annotations);
        notes.extend(note(&dropped));
        bundle.image(&config, &mut manifest)
    }
}

/// A layer of the new image.
struct Layer<'a> {
    descriptor: Descriptor,
    diff_id: Digest,
    label: &'a str,
    source: &'a Source,
}

/// What the index says of an image that has layers with these diff IDs now.
fn index_annotations(
    image: &Image,
    diff_ids: &[Digest],
    notes: &mut Vec<String>,
) -> Option<Annotations> {
    let mut dropped = Vec::new();
    let kept = Stale::of(image, diff_ids).annotations(&image.index_annotations()?, &mut dropped);
    notes.extend(note(&dropped));
    (!kept.is_empty()).then_some(kept)
}

/// Whether two images are the same but for their layers and what we wrote of them.
fn same_but_layers(a: &Image, b: &Image) -> bool {
    // What split leaves out is missing from an image that was split before.
    let config = |image: &Image| -> Config {
        let (config, _) = Stale::of(image, &[]).config(&image.config);
        config.without_history(HISTORY).with_layers(&[], &[])
    };
    let annotations = |image: &Image| -> Annotations {
        let mut all = Stale::of(image, &[]).manifest_annotations(image, &[], &mut Vec::new());
        all.retain(|key, _| ![SOURCE, VERSION, PLAN].contains(&key.as_str()));
        all
    };
    config(a) == config(b) && annotations(a) == annotations(b)
}
