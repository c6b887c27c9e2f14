//! Downloads of blobs: by ranges over several connections where the registry has them, going on after
//! a break where it stopped. A blob can be read while it is still being downloaded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::answer;
use super::auth::scope;
use super::cache::{Cache, Partial};
use super::client::{Call, RegistryClient};
use super::http::{Method, Response};
use super::retry::{is_momentary, is_transient};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::read::read_some;
use crate::model::content::ReadAt;
use crate::model::digest::{Digest, Hashing};

/// A connection must bring this many bytes in the time that it may stall, or it is made anew.
const SLOWEST: u64 = 64 << 10;

/// A failure that may be one of the moment, with the time that the registry asks to wait.
type Failure = (Error, Option<Duration>);

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
    queue: Mutex<VecDeque<(Weak<Blob>, usize)>>,
    workers: AtomicUsize,
    max_workers: usize,
}

impl Downloads {
    pub(super) fn new(
        client: Arc<RegistryClient>,
        repository: &str,
        cache: Arc<Cache>,
        range: u64,
        max_workers: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            scopes: [scope(repository, false)],
            repository: repository.to_owned(),
            cache,
            range,
            no_ranges: AtomicBool::new(false),
            queue: Mutex::default(),
            workers: AtomicUsize::new(0),
            max_workers,
        })
    }

    /// Returns a blob, of which nothing is downloaded before it is read or [prefetched](ReadAt::prefetch).
    pub(super) fn blob(self: &Arc<Self>, digest: Digest, size: u64) -> RemoteBlob {
        let blob = Blob {
            digest,
            size,
            complete: OnceLock::new(),
            state: Mutex::new(State::Idle),
            changed: Condvar::new(),
        };
        RemoteBlob { downloads: Arc::clone(self), blob: Arc::new(blob) }
    }

    /// Begins to download a blob, unless that was begun before.
    fn begin(self: &Arc<Self>, blob: &Arc<Blob>, first: bool) -> Result<()> {
        let mut state = blob.state();
        if !matches!(*state, State::Idle) {
            return Ok(());
        }
        if let Some(file) = self.cache.get(&blob.digest, blob.size) {
            let _ = blob.complete.set(Arc::new(file));
            *state = State::Done;
            return Ok(());
        }
        let partial = self.cache.partial(&blob.digest, blob.size)?;
        let range = if blob.size <= 2 * self.range { blob.size.max(1) } else { self.range };
        let count = blob.size.div_ceil(range).max(1) as usize;
        let got = (0..count as u64).map(|i| {
            let (start, end) = (i * range, ((i + 1) * range).min(blob.size));
            partial.bytes.clamp(start, end) - start
        });
        let progress = Active {
            got: got.collect(),
            range,
            whole: None,
            partial: Arc::new(partial),
            hashing: Arc::new(Mutex::new(Hashing::new(io::sink()))),
        };
        *state = State::Active(progress);
        drop(state);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for i in if first { (0..count).rev().collect::<Vec<_>>() } else { (0..count).collect() } {
            let task = (Arc::downgrade(blob), i);
            if first { queue.push_front(task) } else { queue.push_back(task) }
        }
        drop(queue);
        self.employ(count);
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

    fn next(&self) -> Option<(Weak<Blob>, usize)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let task = queue.pop_front();
        if task.is_none() {
            // Under the lock of the queue, so that whoever adds a task sees it.
            self.workers.fetch_sub(1, Ordering::SeqCst);
        }
        task
    }

    fn fail_all(&self) {
        while let Some((blob, _)) =
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
        {
            if let Some(blob) = blob.upgrade() {
                blob.fail(&Error::new(ErrorKind::Io, crate::base::error::NO_THREAD));
            }
        }
    }

    fn work(self: Arc<Self>) {
        while let Some((blob, piece)) = self.next() {
            // Nobody wants it any more.
            let Some(blob) = blob.upgrade() else { continue };
            let _slot = self.client.downloads.take();
            let done = self.piece(&blob, piece).and_then(|()| self.advance(&blob));
            if let Err(e) = done {
                blob.fail(&e);
            }
        }
    }

    /// Downloads a piece of a blob, or all of it if there are no ranges.
    fn piece(&self, blob: &Blob, piece: usize) -> Result<()> {
        let (mut attempt, mut mark) = (0, 0);
        loop {
            let Some((from, to)) = blob.missing(piece, self.no_ranges.load(Ordering::Relaxed))
            else {
                return Ok(());
            };
            // An attempt that brought much was not in vain.
            let have = blob.active(|a| a.prefix(blob.size).max(from)).unwrap_or(0);
            if have >= mark + (1 << 20) {
                (attempt, mark) = (0, have);
            }
            let Some((e, wait)) = self.try_range(blob, piece, from, to)? else { continue };
            if !self.client.retry.goes_on(attempt) {
                return Err(e);
            }
            self.client.retry.wait(attempt, wait);
            attempt += 1;
        }
    }

    /// Asks for a range once.
    fn try_range(&self, blob: &Blob, piece: usize, from: u64, to: u64) -> Result<Option<Failure>> {
        let range = format!("bytes={from}-{}", to.saturating_sub(1));
        let url = self.client.url(&self.repository, &format!("blobs/{}", blob.digest));
        let all = (from, to) == (0, blob.size);
        let ranged = !all && !self.no_ranges.load(Ordering::Relaxed);
        let headers: &[_] = if ranged { &[("range", range.as_str())] } else { &[] };
        let call = Call { headers, ..Call::new(Method::Get, &url, &self.scopes) };
        let answer = match self.client.once(&call) {
            Ok(answer) => answer,
            Err(e) if is_momentary(&e) => return Ok(Some((e.into(), None))),
            Err(e) => return Err(e.into()),
        };
        match answer.status {
            200 if all || blob.claim_whole(piece) => {
                if ranged {
                    self.no_ranges.store(true, Ordering::Relaxed);
                }
                self.fill(blob, answer, 0, blob.size)
            }
            206 if begins_at(&answer, from, blob.size) => self.fill(blob, answer, from, to),
            200 | 206 | 416 if ranged => {
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
        &self,
        blob: &Blob,
        mut answer: Response,
        from: u64,
        to: u64,
    ) -> Result<Option<Failure>> {
        let broken = |what: String| {
            let digest = &blob.digest;
            Ok(Some((Error::refused(format!("the download of {digest} broke: {what}")), None)))
        };
        let Some((partial, range)) = blob.active(|a| (Arc::clone(&a.partial), a.range)) else {
            return Ok(None);
        };
        let (mut at, mut buf) = (from, vec![0; 1 << 18]);
        let (mut since, mut before) = (Instant::now(), from);
        while at < to {
            let piece = (at / range) as usize;
            let start = piece as u64 * range;
            let end = (start + range).min(to);
            let room = (end - at).min(buf.len() as u64) as usize;
            let n = match read_some(&mut answer.body, &mut buf[..room]) {
                Ok(0) => return broken(format!("it ended {} bytes early", to - at)),
                Ok(n) => n,
                Err(e) => return broken(e.to_string()),
            };
            let have = start + blob.active(|a| a.got[piece]).unwrap_or(range);
            let next = at + n as u64;
            if next > have {
                let skip = have.saturating_sub(at) as usize;
                partial
                    .file
                    .write_all_at(&buf[skip..n], at + skip as u64)
                    .with_context(|| "writing a downloaded blob")?;
                blob.active(|a| a.got[piece] = a.got[piece].max(next - start));
                blob.changed.notify_all();
            }
            at = next;
            if at == end {
                self.advance(blob)?;
            }
            if since.elapsed() > self.client.stall {
                if at - before < SLOWEST {
                    return broken("it is too slow".into());
                }
                (since, before) = (Instant::now(), at);
            }
        }
        Ok(None)
    }

    /// Hashes what has come, in order; at the end verifies it and adds it to the cache.
    fn advance(&self, blob: &Blob) -> Result<()> {
        let Some((partial, hashing)) =
            blob.active(|a| (Arc::clone(&a.partial), Arc::clone(&a.hashing)))
        else {
            return Ok(());
        };
        let mut hashing = hashing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buf = vec![0; 1 << 18];
        while let Some(end) =
            blob.active(|a| a.prefix(blob.size)).filter(|end| *end > hashing.bytes())
        {
            while hashing.bytes() < end {
                let at = hashing.bytes();
                let n = (end - at).min(buf.len() as u64) as usize;
                partial.file.read_exact_at(&mut buf[..n], at)?;
                hashing.write_all(&buf[..n])?;
            }
            partial.note(end);
        }
        if hashing.bytes() < blob.size || blob.complete.get().is_some() {
            return Ok(());
        }
        let (_, found, _) = std::mem::replace(&mut *hashing, Hashing::new(io::sink())).finish();
        if found != blob.digest {
            partial.discard();
            return Err(Error::mismatch(format!(
                "the registry sent bytes with digest {found} for {}; if that happens again, the image \
                 in the registry is damaged",
                blob.digest
            )));
        }
        self.cache.publish(&blob.digest, &partial)?;
        blob.finish(&partial);
        Ok(())
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
    blob: Arc<Blob>,
}

struct Blob {
    digest: Digest,
    size: u64,
    /// The file once it is complete.
    complete: OnceLock<Arc<File>>,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Idle,
    Active(Active),
    Done,
    Failed(ErrorKind, String),
}

struct Active {
    /// Bytes that each piece has, from its beginning.
    got: Vec<u64>,
    /// Bytes of a piece; the last may have fewer.
    range: u64,
    /// The piece whose task brings all others too, because there are no ranges.
    whole: Option<usize>,
    partial: Arc<Partial>,
    /// The digest of the first bytes.
    hashing: Arc<Mutex<Hashing<io::Sink>>>,
}

impl Active {
    /// Returns the number of bytes from the beginning of the blob that have come.
    fn prefix(&self, size: u64) -> u64 {
        let mut end = 0;
        for (i, got) in self.got.iter().enumerate() {
            end = i as u64 * self.range + got;
            if end < ((i as u64 + 1) * self.range).min(size) {
                break;
            }
        }
        end
    }

    /// Returns whether all bytes of a range have come.
    fn has(&self, from: u64, to: u64) -> bool {
        let mut at = from;
        while at < to {
            let i = at / self.range;
            let have = i * self.range + self.got[i as usize];
            if have < to.min((i + 1) * self.range) {
                return false;
            }
            at = (i + 1) * self.range;
        }
        true
    }
}

impl Blob {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active<T>(&self, read: impl FnOnce(&mut Active) -> T) -> Option<T> {
        match &mut *self.state() {
            State::Active(active) => Some(read(active)),
            _ => None,
        }
    }

    /// Returns the range that is missing in a piece; all of the blob if there are no ranges and no
    /// other task brings it. `None` if there is nothing to do.
    fn missing(&self, piece: usize, no_ranges: bool) -> Option<(u64, u64)> {
        self.active(|a| {
            let start = piece as u64 * a.range;
            let end = (start + a.range).min(self.size);
            if no_ranges && a.got.len() > 1 {
                let mine = *a.whole.get_or_insert(piece) == piece;
                return (mine && a.prefix(self.size) < self.size).then_some((0, self.size));
            }
            let at = start + a.got[piece];
            (at < end).then_some((at, end))
        })?
    }

    /// Takes the task to bring all of the blob, unless another piece has it.
    fn claim_whole(&self, piece: usize) -> bool {
        self.active(|a| *a.whole.get_or_insert(piece) == piece).unwrap_or(false)
    }

    fn finish(&self, partial: &Partial) {
        let _ = self.complete.set(Arc::clone(&partial.file));
        *self.state() = State::Done;
        self.changed.notify_all();
    }

    fn fail(&self, e: &Error) {
        *self.state() = State::Failed(e.kind(), e.to_string());
        self.changed.notify_all();
    }

    /// Waits until a range has come.
    fn wait(&self, from: u64, to: u64) -> io::Result<Arc<File>> {
        let mut state = self.state();
        loop {
            match &*state {
                State::Done => {}
                State::Active(active) if active.has(from, to) => {
                    return Ok(Arc::clone(&active.partial.file));
                }
                State::Failed(kind, text) => return Err(Error::new(*kind, text.clone()).into()),
                State::Idle | State::Active(_) => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            }
            let file = self.complete.get().cloned();
            return file.ok_or_else(|| io::Error::other("a downloaded blob has no file"));
        }
    }
}

impl ReadAt for RemoteBlob {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(file) = self.blob.complete.get() {
            return file.read_exact_at(buf, offset);
        }
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.blob.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.downloads.begin(&self.blob, true)?;
        self.blob.wait(offset, end)?.read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.blob.size
    }

    fn prefetch(&self) {
        // Whoever reads it is told of a failure.
        let _ = self.downloads.begin(&self.blob, false);
    }
}
