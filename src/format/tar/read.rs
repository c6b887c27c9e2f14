//! Reads an archive entry by entry.

use std::io::{self, BufRead, Read};

use super::header::{self, Block, Fields, until_nul};
use super::pax::{self, Pax, Records};
use super::{BLOCK, EntryKind, padding, sparse};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_EXTENDED_HEADER;
use crate::base::read::read_some;
use crate::model::content::SourceReader;
use crate::model::fileset::{Mtime, Xattrs, display};

/// A sequential reader that can skip bytes.
pub trait Forward: Read {
    /// Skips `bytes` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if fewer bytes are left.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl Forward for SourceReader<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        SourceReader::skip(self, bytes)
    }
}

/// A stream that skips bytes by reading them.
pub struct Streaming<R>(R);

impl<R> std::fmt::Debug for Streaming<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

impl<R: BufRead> Streaming<R> {
    /// Wraps a stream.
    pub fn new(inner: R) -> Self {
        Self(inner)
    }
}

impl<R: BufRead> Read for Streaming<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: BufRead> BufRead for Streaming<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.0.consume(n);
    }
}

impl<R: BufRead> Forward for Streaming<R> {
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let n = match self.0.fill_buf() {
                Ok(next) => bytes.min(next.len() as u64),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.0.consume(n as usize);
            bytes -= n;
        }
        Ok(())
    }
}

/// One entry, with the values of its extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Path as in the archive, including `./` and trailing slashes.
    pub path: Vec<u8>,
    /// Type.
    pub kind: EntryKind,
    /// Permission bits: 0 to 0o7777.
    pub mode: u32,
    /// User ID of the owner: the low 32 bits, as chown(2) uses them.
    pub uid: u32,
    /// Group ID, in the same way.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes, sorted.
    pub xattrs: Xattrs,
    /// Offset of its first header in the archive, in bytes.
    pub header_offset: u64,
    /// Offset of its stored data in the archive, in bytes.
    pub data_offset: u64,
    /// Number of stored bytes. For a sparse file this is less than its size.
    pub stored: u64,
}

/// Reads entries in order.
pub struct Reader<R> {
    inner: R,
    /// Number of bytes read so far.
    at: u64,
    /// Number of data bytes of the current entry that are not read yet.
    left: u64,
    /// Number of padding bytes after them.
    pad: u64,
    done: bool,
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Values from special headers, for the entry after them.
#[derive(Default)]
struct Special {
    pax: Records,
    /// Path and link target of GNU's headers. Empty if there are none.
    name: Vec<u8>,
    link: Vec<u8>,
}

impl<R: Forward> Reader<R> {
    /// Reads an archive from its beginning.
    pub fn new(inner: R) -> Self {
        Self { inner, at: 0, left: 0, pad: 0, done: false }
    }

    /// Returns the inner reader, at its current position.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Returns the inner reader, at its current position.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Returns a reader of the current entry's stored bytes.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// Returns the next entry, or `None` at the end of the archive, which is two blocks of zeros or
    /// the end of input. Skips unread data of the previous entry, and special headers without an
    /// entry after them.
    ///
    /// # Errors
    /// If the archive is cut off or malformed. The message states the entry's offset.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>> {
        let place = |at| move || format!("tar entry at byte {at}");
        self.skip_data()?;
        let mut start = self.at;
        let mut special = Special::default();
        while !self.done {
            let at = self.at;
            let Some(block) = self.header().with_context(place(at))? else { break };
            let fields = Fields::read(&block).with_context(place(at))?;
            match fields.typeflag {
                b'x' | b'g' | b'L' | b'K' => {
                    let data = self.special(&fields).with_context(place(at))?;
                    match fields.typeflag {
                        b'x' => special.pax = pax::records(&data).with_context(place(at))?,
                        b'L' => special.name = until_nul(&data).to_vec(),
                        b'K' => special.link = until_nul(&data).to_vec(),
                        _ => {
                            pax::check_global(&data).with_context(place(at))?;
                            // In Go a global header is an entry, which consumes the special headers
                            // before it.
                            special = Special::default();
                            start = self.at;
                        }
                    }
                }
                _ => {
                    let entry = self.entry(&block, &fields, start, special);
                    return entry.map(Some).with_context(place(start));
                }
            }
        }
        Ok(None)
    }

