//! The parts that decide how fast a split is, on data made here: `cargo bench`.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::io::{Read, Write, sink};
use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use relayer::base::progress::Silent;
use relayer::format::codec::{self, Compression, Encoder};
use relayer::format::recode;
use relayer::format::tar::{EntryKind, Metadata, Writer};
use relayer::layers::flatten::{self, Keep};
use relayer::model::content::{Budget, WindowBudget};
use relayer::model::digest::Digest;
use relayer::model::fileset::{Mtime, Xattrs};
use relayer::transport::image::LayerBlob;

fn main() {
    divan::main();
}

/// A layer of 20,000 files of 2 kB, half text, half noise.
fn layer() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let xattrs = Xattrs::new();
    let mut noise = vec![0; 1000];
    for i in 0..20_000u32 {
        let path = format!("usr/share/package-{:03}/file-{i:05}", i / 100);
        let text = format!("line {i} of a file that compresses\n").repeat(30);
        blake3::Hasher::new().update(&i.to_le_bytes()).finalize_xof().fill(&mut noise);
        let size = (text.len() + noise.len()) as u64;
        let kind = EntryKind::File { size, sparse: None };
        let (path, mtime) = (path.as_bytes(), Mtime::default());
        let m = Metadata { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: &xattrs };
        let mut file = writer.file(&m).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.write_all(&noise).unwrap();
        file.finish().unwrap();
    }
    writer.finish().unwrap()
}

fn encode(data: &[u8], name: &str, workers: u32) -> Vec<u8> {
    let compression = Compression::new(name, None, None).unwrap();
    let mut e = Encoder::new(Vec::new(), &compression, workers, data.len() as u64).unwrap();
    e.write_all(data).unwrap();
    e.finish().unwrap().0
}

#[divan::bench(args = ["zstd", "gzip"], sample_count = 5)]
fn encode_layer(bencher: Bencher<'_, '_>, name: &str) {
    let data = layer();
    bencher.counter(BytesCount::new(data.len())).bench(|| encode(&data, name, 1));
}

#[divan::bench(args = ["zstd", "gzip"], sample_count = 5)]
fn decode_layer(bencher: Bencher<'_, '_>, name: &str) {
    let data = layer();
    let blob = encode(&data, name, 2);
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let mut decoder = codec::decode(&blob[..], &WindowBudget::new(u64::MAX)).unwrap().1;
        std::io::copy(&mut decoder, &mut sink()).unwrap()
    });
}

#[divan::bench(sample_count = 5)]
fn flatten_plain_layer(bencher: Bencher<'_, '_>) {
    let data = layer();
    let (diff_id, source) = (Digest::of(&data), Arc::new(data.clone()));
    let budget = Budget::new(1 << 30, None);
    let blob = LayerBlob::undescribed("layer".into(), diff_id, source, u64::MAX, budget.windows())
        .unwrap();
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let layers = std::slice::from_ref(&blob);
        let read = flatten::read(layers, Keep::Contents, 1 << 40, &budget, &Silent).unwrap();
        read.flatten().unwrap().layers[0].tar_bytes
    });
}

#[divan::bench(sample_count = 5)]
fn hash_layer(bencher: Bencher<'_, '_>) {
    let data = layer();
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let mut h = relayer::model::digest::Hashing::new(&data[..]);
        h.read_to_end(&mut Vec::with_capacity(data.len())).unwrap();
        h.finish().1
    });
}

fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

#[divan::bench(args = [1, 6, 9], sample_count = 5)]
fn recode_analyze(bencher: Bencher<'_, '_>, level: u32) {
    let data = layer();
    let blob = gzip(&data, level);
    bencher
        .counter(BytesCount::new(data.len()))
        .bench(|| recode::analyze(&mut &blob[..], &mut sink(), &Silent).unwrap().unwrap());
}

#[divan::bench(args = [1, 6, 9], sample_count = 5)]
fn recode_rebuild(bencher: Bencher<'_, '_>, level: u32) {
    let data = layer();
    let blob = gzip(&data, level);
    let mut corrections = Vec::new();
    recode::analyze(&mut &blob[..], &mut corrections, &Silent).unwrap().unwrap();
    bencher.counter(BytesCount::new(data.len())).bench(|| {
        let size = blob.len() as u64;
        recode::rebuild(&mut &data[..], &mut &corrections[..], size, &mut sink()).unwrap();
    });
}
