//! The same bytes for every number of workers, and readers that accept them.

use std::io::{Read, Write};
use std::path::Path;

use super::*;
use crate::base::error::ErrorKind;
use crate::base::testing::{needs, tool};
use crate::model::digest::Digest;

/// Text-like, binary-like and incompressible parts, the same on every machine.
fn sample(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(b"relayer").finalize_xof().fill(&mut out);
    for (i, part) in out.chunks_mut(50_000).enumerate() {
        match i % 3 {
            0 => part.iter_mut().for_each(|b| *b = b"etaoin shrdlu\n"[usize::from(*b % 14)]),
            1 => part.iter_mut().for_each(|b| *b &= 0x11),
            _ => {}
        }
    }
    // Something that is far back, too.
    let half = bytes / 2;
    let (front, back) = out.split_at_mut(half);
    let n = back.len().min(front.len()) / 2;
    back[..n].copy_from_slice(&front[..n]);
    out
}

fn compress(data: &[u8], compression: Compression, workers: u32, step: usize) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new(), &compression, workers, data.len() as u64).unwrap();
    data.chunks(step).for_each(|part| e.write_all(part).unwrap());
    e.finish().unwrap().0
}

fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    decode(data, &WindowBudget::new(u64::MAX))?.1.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn bytes_do_not_depend_on_workers_or_writes() {
    let data = sample(40 << 20);
    for (name, level) in [("zstd", 3), ("gzip", 1)] {
        let compression = Compression::new(name, Some(level), None).unwrap();
        let one = compress(&data, compression, 1, 1 << 20);
        for (workers, step) in [(2, 65_536), (3, 7_777_777), (7, 1 << 20)] {
            assert!(one == compress(&data, compression, workers, step), "{name} {workers}");
        }
        assert!(decompress(&one).unwrap() == data);
        if needs(name) {
            assert!(tool(name, &["-dc"], Path::new("/"), &one) == data, "{name}(1) reads it");
        }
    }
}

#[test]
fn boundaries_of_parts_are_safe() {
    let gzip = Compression::new("gzip", None, None).unwrap();
    for size in [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20] {
        let data = sample(size);
        let one = compress(&data, gzip, 1, 100_000);
        for workers in [2, 3] {
            assert!(one == compress(&data, gzip, workers, 333_333), "{size} {workers}");
        }
        if needs("gzip") {
            assert!(tool("gzip", &["-dc"], Path::new("/"), &one) == data, "{size}");
        }
    }
}

/// Of a part with a last block of each type.
#[test]
fn parts_of_all_kinds_of_blocks_are_joined() {
    let gzip = Compression::new("gzip", None, None).unwrap();
    let mut random = vec![0; 4 << 20];
    blake3::Hasher::new().update(b"random").finalize_xof().fill(&mut random);
    let mut changing = sample(4 << 20);
    changing[(4 << 20) - 100_000..].copy_from_slice(&random[..100_000]);
    for part in [random, vec![7; 4 << 20], changing] {
        let data = [&part[..], &part, b"end"].concat();
        assert!(decompress(&compress(&data, gzip, 2, 1 << 20)).unwrap() == data);
    }
}

/// A library update that changes these changes the digest of every image: say so in CHANGELOG.md.
#[test]
fn the_bytes_are_known() {
    for (name, level, size, want) in [
        ("zstd", 3, 3 << 20, "547537e9ea7a2446903438221e5739ddd7a1d2799cfc2ddbf7385061b85466f3"),
        ("zstd", 19, 3 << 20, "acab30b4862055bf206affd992bb8e6bf0b597631da58513f62f8acabe4c0b65"),
        ("gzip", 6, 9 << 20, "ce3e415578557de7e8a290deb08e166c475a33690340db89d1379aeee6ac049e"),
    ] {
        let compression = Compression::new(name, Some(level), None).unwrap();
        let digest = Digest::of(&compress(&sample(size), compression, 2, 1 << 20));
        assert_eq!(digest.hex(), want, "{compression}");
    }
}

#[test]
fn one_frame_with_its_size_and_a_small_window() {
    let data = sample(30 << 20);
    for level in [3, 22] {
        let c = Compression::new("zstd", Some(level), None).unwrap();
        let part = if level == 22 { &data[..9 << 20] } else { &data[..] };
        let out = compress(part, c, 2, 1 << 20);
        assert_eq!(::zstd::zstd_safe::find_frame_compressed_size(&out).unwrap(), out.len());
        assert_eq!(
            ::zstd::zstd_safe::get_frame_content_size(&out).unwrap(),
            Some(part.len() as u64)
        );
        let mut strict = ::zstd::stream::read::Decoder::new(&out[..]).unwrap();
        strict.window_log_max(23).unwrap();
        std::io::copy(&mut strict, &mut std::io::sink()).unwrap();
    }
}

#[test]
fn many_members_frames_and_skippable_frames_are_one_stream() {
    let gzip = Compression::new("gzip", None, None).unwrap();
    let zstd = Compression::new("zstd", None, None).unwrap();
    let both = |c| [compress(b"one ", c, 1, 9), compress(b"two", c, 1, 9)].concat();
    assert_eq!(decompress(&both(gzip)).unwrap(), b"one two");
    assert_eq!(decompress(&[&both(gzip)[..], &[0; 700]].concat()).unwrap(), b"one two");
    assert_eq!(decompress(&both(zstd)).unwrap(), b"one two");
    let skip = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"hello"].concat();
    let mixed = [&skip[..], &both(zstd), &skip].concat();
    assert_eq!(decompress(&mixed).unwrap(), b"one two");
}

