//! Whatever is in an archive's headers, relayer reads it as Go's `archive/tar` does, on which every
//! stock client stands: thousands of archives, made of what writers of tar have ever put there,
//! most of them damaged. The seed is printed; `RELAYER_SEED` repeats a run, `RELAYER_HEADERS` sets
//! how many there are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use relayer::format::tar::{EntryKind, Reader, Streaming};
use relayer::model::fileset::Mtime;
use sha2::{Digest, Sha256};

use super::image::{padded, pax_record};
use super::model::Random;

/// Parts of the messages with which relayer refuses headers that Go accepts, and why.
const REFUSED: [(&str, &str); 4] = [
    ("clients don't unpack", "Go returns any type to its caller, and clients refuse it"),
    ("in a global header", "GNU tar and libarchive follow it, Go does not: data would move"),
    ("outside the range of Linux", "Go returns any device number to its caller"),
    ("more than the limit of", "newer Go limits the runs of a sparse file too"),
];

/// Numbers as text or base 256, good and bad, that fit a field of eight bytes or twelve.
const NUMBERS: [&[u8]; 24] = [
    b"0000644\0",
    b"0000000\0",
    b"   644 \0",
    b"644\0x   ",
    b"\0\0\0\0\0\0\0\0",
    b"        ",
    b"12 4    ",
    b"-1\0\0\0\0\0\0",
    b"+1\0\0\0\0\0\0",
    b"0009\0\0\0\0",
    b"7777777\0",
    b"77777777",
    b"\x80\0\0\0\0\0\0\x05",
    b"\x80\0\0\0\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xfe",
    b"\x80\0\0\x01\0\0\0\x07",
    b"\xc0\0\0\0\0\0\0\0",
    b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\0\0\0\0\x03",
    b"00000000003\0",
    b"14371573010\0",
    b"77777777777\0",
    b"\0\x0017\0\0\0\0",
];

/// Texts for names, links and prefixes.
const TEXTS: [&[u8]; 12] = [
    b"", b"a", b"a/", b"a/b", b"/a", b"./a/../b", b"caf\xe9", b"new\nline", b"a\0b", b"..", b"a//b/",
    b"some-folder-of-a-name/some-folder-of-a-name/some-folder-of-a-name/some-folder-of-a-name/a/b/c",
];

const KEYS: [&str; 26] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "ctime",
    "uname",
    "gname",
    "comment",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.",
    "LIBARCHIVE.xattr.a",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.size",
    "GNU.sparse.realsize",
    "GNU.sparse.map",
    "GNU.sparse.numblocks",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
    "hdrcharset",
    "SCHILY.fflags",
];

const VALUES: [&[u8]; 34] = [
    b"",
    b"0",
    b"1",
    b"2",
    b"3",
    b"9",
    b"-1",
    b"+5",
    b"-2",
    b"4294967295",
    b"4294967301",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1.5",
    b"-1.25",
    b".5",
    b"5.",
    b"+5.5",
    b"1e3",
    b" 1",
    b"0x1",
    b"1.1234567891",
    b"-0.5",
    b"0,3",
    b"0,1,2,1",
    b"0,3,",
    b"3,0",
    b"1,2,0,1",
    b"a\0b",
    b"a=b",
    b"x\ny",
    b"some/path",
    b"dir/",
    b"\xff\xfe",
];

const MAGICS: [&[u8]; 9] = [
    b"ustar\x0000",
    b"ustar  \0",
    b"ustar\0\0\0",
    b"ustar\0  ",
    b"ustar \0\0",
    b"\0\0\0\0\0\0\0\0",
    b"ustar 00",
    b"USTAR\x0000",
    b"ustar  0",
];

struct Maker<'a> {
    random: &'a mut Random,
}

