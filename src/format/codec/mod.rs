//! Compression of layers and archives. Detects formats, decodes, and encodes. Every client can read the
//! encoded form, and it does not depend on the machine.

pub(crate) mod chunked;
mod gzip;
mod xz;
mod zstd;
pub(crate) mod zstd_headers;
mod zstd_levels;
pub(crate) mod zstd_prefix;

pub use zstd::Contexts;
pub(crate) use zstd::set_level;

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use crate::base::defaults;
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_ZSTD_WINDOW_LOG;
use crate::base::read::read_some;
use crate::model::content::{ReadAt, SourceReader, WindowBudget};
use crate::model::oci::{Annotations, media_type};

/// Number of first bytes that identify every format.
pub const MAGIC: usize = 10;

/// The compression format of some bytes. As in clients, it is detected from the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not compressed.
    Plain,
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
}

impl Format {
    /// Detects the format from the first [`MAGIC`] bytes, or all if there are fewer.
    ///
    /// # Errors
    /// If the format is not allowed in layers or not supported.
    pub fn detect(head: &[u8]) -> Result<Self> {
        let other = match head {
            [0x1f, 0x8b, ..] => return Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                return Ok(Self::Zstd);
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => "bzip2",
            [0x04, 0x22, 0x4d, 0x18, ..] => "lz4",
            [0x1e | 0x22..=0x27, 0xb5, 0x2f, 0xfd, ..] => "a zstd from before version 0.8",
            _ => return Ok(Self::Plain),
        };
        Err(Error::unsupported(format!(
            "it is compressed with {other}; recompress it with gzip or zstd"
        )))
    }
}

impl Format {
    /// Detects the format of `source`.
    ///
    /// # Errors
    /// As for [`detect`](Self::detect), and if the source can't be read.
    pub fn of(source: &dyn ReadAt) -> Result<Self> {
        let mut magic = [0; MAGIC];
        let head = source.size().min(magic.len() as u64) as usize;
        source.read_exact_at(&mut magic[..head], 0)?;
        Self::detect(&magic[..head])
    }

    /// Returns the media type of layers in this format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Decompresses the content of `reader`. The windows of zstd are reserved from `windows`. The decoder
/// ends where `reader` ends.
///
/// # Errors
/// If the format is not supported, or the reader fails.
pub fn decode<'a>(
    mut reader: impl Read + Send + 'a,
    windows: &Arc<WindowBudget>,
) -> Result<(Format, Box<dyn Read + Send + 'a>)> {
    let mut head = [0; MAGIC];
    let mut filled = 0;
    while filled < MAGIC {
        match read_some(&mut reader, &mut head[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    let format = Format::detect(&head[..filled])?;
    let head = io::Cursor::new(head[..filled].to_vec());
    let buffered = BufReader::with_capacity(1 << 17, head.chain(reader));
    let decoder: Box<dyn Read + Send + 'a> = match format {
        Format::Plain => Box::new(buffered),
        Format::Gzip => Box::new(gzip::GzipDecoder::new(buffered)),
        Format::Zstd => Box::new(zstd::ZstdDecoder::new(buffered, windows)?),
    };
    Ok((format, decoder))
}

/// Decompresses an archive of layers, which may also be xz. Returns the name of the format and the
/// decoder, or `None` if the archive is not compressed.
///
/// # Errors
/// If the format is not supported, or the source can't be read.
pub fn decode_archive<'a>(
    source: &'a dyn ReadAt,
    windows: &Arc<WindowBudget>,
) -> Result<Option<(String, Box<dyn Read + 'a>)>> {
    let mut head = [0; xz::MAGIC.len()];
    if source.size() > head.len() as u64 {
        source.read_exact_at(&mut head, 0)?;
    }
    let reader = SourceReader::all(source);
    if head == xz::MAGIC {
        let buffered = BufReader::with_capacity(1 << 17, reader);
        return Ok(Some(("xz".into(), Box::new(xz::XzDecoder::new(buffered, windows)?))));
    }
    match Format::of(source)? {
        Format::Plain => Ok(None),
        format => Ok(Some((format.to_string(), decode(reader, windows)?.1))),
    }
}

/// Replaces a decoder's error with our own message. Keeps errors of the inner reader.
fn decoding_error(e: io::Error, format: impl fmt::Display) -> io::Error {
    let inner = e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>);
    if inner || e.raw_os_error().is_some() || e.kind() == io::ErrorKind::Interrupted {
        return e;
    }
    let what = match e.kind() {
        io::ErrorKind::UnexpectedEof => "is cut off".to_owned(),
        io::ErrorKind::OutOfMemory => {
            "needs too much memory to decompress; a larger --memory allows more".to_owned()
        }
        _ => format!("is damaged ({e})"),
    };
    Error::malformed(format!("the {format} data {what}")).into()
}

