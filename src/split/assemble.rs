//! The documents of the new image: config, history, manifest.

use std::sync::Arc;

use super::previous::Kept;
use super::{HISTORY, Options, PLAN, SOURCE, VERSION};
use crate::content::Source;
use crate::digest::Digest;
use crate::encode::EncodedLayer;
use crate::error::Result;
use crate::oci::{Annotations, Config, Descriptor, HistoryEntry};
use crate::plan::Plan;
use crate::transport::bundle::{Blob, Bundle, new_manifest};
use crate::transport::open::Image;

/// Adds an image's layers, config and manifest to the bundle.
pub(super) fn assemble(
    image: &Image,
    bundle: &mut Bundle,
    kept: &[Kept],
    plan: &Plan,
    encoded: &[EncodedLayer],
    options: &Options,
) -> Result<Descriptor> {
    let media_type = options.compression.media_type();
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
        let mut d = Descriptor::new(media_type, layer.digest, layer.bytes());
        let mut annotations = layer.annotations.clone();
        annotations.insert(PLAN.to_owned(), planned.label.clone());
        d.annotations = Some(annotations);
        descriptors.push(d);
        diff_ids.push(layer.diff_id);
        history.push(line(&planned.label));
        let source: Source = Arc::clone(&layer.source);
        bundle.blobs.insert(layer.digest, Blob { source, verified: true });
    }
    let config = image.config.without_history(HISTORY).with_layers(&diff_ids, &history);
    let mut manifest = new_manifest(descriptors);
    let mut annotations = image.annotations.clone();
    // An image that is split again keeps the name of what it once was, so that splitting a result
    // with the same options gives that result.
    annotations.entry(SOURCE.into()).or_insert_with(|| Digest::of(&image.config_bytes).to_string());
    annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
    annotations.insert(PLAN.into(), options.describe());
    manifest.annotations = Some(annotations);
    bundle.image(&config, &mut manifest)
}

/// Whether two images are the same but for their layers and what we wrote of them.
pub(super) fn same_but_layers(a: &Image, b: &Image) -> bool {
    let config =
        |image: &Image| -> Config { image.config.without_history(HISTORY).with_layers(&[], &[]) };
    let annotations = |image: &Image| -> Annotations {
        let ours = |key: &str| [SOURCE, VERSION, PLAN].contains(&key);
        let all = image.annotations.iter().filter(|(key, _)| !ours(key));
        all.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    config(a) == config(b) && annotations(a) == annotations(b)
}
