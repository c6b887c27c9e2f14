//! Finds fields that look like addresses, in a file whose headers are known.

use std::ops::Range;

use super::{Elf, Field, Holds, Kind, SCAN, Section, scan, u32_at, u64_at};

impl Elf {
    /// Finds fields that look like addresses in a range of `bytes`, which is at `offset` of the file.
    /// Bytes around the range may be read as well.
    pub(in crate::delta) fn fields(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        offset: u64,
        found: &mut impl FnMut(Field),
    ) {
        let end = offset + range.len() as u64;
        let first = self.sections.partition_point(|s| s.end <= offset);
        for s in self.sections[first..].iter().take_while(|s| s.start < end) {
            let from = s.start.max(offset);
            let to = range.start + (s.end.min(end) - offset) as usize;
            let addr = s.addr + (from - s.start);
            let shift = (from - offset) as usize;
            let part = range.start + shift..to;
            let found = &mut |mut f: Field| {
                f.at += shift;
                found(f);
            };
            match s.holds {
                Holds::Code => self.code_fields(bytes, part, addr, found),
                _ => self.data_fields(&bytes[part], addr, s, found),
            }
        }
    }

    fn code_fields(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        addr: u64,
        found: &mut impl FnMut(Field),
    ) {
        let b = &bytes[range.clone()];
        // Limit of the highest byte, with its sign, of a distance within the file.
        let far = (self.all.1.saturating_sub(self.all.0) >> 24).min(126) as u8 + 1;
        // No field begins before this: fields do not overlap.
        let mut free = 0;
        for start in (0..b.len()).step_by(SCAN) {
            // The scanned bytes with the byte before and the four after.
            let mut spare = [0; SCAN + 5];
            let around = bytes.get((range.start + start).wrapping_sub(1)..);
            let window: &[u8; SCAN + 5] =
                around.and_then(<[u8]>::first_chunk).unwrap_or_else(|| {
                    let from = start.max(1) - 1;
                    let n = (b.len() - from).min(start + SCAN + 4 - from);
                    spare[from + 1 - start..][..n].copy_from_slice(&b[from..from + n]);
                    &spare
                });
            // Few positions pass, so all are tested together, without branches.
            let mut left = scan(|i| {
                let (before, byte, top) = (window[i], window[i + 1], window[i + 5]);
                let near = u8::from(top.wrapping_add(far) <= 2 * far);
                let call = u8::from(byte & 0xfe == 0xe8);
                let operand = u8::from(byte & 0xc7 == 5);
                let branch = u8::from(before == 0x0f) & u8::from(byte & 0xf0 == 0x80);
                near & (call | operand | branch)
            });
            while left != 0 {
                let i = left.trailing_zeros() as usize;
                let at = start + i + 1;
                left &= left - 1;
                if at <= free || at + 4 > b.len() {
                    continue;
                }
                let before = window[i];
                let kind = match window[i + 1] {
                    0xe8 => Kind::Call,
                    0xe9 => Kind::Jump,
                    0x80.. => Kind::Branch,
                    _ if before == 0x8d => Kind::Lea,
                    _ => Kind::Operand,
                };
                let one = matches!(before, 0x80 | 0x83 | 0xc6 | 0x6b | 0xc0 | 0xc1);
                let four = matches!(before, 0x81 | 0xc7 | 0x69);
                let after = u64::from(one) + 4 * u64::from(four);
                let after = u64::from(kind == Kind::Operand) * after;
                let value = i32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                let place = addr + at as u64;
                let base = place + 4 + after;
                let target = base.wrapping_add_signed(value.into());
                let data = matches!(kind, Kind::Lea | Kind::Operand);
                if if data { self.is_loaded(target) } else { self.is_code(target) } {
                    free = at + 4;
                    found(Field { at, wide: false, kind, target, base, place, guess: (0, false) });
                }
            }
        }
    }

    fn data_fields(&self, b: &[u8], addr: u64, s: &Section, found: &mut impl FnMut(Field)) {
        let into = addr - s.addr;
        let step = match s.holds {
            Holds::Constants | Holds::Unwind | Holds::UnwindIndex => 4,
            _ => 8,
        };
        let mut at = (into.next_multiple_of(step) - into) as usize;
        let mut near = self.bases.partition_point(|b| *b <= addr);
        while at + step as usize <= b.len() {
            let place = addr + at as u64;
            let word = u32_at(b, at).unwrap_or(0) as u32;
            let distance = i64::from(word.cast_signed());
            let narrow = |kind, base: u64| {
                let target = base.wrapping_add_signed(distance);
                Field { at, wide: false, kind, target, base, place, guess: (0, false) }
            };
            let field = match s.holds {
                Holds::UnwindIndex => Some(narrow(Kind::Index, s.addr)),
                Holds::Unwind => {
                    Some(narrow(Kind::Frame, place)).filter(|f| self.is_code(f.target))
                }
                Holds::Constants => {
                    while near < self.bases.len() && self.bases[near] <= place {
                        near += 1;
                    }
                    if near == 0 || word == 0 {
                        None
                    } else {
                        let f = narrow(Kind::Table, self.bases[near - 1]);
                        Some(f).filter(|f| self.is_code(f.target))
                    }
                }
                Holds::Code => None,
                _ => {
                    let value = u64_at(b, at).unwrap_or(0);
                    let column = (into + at as u64) % 24;
                    let kind = match (s.holds, column) {
                        (Holds::Pointers, _) => Some(Kind::Pointer),
                        (Holds::Symbols, 8) => Some(Kind::Symbol),
                        (Holds::Rela, 0) => Some(Kind::Place),
                        (Holds::Rela, 16) => Some(Kind::Addend),
                        _ => None,
                    };
                    kind.filter(|_| value >= 0x1000 && self.is_loaded(value)).map(|kind| Field {
                        at,
                        wide: true,
                        kind,
                        target: value,
                        base: 0,
                        place,
                        guess: (0, false),
                    })
                }
            };
            if let Some(field) = field {
                found(field);
            }
            at += step as usize;
        }
    }
}
