//! What a registry holds and remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::answer::Answer;
use super::faults::{Fault, Faults};
use super::http::Head;
use super::profile::{Profile, Redirect};

/// A repository.
#[derive(Debug, Default)]
pub struct Repo {
    pub blobs: BTreeMap<String, Arc<Vec<u8>>>,
    /// Media type and bytes by digest.
    pub manifests: BTreeMap<String, (String, Arc<Vec<u8>>)>,
    pub tags: BTreeMap<String, String>,
}

impl Repo {
    /// The digest of a manifest by tag or digest.
    pub fn resolve(&self, reference: &str) -> Option<String> {
        let is_known = self.manifests.contains_key(reference);
        if is_known { Some(reference.to_owned()) } else { self.tags.get(reference).cloned() }
    }
}

/// An upload that has begun.
#[derive(Debug, Default)]
pub struct Upload {
    pub repo: String,
    pub bytes: Vec<u8>,
    /// First and last byte of the first chunk.
    pub first: Option<(usize, usize)>,
    pub last: Option<(usize, usize)>,
    /// On the registry's clock, in seconds.
    pub begun: u64,
}

#[derive(Clone, Debug)]
pub struct Token {
    /// Repositories with actions.
    pub scopes: Vec<(String, Vec<String>)>,
    /// On the registry's clock, in seconds: when it is no longer valid.
    pub expires: u64,
}

/// A URL at the other host.
#[derive(Debug)]
pub struct Signed {
    pub bytes: Arc<Vec<u8>>,
    pub uses: usize,
}

/// A request and its answer, as the log has it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub(super) id: u64,
    pub connection: u64,
    /// Whether it came to the other host, which serves redirected blobs and perhaps tokens.
    pub elsewhere: bool,
    /// When its head had been read.
    pub at: Instant,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Of the answer, 0 if there was none.
    pub status: u16,
    /// Bytes of the answer's body that were written, including the framing of a chunked answer.
    pub sent: u64,
    pub fault: Option<Fault>,
}

impl Exchange {
    /// A header of the request, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// `METHOD target status`, for comparing whole logs.
    pub fn line(&self) -> String {
        format!("{} {} {}", self.method, self.target, self.status)
    }
}

/// All that changes.
#[derive(Debug)]
pub struct State {
    pub repos: BTreeMap<String, Repo>,
    pub uploads: BTreeMap<String, Upload>,
    pub tokens: BTreeMap<String, Token>,
    pub signed: BTreeMap<String, Signed>,
    pub faults: Faults,
    pub log: Vec<Exchange>,
    pub violations: Vec<String>,
    pub password: String,
    /// Repositories with an action that nobody may do.
    pub denied: BTreeSet<(String, String)>,
    /// Requests that were read and are not answered.
    pub in_flight: usize,
    /// The most there were at once.
    pub peak: usize,
    /// Requests to the registry itself, for throttling.
    pub requests: usize,
    /// `GET`s of manifests, for the limit of rate.
    pub pulls: usize,
    /// For names of uploads, tokens and the like.
    pub last_id: u64,
    /// Seconds.
    pub now: u64,
}

impl State {
    pub fn new(profile: &Profile) -> Self {
        Self {
            repos: BTreeMap::new(),
            uploads: BTreeMap::new(),
            tokens: BTreeMap::new(),
            signed: BTreeMap::new(),
            faults: Faults::none(),
            log: Vec::new(),
            violations: Vec::new(),
            password: profile.password.to_owned(),
            denied: BTreeSet::new(),
            in_flight: 0,
            peak: 0,
            requests: 0,
            pulls: 0,
            last_id: 0,
            now: 0,
        }
    }

    pub fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn repo(&mut self, name: &str) -> &mut Repo {
        self.repos.entry(name.to_owned()).or_default()
    }

    pub fn violation(&mut self, head: &Head, what: &str) {
        self.violations.push(format!("{} {}: {what}", head.method, head.target));
    }

    /// The upload of a request, unless it is unknown or too old.
    pub fn upload(&mut self, site: &Site, repo: &str, id: &str) -> Option<&mut Upload> {
        let now = self.now;
        let is_old = |u: &Upload| {
            u.repo != repo || site.profile.upload_lifetime.is_some_and(|s| now >= u.begun + s)
        };
        if self.uploads.get(id).is_some_and(is_old) {
            self.uploads.remove(id);
        }
        self.uploads.get_mut(id)
    }

    /// A blob from the other host.
    pub fn redirect(&mut self, site: &Site, bytes: Arc<Vec<u8>>, uses: usize) -> Answer {
        let id = format!("{:016x}", self.id());
        self.signed.insert(id.clone(), Signed { bytes, uses });
        let url = format!("http://{}/cdn/{id}?X-Signature=%2Fa%3D{id}&e=1", site.elsewhere);
        Answer::new(site.profile.redirect_status).with("Location", url)
    }

    pub fn redirects(site: &Site, head: &Head) -> bool {
        match site.profile.redirect {
            Redirect::Never => false,
            Redirect::Unranged => head.header("range").is_none(),
            Redirect::All => true,
        }
    }
}

/// What does not change: the profile and both addresses.
#[derive(Debug)]
pub struct Site {
    pub profile: Profile,
    pub host: String,
    pub elsewhere: String,
}
