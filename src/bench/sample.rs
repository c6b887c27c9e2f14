//! Selection of a sample: the same bytes of the same files at every number of layers.
//!
//! A sample is not compressed alone, since a few MB from all over an image have fewer repetitions than the
//! whole. Each part is compressed after the bytes that precede it in its layer, and only what it adds is
//! counted: see [`super::stream`].

use crate::base::error::Result;
use crate::format::tar::{self, EntryKind};
use crate::model::content::{ReadAt, SourceReader};
use crate::model::fileset::{FileSet, InodeKind};
use crate::plan::PlannedLayer;

/// Bytes to which a tar's data is padded.
const BLOCK: u64 = 512;

/// Bytes of a layer's tar that are in a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// How a sample is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    /// Bytes of adjacent files that are taken together.
    pub(super) run: u64,
    /// Bytes before a run that are compressed with it.
    pub(super) context: u64,
    /// Divisor of the wanted bytes.
    pub(super) divisor: u64,
}

/// The selection of the bytes to measure with: runs at equal distances in the files in path order.
pub(super) struct Sample {
    pub(super) runs: Runs,
    /// Offset of each entry's content among all contents in path order.
    offsets: Vec<u64>,
    /// Distance of the runs. All bytes are selected if it is that of a run.
    distance: u64,
    /// Bytes in all files.
    pub(super) all_bytes: u64,
}

impl Sample {
    /// Selects about `wanted` bytes of files, or all if there are no more than that.
    pub(super) fn new(files: &FileSet, runs: Runs, wanted: u64) -> Self {
        let (run, wanted) = (runs.run, wanted / runs.divisor);
        let mut seen = vec![false; files.inodes().len()];
        let mut all_bytes = 0;
        let mut offsets = Vec::with_capacity(files.entries().len());
        for entry in files.entries() {
            offsets.push(all_bytes);
            if let InodeKind::File(file) = &files.inode(entry).kind
                && !std::mem::replace(&mut seen[entry.inode.index()], true)
            {
                all_bytes += file.size;
            }
        }
        let number = (wanted / run).max(1);
        let distance = if wanted >= all_bytes { run } else { (all_bytes / number).max(run) };
        Self { runs, offsets, distance, all_bytes }
    }

    /// Returns the selected bytes of files.
    pub(super) fn bytes(&self) -> u64 {
        let (runs, rest) = (self.all_bytes / self.distance, self.all_bytes % self.distance);
        runs * self.runs.run + self.within(rest)
    }

    /// Returns how many of the first `bytes` bytes of a period are selected. Runs are in the middle of
    /// their periods.
    fn within(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.lead()).min(self.runs.run)
    }

    fn lead(&self) -> u64 {
        (self.distance - self.runs.run) / 2
    }

    /// Returns the selected parts of a layer's tar, in order.
    ///
    /// # Errors
    /// If the tar can't be read.
    pub(super) fn parts(&self, layer: &PlannedLayer, tar: &dyn ReadAt) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut add = |start: u64, end: u64| match parts.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => parts.push(Part { start, end }),
        };
        let mut reader = tar::Reader::new(SourceReader::all(tar));
        let mut entries = layer.entries.iter();
        while let (Some(entry), Some(position)) = (reader.next_entry()?, entries.next()) {
            let size = match entry.kind {
                EntryKind::File { size, .. } => size,
                _ => 0,
            };
            let from = self.offsets[*position as usize];
            // A header belongs to the first byte of its file, padding to the last.
            if self.is_selected(from) {
                add(entry.header_offset, entry.data_offset);
            }
            let mut run = from / self.distance * self.distance + self.lead();
            while run < from + size {
                let (start, end) = (run.max(from) - from, (run + self.runs.run).min(from + size));
                if end > from + start {
                    let end = end - from;
                    let end = if end == size { end.next_multiple_of(BLOCK) } else { end };
                    add(entry.data_offset + start, entry.data_offset + end);
                }
                run += self.distance;
            }
        }
        Ok(parts)
    }

    fn is_selected(&self, offset: u64) -> bool {
        (self.lead()..self.lead() + self.runs.run).contains(&(offset % self.distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::encode;
    use crate::model::content::Budget;
    use crate::plan::analyze::{analyze, estimate, fixture::Fixture};
    use crate::plan::{self, Target};

    #[test]
    fn a_sample_has_the_same_bytes_at_every_number_of_layers() {
        let mut image = Fixture::default().file("opt/large", vec![7; 9 << 20]);
        for i in 0..1000 {
            let content = vec![i as u8; 10_000 + 31 * (i % 7)];
            image = image.file(&format!("srv/{}/{i:03}", i / 100), content);
        }
        let rootfs = image.build();
        let all: u64 = (0..1000).map(|i| 10_000 + 31 * (i % 7)).sum::<u64>() + (9 << 20);
        let inventory = estimate(&rootfs, analyze(&rootfs, &[]).unwrap(), 8, &[]).unwrap();
        let budget = Budget::new(1 << 26, None);
        let runs = Runs { run: 1 << 20, context: 0, divisor: 1 };
        for (wanted, least, most) in [(u64::MAX, all, all), (4 << 20, 3 << 20, 5 << 20)] {
            let sample = Sample::new(&rootfs.files, runs, wanted);
            assert_eq!(sample.all_bytes, all);
            assert!((least..=most).contains(&sample.bytes()), "{}", sample.bytes());
            for count in [1, 2, 5] {
                let planned = plan::PlanOptions::new(Target::Layers(count));
                let plan = plan::plan(&rootfs.files, &inventory, &planned);
                let layers: Vec<_> = plan.layers.iter().map(encode::LayerSpec::from).collect();
                let tars = encode::tars(&rootfs, &layers, &budget).unwrap();
                let mut selected = 0;
                for (layer, tar) in plan.layers.iter().zip(&tars) {
                    let parts = sample.parts(layer, tar.as_ref()).unwrap();
                    assert!(parts.windows(2).all(|p| p[0].end < p[1].start), "{parts:?}");
                    assert!(parts.iter().all(|p| p.start < p.end && p.end <= tar.size()));
                    selected += parts.iter().map(|p| p.end - p.start).sum::<u64>();
                }
                // Headers and padding come in addition.
                let share = sample.bytes() as f64 / all as f64;
                let more = selected as f64 / sample.bytes() as f64 - 1.0;
                assert!((0.02..0.12).contains(&more) || share < 1.0 && more < 0.15, "{more}");
            }
        }
    }
}
