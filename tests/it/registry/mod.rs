//! A registry for tests: in this process, without TLS, as one of the registries that there are
//! ([`Profile`]), with faults on purpose ([`Faults`]). It is strict: what is not digest for digest
//! complete is refused, and what a client should not do is noted.

mod answer;
mod auth;
mod by_hand;
mod fault_tests;
mod faults;
mod http;
mod profile;
mod pull;
mod push;
mod route;
mod serve;
mod skopeo;
mod state;
mod tests;

use std::net::TcpListener;
use std::sync::Arc;

use serde_json::{Value, json};

pub use auth::REFRESH_TOKEN;
pub use faults::{Fault, Faults, On};
pub use profile::{Auth, Mount, Patches, Profile, RangeReport, Redirect, SinglePost, Throttle};
pub use state::Exchange;

use crate::image::digest;
use serve::Shared;
use state::Site;

/// A registry on a port of its own, until it is dropped.
#[derive(Debug)]
pub struct TestRegistry(Arc<Shared>);

impl TestRegistry {
    pub fn start(profile: Profile) -> Self {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (main, other) = (listener(), listener());
        let [host, elsewhere] = [&main, &other].map(|l| l.local_addr().unwrap().to_string());
        let shared = Arc::new(Shared::new(Site { profile, host, elsewhere }));
        shared.listen(main, false);
        shared.listen(other, true);
        Self(shared)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.0.site.host
    }

    /// Where redirects go, and where the token service is, if not at [`Self::host`].
    pub fn other_host(&self) -> &str {
        &self.0.site.elsewhere
    }

