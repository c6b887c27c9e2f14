//! Config fields, labels and annotations in which other tools describe an image's layers. They become
//! wrong when the layers change: a build cache that refers to layers by number makes a later build
//! leave out files, and the digest of a base image makes a rebase replace the wrong layers.

use std::collections::BTreeSet;

use super::report::LayerReport;
use crate::format::codec::chunked;
use crate::model::digest::Digest;
use crate::model::oci::{Annotations, BASE_DIGEST, BASE_NAME, Config, Manifest, parse};
use crate::transport::image::Image;

/// Config fields, labels and annotations that describe layers. Names that end with `.` or `/` are
/// prefixes.
const ABOUT_LAYERS: &[&str] = &[
    // BuildKit's inline cache: steps of the build, with the layers' numbers (moby/buildkit#1678).
    "moby.buildkit.cache.v0",
    // "… the image sharing zero-indexed layers with the image" (annotations.md of the image spec):
    // `crane rebase` uses both.
    BASE_DIGEST,
    BASE_NAME,
    // Cloud Native Buildpacks (platform.md, distribution.md): which buildpack made which layer, for a
    // rebase or the next build.
    "io.buildpacks.lifecycle.metadata",
    "io.buildpacks.rebasable",
    "io.buildpacks.buildpack.layers",
    "io.buildpacks.extension.layers",
    // Lazily loaded layers: eStargz, nydus, overlaybd, SOCI, zstd:chunked.
    "containerd.io/snapshot/",
    "containerd.io/uncompressed",
    "com.amazon.soci.",
    "io.goharbor.artifact.v1alpha1.acceleration.",
    chunked::ANNOTATION,
    // Signatures and attestations of the old manifest.
    "dev.cosignproject.cosign/",
    "dev.sigstore.cosign/",
    "io.cncf.notary.",
    "vnd.docker.reference.",
];

/// Fields whose value is a layer's diff ID. They are kept if the layer is. bootc fails if the image has
/// no layer with that diff ID (bootc-dev/bootc#1344).
const DIFF_IDS: &[&str] = &["ostree.final-diffid"];

/// Decides which metadata is stale, given the layers of the result.
pub(super) struct Stale {
    /// Digests of layers that the result does not have.
    gone: BTreeSet<Digest>,
    /// Diff IDs of the layers that it has.
    diff_ids: BTreeSet<Digest>,
    /// Digests of their blobs; empty for configs.
    blobs: BTreeSet<Digest>,
    /// Whether the result has exactly the layers of the input, so that nothing is stale.
    unchanged: bool,
}

impl Stale {
    /// Returns the rules for the config of a result with these layers. A layer that is not encoded
    /// counts as new.
    ///
    /// Configs are not searched for blob digests: a docker-archive does not have them, and the result
    /// must not depend on how the image was stored.
    pub(super) fn of_config(image: &Image, layers: &[LayerReport]) -> Self {
        let old = image.layers.iter().map(|l| l.diff_id);
        let unchanged = old.clone().map(Some).eq(layers.iter().map(|l| l.diff_id));
        let diff_ids: BTreeSet<_> = layers.iter().filter_map(|l| l.diff_id).collect();
        let gone = old.filter(|id| !diff_ids.contains(id)).collect();
        Self { gone, diff_ids, blobs: BTreeSet::new(), unchanged }
    }

    /// Returns the rules for the annotations of its manifest and of its descriptor in an index.
    pub(super) fn of_annotations(image: &Image, layers: &[LayerReport]) -> Self {
        let mut stale = Self::of_config(image, layers);
        let manifest = image.manifest.as_ref();
        let manifest = manifest.and_then(|bytes| parse::<Manifest>(bytes, "the manifest").ok());
        if let Some(manifest) = manifest {
            let old = manifest.layers.iter().map(|l| l.digest);
            stale.unchanged &= old.clone().map(Some).eq(layers.iter().map(|l| l.digest));
            stale.blobs = layers.iter().filter_map(|l| l.digest).collect();
            stale.gone.extend(old.filter(|d| !stale.blobs.contains(d)));
        }
        stale
    }

    /// Returns the rules for the annotations of an index of several images: a layer is gone if none of
    /// them has it.
    pub(super) fn of_all(images: impl Iterator<Item = Self>) -> Self {
        let none = BTreeSet::new;
        let mut all = Self { gone: none(), diff_ids: none(), blobs: none(), unchanged: true };
        for image in images {
            all.gone.extend(image.gone);
            all.diff_ids.extend(image.diff_ids);
            all.blobs.extend(image.blobs);
            all.unchanged &= image.unchanged;
        }
        all.gone.retain(|d| !all.diff_ids.contains(d) && !all.blobs.contains(d));
        all
    }

    fn is_stale(&self, key: &str, value: &str) -> bool {
        if self.unchanged {
            return false;
        }
        let about = |name: &str| {
            if name.ends_with(['.', '/']) { key.starts_with(name) } else { key == name }
        };
        if DIFF_IDS.contains(&key) {
            return !value.parse().is_ok_and(|id| self.diff_ids.contains(&id));
        }
        ABOUT_LAYERS.iter().any(|name| about(name))
            || (!key.starts_with("io.relayer.") && self.names_gone(value))
    }

    /// Whether a text contains the digest of a layer that is gone.
    fn names_gone(&self, text: &str) -> bool {
        let digests = text.match_indices("sha256:").filter_map(|(at, _)| text.get(at..at + 71));
        digests.filter_map(|d| d.parse().ok()).any(|d: Digest| self.gone.contains(&d))
    }

    /// Returns the config without stale fields, and the names of the removed ones.
    pub(super) fn config(&self, config: &Config) -> (Config, Vec<String>) {
        config.without(|key, value| self.is_stale(key, value))
    }

    /// Returns the annotations that are not stale, and adds the names of the others to `dropped`.
    pub(super) fn annotations(&self, all: &Annotations, dropped: &mut Vec<String>) -> Annotations {
        let (stale, kept): (Annotations, _) =
            all.clone().into_iter().partition(|(key, value)| self.is_stale(key, value));
        dropped.extend(stale.into_keys().map(|key| format!("annotation {key}")));
        kept
    }
}

/// Returns the note on removed metadata, if there is any.
pub(super) fn note(dropped: &[String]) -> Option<String> {
    (!dropped.is_empty()).then(|| {
        format!("removed, since the layers that they describe are gone: {}", dropped.join(", "))
    })
}
