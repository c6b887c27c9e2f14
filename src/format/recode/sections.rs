//! Predicts encoders that work on sections of 65,535 bytes: level 1 of Go's `compress/flate`, and
//! levels 1 to 6 of klauspost/compress, of which two are here.
//!
//! They fill their tables unevenly, so a section cannot be entered in its middle: all of it is
//! predicted at once, and what is asked for is looked up.

use super::deflate::Token;
use super::predict::{Predictor, Span};

/// Bytes of a section.
pub(super) const SECTION: usize = 65_535;
/// Shorter inputs are not searched.
const LEAST: usize = 128;

/// Matches of a section, with the place of each.
pub(super) type Pairs = Vec<(usize, Token)>;

/// How an encoder searches a section.
pub(super) trait Search {
    /// Forgets all places. Those before `from` must not be used from now on.
    fn reset(&mut self, from: usize);
    /// Finds the matches of the section that begins at `at` and ends with `data`.
    fn search(&mut self, data: &[u8], at: usize, pairs: &mut Pairs);
}

#[derive(Default)]
pub(super) struct Sections<S> {
    search: S,
    pairs: Pairs,
    /// The first of them that lies ahead.
    ahead: usize,
    section_end: usize,
    /// Where the encoder's input ends.
    end: usize,
}

impl<S: Search> Sections<S> {
    pub(super) fn new(search: S) -> Self {
        Self { search, pairs: Vec::new(), ahead: 0, section_end: 0, end: 0 }
    }

    /// Searches the section that begins at `begin` and ends with `data`.
    fn find(&mut self, data: &[u8], begin: usize) {
        self.pairs.clear();
        self.ahead = 0;
        self.search.search(data, begin, &mut self.pairs);
        let size = data.len() - begin;
        let saved: usize = self.pairs.iter().map(|(_, pair)| pair.len() - 1).sum();
        // With little saved, all are written as literals.
        if saved < size / 16 {
            self.pairs.clear();
        }
    }

    fn section(&mut self, data: &[u8], begin: usize) {
        if self.end - begin < LEAST {
            self.pairs.clear();
            self.section_end = self.end;
        } else {
            self.section_end = self.end.min(begin + SECTION);
            self.find(&data[..self.section_end], begin);
        }
    }
}

/// Adds the tokens of a match, which may be longer than one can be.
pub(super) fn emit(pairs: &mut Pairs, mut at: usize, of: usize, mut left: usize) {
    let distance = at - of;
    while left > 0 {
        let len = match left {
            0..=258 => left,
            259..=261 => 255,
            _ => 258,
        };
        pairs.push((at, Token::pair(len, distance)));
        at += len;
        left -= len;
    }
}

/// Eight bytes, zeros where the data ends before.
#[inline]
pub(super) fn eight(data: &[u8], at: usize) -> u64 {
    data[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

impl<S: Search> Predictor for Sections<S> {
    fn start(&mut self, data: &[u8], span: &Span) {
        if !span.goes_on {
            self.search.reset(span.from);
        }
        self.end = span.end;
        let into = (span.since % SECTION as u64) as usize;
        let begin = span.at.saturating_sub(into).max(span.from);
        if !span.goes_on && span.since == 0 && span.from < span.at {
            self.find(&data[..span.at], span.from);
        } else if !span.goes_on && begin > span.from {
            let before = begin.saturating_sub(SECTION).max(span.from);
            self.find(&data[..begin], before);
        }
        self.section(data, begin);
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
            self.section(data, self.section_end);
        }
        while self.pairs.get(self.ahead).is_some_and(|(place, _)| *place < at) {
            self.ahead += 1;
        }
    }
}
