//! Images in registries
//! ([distribution-spec](https://github.com/opencontainers/distribution-spec/blob/main/spec.md)).
//!
//! Types to know: [`Registries`], which opens images and begins pushes; [`Name`], the name of
//! an image; and [`RegistryClient`], which makes requests with authorization and repeats those
//! that fail. `download` and `upload` move one blob, `pull` and `push` an image. docs/REGISTRY.md tells
//! what is sent when, and what registries do otherwise than they should.

mod answer;
mod auth;
mod auth_file;
mod blob;
pub mod cache;
pub mod certificates;
mod client;
pub mod config_file;
pub mod credentials;
mod download;
mod helper;
pub mod http;
pub mod keychain;
mod manifests;
pub mod name;
mod net;
mod pieces;
mod proxy;
mod pull;
mod push;
mod quirks;
mod retry;
pub mod settings;
mod slots;
mod upload;
mod url;
mod warnings;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::files::Files;
use crate::base::error::{Error, Result};
use crate::base::transfers::Transfers;
use cache::Cache;
use certificates::certificates;
use client::RegistryClient;
use credentials::Credentials;
use download::Downloads;
use http::Http;
use keychain::Keychain;
use manifests::is_missing;
use name::Name;
pub use net::Timeouts;
use proxy::Proxies;
pub use push::{Push, PushStats};
pub use quirks::TransferSizes;
pub use retry::Retry;
use settings::{Endpoint, Settings};
use warnings::Warnings;

/// Connections for downloads to one registry.
const DOWNLOADS: usize = 8;

/// Number of tags that a message lists.
const LISTED_TAGS: usize = 10;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The file with credentials, in place of those that podman and docker have.
    pub authfile: Option<PathBuf>,
    /// Whether certificates are verified, and http is used for this machine only; `None` for what
    /// registries.conf says.
    pub tls_verify: Option<bool>,
    /// A folder with certificates for every registry.
    pub cert_dir: Option<PathBuf>,
    /// Repetition of what failed.
    pub retry: Retry,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// Sizes of transfers.
    pub sizes: TransferSizes,
    /// Where the progress of blobs is noted.
    pub transfers: Arc<Transfers>,
    /// Reads a variable of the environment.
    pub env: fn(&str) -> Option<OsString>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            authfile: None,
            tls_verify: None,
            cert_dir: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            sizes: TransferSizes::default(),
            transfers: Arc::default(),
            env: |name| std::env::var_os(name),
        }
    }
}

/// The registries of a process: their clients, and what is known about all of them.
#[derive(Default)]
pub struct Registries {
    options: RegistryOptions,
    cache: Arc<Cache>,
    settings: OnceLock<Settings>,
    keychain: OnceLock<Keychain>,
    clients: Mutex<Vec<Connected>>,
    warnings: Arc<Warnings>,
}

/// A registry that was connected to before.
struct Connected {
    host: String,
    verify: bool,
    /// They may differ by repository.
    credentials: Credentials,
    client: Arc<RegistryClient>,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Registries {
    /// Prepares to reach registries. Nothing is read or connected to yet.
    pub fn new(options: RegistryOptions, cache: Arc<Cache>) -> Self {
        Self { options, cache, ..Self::default() }
    }

    fn settings(&self) -> Result<&Settings> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::load(&self.options.env).map_err(not_missing)?;
        Ok(self.settings.get_or_init(|| settings))
    }

    fn keychain(&self) -> Result<&Keychain> {
        if let Some(keychain) = self.keychain.get() {
            return Ok(keychain);
        }
        let keychain = Keychain::new(self.options.authfile.clone(), &self.options.env)?;
        Ok(self.keychain.get_or_init(|| keychain))
    }

    fn client(&self, endpoint: &Endpoint) -> Result<Arc<RegistryClient>> {
        self.connected(endpoint).map_err(not_missing)
    }

    /// Returns the client of an endpoint, connected.
    fn connected(&self, endpoint: &Endpoint) -> Result<Arc<RegistryClient>> {
        let host = if endpoint.host == name::DEFAULT_HOST {
            name::DEFAULT_ENDPOINT
        } else {
            &endpoint.host
        };
        let verify = self.options.tls_verify.unwrap_or(!endpoint.insecure);
        let credentials = self.keychain()?.find(&endpoint.host, &endpoint.repository)?;
        // Held while connecting: several threads would connect to the same.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is =
            |c: &&Connected| c.host == host && c.verify == verify && c.credentials == credentials;
        if let Some(known) = clients.iter().find(is) {
            return Ok(Arc::clone(&known.client));
        }
        let certificates = certificates(host, self.options.cert_dir.as_deref(), &self.options.env)?;
        let proxies = Proxies::from_env(&self.options.env)?;
        let net = net::Net::new(verify, &certificates, proxies, DOWNLOADS, self.options.timeouts)?;
        let client = RegistryClient::connect(client::Connection {
            http: Arc::new(net) as Arc<dyn Http>,
            host,
            allow_http: !verify || url::is_loopback(host),
            credentials: credentials.clone(),
            retry: self.options.retry,
            downloads: DOWNLOADS,
            uploads: push::UPLOADS,
            warnings: Arc::clone(&self.warnings),
        })?;
        let client = Arc::new(client);
        let host = host.to_owned();
        clients.push(Connected { host, verify, credentials, client: Arc::clone(&client) });
        Ok(client)
    }

