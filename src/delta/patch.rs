//! Telling files by old ones: [`tell`] writes what [`Remake`] makes them of.

use std::io;
use std::sync::Arc;

use super::blocks::Blocks;
use super::elf::{Elf, Field};
use super::map::Map;
use super::matches::{Index, Match, find};
use super::model::{Model, PIECE, Piece, most_matches, put};
use super::stream::Stream;
use super::{Delta, Place};
use crate::base::error::{Error, Result};
use crate::base::range_coder::{Coder, Decoder, Encoder};
use crate::model::content::{ReadAt, Region, Source};

/// Files of fewer bytes are not worth the tables.
const LEAST: u64 = 4 << 10;
/// Larger ones would take too much memory.
const MOST: u64 = 512 << 20;
/// The old file has at most so many times the bytes of the new one, so that no delta can have
/// much read for little.
const TIMES: u64 = 4;

/// Whether a file of so many bytes can be told by one of `old` bytes.
pub(super) fn can_be_told(new: u64, old: u64) -> bool {
    (LEAST..=MOST).contains(&new) && old <= MOST && old / TIMES <= new
}

/// Bytes of a file, with what looks like an address replaced: by what it becomes if there is a
/// map, by itself if the file is the new one, else by nothing. Moved code is then the same.
fn evened(file: &dyn ReadAt, elf: &Elf, becomes: impl Fn(u64) -> u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.size() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let mut fields = Vec::new();
    for at in (0..bytes.len()).step_by(1 << 20) {
        let piece = &mut bytes[at..(at + (1 << 20)).min(file.size() as usize)];
        fields.clear();
        elf.fields(piece, 0..piece.len(), at as u64, &mut |f| fields.push(f));
        for field in &fields {
            put(piece, field, becomes(field.target));
        }
    }
    Ok(bytes)
}

fn matches(old: (&dyn ReadAt, &Elf), new: (&dyn ReadAt, &Elf)) -> io::Result<Vec<Match>> {
    let find = |map: Option<&Map>| {
        let a = evened(old.0, old.1, |t| map.map_or(0, |map| map.guess(t).0))?;
        let b = evened(new.0, new.1, |t| map.map_or(0, |_| t))?;
        Ok::<_, io::Error>(find(&Index::new(&a), &b))
    };
    let mut matches = find(None)?;
    if !old.1.loads.is_empty() {
        // Now it is known where the addresses have gone.
        let map = Map::new(old.1, new.1, &matches, 0);
        matches = find(Some(&map))?;
    }
    let most = most_matches(new.0.size()) as usize;
    if matches.len() > most {
        let mut sizes: Vec<u32> = matches.iter().map(|m| m.bytes).collect();
        sizes.sort_unstable();
        let least = sizes[sizes.len() - most];
        matches.retain(|m| m.bytes > least);
    }
    Ok(matches)
}

/// Tells files one after the other, each with its old one. The second result is what is in none
/// of the old ones, for each file.
pub(super) fn tell(files: &[(Place, Region)], tars: &[Source]) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut coder = Encoder::new();
    let mut model = Model::new();
    let mut fresh = Vec::new();
    coder.raw_bits(files.len() as u64, 32);
    for (place, new) in files {
        let numbers = [place.layer.into(), place.offset, place.bytes];
        model.place(&mut coder, numbers);
        let old = place_of(tars, numbers)?;
        let new_elf = Elf::parse(new)?;
        let old_elf = Elf::parse(&old)?;
        let loads = model.loads(&mut coder, &old_elf, &new_elf)?;
        let found = matches((&old, &old_elf), (new, &new_elf))?;
        let sizes = [new.size(), old.size()];
        let list = model.matches(&mut coder, &found, sizes)?;
        let mut map = Map::new(&old_elf, &loads, &list, new.size());
        let mut pieces = Pieces::new(Blocks::new(old, None), old_elf, loads);
        let mut rest = Vec::new();
        let mut before = Match::default();
        let mut bytes = Vec::new();
        let end = Match { new: new.size() as u32, old: 0, bytes: 0 };
        for m in list.iter().chain([&end]) {
            for at in (before.new + before.bytes..m.new).step_by(PIECE) {
                let from = rest.len();
                rest.resize(from + ((m.new - at) as usize).min(PIECE), 0);
                new.read_exact_at(&mut rest[from..], at.into())?;
                pieces.gap(&before, at, &mut rest[from..], true);
            }
            before = *m;
            for into in (0..m.bytes).step_by(PIECE) {
                bytes.resize(((m.bytes - into) as usize).min(PIECE), 0);
                new.read_exact_at(&mut bytes, (m.new + into).into())?;
                pieces.code(&mut coder, &mut model, &mut map, m, into, &bytes)?;
                debug_assert!(pieces.made == bytes, "a reader would make something else");
            }
        }
        fresh.push(rest);
    }
    Ok((coder.finish(), fresh))
}

