//! Finds addresses in ELF files for x86-64.
//!
//! When code moves, most bytes that change are addresses: targets of calls and jumps, operands
//! relative to the instruction pointer, relocations, unwind tables. [`Elf::fields`] finds fields that
//! look like one. It need not be right: the fields only make better predictions of the new bytes, and
//! whoever makes a delta finds the same ones as whoever applies it.

mod fields;

use std::io;

use crate::base::limits::{MAX_ELF_BASES, MAX_ELF_SECTIONS};
use crate::model::content::ReadAt;

/// A part of the file that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LoadSegment {
    /// Offset in the file.
    pub(super) offset: u64,
    /// Address in memory.
    pub(super) addr: u64,
    /// Bytes in the file.
    pub(super) bytes: u64,
    /// Bytes in memory.
    pub(super) memory: u64,
}

impl LoadSegment {
    /// Makes it from its [`parts`](Self::parts).
    pub(super) fn of([offset, addr, bytes, memory]: [u64; 4]) -> Self {
        Self { offset, addr, bytes, memory }
    }

    /// Returns its fields in order.
    pub(super) fn parts(self) -> [u64; 4] {
        [self.offset, self.addr, self.bytes, self.memory]
    }
}

/// The content of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Code,
    /// 64-bit words that may be addresses.
    Pointers,
    /// Tables of 32-bit distances from the table's start to code.
    Constants,
    /// Relocations with addends.
    Rela,
    /// The sorted table of `.eh_frame_hdr`: distances from the section's start.
    UnwindIndex,
    /// Distances from the word itself to code.
    Unwind,
    Symbols,
}

/// A section of the file.
#[derive(Debug, Clone, Copy)]
struct Section {
    start: u64,
    end: u64,
    addr: u64,
    holds: Holds,
}

/// The kind of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Jump,
    Branch,
    Lea,
    Operand,
    Pointer,
    Place,
    Addend,
    Index,
    Frame,
    Table,
    Symbol,
}

/// Number of kinds.
pub(super) const KINDS: usize = 12;

/// A field that results like an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Offset in the bytes that were searched.
    pub(super) at: usize,
    /// It has 8 bytes, else 4.
    pub(super) wide: bool,
    pub(super) kind: Kind,
    /// The address it refers to.
    pub(super) target: u64,
    /// The number to add to its value to get that address.
    pub(super) base: u64,
    /// The address of the field itself.
    pub(super) place: u64,
    /// The result of [`AddressMap::guess`](super::map::AddressMap::guess) for the address, if that was
    /// called.
    pub(super) guess: (u64, bool),
}

impl Field {
    /// Returns the number of bytes.
    pub(super) fn width(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }
}

/// The headers of an ELF file; empty for any other file.
#[derive(Debug, Clone, Default)]
pub(super) struct Elf {
    pub(super) loads: Vec<LoadSegment>,
    sections: Vec<Section>,
    /// The range of addresses of code, and of all loaded bytes.
    code: (u64, u64),
    all: (u64, u64),
    /// Addresses of constants that code refers to, sorted.
    pub(super) bases: Vec<u64>,
}

/// Bytes of code that are scanned together.
const SCAN: usize = 64;

/// Evaluates `test` for [`SCAN`] positions and returns its results, 0 or 1, as bits.
#[inline]
fn scan(test: impl Fn(usize) -> u8) -> u64 {
    let results: [u8; SCAN] = std::array::from_fn(test);
    let mut bits = 0;
    for eight in results.rchunks_exact(8) {
        let eight = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        // Gathers the lowest bit of each byte in the highest byte.
        bits = bits << 8 | eight.wrapping_mul(0x0102_0408_1020_4080) >> 56;
    }
    bits
}

/// Bytes of code that are read together.
const CHUNK: u64 = 1 << 20;

fn u16_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(b.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn u32_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?)))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Reads a part of a file; returns nothing if it is not within the file.
fn part(file: &dyn ReadAt, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= file.size());
    let mut part = vec![0; if inside { bytes as usize } else { 0 }];
    file.read_exact_at(&mut part, offset.min(file.size()))?;
    Ok(part)
}

