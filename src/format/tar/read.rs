//! Reading an archive entry by entry.

use std::io::{self, Read};

use super::header::{self, Block, Fields, until_nul};
use super::pax::{self, Pax, Records};
use super::{BLOCK, EntryKind, padding, sparse};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_EXTENDED_HEADER;
use crate::base::read::read_some;
use crate::model::content::SourceReader;
use crate::model::fileset::{Mtime, Xattrs, display};

/// Something read front to back that can pass over bytes.
pub trait Forward: Read {
    /// Passes over `bytes` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when there are fewer.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl Forward for SourceReader<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        SourceReader::skip(self, bytes)
    }
}

/// A stream, where passing over bytes is reading them.
pub struct Streaming<R> {
    inner: R,
    buf: Vec<u8>,
}

impl<R> std::fmt::Debug for Streaming<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

impl<R: Read> Streaming<R> {
    /// Wraps a stream.
    pub fn new(inner: R) -> Self {
        Self { inner, buf: vec![0; 1 << 16] }
    }

    /// The stream, behind what has been read of it.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Streaming<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl<R: Read> Forward for Streaming<R> {
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let n = bytes.min(self.buf.len() as u64) as usize;
            self.inner.read_exact(&mut self.buf[..n])?;
            bytes -= n as u64;
        }
        Ok(())
    }
}

/// One entry, with what extended headers say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// As it came: `./`, trailing slashes and all.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits: 0 to 0o7777.
    pub mode: u32,
    /// Owner. Of larger numbers the low 32 bits, as chown(2) takes them.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes, sorted.
    pub xattrs: Xattrs,
    /// Where the first of its headers stands in the archive.
    pub header_offset: u64,
    /// Where its stored bytes begin.
    pub data_offset: u64,
    /// How many bytes are stored; fewer than the size of a sparse file.
    pub stored: u64,
}

/// Reads entries one after the other.
pub struct Reader<R> {
    inner: R,
    /// Bytes read so far.
    at: u64,
    /// Bytes of the current entry that are still to be read.
    left: u64,
    /// Zeros after them.
    pad: u64,
    done: bool,
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.at).finish_non_exhaustive()
    }
}

/// What special headers say of the entry after them.
#[derive(Default)]
struct Special {
    pax: Records,
    /// Empty where there is none.
    name: Vec<u8>,
    link: Vec<u8>,
}

impl<R: Forward> Reader<R> {
    /// Reads from the beginning of an archive.
    pub fn new(inner: R) -> Self {
        Self { inner, at: 0, left: 0, pad: 0, done: false }
    }

    /// The reader below, behind what has been read of it.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The reader below, which stands behind what has been read of it.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The stored bytes of the current entry.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    /// The next entry; `None` at the end of the archive, which is two blocks of zeros or the end
    /// of input. Passes over what is left of the entry before, and over special headers that no
    /// entry follows.
    ///
    /// # Errors
    /// When the archive is cut off or breaks its format; the message has the entry's offset.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>> {
        let place = |at| move || format!("tar entry at byte {at}");
        self.pass_data()?;
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
                            // For Go this is an entry, which takes what stands before it.
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
        let said = |text: Vec<u8>| Some(text).filter(|text| !text.is_empty());
        let path = said(special.name).or(pax.path).unwrap_or_else(|| fields.path.clone());
        let target = said(special.link).or(pax.link_path).unwrap_or_else(|| fields.link.clone());
        let place = || display(&path);
        // The header's own size must be one too, even where an extended header has another.
        if !fields.header_only() {
            size_of(fields.size).with_context(place)?;
        }
        let size = pax.size.unwrap_or(fields.size);
        let kind = kind(fields, &path, target.into(), size).with_context(place)?;
        let stored = if let EntryKind::File { size, .. } = kind { size } else { 0 };
        (self.left, self.pad) = (stored, padding(stored));
        if self.at.checked_add(self.left).and_then(|end| end.checked_add(self.pad)).is_none() {
            return Err(Error::malformed(format!("a size of {stored} bytes")).context(place()));
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

    /// Reads the map of a file if it is a sparse one. Gives its kind, how many bytes are stored for
    /// it, and its path where the map's records have another.
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
            return Err(Error::malformed("a sparse map, and it is no file"));
        }
        // Without a size of its own it is that of the entry.
        let size = found.size.unwrap_or(stored.cast_signed());
        if let Some(runs) = found.runs {
            return sparse(runs, size, stored, found.name);
        }
        let (runs, taken) = sparse::data_map(&mut Data(self), stored)?;
        sparse(runs, size, stored - taken, found.name)
    }

    /// The next header with a good checksum; `None` at the end.
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

    /// The data of a special header, all of it.
    fn special(&mut self, fields: &Fields) -> Result<Vec<u8>> {
        let size = size_of(fields.size)?;
        if size > MAX_EXTENDED_HEADER {
            return Err(Error::limit(format!(
                "an extended header of {size} bytes; {MAX_EXTENDED_HEADER} is the limit"
            )));
        }
        (self.left, self.pad) = (size, padding(size));
        let mut data = vec![0; size as usize];
        Data(self).read_exact(&mut data)?;
        self.pass_data()?;
        Ok(data)
    }

    fn pass_data(&mut self) -> Result<()> {
        if self.left > 0 {
            let at = self.at;
            self.inner.skip(self.left).map_err(|e| cut_off(e, at))?;
            self.at += self.left;
            self.left = 0;
        }
        // As Go does, an archive that ends right behind its last byte of data is taken.
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

    /// False when the input has ended right here.
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

/// Turns "unexpected end" into our words; other errors stay.
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

/// What a header says the entry is.
fn kind(fields: &Fields, path: &[u8], target: Box<[u8]>, size: i64) -> Result<EntryKind> {
    let device = |value: i64| {
        u32::try_from(value).map_err(|_| {
            Error::unsupported(format!("device number {value} is out of the range of Linux"))
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
                "type {:?} is none that clients unpack",
                char::from(other)
            )));
        }
    })
}

fn size_of(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::malformed(format!("a negative size: {value}")))
}
