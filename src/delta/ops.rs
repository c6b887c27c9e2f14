//! Instructions that make a layer's tar, and their encoding.

use crate::base::error::{Error, Result};
use crate::base::varint;
use crate::model::index::LayerIndex;

/// An instruction: where the next bytes of the tar come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// This many bytes of the stream of headers and padding.
    Headers(u64),
    /// This many bytes of the stream of data.
    Data(u64),
    /// This many bytes of the stream of literals.
    Literals(u64),
    /// The next patched file, which has this many bytes.
    Patched(u64),
    /// A range of an old layer's tar.
    Copy {
        /// The old layer.
        layer: LayerIndex,
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
    },
}

/// Writes instructions as LEB128 numbers: the length, shifted by three bits for the kind. A copy is
/// followed by its layer, and by its offset relative to the end of the last copy, zigzag.
#[derive(Default)]
pub(super) struct OpWriter {
    pub(super) bytes: Vec<u8>,
    end: i64,
    last: Option<Op>,
}

impl OpWriter {
    /// Adds an instruction, or extends the last one if it continues that.
    pub(super) fn push(&mut self, op: Op) {
        match (&mut self.last, op) {
            (Some(Op::Headers(n)), Op::Headers(more))
            | (Some(Op::Data(n)), Op::Data(more))
            | (Some(Op::Literals(n)), Op::Literals(more)) => *n += more,
            (
                Some(Op::Copy { layer, offset, bytes }),
                Op::Copy { layer: next, offset: at, bytes: more },
            ) if *layer == next && *offset + *bytes == at => *bytes += more,
            _ => {
                self.flush();
                self.last = Some(op);
            }
        }
    }

    /// Returns the encoded instructions.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }

    fn flush(&mut self) {
        match self.last.take() {
            None | Some(Op::Headers(0)) => {}
            Some(Op::Headers(n)) => varint::put(&mut self.bytes, n << 3),
            Some(Op::Data(n)) => varint::put(&mut self.bytes, n << 3 | 1),
            Some(Op::Literals(n)) => varint::put(&mut self.bytes, n << 3 | 3),
            Some(Op::Patched(n)) => varint::put(&mut self.bytes, n << 3 | 4),
            Some(Op::Copy { layer, offset, bytes }) => {
                varint::put(&mut self.bytes, bytes << 3 | 2);
                varint::put(&mut self.bytes, layer.index() as u64);
                let step = offset.cast_signed().wrapping_sub(self.end);
                varint::put_signed(&mut self.bytes, step);
                self.end = (offset + bytes).cast_signed();
            }
        }
    }
}

/// Reads what [`OpWriter`] wrote.
pub(super) struct OpReader<'a> {
    bytes: &'a [u8],
    end: i64,
}

impl<'a> OpReader<'a> {
    /// Begins with the first instruction.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, end: 0 }
    }

    /// Reads the next instruction; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Op>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let first = self.number()?;
        let bytes = first >> 3;
        if bytes == 0 {
            return Err(bad());
        }
        Ok(Some(match first & 7 {
            0 => Op::Headers(bytes),
            1 => Op::Data(bytes),
            2 => {
                let layer = LayerIndex::checked(self.number()?).ok_or_else(bad)?;
                let step = varint::take_signed(&mut self.bytes).ok_or_else(bad)?;
                let offset = self.end.wrapping_add(step);
                let end = offset.checked_add(i64::try_from(bytes).map_err(|_| bad())?);
                self.end = end.filter(|_| offset >= 0).ok_or_else(bad)?;
                Op::Copy { layer, offset: offset as u64, bytes }
            }
            3 => Op::Literals(bytes),
            4 => Op::Patched(bytes),
            _ => return Err(bad()),
        }))
    }

    fn number(&mut self) -> Result<u64> {
        varint::take(&mut self.bytes).ok_or_else(bad)
    }
}

fn bad() -> Error {
    Error::malformed("the delta has an invalid instruction")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ops() -> impl Strategy<Value = Op> {
        let n = 1u64..1 << 40;
        prop_oneof![
            n.clone().prop_map(Op::Headers),
            n.clone().prop_map(Op::Data),
            n.clone().prop_map(Op::Literals),
            n.clone().prop_map(Op::Patched),
            (0usize..200, 0u64..1 << 50, n).prop_map(|(layer, offset, bytes)| Op::Copy {
                layer: LayerIndex::new(layer),
                offset,
                bytes
            }),
        ]
    }

    fn read(bytes: &[u8]) -> Result<Vec<Op>> {
        let mut reader = OpReader::new(bytes);
        std::iter::from_fn(|| reader.next().transpose()).collect()
    }

    proptest! {
        #[test]
        fn written_instructions_are_read_back(list in prop::collection::vec(ops(), 0..30)) {
            let mut writer = OpWriter::default();
            let mut joined = OpWriter::default();
            for op in &list {
                writer.push(*op);
            }
            let bytes = writer.finish();
            for op in read(&bytes).unwrap() {
                joined.push(op);
            }
            prop_assert_eq!(joined.finish(), bytes);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn neighbours_are_joined() {
        let mut writer = OpWriter::default();
        writer.push(Op::Copy { layer: LayerIndex::new(1), offset: 10, bytes: 5 });
        writer.push(Op::Copy { layer: LayerIndex::new(1), offset: 15, bytes: 5 });
        writer.push(Op::Headers(3));
        writer.push(Op::Headers(4));
        let want = [Op::Copy { layer: LayerIndex::new(1), offset: 10, bytes: 10 }, Op::Headers(7)];
        assert_eq!(read(&writer.finish()).unwrap(), want);
    }
}
