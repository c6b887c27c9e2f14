//! Clients, links and machines: the only table of their constants. docs/PULLS.md shows it.

use serde::{Deserialize, Serialize};

use super::{Link, Machine, Reuse};

/// Nanoseconds of one core of [`MACHINE`] for what a client does, measured apart from the pulls
/// that are predicted with them: docs/PULLS.md.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// To receive a byte, verify its digest and put it away.
    pub fetch: f64,
    /// To decompress gzip to a byte.
    pub gzip: f64,
    /// To decompress zstd to a byte.
    pub zstd: f64,
    /// To check the digest of a byte of tar.
    pub hash: f64,
    /// To write a byte of tar to a file.
    pub write: f64,
    /// To create an entry of the tar.
    pub file: f64,
    /// Of a layer: mounts, databases, syncs. Seconds.
    pub layer: f64,
    /// Of an image: the client starts, asks and writes things down. Seconds.
    pub image: f64,
}

/// How a client pulls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Client {
    /// What it is called.
    pub name: &'static str,
    /// Downloads at a time.
    pub downloads: u32,
    /// Bytes that it asks for at a time; `None` for a layer at a time.
    pub range: Option<u64>,
    /// Layers that it unpacks at a time. One: in order, lowest first. 0: it keeps blobs only.
    pub unpacks: u32,
    /// Whether it unpacks nothing before all is downloaded.
    pub after_all: bool,
    /// Whether who unpacks counts as a download.
    pub unpacks_in_slot: bool,
    /// Whether it decompresses and checks the tar while it downloads, and again to unpack.
    pub decodes_twice: bool,
    /// What it knows a layer by.
    pub reuse: Reuse,
    /// Answers it waits for before the first layer: token, manifest, config.
    pub image_trips: u32,
    /// Requests of an image beside its layers.
    pub image_requests: u32,
    /// Answers it waits for before a layer's first byte, a new connection's among them.
    pub layer_trips: u32,
    /// What it costs.
    pub costs: Costs,
}

/// The machine that [`Costs`] were measured on.
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
const CONTAINERD: Client = Client {
    name: "containerd",
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
const SKOPEO: Client = Client {
    name: "skopeo",
    downloads: 6,
    unpacks: 0,
    image_trips: 3,
    costs: SKOPEO_COSTS,
    ..CONTAINERD
};

// moby `distribution/xfer/download.go`: three slots, given back when the blob is there; registered in
// order, each on its parent. Decompression is unpigz's or Go's, untarring a process of its own
// (`pkg/chrootarchive`).
const DOCKER: Client =
    Client { name: "docker", reuse: Reuse::Chain, costs: DOCKER_COSTS, ..CONTAINERD };

// `ctr image pull` of containerd 1: no limit on downloads, unpacks when all is there.
const CTR: Client = Client { name: "ctr", downloads: 1000, after_all: true, ..CONTAINERD };

// containerd 2.2 with `max_concurrent_unpacks` above 1 (containerd#12332): applied as they come,
// committed in order, which costs nothing.
const CONTAINERD_2: Client = Client { name: "containerd-2", unpacks: 4, ..CONTAINERD };

// `storage/storage_dest.go`: each copy is decompressed and hashed while it comes and kept compressed;
// whoever completes the next layer commits it and all that wait above it, in the slot of its own
// copy. Podman and CRI-O.
const PODMAN: Client = Client {
    name: "podman",
    unpacks: 1,
    unpacks_in_slot: true,
    decodes_twice: true,
    reuse: Reuse::DiffId,
    costs: PODMAN_COSTS,
    ..SKOPEO
};

// soci-snapshotter's parallel pull as its guide for ECR has it: ranges of 8 to 16 MiB, 10 to 20
// connections, several unpackers.
const SOCI: Client =
    Client { name: "soci", downloads: 16, range: Some(16 << 20), unpacks: 10, ..CONTAINERD };

/// All clients that are known.
pub const CLIENTS: [Client; 7] = [DOCKER, CONTAINERD, CTR, CONTAINERD_2, PODMAN, SKOPEO, SOCI];

impl Client {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CLIENTS.iter().find(|c| c.name == name)
    }
}

/// A link with a name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NamedLink {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub link: Link,
}

const fn link(name: &'static str, per_connection: f64, total: f64, latency: f64) -> NamedLink {
    let link = Link { per_connection: per_connection * MB, total: total * MB, latency };
    NamedLink { name, link }
}

// A hosted registry behind a CDN, to an office or a small server: 1 Gbit/s.
const GIGABIT: NamedLink = link("gigabit", 40.0, 125.0, 0.02);
// S3's guidelines count on 85 to 90 MB/s a request, and ECR's blobs lie there; a node with 10 Gbit/s.
const ECR: NamedLink = link("ecr", 85.0, 1250.0, 0.02);
// A site behind a slow line.
const SLOW: NamedLink = link("slow", 5.0, 12.0, 0.05);
// A registry in the same rack.
const LOCAL: NamedLink = link("local", 1000.0, 1000.0, 0.0005);

/// Links to judge images by, the most usual first.
pub const LINKS: [NamedLink; 4] = [GIGABIT, ECR, SLOW, LOCAL];

/// What `split --profile` shapes layers for: a client on its usual link and machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Profile {
    /// What it is called.
    pub name: &'static str,
    /// Who pulls.
    pub client: Client,
    /// Over what.
    pub link: Link,
    /// On what.
    pub machine: Machine,
}

/// A node of a cluster.
pub const NODE: Machine = Machine { cores: 4, speed: 1.0 };

const fn profile(client: Client, link: NamedLink) -> Profile {
    Profile { name: client.name, client, link: link.link, machine: NODE }
}

/// All profiles that are known.
pub const PROFILES: [Profile; 7] = [
    profile(DOCKER, GIGABIT),
    profile(CONTAINERD, GIGABIT),
    profile(CONTAINERD_2, GIGABIT),
    profile(PODMAN, GIGABIT),
    profile(SKOPEO, GIGABIT),
    profile(SOCI, ECR),
    // EKS: containerd that discards what it has unpacked, so it goes by chain ID.
    Profile {
        name: "ecr",
        client: Client { reuse: Reuse::Chain, ..CONTAINERD },
        ..profile(CONTAINERD, ECR)
    },
];

impl Profile {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|p| p.name == name)
    }
}
