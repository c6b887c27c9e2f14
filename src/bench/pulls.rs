//! Simulated pulls of an image as it is and as it could be.

use serde::Serialize;

use super::Subject;
use crate::plan::{self, Target};
use crate::simulate::{Client, ClientModel, Compression, Layer, Link, Machine, Pull, simulate};
use crate::split::report;

/// An image in one form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Form {
    /// How many layers were asked for; `None` for the image as it was built.
    pub target: Option<u32>,
    /// Lowest first. Bytes of blobs are estimates but for the image as it was built.
    pub layers: Vec<Layer>,
}

/// What a client makes of every form over a link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdPulls {
    /// The client.
    pub client: Client,
    /// The link's name.
    pub link: String,
    /// What it is.
    pub rates: Link,
    /// In the order of the forms.
    pub pulls: Vec<Pull>,
}

/// The image as it was built, and split by zstd at each number of layers.
pub fn forms(subject: &Subject, counts: &[u32]) -> Vec<Form> {
    let Subject { files, analysis, estimates, built, .. } = subject;
    let split = |count: &u32| {
        let target = plan::Options { target: Target::Layers(*count), only: None };
        let plan = plan::plan(files, analysis, estimates, &target);
        let layers = report::layers(&plan, analysis, None);
        let layers = layers.iter().map(|l| l.pulled(Compression::Zstd)).collect();
        Form { target: Some(*count), layers }
    };
    let built = Form { target: None, layers: built.clone() };
    std::iter::once(built).chain(counts.iter().map(split)).collect()
}

/// Pulls of all forms by every client over every link, on one machine.
pub fn cold_pulls(
    forms: &[Form],
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
