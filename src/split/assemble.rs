//! The documents of the new image: config, history, manifest.

use std::sync::Arc;

use super::previous::Kept;
use super::stale::{Stale, note};
use super::{HISTORY, Options, PLAN, SOURCE, VERSION};
use crate::base::error::Result;
use crate::layers::encode::EncodedLayer;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::oci::{Annotations, Config, Descriptor, HistoryEntry, Manifest, media_type};
use crate::plan::Plan;
use crate::split::report::LayerReport;
use crate::transport::bundle::{Blob, Bundle};
use crate::transport::image::Image;

/// Adds an image's layers, config and manifest to the bundle.
pub(super) fn assemble(
    image: &Image,
    bundle: &mut Bundle,
    kept: &[Kept],
    plan: &Plan,
    encoded: &[EncodedLayer],
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Descriptor> {
    let layer_type = options.compression.media_type();
    let mut descriptors = Vec::new();
    let mut diff_ids: Vec<Digest> = Vec::new();
    let mut history = Vec::new();
    let line = |label: &str| HistoryEntry {
        created: image.config.created().map(str::to_owned),
        created_by: Some(format!("{HISTORY}{label}")),
    };
    for layer in kept {
        descriptors.push(layer.descriptor.clone());
        diff_ids.push(layer.diff_id);
        history.push(line(&layer.label));
        // Its digest was verified when it was read.
        let source: Source = Arc::clone(&layer.source);
        bundle.blobs.insert(layer.descriptor.digest, Blob { source, verified: true });
    }
    for (layer, planned) in encoded.iter().zip(&plan.layers) {
        let mut d = Descriptor::new(layer_type, layer.digest, layer.bytes());
        let mut annotations = layer.annotations.clone();
        annotations.insert(PLAN.to_owned(), planned.label.clone());
        d.annotations = Some(annotations);
        descriptors.push(d);
        diff_ids.push(layer.diff_id);
        history.push(line(&planned.label));
        let source: Source = Arc::clone(&layer.source);
        bundle.blobs.insert(layer.digest, Blob { source, verified: true });
    }
    let stale = Stale::of(image, &diff_ids);
    let (config, mut dropped) = stale.config(&image.config);
    let blobs: Vec<_> = descriptors.iter().map(|d: &Descriptor| d.digest).collect();
    let mut annotations = stale.manifest_annotations(image, &blobs, &mut dropped);
    let config = config.without_history(HISTORY).with_layers(&diff_ids, &history);
    let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b""), descriptors);
    // An image that is split again keeps the name of what it once was, so that splitting a result
    // with the same options gives that result.
    annotations.entry(SOURCE.into()).or_insert_with(|| Digest::of(&image.config_bytes).to_string());
    annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
    annotations.insert(PLAN.into(), options.describe());
    manifest.annotations = Some(annotations);
    notes.extend(note(&dropped));
    bundle.image(&config, &mut manifest)
}

/// What the index says of an image that has these layers now.
pub(super) fn index_annotations(
    image: &Image,
    layers: &[LayerReport],
    notes: &mut Vec<String>,
) -> Option<Annotations> {
    let mut dropped = Vec::new();
    let diff_ids: Vec<_> = layers.iter().filter_map(|l| l.diff_id).collect();
    let kept = Stale::of(image, &diff_ids).annotations(&image.index_annotations()?, &mut dropped);
    notes.extend(note(&dropped));
    (!kept.is_empty()).then_some(kept)
}

/// Whether two images are the same but for their layers and what we wrote of them.
pub(super) fn same_but_layers(a: &Image, b: &Image) -> bool {
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
