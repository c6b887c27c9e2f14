//! Pulls and pushes, against the [registry for tests](super::registry): what is sent, what is kept, and
//! what a client must not do whatever happens.

mod cache;
mod faults;
mod golden;
mod hostile;
mod patience;
mod secrets;
mod shown;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use relayer::base::error::Result;
use relayer::base::progress::Silent;
use relayer::model::content::Budget;
use relayer::transport::Reference;
use relayer::transport::open::{Access, Place};
use relayer::transport::registry::cache::Cache;
use relayer::transport::registry::{
    PushStats, Registries, RegistryOptions, Retry, Timeouts, TransferSizes,
};
use relayer::transport::write::{Destination, Form, write_archive};
use serde_json::Value;

use super::image::{self, Codec, Image, Item, archive, digest, layer};
use super::model::Random;
use super::registry::{Exchange, TestRegistry};

/// More than any image has.
const ROOM: u64 = 1 << 30;

/// Bytes of a range of a download, of a chunk of an upload, and of an upload in one request.
const RANGE: u64 = 16 << 10;
const CHUNK: u64 = 24 << 10;
const SINGLE: u64 = 40 << 10;

/// The files of an OCI layout.
type Files = Vec<(String, Vec<u8>)>;

/// Blobs and manifests by digest.
type Blobs = BTreeMap<String, Vec<u8>>;

/// Bytes that can't be compressed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words = (0..count.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    words.take(count).collect()
}

/// An image whose layers have one file each, of so many bytes from a seed.
fn of_layers(layers: &[(u64, usize)]) -> Image {
    let tar = |(seed, count): &(u64, usize)| {
        layer(&[Item::file(format!("file-{seed}"), noise(*seed, *count))])
    };
    Image::new(layers.iter().map(tar).collect())
}

/// An image of three layers: one smaller than a range, one of a few, one of many.
fn usual() -> Files {
    of_layers(&[(1, 3_000), (2, 50_000), (3, 200_000)]).oci_files(Codec::Plain)
}

/// The blobs and manifests of a layout.
fn blobs(files: &Files) -> Blobs {
    let blob = |(name, bytes): &(String, Vec<u8>)| {
        let hex = name.strip_prefix("blobs/sha256/")?;
        Some((format!("sha256:{hex}"), bytes.clone()))
    };
    files.iter().filter_map(blob).collect()
}

/// The digest of the only root of a layout.
fn root(files: &Files) -> String {
    let index = &files.iter().find(|(name, _)| name == "index.json").unwrap().1;
    let index: Value = serde_json::from_slice(index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// One process that uses a registry.
struct Client {
    access: Access,
    _dir: tempfile::TempDir,
}

impl Client {
    /// With the user's password, and without a cache.
    fn new(registry: &TestRegistry) -> Self {
        Self::with(registry, Cache::default(), |_| {})
    }

    fn with(
        registry: &TestRegistry,
        cache: Cache,
        change: impl FnOnce(&mut RegistryOptions),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authfile = dir.path().join("auth.json");
        fs::write(&authfile, registry.auth_file()).unwrap();
        let mut options = RegistryOptions {
            authfile: Some(authfile),
            retry: Retry { attempts: 10, first: Duration::from_millis(1) },
            timeouts: Timeouts { connect: Duration::from_secs(5), stall: Duration::from_secs(5) },
            sizes: TransferSizes { single: SINGLE, chunk: CHUNK, range: RANGE },
            env: |_| None,
            ..RegistryOptions::default()
        };
        change(&mut options);
        let registries = Arc::new(Registries::new(options, Arc::new(cache)));
        let access = Access { registries, ..Access::new(&Budget::new(ROOM, None), ROOM) };
        Self { access, _dir: dir }
    }

    /// Pushes a layout to `docker://…`, whose blobs may be in the repositories `mounts`.
    fn push(&self, files: &Files, name: &str, mounts: &[&str]) -> Result<PushStats> {
        let Access { registries, budget, .. } = &self.access;
        let mounts: Vec<_> = mounts.iter().map(|name| name.parse().unwrap()).collect();
        let reference: Reference = name.parse().unwrap();
        let to = Destination::new(reference, false, &[], registries, &mounts)?;
        let place = Place::in_archive(Arc::new(archive(files)), None, budget, ROOM).unwrap();
        let (bundle, _) = place.unchanged(None, None, false, ROOM).unwrap();
        to.write(&bundle, &Silent).map(Option::unwrap)
    }

    /// Pulls `docker://…`. Returns the digest of its root, and what was written.
    fn pull(&self, name: &str, platform: Option<&str>) -> Result<(String, Blobs)> {
        let place = Place::at(&name.parse().unwrap(), &self.access)?;
        let platform = platform.map(|platform| platform.parse().unwrap());
        let (bundle, _) = place.unchanged(None, platform.as_ref(), false, ROOM)?;
        bundle.blobs.values().for_each(|blob| blob.source.prefetch());
        let mut bytes = Vec::new();
        write_archive(&bundle, &[], None, Form::Oci, &mut bytes, &Silent)?;
        let mut blobs = Blobs::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
                blobs.insert(format!("sha256:{hex}"), bytes);
            }
        }
        Ok((bundle.root.unwrap().digest.to_string(), blobs))
    }
}

/// All that a tag leads to, which must be there and have its digest; `None` if there is no such tag.
fn tagged(registry: &TestRegistry, repo: &str, tag: &str) -> Option<(String, Blobs)> {
    let (_, bytes) = registry.manifest(repo, tag)?;
    let root = digest(&bytes);
    let (mut todo, mut found) = (vec![root.clone()], Blobs::new());
    while let Some(name) = todo.pop() {
        let manifest = registry.manifest(repo, &name).map(|(_, bytes)| bytes);
        let is_manifest = manifest.is_some();
        let bytes = manifest.or_else(|| registry.blob(repo, &name));
        let bytes = bytes.unwrap_or_else(|| panic!("{tag} is incomplete: {name}"));
        assert_eq!(digest(&bytes), name);
        if is_manifest {
            let manifest: Value = serde_json::from_slice(&bytes).unwrap();
            let lists = ["manifests", "layers"].map(|list| manifest[list].as_array());
            let parts = lists.into_iter().flatten().flatten().chain(manifest.get("config"));
            todo.extend(parts.map(|d| d["digest"].as_str().unwrap().to_owned()));
        }
        found.insert(name, bytes);
    }
    Some((root, found))
}

/// Asserts that no password or token came to another host than the registry and its token service.
fn assert_discreet(registry: &TestRegistry, what: &str) {
    assert_eq!(registry.violations(), [""; 0], "{what}");
    for entry in registry.log().iter().filter(|entry| entry.elsewhere) {
        let is_token = entry.target.starts_with("/token");
        assert!(is_token || entry.authorization().is_none(), "{what}: {}", entry.line());
    }
}

/// Bytes of bodies that were sent to a registry, without those of its token service.
fn received(log: &[Exchange]) -> u64 {
    log.iter().filter(|e| !e.target.starts_with("/token")).map(|e| e.received).sum()
}

/// The total bytes of blobs.
fn total(blobs: &Blobs) -> u64 {
    blobs.values().map(|bytes| bytes.len() as u64).sum()
}
