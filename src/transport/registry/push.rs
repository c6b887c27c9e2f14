//! Uploading images: blobs as soon as they are known, then the manifests, the tag at the very end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::auth::scope;
use super::client::RegistryClient;
use super::name::Name;
use super::quirks::TransferSizes;
use super::upload::{Arrival, Upload, Uploads};
use crate::base::error::{Context, Error, ErrorKind, NO_THREAD, Result};
use crate::base::progress::Progress;
use crate::base::temporary::Rollback;
use crate::base::transfers::{Transfer, TransferGroup};
use crate::model::content::Source;
use crate::model::digest::Digest;
use crate::transport::bundle::Bundle;
use crate::transport::files::document_blob;

/// How long the end of a process waits for uploads to be cancelled.
const CANCEL: Duration = Duration::from_secs(2);

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PushStats {
    /// Number of blobs that were uploaded.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Number of blobs that were taken from other repositories of the registry.
    pub mounted: u64,
    /// Number of blobs that the repository had.
    pub existed: u64,
    /// Number of manifests and indexes that were uploaded.
    pub manifests: u64,
}

/// A push in progress.
pub struct Push {
    shared: Arc<Shared>,
    name: Name,
    /// Cancels uploads in progress, also when a signal ends the process.
    unfinished: Rollback,
}

struct Shared {
    client: Arc<RegistryClient>,
    repository: String,
    mounts: Vec<String>,
    /// Of all requests, so that one token is enough: some registries check the source of a mount as well.
    scopes: Vec<String>,
    sizes: TransferSizes,
    queue: Mutex<Queue>,
    changed: Condvar,
    transfers: Arc<TransferGroup>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Digest, Source, Transfer)>,
    /// Every blob that was added.
    known: BTreeSet<Digest>,
    /// Number of blobs in progress.
    active: usize,
    workers: usize,
    stats: PushStats,
    failed: Option<Error>,
    /// Addresses of open uploads.
    sessions: BTreeMap<Digest, String>,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Number of uploads at a time.
pub(super) const UPLOADS: usize = 4;

/// Number of repositories that are asked for each blob: each costs a request.
pub(super) const MAX_MOUNTS: usize = 3;

impl Push {
    /// Begins a push to `name`. Blobs are taken from the repositories `mounts` of the same registry if
    /// they have them.
    pub(super) fn new(
        client: Arc<RegistryClient>,
        repository: &str,
        name: Name,
        mounts: Vec<String>,
        sizes: TransferSizes,
        transfers: Arc<TransferGroup>,
    ) -> Self {
        let from = mounts.iter().map(|from| scope(from, false));
        let shared = Shared {
            scopes: std::iter::once(scope(repository, true)).chain(from).collect(),
            client,
            repository: repository.to_owned(),
            mounts,
            sizes,
            queue: Mutex::default(),
            changed: Condvar::new(),
            transfers,
        };
        let shared = Arc::new(shared);
        let (unfinished, cancelled) = (Rollback::new(), Arc::downgrade(&shared));
        unfinished.call(move || {
            if let Some(shared) = cancelled.upgrade() {
                shared.cancel();
            }
        });
        Self { shared, name, unfinished }
    }

    /// Begins to upload a blob, unless that was begun before. [`Push::finish`] returns a failure.
    pub fn add(&self, digest: Digest, source: &Source) {
        let mut queue = self.shared.queue();
        if !queue.known.insert(digest) {
            return;
        }
        let transfer = self.shared.transfers.add(digest.short(), source.size());
        queue.waiting.push_back((digest, Arc::clone(source), transfer));
        if queue.workers < UPLOADS.min(queue.waiting.len() + queue.active) {
            let shared = Arc::clone(&self.shared);
            queue.workers += 1;
            let work = move || shared.work();
            if thread::Builder::new().name("upload".into()).spawn(work).is_err() {
                queue.workers -= 1;
                if queue.workers == 0 {
                    queue.failed = Some(Error::new(ErrorKind::Io, NO_THREAD));
                }
            }
        }
    }

