//! Deltas as an attacker would write them: any content, with hashes that fit. For tests and the
//! fuzzer only.

use std::io::Read;
use std::sync::Arc;

use super::apply::Rebuild;
use super::ops::OpReader;
use super::patch::Remake;
use super::stream::Stream;
use super::{Blobs, Delta, Header, Part};
use crate::base::error::Result;
use crate::model::content::Source;
use crate::model::digest::Digest;

/// A blob: its packed bytes and what is said of them.
pub struct Packed {
    /// As it lies in the delta.
    pub bytes: Vec<u8>,
    /// Bytes that it is said to become.
    pub plain: u64,
    /// Whether it tells files; else it is a zstd frame.
    pub told: bool,
    /// Layer, offset and bytes that it has in sight.
    pub reference: Vec<(u32, u64, u64)>,
}

/// Makes a tar of at most `most` bytes by instructions and blobs, all of which are given to every
/// stream, and gives its size.
///
/// # Errors
/// What applying such a delta fails with.
pub fn apply(old: Vec<u8>, ops: &[u8], packed: Vec<Packed>, most: u64) -> Result<u64> {
    let (mut blobs, mut parts, mut told) = (Blobs::default(), Vec::new(), Vec::new());
    for p in packed {
        let blob = blobs.add(p.bytes, p.plain);
        if p.told {
            told.push(blob);
        } else {
            parts.push(Part { blob, reference: p.reference });
        }
    }
    let header = Header {
        writer: String::new(),
        old: Vec::new(),
        new: Digest::of(b""),
        names: Vec::new(),
        manifest: Default::default(),
        config: String::new(),
        layers: Vec::new(),
        blobs: blobs.headers,
    };
    let delta = Delta::new(header, Arc::new(blobs.frames), 0)?;
    let tars: [Source; 1] = [Arc::new(old)];
    let stream = || Stream::new(&delta, &tars, &parts, most);
    let tar = Rebuild {
        ops: OpReader::new(ops),
        now: None,
        heads: stream()?,
        data: stream()?,
        fresh: stream()?,
        told: Remake::new(&delta, &tars, &told),
        tars: &tars,
        progress: &crate::base::progress::Silent,
    };
    Ok(std::io::copy(&mut tar.take(most), &mut std::io::sink())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range_coder::{Coder as _, Encoder};
    use crate::delta::compress;

    fn zstd(plain: &[u8], said: u64) -> Packed {
        let bytes = compress(plain, &[], 3).unwrap();
        Packed { bytes, plain: said, told: false, reference: Vec::new() }
    }

    fn told(bytes: Vec<u8>) -> Packed {
        Packed { bytes, plain: 0, told: true, reference: Vec::new() }
    }

    fn refused(old: &[u8], ops: &[u8], packed: Vec<Packed>, word: &str) {
        let text = apply(old.to_vec(), ops, packed, 1 << 30).unwrap_err().to_string();
        assert!(text.contains(word), "{text}");
    }

    /// `bytes << 3 | kind`, below 2^14.
    fn op(bytes: u32, kind: u32) -> Vec<u8> {
        let n = bytes << 3 | kind;
        vec![n as u8 | 128, (n >> 7) as u8 & 127]
    }

    #[test]
    fn parts_of_other_sizes_than_stated_are_refused() {
        let four = op(4, 1);
        assert_eq!(apply(vec![], &four, vec![zstd(b"abcd", 4)], 100).unwrap(), 4);
        refused(&[], &four, vec![zstd(b"abcd", 5)], "bytes came out");
        refused(&[], &four, vec![zstd(b"abcd", 3)], "damaged");
        refused(&[], &four, vec![zstd(b"abc", 3)], "fewer bytes");
        refused(&[], &four, vec![zstd(b"", 0)], "size that can't be");
        refused(&[], &four, vec![zstd(&[0; 100], 1 << 40)], "size that can't be");
        refused(&[], &four, vec![], "fewer bytes");
    }

    #[test]
    fn nothing_but_the_old_image_is_copied_or_referred_to() {
        let copy = [op(100, 2), vec![0, 0]].concat();
        assert_eq!(apply(vec![7; 100], &copy, vec![], 1000).unwrap(), 100);
        refused(&[7; 99], &copy, vec![], "does not have");
        refused(&[7; 200], &[op(100, 2), vec![1, 0]].concat(), vec![], "does not have");
        refused(&[7; 200], &[op(100, 2), vec![0, 1]].concat(), vec![], "damaged");
        for reference in
            [(0, 0, 201), (0, u64::MAX, 2), (1, 0, 1), (0, 0, u64::MAX), (0, 0, 1 << 35)]
        {
            let mut part = zstd(b"abcd", 4);
            part.reference.push(reference);
            refused(&[7; 200], &op(4, 1), vec![part], "refer");
        }
    }

    #[test]
    fn instructions_that_do_nothing_are_refused() {
        refused(&[], &op(0, 0), vec![], "damaged");
        refused(&[], &[0], vec![], "damaged");
        refused(&[], &op(9, 5), vec![], "damaged");
    }

    #[test]
    fn files_that_are_told_wrongly_are_refused() {
        let file = [0x84, 0xf4, 0x03];
        refused(&[7; 8000], &file, vec![], "fewer files");
        refused(&[7; 8000], &file, vec![told(vec![])], "fewer files");
        let begin = |numbers: &[u64]| {
            let mut writer = Encoder::new();
            writer.raw_bits(1, 32);
            let mut model = crate::delta::model::Model::new();
            model.place(&mut writer, [numbers[0], numbers[1], numbers[2]]);
            told(writer.finish())
        };
        refused(&[7; 8000], &file, vec![begin(&[0, 0, 8001])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[1, 0, 8000])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[0, u64::MAX, 8000])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[0, 0, 1 << 40])], "another size");
        // A small file can't have a large one read.
        refused(&[7; 8000], &op(100, 4), vec![begin(&[0, 0, 8000])], "another size");
        for fill in [0x55, 0xaa, 0xff, 0x80] {
            let mut writer = Encoder::new();
            writer.raw_bits(1, 32);
            crate::delta::model::Model::new().place(&mut writer, [0, 0, 8000]);
            let mut bytes = writer.finish();
            bytes.extend([fill; 400]);
            assert!(apply(vec![7; 8000], &file, vec![told(bytes)], 1 << 20).is_err());
        }
    }

    /// Code that calls what comes after something that has grown in the new one.
    fn versions() -> (Vec<u8>, Vec<u8>) {
        let version = |grown: usize| {
            let mut code = vec![0x90; grown];
            for i in 0..1000usize {
                let (at, to) =
                    (code.len() + 5, (i * 37 % 1000) * 12 + if i % 2 == 0 { grown } else { 0 });
                code.push(0xe8);
                code.extend((to.wrapping_sub(at) as u32).to_le_bytes());
                code.extend([i as u8, (i >> 3) as u8, 1, 2, (i * 7) as u8, 4, 5]);
            }
            crate::delta::elf::tests::program(&code)
        };
        (version(40), version(1000))
    }

    #[test]
    fn what_is_told_is_made() {
        let (old, new) = versions();
        let source: Source = Arc::new(new.clone());
        let region = crate::model::content::Region::new(Arc::clone(&source), 0, source.size());
        let place = crate::delta::Place { layer: 0, offset: 0, bytes: old.len() as u64 };
        let tars: [Source; 1] = [Arc::new(old.clone())];
        let (bytes, rest) = crate::delta::patch::tell(&[(place, region)], &tars).unwrap();
        // Half of the calls are to what has moved, half are not; the fill is 960 bytes.
        assert!(bytes.len() + rest[0].len() < 1900, "{} {}", bytes.len(), rest[0].len());
        let size = new.len() as u32;
        let ops = [size << 3 & 127 | 4 | 128, size >> 4 & 127 | 128, size >> 11].map(|b| b as u8);
        let fresh = zstd(&rest[0], rest[0].len() as u64);
        if let Some(dir) = std::env::var_os("RELAYER_SEEDS") {
            let mut seed = Vec::new();
            let mut piece = |head: &[u8], bytes: &[u8]| {
                seed.extend(head);
                seed.extend((bytes.len() as u16).to_le_bytes());
                seed.extend(bytes);
            };
            piece(&[], &old);
            piece(&[], &ops);
            piece(&[2, 0], &bytes);
            piece(&[4, 0], &rest[0]);
            std::fs::write(std::path::Path::new(&dir).join("told"), seed).unwrap();
        }
        assert_eq!(apply(old, &ops, vec![told(bytes), fresh], 1 << 20).unwrap(), u64::from(size));
    }
}
