//! Other programs read our archives, and we read theirs.

use std::io::{BufReader, Cursor, Read, Write};

use proptest::prelude::*;

use super::*;
use crate::base::error::Result;
use crate::base::testing::{Interrupted, needs, tool};
use crate::model::content::SourceReader;
use crate::model::fileset::{Mtime, Xattrs};

const PLAIN: Mtime = Mtime { secs: 1_700_000_000, nanos: 0 };
const NO_XATTRS: &Xattrs = &Xattrs::new();

fn metadata(path: &[u8], kind: EntryKind) -> Metadata<'_> {
    Metadata { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: PLAIN, xattrs: NO_XATTRS }
}

fn file(size: u64) -> EntryKind {
    EntryKind::File { size, sparse: None }
}

fn archive(entries: &[(Metadata<'_>, &[u8])]) -> Vec<u8> {
    let mut w = Writer::new(Vec::new());
    for (m, data) in entries {
        let mut f = w.file(m).unwrap();
        f.write_all(data).unwrap();
        f.finish().unwrap();
    }
    w.finish().unwrap()
}

fn read_all(bytes: &[u8]) -> Result<Vec<(TarEntry, Vec<u8>)>> {
    let mut reader = Reader::new(Streaming::new(bytes));
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.data().read_to_end(&mut data)?;
        all.push((entry, data));
    }
    Ok(all)
}

#[test]
fn signals_do_not_matter() {
    let whole =
        archive(&[(metadata(b"a", file(3)), b"abc"), (metadata(b"b", file(700)), &[7; 700])]);
    let mut reader = Reader::new(Streaming::new(BufReader::new(Interrupted::new(&whole[..]))));
    // Data that is not read is skipped, including padding.
    let mut paths = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        paths.push(entry.path);
    }
    assert_eq!(paths, [b"a", b"b"]);
}

fn only(bytes: &[u8]) -> TarEntry {
    let mut all = read_all(bytes).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0).0
}

fn fails(bytes: &[u8], with: &str) {
    let e = read_all(bytes).expect_err(with).to_string();
    assert!(e.contains(with), "{e} does not contain {with}");
    assert!(e.contains("byte"), "{e} does not state the offset");
}

fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive of one header with some bytes changed, and data.
fn patched(m: &Metadata<'_>, patch: &[(usize, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut header = archive(&[(metadata(m.path, EntryKind::Fifo), b"")])[..512].to_vec();
    header[156] = b'0';
    for (at, bytes) in patch {
        header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    fix_checksum(&mut header);
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

/// A PAX header with these records.
fn pax(records: &[(&[u8], &[u8])], typeflag: u8) -> Vec<u8> {
    let mut text = Vec::new();
    for (k, v) in records {
        super::pax::push(&mut text, k, v);
    }
    let size = format!("{:011o}\0", text.len());
    let mut out = patched(
        &metadata(b"pax", EntryKind::Fifo),
        &[(124, size.as_bytes()), (156, &[typeflag])],
        &text,
    );
    out.truncate(out.len() - 1024);
    out
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(
        any::<u8>().prop_map(|b| if matches!(b, 0 | b'/') { b'x' } else { b }),
        1..60,
    );
    prop::collection::vec(name, 1..8).prop_map(|names| names.join(&b'/'))
}

prop_compose! {
    fn any_entry()(
        path in path(),
        kind in 0..7,
        target in path(),
        data in prop::collection::vec(any::<u8>(), 0..1500),
        mode in 0..0o10000u32,
        uid in any::<u32>(),
        gid in 0..3_000_000u32,
        secs in prop_oneof![any::<i32>().prop_map(i64::from), -5i64..20_000_000_000],
        nanos in prop_oneof![Just(0), 0..1_000_000_000u32],
        xattrs in prop::collection::btree_map(
            prop::collection::vec(b'a'..=b'z', 1..9), prop::collection::vec(any::<u8>(), 0..40), 0..3),
        device in (0..0o7_777_777u32, 0..0o7_777_777u32),
    ) -> (TarEntry, Vec<u8>) {
        let target = target.into_boxed_slice();
        let (major, minor) = device;
        let kind = match kind {
            0 => file(data.len() as u64),
            1 => EntryKind::HardLink { target },
            2 => EntryKind::Symlink { target },
            3 => EntryKind::Dir,
            4 => EntryKind::Fifo,
            5 => EntryKind::CharDevice { major, minor },
            _ => EntryKind::BlockDevice { major, minor },
        };
        let data = if matches!(kind, EntryKind::File { .. }) { data } else { Vec::new() };
        let xattrs = xattrs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let mtime = Mtime { secs, nanos };
        let stored = data.len() as u64;
        (TarEntry { path, kind, mode, uid, gid, mtime, xattrs, header_offset: 0, data_offset: 0, stored }, data)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_survive_a_round_trip(entries in prop::collection::vec(any_entry(), 0..6)) {
        let written: Vec<(Metadata<'_>, &[u8])> = entries.iter().map(|(e, data)| {
            let m = Metadata {
                path: &e.path, kind: e.kind.clone(), mode: e.mode, uid: e.uid, gid: e.gid,
                mtime: e.mtime, xattrs: &e.xattrs,
            };
            (m, data.as_slice())
        }).collect();
        let bytes = archive(&written);
        let sizes: u64 = written.iter().map(|(m, _)| entry_size(m)).sum();
        prop_assert_eq!(bytes.len() as u64, sizes + 1024);
        let read = read_all(&bytes).unwrap();
        prop_assert_eq!(read.len(), entries.len());
        for ((found, data), (want, want_data)) in read.into_iter().zip(&entries) {
            let mut path = want.path.clone();
            if want.kind == EntryKind::Dir {
                path.push(b'/');
            }
            let expected = TarEntry {
                path, header_offset: found.header_offset, data_offset: found.data_offset, ..want.clone()
            };
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(&data, want_data);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(at in 0..2048usize, value in any::<u8>(), cut in 0..4096usize) {
        let xattrs: Xattrs = vec![(b"user.a"[..].into(), b"b"[..].into())];
        let m = Metadata { xattrs: &xattrs, ..metadata(&[b'p'; 300], file(600)) };
        let mut bytes = archive(&[(m, &[7; 600]), (metadata(b"x", EntryKind::Dir), b"")]);
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(cut.max(1).min(bytes.len()));
        let _ = read_all(&bytes);
    }
}

#[test]
fn every_value_has_one_form() {
    let a = archive(&[(metadata(b"a/b", file(3)), b"abc")]);
    assert_eq!(&a[257..265], b"ustar\x0000");
    assert_eq!(&a[265..329], &[0; 64], "no user and group names");
    // The root is "./", a directory ends in a slash.
    assert!(archive(&[(metadata(b"", EntryKind::Dir), b"")]).starts_with(b"./\0"));
    // 100 bytes fit in the name. Longer paths use the prefix, or PAX if no slash is in the right place.
    assert_eq!(archive(&[(metadata(&[b'n'; 100], EntryKind::Fifo), b"")]).len(), 512 + 1024);
    let long = [vec![b'd'; 50], vec![b'n'; 60]].join(&b'/');
    assert_eq!(archive(&[(metadata(&long, EntryKind::Fifo), b"")]).len(), 512 + 1024);
    assert_eq!(archive(&[(metadata(&[b'n'; 101], EntryKind::Fifo), b"")]).len(), 3 * 512 + 1024);
}

#[test]
fn values_that_tar_cannot_store_are_refused() {
    let mut w = Writer::new(Vec::new());
    assert!(w.entry(&metadata(b"a\0b", EntryKind::Fifo)).is_err());
    assert!(w.entry(&metadata(b"d", EntryKind::CharDevice { major: 1, minor: 1 << 21 })).is_err());
    assert!(w.file(&metadata(b"f", file(3))).unwrap().finish().is_err());
    assert!(w.file(&metadata(b"f", file(3))).unwrap().write_all(b"four").is_err());
}

#[test]
fn pax_records_override_the_header_including_its_size() {
    let records: &[(&[u8], &[u8])] = &[
        (b"path", b"long"),
        (b"size", b"3"),
        (b"uid", b"5000000"),
        (b"mtime", b"-1.5"),
        (b"SCHILY.xattr.security.capability", b"\x01\x00\n\x02=\n"),
    ];
    // The header's size of 1 must be ignored (CVE-2025-62518).
    let m = metadata(b"short", EntryKind::Fifo);
    let bytes = [pax(records, b'x'), patched(&m, &[(124, b"00000000001\0")], b"abc")].concat();
    let e = only(&bytes);
    assert_eq!((e.path.as_slice(), e.uid), (&b"long"[..], 5_000_000));
    assert_eq!(e.kind, file(3));
    assert_eq!(e.mtime, Mtime { secs: -2, nanos: 500_000_000 });
    assert_eq!(&*e.xattrs[0].1, b"\x01\x00\n\x02=\n");
    // The records don't apply to the next entry.
    let two = [&bytes[..bytes.len() - 1024], &patched(&m, &[], b"")].concat();
    assert_eq!(read_all(&two).unwrap()[1].0.path, b"short");
}

#[test]
fn a_global_header_is_ignored_unless_it_moves_data() {
    let entry = patched(&metadata(b"f", EntryKind::Fifo), &[], b"");
    let ok = [pax(&[(b"comment", b"0123"), (b"uid", b"7")], b'g'), entry.clone()].concat();
    assert_eq!(only(&ok).uid, 0);
    fails(&[pax(&[(b"size", b"512")], b'g'), entry].concat(), "global header");
}

#[test]
fn numbers_may_be_base_256_and_times_negative() {
    let m = metadata(b"f", EntryKind::Fifo);
    let mut mtime = [0xff; 12];
    mtime[11] = 0xfe;
    let e = only(&patched(&m, &[(136, &mtime), (108, b"\x80\0\0\0\x77\x35\x94\0")], b""));
    assert_eq!((e.mtime.secs, e.uid), (-2, 2_000_000_000));
    // The low 32 bits count, as for chown(2).
    assert_eq!(only(&patched(&m, &[(108, &[0xff; 8])], b"")).uid, u32::MAX);
    assert_eq!(only(&patched(&m, &[(108, b"\x80\0\0\x07\0\0\0\x05")], b"")).uid, 5);
    fails(&patched(&m, &[(124, &[0xff; 12])], b""), "negative size");
    fails(&patched(&m, &[(100, b"0000q44\0")], b""), "mode");
    fails(&patched(&m, &[(124, b"77777777777\0")], b"abc"), "cut off");
    let huge = pax(&[(b"size", b"9223372036854775807")], b'x');
    fails(&[huge, patched(&m, &[], b"abc")].concat(), "cut off");
}

#[test]
fn types_are_interpreted_as_in_go() {
    let m = metadata(b"d/", EntryKind::Fifo);
    assert_eq!(only(&patched(&m, &[(156, b"\0")], b"")).kind, EntryKind::Dir);
    assert_eq!(only(&patched(&m, &[(156, b"0")], b"")).kind, file(0));
    // The size of a directory or link is ignored, and no data follows.
    let with_size: &[(usize, &[u8])] = &[(124, b"00000001000\0"), (156, b"5")];
    assert_eq!(only(&patched(&m, with_size, b"")).stored, 0);
    for kind in [b"7", b"D", b"M", b"V", b"N", b"z"] {
        fails(&patched(&m, &[(156, kind)], b""), "clients don't unpack");
    }
}

#[test]
fn errors_about_damage_state_the_offset() {
    let good = archive(&[(metadata(b"a", file(600)), &[1; 600]), (metadata(b"b", file(0)), b"")]);
    for cut in 1..good.len() - 1024 {
        let whole = [512 + 600, 512 + 600 + 1, 1536, 2048].contains(&cut)
            || (512 + 600..=1536).contains(&cut);
        assert_eq!(read_all(&good[..cut]).is_ok(), whole, "cut at {cut}");
    }
    let mut bad = good.clone();
    bad[3] ^= 1;
    fails(&bad, "checksum");
    let mut one_zero_block = good.clone();
    let end = one_zero_block.len() - 512;
    one_zero_block[end] = 1;
    fails(&one_zero_block, "single block of zeros");
    fails(&pax(&[(b"comment", &vec![b'x'; 1 << 20])], b'x'), "limit");
    fails(&[7; 512], "checksum");
    fails(&[7; 100], "cut off");
    assert!(read_all(&[]).unwrap().is_empty());
    assert!(read_all(&[0; 512]).unwrap().is_empty());
}

#[test]
fn data_can_be_skipped() {
    let bytes =
        archive(&[(metadata(b"a", file(600)), &[1; 600]), (metadata(b"b", file(2)), b"xy")]);
    let mut reader = Reader::new(SourceReader::all(&bytes));
    assert_eq!(reader.next_entry().unwrap().unwrap().data_offset, 512);
    let b = reader.next_entry().unwrap().unwrap();
    assert_eq!(&bytes[b.data_offset as usize..][..2], b"xy");
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn gnu_tar_and_python_read_what_we_write() {
    if !needs("tar, python3") {
        return;
    }
    let xattrs: Xattrs = vec![(b"user.bin"[..].into(), b"\x00\x0a=\xff"[..].into())];
    let long = [vec![b'd'; 120], vec![b'n'; 180]].join(&b'/');
    let bytes = archive(&[
        (metadata(b"d", EntryKind::Dir), b""),
        (Metadata { uid: 2_000_000_000, xattrs: &xattrs, ..metadata(b"d/f", file(4)) }, b"data"),
        (metadata(b"d/link", EntryKind::HardLink { target: b"d/f"[..].into() }), b""),
        (
            Metadata { mtime: Mtime { secs: -2, nanos: 500_000_000 }, ..metadata(&long, file(1)) },
            b"x",
        ),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let list = tool("tar", &["-tv", "--numeric-owner"], dir.path(), &bytes);
    let list = String::from_utf8(list).unwrap();
    assert!(list.contains("2000000000/0") && list.contains("d/link link to d/f"), "{list}");
    let script = "import sys,tarfile,io\nfor m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())):\n print(len(m.name), m.uid, m.mtime, m.type, {k:v.encode('utf8','surrogateescape') for k,v in m.pax_headers.items() if 'xattr' in k})";
    let list = String::from_utf8(tool("python3", &["-c", script], dir.path(), &bytes)).unwrap();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines[1], r"3 2000000000 1700000000 b'0' {'SCHILY.xattr.user.bin': b'\x00\n=\xff'}");
    assert_eq!(lines[3], "301 0 -1.5 b'0' {}");
}

#[test]
fn archives_of_gnu_tar_are_read() {
    if !needs("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut sparse = vec![0; 3 << 20];
    sparse[1 << 20..(1 << 20) + 6].copy_from_slice(b"middle");
    {
        let f = std::fs::File::create(at("sparse")).unwrap();
        f.set_len(3 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&f, b"middle", 1 << 20).unwrap();
    }
    let long = "n".repeat(200);
    std::fs::write(at(&long), b"long").unwrap();
    std::fs::hard_link(at(&long), at("zlink")).unwrap();
    let all = ["sparse", long.as_str(), "zlink"];
    for format in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
    ] {
        let args = [&["-c", "-S"][..], format, &all].concat();
        let read = read_all(&tool("tar", &args, dir.path(), b"")).unwrap();
        let names: Vec<_> = read.iter().map(|(e, _)| String::from_utf8_lossy(&e.path)).collect();
        assert_eq!(names, all, "{format:?}");
        let (e, data) = &read[0];
        let EntryKind::File { size, sparse: Some(runs) } = &e.kind else {
            panic!("{format:?}: not sparse: {:?}", e.kind)
        };
        assert_eq!(*size, 3 << 20);
        let mut dense = vec![0; *size as usize];
        let mut data = Cursor::new(data);
        // The map of format 1.0 precedes the data, and `data_offset` is behind it.
        for (offset, len) in runs {
            data.read_exact(&mut dense[*offset as usize..][..*len as usize]).unwrap();
        }
        assert!(dense == sparse, "{format:?}");
        let target = long.clone().into_bytes().into_boxed_slice();
        assert_eq!(read[2].0.kind, EntryKind::HardLink { target });
    }
}

#[test]
fn invalid_sparse_maps_are_refused() {
    let m = metadata(b"f", EntryKind::Fifo);
    let sparse = |map: &[u8], size: &[u8], data: &[u8]| {
        let records: &[(&[u8], &[u8])] = &[
            (b"GNU.sparse.map", map),
            (b"GNU.sparse.size", size),
            (b"GNU.sparse.numblocks", b"1"),
        ];
        let stored = format!("{:011o}\0", data.len());
        [pax(records, b'x'), patched(&m, &[(124, stored.as_bytes())], data)].concat()
    };
    assert!(read_all(&sparse(b"0,3", b"10", b"abc")).is_ok());
    fails(&sparse(b"0,4", b"10", b"abc"), "are stored");
    fails(&sparse(b"8,3", b"10", b"abc"), "exceed the file");
    fails(&sparse(b"2,2,1,1", b"10", b"abc"), "count");
    fails(&sparse(b"18446744073709551615,3", b"10", b"abc"), "non-numbers");
    fails(&sparse(b"9223372036854775807,3", b"9223372036854775807", b"abc"), "exceed the file");
    fails(&sparse(b"1,2,3", b"10", b"abc"), "count");
    let one: &[(&[u8], &[u8])] =
        &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")];
    let v1 = |data: &[u8]| {
        let stored = format!("{:011o}\0", data.len());
        [pax(one, b'x'), patched(&m, &[(124, stored.as_bytes())], data)].concat()
    };
    fails(&v1(b"99999999\n"), "sparse");
    let block = [&b"99999999\n"[..], &[0; 503]].concat();
    fails(&v1(&block), "limit");
    let block = [&b"1\nx\n"[..], &[0; 508]].concat();
    fails(&v1(&block), "other than numbers");
}

/// A special header of GNU or another writer, with its data.
fn special(typeflag: u8, data: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", data.len());
    let patch: &[(usize, &[u8])] = &[(124, size.as_bytes()), (156, &[typeflag])];
    let mut out = patched(&metadata(b"././@LongLink", EntryKind::Fifo), patch, data);
    out.truncate(out.len() - 1024);
    out
}

#[test]
fn fields_after_the_names_depend_on_the_dialect() {
    let m = metadata(b"file", EntryKind::Fifo);
    let path = |patch: &[(usize, &[u8])]| {
        let read = read_all(&patched(&m, patch, b""));
        read.map(|mut all| String::from_utf8(all.remove(0).0.path).unwrap())
    };
    let ustar: (usize, &[u8]) = (257, b"ustar\x0000");
    let gnu: (usize, &[u8]) = (257, b"ustar  \0");
    assert_eq!(path(&[ustar, (345, b"a/b")]).unwrap(), "a/b/file");
    // Times in a GNU header are not a prefix, but Go before 1.8 wrote a prefix there.
    assert_eq!(path(&[gnu, (345, b"14371573010\x0014371573010\0")]).unwrap(), "file");
    assert_eq!(path(&[gnu, (345, b"some/folder")]).unwrap(), "some/folder/file");
    assert_eq!(path(&[gnu, (345, b"caf\xe9/folder")]).unwrap(), "file");
    // With another version, the header is read as version 7: without prefix and device numbers.
    assert_eq!(path(&[(257, b"ustar \0\0"), (345, b"a/b"), (329, b"none")]).unwrap(), "file");
    // star ends its prefix where its times begin.
    let times: (usize, &[u8]) = (476, b"00000000007 00000000007 ");
    assert_eq!(path(&[ustar, (508, b"tar\0"), (345, b"a"), times]).unwrap(), "a/file");
    let long = [b'p'; 131];
    assert_eq!(path(&[ustar, (508, b"tar\0"), (345, &long), times]).unwrap().len(), 136);
    assert!(path(&[ustar, (508, b"tar\0"), (476, b"no time")]).is_err());
    // Every number must be valid for every type, even if PAX overrides it.
    assert!(path(&[ustar, (329, b"none")]).is_err());
    let bytes = [pax(&[(b"uid", b"5")], b'x'), patched(&m, &[(108, b"none")], b"")].concat();
    fails(&bytes, "user ID");
}

#[test]
fn special_headers_apply_in_every_order() {
    let m = metadata(b"own", EntryKind::Fifo);
    let read = |parts: &[Vec<u8>]| {
        let bytes = [&parts.concat()[..], &patched(&m, &[(108, b"0000007\0")], b"")].concat();
        let e = only(&bytes);
        (String::from_utf8(e.path).unwrap(), e.uid)
    };
    let x = |records: &[(&[u8], &[u8])]| pax(records, b'x');
    let name = |text: &[u8]| special(b'L', text);
    assert_eq!(read(&[name(b"\0")]), ("own".into(), 7));
    assert_eq!(read(&[name(b"long\0"), name(b"")]), ("own".into(), 7));
    assert_eq!(read(&[name(b"long\0more"), x(&[(b"path", b"pax")])]), ("long".into(), 7));
    assert_eq!(read(&[name(b"\0"), x(&[(b"path", b"pax")])]), ("pax".into(), 7));
    // The last of several headers applies. A global header discards those before it.
    assert_eq!(read(&[x(&[(b"uid", b"1")]), x(&[(b"path", b"two")])]), ("two".into(), 7));
    let global = || pax(&[(b"comment", b"c")], b'g');
    assert_eq!(read(&[x(&[(b"uid", b"1")]), name(b"long"), global()]), ("own".into(), 7));
    assert_eq!(read(&[global(), x(&[(b"uid", b"1")])]), ("own".into(), 1));
}

#[test]
fn an_archive_may_end_after_a_special_header() {
    let file = patched(&metadata(b"f", EntryKind::Fifo), &[], b"");
    let tails =
        [pax(&[(b"comment", b"c")], b'g'), pax(&[(b"path", b"x")], b'x'), special(b'L', b"n")];
    for tail in tails {
        assert!(read_all(&tail).unwrap().is_empty());
        for end in [0, 1024] {
            let bytes = [&file[..file.len() - 1024], &tail, &vec![0; end]].concat();
            assert_eq!(only(&bytes).path, b"f");
        }
    }
}

#[test]
fn files_without_a_complete_sparse_map_are_not_sparse() {
    let m = metadata(b"f", EntryKind::Fifo);
    let read = |records: &[(&[u8], &[u8])]| {
        let entry = patched(&m, &[(124, b"00000000003\0")], b"abc");
        only(&[pax(records, b'x'), entry].concat()).kind
    };
    let (blocks, size) =
        ((&b"GNU.sparse.numblocks"[..], &b"0"[..]), (&b"GNU.sparse.size"[..], &b"9"[..]));
    assert_eq!(read(&[blocks, size]), file(3));
    assert_eq!(read(&[(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), size]), file(3));
    assert_eq!(read(&[(b"GNU.sparse.major", b"1"), size]), file(3));
    let map: (&[u8], &[u8]) = (b"GNU.sparse.map", b"0,3");
    let one: (&[u8], &[u8]) = (b"GNU.sparse.numblocks", b"1");
    // Without a size record, the size is that of the entry.
    assert_eq!(read(&[map, one]), EntryKind::File { size: 3, sparse: Some(vec![(0, 3)]) });
    assert_eq!(read(&[map, one, size]), EntryKind::File { size: 9, sparse: Some(vec![(0, 3)]) });
    let bytes = [pax(&[map, one], b'x'), patched(&m, &[(156, b"5")], b"")].concat();
    fails(&bytes, "not a regular file");
}
