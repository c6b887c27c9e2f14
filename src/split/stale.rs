//! What other tools note in configs, labels and annotations about an image's layers, which is wrong
//! once the layers are others: a build cache that names them by number makes a later build leave
//! out files, a base's digest makes a rebase replace the wrong ones.

use std::collections::BTreeSet;

use super::report::LayerReport;
use crate::format::codec::chunked;
use crate::model::digest::Digest;
use crate::model::oci::{Annotations, Config, Manifest, parse};
use crate::transport::image::Image;

/// Fields, labels and annotations that say something of layers; those that end with `.` or `/` are
/// beginnings.
const ABOUT_LAYERS: &[&str] = &[
    // BuildKit's inline cache: steps of the build, with the layers' numbers (moby/buildkit#1678).
    "moby.buildkit.cache.v0",
    // "… the image sharing zero-indexed layers with the image" (annotations.md of the image spec):
    // `crane rebase` goes by both.
    "org.opencontainers.image.base.digest",
    "org.opencontainers.image.base.name",
    // Cloud Native Buildpacks (platform.md, distribution.md): which layer is whose, for a rebase or
    // the next build.
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

/// Values that are a layer's diff ID: they stay while the layer does. bootc fails on one that is
/// none of the image's (bootc-dev/bootc#1344).
const DIFF_IDS: &[&str] = &["ostree.final-diffid"];

/// What is said of layers that are gone.
pub(super) struct Stale {
    /// Digests of layers that the result does not have.
    gone: BTreeSet<Digest>,
    /// Diff IDs of those that it has.
    diff_ids: BTreeSet<Digest>,
    /// Digests of their blobs, where those count.
    blobs: BTreeSet<Digest>,
    /// Its layers are the image's own, of which everything stays true.
    unchanged: bool,
}

impl Stale {
    /// For the config of a result with these layers. One that is not encoded is taken for new.
    ///
    /// Blob digests are not looked for in configs: a docker-archive does not have them, and the
    /// result must not depend on how the image was stored.
    pub(super) fn of_config(image: &Image, layers: &[LayerReport]) -> Self {
        let old = image.layers.iter().map(|l| l.diff_id);
        let unchanged = old.clone().map(Some).eq(layers.iter().map(|l| l.diff_id));
        let diff_ids: BTreeSet<_> = layers.iter().filter_map(|l| l.diff_id).collect();
        let gone = old.filter(|id| !diff_ids.contains(id)).collect();
        Self { gone, diff_ids, blobs: BTreeSet::new(), unchanged }
    }

    /// The same for its annotations, those in an index too.
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

    /// For the annotations of an index of several images: gone is what none of them has.
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

    /// Whether a text has the digest of a layer that is gone.
    fn names_gone(&self, text: &str) -> bool {
        let digests = text.match_indices("sha256:").filter_map(|(at, _)| text.get(at..at + 71));
        digests.filter_map(|d| d.parse().ok()).any(|d: Digest| self.gone.contains(&d))
    }

    /// The config without what is stale, and what that was.
    pub(super) fn config(&self, config: &Config) -> (Config, Vec<String>) {
        config.without(|key, value| self.is_stale(key, value))
    }

    /// Annotations without what is stale, which is added to `dropped`.
    pub(super) fn annotations(&self, all: &Annotations, dropped: &mut Vec<String>) -> Annotations {
        let (stale, kept): (Annotations, _) =
            all.clone().into_iter().partition(|(key, value)| self.is_stale(key, value));
        dropped.extend(stale.into_keys().map(|key| format!("annotation {key}")));
        kept
    }
}

/// What is told of it.
pub(super) fn note(dropped: &[String]) -> Option<String> {
    (!dropped.is_empty()).then(|| {
        format!("left out, as the layers that they describe are gone: {}", dropped.join(", "))
    })
}
