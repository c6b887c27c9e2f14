//! Uploading one blob
//! ([distribution-spec](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs)).
//!
//! Only the number of bytes that were sent and the final digest are relied on. What registries say about
//! the state of an upload in chunks is often wrong: docs/REGISTRY.md has examples.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::client::{Call, Payload, RegistryClient};
use super::http::{Method, Response};
use super::quirks::{Dialect, TransferSizes};
use super::retry::{is_momentary, is_transient};
use super::{answer, url};
use crate::base::error::{Context, Error, Result};
use crate::model::content::ReadAt;
use crate::model::digest::Digest;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    Existed,
    /// From another repository of the registry.
    Mounted,
    Sent,
}

/// Where blobs are uploaded to.
#[derive(Clone, Copy)]
pub(super) struct Uploads<'a> {
    pub(super) client: &'a RegistryClient,
    pub(super) repository: &'a str,
    pub(super) scopes: &'a [String],
}

/// The upload of one blob.
pub(super) struct Upload<'a> {
    pub(super) to: Uploads<'a>,
    /// Repositories of the registry that may have the blob.
    pub(super) mounts: &'a [String],
    pub(super) sizes: TransferSizes,
    pub(super) digest: Digest,
    pub(super) source: &'a dyn ReadAt,
    /// Gets the offset in the blob that was reached, after each piece that is sent.
    pub(super) sent: &'a (dyn Fn(u64) + Sync),
    /// Gets the address of a session that is open, and none when it is over.
    pub(super) session: &'a (dyn Fn(Option<&str>) + Sync),
}

/// An upload that has begun.
struct Session {
    url: String,
    /// Minimum bytes of a chunk.
    least: u64,
}

/// What became of an attempt.
enum Attempt {
    Done,
    /// It failed, perhaps for the moment only; with the time that the registry asks to wait.
    Failed(Error, Option<Duration>),
    /// The connection broke while all bytes were sent in one request.
    Broken(Error),
    /// The registry has lost some of it, or all.
    Lost(Error),
    /// The registry does not take this blob in one request, or not in such chunks.
    TooLarge(Error),
}

impl Uploads<'_> {
    /// Returns an error if the registry takes no uploads.
    pub(super) fn check(&self) -> Result<()> {
        self.cancel(&self.begin()?.url);
        Ok(())
    }

    /// Begins an upload.
    fn begin(&self) -> Result<Session> {
        let url = self.client.url(self.repository, "blobs/uploads/");
        let answer = self.client.call(&Call::new(Method::Post, &url, self.scopes))?;
        if answer.status != 202 {
            return Err(self.client.error(answer)).with_context(|| "beginning an upload");
        }
        self.opened(&url, &answer)
    }

    /// Returns the upload that an answer has begun.
    fn opened(&self, from: &str, answer: &Response) -> Result<Session> {
        let least = answer.header("oci-chunk-min-length").and_then(|least| least.parse().ok());
        Ok(Session { url: self.location(from, answer)?, least: least.unwrap_or(0) })
    }

    /// Returns the address at which an upload goes on.
    fn location(&self, from: &str, answer: &Response) -> Result<String> {
        let location = answer
            .header("location")
            .ok_or_else(|| Error::malformed("the registry does not say where to upload to"))?;
        self.client.follow(from, location)
    }

    /// Sends a request of an upload.
    fn request(
        &self,
        method: Method,
        url: &str,
        range: Option<&str>,
        payload: Payload<'_>,
    ) -> io::Result<Response> {
        let mut headers = vec![("content-type", "application/octet-stream")];
        headers.extend(range.map(|range| ("content-range", range)));
        let call = Call { headers: &headers, payload, ..Call::new(method, url, self.scopes) };
        self.client.once(&call)
    }

    /// Ends an upload that won't be finished. The registry does so by itself after some time.
    pub(super) fn cancel(&self, session: &str) {
        let _ = self.request(Method::Delete, session, None, Payload::None);
    }
}

