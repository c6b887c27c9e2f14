//! Codes a segment: its blocks, and those of its tokens that are not as predicted.
//!
//! The same code works in both directions: a coder that writes is given the segment, one that reads is
//! given an empty one, and both return the segment.

use flate2::Crc;

use super::deflate::Token;
use super::finder::Finder;
use super::headers::HeaderModel;
use super::models::Memory;
use super::odds::{Number, Odds, Values};
use super::predict::{Predictor, PredictorStart};
use super::sections::SECTION;
use super::segment::{Block, Kind, MAX_BLOCKS, MAX_GAP, Segment};
use crate::base::error::{Error, Result};

/// How the end of a block is coded: as many tokens as in the last block, a number of tokens, the end of
/// a section, or the end of the encoder's run.
const SAME: u32 = 0;
const COUNT: u32 = 1;
const SECTIONS: u32 = 2;
const RUN: u32 = 3;

/// The uncompressed bytes of a segment, and those around it.
#[derive(Clone, Copy)]
pub(super) struct SegmentBytes<'a> {
    pub(super) data: &'a [u8],
    /// Offset of the segment in `data`.
    pub(super) begin: usize,
    /// Number of bytes of the segment.
    pub(super) size: usize,
}

/// Codes a segment.
///
/// # Errors
/// If a coder that reads finds invalid corrections.
pub(super) fn code(
    coder: &mut impl Values,
    memory: Memory,
    predictor: &mut dyn Predictor,
    bytes: SegmentBytes<'_>,
    given: &Segment,
) -> Result<Segment> {
    let mut state = State {
        coder,
        memory,
        predictor,
        bytes,
        given,
        at: bytes.begin,
        member: bytes.begin,
        whole: false,
        run: (0, bytes.begin),
        run_end: None,
        odds: Box::default(),
        headers: HeaderModel::default(),
        finder: None,
        last_gap: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
        last_count: 0,
        last_run: 0,
        last_kind: 4,
        misses: 0,
    };
    state.segment()
}

/// Adaptive models of all values.
struct Tables {
    number: [Number; 8],
    kind: [[Odds; 4]; 5],
    last: [Odds; 5],
    ended: Odds,
    pad: Odds,
    end: [[Odds; 4]; 5],
    same_byte: Odds,
    open: [Odds; 3],
    same_run: Odds,
    miss: [[Odds; 4]; 16],
    literal: [Odds; 16],
    length: [[Odds; 256]; 2],
    rank: [Number; 2],
}

impl Default for Tables {
    fn default() -> Self {
        let odds = Odds::default();
        Self {
            number: Default::default(),
            kind: [[odds; 4]; 5],
            last: [odds; 5],
            ended: odds,
            pad: odds,
            end: [[odds; 4]; 5],
            same_byte: odds,
            open: [odds; 3],
            same_run: odds,
            miss: [[odds; 4]; 16],
            literal: [odds; 16],
            length: [[odds; 256]; 2],
            rank: Default::default(),
        }
    }
}

/// The place where a run begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Segment,
    Member,
    Flush,
}

/// The state of coding a segment.
struct State<'a, C> {
    coder: &'a mut C,
    memory: Memory,
    predictor: &'a mut dyn Predictor,
    bytes: SegmentBytes<'a>,
    given: &'a Segment,
    at: usize,
    /// The first byte of the member that is given, and whether that is its beginning.
    member: usize,
    whole: bool,
    /// How many bytes before an offset the encoder's run began, and that offset; and where the run ends,
    /// if that is in the segment.
    run: (u64, usize),
    run_end: Option<usize>,
    odds: Box<Tables>,
    headers: HeaderModel,
    finder: Option<Box<Finder>>,
    last_gap: Vec<u8>,
    last_count: usize,
    last_run: u32,
    last_kind: usize,
    /// Which of the last tokens were not as predicted; the lowest bit is the newest.
    misses: usize,
}

fn invalid() -> Error {
    Error::malformed("the corrections are invalid")
}

