//! Writes archives in one canonical form: the same entry always has the same bytes.
//!
//! Headers are ustar with empty user and group names and octal numbers. Only values that don't fit
//! get a PAX header. Its records are sorted, and the header itself contains no time or process ID.

use std::io::{self, Write};

use ::tar::Header;

use super::{BLOCK, EntryKind, number, padding, pax};
use crate::base::error::{Error, Result};
use crate::model::fileset::{Mtime, Xattrs, display};

/// The contents of an entry's headers.
#[derive(Debug, Clone)]
pub struct Metadata<'a> {
    /// Path without leading or trailing slash; empty for the root.
    pub path: &'a [u8],
    /// Type. Sparse files are written with their holes filled, so `sparse` must be `None`.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// User ID of the owner.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes, sorted. A hard link repeats those of its file. Clients set the owner of
    /// each new link, which drops capabilities, and then set the attributes of the link's header.
    pub xattrs: &'a Xattrs,
}

/// The name of every PAX header.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// An entry's header, and PAX records for values that don't fit in it.
struct Encoded {
    header: Header,
    records: Vec<u8>,
    size: u64,
}

/// Returns the size of an entry in bytes, including headers, data and padding.
pub fn entry_size(metadata: &Metadata<'_>) -> u64 {
    let Encoded { records, size, .. } = encode(metadata);
    let extended = match records.len() as u64 {
        0 => 0,
        n => BLOCK as u64 + n + padding(n),
    };
    extended + BLOCK as u64 + size + padding(size)
}

fn encode(m: &Metadata<'_>) -> Encoded {
    let mut path = m.path.to_vec();
    if path.is_empty() {
        path.push(b'.');
    }
    let (typeflag, size, link, device) = match &m.kind {
        EntryKind::File { size, .. } => (b'0', *size, None, None),
        EntryKind::HardLink { target } => (b'1', 0, Some(target), None),
        EntryKind::Symlink { target } => (b'2', 0, Some(target), None),
        EntryKind::CharDevice { major, minor } => (b'3', 0, None, Some((major, minor))),
        EntryKind::BlockDevice { major, minor } => (b'4', 0, None, Some((major, minor))),
        EntryKind::Dir => (b'5', 0, None, None),
        EntryKind::Fifo => (b'6', 0, None, None),
    };
    if typeflag == b'5' {
        path.push(b'/');
    }
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut header = Header::new_ustar();
    let Some(ustar) = header.as_ustar_mut() else { unreachable!("new_ustar makes a ustar header") };
    if let Some((prefix, name)) = split_path(&path) {
        ustar.prefix[..prefix.len()].copy_from_slice(prefix);
        ustar.name[..name.len()].copy_from_slice(name);
    } else {
        ustar.name.copy_from_slice(&path[..100]);
        records.push((b"path".to_vec(), path));
    }
    if let Some(link) = link {
        let head = link.len().min(100);
        ustar.linkname[..head].copy_from_slice(&link[..head]);
        if link.len() > 100 {
            records.push((b"linkpath".to_vec(), link.to_vec()));
        }
    }
    number::write(&mut ustar.mode, u64::from(m.mode));
    let fields: [(&[u8], &mut [u8], u64); 3] = [
        (b"uid", &mut ustar.uid, u64::from(m.uid)),
        (b"gid", &mut ustar.gid, u64::from(m.gid)),
        (b"size", &mut ustar.size, size),
    ];
    for (key, field, value) in fields {
        if !number::write(field, value) {
            records.push((key.to_vec(), value.to_string().into_bytes()));
        }
    }
    let whole = u64::try_from(m.mtime.secs).unwrap_or(0);
    let fits = number::write(&mut ustar.mtime, whole);
    if !fits || m.mtime.secs < 0 || m.mtime.nanos > 0 {
        records.push((b"mtime".to_vec(), pax::time_text(m.mtime).into_bytes()));
    }
    let (major, minor) = device.unwrap_or((&0, &0));
    number::write(&mut ustar.dev_major, u64::from(*major));
    number::write(&mut ustar.dev_minor, u64::from(*minor));
    ustar.typeflag = [typeflag];
    for (name, value) in m.xattrs {
        records.push(([pax::XATTR, name].concat(), value.to_vec()));
    }
    records.sort();
    let mut text = Vec::new();
    for (key, value) in &records {
        pax::push(&mut text, key, value);
    }
    header.set_cksum();
    Encoded { header, records: text, size }
}

