//! Mirrors and other settings of registries, in `registries.conf`.
//!
//! Only the `[[registry]]` tables of version 2 of the format are used, as `containers-registries.conf(5)`
//! and `pkg/sysregistriesv2` of containers/image describe them. Names are complete, as for docker: short
//! names and the registries to search have no meaning here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config_file::{Environment, check_host, path, read};
use crate::base::error::{Context, Error, Result};

/// The file of the system.
const SYSTEM_FILE: &str = "etc/containers/registries.conf";

/// The file of a user, in the home folder.
const USER_FILE: &str = ".config/containers/registries.conf";

/// Where an image is, as one of several places to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the registry, `host[:port]`.
    pub host: String,
    /// The repository on it.
    pub repository: String,
    /// Whether plain HTTP and certificates that no one vouches for are allowed.
    pub insecure: bool,
}

/// The `[[registry]]` tables of all files.
#[derive(Debug, Default)]
pub struct Settings {
    /// By prefix, with the file that a table comes from.
    registries: BTreeMap<String, (Registry, PathBuf)>,
}

/// A file in version 2 of the format, and what shows that it has version 1.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Registry>,
    registries: Option<Version1>,
}

#[derive(Debug, Deserialize)]
struct Version1 {
    insecure: Option<toml::Table>,
    block: Option<toml::Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(rename = "pull-from-mirror")]
    pulls: Option<Pulls>,
}

/// The pulls that a mirror is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pulls {
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

impl Settings {
    /// Reads the settings: the file that `CONTAINERS_REGISTRIES_CONF` names, or
    /// `~/.config/containers/registries.conf`, or `/etc/containers/registries.conf`, and then the files
    /// `*.conf` in `/etc/containers/registries.conf.d` and `~/.config/containers/registries.conf.d`, in
    /// the order of their names. If the user's own file is used, so are the user's folder only. A table
    /// replaces one of the same prefix in an earlier file (`containers-registries.conf.d(5)`).
    ///
    /// # Errors
    /// If a file can't be read or is not valid, or the one in the variable is missing.
    pub fn load(env: Environment<'_>) -> Result<Self> {
        Self::load_in(Path::new("/"), env)
    }

    /// Reads the settings of a system whose root folder is `root`.
    fn load_in(root: &Path, env: Environment<'_>) -> Result<Self> {
        let system = root.join(SYSTEM_FILE);
        let user = path(env, "HOME").map(|home| home.join(USER_FILE));
        let named = path(env, "CONTAINERS_REGISTRIES_CONF");
        let own = user.clone().filter(|file| named.is_none() && file.exists());
        let mut folders = Vec::new();
        if own.is_none() {
            folders.push(system.with_extension("conf.d"));
        }
        folders.extend(user.map(|file| file.with_extension("conf.d")));

        let mut settings = Self::default();
        let file = named.clone().or(own).unwrap_or(system);
        if !settings.add(&file)? && named.is_some() {
            let e = Error::not_found("there is no such file; correct CONTAINERS_REGISTRIES_CONF");
            return Err(e.context(reading(&file)));
        }
        for folder in folders {
            for file in drop_ins(&folder)? {
                settings.add(&file)?;
            }
        }
        Ok(settings)
    }

    /// Adds the tables of a file. Returns whether the file exists.
    fn add(&mut self, file: &Path) -> Result<bool> {
        let Some(bytes) = read(file).with_context(|| reading(file))? else { return Ok(false) };
        let tables = parse(&bytes).with_context(|| reading(file))?;
        // The first of several tables in one file wins, the last of several files.
        for registry in tables.into_iter().rev() {
            self.registries.insert(registry.prefix.clone(), (registry, file.to_owned()));
        }
        Ok(true)
    }

    /// Returns where to look for a repository of a registry `host[:port]`, for an image that is named
    /// `by_digest` or by tag: mirrors first, and the place itself last. Pushes go to the last only.
    ///
    /// # Errors
    /// If the repository is blocked, or a place has no valid name.
    pub fn endpoints(
        &self,
        host: &str,
        repository: &str,
        by_digest: bool,
    ) -> Result<Vec<Endpoint>> {
        let name = format!("{host}/{repository}");
        let matches = self.registries.values().filter_map(|(registry, file)| {
            let end = match_end(&registry.prefix, &name)?;
            // A prefix without a wildcard is the more exact one of two that are as long.
            Some(((registry.prefix.len(), !registry.prefix.starts_with('*')), end, registry, file))
        });
        let Some((_, end, registry, file)) = matches.max_by_key(|(length, ..)| *length) else {
            let (host, repository) = (host.to_owned(), repository.to_owned());
            return Ok(vec![Endpoint { host, repository, insecure: false }]);
        };
        if registry.blocked {
            return Err(Error::refused(format!(
                "{name} is blocked: prefix {:?} in {}",
                registry.prefix,
                file.display()
            )));
        }
        let rest = &name[end..];
        let used = registry.mirror.iter().filter(|mirror| match mirror.pulls {
            None if registry.mirror_by_digest_only => by_digest,
            Some(Pulls::DigestOnly) => by_digest,
            Some(Pulls::TagOnly) => !by_digest,
            None | Some(Pulls::All) => true,
        });
        let mut places: Vec<_> =
            used.map(|mirror| (format!("{}{rest}", mirror.location), mirror.insecure)).collect();
        let own = if registry.location.is_empty() {
            name.clone()
        } else {
            format!("{}{rest}", registry.location)
        };
        places.push((own, registry.insecure));
        let endpoints = places.into_iter().map(|(place, insecure)| endpoint(&place, insecure));
        let endpoints: Result<_> = endpoints.collect();
        endpoints
            .with_context(|| format!("{name}: prefix {:?} in {}", registry.prefix, file.display()))
    }
}

