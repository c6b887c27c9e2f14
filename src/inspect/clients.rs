//! What clients and registries would not take, or take badly. Each rule says why.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{Layer, Totals};
use crate::base::byte_size::ByteSize;
use crate::base::error::Error;
use crate::plan::MAX_LAYERS;

/// Who is to take an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Docker Engine before 23.
    Docker2010,
    /// Docker Engine from 23 on, with its graph drivers.
    Docker,
    /// containerd: Kubernetes nodes, and Docker Engine 29 by default.
    Containerd,
    /// podman, CRI-O, skopeo.
    Podman,
    /// bootc and composefs.
    Bootc,
    /// AWS Lambda.
    Lambda,
    /// Amazon ECR, a registry.
    Ecr,
    /// GitHub's registry.
    Ghcr,
}

impl Client {
    /// All that are known.
    pub const ALL: [Self; 8] = [
        Self::Docker2010,
        Self::Docker,
        Self::Containerd,
        Self::Podman,
        Self::Bootc,
        Self::Lambda,
        Self::Ecr,
        Self::Ghcr,
    ];

    /// Its name, as options take it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker2010 => "docker-20.10",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Bootc => "bootc",
            Self::Lambda => "lambda",
            Self::Ecr => "ecr",
            Self::Ghcr => "ghcr",
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Client {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl FromStr for Client {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::malformed(format!("{text:?} is no client known here: {names}"))
        })
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The image can't be pulled, pushed or run.
    Fails,
    /// It costs something, or some versions fail.
    Risks,
}

/// What a client would not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Whose.
    pub clients: Vec<Client>,
    /// How bad.
    pub outcome: Outcome,
    /// Numbers of the layers it is about, from 1; none when it is about the image.
    pub layers: Vec<usize>,
    /// What is so, why it matters, and what to do.
    pub what: String,
}

/// What the rules look at.
pub(super) struct Facts<'a> {
    /// The layers.
    pub(super) layers: &'a [Layer],
    /// All of them together.
    pub(super) totals: &'a Totals,
    /// Lines of the history that made a layer; `None` without a history.
    pub(super) history: Option<usize>,
    /// Bytes of the manifest.
    pub(super) manifest_bytes: u64,
    /// Whether an index of several platforms names the image.
    pub(super) in_index: bool,
}

use Client::{Bootc, Containerd, Docker, Docker2010, Ecr, Ghcr, Lambda, Podman};
use Outcome::{Fails, Risks};

/// overlayfs stacks no more layers (Linux, `fs/overlayfs/super.c`: `OVL_MAX_STACK`), and
/// containers/storage allows as many.
const OVERLAY_LAYERS: usize = 500;
/// Room for images that are built on this one.
const ROOM: usize = 25;
/// ECR's quota of a layer (Service Quotas: 52,000 MiB).
const ECR_LAYER: u64 = 52_000 << 20;
/// GitHub's limit of a layer.
const GHCR_LAYER: u64 = 10_000_000_000;
/// Lambda's limit of an image, uncompressed (Lambda quotas: 10 GB).
const LAMBDA_IMAGE: u64 = 10 << 30;
/// containerd and containers/image read no larger manifest.
const MANIFEST: u64 = 4 << 20;
/// RFC 8878 §3.1.1.1.2 asks decoders for no more.
const WINDOW: u64 = 8 << 20;

/// The warnings for the clients that are asked for, the bad ones first.
pub(super) fn check(facts: &Facts<'_>, clients: &[Client]) -> Vec<Warning> {
    let mut warnings = layer_warnings(facts);
    warnings.extend(image_warnings(facts));
    for warning in &mut warnings {
        warning.clients.retain(|client| clients.contains(client));
    }
    warnings.retain(|warning| !warning.clients.is_empty());
    warnings.sort_by_key(|warning| warning.outcome == Risks);
    warnings
}

fn layer_warnings(facts: &Facts<'_>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut rule = |clients: &[Client], outcome, what: &str, is: &dyn Fn(&Layer) -> bool| -> () {
        let layers: Vec<usize> = facts.layers.iter().filter(|l| is(l)).map(|l| l.number).collect();
        if !layers.is_empty() {
            let (clients, what) = (clients.to_vec(), what.to_owned());
            warnings.push(Warning { clients, outcome, layers, what });
        }
    };
    let zstd = |l: &Layer| l.compression.starts_with("zstd");
    rule(
        &[Docker2010, Lambda],
        Fails,
        "zstd layers can't be read (\"invalid tar header\"); split --compression gzip",
        &zstd,
    );
    // containerd#9859; containers/image knows no zstd in schema 2.
    rule(
        &[Containerd, Podman],
        Fails,
        "zstd layers under a media type of Docker's are refused; the manifest must be OCI's",
        &|l| zstd(l) && l.media_type.as_ref().is_some_and(|t| t.contains("docker")),
    );
    rule(
        &[Docker2010, Docker, Containerd, Podman, Bootc, Lambda],
        Risks,
        "the media type names another compression than the bytes have; clients that believe it fail",
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
            "the zstd window is larger than {}, which every client must hold in memory for each \
             layer it unpacks, and which strict decoders refuse; split again without --long",
            ByteSize(WINDOW)
        ),
        &|l| l.zstd_window.is_some_and(|w| w > WINDOW),
    );
    // composefs-rs#381, bootc#2408.
    rule(
        &[Bootc],
        Fails,
        "a layer of several zstd frames (zstd:chunked, for one) ends for it with the first",
        &|l| l.zstd_frames.is_some_and(|n| n > 1),
    );
    rule(&[Ecr], Fails, "a layer may have 52,000 MiB; split --layer-size", &|l| {
        l.blob_bytes > ECR_LAYER
    });
    rule(
        &[Ghcr],
        Fails,
        "a layer may have 10 GB, and must be uploaded in ten minutes; split --layer-size",
        &|l| l.blob_bytes > GHCR_LAYER,
    );
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
            format!("{depth} layers are more than {most} (\"max depth exceeded\"); split them"),
        );
    } else if depth > most - ROOM {
        warn(
            &[Docker2010, Docker],
            Risks,
            format!("{depth} of {most} layers leave little room for images built on this one"),
        );
    }
    if depth > OVERLAY_LAYERS {
        warn(
            &[Containerd, Podman, Bootc],
            Fails,
            format!("{depth} layers are more than overlayfs stacks, {OVERLAY_LAYERS}; split them"),
        );
    }
    if facts.manifest_bytes > MANIFEST {
        let bytes = ByteSize(facts.manifest_bytes);
        warn(&[Containerd, Podman], Fails, format!("the manifest has {bytes}, more than 4 MiB"));
    }
    if facts.totals.tar_bytes > LAMBDA_IMAGE {
        let bytes = ByteSize(facts.totals.tar_bytes);
        warn(&[Lambda], Fails, format!("{bytes} uncompressed are more than its 10 GB"));
    }
    if facts.in_index {
        let what = "it takes the manifest of one platform, and no index; split --platform";
        warn(&[Lambda], Fails, what.to_owned());
    }
    if let Some(lines) = facts.history.filter(|lines| *lines != facts.totals.layers) {
        // rules_oci#645: UnsupportedImageLayerDetected.
        warn(
            &[Lambda],
            Risks,
            format!(
                "the history tells of {lines} layers and the image has {}; split writes one that \
                 agrees",
                facts.totals.layers
            ),
        );
    }
    warnings
}
