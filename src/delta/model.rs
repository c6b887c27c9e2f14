//! The adaptive model of patches: matches between both files, and the bytes that differ in them.
//!
//! Each function codes both ways: a coder that writes is given the values, one that reads ignores its
//! arguments, and both return the values.

use super::elf::{Elf, Field, KINDS, Kind, LoadSegment};
use super::map::AddressMap;
use super::matches::{MIN_MATCH, Match};
use super::symbols::{Byte, Nibble, Number, Prob};
use super::words::WordModel;
use crate::base::error::{Error, Result};
use crate::base::limits::{BYTES_PER_MATCH, MAX_ELF_LOADS, MIN_MATCHES};
use crate::base::range_coder::Coder;

/// Bytes that share one flag for being as predicted.
const LINE: usize = 32;
/// Bytes of code that share one flag for being unchanged, in a line that is not as predicted.
const GROUP: usize = 8;
/// Bytes of a match that are coded together. Addresses across the ends of a piece are not found.
pub(super) const PIECE: usize = 1 << 16;

/// Returns the maximum number of matches of a file of `size` bytes.
pub(super) fn max_matches(size: u64) -> u64 {
    (size / BYTES_PER_MATCH).max(MIN_MATCHES)
}

/// A piece of a match.
pub(super) struct MatchPiece<'a> {
    /// The old bytes.
    pub(super) old: &'a [u8],
    /// The fields in them that look like addresses.
    pub(super) fields: &'a [Field],
    /// The address that the new bytes are loaded at.
    pub(super) addr: u64,
    /// Whether the bytes are code.
    pub(super) code: bool,
    /// Offset of the old bytes in their file.
    pub(super) offset: u64,
}

/// Adaptive models that the files of a group share.
pub(super) struct PatchModel {
    place: [Number; 3],
    loads: Number,
    count: Number,
    gap: Number,
    bytes: Number,
    jump: Number,
    diagonal: Vec<Nibble>,
    line: Vec<Prob>,
    group: Vec<Prob>,
    same: Vec<Prob>,
    byte: Vec<Byte>,
    field: Vec<Prob>,
    raw: Vec<Prob>,
    distance: Vec<Number>,
    words: WordModel,
    /// Which of the last lines were not as predicted; the lowest bit is the newest.
    lines: usize,
    /// Which of the last items of the current line were not; likewise.
    last: usize,
}

/// Number of recent distances between new and old offsets that are remembered.
const RECENT: usize = 8;

impl PatchModel {
    /// Begins without knowledge.
    pub(super) fn new() -> Self {
        let probs = |n| vec![Prob::default(); n];
        Self {
            place: Default::default(),
            loads: Number::default(),
            count: Number::default(),
            gap: Number::default(),
            bytes: Number::default(),
            jump: Number::default(),
            diagonal: vec![Nibble::default(); RECENT + 1],
            line: probs(16 * 4 * 3 * 2),
            group: probs(8 * 4 * GROUP),
            same: probs(2 * 8 * 256),
            byte: vec![Byte::default(); 256],
            field: probs(KINDS * 3 * 8),
            raw: probs(KINDS * 8),
            distance: vec![Number::default(); KINDS],
            words: WordModel::new(),
            lines: 0,
            last: 0,
        }
    }

    /// Codes the place of the old file: layer, offset and bytes.
    pub(super) fn place(&mut self, coder: &mut impl Coder, place: [u64; 3]) -> [u64; 3] {
        std::array::from_fn(|i| self.place[i].code(coder, place[i]))
    }

    /// Codes the loaded parts of the new file.
    pub(super) fn loads(&mut self, coder: &mut impl Coder, old: &Elf, new: &Elf) -> Result<Elf> {
        let count = self.loads.code(coder, new.loads.len() as u64);
        if count > MAX_ELF_LOADS {
            return Err(invalid());
        }
        let mut loads = Vec::new();
        for i in 0..count as usize {
            let known = old.loads.get(i).copied().unwrap_or_default().parts();
            let load = new.loads.get(i).copied().unwrap_or_default().parts();
            loads.push(LoadSegment::of(std::array::from_fn(|i| {
                let step = load[i].wrapping_sub(known[i]).cast_signed();
                known[i].wrapping_add_signed(self.loads.signed(coder, step))
            })));
        }
        Ok(Elf::loaded(loads))
    }

