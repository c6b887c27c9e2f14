//! Any instructions, blobs and old bytes, with valid hashes: the result is an error, or a tar within
//! the requested size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relayer::delta::hostile::{HostileBlob, apply};
use relayer::model::index::LayerIndex;

/// The next piece, with two bytes before it that say how long it is.
fn piece<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let Some((size, rest)) = data.split_first_chunk::<2>() else { return &[] };
    let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes(*size)).min(rest.len()));
    *data = rest;
    piece
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let old = piece(&mut data).to_vec();
    let ops = piece(&mut data);
    let mut packed = Vec::new();
    while let Some((&[form, plain], rest)) = data.split_first_chunk::<2>() {
        data = rest;
        let bytes = piece(&mut data).to_vec();
        // Some blobs are valid zstd, else the fuzzer never gets past the codec.
        let (bytes, plain) = match form & 12 {
            4 => (zstd_of(&bytes), bytes.len() as u64),
            _ => (bytes, u64::from(plain) << (form >> 4)),
        };
        let reference =
            if form & 8 > 0 { vec![(LayerIndex::new(0), u64::from(form), old.len() as u64)] } else { vec![] };
        packed.push(HostileBlob {
            bytes,
            plain,
            patches: form & 12 != 4 && form & 3 > 0,
            reference,
        });
    }
    if let Ok(made) = apply(old, ops, packed, 1 << 22) {
        assert!(made <= 1 << 22);
    }
});

/// A zstd frame with one raw block: no codec is needed to write it.
fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() as u32;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend(size.to_le_bytes());
    frame.extend(&(size << 3 | 1).to_le_bytes()[..3]);
    frame.extend(bytes);
    frame
}
