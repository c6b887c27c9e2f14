//! Simulates encoders that work on sections of 65,535 bytes: level 1 of Go's `compress/flate`, and
//! levels 5 and 6 of klauspost/compress.
//!
//! They insert positions irregularly, so a simulation cannot begin in the middle of a section. A
//! section's matches are all found at once and then looked up.

use super::deflate::Token;
use super::predict::{Predictor, PredictorStart};

/// Bytes of a section.
pub(super) const SECTION: usize = 65_535;
/// Shorter inputs are not searched.
const MIN_INPUT: usize = 128;

/// The matches of a section, each with its position.
pub(super) type Pairs = Vec<(usize, Token)>;

/// How an encoder searches a section.
pub(super) trait Search {
    /// Clears the tables. Positions before `from` must not be referred to from now on.
    fn reset(&mut self, from: usize);
    /// Finds the matches of the section that begins at `at` and ends with `data`.
    fn search(&mut self, data: &[u8], at: usize, pairs: &mut Pairs);
}

/// A simulated encoder that works on sections.
#[derive(Default)]
pub(super) struct Sections<S> {
    search: S,
    pairs: Pairs,
    /// Index of the next pair.
    ahead: usize,
    section_end: usize,
    /// Where the encoder's input ends.
    end: usize,
}

impl<S: Search> Sections<S> {
    /// Makes an encoder with this search.
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
        // If matches save too little, everything is written as literals.
        if saved < size / 16 {
            self.pairs.clear();
        }
    }

    /// Begins the section at `begin`.
    fn section(&mut self, data: &[u8], begin: usize) {
        if self.end - begin < MIN_INPUT {
            self.pairs.clear();
            self.section_end = self.end;
        } else {
            self.section_end = self.end.min(begin + SECTION);
            self.find(&data[..self.section_end], begin);
        }
    }
}

/// Adds the tokens of a match, which may be longer than a token can be.
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

/// Reads eight bytes; 0 beyond the end.
#[inline]
pub(super) fn eight(data: &[u8], at: usize) -> u64 {
    data[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

impl<S: Search> Predictor for Sections<S> {
    fn start(&mut self, data: &[u8], span: &PredictorStart) {
        if !span.keeps_tables {
            self.search.reset(span.from);
        }
        self.end = span.end;
        let into = (span.since % SECTION as u64) as usize;
        let begin = span.at.saturating_sub(into).max(span.from);
        if !span.keeps_tables && span.since == 0 && span.from < span.at {
            self.find(&data[..span.at], span.from);
        } else if !span.keeps_tables && begin > span.from {
            let before = begin.saturating_sub(SECTION).max(span.from);
            self.find(&data[..begin], before);
        }
        self.section(data, begin);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        self.skip(data, at);
        match self.pairs.get(self.ahead) {
            Some((place, token)) if *place == at => *token,
            _ => Token::literal(data[at]),
        }
    }

    fn correct(&mut self, _: usize) {}

    fn skip(&mut self, data: &[u8], at: usize) {
        while at >= self.section_end && self.section_end < self.end {
            self.section(data, self.section_end);
        }
        while self.pairs.get(self.ahead).is_some_and(|(place, _)| *place < at) {
            self.ahead += 1;
        }
    }
}