    fn entry(
        &mut self,
        block: &Block,
        fields: &Fields,
        start: u64,
        special: Special,
    ) -> Result<TarEntry> {
        let pax = Pax::of(&special.pax)?;
        let stated = |text: Vec<u8>| Some(text).filter(|text| !text.is_empty());
        let path = stated(special.name).or(pax.path).unwrap_or_else(|| fields.path.clone());
        let target = stated(special.link).or(pax.link_path).unwrap_or_else(|| fields.link.clone());
        let place = || display(&path);
        // The header's own size must be valid even if an extended header overrides it.
        if !fields.header_only() {
            size_of(fields.size).with_context(place)?;
        }
        let size = pax.size.unwrap_or(fields.size);
        let kind = kind(fields, &path, target.into(), size).with_context(place)?;
        let stored = if let EntryKind::File { size, .. } = kind { size } else { 0 };
        (self.left, self.pad) = (stored, padding(stored));
        if self.at.checked_add(self.left).and_then(|end| end.checked_add(self.pad)).is_none() {
            let what = format!("the stated size of {stored} bytes is too large");
            return Err(Error::malformed(what).context(place()));
        }
        let (kind, stored, name) =
            self.sparse(block, &special.pax, kind, stored).with_context(place)?;
        Ok(TarEntry {
            mode: (fields.mode & 0o7777) as u32,
            uid: pax.uid.unwrap_or(fields.uid) as u32,
            gid: pax.gid.unwrap_or(fields.gid) as u32,
            path: name.unwrap_or(path),
            kind,
            mtime: pax.mtime.unwrap_or(Mtime { secs: fields.mtime, nanos: 0 }),
            xattrs: pax.xattrs,
            header_offset: start,
            data_offset: self.at,
            stored,
        })
    }

    /// Reads the map of a file if it is sparse. Returns the file's type, its number of stored bytes, and
    /// its path if the records contain one.
    fn sparse(
        &mut self,
        block: &Block,
        records: &Records,
        kind: EntryKind,
        stored: u64,
    ) -> Result<(EntryKind, u64, Option<Vec<u8>>)> {
        let sparse = |runs, size, stored, name| {
            let (size, runs) = sparse::check(runs, size, stored)?;
            Ok((EntryKind::File { size, sparse: Some(runs) }, stored, name))
        };
        if block[header::TYPE] == b'S' {
            let (mut runs, size, mut more) = sparse::gnu_header(block)?;
            while more {
                let mut block = [0; BLOCK];
                self.read_block(&mut block)?;
                more = sparse::gnu_extension(&mut runs, &block)?;
            }
            return sparse(runs, size, stored, None);
        }
        let Some(found) = sparse::pax_format(records)? else { return Ok((kind, stored, None)) };
        if !matches!(kind, EntryKind::File { .. }) {
            return Err(Error::malformed("it has a sparse map, but is not a regular file"));
        }
        // Without a size record, the size is that of the entry.
        let size = found.size.unwrap_or(stored.cast_signed());
        if let Some(runs) = found.runs {
            return sparse(runs, size, stored, found.name);
        }
        let (runs, taken) = sparse::data_map(&mut Data(self), stored)?;
        sparse(runs, size, stored - taken, found.name)
    }

