//! Limits of `--fail-on`: `secret,waste=20%,size=500MB,depth=100`.

use std::fmt;
use std::str::FromStr;

use super::{Inspection, Severity};
use crate::base::byte_size::ByteSize;
use crate::base::error::Error;
use crate::base::text::count;

/// A condition that fails an inspection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The image has a likely secret.
    Secret,
    /// The image fails with a client.
    Client,
    /// The share of wasted bytes, from 0 to 1, is larger than this.
    Waste(f64),
    /// A client without any of its layers downloads more than this.
    Size(ByteSize),
    /// The image has more layers than this.
    Depth(usize),
}

/// The limits in the value of `--fail-on`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FailOn(pub Vec<Limit>);

impl FromStr for FailOn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split(',').map(limit).collect::<Result<_, _>>().map(Self)
    }
}

fn limit(text: &str) -> Result<Limit, Error> {
    let bad = || {
        Error::malformed(format!(
            "{text:?} is not a limit; use secret, client, waste=20%, size=500MB or depth=100, separated by commas"
        ))
    };
    match text.trim().split_once('=') {
        None if text.trim() == "secret" => Ok(Limit::Secret),
        None if text.trim() == "client" => Ok(Limit::Client),
        Some(("waste", share)) => {
            let percent = share.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
            let percent = percent.filter(|n| (0.0..=100.0).contains(n)).ok_or_else(bad)?;
            Ok(Limit::Waste(percent / 100.0))
        }
        Some(("size", size)) => size.parse().map(Limit::Size).map_err(|_| bad()),
        Some(("depth", n)) => n.parse().map(Limit::Depth).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret => f.write_str("secret"),
            Self::Client => f.write_str("client"),
            Self::Waste(share) => write!(f, "waste={}%", share * 100.0),
            Self::Size(size) => write!(f, "size={size}"),
            Self::Depth(n) => write!(f, "depth={n}"),
        }
    }
}

impl FailOn {
    /// Returns a line for each limit that an image exceeds.
    pub fn exceeded(&self, image: &Inspection) -> Vec<String> {
        let by = |limit: &Limit| {
            let what = match *limit {
                Limit::Secret => (!image.secrets.is_empty())
                    .then(|| count(image.secrets.len() as u64, "likely secret")),
                Limit::Client => {
                    let mut clients: Vec<_> = image
                        .warnings
                        .iter()
                        .filter(|w| w.outcome == Severity::Fails)
                        .flat_map(|w| w.clients.clone())
                        .collect();
                    clients.sort_unstable();
                    clients.dedup();
                    let names: Vec<_> = clients.iter().map(|c| c.name()).collect();
                    (!names.is_empty()).then(|| format!("fails with {}", names.join(", ")))
                }
                Limit::Waste(most) => (image.waste.share > most)
                    .then(|| format!("{:.1} % of the bytes are wasted", 100.0 * image.waste.share)),
                Limit::Size(most) => (image.totals.download_bytes > most.0).then(|| {
                    let about = if image.totals.estimated { "about " } else { "" };
                    format!("{about}{} to download", ByteSize(image.totals.download_bytes))
                }),
                Limit::Depth(most) => {
                    (image.totals.layers > most).then(|| count(image.totals.layers as u64, "layer"))
                }
            };
            what.map(|what| format!("{limit}: {what}"))
        };
        self.0.iter().filter_map(by).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_parsing_and_printing() {
        let limits: FailOn = "secret, waste=12.5%,size=1.5GB,depth=100,client".parse().unwrap();
        let text: Vec<_> = limits.0.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["secret", "waste=12.5%", "size=1.5 GB", "depth=100", "client"]);
        for bad in [
            "",
            "secrets",
            "waste",
            "waste=20",
            "waste=101%",
            "size=x",
            "depth=x",
            "secret,,client",
        ] {
            assert!(bad.parse::<FailOn>().is_err(), "{bad}");
        }
    }
}
