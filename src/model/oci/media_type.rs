//! Media types, and functions that classify them.

/// OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Uncompressed OCI layer.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Whether the type is that of an OCI index or of Docker's manifest list.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_INDEX)
}

/// Whether the type is that of an OCI manifest or of one of Docker's schema 2.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MANIFEST | DOCKER_MANIFEST)
}

/// Whether the type is that of a container image's config, and not of another artifact's. Images of 2015
/// and 2016 have generic types that registries gave them (distribution/distribution#1621,
/// moby/moby#22378); docker and podman still accept them.
pub(crate) fn is_config(media_type: &str) -> bool {
    let generic = ["", "application/octet-stream", "application/json", "text/html"];
    matches!(media_type, CONFIG | DOCKER_CONFIG) || generic.contains(&media_type)
}

/// Whether the type is that of a layer whose bytes may be missing from the image, because clients
/// download them from elsewhere.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains("rootfs.foreign")
}

/// Whether the type is defined by Docker rather than OCI.
pub(crate) fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

/// Checks that the type is that of a layer that relayer can read. The compression is detected from the
/// layer's first bytes, as clients do.
///
/// # Errors
/// If the layer can't be read; the text is the reason.
pub(crate) fn check_layer(media_type: &str) -> Result<(), String> {
    let base = media_type.split('+').next().unwrap_or_default();
    if media_type.contains("+encrypted") {
        return Err("it is encrypted; decrypt the image first".into());
    }
    let docker = base.strip_suffix(".gzip").or(base.strip_suffix(".zstd")).unwrap_or(base);
    if matches!(base, LAYER | FOREIGN) || matches!(docker, DOCKER_LAYER | DOCKER_FOREIGN) {
        return Ok(());
    }
    Err(format!("media type {media_type:?} is not that of an image layer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_both_families_are_known() {
        for t in [LAYER, LAYER_GZIP, LAYER_ZSTD, DOCKER_LAYER] {
            assert_eq!(check_layer(t), Ok(()), "{t}");
        }
        assert_eq!(check_layer(&format!("{DOCKER_LAYER}.gzip")), Ok(()));
        for t in [format!("{FOREIGN}+gzip"), format!("{DOCKER_FOREIGN}.gzip")] {
            assert!(is_foreign(&t) && check_layer(&t).is_ok(), "{t}");
        }
        for t in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.in-toto+json",
        ] {
            assert!(check_layer(t).is_err(), "{t}");
        }
    }
}
