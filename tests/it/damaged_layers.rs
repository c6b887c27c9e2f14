//! Damaged layers: each gives one clear error that names the place, and leaves nothing behind.

use std::fs;

use serde_json::json;

use super::damage::{Case, of_layer};
use super::image::{self, Codec, Image, Item, block, digest, layer, padded, pax_record};
use super::tool;

/// A file entry whose header says what it likes.
fn lying(size: u64, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    [block(b"f", b'0', size, change), vec![0; 2048]].concat()
}

fn special(kind: u8, data: &[u8]) -> Vec<u8> {
    [block(b"special", kind, data.len() as u64, |_| ()), padded(data.to_vec())].concat()
}

#[test]
fn layers_that_lie_are_refused() {
    let entry = || Item::file("f", "x").bytes();
    let with_pax = |data: &[u8]| [special(b'x', data), entry(), vec![0; 1024]].concat();
    let mut bad_checksum = layer(&[Item::dir("d/"), Item::file("d/f", "x")]);
    bad_checksum[512 + 3] ^= 1;
    let mut zero_block = layer(&[Item::file("a", ""), Item::file("b", ""), Item::file("c", "")]);
    zero_block[512..1024].fill(0);
    let deep = |parts: usize| vec!["a"; parts].join("/");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a bad checksum", bad_checksum, "tar entry at byte 512"),
        ("a block of zeros within", zero_block, "single block of zeros"),
        ("a PAX record too long", with_pax(b"99 path=x\n"), "stated length"),
        ("a PAX record without a length", with_pax(b"path=x\n"), "stated length"),
        ("a PAX size that is no number", with_pax(&pax_record(b"size", b"many")), "not a number"),
        (
            "a PAX size beyond the archive",
            with_pax(&pax_record(b"size", b"8000000000000000000")),
            "cut off",
        ),
        ("a negative PAX size", with_pax(&pax_record(b"size", b"-1")), "negative"),
        ("a user ID that is no number", with_pax(&pax_record(b"uid", b"root")), "uid=root"),
        ("a symlink to nothing", layer(&[Item::symlink("a", "")]), "/a (tar entry at byte 0)"),
        ("a NUL in a PAX path", with_pax(&pax_record(b"path", b"a\0b")), "NUL"),
        (
            "a long name of a gigabyte",
            lying(1 << 30, |h| h.set_entry_type(tar::EntryType::GNULongName)),
            "limit",
        ),
        (
            "a size of exabytes",
            lying(0, |h| {
                h.as_mut_bytes()[124..136]
                    .copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
            }),
            "byte 0",
        ),
        (
            "a size with the sign bit",
            lying(0, |h| h.as_mut_bytes()[124..136].fill(0xff)),
            "negative size",
        ),
        (
            "a size that is no number",
            lying(0, |h| h.as_mut_bytes()[124..136].copy_from_slice(b"zzzzzzzzzzz\0")),
            "size",
        ),
        ("a size beyond the archive", lying(1 << 40, |_| ()), "cut off"),
        ("an unknown type", layer(&[Item::new("odd", b'7')]), "/odd"),
        ("a path that goes up", layer(&[Item::file("../x", "x")]), "`..`"),
        ("a path that goes up within", layer(&[Item::file("a/../../x", "x")]), "`..`"),
        (
            "a hard link that goes up",
            layer(&[Item::link("x", "../../etc/passwd")]),
            "hard link target",
        ),
        (
            "a hard link to nothing",
            layer(&[Item::link("x", "nothing")]),
            "/nothing, which does not exist",
        ),
        ("a hard link to itself", layer(&[Item::link("x", "x")]), "does not exist"),
        (
            "a hard link to a directory",
            layer(&[Item::dir("d/"), Item::link("x", "d")]),
            "directory",
        ),
        ("a whiteout of ..", layer(&[Item::file("a/.wh...", "")]), "hides no valid name"),
        ("a whiteout of nothing", layer(&[Item::file(".wh.", "")]), "hides no valid name"),
        ("a name below a whiteout", layer(&[Item::file(".wh.a/b", "")]), "is a whiteout"),
        ("an entry below a file", layer(&[Item::file("a", ""), Item::file("a/b", "")]), "below /a"),
        (
            "a loop of symlinks",
            layer(&[Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/x", "")]),
            "loop",
        ),
        ("a root that is a file", layer(&[Item::file("./", "x")]), "root"),
        ("a name that is too long", with_pax(&pax_record(b"path", &[b'n'; 256])), "255"),
        ("a path that is too long", layer(&[Item::file(deep(20_000), "")]), "4095"),
        ("a symlink that is too long", layer(&[Item::symlink("a", deep(2049))]), "4095"),
        (
            "a path that symlinks make too long",
            layer(&[
                Item::symlink("s", deep(1500)),
                Item::symlink("t", ["s", &deep(500)].join("/")),
                Item::file("t/x", ""),
                Item::symlink("u", ["t", &deep(500)].join("/")),
                Item::file("u/x", ""),
            ]),
            "4095",
        ),
        (
            "a sparse map of exabytes",
            with_pax(
                &[
                    pax_record(b"GNU.sparse.map", b"0,1"),
                    pax_record(b"GNU.sparse.numblocks", b"1"),
                    pax_record(b"GNU.sparse.size", b"9000000000000000000"),
                ]
                .concat(),
            ),
            "--max-size",
        ),
        (
            "a sparse map that overlaps",
            with_pax(
                &[
                    pax_record(b"GNU.sparse.map", b"0,1,0,1"),
                    pax_record(b"GNU.sparse.numblocks", b"2"),
                    pax_record(b"GNU.sparse.size", b"9"),
                ]
                .concat(),
            ),
            "overlap",
        ),
        ("xz", [&b"\xfd7zXZ\0"[..], &[0; 600]].concat(), "xz"),
        ("bytes that are no tar", vec![b'x'; 5000], "checksum"),
    ];
    assert!(cases.len() > 30);
    for (name, bytes, fragment) in cases {
        Case::new().file(&of_layer(bytes)).fails(name, fragment);
    }
}

#[test]
fn bombs_are_stopped_early() {
    let zeros = [block(b"zeros", b'0', 3 << 30, |_| ())].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &zeros).unwrap();
    let chunk = vec![0; 16 << 20];
    for _ in 0..64 {
        std::io::Write::write_all(&mut gzip, &chunk).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let image = Image::new(vec![b"stands for what the bomb unfolds to".to_vec()]);
    let archive = image.docker_skopeo();
    // The same archive with the bomb in the layer's place.
    let config = image.config.to_string();
    let name = format!("{}.json", &digest(config.as_bytes())[7..]);
    let manifest = json!([{"Config": name, "RepoTags": [], "Layers": ["bomb.tar"]}]).to_string();
    let files = [
        (name, config.into_bytes()),
        ("bomb.tar".into(), bomb),
        ("manifest.json".into(), manifest.into_bytes()),
    ];
    assert!(archive.len() < 1 << 20);
    Case::new()
        .file(&image::archive(&files))
        .with(&["--max-size", "100MB"])
        .fails("a bomb", "--max-size");
    // An archive that is one, as a whole.
    let archive = image::archive(&[("manifest.json".into(), vec![0; 50 << 20])]);
    let bomb = Codec::Zstd.encode(&archive).0;
    Case::new().file(&bomb).with(&["--max-size", "10MB"]).fails("an archive bomb", "--max-size");
}

#[test]
fn many_entries_are_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Item::dir("d/").bytes();
    for i in 0..tool::count(1_000_000, 200_000) {
        bytes.extend(block(format!("d/{i:07}").as_bytes(), b'0', 0, |_| ()));
    }
    bytes.extend([0; 1024]);
    let input = dir.path().join("i.tar");
    fs::write(&input, Image::new(vec![bytes]).docker_skopeo()).unwrap();
    let mut split = tool::relayer();
    split.args(["split", "--threads", "2"]).arg(&input);
    let out = tool::output(&mut tool::limited("-v 1953125", &split));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
