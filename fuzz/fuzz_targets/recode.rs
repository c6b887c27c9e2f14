//! Any bytes as a blob and as corrections: neither may panic, and a blob that was analyzed must be
//! reproduced.

#![no_main]

use std::io::Read;

use flate2::read::DeflateDecoder;
use libfuzzer_sys::fuzz_target;
use relayer::base::progress::Silent;
use relayer::format::recode;

/// The bytes as they are, or as the deflate stream of a gzip member.
fn check(blob: &[u8]) {
    let mut corrections = Vec::new();
    let analysis = recode::analyze(&mut &blob[..], &mut corrections, &Silent).unwrap();
    let Some(analysis) = analysis else { return };
    let mut plain = Vec::new();
    let mut left = blob;
    // An independent decoder must agree on the uncompressed bytes of a single member.
    if left[..4] == [0x1f, 0x8b, 8, 0] {
        left = &left[10..];
        DeflateDecoder::new(left).read_to_end(&mut plain).unwrap();
        if plain.len() as u64 != analysis.plain_size {
            return;
        }
        let mut out = Vec::new();
        let size = blob.len() as u64;
        recode::rebuild(&mut &plain[..], &mut &corrections[..], size, &mut out).unwrap();
        assert_eq!(out, blob);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 3 {
        0 => check(rest),
        1 => check(&[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], rest].concat()),
        _ => {
            let plain: Vec<u8> = rest.iter().cycle().take(rest.len() * 50).copied().collect();
            let mut out = Vec::new();
            let _ = recode::rebuild(&mut &plain[..], &mut &rest[..], 1 << 20, &mut out);
        }
    }
});