    /// `docker://HOST/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.host())
    }

    pub fn user(&self) -> &str {
        self.0.site.profile.user
    }

    pub fn password(&self) -> String {
        self.0.state().password.clone()
    }

    /// Another password from now on: the old one has expired.
    pub fn set_password(&self, password: &str) {
        password.clone_into(&mut self.0.state().password);
    }

    /// All tokens that were given out, for a search for leaks.
    pub fn tokens(&self) -> Vec<String> {
        self.0.state().tokens.keys().cloned().collect()
    }

    /// Let time pass for tokens and uploads, in seconds. It does not pass otherwise.
    pub fn advance(&self, seconds: u64) {
        self.0.state().now += seconds;
    }

    /// Nobody may do this: `pull`, `push` or `delete`.
    pub fn deny(&self, repo: &str, action: &str) {
        self.0.state().denied.insert((repo.to_owned(), action.to_owned()));
    }

    /// The faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.state().faults = faults;
    }

    pub fn create_repo(&self, repo: &str) {
        self.0.state().repo(repo);
    }

    /// Store a blob. Its digest.
    pub fn put_blob(&self, repo: &str, bytes: &[u8]) -> String {
        let name = digest(bytes);
        self.0.state().repo(repo).blobs.insert(name.clone(), Arc::new(bytes.to_vec()));
        name
    }

    /// Take a blob away, as a garbage collector does.
    pub fn remove_blob(&self, repo: &str, digest: &str) {
        self.0.state().repo(repo).blobs.remove(digest);
    }

    /// Store a blob under a digest that is not its own.
    pub fn corrupt_blob(&self, repo: &str, digest: &str, bytes: &[u8]) {
        self.0.state().repo(repo).blobs.insert(digest.to_owned(), Arc::new(bytes.to_vec()));
    }

    /// Store a manifest without any check, and tag it unless the reference is a digest. Its digest.
    pub fn put_manifest(
        &self,
        repo: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        let name = digest(bytes);
        let mut state = self.0.state();
        let repo = state.repo(repo);
        repo.manifests.insert(name.clone(), (media_type.to_owned(), Arc::new(bytes.to_vec())));
        if !route::is_digest(reference) {
            repo.tags.insert(reference.to_owned(), name.clone());
        }
        name
    }

    /// Store the files of an OCI layout, as `Image::oci_files` has them, and tag its only root. The
    /// root's digest.
    pub fn add_image(&self, repo: &str, tag: &str, files: &[(String, Vec<u8>)]) -> String {
        let find = |name: &str| &files.iter().find(|(n, _)| n == name).unwrap().1;
        let index: Value = serde_json::from_slice(find("index.json")).unwrap();
        let mut todo: Vec<Value> = index["manifests"].as_array().unwrap().clone();
        assert_eq!(todo.len(), 1, "an image has one root");
        let root = todo[0]["digest"].as_str().unwrap().to_owned();
        while let Some(descriptor) = todo.pop() {
            let name = descriptor["digest"].as_str().unwrap();
            let bytes = find(&format!("blobs/{}", name.replace(':', "/")));
            let media_type = descriptor["mediaType"].as_str().unwrap();
            if !media_type.contains("manifest") && !media_type.contains("index") {
                self.put_blob(repo, bytes);
                continue;
            }
            let reference = if name == root { tag } else { name };
            self.put_manifest(repo, reference, media_type, bytes);
            let manifest: Value = serde_json::from_slice(bytes).unwrap();
            for list in ["manifests", "layers"] {
                todo.extend(manifest[list].as_array().into_iter().flatten().cloned());
            }
            todo.extend(manifest.get("config").cloned());
        }
        root
    }

    /// Media type and bytes of a manifest, by tag or digest.
    pub fn manifest(&self, repo: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        let state = self.0.quiet();
        let repo = state.repos.get(repo)?;
        let (media_type, bytes) = repo.manifests.get(&repo.resolve(reference)?)?;
        Some((media_type.clone(), bytes.to_vec()))
    }

    pub fn blob(&self, repo: &str, digest: &str) -> Option<Vec<u8>> {
        let state = self.0.quiet();
        state.repos.get(repo)?.blobs.get(digest).map(|b| b.to_vec())
    }

    /// Digests of the blobs of a repository, sorted.
    pub fn blobs(&self, repo: &str) -> Vec<String> {
        self.list(repo, |r| r.blobs.keys().cloned().collect())
    }

    /// Digests of the manifests of a repository, sorted.
    pub fn manifests(&self, repo: &str) -> Vec<String> {
        self.list(repo, |r| r.manifests.keys().cloned().collect())
    }

    /// Tags of a repository, sorted.
    pub fn tags(&self, repo: &str) -> Vec<String> {
        self.list(repo, |r| r.tags.keys().cloned().collect())
    }

    fn list(&self, repo: &str, list: impl Fn(&state::Repo) -> Vec<String>) -> Vec<String> {
        self.0.quiet().repos.get(repo).map(list).unwrap_or_default()
    }

    /// Uploads that were begun and neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.0.quiet().uploads.len()
    }

    /// All requests in the order in which they came, when no request is in flight.
    pub fn log(&self) -> Vec<Exchange> {
        self.0.quiet().log.clone()
    }

    pub fn clear_log(&self) {
        self.0.quiet().log.clear();
    }

    /// Bytes of bodies of all requests, and of all answers, in the log.
    pub fn bytes(&self) -> (u64, u64) {
        let log = self.log();
        (log.iter().map(|e| e.received).sum(), log.iter().map(|e| e.sent).sum())
    }

    /// The most requests that were in flight at once.
    pub fn peak(&self) -> usize {
        self.0.quiet().peak
    }

    /// What clients did that they should not.
    pub fn violations(&self) -> Vec<String> {
        self.0.quiet().violations.clone()
    }

    /// The text of an `auth.json` that has the user's password.
    pub fn auth_file(&self) -> String {
        let text = format!("{}:{}", self.user(), self.password());
        json!({"auths": {self.host(): {"auth": auth::base64_of(text.as_bytes())}}}).to_string()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let is_fine = self.0.stop();
        assert!(is_fine || std::thread::panicking(), "a thread of the registry panicked");
    }
}
