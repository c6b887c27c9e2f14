//! Header fields that unpacking doesn't need. Only the table of contents of zstd:chunked repeats them.

use super::header::{Block, Fields};
use super::read::TarEntry;
use super::{BLOCK, EntryKind, padding, pax};
use crate::model::fileset::Mtime;

/// Fields as Go's `archive/tar` reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The mode field, including the bits of the type.
    pub mode: i64,
    /// Major and minor number, for every type.
    pub device: (i64, i64),
    /// Access time.
    pub accessed: Option<Mtime>,
    /// Status change time.
    pub changed: Option<Mtime>,
}

/// Returns the details of `entry`, whose headers are `head`. Returns `None` if Go's `archive/tar` or
/// clients based on it read the headers differently: for sparse files, global headers, sizes of
/// entries without data, and unusual dialects.
pub fn detail(head: &[u8], entry: &TarEntry) -> Option<Detail> {
    let mut records = pax::Records::new();
    let mut rest = head;
    let fields = loop {
        let block: &Block = rest.first_chunk()?;
        let fields = Fields::read(block).ok()?;
        let bytes = usize::try_from(fields.size).ok()?;
        match fields.typeflag {
            b'x' => records = pax::records(rest.get(BLOCK..)?.get(..bytes)?).ok()?,
            b'L' | b'K' => {}
            b'g' | b'S' => return None,
            _ => break fields,
        }
        rest = rest.get(BLOCK..)?.get(bytes + padding(bytes as u64) as usize..)?;
    };
    let value = |key: &[u8]| records.get(key).filter(|value| !value.is_empty());
    let odd = records.keys().any(|key| key.starts_with(pax::SPARSE) || key == pax::XATTR);
    let sized = fields.size != 0 || value(b"size").is_some_and(|size| size != b"0");
    let data = matches!(entry.kind, EntryKind::File { sparse: None, .. });
    if rest.len() != BLOCK || odd || sized && !data || entry.path.is_empty() || !fields.plain {
        return None;
    }
    let time = |key: &[u8]| value(key).and_then(|value| pax::time(key, value).ok());
    Some(Detail {
        mode: fields.mode,
        device: fields.device,
        accessed: time(b"atime"),
        changed: time(b"ctime"),
    })
}
