//! zstd:chunked: a layer that clients can load in pieces, as containers/storage (`pkg/chunked`)
//! reads and writes it. docs/CHUNKED.md has the format.
//!
//! The tar is cut into frames: one for each chunk of a file, and one for the headers and padding
//! between two files. All of them are the tar, so for every other reader this is plain zstd. Behind
//! them lie the table of contents and the tar-split in frames that readers skip, and a footer.
//!
//! What is written depends on the bytes of the tar only. They are read by our own tar reader, which
//! wants to pull, while an encoder is pushed: so it runs in a thread of its own.

mod cut;
mod frames;
mod packed;
mod tar_split;
mod toc;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::base::error::{Context, Error, NO_THREAD, Result};
use crate::base::limits::MAX_ENTRY_HEADERS;
use crate::format::tar::{self, Forward, Reader};
use crate::model::digest::{Digest, Hashing};
use crate::model::oci::Annotations;
use cut::Cutter;
use frames::Frames;
use tar_split::{Crc, TarSplit};
use toc::{Placed, Toc, TocRow};

/// Prefix of all annotations of the format.
pub(crate) const ANNOTATION: &str = "io.github.containers.zstd-chunked.";
/// The only type of a table of contents.
const TOC_TYPE: u64 = 1;
/// The last bytes of the footer.
const FOOTER: [u8; 8] = *b"GNUlInUx";
/// Size in bytes of a piece of input for the thread, and the number of pieces that can wait.
const PIECE: usize = 1 << 18;
const PIECES: usize = 4;
/// Maximum number of bytes of headers in one frame. Data after the end of the tar is read in pieces of
/// this size.
const GAP: usize = 1 << 20;

/// Writes one layer.
pub struct ChunkedEncoder<W> {
    /// Input that was not sent to the thread yet.
    buf: Vec<u8>,
    thread: Option<Thread<W>>,
}

impl<W> std::fmt::Debug for ChunkedEncoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkedEncoder").finish_non_exhaustive()
    }
}

struct Thread<W> {
    input: SyncSender<Vec<u8>>,
    handle: JoinHandle<Result<(W, Annotations)>>,
}

