//! Search for times by their value: which of the times that are about to change does a file contain?
//!
//! Layouts differ by release and machine, but the numbers in them don't. A match of a time together
//! with its file's size is hardly ever chance. A match of a time alone may be. Then the time is held
//! without need, which is safe.

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::base::read::read_some;
use crate::model::fileset::{FileSet, InodeKind, Mtime};
use crate::model::index::InodeId;

/// How a file stores a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// Seconds beside the file's size, in either order, with 32 or 64 bits each, in either byte order.
    /// The offset is a multiple of this.
    Sized(usize),
    /// Seconds or milliseconds, in 32 or 64 bits, in either byte order.
    Alone,
    /// Seconds as a double, in either byte order.
    Real,
    /// Seconds, milliseconds or nanoseconds as a decimal number.
    Decimal,
}

/// Number of bytes that one check looks at: a 64-bit number with a neighbour on each side.
const WINDOW: usize = 24;
/// Maximum length of a decimal number. Longer ones are no times.
const DIGITS: usize = 20;
const CHUNK: usize = 1 << 20;

/// Times of some files, before and after a change.
pub(super) struct Candidates {
    /// The low 32 bits of the seconds, the size if the form needs it, and the inode. What is found is
    /// removed, so that many files that contain the same times cost no more than one.
    wanted: BTreeSet<(u32, u64, InodeId)>,
    found: Vec<InodeId>,
    /// A bit for each hash of the low 32 bits. It rules out most numbers without a search.
    filter: Vec<u64>,
}