impl Maker<'_> {
    fn chance(&mut self, of: usize) -> bool {
        self.random.below(of) == 0
    }

    fn one<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random.below(list.len())]
    }

    /// A header of one of the dialects, some fields of which may be odd.
    fn header(&mut self, typeflag: u8, size: usize, odd: bool) -> [u8; 512] {
        let mut h = [0; 512];
        let mut put = |at: usize, width: usize, text: &[u8]| {
            let n = text.len().min(width);
            h[at..at + n].copy_from_slice(&text[..n]);
        };
        put(0, 100, if odd { self.one(&TEXTS) } else { b"name" });
        put(157, 100, if odd { self.one(&TEXTS) } else { b"target" });
        for at in [100, 108, 116] {
            put(at, 8, b"0000644\0");
        }
        put(124, 12, format!("{size:011o}\0").as_bytes());
        put(136, 12, b"14371573010\0");
        let magic = if odd { self.one(&MAGICS) } else { self.one(&MAGICS[..2]) };
        put(257, 8, magic);
        for at in [329, 337] {
            put(at, 8, b"0000003\0");
        }
        if self.chance(3) {
            let prefix = self.one(&TEXTS);
            put(345, 155, prefix);
        }
        if odd && self.chance(3) {
            // star's trailer and times, GNU's times.
            let (a, b) = (self.one(&NUMBERS), self.one(&NUMBERS));
            if self.chance(2) {
                put(508, 4, b"tar\0");
                put(476, 12, a);
                put(488, 12, b);
            } else {
                put(345, 12, a);
                put(357, 12, b);
            }
        }
        if typeflag == b'S' {
            for (i, run) in [(0usize, 1usize), (2, size.saturating_sub(1))].iter().enumerate() {
                put(386 + 24 * i, 24, format!("{:011o}\0{:011o}\0", run.0, run.1).as_bytes());
            }
            put(483, 12, format!("{:011o}\0", size + 1).as_bytes());
        }
        while odd && self.chance(2) {
            let (at, width) = self.one(&[
                (100, 8),
                (108, 8),
                (116, 8),
                (124, 12),
                (136, 12),
                (329, 8),
                (337, 8),
                (483, 12),
                (386, 12),
                (398, 12),
            ]);
            let number = self.one(&NUMBERS);
            put(at, width, number);
        }
        while odd && self.chance(4) {
            let at = self.random.below(512);
            let byte = [self.random.below(256) as u8];
            put(at, 1, &byte);
        }
        h[156] = typeflag;
        h[148..156].fill(b' ');
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        if odd && self.chance(12) {
            let stated = format!("{:06o}\0 ", sum + 1);
            let bad = self.one(&[stated.as_bytes(), b"  ", b"\x80", b"77777777"]).to_vec();
            h[148..148 + bad.len()].copy_from_slice(&bad);
        }
        h
    }

    fn records(&mut self, odd: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if self.chance(4) {
            out.extend(self.sparse_records());
        }
        while self.random.below(4) > 0 {
            let (key, value) = (self.one(&KEYS), self.one(&VALUES));
            out.extend(pax_record(key.as_bytes(), value));
        }
        if odd && self.chance(6) && !out.is_empty() {
            let at = self.random.below(out.len());
            out[at] = self.one(b" =\n0159+-\0x");
        }
        out
    }

    /// What makes a sparse file, or nearly.
    fn sparse_records(&mut self) -> Vec<u8> {
        let mut list: Vec<(&str, &[u8])> = match self.random.below(3) {
            0 => vec![
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ],
            1 => vec![
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numblocks", b"1"),
                ("GNU.sparse.map", b"0,3"),
            ],
            _ => vec![
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.offset", b"4"),
                ("GNU.sparse.numbytes", b"2"),
            ],
        };
        list.push(("GNU.sparse.name", b"sparse-name"));
        if self.chance(3) {
            list.remove(self.random.below(list.len()));
        }
        list.iter().flat_map(|(key, value)| pax_record(key.as_bytes(), value)).collect()
    }

    fn data(&mut self) -> Vec<u8> {
        let map: [&[u8]; 7] = [
            b"1\n0\n3\n",
            b"0\n",
            b"1\n+2\n3\n",
            b"2\n0\n1\n4\n2\n",
            b"1\n0\n-3\n",
            b"x\n",
            b"1\n\n3\n",
        ];
        match self.random.below(5) {
            0 => Vec::new(),
            1 => b"abc".to_vec(),
            2 => [&padded(self.one(&map).to_vec())[..], b"abc"].concat(),
            3 => vec![b'd'; 512],
            _ => vec![b'd'; self.random.below(1500)],
        }
    }

    fn archive(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..=self.random.below(3) {
            let odd = !self.chance(4);
            while self.chance(2) {
                let typeflag = self.one(b"xxxxxgLLKK");
                let data = match typeflag {
                    b'x' | b'g' => self.records(odd),
                    _ if self.chance(4) => Vec::new(),
                    _ => [self.one(&TEXTS), self.one(&[&b"\0"[..], b"", b"\0x"])].concat(),
                };
                let odd = odd && self.chance(4);
                out.extend(self.header(typeflag, data.len(), odd));
                out.extend(padded(data));
            }
            let typeflag = match self.random.below(12) {
                0..7 => self.one(b"0000\0\0S"),
                7..11 => self.one(b"1234566"),
                _ => self.one(b"7DVMNXAz "),
            };
            let data = if matches!(typeflag, b'1'..=b'6') && !self.chance(8) {
                Vec::new()
            } else {
                self.data()
            };
            out.extend(self.header(typeflag, data.len(), odd));
            if typeflag == b'S' && self.chance(4) {
                out.extend([0; 512]);
            }
            out.extend(padded(data));
        }
        match self.random.below(12) {
            0 => {}
            1 => out.extend([0; 512]),
            2 => out.extend([0; 700]),
            3 => out.truncate(self.random.below(out.len())),
            4 => {
                let at = self.random.below(out.len());
                out[at] ^= 1 << self.random.below(8);
                out.extend([0; 1024]);
            }
            _ => out.extend([0; 1024]),
        }
        out
    }
}