#[test]
fn damaged_data_is_told_in_our_words() {
    let data = sample(200_000);
    for name in ["gzip", "zstd"] {
        let good = compress(&data, Compression::new(name, None, None).unwrap(), 1, 1 << 16);
        for cut in [1, 3, 11, 20, good.len() / 2, good.len() - 1] {
            // So little of a header is a plain file.
            let told = decompress(&good[..cut]).map(|d| d.len());
            assert!(told.is_err() || cut <= 3 && told.unwrap() == cut, "{name} cut at {cut}");
        }
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle..middle + 20].fill(0xff);
        let e = decompress(&bad).map(|d| d == data);
        match e {
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Malformed);
                assert!(e.to_string().contains(name), "{e}");
            }
            // zstd frames carry no checksum; digests find what this does not.
            Ok(same) => assert!(name == "zstd" && !same),
        }
        let e = decompress(&[&good[..], b"garbage"].concat()).unwrap_err();
        assert!(e.to_string().contains(name), "{e}");
    }
}

#[test]
fn errors_below_the_decoder_stay_as_they_are() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(Error::limit("too much").into())
        }
    }
    let good = compress(&sample(500_000), Compression::new("gzip", None, None).unwrap(), 1, 4096);
    let mut decoder = decode(good[..1000].chain(Failing), &WindowBudget::new(u64::MAX)).unwrap().1;
    let e = Error::from(std::io::copy(&mut decoder, &mut std::io::sink()).unwrap_err());
    assert_eq!(e.kind(), ErrorKind::Limit);
}

#[test]
fn formats_are_told_by_their_first_bytes() {
    assert_eq!(Format::detect(b"").unwrap(), Format::Plain);
    assert_eq!(Format::detect(b"etc/passwd").unwrap(), Format::Plain);
    assert_eq!(Format::detect(b"BZh is a name").unwrap(), Format::Plain);
    let cases: [(&[u8], &str); 3] = [
        (b"\xfd7zXZ\0....", "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\x27\xb5\x2f\xfd......", "zstd from before"),
    ];
    for (head, name) in cases {
        let e = Format::detect(head).unwrap_err();
        assert!(e.to_string().contains(name), "{e}");
    }
}

#[test]
fn archives_may_be_xz() {
    if !needs("xz") {
        return;
    }
    let plain = sample(400_000);
    let dir = tempfile::tempdir().unwrap();
    let xz = |args: &[&str]| tool("xz", args, dir.path(), &plain);
    let decoded = |blob: Vec<u8>| {
        let (format, mut decoder) =
            decode_archive(&blob, &WindowBudget::new(u64::MAX)).unwrap().unwrap();
        let mut out = Vec::new();
        let result = decoder.read_to_end(&mut out).map_err(|e| Error::from(e).to_string());
        assert_eq!(format, "xz");
        result.map(|_| out)
    };
    let good = xz(&["-1"]);
    for args in [
        &["-9"][..],
        &["--check=crc32"],
        &["--check=sha256"],
        &["-0", "--block-size=100000"],
        &["--x86", "--lzma2"],
        &["--delta=dist=4", "--lzma2=preset=1"],
    ] {
        assert!(decoded(xz(args)).unwrap() == plain, "{args:?}");
    }
    // Two streams, and padding.
    let twice = decoded([&good[..], &[0; 8], &good].concat()).unwrap();
    assert!(twice == [&plain[..], &plain].concat());
    assert!(decoded(xz(&["--lzma2=dict=1GiB"])).unwrap_err().contains("too much memory"));
    assert!(decoded(good[..good.len() / 2].to_vec()).unwrap_err().contains("cut off"));
    assert!(decoded([&good[..], b"more"].concat()).unwrap_err().contains("damaged"));
    for i in 0..200 {
        let mut bad = good.clone();
        let at = i * good.len() / 200;
        bad[at] ^= 1 << (i % 8);
        // Its magic bytes are no xz, then.
        if at >= 6 {
            assert!(decoded(bad).is_err(), "byte {at}");
        }
    }
}

#[test]
fn options_are_checked() {
    for (name, level, window) in [
        ("zstd", Some(0), None),
        ("zstd", Some(23), None),
        ("gzip", Some(10), None),
        ("none", Some(1), None),
        ("gzip", None, Some(20)),
        ("zstd", None, Some(28)),
        ("zstd", None, Some(3)),
        ("lz4", None, None),
        ("zstd:chunked", Some(23), None),
        ("zstd:chunked", None, Some(23)),
    ] {
        assert!(Compression::new(name, level, window).is_err(), "{name} {level:?} {window:?}");
    }
}

#[test]
fn the_text_of_a_compression_is_read_again() {
    let forms = ["none", "gzip:9", "zstd:3", "zstd:19:long=27", "zstd:chunked:3"];
    for text in forms {
        let compression = Compression::parse(text).unwrap();
        assert_eq!(compression.to_string(), text);
        let (name, level, window) = compression.parts();
        assert_eq!(Compression::new(&name, level, window).unwrap(), compression);
    }
    assert_eq!(Compression::parse("zstd:chunked").unwrap(), Compression::Chunked { level: 3 });
    for bad in ["zstd:", "zstd:x", "zstd:chunked:x", "zstd:3:long", "lz4:1", ""] {
        assert!(Compression::parse(bad).is_err(), "{bad}");
    }
}
