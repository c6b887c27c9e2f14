//! Deltas as an attacker would write them: any content, with valid hashes. For tests and the fuzzer
//! only.

use std::io::Read;
use std::sync::Arc;

use super::apply::LayerTarReader;
use super::ops::OpReader;
use super::patch::PatchReader;
use super::stream::StreamReader;
use super::{Blobs, Delta, Header, Part};
use crate::base::error::Result;
use crate::model::content::{Budget, Source};
use crate::model::digest::Digest;
use crate::model::index::LayerIndex;

/// A blob with any content.
#[derive(Debug)]
pub struct HostileBlob {
    /// Bytes as they are in the delta.
    pub bytes: Vec<u8>,
    /// Stated number of uncompressed bytes.
    pub plain: u64,
    /// Whether it has patches of files; else it is a zstd frame.
    pub patches: bool,
    /// Layer, offset and bytes of its reference prefix.
    pub reference: Vec<(LayerIndex, u64, u64)>,
}

/// Makes a tar of at most `max` bytes from instructions and blobs, and returns its size. Every stream
/// has all blobs.
///
/// # Errors
/// If applying such a delta fails.
pub fn apply(old: Vec<u8>, ops: &[u8], packed: Vec<HostileBlob>, max: u64) -> Result<u64> {
    let budget = Budget::new(64 << 20, None);
    let (mut blobs, mut parts, mut patches) = (Blobs::new(&budget), Vec::new(), Vec::new());
    for p in packed {
        let blob = blobs.add(&p.bytes, p.plain)?;
        if p.patches {
            patches.push(blob);
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
    let delta = Delta::new(header, Arc::new(blobs.frames.finish()?), 0)?;
    let tars: [Source; 1] = [Arc::new(old)];
    let stream = || StreamReader::new(&delta, &tars, &parts, max);
    let tar = LayerTarReader {
        ops: OpReader::new(ops),
        op: None,
        headers: stream()?,
        data: stream()?,
        literals: stream()?,
        patches: PatchReader::new(&delta, &tars, &patches),
        tars: &tars,
        progress: &crate::base::progress::Silent,
    };
    Ok(std::io::copy(&mut tar.take(max), &mut std::io::sink())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range_coder::{Coder as _, RangeEncoder};
    use crate::delta::compress;
    use crate::delta::memory::WorkMemory;
    use crate::model::content::{ReadAt as _, Spool};

    fn zstd(plain: &[u8], stated: u64) -> HostileBlob {
        let bytes = compress(plain, &[], 3).unwrap();
        HostileBlob { bytes, plain: stated, patches: false, reference: Vec::new() }
    }

    fn patches(bytes: Vec<u8>) -> HostileBlob {
        HostileBlob { bytes, plain: 0, patches: true, reference: Vec::new() }
    }

    fn refused(old: &[u8], ops: &[u8], packed: Vec<HostileBlob>, word: &str) {
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
        refused(&[], &four, vec![zstd(b"abcd", 5)], "it expands to");
        refused(&[], &four, vec![zstd(b"abcd", 3)], "damaged");
        refused(&[], &four, vec![zstd(b"abc", 3)], "fewer bytes");
        refused(&[], &four, vec![zstd(b"", 0)], "invalid size");
        refused(&[], &four, vec![zstd(&[0; 100], 1 << 40)], "invalid size");
        refused(&[], &four, vec![], "fewer bytes");
    }

    #[test]
    fn only_bytes_of_the_old_image_are_copied_or_referred_to() {
        let copy = [op(100, 2), vec![0, 0]].concat();
        assert_eq!(apply(vec![7; 100], &copy, vec![], 1000).unwrap(), 100);
        refused(&[7; 99], &copy, vec![], "does not have");
        refused(&[7; 200], &[op(100, 2), vec![1, 0]].concat(), vec![], "does not have");
        refused(&[7; 200], &[op(100, 2), vec![0, 1]].concat(), vec![], "invalid instruction");
        for (layer, offset, bytes) in
            [(0, 0, 201), (0, u64::MAX, 2), (1, 0, 1), (0, 0, u64::MAX), (0, 0, 1 << 35)]
        {
            let mut part = zstd(b"abcd", 4);
            part.reference.push((LayerIndex::new(layer), offset, bytes));
            refused(&[7; 200], &op(4, 1), vec![part], "refer");
        }
    }

    #[test]
    fn empty_and_unknown_instructions_are_refused() {
        refused(&[], &op(0, 0), vec![], "invalid instruction");
        refused(&[], &[0], vec![], "invalid instruction");
        refused(&[], &op(9, 5), vec![], "invalid instruction");
    }

    #[test]
    fn invalid_patches_are_refused() {
        let file = [0x84, 0xf4, 0x03];
        refused(&[7; 8000], &file, vec![], "fewer patches");
        refused(&[7; 8000], &file, vec![patches(vec![])], "fewer patches");
        let begin = |numbers: &[u64]| {
            let mut writer = RangeEncoder::new();
            writer.raw_bits(1, 32);
            let mut model = crate::delta::model::PatchModel::new();
            model.place(&mut writer, [numbers[0], numbers[1], numbers[2]]);
            patches(writer.finish())
        };
        refused(&[7; 8000], &file, vec![begin(&[0, 0, 8001])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[1, 0, 8000])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[0, u64::MAX, 8000])], "does not have");
        refused(&[7; 8000], &file, vec![begin(&[0, 0, 1 << 40])], "beyond the limits");
        // A small file is not patched against a large one.
        refused(&[7; 8000], &op(100, 4), vec![begin(&[0, 0, 8000])], "beyond the limits");
        for fill in [0x55, 0xaa, 0xff, 0x80] {
            let mut writer = RangeEncoder::new();
            writer.raw_bits(1, 32);
            crate::delta::model::PatchModel::new().place(&mut writer, [0, 0, 8000]);
            let mut bytes = writer.finish();
            bytes.extend([fill; 400]);
            assert!(apply(vec![7; 8000], &file, vec![patches(bytes)], 1 << 20).is_err());
        }
    }

    /// Two versions of code that calls functions; padding before them grows in the new one.
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
    fn a_patched_file_is_reproduced() {
        let (old, new) = versions();
        let source: Source = Arc::new(new.clone());
        let region = crate::model::content::Region::new(Arc::clone(&source), 0, source.size());
        let place =
            crate::delta::Place { layer: LayerIndex::new(0), offset: 0, bytes: old.len() as u64 };
        let tars: [Source; 1] = [Arc::new(old.clone())];
        let work = WorkMemory::new(&Budget::new(1 << 30, None), 1);
        let patched = crate::delta::patch::write_patches(&[(place, region)], &tars, &work).unwrap();
        let read = |spool: Spool| {
            let mut bytes = vec![0; spool.size() as usize];
            spool.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let (bytes, rest) = (read(patched.bytes), read(patched.literals));
        // Half of the calls have targets that moved; the padding has 960 bytes.
        assert!(bytes.len() + rest.len() < 1900, "{} {}", bytes.len(), rest.len());
        let size = new.len() as u32;
        let ops = [size << 3 & 127 | 4 | 128, size >> 4 & 127 | 128, size >> 11].map(|b| b as u8);
        let literals = zstd(&rest, rest.len() as u64);
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
            piece(&[4, 0], &rest);
            std::fs::write(std::path::Path::new(&dir).join("patched"), seed).unwrap();
        }
        assert_eq!(
            apply(old, &ops, vec![patches(bytes), literals], 1 << 20).unwrap(),
            u64::from(size)
        );
    }
}
