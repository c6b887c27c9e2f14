//! Limits of an update, for pipelines: `update=50MB,layers=5`.

use std::fmt;
use std::str::FromStr;

use super::diff::Loads;
use crate::base::byte_size::ByteSize;
use crate::base::error::Error;
use crate::base::text::count;

/// A condition that fails an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UpdateLimit {
    /// A client that has the old image downloads more bytes than this.
    Bytes(ByteSize),
    /// It downloads more layers than this.
    Layers(u64),
}

/// Maximum downloads of clients that have the old image, however they recognise layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateLimits(Vec<UpdateLimit>);

impl FromStr for UpdateLimits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let limit = |text: &str| {
            let value = match text.trim().split_once('=') {
                Some(("update", size)) => size.parse().ok().map(UpdateLimit::Bytes),
                Some(("layers", n)) => n.parse().ok().map(UpdateLimit::Layers),
                _ => None,
            };
            value.ok_or_else(|| {
                Error::malformed(format!(
                    "{text:?} is not a limit; use update=50MB or layers=5, separated by commas"
                ))
            })
        };
        text.split(',').map(limit).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for UpdateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => write!(f, "update={size}"),
            Self::Layers(n) => write!(f, "layers={n}"),
        }
    }
}

impl UpdateLimits {
    /// Returns a line for each limit that an update exceeds, with the clients that do.
    pub fn exceeded(&self, loads: &Loads) -> Vec<String> {
        let Loads { chain, digest, diff_id, .. } = loads;
        let clients = [("chain ID", chain), ("digest", digest), ("diff ID", diff_id)];
        let mut lines = Vec::new();
        for limit in &self.0 {
            for (name, load) in clients {
                let (over, what) = match limit {
                    UpdateLimit::Bytes(most) => {
                        (load.bytes > most.0, ByteSize(load.bytes).to_string())
                    }
                    UpdateLimit::Layers(most) => (load.layers > *most, count(load.layers, "layer")),
                };
                if over {
                    lines.push(format!("{limit}: clients by {name} download {what}"));
                }
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::diff::Load;
    use super::*;

    #[test]
    fn an_update_exceeds_limits_for_each_kind_of_client() {
        let limits: UpdateLimits = "update=50MB, layers=2".parse().unwrap();
        let load = |layers, bytes| Load { layers, bytes, unpacked: 0 };
        let loads = Loads {
            chain: load(3, 60_000_000),
            digest: load(2, 50_000_000),
            diff_id: load(1, 50_000_001),
            cold: load(9, 90_000_000),
        };
        assert_eq!(
            limits.exceeded(&loads),
            [
                "update=50.0 MB: clients by chain ID download 60.0 MB",
                "update=50.0 MB: clients by diff ID download 50.0 MB",
                "layers=2: clients by chain ID download 3 layers",
            ]
        );
        for bad in ["", "update", "update=x", "layers=-1", "size=5"] {
            assert!(bad.parse::<UpdateLimits>().is_err(), "{bad}");
        }
    }
}
