//! Patches of files against old ones: [`write_patches`] makes them, [`PatchReader`] applies them.

use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use super::blocks::BlockCache;
use super::elf::{Elf, Field};
use super::map::AddressMap;
use super::matches::{Match, Matches, SEARCHED, SeedIndex};
use super::memory::{self, WorkMemory};
use super::model::{MatchPiece, PIECE, PatchModel, max_matches, put};
use super::stream::StreamReader;
use super::{Delta, Place};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_PATCH_RATIO, MAX_PATCHED_FILE};
use crate::base::range_coder::{Coder, RangeDecoder, RangeEncoder};
use crate::model::content::{ReadAt, Region, Source, Spool, SpoolWriter};

/// Minimum size of a patched file: smaller ones are not worth the tables.
const MIN_FILE: u64 = 4 << 10;

/// Whether a file of `new` bytes can be patched against one of `old` bytes.
pub(super) fn can_patch(new: u64, old: u64) -> bool {
    (MIN_FILE..=MAX_PATCHED_FILE).contains(&new)
        && old <= MAX_PATCHED_FILE
        && old / MAX_PATCH_RATIO <= new
}

/// Reads the bytes of a file in `range`, which begins at a multiple of a MiB, and replaces each field
/// that looks like an address by `replace` of the address. Code that only moved is then equal in both
/// versions.
fn replace_addresses(
    (file, elf): (&dyn ReadAt, &Elf),
    range: Range<u64>,
    replace: impl Fn(u64) -> u64,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    let mut fields = Vec::new();
    for (piece, at) in bytes.chunks_mut(1 << 20).zip((range.start..).step_by(1 << 20)) {
        fields.clear();
        elf.fields(piece, 0..piece.len(), at, &mut |f| fields.push(f));
        for field in &fields {
            put(piece, field, replace(field.target));
        }
    }
    Ok(bytes)
}

/// Finds the matches of two files: first with all addresses replaced by 0, then with the old ones
/// replaced by what the first matches map them to.
fn matches(old: (&dyn ReadAt, &Elf), new: (&dyn ReadAt, &Elf)) -> io::Result<Vec<Match>> {
    let find = |map: Option<&AddressMap>| {
        let a = replace_addresses(old, 0..old.0.size(), |t| map.map_or(0, |map| map.guess(t).0))?;
        let (index, mut matches) = (SeedIndex::new(&a), Matches::default());
        for at in (0..new.0.size()).step_by(SEARCHED as usize) {
            let range = at..new.0.size().min(at + SEARCHED);
            let b = replace_addresses(new, range, |t| map.map_or(0, |_| t))?;
            matches.find(&index, &b);
        }
        Ok::<_, io::Error>(matches.finish())
    };
    let mut matches = find(None)?;
    if !old.1.loads.is_empty() {
        let map = AddressMap::new(old.1, new.1, &std::mem::take(&mut matches), 0);
        matches = find(Some(&map))?;
    }
    let max = max_matches(new.0.size()) as usize;
    if matches.len() > max {
        let mut sizes: Vec<u32> = matches.iter().map(|m| m.bytes).collect();
        sizes.sort_unstable();
        let limit = sizes[sizes.len() - max];
        matches.retain(|m| m.bytes > limit);
    }
    Ok(matches)
}

/// Patches of a group of files.
pub(super) struct Patches {
    /// The coded patches.
    pub(super) bytes: Spool,
    /// The bytes between the matches of all files.
    pub(super) literals: Spool,
    /// How many of them each file has.
    pub(super) literal_bytes: Vec<u64>,
}

