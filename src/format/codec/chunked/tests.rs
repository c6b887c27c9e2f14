//! Layers that are read again in pieces.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use super::check::{Tools, check};
use crate::base::testing::{needs, tool};
use crate::format::codec::{Compression, Encoder, decode};
use crate::format::tar::{EntryKind, Metadata, Writer};
use crate::model::digest::Digest;
use crate::model::fileset::{Mtime, Xattrs};
use crate::model::oci::Annotations;

const TOOLS: Tools = Tools {
    decode: |bytes| {
        let mut out = Vec::new();
        decode(bytes, &crate::model::content::WindowBudget::new(u64::MAX))
            .unwrap()
            .1
            .read_to_end(&mut out)
            .unwrap();
        out
    },
    sha256: |bytes| Digest::of(bytes).to_string(),
};

fn noise(bytes: usize, seed: &str) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut out);
    out.into_iter().map(|b| b & 0x3f).collect()
}

fn encode(tar: &[u8], level: i32, workers: u32, step: usize) -> (Vec<u8>, Annotations) {
    let compression = Compression::Chunked { level };
    let mut encoder = Encoder::new(Vec::new(), &compression, workers, tar.len() as u64).unwrap();
    tar.chunks(step).for_each(|part| encoder.write_all(part).unwrap());
    encoder.finish().unwrap()
}

/// The rows of a tar that has a table of contents, and the blob.
fn rows(tar: &[u8]) -> (Vec<Value>, Vec<u8>) {
    let (blob, annotations) = encode(tar, 3, 2, 100_000);
    assert_eq!(annotations.len(), 3);
    (check(tar, &blob, &annotations, &TOOLS), blob)
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    for (path, data) in files {
        add(&mut tar, path, EntryKind::File { size: data.len() as u64, sparse: None }, data);
    }
    tar.finish().unwrap()
}

fn add(tar: &mut Writer<Vec<u8>>, path: &str, kind: EntryKind, data: &[u8]) {
    let xattrs: Xattrs = vec![(b"user.a"[..].into(), b"\x00\xff\n"[..].into())];
    let metadata = Metadata {
        path: path.as_bytes(),
        kind,
        mode: 0o4755,
        uid: 5_000_000,
        gid: 7,
        mtime: Mtime { secs: 1_759_322_096, nanos: 500_000_000 },
        xattrs: &xattrs,
    };
    let mut file = tar.file(&metadata).unwrap();
    file.write_all(data).unwrap();
    file.finish().unwrap();
}

/// One of everything.
fn everything() -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    let link = || b"d/big".to_vec().into_boxed_slice();
    let mut big = noise(900_000, "big");
    big[300_000..400_000].fill(0);
    add(&mut tar, "", EntryKind::Dir, b"");
    add(&mut tar, "d", EntryKind::Dir, b"");
    add(&mut tar, "d/big", EntryKind::File { size: 900_000, sparse: None }, &big);
    add(&mut tar, "d/empty", EntryKind::File { size: 0, sparse: None }, b"");
    add(&mut tar, "d/hard", EntryKind::HardLink { target: link() }, b"");
    add(&mut tar, "d/small", EntryKind::File { size: 5, sparse: None }, b"small");
    add(&mut tar, "d/soft", EntryKind::Symlink { target: link() }, b"");
    add(&mut tar, "d/\u{e9}\u{1}\"<", EntryKind::Fifo, b"");
    add(&mut tar, "null", EntryKind::CharDevice { major: 1, minor: 3 }, b"");
    add(&mut tar, "sda", EntryKind::BlockDevice { major: 8, minor: 0 }, b"");
    add(&mut tar, &"n".repeat(300), EntryKind::File { size: 5, sparse: None }, b"small");
    tar.finish().unwrap()
}

#[test]
fn everything_is_in_the_table_as_it_is_in_the_headers() {
    let (rows, _) = rows(&everything());
    let of = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
    let types = rows.iter().map(|r| r["type"].as_str().unwrap()).filter(|t| *t != "chunk");
    let types: Vec<_> = types.collect();
    let want = "dir dir reg reg hardlink reg symlink fifo char block reg";
    assert_eq!(types.join(" "), want);
    let small = of("d/small");
    assert_eq!(small["mode"], 0o4755);
    assert_eq!((&small["uid"], &small["gid"]), (&5_000_000.into(), &7.into()));
    assert_eq!(small["modtime"], "2025-10-01T12:34:56.5Z");
    assert_eq!(small["xattrs"]["user.a"], "AP8K");
    assert_eq!(of("d/hard")["linkName"], "d/big");
    assert_eq!(of("null")["devMinor"], 3);
    let holes = rows.iter().filter(|r| r["chunkType"] == "zeros");
    assert_eq!(holes.map(|r| r["chunkSize"].as_u64().unwrap()).sum::<u64>(), 100_000);
}

