//! What predictors of tokens have in common, and the list of them.

use super::chains::{Chains, Config};
use super::deflate::Token;
use super::gofast::GoFast;
use super::klauspost::Klauspost;
use super::sections::Sections;

/// Where a predictor stands, in offsets of the bytes it is given.
pub(super) struct Span {
    /// The first byte that it may know: of the member, or of the dictionary.
    pub(super) from: usize,
    /// The next byte.
    pub(super) at: usize,
    /// Bytes of the encoder's run before it; they may be more than is given.
    pub(super) since: u64,
    /// Where the encoder's input ended.
    pub(super) end: usize,
    /// The encoder kept what it knew when the run began.
    pub(super) goes_on: bool,
}

/// Foretells an encoder's tokens.
pub(super) trait Predictor {
    /// Begins a run, or a segment in the middle of one.
    fn start(&mut self, data: &[u8], span: &Span);
    /// The token that begins at `at`.
    fn predict(&mut self, data: &[u8], at: usize) -> Token;
    /// The token was another one; the next begins at `at`.
    fn correct(&mut self, at: usize);
    /// There are no tokens up to `at`.
    fn pass(&mut self, data: &[u8], at: usize);
}

/// Remembers what a predictor says.
pub(super) struct Recorder {
    pub(super) inner: Box<dyn Predictor>,
    pub(super) said: Vec<Token>,
}

impl Predictor for Recorder {
    fn start(&mut self, data: &[u8], span: &Span) {
        self.inner.start(data, span);
    }

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        let token = self.inner.predict(data, at);
        self.said.push(token);
        token
    }

    fn correct(&mut self, at: usize) {
        self.inner.correct(at);
    }

    fn pass(&mut self, data: &[u8], at: usize) {
        self.inner.pass(data, at);
    }
}

/// Says it again.
pub(super) struct Replay(pub(super) std::vec::IntoIter<Token>);

impl Predictor for Replay {
    fn start(&mut self, _: &[u8], _: &Span) {}

    fn predict(&mut self, data: &[u8], at: usize) -> Token {
        self.0.next().unwrap_or(Token::literal(data[at]))
    }

    fn correct(&mut self, _: usize) {}

    fn pass(&mut self, _: &[u8], _: usize) {}
}

/// What an encoder knows when it begins a run within a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// All that it knew.
    Kept,
    /// So many bytes before.
    Last(u64),
}

/// An encoder: its number in the format, and how it works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model(pub(super) u8);

const MEMORIES: [Memory; 3] = [Memory::Kept, Memory::Last(1 << 14), Memory::Last(1 << 15)];
/// good, wait, nice, chain, as zlib and GNU gzip have them; Go took them over.
const LEVELS: [(usize, usize, usize, usize); 9] = [
    (4, 4, 8, 4),
    (4, 5, 16, 8),
    (4, 6, 32, 32),
    (4, 4, 16, 16),
    (8, 16, 32, 32),
    (8, 16, 128, 128),
    (8, 32, 128, 256),
    (32, 128, 258, 1024),
    (32, 258, 258, 4096),
];
/// Encoders of one memory.
const COUNT: u8 = 32;
/// Encoders in the order they are tried.
const LIKELY: [u8; 20] = [25, 16, 6, 11, 26, 9, 19, 1, 5, 4, 7, 8, 2, 3, 12, 13, 14, 15, 17, 18];

impl Model {
    /// The likeliest.
    pub(super) const FIRST: Self = Self(COUNT + 25);

    /// One of each encoder.
    pub(super) fn likely_first() -> impl Iterator<Item = Self> {
        LIKELY.iter().map(|n| Self(if *n >= 25 { COUNT + n } else { 2 * COUNT + n }))
    }

    /// The same encoder with what it may know else.
    pub(super) fn with_other_memories(self) -> impl Iterator<Item = Self> {
        let one = move |i| Self(self.0 % COUNT + i * COUNT);
        (0..MEMORIES.len() as u8).map(one).filter(move |model| *model != self)
    }

    pub(super) fn memory(self) -> Memory {
        MEMORIES[usize::from(self.0 / COUNT) % MEMORIES.len()]
    }

    /// None for numbers that mean nothing.
    pub(super) fn predictor(self) -> Option<Box<dyn Predictor>> {
        if self.0 >= COUNT * MEMORIES.len() as u8 {
            return None;
        }
        let level = |n: u8, go: bool| {
            let (good, wait, nice, chain) = LEVELS[usize::from(n) - 1];
            let config = Config { go, lazy: n >= 4, hash_bits: 15, good, wait, nice, chain };
            Chains::new(config)
        };
        Some(match self.0 % COUNT {
            n @ 1..=9 => Box::new(level(n, false)),
            n @ 12..=19 => Box::new(level(n - 10, true)),
            11 => Box::new(Sections::new(GoFast::default())),
            n @ 25..=26 => Box::new(Sections::new(Klauspost::new(n == 26))),
            _ => return None,
        })
    }
}

/// How many first bytes are the same, up to the length of `a`; `b` is at least as long.
#[inline]
pub(super) fn match_len(a: &[u8], b: &[u8]) -> usize {
    let b = &b[..a.len()];
    let (wide_a, rest_a) = a.as_chunks::<8>();
    let (wide_b, _) = b.as_chunks::<8>();
    for (i, (x, y)) in wide_a.iter().zip(wide_b).enumerate() {
        let differing = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differing != 0 {
            return i * 8 + differing.trailing_zeros() as usize / 8;
        }
    }
    let done = a.len() - rest_a.len();
    done + rest_a.iter().zip(&b[done..]).take_while(|(x, y)| x == y).count()
}
