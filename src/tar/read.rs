//! Reading an archive entry by entry.

use std::io::{self, Read};

use ::tar::Header;

use super::pax::{self, Pax};
use super::{BLOCK, EntryKind, number, padding, sparse};
use crate::content::SourceReader;
use crate::error::{Context, Error, Result};
use crate::fileset::{Mtime, Xattrs, display};

/// Extended headers and long names may have so many bytes; Go's limit.
const MAX_SPECIAL: u64 = 1 << 20;

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
pub struct Entry {
    /// As it came: `./`, trailing slashes and all.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
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

/// What special headers say of the entry after them.
#[derive(Default)]
struct Special {
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
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
    /// of input. Passes over what is left of the entry before.
    ///
    /// # Errors
    /// When the archive is cut off or breaks its format; the message has the entry's offset.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let place = |at| move || format!("tar entry at byte {at}");
        self.pass_data()?;
        if self.done {
            return Ok(None);
        }
        let start = self.at;
        let mut special = Special::default();
        loop {
            let at = self.at;
            let Some(header) = self.header().context(place(at))? else {
                if at != start {
                    return Err(Error::malformed("an extended header, and no entry after it")
                        .context(place(start)()));
                }
                return Ok(None);
            };
            let bytes = header.as_bytes();
            let kind = bytes[TYPE];
            let size = field(bytes, SIZE, "size").context(place(at))?;
            match kind {
                b'x' | b'g' | b'L' | b'K' => {
                    let data = self.special(size).context(place(at))?;
                    match kind {
                        b'x' => special.pax = Pax::parse(&data).context(place(at))?,
                        b'g' => pax::check_global(&data).context(place(at))?,
                        b'L' => special.name = Some(until_nul(&data).to_vec()),
                        _ => special.link = Some(until_nul(&data).to_vec()),
                    }
                }
                _ => return self.entry(&header, start, special).map(Some).context(place(start)),
            }
        }
    }

