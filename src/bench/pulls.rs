//! Simulated pulls of an image as it is and as it could be.

use serde::Serialize;

use super::Subject;
use crate::codec::Format;
use crate::encode;
use crate::plan::{self, Target};
use crate::pull::{Client, Compression, Layer, Link, Machine, Pull, simulate};

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
    /// The client's name.
    pub client: &'static str,
    /// The link's name.
    pub link: String,
    /// What it is.
    pub rates: Link,
    /// In the order of the forms.
    pub pulls: Vec<Pull>,
}

/// The image as it was built, and split by zstd at each number of layers.
pub fn forms(subject: &Subject, counts: &[u32]) -> Vec<Form> {
    let (files, links) = (&subject.files, subject.files.link_counts());
    let split = |count: &u32| {
        let target = plan::Options { target: Target::Layers(*count), only: None };
        let plan = plan::plan(files, &subject.analysis, &subject.estimates, &target);
        let layer = |l: &plan::PlannedLayer| {
            let entries = encode::Layer { entries: &l.entries, whiteouts: &l.whiteouts };
            Layer {
                stored: l.estimate,
                unpacked: encode::tar_size(files, &links, &entries),
                files: l.entries.len() as u64,
                compression: Compression::Zstd,
            }
        };
        Form { target: Some(*count), layers: plan.layers.iter().map(layer).collect() }
    };
    let built = Form { target: None, layers: subject.built.clone() };
    std::iter::once(built).chain(counts.iter().map(split)).collect()
}

/// Pulls of all forms by every client over every link, on one machine.
pub fn cold_pulls(
    forms: &[Form],
    clients: &[&Client],
    links: &[(String, Link)],
    machine: &Machine,
) -> Vec<ColdPulls> {
    let one = |client: &Client, (name, link): &(String, Link)| ColdPulls {
        client: client.name,
        link: name.clone(),
        rates: *link,
        pulls: forms.iter().map(|f| simulate(&f.layers, client, link, machine)).collect(),
    };
    links.iter().flat_map(|link| clients.iter().map(move |client| one(client, link))).collect()
}

impl From<Format> for Compression {
    fn from(format: Format) -> Self {
        match format {
            Format::Plain => Self::None,
            Format::Gzip => Self::Gzip,
            Format::Zstd => Self::Zstd,
        }
    }
}
