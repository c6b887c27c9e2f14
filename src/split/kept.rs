//! Layers that are kept byte for byte: those of the base and of the previous image.

use std::sync::Arc;

use super::options::PLAN;
use super::report::LayerReport;
use crate::base::error::Result;
use crate::format::codec::Format;
use crate::layers::changeset::{Change, ChangeKind};
use crate::layers::flatten::LayerStats;
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::model::fileset::{Inode, InodeKind};
use crate::model::oci::{self, Descriptor, Manifest, media_type};
use crate::plan::analyze::HEADER_BYTES;
use crate::simulate::CompressionKind;
use crate::transport::image::{Image, LayerBlob};

/// How the labels of a base's layers begin. Those of a later version's base are recognised by it.
const BASE: &str = "base: ";

/// A layer that is kept.
pub(super) struct KeptLayer {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) label: String,
    pub(super) source: Source,
    /// Whether its bytes were read, and have the digest.
    pub(super) is_read: bool,
    tar_bytes: u64,
    files: u64,
    bytes: u64,
    entries: u64,
    live: u64,
}

impl KeptLayer {
    /// Returns a layer that was read. `noted` is its descriptor in its image's manifest.
    ///
    /// # Errors
    /// If its compression can't be determined.
    pub(super) fn new(
        layer: &LayerBlob,
        stats: &LayerStats,
        noted: Option<&Descriptor>,
        label: &str,
    ) -> Result<Self> {
        let kind = Format::of(layer.source.as_ref())?.media_type();
        let descriptor = Descriptor::new(kind, stats.digest, stats.blob_bytes);
        Ok(Self::described(layer, descriptor, stats, noted, label, true))
    }

    /// Returns a layer that another image has under the digest `own` with the same diff ID as the one
    /// that was read.
    pub(super) fn unread(
        layer: &LayerBlob,
        own: Digest,
        stats: &LayerStats,
        noted: Option<&Descriptor>,
        label: &str,
    ) -> Self {
        let kind = match CompressionKind::of(&layer.media_type) {
            CompressionKind::Gzip => media_type::LAYER_GZIP,
            CompressionKind::Zstd => media_type::LAYER_ZSTD,
            CompressionKind::None => media_type::LAYER,
        };
        let descriptor = Descriptor::new(kind, own, layer.source.size());
        Self::described(layer, descriptor, stats, noted, label, false)
    }

    fn described(
        layer: &LayerBlob,
        mut descriptor: Descriptor,
        stats: &LayerStats,
        noted: Option<&Descriptor>,
        label: &str,
        is_read: bool,
    ) -> Self {
        // zstd:chunked needs the annotations of the blob's descriptor.
        let noted = noted.filter(|noted| noted.digest == descriptor.digest);
        let mut annotations = noted.and_then(|d| d.annotations.clone()).unwrap_or_default();
        annotations.insert(PLAN.to_owned(), label.to_owned());
        descriptor.annotations = Some(annotations);
        Self {
            descriptor,
            diff_id: layer.diff_id,
            label: label.to_owned(),
            source: Arc::clone(&layer.source),
            is_read,
            tar_bytes: stats.tar_bytes,
            files: 0,
            bytes: 0,
            entries: stats.entries,
            live: 0,
        }
    }

    /// Labels it as a layer of the base.
    pub(super) fn of_base(mut self) -> Self {
        if !self.is_of_base() {
            self.label.insert_str(0, BASE);
        }
        if let Some(annotations) = &mut self.descriptor.annotations {
            annotations.insert(PLAN.to_owned(), self.label.clone());
        }
        self
    }

    /// Returns whether it was labelled so.
    pub(super) fn is_of_base(&self) -> bool {
        self.label.starts_with(BASE)
    }

    /// Counts the regular files in it.
    pub(super) fn with_changes(mut self, changes: &[Change]) -> Self {
        let sizes = changes.iter().filter_map(|c| match &c.kind {
            ChangeKind::Add(Inode { kind: InodeKind::File(file), .. }) => Some(file.size),
            _ => None,
        });
        (self.files, self.bytes) =
            sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
        self
    }

    /// Returns the compressed bytes of its files by their uncompressed ones; `None` if it has none, or is not
    /// in zstd.
    pub(super) fn ratio(&self) -> Option<f64> {
        let is_zstd = CompressionKind::of(&self.descriptor.media_type) == CompressionKind::Zstd;
        let headers = (HEADER_BYTES * self.entries).min(self.descriptor.size);
        let bytes = self.descriptor.size - headers;
        (is_zstd && self.bytes > 0).then(|| bytes as f64 / self.bytes as f64)
    }

    /// Sets the estimated bytes that are in use.
    pub(super) fn with_live(self, live: u64) -> Self {
        Self { live, ..self }
    }

    /// Returns the report of the layer.
    pub(super) fn report(&self) -> LayerReport {
        LayerReport {
            label: self.label.clone(),
            kept: true,
            files: self.files,
            bytes: self.bytes,
            entries: self.entries,
            estimate: self.descriptor.size,
            live: Some(self.live),
            churn: None,
            tar_bytes: Some(self.tar_bytes),
            blob_bytes: Some(self.descriptor.size),
            diff_id: Some(self.diff_id),
            digest: Some(self.descriptor.digest),
            components: Vec::new(),
        }
    }
}

/// Returns the manifest of an image, if it has one that is valid.
pub(super) fn manifest(image: &Image) -> Option<Manifest> {
    image.manifest.as_ref().and_then(|m| oci::parse(m, "the manifest").ok())
}

/// Returns a label for each layer: the one that relayer wrote, else the command that created the
/// layer.
pub(super) fn labels(image: &Image, manifest: Option<&Manifest>) -> Vec<String> {
    /// Maximum characters of a command in a label.
    const MAX_CHARS: usize = 80;
    let history = image.config.layer_history();
    let label = |i: usize| {
        let noted = manifest.and_then(|m| m.layers.get(i)?.annotation(PLAN));
        let command =
            || history.get(i).map(|by| by.split_whitespace().collect::<Vec<_>>().join(" "));
        let text = noted.map(str::to_owned).or_else(command).unwrap_or_default();
        match text.char_indices().nth(MAX_CHARS) {
            _ if text.is_empty() => "unknown".to_owned(),
            Some((end, _)) if noted.is_none() => format!("{}…", &text[..end]),
            _ => text,
        }
    };
    (0..image.layers.len()).map(label).collect()
}