impl Upload<'_> {
    /// Uploads the blob, unless the repository has it or can take it from another.
    ///
    /// # Errors
    /// If the registry refuses it or can't be reached, or the blob can't be read.
    pub(super) fn run(&self) -> Result<Arrival> {
        if self.exists()? {
            return Ok(Arrival::Existed);
        }
        let url = self.to.client.url(self.to.repository, "blobs/uploads/");
        let mut session: Option<Session> = None;
        for from in self.mounts {
            let mount = format!("{url}?mount={}&from={from}", self.digest);
            let answer = self.to.client.call(&Call::new(Method::Post, &mount, self.to.scopes))?;
            match answer.status {
                201 => {
                    if let Some(session) = session {
                        self.to.cancel(&session.url);
                    }
                    return Ok(Arrival::Mounted);
                }
                // The registry does not have it there, and began an upload in its place.
                202 if session.is_none() => session = Some(self.to.opened(&url, &answer)?),
                202 => self.to.cancel(&self.to.opened(&url, &answer)?.url),
                _ => {}
            }
        }
        self.send(session)?;
        Ok(Arrival::Sent)
    }

    /// Returns whether the repository has the blob.
    fn exists(&self) -> Result<bool> {
        let url = self.to.client.url(self.to.repository, &format!("blobs/{}", self.digest));
        let answer = self.to.client.call(&Call::new(Method::Head, &url, self.to.scopes))?;
        match answer.status {
            200 => Ok(true),
            401 | 403 => Err(self.to.client.error(answer)),
            _ => Ok(false),
        }
    }

    /// Sends the blob, beginning with the upload `session` if there is one.
    fn send(&self, mut session: Option<Session>) -> Result<()> {
        let size = self.source.size();
        let mut chunk =
            self.to.client.dialect.chunk(self.sizes).filter(|_| size > self.sizes.single);
        let smaller = self.to.client.dialect.fallback(self.sizes).filter(|smaller| *smaller < size);
        if size >= self.to.client.too_large.load(Ordering::Relaxed) {
            chunk = chunk.or(smaller);
        }
        let retry = self.to.client.retry;
        let (mut attempt, mut broken, mut guessed) = (0, 0, false);
        loop {
            let begun = session.take().map_or_else(|| self.to.begin(), Ok);
            let done = begun.and_then(|Session { url, least }| {
                (self.session)(Some(&url));
                let done = match chunk {
                    None => self.single(&url),
                    Some(chunk) => self.chunks(&url, chunk.max(least)),
                };
                if !matches!(done, Ok(Attempt::Done)) {
                    self.to.cancel(&url);
                }
                (self.session)(None);
                done
            });
            let (e, wait) = match done {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Failed(e, wait)) => (e, wait),
                Ok(Attempt::Lost(e)) => (e, None),
                Ok(Attempt::Broken(e)) => {
                    broken += 1;
                    // A proxy that limits bodies may break the connection before its answer arrives.
                    if broken == 2 && smaller.is_some() {
                        (chunk, guessed) = (smaller, true);
                    }
                    (e, None)
                }
                Ok(Attempt::TooLarge(e)) => {
                    if chunk.is_some() || smaller.is_none() {
                        return Err(e);
                    }
                    chunk = smaller;
                    self.to.client.too_large.fetch_min(size, Ordering::Relaxed);
                    continue;
                }
                // So the registry takes no chunks.
                Err(e) if guessed && chunk.take().is_some() => (e, None),
                Err(e) => return Err(e),
            };
            if !retry.goes_on(attempt) {
                return Err(e);
            }
            retry.wait(attempt, wait);
            attempt += 1;
            // The answer may be what was lost.
            if self.exists()? {
                return Ok(());
            }
        }
    }

    /// Sends all bytes in one request.
    fn single(&self, session: &str) -> Result<Attempt> {
        let url = url::with_query(session, "digest", &self.digest.to_string());
        let all = Payload::Range(self.source, 0, self.source.size(), self.sent);
        match self.to.request(Method::Put, &url, None, all) {
            Err(e) if is_momentary(&e) => Ok(Attempt::Broken(self.broken(e.into()))),
            answer => self.judge(answer),
        }
    }

    /// Says what the answer to the last request of an upload means.
    fn judge(&self, answer: io::Result<Response>) -> Result<Attempt> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) if is_momentary(&e) => {
                return Ok(Attempt::Failed(self.broken(e.into()), None));
            }
            Err(e) => return Err(e.into()),
        };
        let (status, wait) = (answer.status, answer::retry_after(&answer));
        Ok(match status {
            201 | 204 => Attempt::Done,
            413 => Attempt::TooLarge(self.to.client.error(answer)),
            // 400 is a digest that is wrong, so bytes were lost; 404 and 416 a session that was.
            400 | 404 | 416 => Attempt::Lost(self.to.client.error(answer)),
            _ if is_transient(status) => {
                if status == 429 {
                    self.to.client.uploads.fewer();
                }
                Attempt::Failed(self.to.client.error(answer), wait)
            }
            _ => return Err(self.to.client.error(answer)),
        })
    }

    fn broken(&self, e: Error) -> Error {
        e.context(format!("the upload of {} broke", self.digest))
    }

    /// Sends chunks of `chunk` bytes, and then closes the upload.
    fn chunks(&self, session: &str, chunk: u64) -> Result<Attempt> {
        let retry = self.to.client.retry;
        let size = self.source.size();
        let has_no_status = self.to.client.dialect == Dialect::Ecr;
        let (mut url, mut offset, mut attempt) = (session.to_owned(), 0, 0);
        let mut unsure = false;
        while offset < size {
            let end = (offset + chunk).min(size);
            let range = format!("{offset}-{}", end - 1);
            let payload = Payload::Range(self.source, offset, end - offset, self.sent);
            let answer = self.to.request(Method::Patch, &url, Some(&range), payload);
            let (e, wait) = match answer {
                // ECR answers 201.
                Ok(answer) if matches!(answer.status, 200..=204) => {
                    if answer.header("location").is_some() {
                        url = self.to.location(&url, &answer)?;
                    }
                    (offset, attempt, unsure) = (end, 0, false);
                    continue;
                }
                // The one byte of which the registry said that it might be there.
                Ok(answer) if answer.status == 416 && unsure => {
                    (offset, unsure) = (1, false);
                    continue;
                }
                // A repeated chunk had come after all.
                Ok(answer) if answer.status == 416 && attempt > 0 && has_no_status => {
                    (offset, attempt) = (end, 0);
                    continue;
                }
                Ok(answer) if answer.status == 413 => {
                    return Ok(Attempt::TooLarge(self.to.client.error(answer)));
                }
                Ok(answer) if is_transient(answer.status) || answer.status == 416 => {
                    let wait = answer::retry_after(&answer);
                    (self.to.client.error(answer), wait)
                }
                Ok(answer) if answer.status == 404 => {
                    return Ok(Attempt::Lost(self.to.client.error(answer)));
                }
                Ok(answer) => return Err(self.to.client.error(answer)),
                Err(e) if is_momentary(&e) => (self.broken(e.into()), None),
                Err(e) => return Err(e.into()),
            };
            if !retry.goes_on(attempt) {
                return Ok(Attempt::Failed(e, wait));
            }
            retry.wait(attempt, wait);
            attempt += 1;
            match self.progress(&mut url, offset, end)? {
                // `0-0` means one byte or none.
                Some(there) => (offset, unsure) = (there, there == 0),
                // Without a status, the same chunk again: if it had come, the answer is 416.
                None if has_no_status => {}
                None => return Ok(Attempt::Failed(e, wait)),
            }
        }
        self.close(&url::with_query(&url, "digest", &self.digest.to_string()))
    }

    /// Closes an upload whose chunks are all there, by a request that can be repeated.
    fn close(&self, url: &str) -> Result<Attempt> {
        let retry = self.to.client.retry;
        let mut attempt = 0;
        loop {
            let answer = self.to.request(Method::Put, url, None, Payload::None);
            match self.judge(answer)? {
                Attempt::Failed(_, wait) if retry.goes_on(attempt) => retry.wait(attempt, wait),
                done => return Ok(done),
            }
            if self.exists()? {
                return Ok(Attempt::Done);
            }
            attempt += 1;
        }
    }

    /// Asks how much of an upload has come, between `offset` and `end`; `None` if the registry does not
    /// know.
    fn progress(&self, url: &mut String, offset: u64, end: u64) -> Result<Option<u64>> {
        let Ok(answer) = self.to.request(Method::Get, url, None, Payload::None) else {
            return Ok(None);
        };
        if answer.status != 204 {
            return Ok(None);
        }
        let range = answer.header("range").map(|range| range.trim_start_matches("bytes="));
        let last = range.and_then(|range| range.strip_prefix("0-")?.parse::<u64>().ok());
        if answer.header("location").is_some() {
            *url = self.to.location(url, &answer)?;
        }
        let there = last.map_or(0, |last| if last == 0 { 0 } else { last.saturating_add(1) });
        Ok(Some(there).filter(|there| (offset..=end).contains(there)))
    }
}