impl Elf {
    /// Reads the headers of a file. The result is empty if it is not a valid ELF file for x86-64.
    pub(super) fn parse(file: &dyn ReadAt) -> io::Result<Self> {
        let head = part(file, 0, 64)?;
        let machine = u16_at(&head, 18);
        if !head.starts_with(b"\x7fELF\x02\x01") || machine != Some(62) {
            return Ok(Self::default());
        }
        let n = |at| u16_at(&head, at).unwrap_or(0);
        let table = |at| u64_at(&head, at).unwrap_or(0);
        let loads = part(file, table(32), n(56).min(64) * 56)?;
        let sections = part(file, table(40), n(60).min(MAX_ELF_SECTIONS) * 64)?;
        let strings = sections.get(n(62) as usize * 64..).unwrap_or_default();
        let place = |at| u64_at(strings, at).unwrap_or(0);
        let text = part(file, place(24), place(32).min(1 << 20))?;
        let mut elf = Self { code: (u64::MAX, 0), all: (u64::MAX, 0), ..Self::default() };
        if elf.find_loads(&loads, file.size()).is_none() {
            return Ok(Self::default());
        }
        elf.find_sections(&sections, &text, file.size());
        elf.find_bases(file)?;
        Ok(elf)
    }

    /// Makes a file of which only the loaded parts are known.
    pub(super) fn loaded(loads: Vec<LoadSegment>) -> Self {
        Self { loads, ..Self::default() }
    }

    fn find_loads(&mut self, table: &[u8], size: u64) -> Option<()> {
        for entry in table.chunks_exact(56) {
            if u32_at(entry, 0)? != 1 {
                continue;
            }
            let load = LoadSegment::of([8, 16, 32, 40].map(|at| u64_at(entry, at).unwrap_or(0)));
            let end = load.addr.checked_add(load.memory)?;
            if load.offset.checked_add(load.bytes)? > size
                || load.bytes > load.memory
                || end >> 48 != 0
            {
                return None;
            }
            if u32_at(entry, 4)? & 1 == 1 {
                self.code = (self.code.0.min(load.addr), self.code.1.max(end));
            }
            self.all = (self.all.0.min(load.addr), self.all.1.max(end));
            self.loads.push(load);
        }
        Some(())
    }

    fn find_sections(&mut self, table: &[u8], names: &[u8], size: u64) {
        for entry in table.chunks_exact(64) {
            let n = |at| u64_at(entry, at).unwrap_or(0);
            let (name, kind) = (n(0) & 0xffff_ffff, n(0) >> 32);
            let (flags, addr, start, bytes) = (n(8), n(16), n(24), n(32));
            let name = names.get(name as usize..).and_then(|n| n.split(|b| *b == 0).next());
            let (write, alloc, code) = (flags & 1 > 0, flags & 2 > 0, flags & 4 > 0);
            let holds = match (kind, name.unwrap_or_default()) {
                (2 | 11, _) => Holds::Symbols,
                (4, _) if alloc => Holds::Rela,
                (_, b".eh_frame_hdr") => Holds::UnwindIndex,
                (_, b".eh_frame") => Holds::Unwind,
                (1, _) if code => Holds::Code,
                (1 | 6 | 14 | 15, _) if alloc && write => Holds::Pointers,
                (1, _) if alloc => Holds::Constants,
                _ => continue,
            };
            let end = start.checked_add(bytes).filter(|end| *end <= size);
            if let Some(end) = end.filter(|_| bytes > 0 && addr >> 48 == 0) {
                self.sections.push(Section { start, end, addr, holds });
            }
        }
        self.sections.sort_unstable_by_key(|s| (s.start, s.end));
        let mut end = 0;
        self.sections.retain(|s| {
            let disjoint = s.start >= end;
            end = end.max(s.end);
            disjoint
        });
    }

