//! Blobs of other encoders, whole and damaged.

use std::io::{Read, Write};

use flate2::{Compress, Compression, FlushCompress, GzBuilder};
use proptest::prelude::*;

use super::*;
use crate::base::progress::Silent;
use crate::base::testing::{needs, tool};

/// Words, with noise and zeros between: `size` bytes, the same each time.
fn sample(size: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(size + 5000);
    let mut noise = vec![0; 400];
    for i in 0u32.. {
        if data.len() >= size {
            break;
        }
        blake3::Hasher::new().update(&i.to_le_bytes()).finalize_xof().fill(&mut noise);
        for (j, byte) in noise.iter().enumerate() {
            let n = u32::from(*byte) * 7 + j as u32 % 3;
            data.extend_from_slice(format!("{} ", (n * n) >> 3).as_bytes());
        }
        data.extend_from_slice(&noise[..(i % 300) as usize]);
        data.resize(data.len() + (i as usize * i as usize) % 900, 0);
    }
    data.truncate(size);
    data
}

fn plain_of(blob: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(blob);
    let _ = decoder.read_to_end(&mut plain);
    plain
}

fn analyzed(blob: &[u8]) -> Option<(GzipAnalysis, Vec<u8>)> {
    let mut corrections = Vec::new();
    let analysis = analyze(&mut &blob[..], &mut corrections, &Silent).unwrap()?;
    Some((analysis, corrections))
}

fn rebuilt(plain: &[u8], corrections: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    rebuild(&mut &plain[..], &mut &corrections[..], size as u64, &mut out).map(|()| out)
}

