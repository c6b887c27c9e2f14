//! The pieces of a blob, each downloaded by itself, and how much of each has come.

use std::fmt::Write as _;

/// Maximum number of pieces: a blob that is said to be huge has large ones.
const MAX_PIECES: u64 = 4_096;

/// How much of a blob has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    size: u64,
    /// Bytes of a piece; the last may have fewer.
    piece: u64,
    /// Bytes that each piece has, from its beginning.
    got: Vec<u64>,
}

impl Pieces {
    /// Divides a blob of `size` bytes, of which nothing has come, into pieces of `range` bytes. Up to
    /// two of them are one piece.
    pub(super) fn new(size: u64, range: u64) -> Self {
        let piece = if size <= range.saturating_mul(2) {
            size.max(1)
        } else {
            range.max(size.div_ceil(MAX_PIECES))
        };
        Self { size, piece, got: vec![0; size.div_ceil(piece).max(1) as usize] }
    }

    /// Returns what a note says of the same blob, if it is one on these pieces.
    pub(super) fn noted(&self, note: &str) -> Option<Self> {
        let mut numbers = note.split(' ').map(|number| number.parse::<u64>().ok());
        let piece = numbers.next()??;
        let noted = Self { piece, got: numbers.collect::<Option<_>>()?, ..self.clone() };
        let fits = |i| noted.got[i] <= self.end(i) - self.start(i);
        let valid = piece == self.piece && noted.count() == self.count();
        (valid && (0..self.count()).all(fits)).then_some(noted)
    }

    /// Writes a note for [`Pieces::noted`].
    pub(super) fn note(&self) -> String {
        let mut text = self.piece.to_string();
        for got in &self.got {
            // Writing to a string does not fail.
            let _ = write!(text, " {got}");
        }
        text
    }

    /// Returns the bytes of the blob.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn count(&self) -> usize {
        self.got.len()
    }

    /// Returns the piece that has the byte at `offset`.
    pub(super) fn at(&self, offset: u64) -> usize {
        (offset / self.piece) as usize
    }

    fn start(&self, i: usize) -> u64 {
        i as u64 * self.piece
    }

    /// Returns the offset at which a piece ends.
    pub(super) fn end(&self, i: usize) -> u64 {
        (self.start(i) + self.piece).min(self.size)
    }

    /// Returns the offset up to which a piece has come.
    pub(super) fn have(&self, i: usize) -> u64 {
        self.start(i) + self.got[i]
    }

    /// Notes that a piece has come up to an offset.
    pub(super) fn add(&mut self, i: usize, to: u64) {
        self.got[i] = self.got[i].max(to - self.start(i));
    }

    /// Returns the range that is missing in a piece, if any is.
    pub(super) fn missing(&self, i: usize) -> Option<(u64, u64)> {
        Some((self.have(i), self.end(i))).filter(|(from, to)| from < to)
    }

    /// Returns the number of bytes from the beginning of the blob that have come.
    pub(super) fn prefix(&self) -> u64 {
        let gap = (0..self.count()).find(|i| self.have(*i) < self.end(*i));
        gap.map_or(self.size, |i| self.have(i))
    }

    /// Returns the number of bytes that have come.
    pub(super) fn bytes(&self) -> u64 {
        self.got.iter().sum()
    }

    /// Returns whether all bytes from `from` to `to` have come.
    pub(super) fn has(&self, from: u64, to: u64) -> bool {
        from >= to || (self.at(from)..=self.at(to - 1)).all(|i| self.have(i) >= to.min(self.end(i)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_comes_in_pieces() {
        let mut pieces = Pieces::new(25, 10);
        assert_eq!((pieces.count(), pieces.prefix(), pieces.at(19)), (3, 0, 1));
        pieces.add(1, 20);
        pieces.add(0, 4);
        pieces.add(0, 3);
        assert_eq!((pieces.prefix(), pieces.bytes(), pieces.missing(0)), (4, 14, Some((4, 10))));
        assert!(pieces.has(10, 20) && pieces.has(0, 4) && pieces.has(25, 25));
        assert!(!pieces.has(3, 5) && !pieces.has(19, 21));
        pieces.add(0, 10);
        assert_eq!(
            (pieces.prefix(), pieces.missing(1), pieces.missing(2)),
            (20, None, Some((20, 25)))
        );
        pieces.add(2, 25);
        assert!(pieces.prefix() == 25 && pieces.has(0, 25));
    }

    #[test]
    fn small_blobs_are_one_piece_and_huge_ones_have_no_more_than_the_limit() {
        for size in [0, 1, 20] {
            assert_eq!(Pieces::new(size, 10).count(), 1);
        }
        assert_eq!(Pieces::new(0, 10).prefix(), 0);
        for size in [1 << 50, i64::MAX as u64] {
            let pieces = Pieces::new(size, 10);
            assert!(pieces.count() as u64 <= MAX_PIECES);
            assert_eq!(pieces.end(pieces.count() - 1), size);
        }
    }

    #[test]
    fn notes_are_believed_only_if_they_fit() {
        let mut pieces = Pieces::new(25, 10);
        pieces.add(2, 22);
        pieces.add(0, 9);
        assert_eq!(pieces.note(), "10 9 0 2");
        assert_eq!(Pieces::new(25, 10).noted("10 9 0 2"), Some(pieces.clone()));
        for note in
            ["", "10", "10 9 0", "10 9 0 2 0", "9 9 0 2", "10 11 0 2", "10 9 0 6", "10 9 0 x"]
        {
            assert_eq!(pieces.noted(note), None, "{note}");
        }
    }
}
