//! Predicts what encoders with hash chains choose: zlib's `deflate_fast` and `deflate_slow` (also
//! GNU gzip's and pigz's), and Go's `compress/flate` from level 2 on.
//!
//! All look through the earlier places with the same hash, the nearest first, for the longest
//! match. They differ in the hash, in which places they enter, and in when a match has to wait for
//! a better one at the next byte.

use super::deflate::{MAX_MATCH, Token, WINDOW};
use super::predict::{Predictor, Span, match_len};

/// How an encoder searches.
#[derive(Clone, Copy)]
pub(super) struct Config {
    /// Go's rules instead of zlib's.
    pub(super) go: bool,
    /// A match waits for the one at the next byte.
    pub(super) lazy: bool,
    /// Bits of zlib's hash.
    pub(super) hash_bits: u32,
    /// A match so long makes the next search short.
    pub(super) good: usize,
    /// The longest match that waits, or whose places are entered.
    pub(super) wait: usize,
    /// A match so long ends the search.
    pub(super) nice: usize,
    /// Places that are looked at.
    pub(super) chain: usize,
}

/// Go enters places by four bytes in a table of this size.
const GO_BITS: u32 = 17;
const GO_PRIME: u32 = 0x1e35_a7bd;
/// Matches of the least length are not worth it from further away.
const TOO_FAR: usize = 4096;

/// Four bytes, zero where the data ends before.
#[inline]
fn four(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) struct Chains {
    config: Config,
    /// The last place of each hash, one up; 0 is none.
    heads: Vec<u32>,
    /// How far before each place the one before it is; 0 is out of reach.
    previous: Box<[u16]>,
    /// The next place to enter.
    next: usize,
    /// Where the search stands, and what was found one byte before if that waits.
    at: usize,
    waiting: Option<(usize, usize)>,
    from: usize,
    end: usize,
}

impl Chains {
    pub(super) fn new(config: Config) -> Self {
        let bits = if config.go { GO_BITS } else { config.hash_bits };
        Self {
            config,
            heads: vec![0; 1 << bits],
            previous: vec![0; WINDOW].into(),
            next: 0,
            at: 0,
            waiting: None,
            from: 0,
            end: 0,
        }
    }

    /// The least match, which is also what the hash covers.
    fn least(&self) -> usize {
        if self.config.go { 4 } else { 3 }
    }

    fn reach(&self) -> usize {
        // zlib keeps room for the longest match and the next hash.
        if self.config.go { WINDOW } else { WINDOW - MAX_MATCH - 3 - 1 }
    }

