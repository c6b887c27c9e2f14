//! How clients pull, and over which links: the only table of these constants. docs/PULLS.md shows it.

use serde::{Deserialize, Serialize};

use super::clients::Client;
use super::{Link, Machine, Reuse};

/// Cost of what a client does, in nanoseconds of one core of [`MACHINE`] unless stated. The pulls
/// that they were measured on are not those that the model was tested with: docs/PULLS.md.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// To receive a byte, verify its digest and store it.
    pub fetch: f64,
    /// To decompress one byte from gzip.
    pub gzip: f64,
    /// To decompress one byte from zstd.
    pub zstd: f64,
    /// To hash a byte of tar.
    pub hash: f64,
    /// To write a byte of tar to a file.
    pub write: f64,
    /// To create an entry of the tar.
    pub file: f64,
    /// Per layer, in seconds: mounts, databases, syncs.
    pub layer: f64,
    /// Per image, in seconds: startup, requests for documents, databases.
    pub image: f64,
}

/// How a client pulls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClientModel {
    /// The client.
    pub client: Client,
    /// Number of concurrent downloads.
    pub downloads: u32,
    /// Bytes per request; `None` if a request is for a whole layer.
    pub range: Option<u64>,
    /// Number of layers unpacked concurrently. 1: in order, lowest first. 0: it only stores blobs.
    pub unpacks: u32,
    /// Whether it unpacks nothing until every layer is downloaded.
    pub after_all: bool,
    /// Whether unpacking a layer occupies a download slot.
    pub unpacks_in_slot: bool,
    /// Whether it decompresses and hashes the tar while it downloads, and again to unpack.
    pub decodes_twice: bool,
    /// The identifier by which it recognises layers that it has.
    pub reuse: Reuse,
    /// Round trips before the first layer: token, manifest, config.
    pub image_trips: u32,
    /// Requests per image, in addition to those for layers.
    pub image_requests: u32,
    /// Round trips before a layer's first byte, including those of a new connection.
    pub layer_trips: u32,
    /// Cost of its work.
    pub costs: Costs,
}

/// The machine on which [`Costs`] were measured.
pub const MACHINE: Machine = Machine { cores: 2, speed: 1.0 };

const MB: f64 = 1e6;

// docker 20.10.
const DOCKER_COSTS: Costs = Costs {
    fetch: 3.9,
    gzip: 5.0,
    zstd: 1.5,
    hash: 1.2,
    write: 4.4,
    file: 98_600.0,
    layer: 0.048,
    image: 0.19,
};

// containerd 1.6.
const CONTAINERD_COSTS: Costs = Costs {
    fetch: 3.9,
    gzip: 5.0,
    zstd: 0.35,
    hash: 1.2,
    write: 2.8,
    file: 80_400.0,
    layer: 0.006,
    image: 0.0,
};

// podman 4.3.
const PODMAN_COSTS: Costs = Costs {
    fetch: 3.9,
    gzip: 5.0,
    zstd: 2.8,
    hash: 1.2,
    write: 0.08,
    file: 80_000.0,
    layer: 0.033,
    image: 0.19,
};

// skopeo 1.9, which unpacks nothing.
const SKOPEO_COSTS: Costs = Costs {
    fetch: 4.2,
    gzip: 0.0,
    zstd: 0.0,
    hash: 0.0,
    write: 0.0,
    file: 0.0,
    layer: 0.001,
    image: 0.028,
};

// containerd `unpacker.go`, as CRI uses it: `max_concurrent_downloads` 3, one apply at a time as soon
// as the next layer is there.
const CONTAINERD: ClientModel = ClientModel {
    client: Client::Containerd,
    downloads: 3,
    range: None,
    unpacks: 1,
    after_all: false,
    unpacks_in_slot: false,
    decodes_twice: false,
    reuse: Reuse::Digest,
    image_trips: 4,
    image_requests: 3,
    layer_trips: 1,
    costs: CONTAINERD_COSTS,
};

// containers/image `copy/single.go`: six copies at a time, here into a folder.
const SKOPEO: ClientModel = ClientModel {
    client: Client::Skopeo,
    downloads: 6,
    unpacks: 0,
    image_trips: 3,
    costs: SKOPEO_COSTS,
    ..CONTAINERD
};