/// Makes patches of files, each against a range of the old tars.
pub(super) fn write_patches(
    files: &[(Place, Region)],
    tars: &[Source],
    work: &WorkMemory,
) -> Result<Patches> {
    let sizes = || files.iter().map(|(place, new)| (new.size(), place.bytes));
    let coding = sizes().map(|(new, old)| memory::coding(new, old)).max().unwrap_or(0);
    let matching = sizes().map(|(new, old)| memory::matching(new, old)).max().unwrap_or(0);
    let mut reserved = work.reserve(matching.max(coding));
    let mut coder = RangeEncoder::new();
    let mut model = PatchModel::new();
    let mut literals = SpoolWriter::new(&work.budget);
    let mut literal_bytes = Vec::new();
    coder.raw_bits(files.len() as u64, 32);
    for (i, (place, new)) in files.iter().enumerate() {
        let numbers = [place.layer.index() as u64, place.offset, place.bytes];
        model.place(&mut coder, numbers);
        let old = old_file(tars, numbers)?;
        let new_elf = Elf::parse(new)?;
        let old_elf = Elf::parse(&old)?;
        let loads = model.loads(&mut coder, &old_elf, &new_elf)?;
        let found = matches((&old, &old_elf), (new, &new_elf))?;
        if i + 1 == files.len() {
            reserved.shrink(coding);
        }
        let sizes = [new.size(), old.size()];
        let list = model.matches(&mut coder, &found, sizes)?;
        let mut map = AddressMap::new(&old_elf, &loads, &list, new.size());
        let mut pieces = PieceCoder::new(BlockCache::new(old, None), old_elf, loads);
        let before_file = literals.size();
        let mut before = Match::default();
        let mut bytes = Vec::new();
        let end = Match { new: new.size() as u32, old: 0, bytes: 0 };
        for m in list.iter().chain([&end]) {
            for at in (before.new + before.bytes..m.new).step_by(PIECE) {
                bytes.resize(((m.new - at) as usize).min(PIECE), 0);
                new.read_exact_at(&mut bytes, at.into())?;
                pieces.convert_literals(&before, at, &mut bytes, true);
                literals.write_all(&bytes)?;
            }
            before = *m;
            for into in (0..m.bytes).step_by(PIECE) {
                bytes.resize(((m.bytes - into) as usize).min(PIECE), 0);
                new.read_exact_at(&mut bytes, (m.new + into).into())?;
                pieces.code(&mut coder, &mut model, &mut map, m, into, &bytes)?;
                debug_assert!(pieces.new == bytes, "a reader would get other bytes");
            }
        }
        literal_bytes.push(literals.size() - before_file);
    }
    let mut bytes = SpoolWriter::new(&work.budget);
    bytes.write_all(&coder.finish())?;
    Ok(Patches { bytes: bytes.finish()?, literals: literals.finish()?, literal_bytes })
}

/// Returns a range of an old tar.
fn old_file(tars: &[Source], [layer, offset, bytes]: [u64; 3]) -> Result<Region> {
    let tar = tars.get(layer as usize);
    let tar = tar.filter(|t| offset.checked_add(bytes).is_some_and(|end| end <= t.size()));
    let tar = tar.ok_or_else(|| {
        Error::malformed("the delta patches a file that the old image does not have")
    })?;
    Ok(Region::new(Arc::clone(tar), offset, bytes))
}

/// Codes the matches of one file, piece by piece.
struct PieceCoder {
    old: BlockCache,
    /// The old file's headers, and the loaded parts of the new one.
    elf: Elf,
    loads: Elf,
    fields: Vec<Field>,
    /// The new bytes of the last piece.
    new: Vec<u8>,
}

impl PieceCoder {
    fn new(old: BlockCache, elf: Elf, loads: Elf) -> Self {
        Self { old, elf, loads, fields: Vec::new(), new: Vec::new() }
    }

    /// Makes addresses in bytes between matches absolute if these are code, as that compresses
    /// better; or relative again.
    fn convert_literals(&self, last: &Match, at: u32, bytes: &mut [u8], to_absolute: bool) {
        let before = u64::from(last.old) + u64::from(last.bytes);
        if before > 0 && self.elf.has_code(before - 1) {
            let addr = self.loads.addr(at.into()).unwrap_or(0) as u32;
            convert_addresses(bytes, addr, to_absolute);
        }
    }

    /// Codes the piece that begins `into` bytes into a match.
    fn code(
        &mut self,
        coder: &mut impl Coder,
        model: &mut PatchModel,
        map: &mut AddressMap,
        m: &Match,
        into: u32,
        new: &[u8],
    ) -> Result<()> {
        let offset = u64::from(m.old + into);
        let (bytes, range) = self.old.read(offset, new.len())?;
        self.fields.clear();
        let addr = self.loads.addr((m.new + into).into());
        self.elf.fields(bytes, range.clone(), offset, &mut |f| {
            // Bytes that are not loaded have no relative addresses.
            if addr.is_some() || f.wide {
                self.fields.push(f);
            }
        });
        map.guess_all(&mut self.fields);
        let piece = MatchPiece {
            old: &bytes[range],
            fields: &self.fields,
            addr: addr.unwrap_or(0),
            code: self.elf.has_code(offset),
            offset,
        };
        model.piece(coder, map, &piece, new, &mut self.new);
        Ok(())
    }
}

/// Bits of the distances that are converted.
const DISTANCE: u32 = 28;

