//! Schedules of faults: the result is the right image or an error, and without a fatal fault it is the
//! image; what breaks is not sent again from the beginning.
//!
//! `RELAYER_SCHEDULES` says how many there are, `RELAYER_SEED` with which they begin.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::super::model::{seed, setting};
use super::super::registry::{Broken, Fault, Faults, Profile, RangeReport, TestRegistry};
use super::table::{profiles, start};
use super::*;

/// Schedules at a time: each waits most of the time.
const THREADS: usize = 16;

/// All profiles, and registries that take no large bodies, so that chunks are sent.
fn all() -> Vec<(&'static str, Profile)> {
    let mut all = profiles();
    let limited = |profile| Profile { body_limit: Some(45 << 10), ..profile };
    let last = Profile { range_report: RangeReport::Last, ..Profile::zot() };
    all.push(("limited distribution 2", limited(Profile::distribution2())));
    all.push(("limited distribution 3", limited(Profile::distribution3())));
    all.push(("limited old zot", limited(last)));
    all.push(("elsewhere", Profile { uploads_elsewhere: true, ..Profile::quay() }));
    all
}

struct Schedule {
    what: String,
    profile: Profile,
    registry: TestRegistry,
    faults: Faults,
    /// Whether the client may fail.
    is_fatal: bool,
    /// Whether the client has less patience than the stalls last.
    is_impatient: bool,
    random: Random,
}

impl Schedule {
    fn new(seed: u64, direction: &str) -> Self {
        let mut random = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let all = all();
        let (name, profile) = random.of(&all).clone();
        let (is_hostile, is_impatient) = (random.one_in(4), random.one_in(3));
        let faults = if is_hostile { Faults::hostile(seed) } else { Faults::from_seed(seed) };
        // New tokens that are refused again and again are not the end of a moment.
        let refused = faults.faults().iter().filter(|f| **f == Fault::ExpireTokens).count();
        let is_fatal = is_hostile || refused > 2;
        let what = format!("{direction} {name}, seed {seed}");
        let registry = start(profile.clone());
        let faults = faults.stalling(if is_impatient { 500 } else { 20 });
        Self { what, profile, registry, faults, is_fatal, is_impatient, random }
    }

    fn begin(&self) {
        self.registry.clear_log();
        self.registry.set_faults(self.faults.clone());
    }

    fn client(&self, cache: Cache) -> Client {
        Client::with(&self.registry, cache, |options| {
            if self.is_impatient {
                options.timeouts.stall = Duration::from_millis(80);
            }
        })
    }

    /// What a failure of this schedule prints.
    fn context(&self) -> String {
        let line =
            |e: &Exchange| format!("{} {} of {} {:?}\n", e.line(), e.received, e.sent, e.fault);
        format!("{}\n{}", self.what, self.registry.log().iter().map(line).collect::<String>())
    }

    /// Whether bytes are counted: not where the client does not wait for answers.
    fn counts(&self) -> bool {
        !self.is_fatal && !self.is_impatient
    }

    fn check_secrecy(&self) {
        if !self.is_fatal {
            assert_discreet(&self.registry, &self.context());
        }
        // A wrong address is not the client's fault, but what it sends there is.
        let violations = self.registry.violations();
        assert!(violations.iter().all(|v| !v.contains("Authorization")), "{}", self.context());
    }
}

/// The bytes of a request's body, as it states them.
fn length(e: &Exchange) -> u64 {
    e.header("content-length").map_or(0, |length| length.parse().unwrap())
}

