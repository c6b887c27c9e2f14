//! What the size of chunks decides: run over sequences of images, it prints a table of unique
//! bytes, chunks, index and speed for each size.
//!
//! `cargo bench --bench chunks -- CORPUS NAME…`, where `CORPUS/NAME/*.oci` are versions of an
//! image in order. docs/STORE.md has the results.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a table for whoever runs it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastcdc::v2020::FastCDC;
use relayer::base::progress::Silent;
use relayer::layers::flatten::{self, Keep};
use relayer::model::content::{Budget, SourceReader};
use relayer::transport::{Reference, open};

/// Chunks are compressed together in frames of so many bytes.
const PACK: usize = 4 << 20;
/// What the store keeps of a chunk beside its bytes: hash and number in one table, hash and size
/// in the other.
const INDEX: u64 = 32 + 8 + 32 + 3;

/// One way to cut files.
struct Way {
    average: Option<usize>,
    seen: BTreeSet<[u8; 32]>,
    pending: Vec<u8>,
    bytes: u64,
    unique: u64,
    packed: u64,
    cutting: Duration,
}

impl Way {
    fn new(average: Option<usize>) -> Self {
        let (seen, pending, cutting) = (BTreeSet::new(), Vec::new(), Duration::ZERO);
        Self { average, seen, pending, bytes: 0, unique: 0, packed: 0, cutting }
    }

    fn file(&mut self, file: &[u8]) {
        let start = Instant::now();
        let chunks: Vec<(&[u8], [u8; 32])> = match self.average {
            None => vec![(file, blake3::hash(file).into())],
            Some(average) => FastCDC::new(file, average / 4, average, average * 4)
                .map(|c| &file[c.offset..c.offset + c.length])
                .map(|c| (c, blake3::hash(c).into()))
                .collect(),
        };
        self.cutting += start.elapsed();
        self.bytes += file.len() as u64;
        for (chunk, hash) in chunks {
            if self.seen.insert(hash) {
                self.unique += chunk.len() as u64;
                self.pending.extend_from_slice(chunk);
            }
            if self.pending.len() >= PACK {
                self.pack();
            }
        }
    }

    fn pack(&mut self) {
        self.packed += zstd::bulk::compress(&self.pending, 3).unwrap().len() as u64;
        self.pending.clear();
    }

    fn row(&mut self, name: &str) {
        self.pack();
        let chunks = self.seen.len() as u64;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "| {name} | {} | {:.1} | {:.1} | {chunks} | {:.2} | {:.0} |",
            self.average.map_or("whole files".into(), |n| format!("{} KiB", n >> 10)),
            mb(self.unique),
            mb(self.packed),
            mb(chunks * INDEX),
            mb(self.bytes) / self.cutting.as_secs_f64()
        );
    }
}

/// Shows each file of an image that has not been seen.
fn files(image: &Path, known: &mut BTreeSet<[u8; 32]>, each: &mut dyn FnMut(&[u8])) {
    let budget = Budget::new(1 << 30, None);
    let max = 64 << 30;
    let opened =
        open::open(&Reference::file(image), None, &open::Access::new(&budget, max)).unwrap();
    let layers = &opened.images[0].layers;
    let read = flatten::read(layers, Keep::Contents, max, &budget, &Silent).unwrap();
    for layer in &read.layers {
        for span in layer.spans() {
            if known.insert(span.file.hash) {
                let mut bytes = Vec::new();
                let mut file =
                    SourceReader::new(layer.source.as_ref(), span.offset, span.file.size);
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                each(&bytes);
            }
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let Some(corpus) = args.next() else {
        return println!("usage: cargo bench --bench chunks -- CORPUS NAME…");
    };
    println!("| sequence | average | unique MB | in frames, MB | chunks | index MB | MB/s |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for name in args {
        let mut versions: Vec<PathBuf> = std::fs::read_dir(Path::new(&corpus).join(&name))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "oci"))
            .collect();
        versions.sort();
        let sizes = [None, Some(8), Some(16), Some(32), Some(64), Some(128), Some(256)];
        let mut ways: Vec<Way> = sizes.map(|n| Way::new(n.map(|n: usize| n << 10))).into();
        let mut known = BTreeSet::new();
        for version in versions {
            files(&version, &mut known, &mut |file| ways.iter_mut().for_each(|way| way.file(file)));
        }
        for way in &mut ways {
            way.row(&name);
        }
    }
}