    fn hash(&self, data: &[u8], at: usize) -> usize {
        if self.config.go {
            let four = data[at..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
            return (four.wrapping_mul(GO_PRIME) >> (32 - GO_BITS)) as usize;
        }
        let shift = self.config.hash_bits.div_ceil(3);
        let three = data[at..at + 3].iter();
        let hash = three.fold(0, |h: u32, b| h << shift ^ u32::from(*b));
        (hash & ((1 << self.config.hash_bits) - 1)) as usize
    }

    /// Enters a place, and gives how far before it the last one of the same hash is; 0 is out of
    /// reach.
    fn enter(&mut self, data: &[u8], at: usize) -> usize {
        if at < self.next {
            return self.previous[at % WINDOW].into();
        }
        self.next = at + 1;
        let mut distance = 0;
        if at + self.least() <= self.end {
            let hash = self.hash(data, at);
            let last = std::mem::replace(&mut self.heads[hash], at as u32 + 1) as usize;
            // zlib takes its window's first byte for none.
            if last > self.from + usize::from(!self.config.go) && at + 1 - last <= WINDOW {
                distance = at + 1 - last;
            }
        }
        self.previous[at % WINDOW] = distance as u16;
        distance
    }

    /// The longest match that is longer than `best`, and where; the search begins at `distance`.
    fn longest(
        &self,
        data: &[u8],
        at: usize,
        mut distance: usize,
        mut best: usize,
        waited: usize,
    ) -> Option<(usize, usize)> {
        let mut tries = self.config.chain;
        if waited >= self.config.good && !self.config.go {
            tries >>= 2;
        }
        let nice = self.config.nice.min(self.end - at);
        let here = &data[at..self.end.min(at + MAX_MATCH)];
        let mut found = None;
        // After the first, zlib's bound is one less.
        let furthest = self.reach() - usize::from(!self.config.go);
        while best < here.len() {
            // Most places differ in the last of the bytes that must be the same, or just before.
            let tail = best.saturating_sub(3);
            let mask = if best < 3 { 0x00ff_ffff } else { u32::MAX };
            let sought = four(data, at + tail);
            while (four(data, at - distance + tail) ^ sought) & mask != 0 {
                tries -= 1;
                let step = usize::from(self.previous[(at - distance) % WINDOW]);
                distance += step;
                if tries == 0 || step == 0 || distance > furthest {
                    return found;
                }
            }
            let len = match_len(here, &data[at - distance..]);
            let far = self.config.go && len == 4 && distance > TOO_FAR;
            if len > best && !far {
                best = len;
                found = Some((len, distance));
                if len >= nice {
                    break;
                }
            }
            tries -= 1;
            let step = usize::from(self.previous[(at - distance) % WINDOW]);
            distance += step;
            if tries == 0 || step == 0 || distance > furthest {
                break;
            }
        }
        found
    }

    /// Searches at a place, which it enters.
    fn search(&mut self, data: &[u8], at: usize, waited: usize) -> Option<(usize, usize)> {
        // Only damaged corrections go on after the input's end.
        if at >= self.end {
            return None;
        }
        let distance = self.enter(data, at);
        let near = (1..=self.reach()).contains(&distance);
        if !near || self.config.lazy && waited >= self.config.wait {
            return None;
        }
        let best = if self.config.go { 3 } else { waited.max(2) };
        let found = self.longest(data, at, distance, best, waited)?;
        let slow = !self.config.go && self.config.lazy;
        if slow && found.0 == 3 && found.1 > TOO_FAR { None } else { Some(found) }
    }

    fn fast(&mut self, data: &[u8], at: usize) -> Token {
        let Some((len, distance)) = self.search(data, at, 0) else {
            self.at = at + 1;
            return Token::literal(data[at]);
        };
        self.at = at + len;
        let entered = len <= self.config.wait;
        if entered && (self.config.go || self.end - self.at >= 3) {
            for place in at + 1..self.at {
                self.enter(data, place);
            }
        } else {
            self.next = self.next.max(self.at);
        }
        Token::pair(len, distance)
    }

    fn slow(&mut self, data: &[u8], at: usize) -> Token {
        if self.at == at {
            self.waiting = self.search(data, at, 0);
            self.at = at + 1;
        }
        let (waited, distance) = self.waiting.unwrap_or((0, 0));
        let better = if self.at < self.end { self.search(data, self.at, waited) } else { None };
        match better {
            Some(better) if better.0 > waited || waited == 0 => {
                self.waiting = Some(better);
                self.at += 1;
                Token::literal(data[at])
            }
            _ if waited > 0 => {
                let after = at + waited;
                for place in at + 2..after {
                    self.enter(data, place);
                }
                self.at = after;
                self.waiting = None;
                Token::pair(waited, distance)
            }
            _ => {
                self.waiting = None;
                self.at += 1;
                Token::literal(data[at])
            }
        }
    }
}

impl Predictor for Chains {
    fn start(&mut self, data: &[u8], span: &Span) {
        if !span.goes_on {
            self.heads.fill(0);
            self.previous.fill(0);
            self.from = span.from;
            self.next = span.from;
            self.end = span.end;
            if self.config.lazy || span.since == 0 {
                self.next = span.from.max(span.at.saturating_sub(WINDOW));
                for place in self.next..span.at {
                    self.enter(data, place);
                }
            } else {
                self.at = span.from;
                while self.at < span.at {
                    self.fast(data, self.at);
                }
            }
        }
        self.end = span.end;
        self.pass(data, span.at);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        if self.config.lazy { self.slow(data, at) } else { self.fast(data, at) }
    }

    fn correct(&mut self, at: usize) {
        self.at = at;
        self.waiting = None;
    }

    fn pass(&mut self, data: &[u8], at: usize) {
        for place in self.next..at {
            self.enter(data, place);
        }
        self.correct(at);
    }
}
