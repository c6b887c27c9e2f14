//! The tar of a layer, on several threads: each step works on the bytes after those of the next step.
//!
//! ```text
//! blob ─▶ digest ─▶ decompress ─┬▶ diff ID, spool
//!                               └▶ the caller: entries, hashes of files
//! ```
//!
//! So a single large layer keeps more than one core busy. A small layer is read on one thread, and any
//! layer if there is no second thread.

use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

use super::limits::Limits;
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::base::read::read_some;
use crate::format::codec::{self, Format};
use crate::model::content::{Budget, ReadAt, SourceReader, Spool, SpoolWriter};
use crate::model::digest::{Digest, Hashing};

/// Number of bytes that are passed between threads at a time: small enough for a core's cache.
const PIECE: usize = 1 << 18;
/// Number of pieces that may wait for the threads of all layers that are read at the same time. If the
/// machine has other work, a thread may have to wait for a core.
const WAITING: usize = 32;
/// Size of the smallest blob, in bytes, for which threads are started.
const LARGE: u64 = 1 << 20;

/// What is known of a layer once its tar was read to the end.
pub(super) struct Streamed {
    /// Digest of the blob.
    pub(super) digest: Digest,
    /// Digest of the tar.
    pub(super) diff_id: Digest,
    /// Bytes of the tar.
    pub(super) tar_bytes: u64,
    /// The tar; `None` without a budget.
    pub(super) spool: Option<Spool>,
}

/// Calls `read` with the tar of a blob, and reads what it leaves: padding, which the diff ID covers.
/// Without a budget the tar is not stored.
///
/// # Errors
/// Those of `read`, and if the blob can't be read or is damaged, or exceeds a limit.
pub(super) fn read(
    (blob, format): (&dyn ReadAt, Format),
    budget: Option<&Arc<Budget>>,
    limits: &Limits,
    progress: &dyn Progress,
    read: impl FnOnce(&mut TarStream<'_>) -> Result<()>,
) -> Result<Streamed> {
    let layer = Layer {
        blob: Counted { inner: SourceReader::all(blob), progress },
        format,
        pieces: &Pieces::default(),
        limits,
    };
    let tar = Tar { hashing: Hashing::new(io::sink()), spool: budget.map(SpoolWriter::new) };
    if blob.size() < LARGE || rayon::current_num_threads() < 2 {
        layer.read_here(tar, read)
    } else {
        thread::scope(|scope| layer.read_on_threads(scope, tar, read))
    }
}

/// A layer that is about to be read.
struct Layer<'a> {
    blob: Counted<'a>,
    format: Format,
    pieces: &'a Pieces,
    limits: &'a Limits,
}

impl<'a> Layer<'a> {
    fn read_here(
        self,
        mut tar: Tar,
        read: impl FnOnce(&mut TarStream<'_>) -> Result<()>,
    ) -> Result<Streamed> {
        let Self { mut blob, format, pieces, limits } = self;
        let here = |reader: &mut dyn Read| {
            let next = || {
                let piece = pieces.fill(reader, limits)?;
                tar.add(&piece)?;
                Ok(Arc::new(piece))
            };
            TarStream::new(pieces, Box::new(next)).all(read)
        };
        if format == Format::Plain {
            let bytes = here(&mut blob)?;
            return tar.finish(None, bytes);
        }
        let mut blob = Hashing::new(blob);
        let bytes = here(&mut *codec::decode(&mut blob, limits.windows())?.1)?;
        let (_, digest, _) = blob.finish();
        tar.finish(Some(digest), bytes)
    }

    fn read_on_threads<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        mut tar: Tar,
        read: impl FnOnce(&mut TarStream<'_>) -> Result<()>,
    ) -> Result<Streamed>
    where
        'a: 'scope,
    {
        let workers = (Worker::start(scope), Worker::start(scope), Worker::start(scope));
        let (Some(fetcher), Some(decoder), Some(hasher)) = workers else {
            return self.read_here(tar, read);
        };
        let Self { mut blob, format, pieces, limits } = self;
        // More threads read more layers at the same time.
        let waiting = (WAITING / rayon::current_num_threads()).max(2);
        let (to_hasher, for_hasher) = sync_channel::<Arc<Vec<u8>>>(waiting);
        let (to_reader, for_reader) = sync_channel(waiting);
        let hasher = hasher.run(move || {
            for piece in for_hasher {
                tar.add(&piece)?;
                pieces.release(piece);
            }
            Ok::<_, Error>(tar)
        });
        let out = Out { to_hasher, to_reader, pieces, limits };
        let fetcher = if format == Format::Plain {
            decoder.run(move || out.send_all(Ok(&mut blob)));
            None
        } else {
            let (to_decoder, for_decoder) = sync_channel(waiting);
            let pipe = Pipe { pieces, receiver: for_decoder, piece: Vec::new(), at: 0 };
            decoder.run(move || {
                let mut decoder = codec::decode(pipe, limits.windows());
                out.send_all(decoder.as_mut().map(|(_, reader)| &mut **reader));
            });
            Some(fetcher.run(move || fetch(blob, pieces, &to_decoder)))
        };
        let next = move || for_reader.recv().unwrap_or_else(|_| Err(died().into()));
        let bytes = TarStream::new(pieces, Box::new(next)).all(read);
        // It fails only if the system does, and then the other threads stop.
        let tar = join(hasher)??;
        let bytes = bytes?;
        tar.finish(fetcher.map(join).transpose()?, bytes)
    }
}

fn died() -> Error {
    Error::malformed("a reading thread died")
}

fn join<T>(thread: ScopedJoinHandle<'_, Option<T>>) -> Result<T> {
    thread.join().ok().flatten().ok_or_else(died)
}

/// A thread that waits for its work. So it is known that the system has all threads of a layer before
/// any of them begins.
struct Worker<'scope, T> {
    work: Sender<Box<dyn FnOnce() -> T + Send + 'scope>>,
    thread: ScopedJoinHandle<'scope, Option<T>>,
}