fn place_of(tars: &[Source], [layer, offset, bytes]: [u64; 3]) -> Result<Region> {
    let tar = tars.get(layer as usize);
    let tar = tar.filter(|t| offset.checked_add(bytes).is_some_and(|end| end <= t.size()));
    let tar =
        tar.ok_or_else(|| Error::malformed("the delta tells of what the old image does not have"))?;
    Ok(Region::new(Arc::clone(tar), offset, bytes))
}

/// The pieces of matches of one file.
struct Pieces {
    old: Blocks,
    elf: Elf,
    loads: Elf,
    fields: Vec<Field>,
    /// The last piece's new bytes.
    made: Vec<u8>,
}

impl Pieces {
    fn new(old: Blocks, elf: Elf, loads: Elf) -> Self {
        Self { old, elf, loads, fields: Vec::new(), made: Vec::new() }
    }

    /// Turns what lies between matches, in code, into what repeats itself better, or back.
    fn gap(&self, last: &Match, at: u32, bytes: &mut [u8], forth: bool) {
        let before = u64::from(last.old) + u64::from(last.bytes);
        if before > 0 && self.elf.has_code(before - 1) {
            absolute(bytes, self.loads.addr(at.into()).unwrap_or(0) as u32, forth);
        }
    }

    fn code(
        &mut self,
        coder: &mut impl Coder,
        model: &mut Model,
        map: &mut Map,
        m: &Match,
        into: u32,
        new: &[u8],
    ) -> Result<()> {
        let offset = u64::from(m.old + into);
        let (bytes, range) = self.old.read(offset, new.len())?;
        self.fields.clear();
        let addr = self.loads.addr((m.new + into).into());
        self.elf.fields(bytes, range.clone(), offset, &mut |f| {
            // What is not loaded can't refer to what is near.
            if addr.is_some() || f.wide {
                self.fields.push(f);
            }
        });
        map.near(&mut self.fields);
        let piece = Piece {
            old: &bytes[range],
            fields: &self.fields,
            addr: addr.unwrap_or(0),
            code: self.elf.has_code(offset),
            offset,
        };
        model.piece(coder, map, &piece, new, &mut self.made);
        Ok(())
    }
}

/// Bits of the distances of calls and jumps that are made absolute.
const FAR: u32 = 28;

/// Writes targets of calls and jumps, and operands relative to the instruction pointer, as
/// addresses, as `bytes` are loaded at `addr`; or the other way round. What is referred to twice is
/// then written twice the same.
fn absolute(bytes: &mut [u8], addr: u32, forth: bool) {
    let mut i = 0;
    while i + 6 <= bytes.len() {
        let operand = matches!(bytes[i], 0x8b | 0x8d) && bytes[i + 1] & 0xc7 == 5;
        let at = i + 1 + usize::from(operand);
        i += 1;
        if !operand && bytes[at - 1] & 0xfe != 0xe8 {
            continue;
        }
        // Whatever it is, nothing begins inside it: it reads the same on the way back.
        i = at + 4;
        let value = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let short = |n: u32| (n << (32 - FAR)).cast_signed() >> (32 - FAR);
        if short(value) != value.cast_signed() {
            continue;
        }
        let after = addr.wrapping_add(at as u32 + 4);
        let value = if forth { value.wrapping_add(after) } else { value.wrapping_sub(after) };
        bytes[at..at + 4].copy_from_slice(&short(value).to_le_bytes());
    }
}

