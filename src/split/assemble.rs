//! The documents of the new image: config, history, manifest.

use std::sync::Arc;

use super::base::Base;
use super::options::{HISTORY, PLAN, SOURCE, SplitOptions, VERSION};
use super::previous::Decision;
use super::report::LayerReport;
use super::stale::{Stale, note};
use crate::base::error::Result;
use crate::layers::encode::EncodedLayer;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::oci::{
    Annotations, BASE_DIGEST, BASE_NAME, Config, Descriptor, HistoryEntry, Manifest, media_type,
};
use crate::transport::bundle::{Blob, Bundle};
use crate::transport::image::Image;

/// The inputs from which a new image is assembled.
pub(super) struct Parts<'a> {
    /// The input image.
    pub(super) image: &'a Image,
    /// The previous image, if there is one.
    pub(super) before: Option<&'a Image>,
    /// The base, if there is one.
    pub(super) base: Option<&'a Base<'a>>,
    /// The kept and the planned layers.
    pub(super) decision: &'a Decision,
    /// The report of each of these layers, lowest first.
    pub(super) layers: &'a [LayerReport],
    /// The options of the split.
    pub(super) options: &'a SplitOptions,
}

impl Parts<'_> {
    /// Adds the image with its new layers `encoded` to the bundle, and returns its descriptor for an
    /// index. A dry run has no encoded layers and returns `None`, but adds the same notes.
    pub(super) fn write(
        &self,
        encoded: Option<&[EncodedLayer]>,
        bundle: &mut Bundle,
        notes: &mut Vec<String>,
    ) -> Result<Option<Descriptor>> {
        let unchanged = self.before.filter(|before| self.is_unchanged(before));
        let stale = Stale::of_annotations(self.image, self.layers);
        let mut kept = KeptMetadata::of(self.image, self.layers, &stale);
        kept.dropped.retain(|what| !self.is_replaced(what));
        notes.extend(note(&kept.dropped).filter(|_| unchanged.is_none()));
        let annotations = index_annotations(self.image, &stale, notes);
        let Some(encoded) = encoded else { return Ok(None) };
        let mut descriptor = match unchanged {
            Some(before) => bundle.add_unchanged(before)?,
            None => self.add_documents(kept, self.layers(encoded), bundle)?,
        };
        descriptor.platform = Some(self.image.platform.clone());
        descriptor.annotations = annotations;
        Ok(Some(descriptor))
    }

    /// Whether an annotation that was dropped is set again.
    fn is_replaced(&self, what: &str) -> bool {
        let (name, digest) = self.base.map(Base::source).unwrap_or_default();
        let key = what.strip_prefix("annotation ");
        digest.is_some() && key == Some(BASE_DIGEST) || name.is_some() && key == Some(BASE_NAME)
    }

    /// Whether the new image is identical to the previous one.
    fn is_unchanged(&self, before: &Image) -> bool {
        self.decision.plan.layers.is_empty()
            && self.decision.kept.len() == before.layers.len()
            && self.decision.kept.iter().zip(&before.layers).all(|(kept, layer)| {
                layer.digest().is_ok_and(|digest| digest == kept.descriptor.digest)
            })
            && equal_except_layers(self.image, before)
    }

    /// Returns all layers, lowest first.
    fn layers<'b>(&'b self, encoded: &'b [EncodedLayer]) -> Vec<Layer<'b>> {
        let kept = self.decision.kept.iter().map(|layer| Layer {
            descriptor: layer.descriptor.clone(),
            diff_id: layer.diff_id,
            label: &layer.label,
            source: &layer.source,
            is_read: layer.is_read,
        });
        let kind = self.options.compression.media_type();
        let new = encoded.iter().zip(&self.decision.plan.layers).map(|(layer, planned)| {
            let mut descriptor = Descriptor::new(kind, layer.digest, layer.bytes());
            let mut annotations = layer.annotations.clone();
            annotations.insert(PLAN.to_owned(), planned.label.clone());
            descriptor.annotations = Some(annotations);
            let (label, source) = (&planned.label, &layer.source);
            Layer { descriptor, diff_id: layer.diff_id, label, source, is_read: true }
        });
        kept.chain(new).collect()
    }

    /// Adds layers, config and manifest to the bundle.
    fn add_documents(
        &self,
        kept: KeptMetadata,
        layers: Vec<Layer<'_>>,
        bundle: &mut Bundle,
    ) -> Result<Descriptor> {
        let image = self.image;
        let (mut descriptors, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
        for Layer { descriptor, diff_id, label, source, is_read } in layers {
            // The digest of a kept layer was verified when the layer was read; that of a new layer
            // was computed when it was written.
            let blob = Blob { source: Arc::clone(source), verified: is_read };
            bundle.blobs.insert(descriptor.digest, blob);
            descriptors.push(descriptor);
            diff_ids.push(diff_id);
            history.push(HistoryEntry {
                created: image.config.created().map(str::to_owned),
                created_by: Some(format!("{HISTORY}{label}")),
            });
        }
        let KeptMetadata { config, mut annotations, .. } = kept;
        let config = config.without_history(HISTORY).with_layers(&diff_ids, &history);
        let mut manifest = Manifest::new(Descriptor::of(media_type::CONFIG, b""), descriptors);
        // An image that is split again keeps the digest of its original source, so that splitting a
        // result with the same options reproduces that result.
        let source = || Digest::of(&image.config_bytes).to_string();
        annotations.entry(SOURCE.into()).or_insert_with(source);
        annotations.insert(VERSION.into(), env!("CARGO_PKG_VERSION").into());
        let mut plan = self.options.describe();
        if let Some(base) = self.base {
            plan = format!("base={} {plan}", base.layers);
            let (name, digest) = base.source();
            annotations.extend(name.map(|name| (BASE_NAME.into(), name.to_owned())));
            annotations.extend(digest.map(|digest| (BASE_DIGEST.into(), digest.to_string())));
        }
        annotations.insert(PLAN.into(), plan);
        manifest.annotations = Some(annotations);
        bundle.image(&config, &mut manifest)
    }
}

/// The parts of an image's config and annotations that still hold for the new image.
struct KeptMetadata {
    config: Config,
    annotations: Annotations,
    /// Names of the parts that no longer hold.
    dropped: Vec<String>,
}

impl KeptMetadata {
    /// Returns the metadata of an image whose layers are replaced by `layers`, with the rules for its
    /// annotations.
    fn of(image: &Image, layers: &[LayerReport], stale: &Stale) -> Self {
        let (config, mut dropped) = Stale::of_config(image, layers).config(&image.config);
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
    /// Whether its digest was verified.
    is_read: bool,
}

/// Returns the annotations of the image's descriptor in the index, without those that are
/// stale.
fn index_annotations(image: &Image, stale: &Stale, notes: &mut Vec<String>) -> Option<Annotations> {
    let mut dropped = Vec::new();
    let kept = stale.annotations(&image.index_annotations()?, &mut dropped);
    notes.extend(note(&dropped));
    (!kept.is_empty()).then_some(kept)
}

/// Whether two images are equal except for their layers and the metadata that relayer writes about
/// layers.
fn equal_except_layers(a: &Image, b: &Image) -> bool {
    // An image that was split before lacks the metadata that split removes.
    let rest = |image: &Image| {
        let KeptMetadata { config, mut annotations, .. } =
            KeptMetadata::of(image, &[], &Stale::of_annotations(image, &[]));
        annotations.retain(|key, _| ![SOURCE, VERSION, PLAN].contains(&key.as_str()));
        (config.without_history(HISTORY).with_layers(&[], &[]), annotations)
    };
    rest(a) == rest(b)
}
