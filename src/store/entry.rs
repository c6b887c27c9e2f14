//! Entries of pack and record files. Each has its length and checksums, so that damage is detected and
//! reading continues with the next entry.
//!
//! | bytes | |
//! |--:|---|
//! | 8 | [`MAGIC`] |
//! | 4, 8 | bytes of the head and of the body, little-endian |
//! | 16 | half of the BLAKE3 of the body |
//! | 16 | half of the BLAKE3 of the three fields above and the head |
//! | | the head, then the body |

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::MAX_STORE_ENTRY;

/// First bytes of every entry. A conversion of line endings or of the encoding breaks them.
const MAGIC: [u8; 8] = *b"\x93relay\r\n";
/// Number of bytes before the head.
const PREFIX_BYTES: usize = 52;

type Sum = [u8; 16];

fn sum(parts: &[&[u8]]) -> Sum {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut sum = Sum::default();
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

/// Returns the size of an entry with a head and a body of these sizes.
pub(super) fn size(head: u64, body: u64) -> u64 {
    PREFIX_BYTES as u64 + head + body
}

/// Returns everything of an entry before its body.
pub(super) fn encode_start(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + head.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&sum(&[body]));
    out.extend_from_slice(&sum(&[&out[8..], head]));
    out.extend_from_slice(head);
    out
}

/// An entry that was read, without its body.
pub(super) struct StoreEntry {
    /// Where the entry begins in the file.
    pub(super) offset: u64,
    pub(super) head: Vec<u8>,
    /// Size of the body, which follows the head.
    pub(super) body_bytes: u64,
    sum: Sum,
}

impl StoreEntry {
    /// Reads the entry at `offset`, without its body. Damage is a [malformed] error; a failed read is
    /// another error.
    ///
    /// [malformed]: crate::base::error::ErrorKind::Malformed
    pub(super) fn read(file: &File, offset: u64) -> Result<Self> {
        let mut spare = u64::MAX;
        Self::read_within(file, offset, &mut spare)
    }

    /// Reads an entry whose head has at most `spare` bytes; a damaged head is subtracted from that.
    fn read_within(file: &File, offset: u64, spare: &mut u64) -> Result<Self> {
        let mut fixed = [0; PREFIX_BYTES];
        read_exact(file, &mut fixed, offset)?;
        let (lengths, wanted) = fixed[8..].split_at(28);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (head, body) = (number(&lengths[..4]), number(&lengths[4..12]));
        let damaged = || Error::malformed(format!("the entry at byte {offset} is damaged"));
        if fixed[..8] != MAGIC || head > MAX_STORE_ENTRY || body > MAX_STORE_ENTRY {
            return Err(damaged());
        }
        // Nothing is allocated for lengths that exceed the file.
        let left = file.metadata()?.len().saturating_sub(offset);
        if size(head, body) > left || head > *spare {
            return Err(damaged());
        }
        let mut bytes = vec![0; head as usize];
        read_exact(file, &mut bytes, offset + PREFIX_BYTES as u64)?;
        if sum(&[lengths, &bytes]) != *wanted {
            *spare -= head;
            return Err(damaged());
        }
        let mut sum = Sum::default();
        sum.copy_from_slice(&lengths[12..]);
        Ok(Self { offset, head: bytes, body_bytes: body, sum })
    }

    /// Reads the body and verifies its checksum.
    pub(super) fn read_body(&self, file: &File) -> Result<Vec<u8>> {
        let mut body = vec![0; self.body_bytes as usize];
        read_exact(file, &mut body, self.offset + size(self.head.len() as u64, 0))?;
        if sum(&[&body]) != self.sum {
            let at = self.offset;
            return Err(Error::malformed(format!(
                "the checksum of the entry at byte {at} does not match"
            )));
        }
        Ok(body)
    }

    /// Returns where the next entry begins.
    pub(super) fn end(&self) -> u64 {
        self.offset + size(self.head.len() as u64, self.body_bytes)
    }
}

/// Reads exactly `buf`. A file that ends too early is malformed.
fn read_exact(file: &File, buf: &mut [u8], offset: u64) -> Result<()> {
    #[cfg(test)]
    tests::READ.set(tests::READ.get() + buf.len() as u64);
    match file.read_exact_at(buf, offset) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::malformed(format!(
            "the file ends before the end of the data at byte {offset}"
        ))),
        done => Ok(done?),
    }
}

