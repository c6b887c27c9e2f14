//! Downloads of blobs: by ranges over several connections where the registry has them, going on after
//! a break where it stopped. A blob can be read while it is still being downloaded.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::answer;
use super::auth::scope;
use super::blob::{Active, Download, State};
use super::cache::Cache;
use super::client::{Call, RegistryClient};
use super::http::{Method, Response};
use super::pieces::Pieces;
use super::retry::{is_momentary, is_transient};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::read::read_some;
use crate::base::transfers::TransferGroup;
use crate::model::content::ReadAt;
use crate::model::digest::{Digest, Hashing};

/// A failure that may be one of the moment, with the time that the registry asks to wait.
type Failure = (Error, Option<Duration>);

/// What there is to do. What nobody wants any more is not done.
enum Task {
    /// Find a blob in the cache, or divide it into pieces.
    Open(Weak<Download>),
    Piece(Weak<Download>, usize),
}

impl Task {
    fn blob(&self) -> Option<Arc<Download>> {
        let (Self::Open(blob) | Self::Piece(blob, _)) = self;
        blob.upgrade()
    }
}

/// Downloads from one repository.
pub(super) struct Downloads {
    client: Arc<RegistryClient>,
    scopes: [String; 1],
    repository: String,
    cache: Arc<Cache>,
    /// Bytes of a range.
    range: u64,
    /// Whether the registry has ignored a range: then every blob comes as a whole.
    no_ranges: AtomicBool,
    /// Whether it has answered to one. The first is asked for alone, since each answer may be a whole
    /// blob.
    ranges_known: AtomicBool,
    probe: Mutex<()>,
    queue: Mutex<VecDeque<Task>>,
    workers: AtomicUsize,
    max_workers: usize,
    transfers: Arc<TransferGroup>,
}