impl<'scope, T: Send + 'scope> Worker<'scope, T> {
    fn start(scope: &'scope Scope<'scope, '_>) -> Option<Self> {
        let (work, received) = channel::<Box<dyn FnOnce() -> T + Send + 'scope>>();
        let thread = move || received.recv().ok().map(|work| work());
        Some(Self { work, thread: Builder::new().spawn_scoped(scope, thread).ok()? })
    }

    fn run(self, work: impl FnOnce() -> T + Send + 'scope) -> ScopedJoinHandle<'scope, Option<T>> {
        // The thread waits for it, so this can't fail.
        let _ = self.work.send(Box::new(work));
        self.thread
    }
}

/// Reads the blob and returns its digest. Ends early if the decoder does.
fn fetch(blob: Counted<'_>, pieces: &Pieces, decoder: &SyncSender<io::Result<Vec<u8>>>) -> Digest {
    let mut blob = Hashing::new(blob);
    loop {
        let piece = pieces.fill_from(&mut blob);
        let last = piece.as_ref().map_or(true, Vec::is_empty);
        if decoder.send(piece).is_err() || last {
            return blob.finish().1;
        }
    }
}

/// Where the pieces of the tar go.
struct Out<'a> {
    to_hasher: SyncSender<Arc<Vec<u8>>>,
    to_reader: SyncSender<io::Result<Arc<Vec<u8>>>>,
    pieces: &'a Pieces,
    limits: &'a Limits,
}

impl Out<'_> {
    /// Sends the whole tar, or what went wrong. Ends early if a receiver does.
    fn send_all<R: Read + ?Sized>(&self, reader: Result<&mut R, &mut Error>) {
        let mut reader = match reader {
            Ok(reader) => reader,
            Err(e) => {
                let _ = self.to_reader.send(Err(std::mem::replace(e, died()).into()));
                return;
            }
        };
        loop {
            let piece = self.pieces.fill(&mut reader, self.limits).map(Arc::new);
            let last = piece.as_ref().map_or(true, |piece| piece.is_empty());
            if let Ok(piece) = &piece
                && self.to_hasher.send(Arc::clone(piece)).is_err()
            {
                return;
            }
            if self.to_reader.send(piece).is_err() || last {
                return;
            }
        }
    }
}

/// Buffers to be used again: new ones would take their memory from the system again.
#[derive(Default)]
struct Pieces(Mutex<Vec<Vec<u8>>>);

impl Pieces {
    /// Reads a piece, and counts it. It is full except at the end of the stream, where it is empty at last.
    fn fill(&self, reader: &mut (impl Read + ?Sized), limits: &Limits) -> io::Result<Vec<u8>> {
        let piece = self.fill_from(reader)?;
        limits.add_bytes(piece.len() as u64)?;
        Ok(piece)
    }

    fn fill_from(&self, reader: &mut (impl Read + ?Sized)) -> io::Result<Vec<u8>> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut piece = used.unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match read_some(reader, &mut piece[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        piece.truncate(filled);
        Ok(piece)
    }

    /// Takes a piece back that a thread no longer needs.
    fn release(&self, piece: Arc<Vec<u8>>) {
        if let Some(piece) = Arc::into_inner(piece) {
            self.take_back(piece);
        }
    }

    fn take_back(&self, piece: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
    }
}

/// Digest and copy of the tar.
struct Tar {
    hashing: Hashing<io::Sink>,
    spool: Option<SpoolWriter>,
}

impl Tar {
    fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hashing.write_all(piece)?;
        self.spool.as_mut().map_or(Ok(()), |spool| spool.write_all(piece))
    }