impl<W: Write + Send + 'static> ChunkedEncoder<W> {
    pub(super) fn new(out: W, level: i32, workers: u32) -> io::Result<Self> {
        let (input, pieces) = sync_channel(PIECES);
        let pipe = Pipe { pieces, now: io::Cursor::default() };
        let work = move || {
            let done = Layer::new(out, level, workers)?.run(pipe);
            done.with_context(|| "zstd:chunked")
        };
        let handle = std::thread::Builder::new().spawn(work).with_context(|| NO_THREAD)?;
        Ok(Self { buf: Vec::with_capacity(PIECE), thread: Some(Thread { input, handle }) })
    }

    /// Ends the layer. Returns annotations for its descriptor. There are none if clients could not load
    /// the layer in pieces.
    pub(super) fn finish(mut self) -> Result<(W, Annotations)> {
        self.send()?;
        self.join()
    }

    fn send(&mut self) -> Result<()> {
        let piece = std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE));
        match &self.thread {
            Some(thread) if thread.input.send(piece).is_ok() => Ok(()),
            _ => Err(self.join().err().unwrap_or_else(ended)),
        }
    }

    fn join(&mut self) -> Result<(W, Annotations)> {
        let Thread { input, handle } = self.thread.take().ok_or_else(ended)?;
        drop(input);
        handle.join().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> Error {
    Error::malformed("the thread that writes zstd:chunked ended early")
}

impl<W: Write + Send + 'static> Write for ChunkedEncoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(PIECE - self.buf.len());
        self.buf.extend_from_slice(&buf[..n]);
        if self.buf.len() == PIECE {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's reader of the input.
struct Pipe {
    pieces: Receiver<Vec<u8>>,
    now: io::Cursor<Vec<u8>>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.now.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            match self.pieces.recv() {
                Ok(piece) => self.now = io::Cursor::new(piece),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// A reader that records headers and padding.
struct Tap<R> {
    inner: R,
    kept: Option<Vec<u8>>,
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&buf[..n]);
            if kept.len() > MAX_ENTRY_HEADERS {
                let what =
                    format!("an entry's headers exceed the limit of {MAX_ENTRY_HEADERS} bytes");
                return Err(Error::limit(what).into());
            }
        }
        Ok(n)
    }
}

impl<R: Read> Forward for Tap<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        // The layer reads all data itself, so this is rarely needed.
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A chunk of a file, with the number of its frame.
struct Chunk {
    frame: u64,
    bytes: u64,
    hole: bool,
}

/// An entry whose frames may not be written yet.
struct Waiting {
    row: TocRow,
    digest: Option<Digest>,
    chunks: Vec<Chunk>,
}

/// The documents that follow the frames.
struct Index {
    toc: Toc,
    tar_split: TarSplit,
    waiting: VecDeque<Waiting>,
}

struct Layer<W> {
    frames: Frames<W>,
    /// `None` as soon as clients could not use it.
    index: Option<Index>,
    /// Headers and padding for the next frame.
    gap: Vec<u8>,
}

impl<W: Write> Layer<W> {
    fn new(out: W, level: i32, workers: u32) -> Result<Self> {
        let index = Index {
            toc: Toc::new(level)?,
            tar_split: TarSplit::new(level)?,
            waiting: VecDeque::new(),
        };
        let frames = Frames::new(out, level, workers);
        Ok(Self { frames, index: Some(index), gap: Vec::new() })
    }

    fn run(mut self, input: impl Read) -> Result<(W, Annotations)> {
        let mut reader = Reader::new(Tap { inner: input, kept: Some(Vec::new()) });
        let mut end = 0;
        while let Some(entry) = reader.next_entry()? {
            let head = reader.inner_mut().kept.replace(Vec::new()).unwrap_or_default();
            let padding = (entry.header_offset - end) as usize;
            end = entry.data_offset + entry.stored;
            let row = self.head(&head, padding, &entry)?;
            reader.inner_mut().kept = None;
            self.data(&entry, row, reader.data())?;
            reader.inner_mut().kept = Some(Vec::new());
            self.add_written()?;
        }
        let mut tail = reader.inner_mut().kept.take().unwrap_or_default();
        let padding = (end.wrapping_neg() % 512) as usize;
        // Clients expect that each segment is the padding of the previous file, and headers after it.
        let mut plain = tail.is_empty() || tail.len() >= padding;
        let mut inner = reader.into_inner();
        let mut header = padding.min(tail.len());
        loop {
            plain &= tail[header..].iter().all(|b| *b == 0);
            plain &= (tail.len() - header).is_multiple_of(512);
            self.segment(&tail)?;
            self.add_gap(&tail)?;
            (tail, header) = (Vec::new(), 0);
            inner.by_ref().take(GAP as u64).read_to_end(&mut tail)?;
            if tail.is_empty() {
                break;
            }
        }
        if !plain {
            self.index = None;
        }
        self.finish()
    }

    /// Writes the headers of an entry, and the padding before them.
    fn head(
        &mut self,
        head: &[u8],
        padding: usize,
        entry: &tar::TarEntry,
    ) -> Result<Option<TocRow>> {
        self.add_gap(head)?;
        let Some(index) = &mut self.index else { return Ok(None) };
        let row = head.get(padding..).and_then(|head| index.toc.entry(entry, head));
        if row.is_none() {
            self.index = None;
        }
        self.segment(head)?;
        Ok(row)
    }

    fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        self.index.as_mut().map_or(Ok(()), |index| index.tar_split.segment(bytes))
    }

    fn add_gap(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(GAP) {
            if self.gap.len() + part.len() > GAP {
                self.end_gap()?;
            }
            self.gap.extend_from_slice(part);
        }
        Ok(())
    }

    fn end_gap(&mut self) -> Result<()> {
        if !self.gap.is_empty() {
            self.frames.push(std::mem::take(&mut self.gap), false)?;
        }
        Ok(())
    }

    /// Writes the data of an entry.
    fn data(&mut self, entry: &tar::TarEntry, row: Option<TocRow>, data: impl Read) -> Result<()> {
        let mut chunks = Vec::new();
        let mut hash = Hashing::new(io::sink());
        let mut sum = Crc::new();
        if entry.stored > 0 {
            self.end_gap()?;
            let mut cutter = Cutter::new(data);
            while let Some(chunk) = cutter.next()? {
                let bytes = chunk.bytes.len() as u64;
                // If a file is one chunk, the chunk needs no digest of its own.
                let digest = bytes < entry.stored && row.is_some();
                let frame = self.frames.push(chunk.bytes.to_vec(), digest)?;
                if row.is_some() {
                    hash.write_all(chunk.bytes)?;
                    sum.update(chunk.bytes);
                    chunks.push(Chunk { frame, bytes, hole: chunk.hole });
                }
            }
        }
        if let (Some(index), Some(row)) = (&mut self.index, row) {
            let any = entry.stored > 0;
            index.tar_split.file(row.name(), entry.stored, any.then_some(sum))?;
            let digest = any.then(|| hash.finish().1);
            index.waiting.push_back(Waiting { row, digest, chunks });
        }
        Ok(())
    }

    /// Adds those entries to the table of contents whose frames are written.
    fn add_written(&mut self) -> Result<()> {
        let mut needed = u64::MAX;
        if let Some(index) = &mut self.index {
            while let Some(file) = index.waiting.pop_front() {
                let placed = |chunk: &Chunk| {
                    let frame = self.frames.get(chunk.frame)?;
                    Some(Placed { frame, bytes: chunk.bytes, hole: chunk.hole })
                };
                let placed: Option<Vec<Placed>> = match file.chunks.last() {
                    Some(last) if self.frames.get(last.frame).is_none() => None,
                    _ => file.chunks.iter().map(placed).collect(),
                };
                let Some(placed) = placed else {
                    needed = file.chunks.first().map_or(0, |chunk| chunk.frame);
                    index.waiting.push_front(file);
                    break;
                };
                index.toc.add(file.row, file.digest, &placed)?;
            }
        }
        self.frames.forget(needed);
        Ok(())
    }

    fn finish(mut self) -> Result<(W, Annotations)> {
        self.end_gap()?;
        self.frames.flush()?;
        self.add_written()?;
        let mut annotations = Annotations::new();
        let Some(Index { toc, tar_split, .. }) = self.index else {
            return Ok((self.frames.into_inner(), annotations));
        };
        let (split, split_bytes) = tar_split.finish()?;
        let (toc, toc_bytes) = toc.finish(Digest::of(&split))?;
        let toc_at = self.frames.skippable(&toc)?;
        let split_at = self.frames.skippable(&split)?;
        let (toc_length, split_length) = (toc.len() as u64, split.len() as u64);
        let numbers =
            [toc_at, toc_length, toc_bytes, TOC_TYPE, split_at, split_length, split_bytes];
        let mut footer: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        footer.extend(FOOTER);
        self.frames.skippable(&footer)?;
        for (key, value) in [
            ("manifest-checksum", Digest::of(&toc).to_string()),
            ("manifest-position", format!("{toc_at}:{toc_length}:{toc_bytes}:{TOC_TYPE}")),
            ("tarsplit-position", format!("{split_at}:{split_length}:{split_bytes}")),
        ] {
            annotations.insert(format!("{ANNOTATION}{key}"), value);
        }
        Ok((self.frames.into_inner(), annotations))
    }
}

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;
