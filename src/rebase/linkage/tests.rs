//! What is read of ELF files and scripts.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::made::Made;
use super::*;
use crate::model::fileset::Location;
use crate::model::index::SourceId;

/// A file in contents of its own.
fn with(bytes: &[u8]) -> (Contents, FileData) {
    let location = Location::Span { source: SourceId::new(0), offset: 0 };
    let hash = *blake3::hash(bytes).as_bytes();
    let file = FileData { size: bytes.len() as u64, hash, location };
    (Contents::new(vec![Arc::new(bytes.to_vec())]), file)
}

fn linkage_of(bytes: &[u8]) -> Option<Linkage> {
    let (contents, file) = with(bytes);
    read(&contents, &file).unwrap()
}

fn texts<'a>(all: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<&'a str> {
    all.into_iter().map(|text| std::str::from_utf8(text).unwrap()).collect()
}

#[test]
fn programs_and_libraries_of_this_machine_are_read_as_readelf_does() {
    if Command::new("readelf").arg("-v").output().is_err() {
        println!("skipped: needs readelf");
        return;
    }
    for path in ["/bin/ls", "/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6"].map(Path::new) {
        if !path.exists() {
            continue;
        }
        let read = linkage_of(&std::fs::read(path).unwrap()).unwrap();
        let told = |option: &str| {
            let output = Command::new("readelf").args(["-W", option]).arg(path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let dynamic = told("-d");
        let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
        let names: Vec<&str> = needed.map(|line| line.split(['[', ']']).nth(1).unwrap()).collect();
        assert_eq!(texts(&read.needed), names, "{path:?}");
        let segments = told("-l");
        let loader = segments.split("interpreter: ").nth(1).and_then(|rest| rest.split(']').next());
        assert_eq!(read.interpreter.as_ref().map(|l| texts([l])[0]), loader, "{path:?}");
        let (mut library, mut versions, mut defined) = ("", BTreeSet::new(), BTreeSet::new());
        let mut in_needs = false;
        for line in told("-V").lines() {
            in_needs = in_needs && !line.starts_with("Version") || line.contains("needs section");
            let word = |after: &str| {
                line.split(after).nth(1).map(|rest| rest.split_whitespace().next().unwrap())
            };
            library =
                word("File: ").map_or(library, |name| Box::leak(name.to_owned().into_boxed_str()));
            match word("Name: ") {
                Some(name) if in_needs && !line.contains("WEAK") => {
                    versions.insert((library.as_bytes().to_vec(), name.as_bytes().to_vec()));
                }
                Some(name) if !in_needs => {
                    defined.insert(name.as_bytes().to_vec());
                }
                _ => {}
            }
        }
        assert_eq!(read.versions, versions, "{path:?}");
        assert_eq!(read.defined, defined, "{path:?}");
    }
}

#[test]
fn damaged_files_are_read_without_harm() {
    let made = Made {
        loader: "/lib64/ld.so.2",
        needed: &["liba.so.1", "libb.so.2"],
        search: "$ORIGIN:/opt",
        versions: &[("liba.so.1", &["A_1", "A_2"]), ("libb.so.2", &["B_1"])],
        defined: &["own", "OWN_1", "OWN_2"],
        machine: 62,
    };
    let whole = made.bytes();
    let read = linkage_of(&whole).unwrap();
    assert_eq!(texts(&read.needed), made.needed);
    assert_eq!((read.versions.len(), texts(&read.defined).len()), (3, 3));
    let bounded = |bytes: &[u8]| {
        if let Some(read) = linkage_of(bytes) {
            assert!(read.versions.len() <= MAX_ELF_VERSIONS && read.needed.len() <= 4_096);
        }
    };
    for at in 0..whole.len() {
        bounded(&whole[..at]);
        for byte in [0, 1, 2, 0x10, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bounded(&bytes);
            // A larger number where there was one.
            bytes[(at + 1) % whole.len()] = byte;
            bounded(&bytes);
        }
    }
    let mut state = 1u64;
    let mut next = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        bounded(&bytes);
    }
}

#[test]
fn tables_that_refer_to_themselves_end() {
    // Each of the needed libraries begins a byte after the last one, and has as many versions.
    let mut whole = Made { versions: &[("l", &["v"])], ..Made::NONE }.bytes();
    let at = memchr::memmem::find(&whole, &[1, 0, 1, 0]).unwrap();
    whole.truncate(at);
    let table = [1u8, 0].repeat(40_000);
    whole.extend_from_slice(&table);
    let mut patch = |at: usize, value: u64| whole[at..at + 8].copy_from_slice(&value.to_le_bytes());
    // The loaded part is the whole file, and the dynamic section is its end.
    patch(64 + 32, 1 << 20);
    let dynamic: [(u64, u64); 4] =
        [(5, 64), (0x6fff_fffe, at as u64), (0x6fff_ffff, u64::MAX), (0, 0)];
    patch(120 + 8, (at + table.len()) as u64);
    patch(120 + 32, 64);
    whole.extend(dynamic.iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()));
    assert!(linkage_of(&whole).unwrap().versions.len() <= MAX_ELF_VERSIONS);
}

#[test]
fn what_is_no_elf_file_has_no_linkage() {
    for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01", &[0x7f; 300]] {
        assert_eq!(linkage_of(bytes), None);
    }
}

#[test]
fn the_first_line_of_a_script_names_its_interpreter() {
    let words = |text: &str| {
        let (contents, file) = with(text.as_bytes());
        let words = script(&contents, &file).unwrap();
        words.map(|words| texts(&words).iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(words("#!/bin/sh\necho"), Some(vec!["/bin/sh".into()]));
    let env = ["/usr/bin/env", "-S", "python3", "-u"].map(str::to_owned).to_vec();
    assert_eq!(words("#! /usr/bin/env  -S python3 -u\n"), Some(env));
    assert_eq!((words("#!"), words("echo"), words("")), (Some(vec![]), None, None));
}