/// Bound on the bytes of damaged heads that are read, as a multiple of the file's size. Crafted heads
/// can overlap, and each is read and hashed.
const SPARE_FACTOR: u64 = 4;
/// Number of bytes that are searched at a time.
const SEARCH_PIECE: u64 = 1 << 20;

/// Shows `each` all entries of a file up to `end`, in order. Skips damaged entries and returns their
/// number.
pub(super) fn scan(path: &Path, end: u64, each: &mut dyn FnMut(&File, StoreEntry)) -> Result<u64> {
    let file = File::open(path)?;
    let end = end.min(file.metadata()?.len());
    let mut search = Search { file: &file, end, start: 0, piece: Vec::new() };
    let (mut at, mut damaged, mut spare) = (0, 0, end.saturating_mul(SPARE_FACTOR));
    while at < end {
        match StoreEntry::read_within(&file, at, &mut spare) {
            Ok(entry) => {
                at = entry.end();
                each(&file, entry);
            }
            Err(e) if e.kind() == ErrorKind::Malformed => {
                damaged += 1;
                at = search.next(at + 1)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(damaged)
}

/// Searches for the start of the next entry. Reads each byte once.
struct Search<'a> {
    file: &'a File,
    end: u64,
    /// Where the last piece that was read begins.
    start: u64,
    piece: Vec<u8>,
}

impl Search<'_> {
    /// Returns where the next entry may begin, at or after `at`.
    fn next(&mut self, mut at: u64) -> Result<u64> {
        while at + MAGIC.len() as u64 <= self.end {
            let inside = at.checked_sub(self.start).and_then(|n| self.piece.get(n as usize..));
            if let Some(found) = inside.and_then(|rest| memmem::find(rest, &MAGIC)) {
                return Ok(at + found as u64);
            }
            // The magic bytes may begin in this piece and end in the next.
            let searched = self.start + self.piece.len() as u64;
            at = at.max(searched.saturating_sub(MAGIC.len() as u64 - 1));
            self.start = at;
            self.piece.resize((self.end - at).min(SEARCH_PIECE) as usize, 0);
            read_exact(self.file, &mut self.piece, at)?;
        }
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes that were read.
        pub(super) static READ: Cell<u64> = const { Cell::new(0) };
    }

    #[test]
    fn what_looks_like_entries_costs_no_more_than_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for bytes in [1 << 18, 1 << 20] {
            // Heads that reach over half of the file, and such as can't be.
            for (head, apart) in [(bytes as u32 / 2, 20), (u32::MAX, 12)] {
                let mut one = MAGIC.to_vec();
                one.extend_from_slice(&head.to_le_bytes());
                one.resize(apart, 0);
                let mut all = one.repeat(bytes / apart);
                let last = all.len();
                all.extend_from_slice(&encode_start(b"head", b""));
                std::fs::write(&path, &all).unwrap();
                READ.set(0);
                let mut found = Vec::new();
                let damaged = scan(&path, u64::MAX, &mut |_, entry| found.push(entry.offset));
                assert_eq!(damaged.unwrap() as usize, bytes / apart);
                assert_eq!(found, [last as u64]);
                assert!(READ.get() < 10 * bytes as u64, "{} of {bytes}", READ.get());
            }
        }
    }

    #[test]
    fn a_damaged_entry_is_passed_over_and_the_next_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut whole = Vec::new();
        for i in 0..4u8 {
            let body = vec![i; 100];
            whole.extend_from_slice(&encode_start(&[i], &body));
            whole.extend_from_slice(&body);
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let (mut fine, mut bad) = (Vec::new(), 0);
            let damaged = scan(&path, u64::MAX, &mut |file, entry| match entry.read_body(file) {
                Ok(body) if body == vec![entry.head[0]; 100] => fine.push(entry.head[0]),
                _ => bad += 1,
            });
            assert_eq!((fine.len(), bad + damaged.unwrap()), (3, 1), "byte {at}");
            assert!(!fine.contains(&((at / (whole.len() / 4)) as u8)));
        }
    }
}
