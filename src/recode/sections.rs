//! Predicts what klauspost/compress chooses at level 5, its default (pgzip's too, and so
//! buildah's, podman's and skopeo's).
//!
//! It works on sections of 65,535 bytes, each searched at once. One table has the last place of
//! each hash of four bytes, another the last two of each hash of seven. They are filled unevenly,
//! so a section cannot be entered in its middle: all of it is predicted, and what is asked for is
//! looked up.

use super::deflate::{MAX_MATCH, Token, WINDOW};
use super::predict::{Predictor, Span, match_len};

/// Bytes of a section.
pub(super) const SECTION: usize = 65_535;
const BITS: u32 = 15;
/// The search ends so many bytes before the section does.
const MARGIN: usize = 11;
/// Shorter inputs are not searched.
const LEAST: usize = 128;

/// A place, one up; 0 is none.
type Place = u32;

pub(super) struct Sections {
    /// By four bytes.
    short: Vec<Place>,
    /// By seven bytes: the last place and the one before.
    long: Vec<[Place; 2]>,
    /// Tokens of the section, and where each begins; matches only.
    pairs: Vec<(usize, Token)>,
    /// The first of them that lies ahead.
    ahead: usize,
    /// Where the history begins, the section ends, and the input ends.
    from: usize,
    section_end: usize,
    end: usize,
}

impl Default for Sections {
    fn default() -> Self {
        Self {
            short: vec![0; 1 << BITS],
            long: vec![[0; 2]; 1 << BITS],
            pairs: Vec::new(),
            ahead: 0,
            from: 0,
            section_end: 0,
            end: 0,
        }
    }
}

