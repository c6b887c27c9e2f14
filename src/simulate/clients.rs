//! The one list of clients and registries that options name.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{ClientModel, MODELS, PROFILES, Profile};
use crate::base::error::Error;

/// A program that pulls or runs images, or a registry that stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Docker Engine before 23.
    Docker2010,
    /// Docker Engine from 23 on, with its graph drivers.
    Docker,
    /// containerd: Kubernetes nodes, and Docker Engine 29 by default.
    Containerd,
    /// containerd from 2.2 on, set to unpack several layers at a time.
    Containerd2,
    /// `ctr image pull`, containerd's command-line tool.
    Ctr,
    /// containerd on nodes that discard layers once they are unpacked, as EKS sets it up.
    Eks,
    /// podman and CRI-O.
    Podman,
    /// skopeo.
    Skopeo,
    /// containerd with soci-snapshotter's parallel pulls.
    Soci,
    /// bootc and composefs.
    Bootc,
    /// AWS Lambda.
    Lambda,
    /// Amazon ECR, a registry.
    Ecr,
    /// GitHub's container registry.
    Ghcr,
}

impl Client {
    /// Every client, in the order in which messages list them.
    pub const ALL: [Self; 13] = [
        Self::Docker2010,
        Self::Docker,
        Self::Containerd,
        Self::Containerd2,
        Self::Ctr,
        Self::Eks,
        Self::Podman,
        Self::Skopeo,
        Self::Soci,
        Self::Bootc,
        Self::Lambda,
        Self::Ecr,
        Self::Ghcr,
    ];

    /// Returns the name that options and JSON use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker2010 => "docker-20.10",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Containerd2 => "containerd-2",
            Self::Ctr => "ctr",
            Self::Eks => "eks",
            Self::Podman => "podman",
            Self::Skopeo => "skopeo",
            Self::Soci => "soci",
            Self::Bootc => "bootc",
            Self::Lambda => "lambda",
            Self::Ecr => "ecr",
            Self::Ghcr => "ghcr",
        }
    }

    /// Returns how this client pulls; `None` if relayer has no model of it.
    pub fn model(self) -> Option<&'static ClientModel> {
        MODELS.iter().find(|model| model.client == self)
    }

    /// Returns this client with its usual link and machine; `None` without a model.
    pub fn profile(self) -> Option<&'static Profile> {
        PROFILES.iter().find(|profile| profile.client.client == self)
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
            Error::malformed(format!("{text:?} is not a client; the clients are {names}"))
        })
    }
}