    fn find_bases(&mut self, file: &dyn ReadAt) -> io::Result<()> {
        let mut found: Vec<u64> = Vec::new();
        for s in self.sections.iter().filter(|s| s.holds == Holds::Code) {
            for at in (s.start..s.end).step_by(CHUNK as usize) {
                let code = part(file, at, CHUNK.min(s.end - at))?;
                let addr = s.addr + (at - s.start);
                for start in (0..code.len()).step_by(SCAN) {
                    // The last few bytes are not scanned.
                    let Some(window) = code[start..].first_chunk::<{ SCAN + 1 }>() else { break };
                    let mut left =
                        scan(|i| u8::from(window[i] == 0x8d) & u8::from(window[i + 1] & 0xc7 == 5));
                    while left != 0 {
                        let i = start + left.trailing_zeros() as usize;
                        left &= left - 1;
                        let Some(word) = u32_at(&code, i + 2) else { continue };
                        let end = addr + i as u64 + 6;
                        let target = end.wrapping_add_signed((word as u32).cast_signed().into());
                        let constant = target.is_multiple_of(4) && self.is_loaded(target);
                        if constant && !self.is_code(target) {
                            found.push(target);
                        }
                    }
                }
                if found.len() > MAX_ELF_BASES {
                    found.sort_unstable();
                    found.dedup();
                    found.truncate(MAX_ELF_BASES / 2);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        self.bases = found;
        Ok(())
    }

    /// Returns the address of a byte of the file, if it is loaded.
    pub(super) fn addr(&self, offset: u64) -> Option<u64> {
        self.loads.iter().find_map(|l| {
            let into = offset.checked_sub(l.offset).filter(|into| *into < l.bytes)?;
            Some(l.addr.wrapping_add(into))
        })
    }

    /// Whether a byte of the file is code.
    pub(super) fn has_code(&self, offset: u64) -> bool {
        let at = self.sections.partition_point(|s| s.end <= offset);
        self.sections.get(at).is_some_and(|s| s.start <= offset && s.holds == Holds::Code)
    }

    fn is_code(&self, addr: u64) -> bool {
        (self.code.0..self.code.1).contains(&addr)
    }

    fn is_loaded(&self, addr: u64) -> bool {
        (self.all.0..self.all.1).contains(&addr)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes an ELF file with a section of code at 0x1000.
    pub(in crate::delta) fn program(code: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(0x1000, 0);
        file.extend(code);
        let mut put = |at: usize, n: u64, bytes: usize| {
            file[at..at + bytes].copy_from_slice(&n.to_le_bytes()[..bytes]);
        };
        put(18, 62, 2);
        // One program header: the whole file is code, loaded at its own offset.
        put(32, 64, 8);
        put(56, 1, 2);
        let end = 0x1000 + code.len() as u64;
        for (at, n) in [(64, 1), (68, 5)] {
            put(at, n, 4);
        }
        for (at, n) in [(72, 0), (80, 0), (96, end), (104, end)] {
            put(at, n, 8);
        }
        // Two sections: an empty one for names, and the code.
        put(40, 256, 8);
        put(60, 2, 2);
        let section = 256 + 64;
        put(section + 4, 1, 4);
        for (at, n) in [(8, 6), (16, 0x1000), (24, 0x1000), (32, end - 0x1000)] {
            put(section + at, n, 8);
        }
        file
    }

    #[test]
    fn calls_branches_and_operands_are_found() {
        let mut code = vec![0x90; 64];
        code[8..13].copy_from_slice(&[0xe8, 3, 0, 0, 0]);
        code[20..26].copy_from_slice(&[0x0f, 0x84, 6, 0, 0, 0]);
        code[30..37].copy_from_slice(&[0x48, 0x8d, 0x05, 0, 0xf0, 0xff, 0xff]);
        code[40..45].copy_from_slice(&[0xe8, 0, 0, 0, 0x7f]);
        let file = program(&code);
        let elf = Elf::parse(&file).unwrap();
        let mut found = Vec::new();
        elf.fields(&file, 0..file.len(), 0, &mut |f| found.push((f.at - 0x1000, f.kind, f.target)));
        let want = [(9, Kind::Call, 0x1010), (22, Kind::Branch, 0x1020), (33, Kind::Lea, 0x25)];
        assert_eq!(found, want);
        assert_eq!(elf.addr(0x1008), Some(0x1008));
        assert!(elf.has_code(0x1000) && !elf.has_code(0xfff));
    }

    #[test]
    fn damaged_headers_are_read_without_panic() {
        let file = program(&[0x90; 256]);
        for at in 0..400 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                let elf = Elf::parse(&bad).unwrap();
                elf.fields(&bad, 0..bad.len(), 0, &mut |f| assert!(f.at + f.width() <= bad.len()));
            }
        }
        for size in 0..600 {
            Elf::parse(&file[..size].to_vec()).unwrap();
        }
    }
}