    /// Codes the matches of a file. `sizes` are those of the new and the old file.
    pub(super) fn matches(
        &mut self,
        coder: &mut impl Coder,
        matches: &[Match],
        sizes: [u64; 2],
    ) -> Result<Vec<Match>> {
        let count = self.count.code(coder, matches.len() as u64);
        if count > max_matches(sizes[0]) {
            return Err(invalid());
        }
        let mut found = Vec::with_capacity(count as usize);
        let (mut new, mut old) = (0u64, 0u64);
        let (mut recent, mut last) = ([0u64; RECENT], 0);
        for i in 0..count as usize {
            let m = matches.get(i).copied().unwrap_or_default();
            let start = u64::from(m.new);
            let start = new.wrapping_add(self.gap.code(coder, start.wrapping_sub(new)));
            let bytes = self.bytes.code(coder, u64::from(m.bytes));
            // After an insertion or a deletion matches often return to an earlier distance.
            let distance = u64::from(m.old).wrapping_sub(start);
            let known = recent.iter().position(|d| *d == distance).unwrap_or(RECENT);
            last = self.diagonal[last].code(coder, known).min(RECENT);
            let distance = recent.get(last).copied().unwrap_or_else(|| {
                let expected = old.wrapping_sub(new);
                let step = distance.wrapping_sub(expected).cast_signed();
                expected.wrapping_add_signed(self.jump.signed(coder, step))
            });
            recent[..=last.min(RECENT - 1)].rotate_right(1);
            recent[0] = distance;
            let from = start.wrapping_add(distance);
            let inside = |at: u64, size| at.checked_add(bytes).is_some_and(|end| end <= size);
            let fits = bytes >= u64::from(MIN_MATCH) && start >= new;
            if !(fits && inside(start, sizes[0]) && inside(from, sizes[1])) {
                return Err(invalid());
            }
            (new, old) = (start + bytes, from + bytes);
            found.push(Match { new: start as u32, old: from as u32, bytes: bytes as u32 });
        }
        Ok(found)
    }

    /// Codes up to [`PIECE`] bytes of a match. `new` has the new bytes; only its length counts for a
    /// reader. `guess` becomes the new bytes.
    pub(super) fn piece<C: Coder>(
        &mut self,
        coder: &mut C,
        map: &mut AddressMap,
        piece: &MatchPiece<'_>,
        new: &[u8],
        guess: &mut Vec<u8>,
    ) {
        guess.clear();
        guess.extend_from_slice(piece.old);
        let (mut next, mut at) = (0, 0);
        while at < piece.old.len() {
            let end = (at + LINE).min(piece.old.len());
            // A line has the fields that begin in it, and ends with the last of them.
            let (first, mut sure, mut stop) = (next, 2, end);
            while let Some(field) = piece.fields.get(next).filter(|f| f.at < end) {
                let (target, s) = map.find(field);
                sure = sure.min(s);
                put(guess, field, target.wrapping_sub(base(field, piece.addr, map)));
                stop = stop.max(field.at + field.width());
                next += 1;
            }
            let fields = &piece.fields[first..next];
            let context = ((self.lines & 15) * 4 + fields.len().min(3)) * 3 + sure;
            let context = context * 2 + usize::from(piece.code);
            let other = C::WRITES && new[at..stop] != guess[at..stop];
            let other = coder.bit(&mut self.line[context], other);
            self.lines = self.lines << 1 | usize::from(other);
            if other {
                self.line(coder, map, piece, fields, new, guess, at..stop);
            }
            at = stop;
        }
    }