/// How to compress a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    None,
    /// One gzip member.
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// One zstd frame.
    Zstd {
        /// 1 to 22.
        level: i32,
        /// Log2 of the window size in bytes, or `None` for 23.
        window_log: Option<u32>,
    },
    /// A zstd frame for each chunk, and a table of contents (docs/CHUNKED.md).
    Chunked {
        /// 1 to 22.
        level: i32,
    },
}

/// The name of [`Compression::Chunked`].
const CHUNKED: &str = "zstd:chunked";

impl Compression {
    /// Returns a compression by its name: `zstd`, `zstd:chunked`, `gzip` or `none`. Without a level, it
    /// has the default level.
    ///
    /// # Errors
    /// If the name is unknown, or the level or window is out of range or not applicable.
    pub fn new(name: &str, level: Option<i32>, window_log: Option<u32>) -> Result<Self> {
        let range = |level: i32, range: std::ops::RangeInclusive<i32>| {
            if range.contains(&level) {
                return Ok(level);
            }
            let (from, to) = range.into_inner();
            Err(Error::malformed(format!("{name} has levels {from} to {to}, not {level}")))
        };
        if name != "zstd" && window_log.is_some() {
            return Err(Error::malformed("--long is for plain zstd only"));
        }
        match name {
            "none" if level.is_some() => Err(Error::malformed("none has no levels")),
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip {
                level: range(level.unwrap_or(defaults::GZIP_LEVEL), 1..=9)?.unsigned_abs(),
            }),
            "zstd" => {
                if let Some(log) =
                    window_log.filter(|log| !(10..=MAX_ZSTD_WINDOW_LOG).contains(log))
                {
                    return Err(Error::malformed(format!(
                        "a window of 2^{log} bytes is out of range; clients decode 2^10 to \
                         2^{MAX_ZSTD_WINDOW_LOG}"
                    )));
                }
                Ok(Self::Zstd {
                    level: range(level.unwrap_or(defaults::ZSTD_LEVEL), 1..=22)?,
                    window_log,
                })
            }
            CHUNKED => {
                Ok(Self::Chunked { level: range(level.unwrap_or(defaults::ZSTD_LEVEL), 1..=22)? })
            }
            _ => {
                let what = format!("{name:?} is not zstd, {CHUNKED}, gzip or none");
                Err(Error::malformed(what))
            }
        }
    }

    /// Parses the output of [`Display`](fmt::Display).
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::malformed(format!("{text:?} is not a compression"));
        let (name, rest) = match text.strip_prefix(CHUNKED) {
            Some(rest) => (CHUNKED, rest),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let mut words = rest.split(':').skip(1);
        let level = words.next().map(|w| w.parse().map_err(|_| bad())).transpose()?;
        let window = words
            .next()
            .map(|w| w.strip_prefix("long=").and_then(|n| n.parse().ok()).ok_or_else(bad));
        Self::new(name, level, window.transpose()?)
    }

    /// Returns the name, level and window, as for [`new`](Self::new).
    pub fn parts(&self) -> (String, Option<i32>, Option<u32>) {
        match *self {
            Self::None => ("none".into(), None, None),
            Self::Gzip { level } => ("gzip".into(), Some(level.cast_signed()), None),
            Self::Zstd { level, window_log } => ("zstd".into(), Some(level), window_log),
            Self::Chunked { level } => (CHUNKED.into(), Some(level), None),
        }
    }

    /// Returns about how many bytes of memory a thread that compresses takes: buffers of its job, and
    /// tables. A wide window is counted for two threads, as many as a stream has in general.
    pub(crate) fn memory_per_worker(&self) -> u64 {
        let (level, window_log) = match *self {
            Self::None | Self::Gzip { .. } => return zstd::MEMORY_PER_JOB,
            Self::Zstd { level, window_log } => (level, window_log),
            Self::Chunked { level } => (level, None),
        };
        zstd::MEMORY_PER_JOB + zstd::tables(level, window_log)
    }

    /// Returns the media type of layers with this compression.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip { .. } => media_type::LAYER_GZIP,
            Self::Zstd { .. } | Self::Chunked { .. } => media_type::LAYER_ZSTD,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::Chunked { level } => write!(f, "{CHUNKED}:{level}"),
            Self::Zstd { level, window_log: None } => write!(f, "zstd:{level}"),
            Self::Zstd { level, window_log: Some(log) } => write!(f, "zstd:{level}:long={log}"),
        }
    }
}

