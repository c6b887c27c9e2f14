//! Bytes that are written once and then read at any offset.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};

use super::{BlobWriter, Budget, ReadAt, Source};
use crate::base::error::Result;
use crate::model::digest::Digest;

/// Size of the pieces by which a spool takes memory or space in the temporary files.
pub(super) const STEP: i64 = 1 << 20;
pub(super) const SEGMENT: usize = STEP as usize;

pub(super) enum Segment {
    Memory(Box<[u8]>),
    File(u64),
    /// Its spool was dropped, and its memory or space was released.
    Gone,
}

/// A segment, which may move to a file while other threads read.
pub(super) struct Slot(RwLock<Segment>);

impl Slot {
    pub(super) fn new(segment: Segment) -> Arc<Self> {
        Arc::new(Self(RwLock::new(segment)))
    }

    /// Moves the segment to a file.
    pub(super) fn evict(&self, budget: &Budget) -> Result<()> {
        let mut segment = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Segment::Memory(bytes) = &*segment {
            *segment = Segment::File(budget.write(bytes)?);
            budget.release_memory();
        }
        Ok(())
    }
}

/// Bytes that were written once, from front to back, and can be read at any offset.
pub struct Spool {
    budget: Arc<Budget>,
    segments: Vec<Arc<Slot>>,
    size: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("size", &self.size).finish_non_exhaustive()
    }
}

