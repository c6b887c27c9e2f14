//! Which layers a client that has an older image needs.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::model::digest::Digest;

/// What a client knows a layer by that it has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// By chain ID: it and all below it are the same. dockerd's graph drivers
    /// (`distribution/xfer/download.go`), containerd with `discard_unpacked_layers`.
    Chain,
    /// By the blob's digest: containerd that keeps its blobs.
    Digest,
    /// By diff ID: containers/storage.
    DiffId,
}

/// What a layer is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
}

/// What is to be done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Need {
    /// It is downloaded.
    pub download: bool,
    /// It is unpacked.
    pub unpack: bool,
}

/// What a client with the old layers does to have the new ones. All unpack again what lies above
/// the first layer that is another one. A blob that an image has twice is downloaded once.
pub fn needs(reuse: Reuse, old: &[Identity], new: &[Identity]) -> Vec<Need> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a.diff_id == b.diff_id).count();
    let mut there: BTreeSet<Digest> = match reuse {
        Reuse::Chain => BTreeSet::new(),
        Reuse::Digest => old.iter().map(|l| l.digest).collect(),
        Reuse::DiffId => old.iter().map(|l| l.diff_id).collect(),
    };
    let one = |(i, layer): (usize, &Identity)| {
        let unpack = i >= prefix;
        let id = if reuse == Reuse::DiffId { layer.diff_id } else { layer.digest };
        let known = reuse == Reuse::Chain && !unpack;
        Need { download: !known && there.insert(id), unpack }
    };
    new.iter().enumerate().map(one).collect()
}
