//! The list of encoders that can be simulated.

use super::chains::{ChainConfig, Chains};
use super::gofast::GoFast;
use super::klauspost::Klauspost;
use super::predict::Predictor;
use super::sections::Sections;

/// The bytes that an encoder knows when it begins a run within a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// All bytes of the member.
    All,
    /// This many bytes before the run.
    Last(u64),
}

/// An encoder with its memory, as a number of the format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Model(pub(super) u8);

const MEMORIES: [Memory; 3] = [Memory::All, Memory::Last(1 << 14), Memory::Last(1 << 15)];
/// The parameters good, wait, nice and chain of each level of zlib and GNU gzip; Go has the same.
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
/// Numbers for each memory.
const COUNT: u8 = 32;
/// Encoders in the order in which they are tried, the most likely first.
const LIKELY: [u8; 20] = [25, 16, 6, 11, 26, 9, 19, 1, 5, 4, 7, 8, 2, 3, 12, 13, 14, 15, 17, 18];

impl Model {
    /// The most likely model.
    pub(super) const FIRST: Self = Self(COUNT + 25);

    /// Returns one model of each encoder.
    pub(super) fn likely_first() -> impl Iterator<Item = Self> {
        LIKELY.iter().map(|n| Self(if *n >= 25 { COUNT + n } else { 2 * COUNT + n }))
    }

    /// Returns the models of the same encoder with other memories.
    pub(super) fn with_other_memories(self) -> impl Iterator<Item = Self> {
        let one = move |i| Self(self.0 % COUNT + i * COUNT);
        (0..MEMORIES.len() as u8).map(one).filter(move |model| *model != self)
    }

    /// Returns the memory.
    pub(super) fn memory(self) -> Memory {
        MEMORIES[usize::from(self.0 / COUNT) % MEMORIES.len()]
    }

    /// Makes the simulated encoder; `None` for an unused number.
    pub(super) fn predictor(self) -> Option<Box<dyn Predictor>> {
        if self.0 >= COUNT * MEMORIES.len() as u8 {
            return None;
        }
        let level = |n: u8, go: bool| {
            let (good, wait, nice, chain) = LEVELS[usize::from(n) - 1];
            let config = ChainConfig { go, lazy: n >= 4, hash_bits: 15, good, wait, nice, chain };
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