    /// Codes a line that is not as predicted.
    #[expect(clippy::too_many_arguments, reason = "the state of one loop, in two functions")]
    fn line<C: Coder>(
        &mut self,
        coder: &mut C,
        map: &mut AddressMap,
        piece: &MatchPiece<'_>,
        fields: &[Field],
        new: &[u8],
        guess: &mut [u8],
        range: std::ops::Range<usize>,
    ) {
        self.last = 0;
        let old = piece.old;
        let mut fields = fields.iter().peekable();
        // End of the word that is coded byte by byte.
        let mut spelled = 0;
        let mut at = range.start;
        while at < range.end {
            if let Some(field) = fields.next_if(|f| f.at == at) {
                self.field(coder, map, piece, field, new, guess);
                at += field.width();
                continue;
            }
            let word = at + 4 <= range.end && fields.peek().is_none_or(|f| f.at >= at + 4);
            let aligned = (piece.offset as usize + at).is_multiple_of(4);
            if !piece.code && word && aligned {
                match self.words.code(coder, u32_at(old, at), u32_at(new, at)) {
                    Some(word) => {
                        guess[at..at + 4].copy_from_slice(&word.to_le_bytes());
                        self.last = self.last << 1 | usize::from(word != u32_at(old, at));
                        at += 4;
                        continue;
                    }
                    None => spelled = at + 4,
                }
            }
            let (end, other) = if spelled > at {
                (spelled, true)
            } else if piece.code {
                let next = fields.peek().map_or(range.end, |f| f.at);
                let end = next.min(at + GROUP);
                let context = (self.last & 7) * 4 + usize::from(self.last == 0) * 2;
                let context = context + usize::from(end == range.end);
                let group = &mut self.group[context * GROUP + end - at - 1];
                (end, coder.bit(group, C::WRITES && new[at..end] != old[at..end]))
            } else {
                (at + 1, true)
            };
            if !other {
                self.last <<= 1;
                at = end;
                continue;
            }
            for at in at..end {
                let context = usize::from(piece.code) * 8 + (self.last & 7);
                let same = &mut self.same[context * 256 + usize::from(old[at])];
                let other = coder.bit(same, C::WRITES && new[at] != old[at]);
                if other {
                    guess[at] = self.byte[usize::from(old[at])].code(coder, new[at]);
                }
                self.last = self.last << 1 | usize::from(other);
            }
            at = end;
            if at == spelled {
                self.words.learn(u32_at(old, at - 4), u32_at(guess, at - 4));
            }
        }
    }

    /// Codes an address.
    fn field<C: Coder>(
        &mut self,
        coder: &mut C,
        map: &mut AddressMap,
        piece: &MatchPiece<'_>,
        field: &Field,
        new: &[u8],
        guess: &mut [u8],
    ) {
        let range = field.at..field.at + field.width();
        let base = base(field, piece.addr, map);
        let (target, sure) = map.find(field);
        // An earlier field of the line may have taught a better address.
        put(guess, field, target.wrapping_sub(base));
        let kind = field.kind as usize;
        let other = C::WRITES && new[range.clone()] != guess[range.clone()];
        let other = coder.bit(&mut self.field[(kind * 3 + sure) * 8 + (self.last & 7)], other);
        self.last = self.last << 1 | usize::from(other);
        if other {
            let old = &piece.old[range.clone()];
            let raw = C::WRITES && new[range.clone()] == *old;
            if coder.bit(&mut self.raw[kind * 8 + (self.last & 7)], raw) {
                guess[range.clone()].copy_from_slice(old);
            } else {
                let guessed = get(guess, field);
                let distance = get(new, field).wrapping_sub(guessed).cast_signed();
                let distance = self.distance[kind].signed(coder, distance);
                put(guess, field, guessed.wrapping_add_signed(distance));
            }
            map.learn(field.target, get(guess, field).wrapping_add(base));
        }
    }
}

fn invalid() -> Error {
    Error::malformed("the delta has an invalid file patch")
}

/// Returns what the value of a new field is relative to, in a piece that is loaded at `addr`.
fn base(field: &Field, addr: u64, map: &AddressMap) -> u64 {
    match field.kind {
        _ if field.wide => 0,
        Kind::Index | Kind::Table => map.guess(field.base).0,
        // At the same distance from the field as in the old file.
        _ => addr.wrapping_add(field.at as u64).wrapping_add(field.base.wrapping_sub(field.place)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a field's value, sign-extended.
fn get(bytes: &[u8], field: &Field) -> u64 {
    let low = u32_at(bytes, field.at);
    if field.wide {
        u64::from(u32_at(bytes, field.at + 4)) << 32 | u64::from(low)
    } else {
        i64::from(low.cast_signed()).cast_unsigned()
    }
}

/// Writes a field's value.
pub(super) fn put(bytes: &mut [u8], field: &Field, value: u64) {
    let n = field.width();
    bytes[field.at..field.at + n].copy_from_slice(&value.to_le_bytes()[..n]);
}
