//! Incompatibilities with clients and registries. Each rule says why.

use serde::Serialize;

use super::{InspectionTotals, LayerFacts};
use crate::base::byte_size::ByteSize;
use crate::base::text::count;
use crate::plan::MAX_LAYERS;
use crate::simulate::Client;

/// How severe an incompatibility is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The image can't be pulled, pushed or run.
    Fails,
    /// It costs memory or time, or fails with some versions.
    Risks,
}

/// An incompatibility of an image with clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The clients.
    pub clients: Vec<Client>,
    /// How severe it is.
    pub outcome: Severity,
    /// Numbers of the affected layers, from 1; empty if it concerns the whole image.
    pub layers: Vec<usize>,
    /// What was found, why it matters, and what to do about it.
    pub what: String,
}

/// The facts that the rules judge.
pub(super) struct Facts<'a> {
    pub(super) layers: &'a [LayerFacts],
    pub(super) totals: &'a InspectionTotals,
    /// Number of history entries that made a layer; `None` without a history.
    pub(super) history: Option<usize>,
    pub(super) manifest_bytes: u64,
    /// Whether an index of several platforms names the image.
    pub(super) in_index: bool,
}

use Client::{Bootc, Containerd, Docker, Docker2010, Ecr, Ghcr, Lambda, Podman};
use Severity::{Fails, Risks};

/// Maximum number of layers that overlayfs stacks (Linux, `fs/overlayfs/super.c`: `OVL_MAX_STACK`), and
/// that containers/storage allows.
const OVERLAY_LAYERS: usize = 500;
/// Number of layers to leave for images built on this one.
const ROOM: usize = 25;
/// ECR's limit for a layer (Service Quotas: 52,000 MiB).
const ECR_LAYER: u64 = 52_000 << 20;
/// GitHub's limit for a layer.
const GHCR_LAYER: u64 = 10_000_000_000;
/// Lambda's limit for an image, uncompressed (Lambda quotas: 10 GB).
const LAMBDA_IMAGE: u64 = 10 << 30;
/// Largest manifest that containerd and containers/image read.
const MANIFEST: u64 = 4 << 20;
/// The largest window that every decoder must support (RFC 8878 §3.1.1.1.2).
const WINDOW: u64 = 8 << 20;

/// The clients that have rules of their own.
pub(super) const JUDGED: [Client; 8] =
    [Docker2010, Docker, Containerd, Podman, Bootc, Lambda, Ecr, Ghcr];

/// Returns the client whose rules apply to `client`.
fn judged_as(client: Client) -> Client {
    match client {
        Client::Containerd2 | Client::Ctr | Client::Eks | Client::Soci => Containerd,
        Client::Skopeo => Podman,
        client => client,
    }
}

/// Returns the warnings for `clients`, those that fail first.
pub(super) fn check(facts: &Facts<'_>, clients: &[Client]) -> Vec<Warning> {
    let mut warnings = layer_warnings(facts);
    warnings.extend(image_warnings(facts));
    for warning in &mut warnings {
        let affected = clients.iter().filter(|c| warning.clients.contains(&judged_as(**c)));
        warning.clients = affected.copied().collect();
    }
    warnings.retain(|warning| !warning.clients.is_empty());
    warnings.sort_by_key(|warning| warning.outcome == Risks);
    warnings
}