    /// Returns all values. An uncompressed blob has the digest of the tar.
    fn finish(self, digest: Option<Digest>, tar_bytes: u64) -> Result<Streamed> {
        let (_, diff_id, _) = self.hashing.finish();
        let digest = digest.unwrap_or(diff_id);
        let spool = self.spool.map(SpoolWriter::finish).transpose()?;
        Ok(Streamed { digest, diff_id, tar_bytes, spool })
    }
}

/// Returns the next piece of the tar; an empty one at the end.
type Next<'a> = Box<dyn FnMut() -> io::Result<Arc<Vec<u8>>> + 'a>;

/// Reads the tar from front to back.
pub(super) struct TarStream<'a> {
    next: Next<'a>,
    pieces: &'a Pieces,
    piece: Arc<Vec<u8>>,
    at: usize,
    ended: bool,
    bytes: u64,
}

impl<'a> TarStream<'a> {
    fn new(pieces: &'a Pieces, next: Next<'a>) -> Self {
        Self { next, pieces, piece: Arc::default(), at: 0, ended: false, bytes: 0 }
    }

    /// Calls `read`, and reads what it leaves. Returns the number of bytes.
    fn all(mut self, read: impl FnOnce(&mut TarStream<'a>) -> Result<()>) -> Result<u64> {
        read(&mut self)?;
        while let n @ 1.. = self.fill_buf()?.len() {
            self.consume(n);
        }
        Ok(self.bytes)
    }
}

impl BufRead for TarStream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            self.pieces.release(std::mem::take(&mut self.piece));
            self.at = 0;
            self.piece = (self.next)()?;
            self.ended = self.piece.is_empty();
            self.bytes += self.piece.len() as u64;
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for TarStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// Reads the pieces of a blob that another thread sends.
struct Pipe<'a> {
    pieces: &'a Pieces,
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.pieces.take_back(std::mem::take(&mut self.piece));
            self.at = 0;
            // After the last piece, which is empty, none follows.
            self.piece = self.receiver.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
        }
        let n = (&self.piece[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}

/// Reports the number of bytes read to the progress display.
struct Counted<'a> {
    inner: SourceReader<'a>,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::progress::Silent;
    use crate::format::codec::{Compression, Encoder};

    /// Reads a blob on that many threads; stops after `most` bytes. Returns what was read.
    fn read_with(threads: usize, blob: &Vec<u8>, most: usize) -> (Vec<u8>, Result<Streamed>) {
        let budget = Budget::new(64 << 20, None);
        let limits = Limits::new(1 << 30, &[], &budget);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut seen = Vec::new();
        let read = |tar: &mut TarStream<'_>| {
            while let n @ 1.. = tar.fill_buf()?.len() {
                seen.extend_from_slice(tar.fill_buf()?);
                tar.consume(n);
                if seen.len() > most {
                    return Err(Error::malformed("enough"));
                }
            }
            Ok(())
        };
        let format = Format::of(blob).unwrap();
        let streamed =
            pool.install(|| super::read((blob, format), Some(&budget), &limits, &Silent, read));
        (seen, streamed)
    }

    fn blobs() -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut tar = vec![0; 5_000_001];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut tar);
        let encode = |name: &str| {
            let compression = Compression::new(name, None, None).unwrap();
            let mut encoder = Encoder::new(Vec::new(), &compression, 1, 5_000_001).unwrap();
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap().0
        };
        let blobs = ["none", "gzip", "zstd"].map(encode).to_vec();
        (tar, blobs)
    }

    #[test]
    fn threads_read_what_one_thread_reads() {
        let (tar, blobs) = blobs();
        for blob in blobs {
            for threads in [1, 4] {
                let (seen, streamed) = read_with(threads, &blob, usize::MAX);
                let Streamed { digest, diff_id, tar_bytes, spool } = streamed.unwrap();
                assert!(seen == tar && tar_bytes == tar.len() as u64);
                assert_eq!((digest, diff_id), (Digest::of(&blob), Digest::of(&tar)));
                let mut spooled = vec![0; tar.len()];
                spool.unwrap().read_exact_at(&mut spooled, 0).unwrap();
                assert!(spooled == tar);
            }
        }
    }

    #[test]
    fn all_threads_end_after_the_first_error() {
        let (tar, blobs) = blobs();
        for blob in &blobs {
            for most in [0, 300_000, 4_900_000] {
                let (_, streamed) = read_with(4, blob, most);
                assert_eq!(streamed.err().unwrap().to_string(), "enough");
            }
        }
        for blob in &blobs[1..] {
            let mut cut = blob.clone();
            cut.truncate(3_000_000);
            let one = read_with(1, &cut, usize::MAX);
            let four = read_with(4, &cut, usize::MAX);
            let text = |read: Result<Streamed>| read.err().unwrap().to_string();
            assert!(one.0 == four.0 && tar.starts_with(&four.0));
            let (one, four) = (text(one.1), text(four.1));
            assert!(one == four && four.contains("is cut off"), "{one} {four}");
        }
    }
}
