//! Options of registries.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::Args;

use super::size::Size;
use super::terminal::Terminal;
use crate::base::defaults;
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::base::transfers::Transfers;
use crate::transport::registry::cache::Cache;
use crate::transport::registry::name::Name;
use crate::transport::registry::{Registries, RegistryOptions};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry options")]
pub(super) struct RegistryArgs {
    /// Read credentials from this file [default: the files of podman and docker]
    #[arg(long, global = true, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Verify certificates, and use http only for this machine [default: as in registries.conf]
    #[arg(long, global = true, value_name = "BOOL")]
    tls_verify: Option<bool>,
    /// Read certificates of the registry and of the client from this folder: `*.crt`, `*.cert`, `*.key`
    #[arg(long, global = true, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Use this --authfile for the images that are read
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    src_authfile: Option<PathBuf>,
    /// Use this --tls-verify for the images that are read
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true)]
    src_tls_verify: Option<bool>,
    /// Use this --cert-dir for the images that are read
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    src_cert_dir: Option<PathBuf>,
    /// Use this --authfile for the image that is written
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    dest_authfile: Option<PathBuf>,
    /// Use this --tls-verify for the image that is written
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true)]
    dest_tls_verify: Option<bool>,
    /// Use this --cert-dir for the image that is written
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    dest_cert_dir: Option<PathBuf>,
    /// Take blobs from this repository of the registry instead of uploading them, besides those of the
    /// images that are read; may be repeated
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(super) mount_from: Vec<Name>,
    /// Keep downloaded blobs in this folder [default: ~/.cache/relayer]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Limit the size of that folder; 0 keeps nothing
    #[arg(long, global = true, value_name = "SIZE", default_value_t = Size(defaults::CACHE))]
    cache_size: Size,
    /// Where the progress of blobs is noted.
    #[arg(skip)]
    pub(super) transfers: Arc<Transfers>,
    #[arg(skip)]
    opened_cache: OnceLock<Arc<Cache>>,
    #[arg(skip)]
    sources: OnceLock<Arc<Registries>>,
    #[arg(skip)]
    destinations: OnceLock<Arc<Registries>>,
}

impl RegistryArgs {
    /// Returns the registries to read from.
    pub(super) fn sources(&self) -> Result<Arc<Registries>> {
        let side = (&self.src_authfile, self.src_tls_verify, &self.src_cert_dir);
        self.registries(&self.sources, side)
    }

    /// Returns the registries to write to.
    pub(super) fn destinations(&self) -> Result<Arc<Registries>> {
        let source = (&self.src_authfile, self.src_tls_verify, &self.src_cert_dir);
        let side = (&self.dest_authfile, self.dest_tls_verify, &self.dest_cert_dir);
        if source == side {
            // The same connections and tokens.
            return self.sources();
        }
        self.registries(&self.destinations, side)
    }

    /// Returns the registries of one side, whose own options come before those of both.
    fn registries(
        &self,
        slot: &OnceLock<Arc<Registries>>,
        (authfile, tls_verify, cert_dir): (&Option<PathBuf>, Option<bool>, &Option<PathBuf>),
    ) -> Result<Arc<Registries>> {
        let options = RegistryOptions {
            authfile: authfile.clone().or_else(|| self.authfile.clone()),
            tls_verify: tls_verify.or(self.tls_verify),
            cert_dir: cert_dir.clone().or_else(|| self.cert_dir.clone()),
            transfers: Arc::clone(&self.transfers),
            ..RegistryOptions::default()
        };
        let cache = self.cache()?;
        Ok(Arc::clone(slot.get_or_init(|| Arc::new(Registries::new(options, cache)))))
    }

    /// Returns the folder of the cache; `None` if there is no place for one.
    fn cache_dir(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(|| Cache::default_dir(&|name| std::env::var_os(name)))
    }

    /// Opens the cache. The default one may be missing, as in a container without a home.
    pub(super) fn cache(&self) -> Result<Arc<Cache>> {
        if let Some(cache) = self.opened_cache.get() {
            return Ok(Arc::clone(cache));
        }
        let cache = match self.cache_dir() {
            Some(dir) if self.cache_size.0 > 0 => match Cache::open(&dir, self.cache_size.0) {
                Err(e) if self.cache.is_some() => return Err(e),
                opened => opened.unwrap_or_default(),
            },
            _ => Cache::default(),
        };
        Ok(Arc::clone(self.opened_cache.get_or_init(|| Arc::new(cache))))
    }

    /// Opens the cache whatever its maximum size is.
    pub(super) fn whole_cache(&self) -> Result<Cache> {
        self.cache_dir().map_or_else(|| Ok(Cache::default()), |dir| Cache::open(&dir, u64::MAX))
    }

    /// Prints what was found out about credentials.
    pub(super) fn print_notes(&self, terminal: &Terminal) {
        for registries in [&self.sources, &self.destinations].into_iter().filter_map(OnceLock::get)
        {
            registries.take_notes().iter().for_each(|note| terminal.note(note));
        }
    }
}
