//! Names of clients on the command line.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::base::error::Error;
use crate::simulate::{Client, ClientModel, MODELS, Profile};

/// Parses the name of any client or registry.
pub(super) fn any() -> impl TypedValueParser<Value = Client> {
    PossibleValuesParser::new(Client::ALL.map(Client::name)).try_map(|name| name.parse::<Client>())
}

/// Parses the name of a client whose pulls can be simulated.
pub(super) fn model() -> impl TypedValueParser<Value = &'static ClientModel> {
    simulated(Client::model)
}

/// Parses the name of a client as the profile with its usual link and machine.
pub(super) fn profile() -> impl TypedValueParser<Value = &'static Profile> {
    simulated(Client::profile)
}

fn simulated<T: Clone + Send + Sync + 'static>(
    get: fn(Client) -> Option<T>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(MODELS.map(|model| model.client.name())).try_map(move |name| {
        let client: Client = name.parse()?;
        get(client)
            .ok_or_else(|| Error::unsupported(format!("pulls by {client} are not simulated")))
    })
}