fn reading(file: &Path) -> String {
    format!("reading {}", file.display())
}

/// Returns the files `*.conf` in a folder, in the order of their names.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.path();
            if file.extension() == Some(OsStr::new("conf")) && !entry.file_type()?.is_dir() {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    };
    match list() {
        Err(e) if matches!(e.io_kind(), Some(ErrorKind::NotFound | ErrorKind::NotADirectory)) => {
            Ok(Vec::new())
        }
        files => files.with_context(|| reading(folder)),
    }
}

/// Parses a file, and checks its tables as `postProcessRegistries` of containers/image does.
fn parse(bytes: &[u8]) -> Result<Vec<Registry>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = line_at(bytes, e.valid_up_to());
        Error::malformed(format!("line {line}: it is not UTF-8"))
    })?;
    let document: Document = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|span| format!("line {}: ", line_at(bytes, span.start)));
        Error::malformed(format!("{}{}", line.unwrap_or_default(), e.message()))
    })?;
    if document.registries.is_some_and(|old| old.insecure.is_some() || old.block.is_some()) {
        return Err(Error::unsupported(
            "[registries.insecure] and [registries.block] are of version 1 of the format; write \
             [[registry]] tables",
        ));
    }
    let mut registries = document.registry;
    for registry in &mut registries {
        registry.check().map_err(|e| {
            let of =
                [&registry.prefix, &registry.location].into_iter().find(|name| !name.is_empty());
            e.context(format!("[[registry]] {:?}", of.map_or("", |name| name)))
        })?;
    }
    Ok(registries)
}

/// Returns the number of the line of a byte, from 1.
fn line_at(bytes: &[u8], at: usize) -> usize {
    bytes.iter().take(at).filter(|b| **b == b'\n').count() + 1
}

impl Registry {
    /// Checks a table, and completes its prefix.
    fn check(&mut self) -> Result<()> {
        for name in [&mut self.prefix, &mut self.location] {
            *name = trimmed(name)?;
        }
        if self.prefix.is_empty() {
            self.prefix.clone_from(&self.location);
        }
        if self.prefix.is_empty() {
            return Err(Error::malformed("it has neither a prefix nor a location"));
        }
        let wildcard = self.prefix.starts_with("*.");
        if wildcard && self.prefix.contains(['/', '@', ':']) {
            return Err(Error::malformed("a prefix with * is a host only, such as *.example.com"));
        }
        if !wildcard && self.location.is_empty() {
            return Err(Error::malformed("it has no location"));
        }
        for mirror in &mut self.mirror {
            mirror.location = trimmed(&mirror.location)?;
            if mirror.location.is_empty() {
                return Err(Error::malformed("a mirror has no location"));
            }
            if self.mirror_by_digest_only && mirror.pulls.is_some() {
                return Err(Error::malformed(
                    "it has both mirror-by-digest-only and pull-from-mirror; remove one",
                ));
            }
        }
        Ok(())
    }
}

/// Returns a prefix or location without slashes at its end.
fn trimmed(name: &str) -> Result<String> {
    if name.starts_with("http://") || name.starts_with("https://") {
        return Err(Error::malformed(format!("{name:?} is a URL; write HOST[:PORT][/PATH]")));
    }
    Ok(name.trim_end_matches('/').to_owned())
}

/// Returns the end of the part of a name `host[:port]/repository` that a prefix matches. As for
/// containers/image, a host without a port matches all its ports.
fn match_end(prefix: &str, name: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            let host = name.split([':', '/']).next().unwrap_or_default();
            host.ends_with(domain).then_some(host.len())?
        }
        _ => name.starts_with(prefix).then_some(prefix.len())?,
    };
    matches!(name.as_bytes().get(end), None | Some(b':' | b'/')).then_some(end)
}

/// Splits a name into the host and the repository.
fn endpoint(name: &str, insecure: bool) -> Result<Endpoint> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
    let split = name.split_once('/').filter(|(_, repository)| {
        repository.bytes().all(allowed) && repository.split('/').all(|part| !part.is_empty())
    });
    let (host, repository) = split.ok_or_else(|| {
        Error::malformed(format!(
            "{name:?} is not a valid repository; write HOST[:PORT]/REPOSITORY"
        ))
    })?;
    check_host(host)?;
    Ok(Endpoint { host: host.to_owned(), repository: repository.to_owned(), insecure })
}

#[cfg(test)]
mod tests;
