//! What only a description of an archive repeats: fields of a header that unpacking does not need.

use super::read::{Entry, MAGIC, MAJOR, MINOR, MODE, SIZE};
use super::{BLOCK, EntryKind, number, padding, pax};
use crate::error::Error;
use crate::fileset::Mtime;

/// Fields as Go's `archive/tar` reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The mode field, bits of the type included.
    pub mode: i64,
    /// Major and minor number, whatever the type.
    pub device: (i64, i64),
    /// Access time.
    pub accessed: Option<Mtime>,
    /// Change of status.
    pub changed: Option<Mtime>,
}

/// The details of `entry`, whose headers are `head`. `None` where Go's `archive/tar` and clients
/// that build on it would see something else than this entry: sparse files, global headers, sizes
/// of what has no data, formats of their own.
pub fn detail(head: &[u8], entry: &Entry) -> Option<Detail> {
    let (mut accessed, mut changed) = (None, None);
    let mut size = 0;
    let mut rest = head;
    let header = loop {
        let header = rest.first_chunk::<BLOCK>()?;
        let bytes = u64::try_from(number::parse(&header[SIZE], "size").ok()?).ok()?;
        match header[super::read::TYPE] {
            b'x' => {
                let data = rest.get(BLOCK..)?.get(..bytes as usize)?;
                (accessed, changed, size) = (None, None, 0);
                pax::each(data, |key, value| {
                    match key {
                        b"atime" => accessed = pax::time(key, value)?,
                        b"ctime" => changed = pax::time(key, value)?,
                        b"size" => size = pax::unsigned(key, value)?.unwrap_or(0),
                        _ if key == pax::XATTR || key.starts_with(pax::SPARSE) => {
                            return Err(Error::unsupported("seen in another way"));
                        }
                        _ => {}
                    }
                    Ok(())
                })
                .ok()?;
            }
            b'L' | b'K' => {}
            b'g' | b'S' => return None,
            _ => {
                size = size.max(bytes);
                break header;
            }
        }
        rest = rest.get(BLOCK + (bytes + padding(bytes)) as usize..)?;
    };
    let data = matches!(entry.kind, EntryKind::File { sparse: None, .. });
    if rest.len() != BLOCK || !data && size != 0 || entry.path.is_empty() {
        return None;
    }
    let device = match &header[MAGIC] {
        b"ustar\0" if !header.ends_with(b"tar\0") => true,
        // Times stand where other formats have the rest of a long name.
        b"ustar " if header[345..369] == [0; 24] => header[263..265] == *b" \0",
        magic if magic.starts_with(b"ustar") => return None,
        _ => false,
    };
    let field = |range, what| number::parse(&header[range], what).ok();
    let device = if device {
        (field(MAJOR, "major number")?, field(MINOR, "minor number")?)
    } else {
        (0, 0)
    };
    Some(Detail { mode: field(MODE, "mode")?, device, accessed, changed })
}
