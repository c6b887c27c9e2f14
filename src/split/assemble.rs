//! The documents of the new image: config, history, manifest.

use std::sync::Arc;

use super::options::{HISTORY, Options, PLAN, SOURCE, VERSION};
use super::previous::Decision;
use super::report::LayerReport;
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
    /// The same as they are reported.
    pub(super) layers: &'a [LayerReport],
    /// What was asked for.
    pub(super) options: &'a Options,
}

impl Parts<'_> {
    /// Adds the image to the bundle, its new layers `encoded`, and gives its descriptor in an index.
    /// Of a dry run, which has none, there are the same notes.
    pub(super) fn write(
        &self,
        encoded: Option<&[EncodedLayer]>,
        bundle: &mut Bundle,
        notes: &mut Vec<String>,
    ) -> Result<Option<Descriptor>> {
        let same = self.before.filter(|before| self.is_unchanged(before));
        let own = Own::of(self.image, self.layers);
        notes.extend(note(&own.dropped).filter(|_| same.is_none()));
        let annotations = index_annotations(self.image, self.layers, notes);
        let Some(encoded) = encoded else { return Ok(None) };
        let mut descriptor = match same {
            Some(before) => bundle.add_unchanged(before)?,
            None => self.documents(own, self.layers(encoded), bundle)?,
        };
        descriptor.platform = Some(self.image.platform.clone());
        descriptor.annotations = annotations;
        Ok(Some(descriptor))
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
        own: Own,
        layers: Vec<Layer<'_>>,
        bundle: &mut Bundle,
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
        let Own { config, mut annotations, .. } = own;
        let config = config.without_history(HISTORY).with_layers(&diff_ids, &history);
        let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b""), descriptors);
        // An image that is split again keeps the name of what it once was, so that splitting a result
        // with the same options gives that result.
        let source = || Digest::of(&image.config_bytes).to_string();
        annotations.entry(SOURCE.into()).or_insert_with(source);
        annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
        annotations.insert(PLAN.into(), self.options.describe());
        manifest.annotations = Some(annotations);
        bundle.image(&config, &mut manifest)
    }
}

/// What an image's own documents say that is still true of the new one.
struct Own {
    config: Config,
    annotations: Annotations,
    /// What is not.
    dropped: Vec<String>,
}

impl Own {
    /// Of an image whose layers become `layers`.
    fn of(image: &Image, layers: &[LayerReport]) -> Self {
        let (config, mut dropped) = Stale::of_config(image, layers).config(&image.config);
        let stale = Stale::of_annotations(image, layers);
        let annotations = stale.annotations(&image.annotations, &mut dropped);
        Self { config, annotations, dropped }
    }
}

/// A layer of the new image.
struct Layer<'a> {
    descriptor: Descriptor,
    diff_id: Digest,
    label: &'a str,
    source: &'a Source,
}

/// What the index says of an image that has these layers now.
fn index_annotations(
    image: &Image,
    layers: &[LayerReport],
    notes: &mut Vec<String>,
) -> Option<Annotations> {
    let mut dropped = Vec::new();
    let stale = Stale::of_annotations(image, layers);
    let kept = stale.annotations(&image.index_annotations()?, &mut dropped);
    notes.extend(note(&dropped));
    (!kept.is_empty()).then_some(kept)
}

/// Whether two images are the same but for their layers and what we wrote of them.
fn same_but_layers(a: &Image, b: &Image) -> bool {
    // What split leaves out is missing from an image that was split before.
    let rest = |image: &Image| {
        let Own { config, mut annotations, .. } = Own::of(image, &[]);
        annotations.retain(|key, _| ![SOURCE, VERSION, PLAN].contains(&key.as_str()));
        (config.without_history(HISTORY).with_layers(&[], &[]), annotations)
    };
    rest(a) == rest(b)
}