fn eight(data: &[u8], at: usize) -> u64 {
    data[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn hash_short(bytes: u64) -> usize {
    ((bytes as u32).wrapping_mul(2_654_435_761) >> (32 - BITS)) as usize
}

fn hash_long(bytes: u64) -> usize {
    ((bytes << 8).wrapping_mul(58_295_818_150_454_627) >> (64 - BITS)) as usize
}

/// A match: where it begins, what it repeats, how long it is.
#[derive(Clone, Copy)]
struct Match {
    at: usize,
    of: usize,
    len: usize,
}

impl Sections {
    fn enter_short(&mut self, bytes: u64, at: usize) {
        self.short[hash_short(bytes)] = at as Place + 1;
    }

    fn enter_long(&mut self, bytes: u64, at: usize) {
        let entry = &mut self.long[hash_long(bytes)];
        *entry = [at as Place + 1, entry[0]];
    }

    fn enter(&mut self, bytes: u64, at: usize) {
        self.enter_short(bytes, at);
        self.enter_long(bytes, at);
    }

    /// The place if it is near and begins with the same four bytes.
    fn near(&self, data: &[u8], at: usize, four: u64, place: Place) -> Option<usize> {
        let of = (place as usize).checked_sub(1)?;
        let near = of >= self.from && at - of < WINDOW;
        (near && eight(data, of) as u32 == four as u32).then_some(of)
    }

    /// The length of a match whose first four bytes are known, as far as one token goes.
    fn length(data: &[u8], at: usize, of: usize) -> usize {
        let most = data.len().min(at + MAX_MATCH);
        4 + match_len(&data[at + 4..most], &data[of + 4..])
    }

    /// The first match from `at` on. `data` ends with the section.
    fn find(&mut self, data: &[u8], emitted: usize, at: &mut usize) -> Option<Match> {
        let limit = data.len() - MARGIN;
        let mut bytes = eight(data, *at);
        let mut next = *at;
        loop {
            let at_now = next;
            next = at_now + 1 + ((at_now - emitted) >> 6);
            *at = next;
            if next > limit {
                return None;
            }
            let short = self.short[hash_short(bytes)];
            let long = self.long[hash_long(bytes)];
            self.enter(bytes, at_now);
            let later = eight(data, next);
            let [last, before] = long.map(|place| self.near(data, at_now, bytes, place));
            if let Some(of) = last.or(before) {
                self.enter(later, next);
                let whole = |of| Match { at: at_now, of, len: extend(data, at_now, of) };
                let Some((last, before)) = last.zip(before) else { return Some(whole(of)) };
                let lengths =
                    (Self::length(data, at_now, last), Self::length(data, at_now, before));
                return Some(if lengths.1 > lengths.0 {
                    Match { at: at_now, of: before, len: longer(data, at_now, before, lengths.1) }
                } else {
                    Match { at: at_now, of: last, len: longer(data, at_now, last, lengths.0) }
                });
            }
            if let Some(of) = self.near(data, at_now, bytes, short) {
                let len = Self::length(data, at_now, of);
                let long = self.long[hash_long(later)];
                self.enter(later, next);
                for place in long {
                    // A place that is too far ends it: those before are further.
                    let Some(of) = self.near(data, next, later, place) else { continue };
                    let better = Self::length(data, next, of);
                    if better > len {
                        return Some(Match { at: next, of, len: longer(data, next, of, better) });
                    }
                }
                return Some(Match { at: at_now, of, len: longer(data, at_now, of, len) });
            }
            bytes = later;
        }
    }

    /// Searches a section, which begins at `at` and ends with `data`.
    fn search(&mut self, data: &[u8], at: usize) {
        self.pairs.clear();
        self.ahead = 0;
        if data.len() - at < 13 {
            return;
        }
        let limit = data.len() - MARGIN;
        let (mut at, mut emitted) = (at, at);
        let begin = at;
        let mut tokens = 0;
        while let Some(mut found) = self.find(data, emitted, &mut at) {
            // A longer match may end where this one does, and begin two bytes later or less.
            let end = found.at + found.len;
            if found.len < 30 && end < limit {
                let place = self.long[hash_long(eight(data, end))][0] as usize;
                let later = found.at + 2;
                if let Some(of) = (place + 1).checked_sub(found.len)
                    && of >= self.from
                    && of < later
                    && later - of < WINDOW
                    && place > 0
                {
                    let len = match_len(&data[later..], &data[of..]);
                    if len > found.len {
                        found = Match { at: later, of, len };
                    }
                }
            }
            while found.of > self.from
                && found.at > emitted
                && data[found.of - 1] == data[found.at - 1]
            {
                found.at -= 1;
                found.of -= 1;
                found.len += 1;
            }
            tokens += found.at - emitted + self.emit(found);
            let next = at;
            at = found.at + found.len;
            emitted = at;
            if next >= at {
                at = next + 1;
            }
            if at >= limit {
                break;
            }
            self.enter_inside(data, at - found.len + 1, at);
            // The search goes on at `at`, with the place before it entered.
            self.enter(eight(data, at - 1), at - 1);
        }
        // With little saved, all are written as literals.
        let size = data.len() - begin;
        tokens += data.len() - emitted;
        if tokens > size - size / 16 {
            self.pairs.clear();
        }
    }

    /// Enters some of the places within a match.
    fn enter_inside(&mut self, data: &[u8], from: usize, end: usize) {
        if from + 1 >= end {
            return;
        }
        self.enter(eight(data, from), from);
        self.enter_long(eight(data, from + 1), from + 1);
        self.enter_short(eight(data, from + 2), from + 2);
        for place in (from + 4..end - 1).step_by(3) {
            self.enter_long(eight(data, place), place);
            self.enter_short(eight(data, place + 1), place + 1);
        }
    }

    /// Adds the tokens of a match; how many.
    fn emit(&mut self, found: Match) -> usize {
        let (mut at, mut left) = (found.at, found.len);
        let had = self.pairs.len();
        while left > 0 {
            let len = match left {
                0..=258 => left,
                259..=261 => 255,
                _ => 258,
            };
            self.pairs.push((at, Token::pair(len, found.at - found.of)));
            at += len;
            left -= len;
        }
        self.pairs.len() - had
    }

    /// Searches the section that begins at `at`.
    fn section(&mut self, data: &[u8], at: usize) {
        self.section_end = self.end.min(at + SECTION);
        self.search(&data[..self.section_end], at);
    }
}

/// The length of a match whose first four bytes are known.
fn extend(data: &[u8], at: usize, of: usize) -> usize {
    4 + match_len(&data[at + 4..], &data[of + 4..])
}

/// The length of a match that is known to be as long as `len`, which may be all of a token.
fn longer(data: &[u8], at: usize, of: usize, len: usize) -> usize {
    if len == MAX_MATCH { len + match_len(&data[at + len..], &data[of + len..]) } else { len }
}

impl Predictor for Sections {
    fn start(&mut self, data: &[u8], span: &Span) {
        if !span.goes_on {
            self.short.fill(0);
            self.long.fill([0; 2]);
            self.from = span.from;
        }
        self.end = span.end;
        let into = (span.at as i64 - span.run) as usize % SECTION;
        let begin = span.at.saturating_sub(into);
        if !span.goes_on && span.run == span.at as i64 && span.from < span.at {
            self.search(&data[..span.at], span.from);
        } else if !span.goes_on && begin > span.from {
            let before = begin.saturating_sub(SECTION).max(span.from);
            self.search(&data[..begin], before);
        }
        if self.end - begin < LEAST {
            self.pairs.clear();
            self.section_end = self.end;
        } else {
            self.section(data, begin.max(span.from));
        }
        self.correct(span.at);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        self.pass(data, at);
        match self.pairs.get(self.ahead) {
            Some((place, token)) if *place == at => *token,
            _ => Token::literal(data[at]),
        }
    }

    fn correct(&mut self, _: usize) {}

    fn pass(&mut self, data: &[u8], at: usize) {
        while at >= self.section_end && self.section_end < self.end {
            if self.end - self.section_end < LEAST {
                self.pairs.clear();
                self.section_end = self.end;
            } else {
                self.section(data, self.section_end);
            }
        }
        while self.pairs.get(self.ahead).is_some_and(|(place, _)| *place < at) {
            self.ahead += 1;
        }
    }
}
