//! The listeners, the connections, and what happens to a request.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::answer::Answer;
use super::auth::not_found;
use super::faults::Fault;
use super::http::{Body, BodyPlan, Head, Wire};
use super::profile::Throttle;
use super::route::{Route, wrongs};
use super::state::{Exchange, Site, State};

/// How long a connection may wait for bytes.
const IDLE: Duration = Duration::from_secs(20);

/// What threads share.
#[derive(Debug)]
pub struct Shared {
    pub site: Site,
    state: Mutex<State>,
    /// Signalled at the end of each request.
    changed: Condvar,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    is_stopped: bool,
    connections: u64,
    streams: BTreeMap<u64, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(site: Site) -> Self {
        let state = Mutex::new(State::new(&site.profile));
        Self { site, state, changed: Condvar::new(), running: Mutex::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state when no request is in flight, so that the log is complete. Gives up waiting after
    /// five seconds.
    pub fn quiet(&self) -> MutexGuard<'_, State> {
        let wait = Duration::from_secs(5);
        let result = self.changed.wait_timeout_while(self.state(), wait, |s| s.in_flight > 0);
        result.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sleep, but not beyond the end of the registry.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !lock(&self.running).is_stopped {
            std::thread::sleep(time.min(Duration::from_millis(10)));
        }
    }

    /// Accept connections until the registry stops.
    pub fn listen(self: &Arc<Self>, listener: TcpListener, is_elsewhere: bool) {
        let shared = self.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut running = lock(&shared.running);
                if running.is_stopped {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let Ok(copy) = stream.try_clone() else { continue };
                running.connections += 1;
                let id = running.connections;
                running.streams.insert(id, copy);
                let shared = shared.clone();
                running.threads.push(std::thread::spawn(move || {
                    shared.connection(stream, id, is_elsewhere);
                }));
            }
        });
        lock(&self.running).threads.push(thread);
    }

    /// Stop all threads. Whether none of them panicked.
    pub fn stop(&self) -> bool {
        lock(&self.running).is_stopped = true;
        for host in [&self.site.host, &self.site.elsewhere] {
            // Wakes the listener.
            drop(TcpStream::connect(host));
        }
        let mut is_fine = true;
        loop {
            let mut running = lock(&self.running);
            for stream in running.streams.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let threads = std::mem::take(&mut running.threads);
            drop(running);
            if threads.is_empty() {
                return is_fine;
            }
            for thread in threads {
                is_fine &= thread.join().is_ok();
            }
        }
    }

    fn connection(&self, stream: TcpStream, id: u64, is_elsewhere: bool) {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(IDLE));
        let _ = stream.set_write_timeout(Some(IDLE));
        let mut wire = Wire::new(stream);
        loop {
            let head = match wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(e) => {
                    if e.kind() == std::io::ErrorKind::InvalidData {
                        self.state().violations.push("a request that is not HTTP/1.1".into());
                    }
                    break;
                }
            };
            let exchange = Exchange {
                id: 0,
                connection: id,
                elsewhere: is_elsewhere,
                at: Instant::now(),
                method: head.method.clone(),
                target: head.target.clone(),
                headers: head.headers.clone(),
                received: 0,
                status: 0,
                sent: 0,
                fault: None,
            };
            let mut request = Request::begin(self, head, exchange);
            let keeps = request.serve(&mut wire);
            if !keeps {
                // The socket closes before the request counts as finished.
                lock(&self.running).streams.remove(&id);
                drop(wire);
                return;
            }
        }
        lock(&self.running).streams.remove(&id);
    }
}

/// A request that is being answered.
struct Request<'a> {
    shared: &'a Shared,
    head: Head,
    route: Route,
    exchange: Exchange,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.in_flight -= 1;
        let id = self.exchange.id;
        if let Some(entry) = state.log.iter_mut().find(|e| e.id == id) {
            *entry = self.exchange.clone();
        }
        self.shared.changed.notify_all();
    }
}

impl<'a> Request<'a> {
    fn begin(shared: &'a Shared, head: Head, mut exchange: Exchange) -> Self {
        let site = &shared.site;
        let route = Route::of(&head, site.profile.upload_prefix);
        let is_elsewhere = exchange.elsewhere;
        let mut state = shared.state();
        exchange.id = state.id();
        exchange.fault = state.faults.next(route.kind(&head.method), &head.target);
        state.violations.extend(wrongs(&head, &route, is_elsewhere));
        state.in_flight += 1;
        state.peak = state.peak.max(state.in_flight);
        state.log.push(exchange.clone());
        if exchange.fault == Some(Fault::ExpireTokens) {
            state.tokens.values_mut().for_each(|t| t.expires = 0);
        }
        drop(state);
        Self { shared, head, route, exchange }
    }

