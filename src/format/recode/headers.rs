//! Codes the headers of dynamic blocks: which builder makes them from the block's tokens, or else their
//! contents.

use super::deflate::{END, Header, Histogram, Lengths, ORDER, RUN_BITS, Token};
use super::odds::{Odds, Values};
use super::segment::Kind;
use super::trees::{self, Builder};
use crate::base::error::{Error, Result};

/// Ways to make a header: the builder, whether it counts the tokens of the first section only, and
/// whether lengths of unused symbols are written.
const STYLES: [(Builder, bool, bool); 4] = [
    (Builder::Zlib, false, false),
    (Builder::Go, false, false),
    (Builder::Go, true, true),
    (Builder::Go, true, false),
];
/// All builders.
const BUILDERS: [Builder; 2] = [Builder::Zlib, Builder::Go];

/// An adaptive model of block headers.
pub(super) struct HeaderModel {
    /// By the last style.
    style: [[Odds; 8]; 8],
    last: usize,
    same: [Odds; 16],
    part: [[Odds; 4]; 2],
    run: [Odds; 32],
}

impl Default for HeaderModel {
    fn default() -> Self {
        let odds = Odds::default();
        Self {
            style: [[odds; 8]; 8],
            last: 1,
            same: [odds; 16],
            part: [[odds; 4]; 2],
            run: [odds; 32],
        }
    }
}

fn invalid() -> Error {
    Error::malformed("the corrections have an invalid block header")
}

/// Returns the code lengths that a style makes for a block.
fn lengths(style: usize, tokens: &[Token], first: usize) -> Lengths {
    let (builder, section, all) = STYLES[style];
    let counted = if section { &tokens[..first] } else { tokens };
    trees::lengths(builder, &Histogram::new(counted), all)
}

impl HeaderModel {
    /// Codes the header of a block with `tokens`, of which `first` are in its first section.
    pub(super) fn header(
        &mut self,
        coder: &mut impl Values,
        tokens: &[Token],
        first: usize,
        given: &Kind,
    ) -> Result<Kind> {
        let given = if let Kind::Dynamic(header) = given { Some(&**header) } else { None };
        let order = (0..STYLES.len()).map(|i| (i + self.last) % STYLES.len());
        let fitting = given.and_then(|given| {
            let mut all = order.map(|style| (style, lengths(style, tokens, first)));
            all.find(|(_, lengths)| *lengths == given.lengths)
        });
        let near = fitting.as_ref().map_or(self.last, |(style, _)| *style) as u32;
        let whole = fitting
            .map(|(style, lengths)| (style, trees::header(STYLES[style].0, lengths)))
            .filter(|(_, header)| Some(header) == given);
        let style = whole.as_ref().map_or(STYLES.len(), |(style, _)| *style) as u32;
        let style = coder.tree(&mut self.style[self.last], style) as usize;
        if style < STYLES.len() {
            self.last = style;
            let made = || trees::header(STYLES[style].0, lengths(style, tokens, first));
            let header = whole.map_or_else(made, |(_, header)| header);
            return Ok(Kind::Dynamic(Box::new(header)));
        }
        let near = coder.raw(2, near) as usize;
        let near = lengths(near, tokens, first);
        let none = Header::default();
        let given = given.unwrap_or(&none);
        let lengths = self.lengths(coder, &near, &given.lengths);
        let runs = self.runs(coder, &lengths, given)?;
        let (run_lengths, run_count) = self.run_lengths(coder, &runs, given);
        Ok(Kind::Dynamic(Box::new(Header { lengths, runs, run_lengths, run_count })))
    }

    /// Codes code lengths that cannot be predicted.
    pub(super) fn plain_lengths(&mut self, coder: &mut impl Values, given: &Lengths) -> Lengths {
        self.lengths(coder, &Lengths::fixed(), given)
    }

    fn lengths(&mut self, coder: &mut impl Values, near: &Lengths, given: &Lengths) -> Lengths {
        let mut list = |near: &[u8], given: &[u8], least: usize, bits: u32| -> Vec<u8> {
            let count = coder.raw(bits, given.len().max(least) as u32 - least as u32) as usize;
            let mut before = 0;
            let mut one = |i: usize| {
                let guess = near.get(i).copied().unwrap_or(0);
                let len = given.get(i).copied().unwrap_or(0);
                let odds = &mut self.same[usize::from(before & 15)];
                before = if coder.bit(odds, len == guess) {
                    guess
                } else {
                    coder.raw(4, u32::from(len)) as u8
                };
                before
            };
            (0..count + least).map(&mut one).collect()
        };
        let literals = list(&near.literals, &given.literals, END + 1, 5);
        Lengths { literals, distances: list(&near.distances, &given.distances, 1, 5) }
    }

    fn runs(
        &mut self,
        coder: &mut impl Values,
        lengths: &Lengths,
        given: &Header,
    ) -> Result<Vec<(u8, u8)>> {
        let fits = |b: &Builder| trees::runs(*b, lengths) == given.runs;
        let part = BUILDERS.iter().position(fits).unwrap_or(BUILDERS.len());
        let part = coder.tree(&mut self.part[0], part as u32) as usize;
        if let Some(builder) = BUILDERS.get(part) {
            return Ok(trees::runs(*builder, lengths));
        }
        let (mut left, mut runs) = (lengths.literals.len() + lengths.distances.len(), Vec::new());
        while left > 0 {
            let (symbol, extra) = given.runs.get(runs.len()).copied().unwrap_or((0, 0));
            let symbol = coder.tree(&mut self.run, symbol.into());
            let (mut size, mut more) = (1, 0);
            if let Some(run) = symbol.checked_sub(16) {
                let bits = *RUN_BITS.get(run as usize).ok_or_else(invalid)?;
                more = coder.raw(bits, extra.into());
                size = [3, 3, 11][run as usize] + more as usize;
            }
            left = left.checked_sub(size).ok_or_else(invalid)?;
            runs.push((symbol as u8, more as u8));
        }
        Ok(runs)
    }

    fn run_lengths(
        &mut self,
        coder: &mut impl Values,
        runs: &[(u8, u8)],
        given: &Header,
    ) -> ([u8; 19], u8) {
        let given = (given.run_lengths, given.run_count);
        let fits = |b: &Builder| trees::run_lengths(*b, runs) == given;
        let part = BUILDERS.iter().position(fits).unwrap_or(BUILDERS.len());
        let part = coder.tree(&mut self.part[1], part as u32) as usize;
        if let Some(builder) = BUILDERS.get(part) {
            return trees::run_lengths(*builder, runs);
        }
        let count = 4 + coder.raw(4, u32::from(given.1.max(4) - 4)) as u8;
        let mut lengths = [0; 19];
        for symbol in &ORDER[..usize::from(count.min(19))] {
            lengths[*symbol] = coder.raw(3, given.0[*symbol].into()) as u8;
        }
        (lengths, count.min(19))
    }
}
