//! Simulated pulls of an image as built and as split.

use serde::Serialize;

use super::Subject;
use super::matrix::Matrix;
use crate::plan::{self, Target};
use crate::simulate::{Client, ClientModel, CompressionKind, Layer, Link, Machine, Pull, simulate};
use crate::split::report;

/// Clients whose pulls are simulated by default.
pub const CLIENTS: [Client; 5] =
    [Client::Docker, Client::Containerd, Client::Containerd2, Client::Podman, Client::Soci];

/// An image, either as built or as split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PulledForm {
    /// Requested number of layers; `None` for the image as built.
    pub target: Option<u32>,
    /// The layers, lowest first. Bytes of blobs are estimates, except for the image as built.
    pub layers: Vec<Layer>,
}

/// Cold pulls of every form by one client over one link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdPulls {
    /// The client.
    pub client: Client,
    /// The link's name.
    pub link: String,
    /// Its speeds and latency.
    pub rates: Link,
    /// The pulls, in the order of the forms.
    pub pulls: Vec<Pull>,
}

/// Returns the image as built, and split at each number of layers of `matrix`, with the sizes that it has
/// for zstd; otherwise with estimates.
pub fn forms(subject: &Subject, matrix: &Matrix) -> Vec<PulledForm> {
    let Subject { rootfs, inventory, built, .. } = subject;
    let split = |count: u32| {
        let target = plan::PlanOptions::new(Target::Layers(count));
        let plan = plan::plan(&rootfs.files, inventory, &target);
        let mut layers = report::layers(&plan, &inventory.analysis, None);
        matrix.set_sizes(count, &mut layers);
        let layers = layers.iter().map(|l| l.pulled(CompressionKind::Zstd)).collect();
        PulledForm { target: Some(count), layers }
    };
    let built = PulledForm { target: None, layers: built.clone() };
    std::iter::once(built).chain(matrix.counts().into_iter().map(split)).collect()
}

/// Simulates pulls of all forms by every client over every link, on one machine.
pub fn cold_pulls(
    forms: &[PulledForm],
    clients: &[&ClientModel],
    links: &[(String, Link)],
    machine: &Machine,
) -> Vec<ColdPulls> {
    let one = |client: &ClientModel, (name, link): &(String, Link)| ColdPulls {
        client: client.client,
        link: name.clone(),
        rates: *link,
        pulls: forms.iter().map(|f| simulate(&f.layers, client, link, machine)).collect(),
    };
    links.iter().flat_map(|link| clients.iter().map(move |client| one(client, link))).collect()
}
