//! The options of `split --previous`.

use clap::Args;

use super::client;
use super::load::PreviousImage;
use crate::base::defaults;
use crate::model::path_pattern::PathPattern;
use crate::plan::MAX_LAYERS;
use crate::plan::update::{self, CostModel, TargetClients};
use crate::simulate::{ClientModel, Reuse};
use crate::transport::Reference;

/// Options of `--previous`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Updates")]
pub(super) struct UpdateArgs {
    /// Keep layers of this image, which clients have, byte for byte if that makes the update small, and
    /// carry over timestamps that differ without other changes
    #[arg(long, value_name = "IMAGE")]
    previous: Option<Reference>,
    /// Split without --previous if its image does not exist yet, so that one command line serves every build
    #[arg(long, requires = "previous")]
    pub(super) previous_if_exists: bool,
    /// Limit the share of dead bytes, which kept layers hold and the image does not use
    #[arg(long, value_name = "PERCENT", default_value_t = Percent(defaults::MAX_DEAD), requires = "previous")]
    max_dead: Percent,
    /// Limit the number of layers
    #[arg(long, value_name = "N", default_value_t = defaults::UPDATE_LAYERS, requires = "previous",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LAYERS)))]
    pub(super) max_layers: u32,
    /// Set the cost of a dead byte relative to a downloaded byte [default: 0.5, or 0.3 if --client goes
    /// by digest]
    #[arg(long, value_name = "COST", requires = "previous", value_parser = cost)]
    beta: Option<f64>,
    /// Drop layers that hold deleted or overwritten files matching PATTERN, such as secrets: `id_rsa` in
    /// any folder, `/root/.ssh` and everything below it, or a glob such as `/srv/**/*.key`; may be
    /// repeated
    #[arg(long, value_name = "PATTERN", requires = "previous")]
    purge: Vec<PathPattern>,
    /// Keep layers that hold likely secrets in deleted files; by default they are dropped
    #[arg(long, requires = "previous")]
    keep_secrets: bool,
    /// Optimise updates of this client: some recognise layers by chain ID, as docker and eks do,
    /// others by digest [default: the mean of both]
    #[arg(long, value_name = "CLIENT", value_parser = client::model(), requires = "previous")]
    client: Option<&'static ClientModel>,
    /// Keep all timestamps as they are in IMAGE
    #[arg(long, requires = "previous")]
    exact: bool,
}

/// Parses the cost of a byte.
fn cost(text: &str) -> std::result::Result<f64, &'static str> {
    let cost = text.parse().ok().filter(|cost: &f64| cost.is_finite() && *cost >= 0.0);
    cost.ok_or("use a number of 0 or more")
}

/// A share, written `20%` or `20`.
#[derive(Debug, Clone, Copy)]
struct Percent(f64);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        match number.parse::<f64>() {
            Ok(n) if (0.0..=100.0).contains(&n) => Ok(Self(n / 100.0)),
            _ => Err("use a number from 0 to 100, as in 20%".into()),
        }
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

impl UpdateArgs {
    /// Returns the options of the update.
    pub(super) fn options(&self) -> update::UpdateOptions {
        let clients = match self.client.map(|client| client.reuse) {
            None => TargetClients::Any,
            Some(Reuse::Chain) => TargetClients::Chain,
            Some(Reuse::Digest | Reuse::DiffId) => TargetClients::Set,
        };
        let cost_model = CostModel {
            clients,
            beta: self.beta.unwrap_or_else(|| clients.dead_cost()),
            max_dead: self.max_dead.0,
            max_layers: self.max_layers,
        };
        let purge = self.purge.clone();
        update::UpdateOptions {
            cost_model,
            purge,
            keep_secrets: self.keep_secrets,
            exact: self.exact,
        }
    }

    /// Returns the previous image, if there is one.
    pub(super) fn previous(&self) -> Option<PreviousImage<'_>> {
        let if_exists = self.previous_if_exists;
        self.previous.as_ref().map(|image| PreviousImage { image, if_exists })
    }
}