    /// Returns notes since the last call: on credentials that could not be read, and what registries warn
    /// of.
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = self.keychain.get().map(Keychain::take_notes).unwrap_or_default();
        notes.extend(self.warnings.take());
        notes
    }

    /// Opens the image of this name, from a mirror if registries.conf names one that has it.
    ///
    /// # Errors
    /// If there is no such image, or the registry can't be asked.
    pub(super) fn open(&self, name: &Name) -> Result<impl Files + Send + Sync + 'static> {
        let by_digest = name.digest.is_some();
        let mut endpoints = self
            .settings()?
            .endpoints(&name.host, &name.repository, by_digest)?
            .into_iter()
            .peekable();
        while let Some(endpoint) = endpoints.next() {
            let found = self.open_at(&endpoint, name);
            match found {
                // The registry itself is asked when a mirror fails, whatever the reason is.
                Err(_) if endpoints.peek().is_some() => {}
                found => return found,
            }
        }
        Err(Error::not_found("registries.conf names no location for this registry"))
    }

    fn open_at(&self, endpoint: &Endpoint, name: &Name) -> Result<pull::Remote> {
        let client = self.client(endpoint)?;
        let cache = Arc::clone(&self.cache);
        let repository = endpoint.repository.as_str();
        let range = self.options.sizes.range;
        let downloads = Downloads::new(
            Arc::clone(&client),
            repository,
            Arc::clone(&cache),
            range,
            DOWNLOADS,
            self.options.transfers.group("download", name.to_string()),
        );
        let opened = pull::Remote::new(Arc::clone(&client), repository, name, cache, downloads);
        opened.map_err(|e| if is_missing(&e) { missing(&client, repository, name, &e) } else { e })
    }

    /// Begins a push to `name`, after the registry was reached. Blobs are taken from the repositories of
    /// `mounts` that are in the same registry if they have them.
    ///
    /// # Errors
    /// If the registry can't be reached.
    pub fn push<'a>(
        &self,
        name: &Name,
        mounts: impl IntoIterator<Item = &'a Name>,
    ) -> Result<Push> {
        let endpoints = self.settings()?.endpoints(&name.host, &name.repository, true)?;
        let endpoint = endpoints.last().ok_or_else(|| {
            Error::not_found("registries.conf names no location for this registry")
        })?;
        let client = self.client(endpoint)?;
        let mut from: Vec<String> = Vec::new();
        for mount in mounts.into_iter().filter(|mount| mount.host == name.host) {
            if mount.repository != endpoint.repository && !from.contains(&mount.repository) {
                from.push(mount.repository.clone());
            }
        }
        from.truncate(push::MAX_MOUNTS);
        let transfers = self.options.transfers.group("upload", name.to_string());
        let (name, sizes) = (name.clone(), self.options.sizes);
        Ok(Push::new(client, &endpoint.repository, name, from, sizes, transfers))
    }
}

/// Returns an error of another kind if a file or program of the configuration is missing: whoever asks
/// whether an image exists must not take it for an answer.
fn not_missing(e: Error) -> Error {
    if is_missing(&e) { Error::refused(e.to_string()) } else { e }
}

/// Returns the error of a tag or repository that does not exist, with the tags that do.
fn missing(client: &RegistryClient, repository: &str, name: &Name, e: &Error) -> Error {
    let reference = name.reference();
    let Ok(tags) = client.tags(repository) else {
        return Error::not_found(format!("{e}; there may be no such repository, or it is private"));
    };
    if tags.is_empty() {
        return Error::not_found(format!("{e}; the repository has no tags"));
    }
    let more = match tags.len() {
        n if n > LISTED_TAGS => format!(" and {} more", n - LISTED_TAGS),
        _ => String::new(),
    };
    // The newest come last in most schemes of names.
    let listed = &tags[tags.len().saturating_sub(LISTED_TAGS)..];
    Error::not_found(format!(
        "there is no {reference} in {}/{repository}; its tags are {}{more}",
        name.host,
        listed.join(", ")
    ))
}