#[test]
fn bytes_do_not_depend_on_workers_or_writes() {
    let big = noise(9_000_000, "big");
    let tar = archive(&[("a", b"1"), ("b", &big), ("c", &big[..70_000]), ("d", b"")]);
    let one = encode(&tar, 1, 1, 1 << 20);
    for (workers, step) in [(2, 65_536), (3, 777_777), (7, tar.len())] {
        assert!(one == encode(&tar, 1, workers, step), "{workers}");
    }
    assert!(!check(&tar, &one.0, &one.1, &TOOLS).is_empty());
    if needs("zstd") {
        assert!(tool("zstd", &["-dc"], Path::new("/"), &one.0) == tar);
    }
}

/// A library update that changes these changes the digest of every image: say so in CHANGELOG.md.
#[test]
fn the_bytes_are_known() {
    for (level, want) in [
        (3, "e0f77b248085ffa9020c5dd331e585a94fbc3671489fdaafa50078219d9e3ab5"),
        (19, "cdad741e121c90a98b523f3185b7b395477e6c5900698c91db2c65e0129c5d0d"),
    ] {
        let (blob, _) = encode(&everything(), level, 2, 1 << 20);
        assert_eq!(Digest::of(&blob).hex(), want, "{level}");
    }
}

#[test]
fn what_is_inserted_leaves_other_chunks_alone() {
    let old = noise(3_000_000, "old");
    let mut new = old.clone();
    new.splice(1_000_000..1_000_000, *b"something");
    let digests = |data: &[u8]| -> Vec<String> {
        let (rows, _) = rows(&archive(&[("a", b"1"), ("file", data)]));
        let rows = rows.iter().filter(|r| r["name"] == "file");
        rows.map(|r| r["chunkDigest"].as_str().unwrap().to_owned()).collect()
    };
    let (old, new) = (digests(&old), digests(&new));
    let fresh = new.iter().filter(|d| !old.contains(d)).count();
    assert!(old.len() > 25 && (1..=3).contains(&fresh), "{fresh} of {}", old.len());
}

/// Trees as GNU tar writes them: everything must come back, and all but sparse files and what is
/// not UTF-8 is in the table.
#[test]
fn foreign_archives_come_back_too() {
    if !needs("tar, mkfifo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("d")).unwrap();
    std::fs::write(at("d/file"), noise(300_000, "file")).unwrap();
    std::fs::write(at("d").join("n".repeat(150)), "long").unwrap();
    std::fs::hard_link(at("d/file"), at("d/hard")).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), at("d/soft")).unwrap();
    tool("mkfifo", &["d/fifo"], dir.path(), b"");
    let pack = |args: &[&str]| tool("tar", &[args, &["-cf", "-", "d"]].concat(), dir.path(), b"");
    for format in ["gnu", "oldgnu", "pax", "posix"] {
        let tar = pack(&["--format", format]);
        let (rows, _) = rows(&tar);
        assert!(rows.len() > 6, "{format}");
        assert_eq!(rows.iter().any(|r| r["accesstime"].is_string()), format.starts_with('p'));
        // Blocks of zeros at the end, as many as there are.
        let longer = [&tar[..], &vec![0; 3_000_000 / 512 * 512]].concat();
        assert_eq!(self::rows(&longer).0.len(), rows.len());
    }
    std::fs::File::create(at("d/sparse")).unwrap().set_len(1 << 20).unwrap();
    let odd = [
        pack(&["--format", "gnu", "-S"]),
        pack(&["--format", "pax", "-S"]),
        archive(&[("a", b"1"), ("./a", b"2")]),
        archive(&[("a/../b", b"1")]),
        [&archive(&[("a", b"1")])[..], b"rest"].concat(),
        [&archive(&[("a", b"1")])[..], &[7; 512]].concat(),
        archive(&[("a", b"1")])[..1539].to_vec(),
    ];
    for (i, tar) in odd.iter().enumerate() {
        let (blob, annotations) = encode(tar, 3, 2, 10_000);
        assert!(annotations.is_empty(), "{i}");
        check(tar, &blob, &annotations, &TOOLS);
    }
}

#[test]
fn what_ends_early_is_read_as_far_as_clients_do() {
    let tar = archive(&[("a", b"1")]);
    // Without its zeros, and right behind the last byte of data.
    for cut in [tar.len() - 1024, 1537] {
        assert_eq!(rows(&tar[..cut]).0.len(), 1);
    }
    assert!(rows(&[0; 1024]).0.is_empty());
}

#[test]
fn what_is_no_tar_is_an_error() {
    let good = archive(&[("file", &noise(3_000_000, "x"))]);
    for bad in [&b"no tar at all"[..], &vec![1; 3_000_000], &good[..2_000_000]] {
        let compression = Compression::Chunked { level: 3 };
        let mut e = Encoder::new(std::io::sink(), &compression, 2, bad.len() as u64).unwrap();
        // However much is written after the thread has ended.
        let written = bad.chunks(1000).try_for_each(|part| e.write_all(part));
        let e = match written {
            Ok(()) => e.finish().map(|_| ()).unwrap_err(),
            Err(e) => e.into(),
        };
        assert!(e.to_string().starts_with("zstd:chunked: "), "{e}");
    }
}