/// A writer that compresses. The output depends only on the compression and the input, not on the
/// number of workers or the sizes of writes. zstd:chunked accepts only tar archives.
pub enum Encoder<W: Write> {
    /// Passes bytes through.
    #[doc(hidden)]
    Plain(W),
    /// gzip.
    #[doc(hidden)]
    Gzip(gzip::GzipEncoder<W>),
    /// zstd.
    #[doc(hidden)]
    Zstd(zstd::ZstdEncoder<W>),
    /// zstd:chunked.
    #[doc(hidden)]
    Chunked(chunked::ChunkedEncoder<W>),
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Encoder<W> {
    /// Compresses exactly `size` bytes into `out`, with up to `workers` threads.
    ///
    /// # Errors
    /// If the compressor can't be created.
    pub fn new(out: W, compression: &Compression, workers: u32, size: u64) -> Result<Self> {
        Self::reusing(out, compression, workers, size, &Arc::default())
    }

    /// Does the same with a compressor from `contexts`, which gets it back at the end.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn reusing(
        out: W,
        compression: &Compression,
        workers: u32,
        size: u64,
        contexts: &Arc<Contexts>,
    ) -> Result<Self> {
        Ok(match *compression {
            Compression::None => Self::Plain(out),
            Compression::Gzip { level } => Self::Gzip(gzip::GzipEncoder::new(out, level, workers)),
            Compression::Zstd { level, window_log } => {
                let level = (level, window_log);
                Self::Zstd(zstd::ZstdEncoder::new(out, level, workers, size, contexts)?)
            }
            Compression::Chunked { level } => {
                Self::Chunked(chunked::ChunkedEncoder::new(out, level, workers)?)
            }
        })
    }

    /// Ends the stream. Returns the inner writer, and annotations for the layer's descriptor.
    ///
    /// # Errors
    /// If the inner writer fails.
    pub fn finish(self) -> Result<(W, Annotations)> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Chunked(encoder) => return encoder.finish(),
        };
        Ok((out, Annotations::new()))
    }
}

impl<W: Write + Send + 'static> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(buf),
            Self::Gzip(encoder) => encoder.write(buf),
            Self::Zstd(encoder) => encoder.write(buf),
            Self::Chunked(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A flush in the middle would change the bytes.
        Ok(())
    }
}

#[cfg(test)]
mod tests;