impl ReadAt for Spool {
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let within = (offset % SEGMENT as u64) as usize;
            let n = buf.len().min(SEGMENT - within);
            let (now, later) = buf.split_at_mut(n);
            let slot = &self.segments[(offset / SEGMENT as u64) as usize];
            match &*slot.0.read().unwrap_or_else(PoisonError::into_inner) {
                Segment::Memory(bytes) => now.copy_from_slice(&bytes[within..within + n]),
                Segment::File(at) => {
                    self.budget.file(*at)?.read_exact_at(now, at + within as u64)?;
                }
                Segment::Gone => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            buf = later;
            offset += n as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn is_in_memory(&self) -> bool {
        let segment = |slot: &Arc<Slot>| {
            let segment = slot.0.read().unwrap_or_else(PoisonError::into_inner);
            matches!(*segment, Segment::Memory(_))
        };
        self.segments.iter().all(segment)
    }
}

impl Spool {
    /// Removes the segments from `first` on, and releases their memory and space.
    fn remove_from(&mut self, first: usize) {
        for slot in self.segments.drain(first..) {
            // Another thread may be about to move the segment to a file; the lock prevents that.
            let mut segment = slot.0.write().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *segment, Segment::Gone) {
                Segment::Memory(_) => self.budget.release_memory(),
                Segment::File(at) => self.budget.release_space(at),
                Segment::Gone => {}
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.remove_from(0);
    }
}

/// Fills a [`Spool`].
pub struct SpoolWriter {
    spool: Spool,
    /// The segment being filled.
    pending: Vec<u8>,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter").field("spool", &self.spool).finish_non_exhaustive()
    }
}

impl SpoolWriter {
    /// Creates a writer whose spool takes memory from `budget`.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            spool: Spool { budget: Arc::clone(budget), segments: Vec::new(), size: 0 },
            pending: Vec::new(),
        }
    }

    /// Returns the number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.spool.size + self.pending.len() as u64
    }

    /// Removes the last bytes, so that `size` bytes remain.
    ///
    /// # Errors
    /// If a temporary file can't be read.
    pub(crate) fn cut(&mut self, size: u64) -> io::Result<()> {
        if let Some(rest) = size.checked_sub(self.spool.size) {
            self.pending.truncate(rest as usize);
            return Ok(());
        }
        // All segments are full.
        let first = (size / SEGMENT as u64) as usize;
        let kept = (first * SEGMENT) as u64;
        self.pending.resize(SEGMENT, 0);
        self.pending.truncate((size - kept) as usize);
        self.spool.read_exact_at(&mut self.pending, kept)?;
        self.spool.remove_from(first);
        self.spool.size = kept;
        Ok(())
    }

    /// Returns the spool of everything written.
    ///
    /// # Errors
    /// If a temporary file can't be written.
    pub fn finish(mut self) -> Result<Spool> {
        self.store()?;
        Ok(self.spool)
    }

    fn store(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.spool.size += self.pending.len() as u64;
            self.spool.segments.push(self.spool.budget.store(&mut self.pending)?);
        }
        Ok(())
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(SEGMENT);
        }
        let n = buf.len().min(SEGMENT - self.pending.len());
        self.pending.extend_from_slice(&buf[..n]);
        if self.pending.len() == SEGMENT {
            self.store()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter for SpoolWriter {
    fn complete(self: Box<Self>, _: Digest) -> Result<Source> {
        Ok(Arc::new(self.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    /// Returns a budget with memory for that number of segments.
    fn budget(segments: u64) -> Arc<Budget> {
        let windows = 8 << 20;
        let budget = Budget::new(windows + (segments * SEGMENT as u64).div_ceil(7) * 8, None);
        assert_eq!(budget.state().0 / STEP, segments.cast_signed());
        let rest = budget.state().0 % STEP;
        budget.add_index(rest as u64).unwrap();
        budget
    }

    #[test]
    fn a_dropped_spool_releases_its_memory_and_its_space_in_the_file() {
        let budget = budget(2);
        let want = bytes(4 * SEGMENT + 77);
        let mut w = SpoolWriter::new(&budget);
        for part in want.chunks(300_007) {
            w.write_all(part).unwrap();
        }
        let spool = w.finish().unwrap();
        assert_eq!(spool.size(), want.len() as u64);
        assert!(budget.state().2);
        let mut got = vec![0; want.len()];
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
        let mut part = vec![0; SEGMENT];
        spool.read_exact_at(&mut part, 2 * SEGMENT as u64 - 5).unwrap();
        assert!(part == want[2 * SEGMENT - 5..3 * SEGMENT - 5]);
        assert!(spool.read_exact_at(&mut part, want.len() as u64 - 5).is_err());
        drop(spool);
        assert_eq!(budget.state().0, 2 * STEP);
        // Its space in the file is reused.
        let before = budget.state().1;
        let mut w = SpoolWriter::new(&budget);
        w.write_all(&want).unwrap();
        let spool = w.finish().unwrap();
        assert_eq!(budget.state().1, before);
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
    }

    #[test]
    fn what_is_cut_off_releases_its_memory_and_the_rest_can_be_read() {
        let want = bytes(4 * SEGMENT);
        for memory in [8, 1] {
            for size in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 5, 3 * SEGMENT, 3 * SEGMENT + 77] {
                let budget = budget(memory);
                let mut w = SpoolWriter::new(&budget);
                w.write_all(&want[..3 * SEGMENT + 77]).unwrap();
                w.cut(size as u64).unwrap();
                assert_eq!(w.size(), size as u64);
                let used = (size / SEGMENT) as u64;
                assert_eq!(budget.state().0, memory.saturating_sub(used).cast_signed() * STEP);
                w.write_all(&want[size..]).unwrap();
                let spool = w.finish().unwrap();
                let mut got = vec![0; want.len()];
                spool.read_exact_at(&mut got, 0).unwrap();
                assert!(got == want && spool.size() == want.len() as u64);
            }
        }
    }

    #[test]
    fn spools_move_to_the_file_when_an_index_grows_and_can_still_be_read() {
        let budget = budget(4);
        let want = bytes(4 * SEGMENT);
        let mut w = SpoolWriter::new(&budget);
        w.write_all(&want).unwrap();
        let spool = w.finish().unwrap();
        assert_eq!(budget.state(), (0, 0, false));
        budget.add_index(3 * SEGMENT as u64 / 2).unwrap();
        assert_eq!(budget.state(), (STEP / 2, 2 * SEGMENT as u64, true));
        let mut got = vec![0; want.len()];
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
        // An index larger than all spools does not hang.
        budget.add_index(10 * SEGMENT as u64).unwrap();
        spool.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
        budget.remove_index(23 * SEGMENT as u64 / 2);
        drop(spool);
        assert_eq!(budget.state().0, 4 * STEP);
        assert!(budget.add_index(1 << 40).is_err());
    }

    #[test]
    fn a_segment_moved_while_its_spool_is_dropped_is_released_once() {
        let budget = budget(4);
        let mut w = SpoolWriter::new(&budget);
        w.write_all(&bytes(SEGMENT)).unwrap();
        let spool = w.finish().unwrap();
        let slot = Arc::clone(&spool.segments[0]);
        drop(spool);
        slot.evict(&budget).unwrap();
        assert_eq!(budget.state(), (4 * STEP, 0, false));
    }

    #[test]
    fn decoders_wait_for_memory_for_their_windows() {
        let windows = super::super::WindowBudget::new(0);
        let first = windows.reserve(6 << 20).unwrap();
        assert!(windows.reserve(9 << 20).is_err());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| windows.reserve(6 << 20).unwrap().bytes());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!second.is_finished());
            drop(first);
            assert_eq!(second.join().unwrap(), 6 << 20);
        });
    }
}
