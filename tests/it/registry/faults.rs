//! Deliberate faults. A seed always gives the same schedule.

use crate::model::Random;

/// The requests that a fault applies to.
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

/// What goes wrong. A position in a body is an offset in bytes, taken modulo the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reset the connection after reading this many bytes of the request's body.
    ResetRequest(u64),
    /// Reset the connection after sending this many bytes of the answer's body.
    ResetResponse(u64),
    /// Carry out the request, and reset the connection instead of answering.
    LostAnswer,
    /// Wait after this many bytes of the request's body, or of the answer's if the request has none.
    /// The second number is the length in milliseconds.
    Stall(u64, u64),
    /// Close after sending this many bytes of the answer's body, with the right `Content-Length`.
    Truncate(u64),
    /// `Content-Range` names a range one byte later; an answer without it gets one.
    WrongContentRange,
    /// Answer with an error, and `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// All tokens given out so far expire before the request is checked.
    ExpireTokens,
    /// Redirect the `GET` of a blob to the other host.
    Redirect,
    /// 307 to this URL.
    RedirectTo(&'static str),
    /// This `Location` instead of the right one.
    WrongLocation(&'static str),
    /// One bit of the byte at this offset of the answer's body is flipped.
    WrongByte(u64),
    /// Answer correctly, then close the connection without having announced it.
    Close,
    /// 1 MiB more than `Content-Length` says, then close.
    TooLong,
    /// No `Content-Length`, and no end before the client closes or 256 MiB are sent.
    Endless,
    /// The first bytes of the answer, this many, one at a time and 2 ms apart.
    Slow(u64),
    /// Bytes that are not HTTP instead of an answer.
    Garbage,
    /// 1 MiB of headers.
    HugeHeaders,
}

impl Fault {
    /// Whether a correct client may fail, with an error that says why. Other faults it must survive.
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

/// A fault for one request, or for several in a row.
#[derive(Clone, Debug)]
struct Rule {
    on: On,
    /// Part of the request's target, for instance a digest.
    part: String,
    /// How many matching requests get no fault first.
    skip: usize,
    times: usize,
    fault: Fault,
}

/// A schedule of faults. The first rule that matches a request and is not used up decides, so rules
/// for the same kind of request apply one after the other, and other kinds are independent.
#[derive(Clone, Debug)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl Faults {
    /// The most faults in a schedule from a seed. A client that tries everything once more than this
    /// gets through, unless a fault is fatal.
    pub const MOST: usize = 5;

    pub fn none() -> Self {
        Self { rules: Vec::new() }
    }

    /// Add a fault for the next request of a kind.
    pub fn then(self, on: On, fault: Fault) -> Self {
        self.times(on, 0, 1, fault)
    }

    /// Add a fault for several requests of a kind in a row, after skipping some.
    pub fn times(mut self, on: On, skip: usize, times: usize, fault: Fault) -> Self {
        self.rules.push(Rule { on, part: String::new(), skip, times, fault });
        self
    }

    /// Limit the fault added last to requests whose target contains this, for instance a digest.
    pub fn only(mut self, part: &str) -> Self {
        part.clone_into(&mut self.rules.last_mut().expect("there is a fault").part);
        self
    }

    /// Set the length of all stalls added so far, in milliseconds; from a seed they have 300.
    pub fn stalling(mut self, millis: u64) -> Self {
        for rule in &mut self.rules {
            if let Fault::Stall(_, length) = &mut rule.fault {
                *length = millis;
            }
        }
        self
    }

    /// Between two and [`Self::MOST`] faults that a correct client survives.
    pub fn from_seed(seed: u64) -> Self {
        Self::drawn(seed, false)
    }

    /// The same, but one of them is fatal.
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

    /// The fault for a request, which is thereby used up.
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
    // Often near the beginning.
    if random.one_in(3) { random.below(3) as u64 } else { random.next() >> 1 }
}

fn harmless(random: &mut Random) -> (On, Fault) {
    let every = [&SENDS[..], &ASKS[..], &[On::BlobHead, On::UploadPost, On::ManifestHead]].concat();
    let at = place(random);
    match random.below(11) {
        10 => (*random.of(&every), Fault::Close),
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
    let fault = match random.below(7) {
        5 => return (On::BlobGet, Fault::RedirectTo("http://127.0.0.1:1/nowhere")),
        6 => return (On::UploadPost, Fault::WrongLocation("ftp://127.0.0.1/nowhere")),
        0 => Fault::WrongByte(at),
        1 => Fault::TooLong,
        2 => Fault::Endless,
        3 => Fault::Garbage,
        _ => Fault::HugeHeaders,
    };
    (*random.of(&ASKS), fault)
}