/// Splits a path into the prefix and name of ustar. Returns `None` if they don't fit. The prefix is
/// always the shortest possible, so that the form is unique.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((&[], path));
    }
    // The slash between the two is not stored. A slash at the end belongs to the name.
    let first = path.len() - 101;
    let slash = path[first..path.len() - 1].iter().position(|b| *b == b'/')? + first;
    (slash > 0 && slash <= 155).then(|| (&path[..slash], &path[slash + 1..]))
}

/// Writes entries in order.
pub struct Writer<W> {
    inner: W,
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes an entry without data.
    ///
    /// # Errors
    /// If tar can't store a value, or the inner writer fails.
    pub fn entry(&mut self, metadata: &Metadata<'_>) -> Result<()> {
        self.file(metadata)?.finish()
    }

    /// Writes a file's headers. Returns a writer for its data.
    ///
    /// # Errors
    /// If tar can't store a value: a NUL in a path or link, or a device number over 2,097,151. If the
    /// inner writer fails.
    pub fn file(&mut self, m: &Metadata<'_>) -> Result<FileWriter<'_, W>> {
        let target = match &m.kind {
            EntryKind::HardLink { target } | EntryKind::Symlink { target } => &target[..],
            _ => &[],
        };
        if m.path.contains(&0) || target.contains(&0) {
            return Err(Error::malformed(format!("{}: the path contains a NUL", display(m.path))));
        }
        if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } =
            m.kind
            && major.max(minor) > 0o7_777_777
        {
            return Err(Error::unsupported(format!(
                "{}: device number {major},{minor} is too large for tar",
                display(m.path)
            )));
        }
        let Encoded { header, records, size } = encode(m);
        if !records.is_empty() {
            let length = records.len() as u64;
            let mut extended = Header::new_ustar();
            if let Some(ustar) = extended.as_ustar_mut() {
                ustar.name[..PAX_NAME.len()].copy_from_slice(PAX_NAME);
                number::write(&mut ustar.mode, 0o644);
                for field in [&mut ustar.uid[..], &mut ustar.gid, &mut ustar.mtime] {
                    number::write(field, 0);
                }
                number::write(&mut ustar.size, length);
                number::write(&mut ustar.dev_major, 0);
                number::write(&mut ustar.dev_minor, 0);
                ustar.typeflag = *b"x";
            }
            extended.set_cksum();
            self.inner.write_all(extended.as_bytes())?;
            self.inner.write_all(&records)?;
            self.pad(length)?;
        }
        self.inner.write_all(header.as_bytes())?;
        Ok(FileWriter { writer: self, size, left: size })
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// If the inner writer fails.
    pub fn finish(mut self) -> Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.inner.write_all(&[0; BLOCK][..padding(size) as usize])
    }
}

/// A writer for the data of one file.
pub struct FileWriter<'a, W> {
    writer: &'a mut Writer<W>,
    size: u64,
    left: u64,
}

impl<W> std::fmt::Debug for FileWriter<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter")
            .field("size", &self.size)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl<W: Write> FileWriter<'_, W> {
    /// Ends the file.
    ///
    /// # Errors
    /// If fewer bytes were written than the header states, or the inner writer fails.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::mismatch(format!(
                "{} of {} bytes are missing; did the input change while it was read?",
                self.left, self.size
            )));
        }
        Ok(self.writer.pad(self.size)?)
    }
}

impl<W: Write> Write for FileWriter<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() as u64 > self.left {
            let what = format!(
                "the file has more than {} bytes; did the input change while it was read?",
                self.size
            );
            return Err(Error::mismatch(what).into());
        }
        let n = self.writer.inner.write(buf)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.inner.flush()
    }
}
