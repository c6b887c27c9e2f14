//! Sparse files: GNU's old format, and its PAX formats 0.0, 0.1 and 1.0.

use std::io::Read;

use super::header::Block;
use super::pax::{self, Records};
use super::{BLOCK, number};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SPARSE_RUNS;

/// Runs of stored bytes: `(offset, length)`.
pub(super) type Runs = Vec<(u64, u64)>;

/// The PAX records of a sparse file.
pub(super) struct PaxSparse {
    /// `GNU.sparse.name`, which replaces the entry's path.
    pub(super) name: Option<Vec<u8>>,
    /// The size including holes, from `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub(super) size: Option<i64>,
    /// The runs of formats 0.0 and 0.1. `None` for format 1.0, which has them before the data.
    pub(super) runs: Option<Runs>,
}

/// Parses the records of GNU's formats 0.0, 0.1 and 1.0
/// (<https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>). As in Go, a file
/// whose records have another version or no map is not sparse.
pub(super) fn pax_format(records: &Records) -> Result<Option<PaxSparse>> {
    let text = |key: &str| records.get(key.as_bytes()).map_or(&[][..], Vec::as_slice);
    let map = text("GNU.sparse.map");
    let in_data = match (text("GNU.sparse.major"), text("GNU.sparse.minor")) {
        (b"0", b"0" | b"1") => false,
        (b"1", b"0") => true,
        (b"", b"") if !map.is_empty() => false,
        _ => return Ok(None),
    };
    let key = ["GNU.sparse.size", "GNU.sparse.realsize"].into_iter().find(|k| !text(k).is_empty());
    let size = key.map(|key| pax::number(key.as_bytes(), text(key))).transpose()?;
    let runs = if in_data { None } else { Some(pax_map(map, text("GNU.sparse.numblocks"))?) };
    let name = Some(text("GNU.sparse.name").to_vec()).filter(|name| !name.is_empty());
    Ok(Some(PaxSparse { name, size, runs }))
}

/// Parses alternating offsets and lengths, separated by commas.
fn pax_map(map: &[u8], count: &[u8]) -> Result<Runs> {
    let wrong =
        || Error::malformed("the sparse map doesn't match its count, or contains non-numbers");
    let numbers: Vec<&[u8]> = match map {
        b"" => Vec::new(),
        _ => map.split(|b| *b == b',').collect(),
    };
    let count = pax::decimal(count).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
    if count.checked_mul(2) != Some(numbers.len()) {
        return Err(wrong());
    }
    let value = |text| pax::decimal(text).and_then(|n| u64::try_from(n).ok()).ok_or_else(wrong);
    numbers.chunks_exact(2).map(|pair| Ok((value(pair[0])?, value(pair[1])?))).collect()
}

/// Reads the map of format 1.0, which precedes the data. It has one number on each line, begins with
/// the count, and is padded to a block. `stored` is the size of map and data together. Returns the
/// runs and the size of the map in bytes.
pub(super) fn data_map(reader: &mut impl Read, stored: u64) -> Result<(Runs, u64)> {
    let short = || Error::malformed("the sparse map is longer than the entry");
    let mut taken = 0;
    let mut block = [0; BLOCK];
    let mut at = BLOCK;
    let mut number = || -> Result<u64> {
        let wrong = || Error::malformed("the sparse map contains something other than numbers");
        let mut value: Option<u64> = None;
        for place in 0.. {
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
                b'0'..=b'9' => {
                    let next = value.unwrap_or(0).checked_mul(10);
                    value = Some(
                        next.and_then(|v| v.checked_add(u64::from(byte - b'0')))
                            .ok_or_else(wrong)?,
                    );
                }
                b'+' if place == 0 => {}
                b'\n' => break,
                _ => return Err(wrong()),
            }
        }
        value.ok_or_else(wrong)
    };
    let count = number()?;
    if count > MAX_SPARSE_RUNS as u64 {
        return Err(Error::limit(format!(
            "the sparse map has {count} runs, more than the limit of {MAX_SPARSE_RUNS}"
        )));
    }
    let runs = (0..count).map(|_| Ok((number()?, number()?))).collect::<Result<_>>()?;
    Ok((runs, taken))
}

/// Parses an old GNU header. Returns the runs, the size including holes, and whether another block of
/// runs follows.
pub(super) fn gnu_header(block: &Block) -> Result<(Runs, i64, bool)> {
    let header = ::tar::Header::from_byte_slice(block)
        .as_gnu()
        .ok_or_else(|| Error::malformed("the sparse entry's header is not a GNU header"))?;
    let mut runs = Runs::new();
    push_runs(&mut runs, &header.sparse)?;
    Ok((runs, number::parse(&header.realsize, "real size")?, header.isextended[0] != 0))
}

/// Adds the runs of an extension block. Returns whether another block follows.
pub(super) fn gnu_extension(runs: &mut Runs, block: &Block) -> Result<bool> {
    let mut extension = ::tar::GnuExtSparseHeader::new();
    extension.as_mut_bytes().copy_from_slice(block);
    push_runs(runs, &extension.sparse)?;
    if runs.len() > MAX_SPARSE_RUNS {
        return Err(Error::limit(format!("the sparse map has more than {MAX_SPARSE_RUNS} runs")));
    }
    Ok(extension.isextended[0] != 0)
}

fn push_runs(runs: &mut Runs, sparse: &[::tar::GnuSparseHeader]) -> Result<()> {
    for run in sparse {
        if run.offset[0] == 0 {
            break;
        }
        let value = |field: &[u8]| {
            u64::try_from(number::parse(field, "sparse map")?)
                .map_err(|_| Error::malformed("the sparse map contains a negative number"))
        };
        runs.push((value(&run.offset)?, value(&run.numbytes)?));
    }
    Ok(())
}

/// Checks runs against the file's size and its number of stored bytes. Drops empty runs.
pub(super) fn check(runs: Runs, size: i64, stored: u64) -> Result<(u64, Runs)> {
    let size = u64::try_from(size)
        .map_err(|_| Error::malformed(format!("the sparse file's size is negative: {size}")))?;
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in &runs {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next
            .ok_or_else(|| Error::malformed("runs of the sparse map overlap or exceed the file"))?;
        sum += length;
    }
    if sum != stored {
        return Err(Error::malformed(format!(
            "the sparse map's runs have {sum} bytes, but {stored} are stored"
        )));
    }
    Ok((size, runs.into_iter().filter(|(_, length)| *length > 0).collect()))
}