impl Downloads {
    pub(super) fn new(
        client: Arc<RegistryClient>,
        repository: &str,
        cache: Arc<Cache>,
        range: u64,
        max_workers: usize,
        transfers: Arc<TransferGroup>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            scopes: [scope(repository, false)],
            repository: repository.to_owned(),
            cache,
            range,
            no_ranges: AtomicBool::new(false),
            ranges_known: AtomicBool::new(false),
            probe: Mutex::default(),
            queue: Mutex::default(),
            workers: AtomicUsize::new(0),
            max_workers,
            transfers,
        })
    }

    /// Returns a blob, of which nothing is downloaded before it is read or [prefetched](ReadAt::prefetch).
    pub(super) fn blob(self: &Arc<Self>, digest: Digest, size: u64) -> RemoteBlob {
        let blob = Download::new(digest, size);
        RemoteBlob { downloads: Arc::clone(self), blob: Arc::new(blob) }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Task>> {
        // A task is added or removed as a whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to download a blob, before all others if it comes `first`, unless that was begun before.
    fn begin(self: &Arc<Self>, blob: &Arc<Download>, first: bool) {
        let mut state = blob.state();
        if !matches!(*state, State::Idle) {
            return;
        }
        *state = State::Queued;
        drop(state);
        *blob.transfer() = Some(self.transfers.add(blob.digest.short(), blob.size));
        let task = Task::Open(Arc::downgrade(blob));
        let mut queue = self.queue();
        if first {
            queue.push_front(task);
        } else {
            queue.push_back(task);
        }
        drop(queue);
        self.employ(1);
    }

    /// Takes a blob from the cache, or divides it into pieces to download.
    fn open(self: &Arc<Self>, blob: &Arc<Download>) -> Result<()> {
        if let Some(file) = self.cache.get(&blob.digest, blob.size) {
            if let Some(transfer) = blob.transfer().take() {
                transfer.skip();
            }
            blob.finish(file);
            return Ok(());
        }
        let mut pieces = Pieces::new(blob.size, self.range);
        let partial = Arc::new(self.cache.partial(&blob.digest, &mut pieces)?);
        let missing: Vec<_> =
            (0..pieces.count()).filter(|i| pieces.missing(*i).is_some()).collect();
        if let Some(transfer) = &*blob.transfer() {
            transfer.resume(pieces.bytes());
        }
        let hashing = Arc::new(Mutex::new(Some(Hashing::new(io::sink()))));
        *blob.state() = State::Active(Active { pieces, whole: None, partial, hashing });
        if missing.is_empty() {
            return self.advance(blob);
        }
        let mut queue = self.queue();
        for i in missing.iter().rev() {
            queue.push_front(Task::Piece(Arc::downgrade(blob), *i));
        }
        drop(queue);
        self.employ(missing.len());
        Ok(())
    }

    /// Starts workers for `tasks` more tasks.
    fn employ(self: &Arc<Self>, tasks: usize) {
        for _ in 0..tasks {
            let more = |n| (n < self.max_workers).then_some(n + 1);
            if self.workers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
                return;
            }
            let this = Arc::clone(self);
            let started = thread::Builder::new().name("download".into()).spawn(move || this.work());
            if started.is_err() {
                self.workers.fetch_sub(1, Ordering::SeqCst);
                // Without any thread nobody would do it.
                if self.workers.load(Ordering::SeqCst) == 0 {
                    self.fail_all();
                }
                return;
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        let task = queue.pop_front();
        if task.is_none() {
            // Under the lock of the queue, so that whoever adds a task sees it.
            self.workers.fetch_sub(1, Ordering::SeqCst);
        }
        task
    }

    fn fail_all(&self) {
        let tasks = std::mem::take(&mut *self.queue());
        for blob in tasks.iter().filter_map(Task::blob) {
            blob.fail(&Error::new(ErrorKind::Io, crate::base::error::NO_THREAD));
        }
    }

    fn work(self: Arc<Self>) {
        while let Some(task) = self.next() {
            let Some(blob) = task.blob() else { continue };
            let done = match task {
                Task::Open(_) => self.open(&blob),
                Task::Piece(_, piece) => {
                    let _slot = self.client.downloads.take();
                    self.piece(&blob, piece).and_then(|()| self.advance(&blob))
                }
            };
            if let Err(e) = done {
                if let Some(partial) = blob.active(|a| Arc::clone(&a.partial)) {
                    partial.note(u64::MAX, || blob.of(&partial, |a| a.pieces.note()));
                }
                blob.fail(&e);
            }
        }
    }

    /// Downloads a piece of a blob, or all of it if there are no ranges.
    fn piece(self: &Arc<Self>, blob: &Arc<Download>, piece: usize) -> Result<()> {
        let Some(partial) = blob.active(|a| Arc::clone(&a.partial)) else { return Ok(()) };
        let (mut attempt, mut mark) = (0, 0);
        loop {
            let no_ranges = self.no_ranges.load(Ordering::Relaxed);
            let missing = blob.of(&partial, |a| a.missing(piece, no_ranges));
            let Some((from, to)) = missing.flatten() else { return Ok(()) };
            // An attempt that brought much was not in vain.
            let have = blob.active(|a| a.pieces.bytes()).unwrap_or(0);
            if have >= mark + (1 << 20) {
                (attempt, mark) = (0, have);
            }
            let tried = self.try_range(blob, piece, (from, to), no_ranges)?;
            let Some((e, wait)) = tried else { continue };
            if !self.client.retry.goes_on(attempt) {
                return Err(e);
            }
            self.client.retry.wait(attempt, wait);
            attempt += 1;
        }
    }

    /// Asks for a range once.
    fn try_range(
        self: &Arc<Self>,
        blob: &Arc<Download>,
        piece: usize,
        (from, to): (u64, u64),
        no_ranges: bool,
    ) -> Result<Option<Failure>> {
        let range = format!("bytes={from}-{}", to.saturating_sub(1));
        let url = self.client.url(&self.repository, &format!("blobs/{}", blob.digest));
        let all = (from, to) == (0, blob.size);
        let ranged = !all && !no_ranges;
        let unknown = || ranged && !self.ranges_known.load(Ordering::SeqCst);
        let probe = unknown().then(|| self.probe.lock().unwrap_or_else(PoisonError::into_inner));
        let found = (probe.is_some() && !unknown()) || self.no_ranges.load(Ordering::Relaxed);
        if ranged && found {
            // Another thread has found it out in the meantime.
            return Ok(None);
        }
        let headers: &[_] = if ranged { &[("range", range.as_str())] } else { &[] };
        let call = Call { headers, ..Call::new(Method::Get, &url, &self.scopes) };
        let answer = match self.client.once(&call) {
            Ok(answer) => answer,
            Err(e) if is_momentary(&e) => return Ok(Some((e.into(), None))),
            Err(e) => return Err(e.into()),
        };
        // Before others learn that there are no ranges, and take it.
        let whole = answer.status == 200 && (all || blob.claim_whole(piece));
        if matches!(answer.status, 200 | 206 | 416) {
            let ignored = ranged && answer.status != 206;
            self.no_ranges.fetch_or(ignored, Ordering::Relaxed);
            self.ranges_known.fetch_or(ranged, Ordering::SeqCst);
        }
        drop(probe);
        match answer.status {
            200 if whole => {
                if let Some(length) = answer.length().filter(|length| *length != blob.size) {
                    return Err(Error::mismatch(format!(
                        "the registry has {length} bytes for {}, but the image states {}; the image is \
                         damaged",
                        blob.digest, blob.size
                    )));
                }
                self.fill(blob, answer, 0, blob.size)
            }
            206 if begins_at(&answer, from, blob.size) => self.fill(blob, answer, from, to),
            // Another piece brings the whole blob.
            200 => Ok(None),
            206 | 416 if ranged => {
                self.no_ranges.store(true, Ordering::Relaxed);
                Ok(None)
            }
            status if is_transient(status) => {
                if status == 429 {
                    self.client.downloads.fewer();
                }
                let wait = answer::retry_after(&answer);
                Ok(Some((self.client.error(answer), wait)))
            }
            _ => Err(self.client.error(answer)),
        }
    }

    /// Writes the bytes of an answer from `from` to `to`, except those that have come before.
    fn fill(
        self: &Arc<Self>,
        blob: &Arc<Download>,
        mut answer: Response,
        from: u64,
        to: u64,
    ) -> Result<Option<Failure>> {
        let broken = |what: String| {
            let digest = &blob.digest;
            Ok(Some((Error::refused(format!("the download of {digest} broke: {what}")), None)))
        };
        let Some(partial) = blob.active(|a| Arc::clone(&a.partial)) else { return Ok(None) };
        let (mut at, mut buf) = (from, vec![0; 1 << 18]);
        while at < to {
            let place = blob.of(&partial, |a| {
                let piece = a.pieces.at(at);
                (piece, a.pieces.end(piece).min(to), a.pieces.have(piece))
            });
            // It is complete, or has failed.
            let Some((piece, end, have)) = place else { return Ok(None) };
            let room = (end - at).min(buf.len() as u64) as usize;
            let n = match read_some(&mut answer.body, &mut buf[..room]) {
                Ok(0) => return broken(format!("it ended {} bytes early", to - at)),
                Ok(n) => n,
                Err(e) => return broken(e.to_string()),
            };
            let next = at + n as u64;
            if next > have {
                let skip = have.saturating_sub(at) as usize;
                partial
                    .file
                    .write_all_at(&buf[skip..n], at + skip as u64)
                    .with_context(|| "writing a downloaded blob")?;
                let there = blob.of(&partial, |a| {
                    a.pieces.add(piece, next);
                    a.pieces.bytes()
                });
                if let (Some(there), Some(transfer)) = (there, &*blob.transfer()) {
                    transfer.set(there);
                }
                blob.changed.notify_all();
                partial.note(n as u64, || blob.of(&partial, |a| a.pieces.note()));
            }
            at = next;
            if at == end {
                self.advance(blob)?;
            }
        }
        Ok(None)
    }

    /// Hashes what has come, in order; at the end verifies it and adds it to the cache.
    fn advance(self: &Arc<Self>, blob: &Arc<Download>) -> Result<()> {
        let Some((partial, shared)) =
            blob.active(|a| (Arc::clone(&a.partial), Arc::clone(&a.hashing)))
        else {
            return Ok(());
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hashing) = shared.as_mut() else { return Ok(()) };
        let mut buf = vec![0; 1 << 18];
        while let Some(end) =
            blob.of(&partial, |a| a.pieces.prefix()).filter(|end| *end > hashing.bytes())
        {
            while hashing.bytes() < end {
                let at = hashing.bytes();
                let n = (end - at).min(buf.len() as u64) as usize;
                partial.file.read_exact_at(&mut buf[..n], at)?;
                hashing.write_all(&buf[..n])?;
            }
        }
        if hashing.bytes() < blob.size {
            return Ok(());
        }
        let Some((_, found, _)) = shared.take().map(Hashing::finish) else { return Ok(()) };
        if found == blob.digest {
            self.cache.publish(&blob.digest, &partial)?;
            blob.finish(partial.file.try_clone()?);
            return Ok(());
        }
        partial.discard();
        if partial.resumed {
            // What was there may be what is wrong, for example after the power failed.
            return self.open(blob);
        }
        Err(Error::mismatch(format!(
            "the registry sent bytes with digest {found} for {}; if that happens again, the image in \
             the registry is damaged",
            blob.digest
        )))
    }
}

impl Drop for Downloads {
    /// Keeps the cache to its limit, now that no blob of this image is needed.
    fn drop(&mut self) {
        // What could not be removed now may be next time.
        let _ = self.cache.trim();
    }
}

/// Returns whether an answer has the bytes from `from` on of a blob of `size` bytes.
fn begins_at(answer: &Response, from: u64, size: u64) -> bool {
    let range = answer.header("content-range").and_then(|r| r.strip_prefix("bytes "));
    let parsed = range.and_then(|r| {
        let (range, total) = r.split_once('/')?;
        let (first, _) = range.split_once('-')?;
        Some((first.parse::<u64>().ok()?, total.to_owned()))
    });
    parsed
        .is_some_and(|(first, total)| first == from && (total == "*" || total.parse() == Ok(size)))
}

/// A blob of a registry.
pub(super) struct RemoteBlob {
    downloads: Arc<Downloads>,
    blob: Arc<Download>,
}

impl ReadAt for RemoteBlob {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(file) = self.blob.complete.get() {
            return file.read_exact_at(buf, offset);
        }
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.blob.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.downloads.begin(&self.blob, true);
        self.blob.read(buf, offset, end)
    }

    fn size(&self) -> u64 {
        self.blob.size
    }

    fn prefetch(&self) {
        // Reading returns a failure.
        self.downloads.begin(&self.blob, false);
    }
}