/// Makes the files of a layer that are told, one after the other.
pub(super) struct Remake<'a> {
    delta: &'a Delta,
    tars: &'a [Source],
    groups: std::slice::Iter<'a, u32>,
    /// The group that is being read, and how many files are left in it.
    coder: Decoder<Vec<u8>>,
    model: Model,
    left: u64,
    file: Option<File>,
}

struct File {
    pieces: Pieces,
    map: Map,
    matches: Vec<Match>,
    /// The match that is next, and how much of it is done.
    next: usize,
    into: u32,
    at: u32,
    size: u32,
    ready: Vec<u8>,
    taken: usize,
}

impl<'a> Remake<'a> {
    pub(super) fn new(delta: &'a Delta, tars: &'a [Source], groups: &'a [u32]) -> Self {
        let coder = Decoder::new(Vec::new());
        let groups = groups.iter();
        Self { delta, tars, groups, coder, model: Model::new(), left: 0, file: None }
    }

    /// Begins the next file, of so many bytes.
    pub(super) fn begin(&mut self, size: u64) -> Result<()> {
        let bad = || Error::malformed("the delta tells of fewer files than its instructions take");
        let room = self.file.take().map(|file| file.pieces.old);
        if self.left == 0 {
            let group = self.groups.next().ok_or_else(bad)?;
            self.coder = Decoder::new(self.delta.packed(*group)?);
            self.model = Model::new();
            self.left = self.coder.raw_bits(0, 32);
        }
        self.left = self.left.checked_sub(1).ok_or_else(bad)?;
        let (coder, model) = (&mut self.coder, &mut self.model);
        let place = model.place(coder, [0; 3]);
        if !can_be_told(size, place[2]) {
            return Err(Error::malformed("the delta tells a file by one of quite another size"));
        }
        let old = place_of(self.tars, place)?;
        let elf = Elf::parse(&old)?;
        let loads = model.loads(coder, &elf, &Elf::default())?;
        let matches = model.matches(coder, &[], [size, old.size()])?;
        self.file = Some(File {
            map: Map::new(&elf, &loads, &matches, size),
            pieces: Pieces::new(Blocks::new(old, room), elf, loads),
            matches,
            next: 0,
            into: 0,
            at: 0,
            size: size as u32,
            ready: Vec::new(),
            taken: 0,
        });
        Ok(())
    }

    /// Some of the file's next bytes; none at its end.
    pub(super) fn read(&mut self, buf: &mut [u8], fresh: &mut Stream<'_>) -> Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        if file.taken == file.ready.len() {
            let m = file.matches.get(file.next);
            let to = m.map_or(file.size, |m| m.new);
            file.taken = 0;
            if file.at < to {
                file.ready.resize(((to - file.at) as usize).min(PIECE), 0);
                fresh.fill(&mut file.ready)?;
                let last = file.next.checked_sub(1).map(|i| file.matches[i]).unwrap_or_default();
                file.pieces.gap(&last, file.at, &mut file.ready, false);
                file.at += file.ready.len() as u32;
            } else if let Some(m) = m {
                file.ready.resize(((m.bytes - file.into) as usize).min(PIECE), 0);
                let (coder, model) = (&mut self.coder, &mut self.model);
                file.pieces.code(coder, model, &mut file.map, m, file.into, &file.ready)?;
                std::mem::swap(&mut file.ready, &mut file.pieces.made);
                file.into += file.ready.len() as u32;
                if file.into == m.bytes {
                    file.at = m.new + m.bytes;
                    file.next += 1;
                    file.into = 0;
                }
            } else {
                file.ready.clear();
            }
        }
        let n = buf.len().min(file.ready.len() - file.taken);
        buf[..n].copy_from_slice(&file.ready[file.taken..file.taken + n]);
        file.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn absolute_addresses_are_turned_back(
            list in prop::collection::vec(prop_oneof![Just(0xe8), Just(0x8d), Just(5), Just(0), any::<u8>()], 0..200),
            addr in any::<u32>()
        ) {
            let mut bytes = list.clone();
            absolute(&mut bytes, addr, true);
            absolute(&mut bytes, addr, false);
            prop_assert_eq!(bytes, list);
        }
    }
}
