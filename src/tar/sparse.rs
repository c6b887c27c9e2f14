//! Sparse files: GNU's old format and its PAX formats 0.0, 0.1 and 1.0.

use std::io::Read;

use super::BLOCK;
use super::number;
use super::pax::SparseKeys;
use crate::error::{Error, Result};

/// More runs than this in one file would take memory without end.
const MAX_RUNS: usize = 1 << 20;

/// Runs of stored bytes: `(offset, length)`.
pub(super) type Runs = Vec<(u64, u64)>;

/// Whether PAX keys make the entry sparse, and if so whether its map stands before its data (1.0).
pub(super) fn pax_format(keys: &SparseKeys) -> Result<Option<bool>> {
    match (keys.major, keys.minor) {
        (None, None) | (Some(0), Some(0 | 1)) => Ok(keys.old.then_some(false)),
        (Some(1), Some(0)) => Ok(Some(true)),
        (major, minor) => Err(Error::unsupported(format!(
            "GNU sparse format {}.{} is not known",
            major.unwrap_or(0),
            minor.unwrap_or(0)
        ))),
    }
}

/// The runs of formats 0.0 and 0.1, from the header's keys.
pub(super) fn pax_map(keys: &SparseKeys) -> Result<Runs> {
    if !keys.map.len().is_multiple_of(2) {
        return Err(Error::malformed("a sparse map ends within a pair"));
    }
    Ok(keys.map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The map of format 1.0, which stands before the data: numbers, one a line, the count first,
/// padded to a block. `stored` is what the header says of map and data together. Gives the runs
/// and the bytes that the map took.
pub(super) fn data_map(reader: &mut impl Read, stored: u64) -> Result<(Runs, u64)> {
    let short = || Error::malformed("the sparse map is longer than the entry");
    let mut taken = 0;
    let mut block = [0; BLOCK];
    let mut at = BLOCK;
    let mut number = || -> Result<u64> {
        let mut value: u64 = 0;
        for digit in 0.. {
            if at == BLOCK {
                taken += BLOCK as u64;
                if taken > stored {
                    return Err(short());
                }
                reader.read_exact(&mut block)?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'0'..=b'9' if digit < 19 => value = value * 10 + u64::from(byte - b'0'),
                b'\n' if digit > 0 => break,
                _ => return Err(Error::malformed("the sparse map holds something but numbers")),
            }
        }
        Ok(value)
    };
    let count = number()?;
    if count > MAX_RUNS as u64 {
        return Err(Error::limit(format!(
            "a sparse file of {count} runs; {MAX_RUNS} is the limit"
        )));
    }
    let runs = (0..count).map(|_| Ok((number()?, number()?))).collect::<Result<_>>()?;
    Ok((runs, taken))
}

/// The runs in an old GNU header, and whether another block of them follows.
pub(super) fn gnu_header(header: &::tar::Header) -> Result<(Runs, u64, bool)> {
    let gnu = header
        .as_gnu()
        .ok_or_else(|| Error::malformed("a sparse entry whose header is not GNU's"))?;
    let mut runs = Runs::new();
    push_runs(&mut runs, &gnu.sparse)?;
    let size = number::parse(&gnu.realsize, "real size")?;
    let size = u64::try_from(size).map_err(|_| Error::malformed("a negative size"))?;
    Ok((runs, size, gnu.isextended[0] != 0))
}

/// Adds the runs of an extension block; gives whether another follows.
pub(super) fn gnu_extension(runs: &mut Runs, block: &[u8; BLOCK]) -> Result<bool> {
    let mut extension = ::tar::GnuExtSparseHeader::new();
    extension.as_mut_bytes().copy_from_slice(block);
    push_runs(runs, &extension.sparse)?;
    if runs.len() > MAX_RUNS {
        return Err(Error::limit(format!("a sparse file of more than {MAX_RUNS} runs")));
    }
    Ok(extension.isextended[0] != 0)
}

fn push_runs(runs: &mut Runs, sparse: &[::tar::GnuSparseHeader]) -> Result<()> {
    for run in sparse {
        if run.offset[0] == 0 || run.numbytes[0] == 0 {
            break;
        }
        let value = |field: &[u8]| {
            u64::try_from(number::parse(field, "sparse map")?)
                .map_err(|_| Error::malformed("a negative number in a sparse map"))
        };
        runs.push((value(&run.offset)?, value(&run.numbytes)?));
    }
    Ok(())
}

/// Checks runs against the file's size and the bytes stored for them, and drops empty ones.
pub(super) fn check(runs: Runs, size: u64, stored: u64) -> Result<Runs> {
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in &runs {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end =
            next.ok_or_else(|| Error::malformed("a sparse map's runs overlap or leave the file"))?;
        sum += length;
    }
    if sum != stored {
        return Err(Error::malformed(format!(
            "a sparse map of {sum} bytes, but {stored} are stored"
        )));
    }
    Ok(runs.into_iter().filter(|(_, length)| *length > 0).collect())
}
