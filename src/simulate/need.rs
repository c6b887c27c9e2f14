//! Selection of the layers that a client with an older image needs.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::model::digest::Digest;

/// The identifier by which a client recognises layers that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// Chain ID: the layer and all below it are the same. dockerd's graph drivers
    /// (`distribution/xfer/download.go`), containerd with `discard_unpacked_layers`.
    Chain,
    /// Digest of the blob: containerd that keeps blobs.
    Digest,
    /// Diff ID: containers/storage.
    DiffId,
}

/// The identifiers of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
}

/// Work for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Whether it is downloaded.
    pub download: bool,
    /// Whether it is unpacked.
    pub unpack: bool,
}

/// Returns the work of a client with the old layers to get the new ones. Every client unpacks all layers
/// from the first one that differs. A blob that an image has twice is downloaded once.
pub fn needs(reuse: Reuse, old: &[Identity], new: &[Identity]) -> Vec<Need> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a.diff_id == b.diff_id).count();
    let mut present: BTreeSet<Digest> = match reuse {
        Reuse::Chain => BTreeSet::new(),
        Reuse::Digest => old.iter().map(|l| l.digest).collect(),
        Reuse::DiffId => old.iter().map(|l| l.diff_id).collect(),
    };
    let one = |(i, layer): (usize, &Identity)| {
        let unpack = i >= prefix;
        let id = if reuse == Reuse::DiffId { layer.diff_id } else { layer.digest };
        let has_layer = reuse == Reuse::Chain && !unpack;
        Need { download: !has_layer && present.insert(id), unpack }
    };
    new.iter().enumerate().map(one).collect()
}
