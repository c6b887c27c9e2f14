//! A registry for tests, in this process and without TLS. A [`Profile`] makes it behave like one of
//! the real registries, and [`Faults`] make it fail. It verifies digests, refuses manifests whose
//! blobs are missing, logs all requests, and records what clients should not do:
//!
//! ```ignore
//! let registry = TestRegistry::start(Profile::ecr());
//! registry.create_repo("app");
//! registry.set_faults(Faults::none().then(On::UploadPut, Fault::ResetRequest(1000)));
//! // Push to registry.reference("app:v1") with registry.auth_file().
//! assert_eq!(registry.tags("app"), ["v1"]);
//! assert_eq!(registry.violations(), [""; 0]);
//! ```

mod answer;
mod auth;
mod by_hand;
mod fault_tests;
mod faults;
mod http;
mod judges;
mod profile;
mod pull;
mod push;
mod relayer;
mod route;
mod serve;
mod state;
mod tests;

use std::net::TcpListener;
use std::sync::Arc;

use serde_json::{Value, json};

pub use auth::REFRESH_TOKEN;
pub use faults::{Fault, Faults, On};
pub use profile::{
    Auth, Broken, Mount, Patches, Profile, RangeReport, Redirect, SinglePost, Throttle,
};
pub use state::Exchange;

use crate::image::digest;
use serve::Shared;
use state::Site;

/// A registry on two ports of its own. Dropping it stops it.
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

    /// The host that blobs are redirected to, and that has the token service of some profiles.
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

    /// Replace the password, as if the old one had expired.
    pub fn set_password(&self, password: &str) {
        password.clone_into(&mut self.0.state().password);
    }

    /// All tokens given out so far, to search output for leaks.
    pub fn tokens(&self) -> Vec<String> {
        self.0.state().tokens.keys().cloned().collect()
    }

    /// Advance the clock of tokens and uploads, which otherwise stands still, by some seconds.
    pub fn advance(&self, seconds: u64) {
        self.0.state().now += seconds;
    }

    /// Forbid an action on a repository: `pull`, `push` or `delete`.
    pub fn deny(&self, repo: &str, action: &str) {
        self.0.state().denied.insert((repo.to_owned(), action.to_owned()));
    }

    /// Replace the schedule of faults.
    pub fn set_faults(&self, faults: Faults) {
        self.0.state().faults = faults;
    }

    pub fn create_repo(&self, repo: &str) {
        self.0.state().repo(repo);
    }

    /// Store a blob and return its digest.
    pub fn put_blob(&self, repo: &str, bytes: &[u8]) -> String {
        let name = digest(bytes);
        self.0.state().repo(repo).blobs.insert(name.clone(), Arc::new(bytes.to_vec()));
        name
    }

    /// Remove a blob, as a garbage collector does.
    pub fn remove_blob(&self, repo: &str, digest: &str) {
        self.0.state().repo(repo).blobs.remove(digest);
    }

    /// Store a blob under a digest that is not its own.
    pub fn corrupt_blob(&self, repo: &str, digest: &str, bytes: &[u8]) {
        self.0.state().repo(repo).blobs.insert(digest.to_owned(), Arc::new(bytes.to_vec()));
    }

    /// Store a manifest without checks, tag it unless the reference is a digest, and return its digest.
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

    /// Store the files of an OCI layout, as from `Image::oci_files`, tag its only root, and return the
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

    /// The number of uploads that were neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.0.quiet().uploads.len()
    }

    /// All requests in the order of arrival. Waits up to five seconds until none is in flight.
    pub fn log(&self) -> Vec<Exchange> {
        self.0.quiet().log.clone()
    }

    pub fn clear_log(&self) {
        self.0.quiet().log.clear();
    }

    /// Total bytes of the bodies of requests, and of answers, in the log.
    pub fn bytes(&self) -> (u64, u64) {
        let log = self.log();
        (log.iter().map(|e| e.received).sum(), log.iter().map(|e| e.sent).sum())
    }

    /// The largest number of requests in flight at the same time.
    pub fn peak(&self) -> usize {
        self.0.quiet().peak
    }

    /// Violations of the protocol by clients.
    pub fn violations(&self) -> Vec<String> {
        self.0.quiet().violations.clone()
    }

    /// The text of an `auth.json` with the user's password.
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