fn push(seed: u64) {
    let mut s = Schedule::new(seed, "push");
    let (old, new) = (of_layers(&[(1, 3_000), (9, 70_000)]).oci_files(Codec::Plain), usual());
    let wanted = (root(&new), blobs(&new));
    let reference = s.registry.reference("app:v1");
    let had = s.random.one_in(2);
    if had {
        s.registry.add_image("app", "v1", &old);
    }
    let before = tagged(&s.registry, "app", "v1");
    s.begin();
    let begin = Instant::now();
    let result = s.client(Cache::default()).push(&new, &reference, &[]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{}", s.context());
    let after = tagged(&s.registry, "app", "v1");
    s.check_secrecy();
    match result {
        Ok(_) => assert!(after.as_ref() == Some(&wanted), "{}", s.context()),
        Err(e) => {
            assert!(s.is_fatal, "{e}\n{}", s.context());
            assert!(after == before || after.as_ref() == Some(&wanted), "{e}\n{}", s.context());
            s.registry.set_faults(Faults::none());
            s.client(Cache::default()).push(&new, &reference, &[]).unwrap();
            assert!(tagged(&s.registry, "app", "v1") == Some(wanted), "{}", s.context());
            return;
        }
    }
    if s.counts() {
        let held = before.map(|(_, blobs)| blobs).unwrap_or_default();
        let needed = wanted.1.iter().filter(|(digest, _)| !held.contains_key(*digest));
        let needed: u64 = needed.map(|(_, bytes)| bytes.len() as u64).sum();
        let largest = wanted.1.values().map(Vec::len).max().unwrap() as u64;
        // What a chunk that breaks costs: itself, where a registry keeps the rest.
        let keeps = s.profile.broken != Broken::Lost && !s.profile.error_ends_upload;
        let log = s.registry.log();
        let cut = |e: &&Exchange| e.fault.is_some() || matches!(e.status, 400 | 401 | 413);
        let lost = log.iter().filter(cut).map(|e| match &*e.method {
            "PATCH" | "PUT" if !keeps => largest,
            _ => length(e),
        });
        let most = needed + needed / 20 + lost.sum::<u64>();
        assert!(received(&log) <= most, "{} of {most}: {}", received(&log), s.context());
    }
}

fn pull(seed: u64) {
    let mut s = Schedule::new(seed, "pull");
    let files = usual();
    let wanted = (root(&files), blobs(&files));
    s.registry.add_image("app", "v1", &files);
    let reference = s.registry.reference("app:v1");
    let dir = tempfile::tempdir().unwrap();
    let cached = s.random.one_in(2);
    let cache = || if cached { Cache::open(dir.path(), ROOM).unwrap() } else { Cache::default() };
    s.begin();
    let begin = Instant::now();
    let result = s.client(cache()).pull(&reference, None);
    assert!(begin.elapsed() < Duration::from_secs(30), "{}", s.context());
    s.check_secrecy();
    match result {
        Ok(pulled) => assert!(pulled == wanted, "{}", s.context()),
        Err(e) => {
            assert!(s.is_fatal, "{e}\n{}", s.context());
            s.registry.set_faults(Faults::none());
            let again = s.client(cache()).pull(&reference, None).unwrap();
            assert!(again == wanted, "{}", s.context());
            return;
        }
    }
    if s.counts() {
        let needed = total(&wanted.1);
        let largest = wanted.1.values().map(Vec::len).max().unwrap() as u64;
        let unit = if s.profile.ranges { 2 * RANGE } else { largest };
        let log = s.registry.log();
        let is_body =
            |e: &&Exchange| matches!(e.status, 0 | 200 | 206) && !e.target.starts_with("/token");
        let served: u64 = log.iter().filter(is_body).map(|e| e.sent).sum();
        let lost = log.iter().filter_map(|e| match e.fault? {
            // Whole blobs are asked for from then on.
            Fault::WrongContentRange => Some(needed),
            _ => Some(unit),
        });
        let most = needed + needed / 20 + lost.sum::<u64>();
        assert!(served <= most, "{served} of {most}: {}", s.context());
    }
}

#[test]
fn faults_cost_no_more_than_what_they_break() {
    let (first, count) = (seed(), setting("RELAYER_SCHEDULES", 300));
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if seed.is_multiple_of(2) { push(seed) } else { pull(seed) }
                }
            });
        }
    });
}