impl Candidates {
    /// Collects those of `ids` whose time is about to change.
    pub(super) fn new(
        files: &FileSet,
        after: &[Mtime],
        ids: impl Iterator<Item = InodeId>,
        form: TimeForm,
    ) -> Self {
        let mut wanted = BTreeSet::new();
        let mut filter = vec![0; 1 << 10];
        for id in ids {
            let (inode, after) = (&files[id], after[id.index()]);
            if inode.mtime == after {
                continue;
            }
            let size = match (&inode.kind, form) {
                (InodeKind::File(file), TimeForm::Sized(_)) => file.size,
                _ => 0,
            };
            // Formats often write 0 for "no time", so that is no match.
            for secs in [inode.mtime, after].map(|t| t.secs as u32).into_iter().filter(|s| *s != 0)
            {
                wanted.insert((secs, size, id));
                let (word, bit) = place(secs);
                filter[word] |= bit;
            }
        }
        Self { wanted, found: Vec::new(), filter }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Searches the content of a file. Returns the inodes whose time is in it, except those that an
    /// earlier call returned for the same time.
    pub(super) fn scan(
        &mut self,
        mut bytes: impl Read,
        form: TimeForm,
    ) -> io::Result<Vec<InodeId>> {
        let mut buffer = vec![0; CHUNK + 4 * WINDOW];
        let (mut filled, mut start) = (0, 0);
        loop {
            let n = read_some(&mut bytes, &mut buffer[filled..])?;
            filled += n;
            let last = n == 0;
            if !last && filled < buffer.len() {
                continue;
            }
            // Positions near the end need bytes that are not read yet, so they wait for the next turn.
            let end = if last { filled } else { filled - 2 * WINDOW };
            match form {
                TimeForm::Decimal => self.decimals(&buffer[..filled], start, end),
                _ => self.binary(&buffer[..filled], start, end, form),
            }
            if last {
                return Ok(std::mem::take(&mut self.found));
            }
            // Keep the bytes before the next position: a size may precede its time.
            let keep = end - 2 * WINDOW;
            buffer.copy_within(keep..filled, 0);
            filled -= keep;
            start = 2 * WINDOW;
        }
    }

    fn mark(&mut self, secs: u32, size: u64) {
        let from = self.found.len();
        let of = self.wanted.range((secs, size, InodeId::new(0))..);
        let of = of.take_while(|wanted| (wanted.0, wanted.1) == (secs, size));
        self.found.extend(of.map(|(.., id)| *id));
        for id in &self.found[from..] {
            self.wanted.remove(&(secs, size, *id));
        }
    }

    fn may_be_wanted(&self, secs: u32) -> bool {
        let (word, bit) = place(secs);
        self.filter[word] & bit != 0
    }

    fn binary(&mut self, b: &[u8], start: usize, end: usize, form: TimeForm) {
        let step = if let TimeForm::Sized(step) = form { step } else { 1 };
        let mut at = start.next_multiple_of(step);
        while at < end {
            match form {
                TimeForm::Real => {
                    if let Some(eight) = b.get(at..).and_then(|b| b.first_chunk::<8>()) {
                        for value in [f64::from_le_bytes(*eight), f64::from_be_bytes(*eight)] {
                            if value >= 1.0 && value <= f64::from(u32::MAX) {
                                self.mark(value as u32, 0);
                            }
                        }
                    }
                }
                TimeForm::Alone => {
                    if let Some(eight) = b.get(at..).and_then(|b| b.first_chunk::<8>()) {
                        for n in [u64::from_le_bytes(*eight), u64::from_be_bytes(*eight)] {
                            if let Ok(secs) = u32::try_from(n / 1000)
                                && self.may_be_wanted(secs)
                            {
                                self.mark(secs, 0);
                            }
                        }
                    }
                    for secs in words(b, at) {
                        if self.may_be_wanted(secs) {
                            self.mark(secs, 0);
                        }
                    }
                }
                _ => {
                    let [little, big] = words(b, at);
                    if self.may_be_wanted(little) {
                        self.sized(b, at, little, u64::from_le_bytes, u32::from_le_bytes);
                    }
                    if self.may_be_wanted(big) {
                        self.sized(b, at, big, u64::from_be_bytes, u32::from_be_bytes);
                    }
                }
            }
            at += step;
        }
    }

    /// Marks the time at `at` with each neighbouring number that may be the file's size.
    fn sized(
        &mut self,
        b: &[u8],
        at: usize,
        secs: u32,
        long: fn([u8; 8]) -> u64,
        short: fn([u8; 4]) -> u32,
    ) {
        let long_at =
            |at: Option<usize>| at.and_then(|at| b.get(at..)?.first_chunk::<8>()).map(|n| long(*n));
        let short_at = |at: Option<usize>| {
            at.and_then(|at| b.get(at..)?.first_chunk::<4>()).map(|n| u64::from(short(*n)))
        };
        // A 64-bit time begins here or, in the other byte order, ends with these 4 bytes.
        for from in [Some(at), at.checked_sub(4)] {
            if long_at(from) == Some(u64::from(secs)) {
                let sides = [from.map(|f| f + 8), from.and_then(|f| f.checked_sub(8))];
                for size in sides.into_iter().filter_map(long_at) {
                    self.mark(secs, size);
                }
            }
        }
        for size in [Some(at + 4), at.checked_sub(4)].into_iter().filter_map(short_at) {
            self.mark(secs, size);
        }
    }

    fn decimals(&mut self, b: &[u8], start: usize, end: usize) {
        let mut at = start;
        while at < end {
            let digits = b[at..].iter().take(DIGITS).take_while(|c| c.is_ascii_digit()).count();
            let begins = at == 0 || !b[at - 1].is_ascii_digit();
            if begins && digits > 0 {
                let text = std::str::from_utf8(&b[at..at + digits]).unwrap_or_default();
                let number: u64 = text.parse().unwrap_or(0);
                for unit in [1, 1_000, 1_000_000_000] {
                    if let Ok(secs) = u32::try_from(number / unit) {
                        self.mark(secs, 0);
                    }
                }
            }
            at += digits.max(1);
        }
    }
}

/// Returns the word and the bit of a time in the filter.
fn place(secs: u32) -> (usize, u64) {
    let hash = secs.wrapping_mul(0x9E37_79B1) >> 16;
    (hash as usize / 64, 1 << (hash % 64))
}

/// Returns the 32-bit number at an offset in both byte orders, or 0 past the end.
fn words(b: &[u8], at: usize) -> [u32; 2] {
    let four = b.get(at..).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
    [u32::from_le_bytes(four), u32::from_be_bytes(four)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::{Entry, FileData, Inode, Location};
    use crate::model::index::SourceId;

    /// Files of 712 bytes with these times, all of which are about to become 5.
    fn candidates(times: &[i64], form: TimeForm) -> Candidates {
        let location = Location::Span { source: SourceId::new(0), offset: 0 };
        let kind = InodeKind::File(FileData { size: 712, hash: [0; 32], location });
        let inode = |secs: &i64| {
            let mtime = Mtime { secs: *secs, nanos: 0 };
            Inode { kind: kind.clone(), mode: 0, uid: 0, gid: 0, mtime, xattrs: None }
        };
        let inodes: Vec<_> = times.iter().map(inode).collect();
        let path = |i: usize| format!("{i:04}").into_bytes().into();
        let entries =
            (0..times.len()).map(|i| Entry { path: path(i), inode: InodeId::new(i) }).collect();
        let files = FileSet::new(entries, inodes).unwrap();
        let after = vec![Mtime { secs: 5, nanos: 0 }; times.len()];
        Candidates::new(&files, &after, (0..times.len()).map(InodeId::new), form)
    }

    fn found(times: &[i64], form: TimeForm, bytes: &[u8]) -> Vec<usize> {
        ids(candidates(times, form).scan(bytes, form).unwrap())
    }

    fn ids(found: Vec<InodeId>) -> Vec<usize> {
        found.into_iter().map(InodeId::index).collect()
    }

    #[test]
    fn a_time_beside_its_size_is_found_in_every_layout() {
        let t = 1_760_000_000u64;
        let at = [
            [t.to_le_bytes(), 712u64.to_le_bytes()].concat(),
            [712u64.to_le_bytes(), t.to_le_bytes()].concat(),
            [t.to_be_bytes(), 712u64.to_be_bytes()].concat(),
            [712u64.to_be_bytes(), t.to_be_bytes()].concat(),
            [(t as u32).to_le_bytes(), 712u32.to_le_bytes()].concat(),
            [(t as u32).to_be_bytes(), 712u32.to_be_bytes()].concat(),
        ];
        for bytes in at {
            for lead in [0, 8, CHUNK - 16, CHUNK + 4 * WINDOW - 8, CHUNK + 4 * WINDOW, 2 * CHUNK] {
                let file = [&vec![1; lead][..], &bytes, &[1; 9]].concat();
                assert_eq!(
                    found(&[7, 1_760_000_000], TimeForm::Sized(4), &file),
                    [1],
                    "{lead} {bytes:?}"
                );
            }
        }
        let wrong = [t.to_le_bytes(), 713u64.to_le_bytes()].concat();
        assert!(found(&[1_760_000_000], TimeForm::Sized(4), &wrong).is_empty());
        // The new time counts too.
        let stale = [5u64.to_le_bytes(), 712u64.to_le_bytes()].concat();
        assert_eq!(found(&[1_760_000_000], TimeForm::Sized(4), &stale), [0]);
    }

    #[test]
    fn a_time_alone_is_found_as_a_number_of_any_kind() {
        let t = 1_760_000_000u32;
        let real = f64::from(t) + 0.25;
        let all: [(TimeForm, Vec<u8>); 9] = [
            (TimeForm::Alone, t.to_le_bytes().to_vec()),
            (TimeForm::Alone, t.to_be_bytes().to_vec()),
            (TimeForm::Alone, (u64::from(t) * 1000 + 7).to_le_bytes().to_vec()),
            (TimeForm::Real, real.to_le_bytes().to_vec()),
            (TimeForm::Real, real.to_be_bytes().to_vec()),
            (TimeForm::Decimal, b" 1760000000 ".to_vec()),
            (TimeForm::Decimal, b"\"mtime\": 1760000000123, ".to_vec()),
            (TimeForm::Decimal, b"\0 1760000000123456789".to_vec()),
            (TimeForm::Decimal, b"1760000000".to_vec()),
        ];
        for (form, bytes) in all {
            for lead in [0, 3, CHUNK - 3, CHUNK + 2 * WINDOW - 5, CHUNK + 4 * WINDOW - 2] {
                let file = [&vec![b'x'; lead][..], &bytes, b"xyz"].concat();
                assert_eq!(found(&[9, 1_760_000_000], form, &file), [1], "{form:?} {lead}");
            }
        }
        assert!(found(&[1_760_000_000], TimeForm::Decimal, b"11760000000 17600000001").is_empty());
        assert!(found(&[1_760_000_000], TimeForm::Alone, b"17600").is_empty());
    }

    #[test]
    fn what_was_found_is_not_looked_for_again() {
        let mut all = candidates(&[7, 9, 7], TimeForm::Decimal);
        let mut scan = |text: &[u8]| ids(all.scan(text, TimeForm::Decimal).unwrap());
        assert_eq!(scan(b"7 7"), [0, 2]);
        assert_eq!(scan(b"7 9"), [1]);
        assert_eq!(scan(b"5"), [0, 1, 2]);
        assert!(all.is_empty());
    }

    #[test]
    fn what_does_not_change_is_not_looked_for() {
        assert!(candidates(&[5], TimeForm::Alone).is_empty());
        assert!(found(&[0], TimeForm::Alone, &[0; 64]).is_empty());
    }
}
