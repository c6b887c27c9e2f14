//! What differs between registries. docs/REGISTRY.md has the sources.

/// How a registry takes large blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Anything else: blobs go in one request.
    Common,
    /// Takes chunks of any size from 5 MiB; answers 201, tells a wrong `Range`, and has no upload status.
    Ecr,
    /// Refuses chunks.
    Google,
    /// Refuses chunks of more than 4 MiB.
    GitHub,
}

impl Dialect {
    /// Returns the dialect of a registry by its host, or by the service in its challenge.
    pub(super) fn of(host: &str, challenge: &str) -> Self {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is = |domain: &str| {
            name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        // ECR is reached by other names too, through endpoints of private networks.
        if challenge.contains("ecr.amazonaws.com") || name.contains(".dkr.ecr.") || is("ecr.aws") {
            Self::Ecr
        } else if is("pkg.dev") || is("gcr.io") {
            Self::Google
        } else if is("ghcr.io") {
            Self::GitHub
        } else {
            Self::Common
        }
    }

    /// Returns the bytes of a chunk for blobs of more than `single` bytes; `None` if they go in one
    /// request, whatever their size.
    pub(super) fn chunk(self, sizes: TransferSizes) -> Option<u64> {
        (self == Self::Ecr).then_some(sizes.chunk)
    }

    /// Returns the bytes of a chunk when one request has failed for its size; `None` if the registry
    /// takes no chunks.
    pub(super) fn fallback(self, sizes: TransferSizes) -> Option<u64> {
        match self {
            Self::Google => None,
            Self::GitHub => Some(sizes.chunk.min(4 << 20)),
            Self::Common | Self::Ecr => Some(sizes.chunk),
        }
    }
}

/// Sizes of transfers in bytes.
#[derive(Debug, Clone, Copy)]
pub struct TransferSizes {
    /// Bytes up to which a blob goes in one request to a registry that takes chunks.
    pub single: u64,
    /// A chunk of an upload.
    pub chunk: u64,
    /// A range of a download; blobs of up to two of them are downloaded whole.
    pub range: u64,
}

impl Default for TransferSizes {
    fn default() -> Self {
        Self { single: 128 << 20, chunk: 10 << 20, range: 16 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_host_or_challenge() {
        let of = |host| Dialect::of(host, "");
        assert_eq!(of("123456789012.dkr.ecr.eu-west-1.amazonaws.com"), Dialect::Ecr);
        assert_eq!(of("public.ecr.aws"), Dialect::Ecr);
        assert_eq!(
            Dialect::of("10.0.0.7:443", "Basic service=\"ecr.amazonaws.com\""),
            Dialect::Ecr
        );
        assert_eq!(of("europe-docker.pkg.dev"), Dialect::Google);
        assert_eq!(of("eu.gcr.io"), Dialect::Google);
        assert_eq!(of("ghcr.io"), Dialect::GitHub);
        for host in ["evilghcr.io", "reg:5000", "registry-1.docker.io", "localhost"] {
            assert_eq!(of(host), Dialect::Common);
        }
    }
}