// moby `distribution/xfer/download.go`: three slots, given back when the blob is there; registered in
// order, each on its parent. Decompression is unpigz's or Go's, untarring a process of its own
// (`pkg/chrootarchive`).
const DOCKER: ClientModel =
    ClientModel { client: Client::Docker, reuse: Reuse::Chain, costs: DOCKER_COSTS, ..CONTAINERD };

// The costs of `docker` were measured on this version.
const DOCKER_20_10: ClientModel = ClientModel { client: Client::Docker2010, ..DOCKER };

// EKS: containerd that discards layers once they are unpacked, so it recognises them by chain ID.
const EKS: ClientModel = ClientModel { client: Client::Eks, reuse: Reuse::Chain, ..CONTAINERD };

// `ctr image pull` of containerd 1: no limit on downloads, unpacks when all is there.
const CTR: ClientModel =
    ClientModel { client: Client::Ctr, downloads: 1000, after_all: true, ..CONTAINERD };

// containerd 2.2 with `max_concurrent_unpacks` above 1 (containerd#12332): applied as they come,
// committed in order, which costs nothing.
const CONTAINERD_2: ClientModel =
    ClientModel { client: Client::Containerd2, unpacks: 4, ..CONTAINERD };

// `storage/storage_dest.go`: each copy is decompressed and hashed while it comes and kept compressed;
// whoever completes the next layer commits it and all that wait above it, in the slot of its own
// copy. Podman and CRI-O.
const PODMAN: ClientModel = ClientModel {
    client: Client::Podman,
    unpacks: 1,
    unpacks_in_slot: true,
    decodes_twice: true,
    reuse: Reuse::DiffId,
    costs: PODMAN_COSTS,
    ..SKOPEO
};

// soci-snapshotter's parallel pull as its guide for ECR has it: ranges of 8 to 16 MiB, 10 to 20
// connections, several unpackers.
const SOCI: ClientModel = ClientModel {
    client: Client::Soci,
    downloads: 16,
    range: Some(16 << 20),
    unpacks: 10,
    ..CONTAINERD
};

/// The clients that have a model, in the order of [`Client::ALL`].
pub const MODELS: [ClientModel; 9] =
    [DOCKER_20_10, DOCKER, CONTAINERD, CONTAINERD_2, CTR, EKS, PODMAN, SKOPEO, SOCI];

/// A link with a name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NamedLink {
    /// Its name.
    pub name: &'static str,
    /// Its speeds and latency.
    pub link: Link,
}

const fn link(name: &'static str, per_connection: f64, total: f64, latency: f64) -> NamedLink {
    let link = Link { per_connection: per_connection * MB, total: total * MB, latency };
    NamedLink { name, link }
}

// A hosted registry behind a CDN, to an office or a small server: 1 Gbit/s.
const GIGABIT: NamedLink = link("gigabit", 40.0, 125.0, 0.02);
// ECR stores blobs in S3, whose guidelines promise 85 to 90 MB/s per request; a node with 10 Gbit/s.
const ECR: NamedLink = link("ecr", 85.0, 1250.0, 0.02);
// A site with a slow connection.
const SLOW: NamedLink = link("slow", 5.0, 12.0, 0.05);
// A registry in the same rack.
const LOCAL: NamedLink = link("local", 1000.0, 1000.0, 0.0005);

/// The links by name, the most common first.
pub const LINKS: [NamedLink; 4] = [GIGABIT, ECR, SLOW, LOCAL];

/// What `split --profile` shapes layers for: a client with its usual link and machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Profile {
    /// Name of the client.
    pub name: &'static str,
    /// How the client pulls.
    pub client: ClientModel,
    /// The link to the registry.
    pub link: Link,
    /// The machine that unpacks.
    pub machine: Machine,
}

/// A node of a cluster.
pub const NODE: Machine = Machine { cores: 4, speed: 1.0 };

const fn profile(client: ClientModel, link: NamedLink) -> Profile {
    Profile { name: client.client.name(), client, link: link.link, machine: NODE }
}

/// A profile for each of [`MODELS`]: nodes on AWS pull from ECR, others over a gigabit link.
pub const PROFILES: [Profile; 9] = [
    profile(DOCKER_20_10, GIGABIT),
    profile(DOCKER, GIGABIT),
    profile(CONTAINERD, GIGABIT),
    profile(CONTAINERD_2, GIGABIT),
    profile(CTR, GIGABIT),
    profile(EKS, ECR),
    profile(PODMAN, GIGABIT),
    profile(SKOPEO, GIGABIT),
    profile(SOCI, ECR),
];
