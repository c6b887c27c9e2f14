//! Faults on purpose, in an order that is the same for a seed.

use crate::model::Random;

/// Requests that a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Any,
    /// `GET` of a blob at the registry.
    BlobGet,
    BlobHead,
    /// The `POST` that opens an upload.
    UploadPost,
    UploadPatch,
    UploadPut,
    UploadStatus,
    ManifestGet,
    ManifestHead,
    ManifestPut,
    Tags,
    Referrers,
    Token,
    /// `GET` at the host that blobs are redirected to.
    Redirected,
    Other,
}

/// What goes wrong. Places in a body are bytes; one beyond its end is taken modulo its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reset the connection after so many bytes of the request's body.
    ResetRequest(u64),
    /// Reset the connection after so many bytes of the answer's body.
    ResetResponse(u64),
    /// Do what is asked, and reset the connection in place of an answer.
    LostAnswer,
    /// Wait after so many bytes of the request's body, or of the answer's if the request has none,
    /// for so many milliseconds.
    Stall(u64, u64),
    /// Close after so many bytes of the answer's body, with the right `Content-Length`.
    Truncate(u64),
    /// `Content-Range` names a range one byte later; an answer without it gets one.
    WrongContentRange,
    /// Answer with an error, and `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// All tokens so far have expired.
    ExpireTokens,
    /// Redirect the `GET` of a blob to the other host.
    Redirect,
    /// 307 to this URL.
    RedirectTo(&'static str),
    /// Another `Location` than the right one, if any.
    WrongLocation(&'static str),
    /// The byte at this place of the answer's body is another.
    WrongByte(u64),
    /// 1 MiB more than `Content-Length` says, then close.
    TooLong,
    /// No `Content-Length`, and no end until the client closes or 256 MiB are sent.
    Endless,
    /// So many bytes of the answer one at a time, 2 ms apart.
    Slow(u64),
    /// What is not HTTP in place of an answer.
    Garbage,
    /// 1 MiB of headers.
    HugeHeaders,
}

impl Fault {
    /// Whether a good client may give up, saying why. After others it must go on.
    pub fn is_fatal(self) -> bool {
        matches!(
            self,
            Self::RedirectTo(_)
                | Self::WrongLocation(_)
                | Self::WrongByte(_)
                | Self::TooLong
                | Self::Endless
                | Self::Garbage
                | Self::HugeHeaders
        )
    }
}

/// One fault, or some of a kind in a row.
#[derive(Clone, Debug)]
struct Rule {
    on: On,
    /// Part of the request's target, for instance a digest.
    part: String,
    /// How many such requests are spared first.
    skip: usize,
    times: usize,
    fault: Fault,
}

/// A schedule of faults. A request gets the first rule that it matches and that is not used up, so
/// rules for the same requests follow each other and others are independent.
#[derive(Clone, Debug)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl Faults {
    /// The most faults of a schedule that a seed makes: a client that repeats any request more often
    /// gets through, unless a fault is fatal.
    pub const MOST: usize = 6;

    pub fn none() -> Self {
        Self { rules: Vec::new() }
    }

    /// One more fault, at the next request of a kind.
    pub fn then(self, on: On, fault: Fault) -> Self {
        self.times(on, 0, 1, fault)
    }

    /// A fault at some requests of a kind in a row, after some that are spared.
    pub fn times(mut self, on: On, skip: usize, times: usize, fault: Fault) -> Self {
        self.rules.push(Rule { on, part: String::new(), skip, times, fault });
        self
    }

    /// The last fault only for requests whose target has this part, for instance a digest.
    pub fn only(mut self, part: &str) -> Self {
        part.clone_into(&mut self.rules.last_mut().expect("there is a fault").part);
        self
    }

    /// Another length of all stalls so far, in milliseconds; a seed makes them 300.
    pub fn stalling(mut self, millis: u64) -> Self {
        for rule in &mut self.rules {
            if let Fault::Stall(_, length) = &mut rule.fault {
                *length = millis;
            }
        }
        self
    }

    /// Up to [`Self::MOST`] faults that a good client gets over.
    pub fn from_seed(seed: u64) -> Self {
        Self::drawn(seed, false)
    }

    /// The same, with at least one that is fatal.
    pub fn hostile(seed: u64) -> Self {
        Self::drawn(seed, true)
    }

    fn drawn(seed: u64, hostile: bool) -> Self {
        let mut random = Random(seed);
        let mut faults = Self::none();
        let mut left = 2 + random.below(Self::MOST - 1);
        if hostile {
            let (on, fault) = fatal(&mut random);
            faults = faults.times(on, random.below(4), 1, fault);
            left -= 1;
        }
        while left > 0 {
            let (on, fault) = harmless(&mut random);
            let is_burst = matches!(fault, Fault::Status(..));
            let times = if is_burst { 1 + random.below(left.min(3)) } else { 1 };
            faults = faults.times(on, random.below(3), times, fault);
            left -= times;
        }
        faults
    }

    /// All faults that are left, one after the other.
    pub fn faults(&self) -> Vec<Fault> {
        self.rules.iter().flat_map(|r| vec![r.fault; r.times]).collect()
    }

    /// The fault for a request, which then is used.
    pub(super) fn next(&mut self, on: On, target: &str) -> Option<Fault> {
        let matches = |r: &&mut Rule| {
            r.times > 0 && (r.on == on || r.on == On::Any) && target.contains(&r.part)
        };
        let rule = self.rules.iter_mut().find(matches)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }
}

const SENDS: [On; 3] = [On::UploadPatch, On::UploadPut, On::ManifestPut];
const ASKS: [On; 4] = [On::BlobGet, On::Redirected, On::ManifestGet, On::Token];

fn place(random: &mut Random) -> u64 {
    // Near the beginning, and anywhere.
    if random.one_in(3) { random.below(3) as u64 } else { random.next() >> 1 }
}

fn harmless(random: &mut Random) -> (On, Fault) {
    let every = [&SENDS[..], &ASKS[..], &[On::BlobHead, On::UploadPost, On::ManifestHead]].concat();
    let at = place(random);
    match random.below(10) {
        0 => (*random.of(&SENDS), Fault::ResetRequest(at)),
        1 => (*random.of(&ASKS), Fault::ResetResponse(at)),
        2 => (*random.of(&[&SENDS[..], &[On::UploadPost]].concat()), Fault::LostAnswer),
        3 => (*random.of(&every), Fault::Stall(at, 300)),
        4 => (*random.of(&ASKS), Fault::Truncate(at)),
        5 => (On::BlobGet, Fault::WrongContentRange),
        6 => (*random.of(&every), Fault::ExpireTokens),
        7 => (On::BlobGet, Fault::Redirect),
        8 => (*random.of(&ASKS), Fault::Slow(20)),
        _ => {
            let (status, wait) = (*random.of(&[429, 429, 500, 502, 503]), random.below(3) as u64);
            let wait = (status == 429 || status == 503).then_some(wait).filter(|s| *s < 2);
            (*random.of(&every), Fault::Status(status, wait))
        }
    }
}

fn fatal(random: &mut Random) -> (On, Fault) {
    let at = place(random);
    let fault = match random.below(5) {
        0 => Fault::WrongByte(at),
        1 => Fault::TooLong,
        2 => Fault::Endless,
        3 => Fault::Garbage,
        _ => Fault::HugeHeaders,
    };
    (*random.of(&ASKS), fault)
}
