//! Simulates encoders with hash chains: zlib's `deflate_fast` and `deflate_slow` (also in GNU gzip and
//! pigz), and Go's `compress/flate` from level 2 on.
//!
//! All search the earlier positions with the same hash, nearest first, for the longest match. They
//! differ in the hash, in the positions they insert, and in when a match is deferred until the next
//! byte was tried.

use super::deflate::{MAX_MATCH, Token, WINDOW};
use super::predict::{Predictor, PredictorStart, match_len};

/// How an encoder searches.
#[derive(Clone, Copy)]
pub(super) struct ChainConfig {
    /// Go's rules instead of zlib's.
    pub(super) go: bool,
    /// A match is deferred until the next byte was tried.
    pub(super) lazy: bool,
    /// Bits of zlib's hash.
    pub(super) hash_bits: u32,
    /// After a match of this length the next search is shorter.
    pub(super) good: usize,
    /// The longest match that is deferred, or whose positions are inserted.
    pub(super) wait: usize,
    /// A match of this length ends the search.
    pub(super) nice: usize,
    /// Maximum number of positions that are tried.
    pub(super) chain: usize,
}

/// Bits of Go's hash of four bytes.
const GO_BITS: u32 = 17;
const GO_PRIME: u32 = 0x1e35_a7bd;
/// Matches of minimum length are not used beyond this distance.
const TOO_FAR: usize = 4096;

/// Reads four bytes; 0 beyond the end.
#[inline]
fn four(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// A simulated encoder with hash chains.
pub(super) struct Chains {
    config: ChainConfig,
    /// The last position of each hash plus 1; 0 is none.
    heads: Vec<u32>,
    /// The distance from each position to the one before it with the same hash; 0 is out of reach.
    previous: Box<[u16]>,
    /// The next position to insert.
    next: usize,
    /// The position of the next search, and the deferred match of the byte before.
    at: usize,
    deferred: Option<(usize, usize)>,
    from: usize,
    end: usize,
}

impl Chains {
    /// Makes an encoder with empty tables.
    pub(super) fn new(config: ChainConfig) -> Self {
        let bits = if config.go { GO_BITS } else { config.hash_bits };
        Self {
            config,
            heads: vec![0; 1 << bits],
            previous: vec![0; WINDOW].into(),
            next: 0,
            at: 0,
            deferred: None,
            from: 0,
            end: 0,
        }
    }

    /// Returns the minimum match length, which is also the number of hashed bytes.
    fn min_match(&self) -> usize {
        if self.config.go { 4 } else { 3 }
    }

    /// Returns the maximum distance.
    fn reach(&self) -> usize {
        // zlib reserves space for the longest match and the next hash.
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

    /// Inserts a position, and returns the distance to the last one with the same hash; 0 is out of
    /// reach.
    fn insert(&mut self, data: &[u8], at: usize) -> usize {
        if at < self.next {
            return self.previous[at % WINDOW].into();
        }
        self.next = at + 1;
        let mut distance = 0;
        if at + self.min_match() <= self.end {
            let hash = self.hash(data, at);
            let last = std::mem::replace(&mut self.heads[hash], at as u32 + 1) as usize;
            // To zlib position 0 of its window means none.
            if last > self.from + usize::from(!self.config.go) && at + 1 - last <= WINDOW {
                distance = at + 1 - last;
            }
        }
        self.previous[at % WINDOW] = distance as u16;
        distance
    }

    /// Finds the longest match that is longer than `best`: its length and distance. The search begins
    /// at `distance`.
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
        // From the second candidate on, zlib's limit is one less.
        let furthest = self.reach() - usize::from(!self.config.go);
        while best < here.len() {
            // Most candidates differ in the last bytes that must be equal, so these are compared first.
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

    /// Inserts a position and searches for a match there.
    fn search(&mut self, data: &[u8], at: usize, waited: usize) -> Option<(usize, usize)> {
        // Only damaged corrections continue beyond the end of the input.
        if at >= self.end {
            return None;
        }
        let distance = self.insert(data, at);
        let near = (1..=self.reach()).contains(&distance);
        if !near || self.config.lazy && waited >= self.config.wait {
            return None;
        }
        let best = if self.config.go { 3 } else { waited.max(2) };
        let found = self.longest(data, at, distance, best, waited)?;
        let slow = !self.config.go && self.config.lazy;
        if slow && found.0 == 3 && found.1 > TOO_FAR { None } else { Some(found) }
    }

    /// `deflate_fast`.
    fn fast(&mut self, data: &[u8], at: usize) -> Token {
        let Some((len, distance)) = self.search(data, at, 0) else {
            self.at = at + 1;
            return Token::literal(data[at]);
        };
        self.at = at + len;
        let inserted = len <= self.config.wait;
        if inserted && (self.config.go || self.end - self.at >= 3) {
            for position in at + 1..self.at {
                self.insert(data, position);
            }
        } else {
            self.next = self.next.max(self.at);
        }
        Token::pair(len, distance)
    }

    /// `deflate_slow`.
    fn slow(&mut self, data: &[u8], at: usize) -> Token {
        if self.at == at {
            self.deferred = self.search(data, at, 0);
            self.at = at + 1;
        }
        let (waited, distance) = self.deferred.unwrap_or((0, 0));
        let better = if self.at < self.end { self.search(data, self.at, waited) } else { None };
        match better {
            Some(better) if better.0 > waited || waited == 0 => {
                self.deferred = Some(better);
                self.at += 1;
                Token::literal(data[at])
            }
            _ if waited > 0 => {
                let after = at + waited;
                for position in at + 2..after {
                    self.insert(data, position);
                }
                self.at = after;
                self.deferred = None;
                Token::pair(waited, distance)
            }
            _ => {
                self.deferred = None;
                self.at += 1;
                Token::literal(data[at])
            }
        }
    }
}

impl Predictor for Chains {
    fn start(&mut self, data: &[u8], span: &PredictorStart) {
        if !span.keeps_tables {
            self.heads.fill(0);
            self.previous.fill(0);
            self.from = span.from;
            self.next = span.from;
            self.end = span.end;
            if self.config.lazy || span.since == 0 {
                self.next = span.from.max(span.at.saturating_sub(WINDOW));
                for position in self.next..span.at {
                    self.insert(data, position);
                }
            } else {
                self.at = span.from;
                while self.at < span.at {
                    self.fast(data, self.at);
                }
            }
        }
        self.end = span.end;
        self.skip(data, span.at);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        if self.config.lazy { self.slow(data, at) } else { self.fast(data, at) }
    }

    fn correct(&mut self, at: usize) {
        self.at = at;
        self.deferred = None;
    }

    fn skip(&mut self, data: &[u8], at: usize) {
        for position in self.next..at {
            self.insert(data, position);
        }
        self.correct(at);
    }
}