impl<C: Values> State<'_, C> {
    fn segment(&mut self) -> Result<Segment> {
        let given = self.given;
        let mut new = Segment {
            plain: self.bytes.size,
            phase: self.coder.raw(3, given.phase),
            member: self.wide(0, given.member),
            run: self.wide(1, given.run),
            ..Segment::default()
        };
        if self.coder.raw(1, u32::from(given.open.is_some())) == 1 {
            let given = given.open.clone().unwrap_or_default();
            new.open = Some(self.headers.plain_lengths(self.coder, &given));
        }
        let count = self.number(2, given.blocks.len())?;
        if count > MAX_BLOCKS {
            return Err(invalid());
        }
        let begin = self.bytes.begin;
        self.member = begin - (begin as u64).min(new.member) as usize;
        self.run = (new.run, begin);
        for i in 0..count {
            let given = given.blocks.get(i).cloned().unwrap_or_default();
            let continued = i == 0 && new.open.is_some();
            let kind = if continued { 4 } else { self.kind(&given.kind) };
            if i == 0 && kind != 3 {
                self.begin_run(i, Begin::Segment)?;
            }
            let last = self.coder.bit(&mut self.odds.last[kind as usize], given.last);
            let from = self.at;
            let mut block = Block::new(Kind::Continued, last);
            block.tokens = new.tokens.len()..new.tokens.len();
            match kind {
                0 => block.kind = self.stored(&given)?,
                3 => block.kind = self.gap(&given.kind)?,
                _ => {
                    if i + 1 == count {
                        block.ended = self.coder.bit(&mut self.odds.ended, given.ended);
                    }
                    let mut first = 0;
                    self.tokens(&given, &mut block, kind as usize, &mut new.tokens, &mut first)?;
                    let tokens = &new.tokens[block.tokens.clone()];
                    block.kind = match kind {
                        1 => Kind::Fixed,
                        2 => self.headers.header(self.coder, tokens, first, &given.kind)?,
                        _ => Kind::Continued,
                    };
                }
            }
            self.last_kind = kind as usize;
            block.plain = self.at - from;
            let begins = kind == 3 && last;
            let flush = block.is_flush();
            new.blocks.push(block);
            if begins {
                self.member = self.at;
                self.whole = true;
            }
            if (begins || flush) && i + 1 < count {
                self.run = (0, self.at);
                let why = if begins { Begin::Member } else { Begin::Flush };
                self.begin_run(i + 1, why)?;
            }
        }
        if self.at != begin + self.bytes.size {
            return Err(invalid());
        }
        Ok(new)
    }

    fn number(&mut self, which: usize, value: usize) -> Result<usize> {
        let value = u32::try_from(value).map_err(|_| invalid())?;
        Ok(self.coder.number(&mut self.odds.number[which], value) as usize)
    }

    fn wide(&mut self, which: usize, value: u64) -> u64 {
        let odds = &mut self.odds.number[which];
        let high = self.coder.number(odds, (value >> 32) as u32);
        u64::from(high) << 32 | u64::from(self.coder.number(odds, value as u32))
    }

    fn kind(&mut self, given: &Kind) -> u32 {
        let given = match given {
            Kind::Stored { .. } => 0,
            Kind::Fixed | Kind::Continued => 1,
            Kind::Dynamic(_) => 2,
            Kind::Gap { .. } => 3,
        };
        self.coder.tree(&mut self.odds.kind[self.last_kind], given)
    }

    /// Codes where the run that begins with block `i` ends, and starts the predictor.
    fn begin_run(&mut self, i: usize, why: Begin) -> Result<()> {
        let mut size = 0;
        let end = self.given.blocks.get(i..).unwrap_or_default().iter().find(|block| {
            size += block.plain as u32;
            block.is_flush() || block.last && !matches!(block.kind, Kind::Gap { .. })
        });
        let odds = &mut self.odds;
        let open = self.coder.bit(&mut odds.open[why as usize], end.is_none());
        self.run_end = None;
        if !open {
            if !self.coder.bit(&mut odds.same_run, size == self.last_run) {
                self.last_run = self.coder.number(&mut odds.number[3], size);
            }
            let end = self.at + self.last_run as usize;
            if end > self.bytes.begin + self.bytes.size {
                return Err(invalid());
            }
            self.run_end = Some(end);
        }
        let from = match self.memory {
            Memory::All => self.member,
            Memory::Last(n) => {
                let before = self.since(self.at).saturating_add(n);
                self.member.max((self.at as u64).saturating_sub(before) as usize)
            }
        };
        let span = PredictorStart {
            from,
            since: self.since(self.at),
            at: self.at,
            end: self.run_end.unwrap_or(self.bytes.data.len()),
            keeps_tables: why == Begin::Flush && self.memory == Memory::All,
        };
        self.predictor.start(self.bytes.data, &span);
        Ok(())
    }

    fn pad(&mut self, given: u8) -> u8 {
        if self.coder.bit(&mut self.odds.pad, given != 0) {
            self.coder.raw(7, u32::from(given)) as u8
        } else {
            0
        }
    }

    fn gap(&mut self, given: &Kind) -> Result<Kind> {
        let none = (0, Vec::new());
        let (pad, given) =
            if let Kind::Gap { pad, bytes } = given { (*pad, bytes) } else { (none.0, &none.1) };
        let pad = self.pad(pad);
        let mut expected = Vec::new();
        if self.last_kind != 4 || self.member < self.at {
            // The trailer of a member that began in this segment can be computed.
            let mut crc = Crc::new();
            if self.whole {
                crc.update(&self.bytes.data[self.member..self.at]);
            }
            expected.extend(crc.sum().to_le_bytes());
            expected.extend(crc.amount().to_le_bytes());
        }
        let trailer = expected.len();
        expected.extend_from_slice(&self.last_gap);
        let size = self.number(4, given.len())?;
        if size > MAX_GAP {
            return Err(invalid());
        }
        let mut bytes = Vec::with_capacity(size);
        for i in 0..size {
            let (byte, guess) = (given.get(i).copied(), expected.get(i).copied().unwrap_or(0));
            let byte = byte.unwrap_or(0);
            let same = self.coder.bit(&mut self.odds.same_byte, byte == guess);
            bytes.push(if same { guess } else { self.coder.raw(8, byte.into()) as u8 });
        }
        if let Some(head) = bytes.get(trailer..)
            && !head.is_empty()
        {
            self.last_gap = head.to_vec();
        }
        Ok(Kind::Gap { pad, bytes })
    }

    /// Returns the number of bytes of the run before `at`.
    fn since(&self, at: usize) -> u64 {
        self.run.0.saturating_add((at - self.run.1) as u64)
    }

    /// Returns the end of the section at `at`; sections begin with the run.
    fn section_end(&self, at: usize) -> usize {
        at + SECTION - (self.since(at) % SECTION as u64) as usize
    }

    fn stored(&mut self, given: &Block) -> Result<Kind> {
        let end = self.at + given.plain;
        let how = match given.plain {
            0 => SAME,
            _ if self.run_end == Some(end) => RUN,
            _ if end == self.section_end(self.at) => SECTIONS,
            _ => COUNT,
        };
        let end = match self.coder.tree(&mut self.odds.end[0], how) {
            SAME => self.at,
            SECTIONS => self.section_end(self.at),
            RUN => self.run_end.ok_or_else(invalid)?,
            _ => self.at + self.coder.raw(16, given.plain as u32) as usize,
        };
        if end < self.at || end - self.at > 0xffff || end > self.bytes.begin + self.bytes.size {
            return Err(invalid());
        }
        self.at = end;
        self.predictor.skip(self.bytes.data, end);
        let pad = if let Kind::Stored { pad } = given.kind { pad } else { 0 };
        Ok(Kind::Stored { pad: self.pad(pad) })
    }

    /// Codes the tokens of a block. `first` becomes the number of them in its first section.
    fn tokens(
        &mut self,
        given: &Block,
        block: &mut Block,
        kind: usize,
        tokens: &mut Vec<Token>,
        first: &mut usize,
    ) -> Result<()> {
        let segment_end = self.bytes.begin + self.bytes.size;
        let begin = tokens.len();
        let (mut count, mut end) = (usize::MAX, segment_end);
        if block.ended {
            let (given_end, given_count) = (self.at + given.plain, given.tokens.len());
            let section = self.section_end(self.at);
            let how = if self.run_end == Some(given_end) {
                RUN
            } else if given_count == self.last_count {
                SAME
            } else if given_end >= section && (given_end - section).is_multiple_of(SECTION) {
                SECTIONS
            } else {
                COUNT
            };
            match self.coder.tree(&mut self.odds.end[kind], how) {
                SAME => count = self.last_count,
                SECTIONS => {
                    let more = self.number(5, given_end.saturating_sub(section) / SECTION)?;
                    end = section + more.min(1 << 20) * SECTION;
                }
                RUN => end = self.run_end.ok_or_else(invalid)?,
                _ => count = self.number(6, given_count)?,
            }
        }
        if end > segment_end || end < self.at {
            return Err(invalid());
        }
        let counted = count != usize::MAX;
        let section = self.section_end(self.at);
        let mut given = self.given.tokens[given.tokens.clone()].iter();
        while if counted { tokens.len() - begin < count } else { self.at < end } {
            let left = end - self.at;
            if left == 0 {
                return Err(invalid());
            }
            let predicted = self.predictor.predict(self.bytes.data, self.at);
            let token = given.next().copied().unwrap_or(predicted);
            let token = self.token(predicted, token, left)?;
            if token.len() > left {
                return Err(invalid());
            }
            self.at += token.len();
            if token != predicted {
                self.predictor.correct(self.at);
            }
            if self.at <= section {
                *first = tokens.len() - begin + 1;
            }
            tokens.push(token);
        }
        if counted && count != 0 {
            self.last_count = count;
        }
        block.tokens = begin..tokens.len();
        Ok(())
    }

    /// Codes a token; `left` bytes are left in the block.
    fn token(&mut self, predicted: Token, given: Token, left: usize) -> Result<Token> {
        let class = match predicted.len() {
            n @ ..=6 => n,
            n => 5 + n.ilog2() as usize,
        };
        let odds = &mut self.odds.miss[class][self.misses & 3];
        let miss = self.coder.bit(odds, given != predicted);
        self.misses = self.misses << 1 | usize::from(miss);
        if !miss {
            return Ok(predicted);
        }
        let data = self.bytes.data;
        let which = usize::from(predicted.is_pair());
        if which == 1 && self.coder.bit(&mut self.odds.literal[class], !given.is_pair()) {
            return Ok(Token::literal(data[self.at]));
        }
        let len = given.len().max(3) as u32 - 3;
        let len = 3 + self.coder.tree(&mut self.odds.length[which], len) as usize;
        if len > left {
            return Err(invalid());
        }
        let finder = self.finder.get_or_insert_default();
        let mut distances = finder.distances(data, self.at, len);
        // Only a coder that writes knows the distance; one that reads ignores the rank.
        let rank = if given.is_pair() && self.given.plain > 0 {
            distances.position(|d| d == given.low()).map_or(0, |rank| rank + 1)
        } else {
            0
        };
        drop(distances);
        let rank = self.coder.number(&mut self.odds.rank[which], rank as u32) as usize;
        let distance = if rank == 0 {
            self.coder.raw(15, (given.low().max(1) - 1) as u32) as usize + 1
        } else {
            finder.distances(data, self.at, len).nth(rank - 1).ok_or_else(invalid)?
        };
        if distance > self.at - self.member {
            return Err(invalid());
        }
        Ok(Token::pair(len, distance))
    }
}