    /// Returns the next header after checking its checksum, or `None` at the end.
    fn header(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK];
        if !self.try_block(&mut block)? {
            self.done = true;
            return Ok(None);
        }
        if block == [0; BLOCK] {
            self.done = true;
            if self.try_block(&mut block)? && block != [0; BLOCK] {
                return Err(Error::malformed(
                    "a single block of zeros within the archive; it is damaged",
                ));
            }
            return Ok(None);
        }
        header::check(&block)?;
        Ok(Some(block))
    }

    /// Returns all data of a special header.
    fn special(&mut self, fields: &Fields) -> Result<Vec<u8>> {
        let size = size_of(fields.size)?;
        if size > MAX_EXTENDED_HEADER {
            return Err(Error::limit(format!(
                "the extended header has {size} bytes, more than the limit of {MAX_EXTENDED_HEADER}"
            )));
        }
        (self.left, self.pad) = (size, padding(size));
        let mut data = vec![0; size as usize];
        Data(self).read_exact(&mut data)?;
        self.skip_data()?;
        Ok(data)
    }

    fn skip_data(&mut self) -> Result<()> {
        if self.left > 0 {
            let at = self.at;
            self.inner.skip(self.left).map_err(|e| cut_off(e, at))?;
            self.at += self.left;
            self.left = 0;
        }
        // As in Go, an archive may end directly after its last byte of data, without padding.
        let mut zeros = [0; BLOCK];
        while self.pad > 0 {
            let n = read_some(&mut self.inner, &mut zeros[..self.pad as usize])?;
            if n == 0 {
                self.done = true;
                self.pad = 0;
            }
            self.at += n as u64;
            self.pad -= n as u64;
        }
        Ok(())
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        if self.try_block(block)? { Ok(()) } else { Err(ends_within(self.at)) }
    }

    /// Reads a block. Returns false if the input ends here.
    fn try_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let n = read_some(&mut self.inner, &mut block[filled..])?;
            if n == 0 && filled == 0 {
                return Ok(false);
            }
            if n == 0 {
                return Err(ends_within(self.at + filled as u64));
            }
            filled += n;
        }
        self.at += BLOCK as u64;
        Ok(true)
    }
}

fn ends_within(at: u64) -> Error {
    Error::malformed(format!("the archive ends at byte {at}, within an entry; it is cut off"))
}

/// Replaces "unexpected end of file" with a message that states the offset. Keeps other errors.
fn cut_off(e: io::Error, at: u64) -> Error {
    let e = Error::from(e);
    match e.io_kind() {
        Some(io::ErrorKind::UnexpectedEof) => Error::malformed(format!(
            "the archive ends within the data that begins at byte {at}; it is cut off"
        )),
        _ => e,
    }
}

/// Reads the stored bytes of a reader's current entry.
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        let n = reader.left.min(buf.len() as u64) as usize;
        if n == 0 {
            return Ok(0);
        }
        let n = reader.inner.read(&mut buf[..n])?;
        if n == 0 {
            return Err(ends_within(reader.at).into());
        }
        reader.at += n as u64;
        reader.left -= n as u64;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Data<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let reader = &mut *self.0;
        if reader.left == 0 {
            return Ok(&[]);
        }
        let bytes = reader.inner.fill_buf()?;
        if bytes.is_empty() {
            return Err(ends_within(reader.at).into());
        }
        Ok(&bytes[..reader.left.min(bytes.len() as u64) as usize])
    }

    fn consume(&mut self, n: usize) {
        self.0.inner.consume(n);
        self.0.at += n as u64;
        self.0.left -= n as u64;
    }
}

/// Returns the type of an entry.
fn kind(fields: &Fields, path: &[u8], target: Box<[u8]>, size: i64) -> Result<EntryKind> {
    let device = |value: i64| {
        u32::try_from(value).map_err(|_| {
            Error::unsupported(format!("device number {value} is outside the range of Linux"))
        })
    };
    let (major, minor) = fields.device;
    Ok(match fields.typeflag {
        0 if path.ends_with(b"/") => EntryKind::Dir,
        0 | b'0' | b'S' => EntryKind::File { size: size_of(size)?, sparse: None },
        b'1' => EntryKind::HardLink { target },
        b'2' => EntryKind::Symlink { target },
        b'3' => EntryKind::CharDevice { major: device(major)?, minor: device(minor)? },
        b'4' => EntryKind::BlockDevice { major: device(major)?, minor: device(minor)? },
        b'5' => EntryKind::Dir,
        b'6' => EntryKind::Fifo,
        other => {
            return Err(Error::unsupported(format!(
                "clients don't unpack entries of type {:?}",
                char::from(other)
            )));
        }
    })
}

fn size_of(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::malformed(format!("it has a negative size: {value}")))
}