/// Checks that a blob is reproduced, and returns the size of its corrections.
fn cost(blob: &[u8], plain: &[u8]) -> usize {
    let (analysis, corrections) = analyzed(blob).unwrap();
    assert_eq!(analysis.size, blob.len() as u64);
    assert_eq!(analysis.corrections, corrections.len() as u64);
    assert_eq!((analysis.plain, analysis.plain_size), (Digest::of(plain), plain.len() as u64));
    assert!(rebuilt(plain, &corrections, blob.len()).unwrap() == blob);
    corrections.len()
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder =
        GzBuilder::new().filename("a name").mtime(77).write(Vec::new(), Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn blobs_of_an_encoder_without_a_model() {
    let plain = sample(1_200_000);
    for level in [0, 1, 2, 3, 6, 9] {
        let blob = gzip(&plain, level);
        let cost = cost(&blob, &plain);
        // zlib-rs searches as zlib-ng does, which has no model.
        assert!(cost < blob.len() / 5, "level {level}: {cost} of {}", blob.len());
    }
}

#[test]
fn blobs_of_tools_need_small_corrections() {
    if !needs("gzip, pigz") {
        return;
    }
    let plain = sample(2_200_000);
    let dir = std::env::temp_dir();
    for level in ["-1", "-3", "-4", "-6", "-9"] {
        let blob = tool("gzip", &["-n", level], &dir, &plain);
        let cost = cost(&blob, &plain);
        assert!(cost < blob.len() / 300, "gzip {level}: {cost} of {}", blob.len());
    }
    for args in [["-6", "-b", "128"], ["-1", "-b", "512"], ["-9", "-b", "1024"]] {
        let blob = tool("pigz", &[&["-n", "-p", "3"][..], &args].concat(), &dir, &plain);
        assert!(cost(&blob, &plain) < blob.len() / 300, "pigz {args:?}");
    }
}

#[test]
fn members_garbage_and_empty_input() {
    let plain = sample(400_000);
    for part in [0, 1, 2, 40, 1000, 70_000] {
        let blob = gzip(&plain[..part], 6);
        let many = blob.repeat(5);
        let Some((_, corrections)) = analyzed(&many) else {
            assert!(part < 100);
            continue;
        };
        assert_eq!(rebuilt(&plain[..part].repeat(5), &corrections, many.len()).unwrap(), many);
    }
    let blob = gzip(&plain, 6);
    let alone = cost(&blob, &plain);
    for tail in [&vec![0; 100_000][..], b"garbage", &[0x1f, 0x8b]] {
        assert!(cost(&[&blob[..], tail].concat(), &plain) < alone + 3000);
    }
    // A member for each file, as in stargz.
    let files: Vec<u8> = plain.chunks(5000).flat_map(|file| gzip(file, 9)).collect();
    assert!(cost(&files, &plain) < files.len() / 8);
    for (blob, what) in [
        (&b""[..], "empty"),
        (b"\x1f\x8b", "part of a header"),
        (b"bytes that are not compressed at all", "not gzip"),
        (&blob[..blob.len() / 2], "half"),
        (&blob[..blob.len() - 8], "no trailer"),
        (&blob[..blob.len() - 1], "less than a trailer"),
    ] {
        assert!(analyzed(blob).is_none(), "{what}");
    }
}

#[test]
fn flushes_and_long_blocks() {
    let plain = [sample(1_500_000), vec![0; 7_000_000], sample(200_000)].concat();
    let mut deflate = Compress::new(Compression::new(6), false);
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    blob.reserve(plain.len());
    for (i, part) in plain.chunks(400_000).enumerate() {
        let flush = [FlushCompress::Sync, FlushCompress::Full, FlushCompress::None][i % 3];
        deflate.compress_vec(part, &mut blob, flush).unwrap();
    }
    deflate.compress_vec(&[], &mut blob, FlushCompress::Finish).unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(&plain);
    blob.extend(crc.sum().to_le_bytes());
    blob.extend(crc.amount().to_le_bytes());
    assert!(plain_of(&blob) == plain);
    assert!(cost(&blob, &plain) < blob.len() / 10);
    // A single block: segments begin and end inside it.
    let noise: Vec<u8> = plain[..1_000_000].repeat(6);
    let blob = gzip(&noise, 6);
    cost(&blob, &noise);
}

#[test]
fn corrections_do_not_depend_on_threads() {
    if !needs("gzip") {
        return;
    }
    let plain = sample(1_300_000);
    let dir = std::env::temp_dir();
    // Members of several encoders, so that no model fits for long.
    let levels = ["-1", "-9", "-3", "-6"];
    let blob: Vec<u8> =
        levels.iter().flat_map(|level| tool("gzip", &["-n", level], &dir, &plain)).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| analyzed(&blob).unwrap().1)
    };
    let one = with(1);
    assert!(rebuilt(&plain.repeat(levels.len()), &one, blob.len()).unwrap() == blob);
    for threads in [2, 7] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let plain = sample(1_200_000);
    let blob = gzip(&plain, 6);
    let (_, corrections) = analyzed(&blob).unwrap();
    let size = blob.len();
    let fails = |plain: &[u8], corrections: &[u8], size: usize| {
        rebuilt(plain, corrections, size).map(|again| again.len()).unwrap_err().to_string()
    };
    assert!(fails(&plain[1..], &corrections, size).contains("fewer uncompressed bytes"));
    assert!(fails(&plain, &corrections, size - 1).contains("has more than"));
    assert!(fails(&plain, &corrections, size + 1).contains("not"));
    assert!(fails(&plain, &corrections[..corrections.len() - 1], size).contains("truncated"));
    assert!(fails(&plain, b"\x09", size).contains("version 9"));
    assert!(fails(&plain, b"", size).contains("reading corrections"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn compressed_bytes_are_reproduced(
        seed in prop::collection::vec(any::<u8>(), 0..400),
        repeat in 1..300usize,
        level in 0..=9u32,
    ) {
        let plain = seed.repeat(repeat);
        let blob = gzip(&plain, level);
        if let Some((_, corrections)) = analyzed(&blob) {
            prop_assert!(rebuilt(&plain, &corrections, blob.len()).unwrap() == blob);
        }
    }

    #[test]
    fn damaged_corrections_end_without_panic(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
    ) {
        let plain = sample(90_000);
        let mut corrections = analyzed(&gzip(&plain, 6)).unwrap().1;
        for (place, byte) in places {
            let i = place.index(corrections.len());
            corrections[i] = byte;
        }
        let _ = rebuilt(&plain, &corrections, 1 << 22);
    }

    #[test]
    fn any_corrections_end_without_panic(
        plain in prop::collection::vec(any::<u8>(), 0..3000),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        model in 0..100u8,
        part in any::<prop::sample::Index>(),
    ) {
        let mut corrections = vec![VERSION, model];
        crate::base::varint::put(&mut corrections, part.index(plain.len() + 1) as u64);
        crate::base::varint::put(&mut corrections, payload.len() as u64);
        corrections.extend(payload);
        let _ = rebuilt(&plain, &corrections, 1 << 22);
    }
}
