//! Simulation of pulls: clients, links and machines.
//!
//! A pull is a list of downloads that share a link, a limited number of them at a time and in order, and
//! of unpackings that share a machine's cores, in order or not depending on the client. [`simulate`]
//! proceeds from event to event. docs/PULLS.md describes the model, the source of each constant, and the
//! accuracy.
//!
//! May import `base` and `model`. Types to know: [`Client`], the list of clients; [`ClientModel`], how one
//! pulls; and [`Pull`], the result.
//!
//! Only additions, multiplications, divisions and comparisons of floats are used, in a fixed
//! order: results are the same on every machine.
//!
//! ```
//! use relayer::simulate::{Client, CompressionKind, LINKS, Layer, MACHINE, simulate};
//!
//! let layer = Layer { blob_bytes: 30_000_000, tar_bytes: 100_000_000, entries: 2_000, compression: CompressionKind::Zstd };
//! let docker = Client::Docker.model().unwrap();
//! let pull = simulate(&[layer; 8], docker, &LINKS[0].link, &MACHINE);
//! assert!(pull.makespan >= pull.bound);
//! ```

mod clients;
mod events;
mod models;
mod need;

use serde::{Deserialize, Serialize};

pub use clients::Client;
pub use models::{ClientModel, Costs, LINKS, MACHINE, MODELS, NODE, NamedLink, PROFILES, Profile};
pub use need::{Identity, Need, Reuse, needs};

use events::Job;

/// Compression of a layer, as far as it affects time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompressionKind {
    /// Uncompressed.
    None,
    /// gzip.
    Gzip,
    /// zstd, including zstd:chunked.
    Zstd,
}

impl CompressionKind {
    /// Returns the compression of a layer with this media type.
    pub fn of(media_type: &str) -> Self {
        if media_type.ends_with("zstd") {
            Self::Zstd
        } else if media_type.ends_with("gzip") {
            Self::Gzip
        } else {
            Self::None
        }
    }
}

/// A layer of a simulated pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Number of entries of the tar, each of which is created.
    pub entries: u64,
    /// Compression of the blob.
    pub compression: CompressionKind,
}

/// The network link from the registry to the client.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Maximum bytes per second of one connection.
    pub per_connection: f64,
    /// Maximum bytes per second of all connections together.
    pub total: f64,
    /// Seconds from a request to the first byte of the response.
    pub latency: f64,
}

/// The machine that unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Number of cores.
    pub cores: u32,
    /// Speed of a core, relative to the one on which [`Costs`] were measured.
    pub speed: f64,
}

/// An interval in seconds since the beginning of the pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Interval {
    /// Its beginning.
    pub start: f64,
    /// Its end.
    pub end: f64,
}

/// Times of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LayerTimes {
    /// Position of the layer in the image, from 0.
    pub layer: usize,
    /// From its first request to its last byte verified; `None` if the client has the layer.
    pub download: Option<Interval>,
    /// `None` if the client already has it unpacked, or doesn't unpack.
    pub unpack: Option<Interval>,
}

/// A simulated pull.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pull {
    /// Seconds from the command to the image.
    pub makespan: f64,
    /// Lower bound in seconds for any order of the same work on this link and machine.
    pub bound: f64,
    /// Bytes of layers downloaded.
    pub bytes: u64,
    /// Requests to the registry.
    pub requests: u64,
    /// Lowest first, those that the client has too.
    pub spans: Vec<LayerTimes>,
}

/// Simulates a pull by a client without any layers.
pub fn simulate(layers: &[Layer], client: &ClientModel, link: &Link, machine: &Machine) -> Pull {
    let all = vec![Need { download: true, unpack: true }; layers.len()];
    simulate_update(layers, &all, client, link, machine)
}

/// Simulates a pull by a client that needs only some of the layers; `needs` has an item per layer, see
/// [`needs`].
pub fn simulate_update(
    layers: &[Layer],
    needs: &[Need],
    client: &ClientModel,
    link: &Link,
    machine: &Machine,
) -> Pull {
    let jobs: Vec<Job> =
        layers.iter().zip(needs).map(|(l, n)| Job::new(l, *n, client, machine)).collect();
    let begin = f64::from(client.image_trips) * link.latency;
    let end = client.costs.image / machine.speed;
    let mut spans = events::run(&jobs, client, link, machine);
    let mut last = 0.0_f64;
    for span in &mut spans {
        for interval in [&mut span.download, &mut span.unpack].into_iter().flatten() {
            interval.start += begin;
            interval.end += begin;
            last = last.max(interval.end - begin);
        }
    }
    Pull {
        makespan: begin + last + end,
        bound: begin + bound(&jobs, client, link, machine) + end,
        bytes: jobs.iter().map(|j| j.bytes).sum(),
        requests: u64::from(client.image_requests) + jobs.iter().map(|j| j.requests).sum::<u64>(),
        spans,
    }
}

/// Returns the core seconds to unpack a layer.
pub fn unpacking(layer: &Layer, client: &ClientModel, machine: &Machine) -> f64 {
    Job::new(layer, Need { download: true, unpack: true }, client, machine).unpacking
}

/// Returns the largest time that a single resource needs: the link for all bytes, the slots for all
/// downloads, the cores for all work, the unpackers for all layers, and each layer alone.
fn bound(jobs: &[Job], client: &ClientModel, link: &Link, machine: &Machine) -> f64 {
    let rate = link.per_connection.min(link.total);
    let trip = f64::from(client.layer_trips) * link.latency;
    // Without other work: a connection for each range, up to the maximum.
    let alone = |job: &Job| {
        if job.requests == 0 {
            return 0.0;
        }
        let connections = (job.requests as f64).min(f64::from(client.downloads));
        let rate = (link.per_connection * connections).min(link.total);
        let working = job.fetching / connections.min(f64::from(machine.cores));
        trip + (job.bytes as f64 / rate).max(working)
    };
    let unpacking = |job: &Job| job.unpacking / job.width.min(f64::from(machine.cores));
    let sum = |of: &dyn Fn(&Job) -> f64| jobs.iter().map(of).sum::<f64>();
    let downloads = f64::from(client.downloads);
    let most = |of: &dyn Fn(&Job) -> f64| jobs.iter().map(of).fold(0.0, f64::max);
    let least_first = jobs.iter().map(alone).fold(f64::INFINITY, f64::min);
    let first = match jobs.first() {
        None => 0.0,
        // In order: nothing is unpacked before the lowest layer is there.
        Some(first) if client.unpacks == 1 => alone(first),
        Some(_) => least_first,
    };
    let unpacks = sum(&unpacking) / f64::from(client.unpacks.max(1));
    let network = sum(&|j| j.bytes as f64) / link.total;
    let slots = sum(&|j| j.requests as f64 * trip + j.bytes as f64 / rate) / downloads;
    let fetched = network.max(slots).max(most(&alone));
    let unpacked = if client.after_all {
        fetched + unpacks.max(most(&unpacking))
    } else {
        (first + unpacks).max(most(&|j| alone(j) + unpacking(j)))
    };
    let cpu = sum(&|j| j.fetching + j.unpacking) / f64::from(machine.cores);
    fetched.max(unpacked).max(cpu)
}

#[cfg(test)]
mod tests;