fn layer_warnings(facts: &Facts<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut rule =
        |clients: &[Client], outcome, what: &str, is: &dyn Fn(&LayerFacts) -> bool| -> () {
            let layers: Vec<usize> =
                facts.layers.iter().filter(|l| is(l)).map(|l| l.number).collect();
            if !layers.is_empty() {
                let (clients, what) = (clients.to_vec(), what.to_owned());
                warnings.push(Warning { clients, outcome, layers, what });
            }
        };
    let zstd = |l: &LayerFacts| l.compression.starts_with("zstd");
    rule(
        &[Docker2010, Lambda],
        Fails,
        "zstd layers cannot be read (\"invalid tar header\"); use split --compression gzip",
        &zstd,
    );
    // containerd#9859; containers/image knows no zstd in schema 2.
    rule(
        &[Containerd, Podman],
        Fails,
        "zstd layers are refused under a Docker media type; they need an OCI manifest",
        &|l| zstd(l) && l.media_type.as_ref().is_some_and(|t| t.contains("docker")),
    );
    rule(
        &[Docker2010, Docker, Containerd, Podman, Bootc, Lambda],
        Risks,
        "the media type names a compression that the bytes do not have; clients that rely on it fail",
        &|l| {
            let Some(media_type) = &l.media_type else { return false };
            let named = ["gzip", "zstd"].into_iter().find(|c| media_type.ends_with(c));
            !l.compression.starts_with(named.unwrap_or("plain"))
        },
    );
    rule(
        &[Docker, Containerd, Podman, Bootc],
        Risks,
        &format!(
            "the zstd window is larger than {}; clients hold it in memory for each layer they \
             unpack, and strict decoders refuse it; split again without --long",
            ByteSize(WINDOW)
        ),
        &|l| l.zstd_window.is_some_and(|w| w > WINDOW),
    );
    // composefs-rs#381, bootc#2408.
    rule(
        &[Bootc],
        Fails,
        "only the first zstd frame of a layer is read, and there are several (as in zstd:chunked)",
        &|l| l.zstd_frames.is_some_and(|n| n > 1),
    );
    rule(&[Ecr], Fails, "the layer is larger than 52,000 MiB; use split --layer-size", &|l| {
        l.blob_bytes > ECR_LAYER
    });
    rule(&[Ghcr], Fails, "the layer is larger than 10 GB; use split --layer-size", &|l| {
        l.blob_bytes > GHCR_LAYER
    });
    warnings
}

fn image_warnings(facts: &Facts<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |clients: &[Client], outcome, what: String| {
        warnings.push(Warning { clients: clients.to_vec(), outcome, layers: Vec::new(), what });
    };
    let (depth, most) = (facts.totals.layers, MAX_LAYERS as usize);
    if depth > most {
        // moby, layer/layer_store.go: maxLayerDepth.
        warn(
            &[Docker2010, Docker],
            Fails,
            format!(
                "{depth} layers exceed the limit of {most} (\"max depth exceeded\"); use split"
            ),
        );
    } else if depth > most - ROOM {
        warn(
            &[Docker2010, Docker],
            Risks,
            format!(
                "it has {depth} of {most} possible layers; few are left for images built on it"
            ),
        );
    }
    if depth > OVERLAY_LAYERS {
        warn(
            &[Containerd, Podman, Bootc],
            Fails,
            format!("{depth} layers exceed overlayfs's limit of {OVERLAY_LAYERS}; use split"),
        );
    }
    if facts.manifest_bytes > MANIFEST {
        let bytes = ByteSize(facts.manifest_bytes);
        warn(&[Containerd, Podman], Fails, format!("the manifest has {bytes}; the limit is 4 MiB"));
    }
    if facts.totals.tar_bytes > LAMBDA_IMAGE {
        let bytes = ByteSize(facts.totals.tar_bytes);
        warn(&[Lambda], Fails, format!("the image has {bytes} uncompressed; the limit is 10 GB"));
    }
    if facts.in_index {
        let what = "an index is refused; use split --platform to write the image of one platform";
        warn(&[Lambda], Fails, what.to_owned());
    }
    if let Some(lines) = facts.history.filter(|lines| *lines != facts.totals.layers) {
        // rules_oci#645: UnsupportedImageLayerDetected.
        warn(
            &[Lambda],
            Risks,
            format!(
                "the history lists {}, but the image has {}; split writes a history that matches",
                count(lines as u64, "layer"),
                count(facts.totals.layers as u64, "layer")
            ),
        );
    }
    warnings
}
