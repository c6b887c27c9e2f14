//! One header block: its checksum, its dialect and its fields.
//!
//! The rules are those of Go's `archive/tar`. Every field must be readable, even where an extended
//! header has another value for it.

use std::ops::Range;

use super::{BLOCK, number};
use crate::base::error::{Error, Result};

/// A header as it stands in the archive.
pub(super) type Block = [u8; BLOCK];

// Where the fields are: POSIX.1-1988 ustar, and the same places in the formats before and after.
const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const VERSION: Range<usize> = 263..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// GNU has times where ustar has the beginning of a long path, star where it has its end.
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TIMES: [Range<usize>; 2] = [476..488, 488..500];
const STAR_TRAILER: Range<usize> = 508..512;

/// What tells how a header is to be read. Whatever is none of the others is of version 7: magic of
/// another kind, GNU's with another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// No prefix, no device numbers.
    V7,
    /// ustar and PAX.
    Ustar,
    /// Jörg Schilling's `xustar`.
    Star,
    /// GNU and old GNU.
    Gnu,
}

impl Dialect {
    pub(super) fn of(block: &Block) -> Self {
        match (&block[MAGIC], &block[VERSION]) {
            (b"ustar\0", _) if block[STAR_TRAILER] == *b"tar\0" => Self::Star,
            (b"ustar\0", _) => Self::Ustar,
            (b"ustar ", b" \0") => Self::Gnu,
            _ => Self::V7,
        }
    }
}

/// What a header says by itself.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) typeflag: u8,
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: i64,
    /// Major and minor number, whatever the type.
    pub(super) device: (i64, i64),
    /// Whether its dialect is one that clients and their libraries agree on.
    pub(super) plain: bool,
}

impl Fields {
    /// Reads a header whose checksum is right.
    ///
    /// # Errors
    /// When a field that should be a number is none.
    pub(super) fn read(block: &Block) -> Result<Self> {
        let number = |range: Range<usize>, what| number::parse(&block[range], what);
        let text = |range: Range<usize>| until_nul(&block[range]);
        let dialect = Dialect::of(block);
        let mut prefix: &[u8] = &[];
        let mut plain = dialect != Dialect::Star;
        match dialect {
            // GNU's magic with another version is read in several ways.
            Dialect::V7 => plain = !block[MAGIC].starts_with(b"ustar"),
            Dialect::Ustar => prefix = text(PREFIX),
            Dialect::Star => {
                prefix = text(STAR_PREFIX);
                for range in STAR_TIMES {
                    number(range, "time")?;
                }
            }
            Dialect::Gnu => {
                plain = GNU_TIMES.iter().all(|range| block[range.clone()] == [0; 12]);
                // Go before 1.8 wrote a prefix there when a number needed GNU's form
                // (golang/go#12594): what is no time and looks like text is one.
                let broken = |range: &Range<usize>| {
                    block[range.start] != 0 && number(range.clone(), "time").is_err()
                };
                if GNU_TIMES.iter().any(broken) && text(PREFIX).is_ascii() {
                    prefix = text(PREFIX);
                }
            }
        }
        let device = match dialect {
            Dialect::V7 => (0, 0),
            _ => (number(MAJOR, "major number")?, number(MINOR, "minor number")?),
        };
        let name = text(NAME);
        Ok(Self {
            path: if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() },
            link: text(LINK).to_vec(),
            typeflag: block[TYPE],
            size: number(SIZE, "size")?,
            mode: number(MODE, "mode")?,
            uid: number(UID, "user ID")?,
            gid: number(GID, "group ID")?,
            mtime: number(MTIME, "mtime")?,
            device,
            plain,
        })
    }

    /// Whether no data follows, whatever the size field says: links, directories, devices, pipes.
    pub(super) fn header_only(&self) -> bool {
        matches!(self.typeflag, b'1'..=b'6')
    }
}

/// Checks a header's checksum.
pub(super) fn check(block: &Block) -> Result<()> {
    // What is no number is as wrong as another number.
    let stated = number::octal(&block[CHECKSUM]);
    let sum = |value: fn(u8) -> i64| {
        let (before, after) = (&block[..CHECKSUM.start], &block[CHECKSUM.end..]);
        let sum = |part: &[u8]| part.iter().map(|b| value(*b)).sum::<i64>();
        sum(before) + sum(after) + 8 * i64::from(b' ')
    };
    // Some old writers summed signed bytes.
    let unsigned = sum(i64::from);
    if stated.is_some_and(|s| s == unsigned || s == sum(|b| i64::from(b.cast_signed()))) {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "the header's checksum is {:?}, but its bytes sum up to {unsigned:o}; this is no tar \
         archive, or it is damaged",
        String::from_utf8_lossy(until_nul(&block[CHECKSUM]))
    )))
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}
