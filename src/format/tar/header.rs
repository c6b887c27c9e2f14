//! One header block: its checksum, dialect and fields.
//!
//! The rules are those of Go's `archive/tar`. Every field must be valid, even if an extended header
//! overrides it.

use std::ops::Range;

use super::{BLOCK, number};
use crate::base::error::{Error, Result};

/// A header as in the archive.
pub(super) type Block = [u8; BLOCK];

// Positions of the fields in POSIX.1-1988 ustar. Earlier and later formats use the same.
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
/// GNU stores times where ustar stores the beginning of a long path, and star where ustar stores its end.
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TIMES: [Range<usize>; 2] = [476..488, 488..500];
const STAR_TRAILER: Range<usize> = 508..512;

/// The format of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Unix version 7, without prefix and device numbers. This is also the format of headers with an
    /// unknown magic number, or with GNU's magic number and another version.
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

/// The fields of a header.
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
    /// Major and minor number, for every type.
    pub(super) device: (i64, i64),
    /// Whether clients and their libraries agree on this dialect.
    pub(super) plain: bool,
}

impl Fields {
    /// Parses a header whose checksum is correct.
    ///
    /// # Errors
    /// If a numeric field is not a number.
    pub(super) fn read(block: &Block) -> Result<Self> {
        let number = |range: Range<usize>, what| number::parse(&block[range], what);
        let text = |range: Range<usize>| until_nul(&block[range]);
        let dialect = Dialect::of(block);
        let mut prefix: &[u8] = &[];
        let mut plain = dialect != Dialect::Star;
        match dialect {
            // Readers disagree on GNU's magic number with another version.
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
                // Go before 1.8 wrote a prefix there if a number needed GNU's encoding
                // (golang/go#12594). It is one if it is not a time and looks like text.
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

    /// Whether the type has no data, so that the size field is ignored: links, directories, devices,
    /// pipes.
    pub(super) fn header_only(&self) -> bool {
        matches!(self.typeflag, b'1'..=b'6')
    }
}

/// Checks a header's checksum.
pub(super) fn check(block: &Block) -> Result<()> {
    // A checksum that is not a number counts as wrong.
    let stated = number::octal(&block[CHECKSUM]);
    let sum = |value: fn(u8) -> i64| {
        let (before, after) = (&block[..CHECKSUM.start], &block[CHECKSUM.end..]);
        let sum = |part: &[u8]| part.iter().map(|b| value(*b)).sum::<i64>();
        sum(before) + sum(after) + 8 * i64::from(b' ')
    };
    // Some old writers added signed bytes.
    let unsigned = sum(i64::from);
    if stated.is_some_and(|s| s == unsigned || s == sum(|b| i64::from(b.cast_signed()))) {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "the header states checksum {:?}, but its checksum is {unsigned:o}; this is not a tar archive, \
         or it is damaged",
        String::from_utf8_lossy(until_nul(&block[CHECKSUM]))
    )))
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}