    fn entry(&mut self, header: &Header, start: u64, special: Special) -> Result<Entry> {
        let bytes = header.as_bytes();
        let Special { pax, name, link } = special;
        let path = name.or(pax.path).unwrap_or_else(|| header_path(bytes));
        let place = || display(&path);
        let link = link.or(pax.link_path).unwrap_or_else(|| until_nul(&bytes[LINK]).to_vec());
        let link = link.into_boxed_slice();
        let size = match pax.size {
            Some(size) => size,
            None => field(bytes, SIZE, "size").context(place)?,
        };
        let device = || -> Result<(u32, u32)> {
            // The old format has no such fields.
            if bytes[MAGIC][..5] != *b"ustar" {
                return Ok((0, 0));
            }
            Ok((id(bytes, MAJOR, "major number")?, id(bytes, MINOR, "minor number")?))
        };
        let mut kind = match bytes[TYPE] {
            0 if path.ends_with(b"/") => EntryKind::Dir,
            0 | b'0' | b'S' => EntryKind::File { size, sparse: None },
            b'1' => EntryKind::HardLink { target: link },
            b'2' => EntryKind::Symlink { target: link },
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            b'3' => {
                let (major, minor) = device().context(place)?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device().context(place)?;
                EntryKind::BlockDevice { major, minor }
            }
            other => {
                return Err(Error::unsupported(format!(
                    "type {:?} is none that clients unpack",
                    char::from(other)
                ))
                .context(place()));
            }
        };
        // What has no data has none, whatever its size field says; so do Go and its clients.
        let mut stored = if let EntryKind::File { size, .. } = kind { size } else { 0 };
        (self.left, self.pad) = (stored, padding(stored));
        let mut sparse_name = None;
        if let EntryKind::File { size, sparse } = &mut kind {
            if bytes[TYPE] == b'S' {
                let (mut runs, real, mut more) = sparse::gnu_header(header).context(place)?;
                while more {
                    let mut block = [0; BLOCK];
                    self.read_block(&mut block).context(place)?;
                    more = sparse::gnu_extension(&mut runs, &block).context(place)?;
                }
                *size = real;
                *sparse = Some(sparse::check(runs, real, stored).context(place)?);
            } else if let Some(in_data) = sparse::pax_format(&pax.sparse).context(place)? {
                let real = pax.sparse.size.ok_or_else(|| {
                    Error::malformed("a sparse file without its real size").context(place())
                })?;
                let runs = if in_data {
                    let (runs, taken) = sparse::data_map(&mut Data(self), stored).context(place)?;
                    stored -= taken;
                    runs
                } else {
                    sparse::pax_map(&pax.sparse).context(place)?
                };
                *size = real;
                *sparse = Some(sparse::check(runs, real, stored).context(place)?);
                sparse_name = pax.sparse.name;
            }
        }
        if self.at.checked_add(self.left).and_then(|end| end.checked_add(self.pad)).is_none() {
            return Err(Error::malformed(format!("a size of {} bytes", self.left)).context(place()));
        }
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => Mtime { secs: number::parse(&bytes[MTIME], "mtime").context(place)?, nanos: 0 },
        };
        let own = |pax: Option<u32>, range, what| pax.map_or_else(|| id(bytes, range, what), Ok);
        Ok(Entry {
            mode: (number::parse(&bytes[MODE], "mode").context(place)? & 0o7777) as u32,
            uid: own(pax.uid, UID, "user ID").context(place)?,
            gid: own(pax.gid, GID, "group ID").context(place)?,
            path: sparse_name.unwrap_or(path),
            kind,
            mtime,
            xattrs: pax.xattrs,
            header_offset: start,
            data_offset: self.at,
            stored,
        })
    }

    /// The next header with a good checksum; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.try_block(header.as_mut_bytes())? {
            self.done = true;
            return Ok(None);
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            self.done = true;
            let mut second = [0; BLOCK];
            if self.try_block(&mut second)? && second != [0; BLOCK] {
                return Err(Error::malformed(
                    "a single block of zeros within the archive; it is damaged",
                ));
            }
            return Ok(None);
        }
        // What is no number is as wrong as another number.
        let stated = number::parse(&bytes[CHECKSUM], "checksum").unwrap_or(-1);
        let rest = |i: &usize| !CHECKSUM.contains(i);
        let sum = |value: fn(u8) -> i64| {
            let others = (0..BLOCK).filter(rest).map(|i| value(bytes[i])).sum::<i64>();
            others + 8 * i64::from(b' ')
        };
        // Some old writers summed signed bytes.
        let unsigned = sum(i64::from);
        if stated != unsigned && stated != sum(|b| i64::from(b.cast_signed())) {
            return Err(Error::malformed(format!(
                "the header's checksum is {:?}, but its bytes sum up to {unsigned:o}; this is no \
                 tar archive, or it is damaged",
                String::from_utf8_lossy(until_nul(&bytes[CHECKSUM]))
            )));
        }
        Ok(Some(header))
    }

    /// The data of a special header, all of it.
    fn special(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_SPECIAL {
            return Err(Error::limit(format!(
                "an extended header of {size} bytes; {MAX_SPECIAL} is the limit"
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
            let n = self.inner.read(&mut zeros[..self.pad as usize])?;
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
            let n = match self.inner.read(&mut block[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                n => n?,
            };
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

// Where the fields are: POSIX.1-1988 ustar, and the same places in the formats before and after.
const NAME: std::ops::Range<usize> = 0..100;
pub(super) const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
pub(super) const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
pub(super) const MAGIC: std::ops::Range<usize> = 257..263;
pub(super) const MAJOR: std::ops::Range<usize> = 329..337;
pub(super) const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn header_path(bytes: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&bytes[NAME]);
    let prefix = until_nul(&bytes[PREFIX]);
    // GNU has other fields there.
    if &bytes[MAGIC] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

fn field(bytes: &[u8; BLOCK], range: std::ops::Range<usize>, what: &str) -> Result<u64> {
    let value = number::parse(&bytes[range], what)?;
    u64::try_from(value).map_err(|_| Error::malformed(format!("a negative {what}: {value}")))
}

fn id(bytes: &[u8; BLOCK], range: std::ops::Range<usize>, what: &str) -> Result<u32> {
    let value = number::parse(&bytes[range], what)?;
    u32::try_from(value)
        .map_err(|_| Error::malformed(format!("{what} {value} is out of the range of Linux")))
}