    /// Whether the connection can be used again.
    fn serve(&mut self, wire: &mut Wire) -> bool {
        let keep = !self.head.wants_close();
        let early = self.refusal();
        let profile = &self.shared.site.profile;
        if early.is_some() && (self.head.expects_continue() || profile.answers_early) {
            let has_body = self.head.is_chunked() || self.head.length().unwrap_or(0) > 0;
            let keeps = self.send(wire, early.unwrap_or_else(not_found), keep && !has_body);
            if has_body {
                wire.drain(256 << 10);
            }
            return keeps;
        }
        if self.head.expects_continue() && wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
            return false;
        }
        let body = self.body(wire);
        self.exchange.received = body.bytes.len() as u64;
        if !body.is_complete {
            if let Route::Upload(repo, id) = &self.route {
                let mut state = self.shared.state();
                state.broke(&self.shared.site, repo, id, &body.bytes);
            }
            return false;
        }
        let answer = early.unwrap_or_else(|| self.handle(body.bytes));
        self.send(wire, answer, keep)
    }

    fn send(&mut self, wire: &mut Wire, mut answer: Answer, keep: bool) -> bool {
        let profile = &self.shared.site.profile;
        let is_list = matches!(
            self.route,
            Route::Manifest(..) | Route::Tags(_) | Route::Referrers(..) | Route::Token
        );
        answer.is_chunked = profile.chunked_answers && is_list && !answer.body.is_empty();
        if let Some(text) = profile.warning {
            answer = answer.with("Warning", format!("299 - \"{text}\""));
        }
        let has_body = self.head.method != "HEAD";
        let lost = matches!(self.exchange.fault, Some(Fault::LostAnswer | Fault::Garbage));
        self.exchange.status = if lost { 0 } else { answer.status };
        // If the request has a body, the stall was there.
        let fault = self
            .exchange
            .fault
            .filter(|f| !matches!(f, Fault::Stall(..)) || self.exchange.received == 0);
        let pause = |time| self.shared.pause(time);
        let (sent, keeps) = answer.send(wire, has_body, fault, keep, &pause);
        self.exchange.sent = sent;
        keeps
    }

    fn body(&self, wire: &mut Wire) -> Body {
        let mut plan = BodyPlan::default();
        let length = self.head.length().unwrap_or(0).max(1);
        let mut millis = 0;
        match self.exchange.fault {
            Some(Fault::ResetRequest(at)) => plan.stop_at = Some(at % length),
            Some(Fault::Stall(at, time)) => {
                plan.pause_at = Some(at % length);
                millis = time;
            }
            Some(Fault::LostAnswer | Fault::ResetResponse(_)) => plan.keep_last = true,
            _ => {}
        }
        wire.body(&self.head, &plan, &|| self.shared.pause(Duration::from_millis(millis)))
    }

    /// An answer that needs no body: a fault, too many requests, or what may not be done.
    fn refusal(&self) -> Option<Answer> {
        let site = &self.shared.site;
        let mut state = self.shared.state();
        if let Some(Fault::Status(status, wait)) = self.exchange.fault {
            if let Route::Upload(_, id) = &self.route
                && status >= 500
                && site.profile.error_ends_upload
            {
                state.uploads.remove(id);
            }
            let code = if status == 429 { "TOOMANYREQUESTS" } else { "UNKNOWN" };
            return Some(busy(status, code, wait));
        }
        if let Some(Fault::RedirectTo(url)) = self.exchange.fault {
            return Some(Answer::new(307).with("Location", url));
        }
        if self.exchange.elsewhere {
            return None;
        }
        state.requests += 1;
        if let Some(Throttle { after, times, retry_after }) = site.profile.throttle
            && (after + 1..=after + times).contains(&state.requests)
        {
            return Some(busy(429, "TOOMANYREQUESTS", retry_after));
        }
        if matches!(self.route, Route::Token | Route::Unknown) {
            return None;
        }
        state.refusal(site, &self.head, &self.route)
    }

    fn handle(&self, body: Vec<u8>) -> Answer {
        let (site, head) = (&self.shared.site, &self.head);
        let mut state = self.shared.state();
        if site.profile.body_limit.is_some_and(|limit| body.len() > limit) {
            return Answer::error(413, "SIZE_INVALID", "request entity too large");
        }
        let is_elsewhere = self.exchange.elsewhere;
        let is_redirected = self.exchange.fault == Some(Fault::Redirect);
        match (&self.route, &*head.method) {
            (Route::Token, "GET" | "POST") => state.token(site, head, &body, is_elsewhere),
            (Route::Redirected(id), "GET") if is_elsewhere => state.redirected(site, head, id),
            (Route::Upload(..), _) if is_elsewhere != site.profile.uploads_elsewhere => not_found(),
            (Route::Upload(repo, id), "PATCH") => state.patch(site, head, repo, id, &body),
            (Route::Upload(repo, id), "PUT") => state.put_upload(site, head, repo, id, &body),
            (Route::Upload(repo, id), "GET" | "HEAD") => state.upload_status(site, head, repo, id),
            (Route::Upload(repo, id), "DELETE") => state.cancel(site, repo, id),
            _ if is_elsewhere => not_found(),
            (Route::Base, "GET") => Answer::new(200).json(&json!({})),
            (Route::Uploads(repo), "POST") => state.post(site, head, repo, body),
            (Route::Blob(repo, digest), "GET" | "HEAD") => {
                state.blob(site, head, repo, digest, is_redirected)
            }
            (Route::Manifest(repo, reference), "GET" | "HEAD") => {
                state.manifest(site, head, repo, reference)
            }
            (Route::Manifest(repo, reference), "PUT") => {
                state.put_manifest(site, head, repo, reference, body)
            }
            (Route::Blob(repo, digest), "DELETE") => state.delete(site, repo, "blobs", digest),
            (Route::Manifest(repo, reference), "DELETE") => {
                state.delete(site, repo, "manifests", reference)
            }
            (Route::Tags(repo), "GET") => state.tags(site, head, repo),
            (Route::Referrers(repo, digest), "GET") => state.referrers(site, head, repo, digest),
            _ => not_found(),
        }
    }
}

fn busy(status: u16, code: &str, retry_after: Option<u64>) -> Answer {
    let answer = Answer::error(status, code, "try again later");
    match retry_after {
        Some(seconds) => answer.with("Retry-After", seconds.to_string()),
        None => answer,
    }
}