/// Makes targets of calls and jumps, and operands relative to the instruction pointer, absolute, for
/// `bytes` that are loaded at `addr`; or relative again. Two references to the same address are equal
/// when they are absolute.
fn convert_addresses(bytes: &mut [u8], addr: u32, to_absolute: bool) {
    let mut i = 0;
    while i + 6 <= bytes.len() {
        let operand = matches!(bytes[i], 0x8b | 0x8d) && bytes[i + 1] & 0xc7 == 5;
        let at = i + 1 + usize::from(operand);
        i += 1;
        if !operand && bytes[at - 1] & 0xfe != 0xe8 {
            continue;
        }
        // No field begins inside another, so the way back finds the same fields.
        i = at + 4;
        let value = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sign_extended = |n: u32| (n << (32 - DISTANCE)).cast_signed() >> (32 - DISTANCE);
        if sign_extended(value) != value.cast_signed() {
            continue;
        }
        let after = addr.wrapping_add(at as u32 + 4);
        let value = if to_absolute { value.wrapping_add(after) } else { value.wrapping_sub(after) };
        bytes[at..at + 4].copy_from_slice(&sign_extended(value).to_le_bytes());
    }
}

/// Reads the patched files of a layer, one after the other.
pub(super) struct PatchReader<'a> {
    delta: &'a Delta,
    tars: &'a [Source],
    groups: std::slice::Iter<'a, u32>,
    /// The current group, and how many files are left in it.
    coder: RangeDecoder<Vec<u8>>,
    model: PatchModel,
    left: u64,
    file: Option<PatchedFile>,
}

/// A file that is being read.
struct PatchedFile {
    pieces: PieceCoder,
    map: AddressMap,
    matches: Vec<Match>,
    /// Number of the next match, and how much of it was read.
    next: usize,
    into: u32,
    /// End of the bytes in `ready`, until a match begins.
    at: u32,
    size: u32,
    /// Bytes that were decoded, and how many of them were returned.
    ready: Vec<u8>,
    taken: usize,
}

impl<'a> PatchReader<'a> {
    /// Begins the patches in these blobs.
    pub(super) fn new(delta: &'a Delta, tars: &'a [Source], groups: &'a [u32]) -> Self {
        let coder = RangeDecoder::new(Vec::new());
        let groups = groups.iter();
        Self { delta, tars, groups, coder, model: PatchModel::new(), left: 0, file: None }
    }

    /// Begins the next file, which has `size` bytes.
    pub(super) fn begin_file(&mut self, size: u64) -> Result<()> {
        let bad = || Error::malformed("the delta has fewer patches than its instructions take");
        let unused = self.file.take().map(|file| file.pieces.old);
        if self.left == 0 {
            let group = self.groups.next().ok_or_else(bad)?;
            self.coder = RangeDecoder::new(self.delta.packed(*group)?);
            self.model = PatchModel::new();
            self.left = self.coder.raw_bits(0, 32);
        }
        self.left = self.left.checked_sub(1).ok_or_else(bad)?;
        let (coder, model) = (&mut self.coder, &mut self.model);
        let place = model.place(coder, [0; 3]);
        if !can_patch(size, place[2]) {
            return Err(Error::malformed(format!(
                "the delta patches a file of {} bytes into one of {size} bytes, beyond the limits",
                place[2]
            )));
        }
        let old = old_file(self.tars, place)?;
        let elf = Elf::parse(&old)?;
        let loads = model.loads(coder, &elf, &Elf::default())?;
        let matches = model.matches(coder, &[], [size, old.size()])?;
        self.file = Some(PatchedFile {
            map: AddressMap::new(&elf, &loads, &matches, size),
            pieces: PieceCoder::new(BlockCache::new(old, unused), elf, loads),
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

    /// Reads some of the file's next bytes; returns 0 at its end.
    pub(super) fn read(
        &mut self,
        buf: &mut [u8],
        literals: &mut StreamReader<'_>,
    ) -> Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        if file.taken == file.ready.len() {
            let m = file.matches.get(file.next);
            let to = m.map_or(file.size, |m| m.new);
            file.taken = 0;
            if file.at < to {
                file.ready.resize(((to - file.at) as usize).min(PIECE), 0);
                literals.fill(&mut file.ready)?;
                let last = file.next.checked_sub(1).map(|i| file.matches[i]).unwrap_or_default();
                file.pieces.convert_literals(&last, file.at, &mut file.ready, false);
                file.at += file.ready.len() as u32;
            } else if let Some(m) = m {
                file.ready.resize(((m.bytes - file.into) as usize).min(PIECE), 0);
                let (coder, model) = (&mut self.coder, &mut self.model);
                file.pieces.code(coder, model, &mut file.map, m, file.into, &file.ready)?;
                std::mem::swap(&mut file.ready, &mut file.pieces.new);
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
        fn absolute_addresses_become_relative_again(
            list in prop::collection::vec(prop_oneof![Just(0xe8), Just(0x8d), Just(5), Just(0), any::<u8>()], 0..200),
            addr in any::<u32>()
        ) {
            let mut bytes = list.clone();
            convert_addresses(&mut bytes, addr, true);
            convert_addresses(&mut bytes, addr, false);
            prop_assert_eq!(bytes, list);
        }
    }
}