/// An archive as relayer reads it, in the form of tests/go/headers.go, and the message it ends with.
fn read(archive: &[u8]) -> (String, Option<String>) {
    let mut out = String::new();
    let mut reader = Reader::new(Streaming::new(archive));
    loop {
        let e = match reader.next_entry() {
            Ok(Some(e)) => e,
            Ok(None) => return (out + "end\n", None),
            Err(e) => return (out, Some(e.to_string())),
        };
        let mut stored = Vec::new();
        if let Err(e) = reader.data().read_to_end(&mut stored) {
            return (out, Some(e.to_string()));
        }
        let (kind, link, device, dense) = match e.kind {
            EntryKind::File { size, sparse } => {
                let dense = match sparse {
                    None => stored,
                    Some(_) if size > 4 << 20 => return (out, Some("huge".into())),
                    Some(runs) => {
                        let mut dense = vec![0; size as usize];
                        let mut from = 0;
                        for (at, length) in runs {
                            let (at, length) = (at as usize, length as usize);
                            dense[at..at + length].copy_from_slice(&stored[from..from + length]);
                            from += length;
                        }
                        dense
                    }
                };
                (b'0', [].into(), (0, 0), dense)
            }
            EntryKind::HardLink { target } => (b'1', target, (0, 0), stored),
            EntryKind::Symlink { target } => (b'2', target, (0, 0), stored),
            EntryKind::CharDevice { major, minor } => (b'3', [].into(), (major, minor), stored),
            EntryKind::BlockDevice { major, minor } => (b'4', [].into(), (major, minor), stored),
            EntryKind::Dir => (b'5', [].into(), (0, 0), stored),
            EntryKind::Fifo => (b'6', [].into(), (0, 0), stored),
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let Mtime { secs, nanos } = e.mtime;
        let xattrs = e.xattrs.iter().map(|(k, v)| format!("{}={}", hex(k), hex(v)));
        let xattrs = xattrs.collect::<Vec<_>>().join(" ");
        writeln!(
            out,
            "{kind} {} {} {} {} {:o} {} {} {secs}.{nanos:09} {},{} {xattrs}",
            hex(&e.path),
            hex(&link),
            dense.len(),
            hex(&Sha256::digest(&dense)[..8]),
            e.mode,
            e.uid,
            e.gid,
            device.0,
            device.1,
        )
        .unwrap();
    }
}

/// What Go's reader prints for each archive.
fn go(dir: &Path, archives: &[Vec<u8>]) -> Vec<String> {
    let program = dir.join("headers");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/headers.go");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg(source).env("GO111MODULE", "off");
    super::tool::ok(build.env("GOCACHE", dir.join("cache")));
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let out = std::thread::scope(|scope| {
        scope.spawn(move || {
            for archive in archives {
                writeln!(input, "{}", archive.len()).unwrap();
                input.write_all(archive).unwrap();
            }
        });
        child.wait_with_output().unwrap()
    });
    assert!(out.status.success());
    let mut all = vec![String::new()];
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        let last = all.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
        if matches!(line, "end" | "error" | "huge") {
            all.push(String::new());
        }
    }
    all.pop();
    all
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
}

#[test]
fn headers_are_read_as_go_reads_them() {
    let (seed, count) = (from_env("RELAYER_SEED", 1), from_env("RELAYER_HEADERS", 5000));
    println!("RELAYER_SEED={seed} RELAYER_HEADERS={count}");
    let mut random = Random(seed);
    let archives: Vec<Vec<u8>> =
        (0..count).map(|_| Maker { random: &mut random }.archive()).collect();
    let dir = tempfile::tempdir().unwrap();
    let told = if super::tool::needs("go") {
        go(dir.path(), &archives)
    } else {
        // What ours says is not compared, only that it says something.
        for archive in &archives {
            read(archive);
        }
        return;
    };
    assert_eq!(told.len(), archives.len());
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for (i, (archive, told)) in archives.iter().zip(&told).enumerate() {
        let (ours, error) = read(archive);
        let verdict = match &error {
            _ if told.ends_with("huge\n") => "huge",
            None if ours == *told => "read alike",
            Some(_) if told.ends_with("error\n") => "refused by both",
            Some(message) => {
                REFUSED.iter().find(|(words, _)| message.contains(words)).map_or("", |(_, why)| why)
            }
            None => "",
        };
        if verdict.is_empty() {
            let file = std::env::temp_dir().join("relayer-headers.tar");
            std::fs::write(&file, archive).unwrap();
            panic!("archive {i} is {}\nGo:\n{told}\nrelayer:\n{ours}{error:?}", file.display());
        }
        *verdicts.entry(verdict).or_default() += 1;
    }
    println!("{verdicts:#?}");
    // The archives are worth reading: a good part is read, and a good part is refused.
    assert!(
        verdicts["read alike"] * 6 > count && verdicts["refused by both"] * 10 > count,
        "{verdicts:?}"
    );
}