    /// Begins an upload and cancels it, so that missing permissions and repositories are found before any
    /// work is done.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn check(&self) -> Result<()> {
        self.shared.to().check()
    }

    /// Uploads what is left of `bundle`, then its manifests, and at last the tag or digest.
    ///
    /// # Errors
    /// If a blob could not be uploaded, or the registry refuses a manifest. The tag is unchanged then.
    pub fn finish(&self, bundle: &Bundle, progress: &dyn Progress) -> Result<PushStats> {
        let root = bundle.root.as_ref().ok_or_else(|| Error::not_found("there is no image"))?;
        let manifests = bundle.manifests()?;
        if let Some(digest) = self.name.digest
            && digest != root.digest
        {
            return Err(Error::mismatch(format!(
                "the image has digest {}, so it can't be pushed as {digest}",
                root.digest
            )));
        }
        let documents: BTreeSet<_> = manifests.iter().map(|d| d.digest).collect();
        for (digest, blob) in bundle.blobs.iter().filter(|(d, _)| !documents.contains(d)) {
            self.add(*digest, &blob.source);
        }
        self.wait(progress)?;
        let mut stats = self.shared.queue().stats;
        let client = &self.shared.client;
        for d in &manifests {
            let last = d.digest == root.digest;
            // The digest next to a tag was compared above.
            let tag = self.name.tag.clone().filter(|_| last);
            let reference = tag.unwrap_or_else(|| d.digest.to_string());
            let place = || format!("pushing manifest {}", d.digest);
            // A tag that has it may be one that must not change.
            let (repository, scopes) = (&self.shared.repository, &self.shared.scopes);
            let there = client.has_manifest(repository, &reference, &d.digest, scopes);
            if !there.with_context(place)? {
                let bytes = document_blob(bundle, d).with_context(place)?;
                client
                    .put_manifest(repository, &reference, &d.media_type, &bytes, scopes)
                    .with_context(place)?;
                stats.manifests += 1;
            }
        }
        self.unfinished.keep();
        Ok(stats)
    }

    /// Waits until all blobs are there.
    fn wait(&self, progress: &dyn Progress) -> Result<()> {
        progress.begin("upload", 0);
        let mut queue = self.shared.queue();
        while queue.failed.is_none() && (queue.active > 0 || !queue.waiting.is_empty()) {
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        progress.end();
        queue.failed.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    /// Ends uploads in progress and tells the registry so, but does not wait for it for long.
    fn cancel(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.waiting.clear();
        queue.failed.get_or_insert_with(|| Error::refused("the push was cancelled"));
        let sessions = std::mem::take(&mut queue.sessions);
        drop(queue);
        self.changed.notify_all();
        if sessions.is_empty() {
            return;
        }
        let (done, waiting) = mpsc::channel();
        for session in sessions.into_values() {
            let (shared, done) = (Arc::clone(self), done.clone());
            let cancel = move || {
                shared.to().cancel(&session);
                let _ = done.send(());
            };
            // Without a thread the registry finds out by itself.
            let _ = thread::Builder::new().spawn(cancel);
        }
        drop(done);
        let end = Instant::now() + CANCEL;
        while waiting.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {}
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A thread that panicked leaves numbers and lists that are valid.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.queue();
            let next = if queue.failed.is_some() { None } else { queue.waiting.pop_front() };
            let Some((digest, source, transfer)) = next else {
                queue.workers -= 1;
                break;
            };
            queue.active += 1;
            drop(queue);
            let arrival = self.blob(digest, &source, &transfer);
            let mut queue = self.queue();
            queue.active -= 1;
            queue.sessions.remove(&digest);
            match arrival {
                Ok(Arrival::Existed) => {
                    queue.stats.existed += 1;
                    transfer.skip();
                }
                Ok(Arrival::Mounted) => {
                    queue.stats.mounted += 1;
                    transfer.skip();
                }
                Ok(Arrival::Sent) => {
                    transfer.finish();
                    queue.stats.sent += 1;
                    queue.stats.sent_bytes += source.size();
                }
                // The first is the cause, others may be its consequences.
                Err(e) if queue.failed.is_none() => queue.failed = Some(e),
                Err(_) => {}
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    fn to(&self) -> Uploads<'_> {
        Uploads { client: &self.client, repository: &self.repository, scopes: &self.scopes }
    }

    fn blob(&self, digest: Digest, source: &Source, transfer: &Transfer) -> Result<Arrival> {
        let session = |address: Option<&str>| {
            let mut queue = self.queue();
            match address {
                Some(address) => queue.sessions.insert(digest, address.to_owned()),
                None => queue.sessions.remove(&digest),
            };
        };
        let _slot = self.client.uploads.take();
        let upload = Upload {
            to: self.to(),
            mounts: &self.mounts,
            sizes: self.sizes,
            digest,
            source: source.as_ref(),
            sent: &|at| transfer.set(at),
            session: &session,
        };
        upload.run().with_context(|| format!("pushing blob {digest}"))
    }
}
