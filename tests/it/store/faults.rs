//! Kills, damage, and limits of files and memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::super::image::{Codec, Image, Item, archive, layer};
use super::super::tool::{self, Measured};
use super::super::update::application;
use super::{digests, files, json, ok, store};

/// Numbers that look random; the seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// `RELAYER_KILLS` says how often.
#[test]
fn nothing_acknowledged_is_lost_by_kill() {
    let kills = std::env::var("RELAYER_KILLS").map_or(60, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let images: Vec<PathBuf> = (0..12)
        .map(|version| {
            let path = dir.join(format!("v{version}.tar"));
            fs::write(&path, application(version).docker_skopeo()).unwrap();
            path
        })
        .collect();
    let name = |version: u64| format!("app:v{version}");
    ok(dir, &["add", images[0].to_str().unwrap(), "--name", &name(0)]);
    let mut random = Random(7);
    for kill in 0..kills {
        let before = digests(dir);
        let version = random.below(12);
        let image = images[version as usize].to_str().unwrap();
        let (app, out) = (name(version), dir.join("out.tar").to_str().unwrap().to_owned());
        let args: &[&str] = match random.below(8) {
            0..=3 => &["add", image, "--name", &app, "--level", "1"],
            4 => &["rm", &before[random.below(before.len() as u64) as usize]],
            5 | 6 => &["gc", "--level", "1"],
            _ => &["extract", &before[0], "-f", "-o", &out],
        };
        let mut child =
            store(dir, args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(120)));
        let _ = child.kill();
        let done = child.wait_with_output().unwrap();
        let checked = tool::output(&mut store(dir, &["check", "--blobs", "--json"]));
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success(), "kill {kill}, {args:?}: {text}");
        let after = digests(dir);
        let lost = before.iter().filter(|d| !after.contains(d)).count();
        assert!(lost <= usize::from(args[0] == "rm"), "kill {kill}, {args:?}");
        // Whoever was told so has it.
        if args[0] == "add" && done.status.success() {
            assert!(ok(dir, &["list"]).contains(&app), "kill {kill}");
        }
        if args[0] == "extract" && Path::new(&out).exists() {
            tool::ok(tool::relayer().args(["copy", "-q", "-f", &out, &format!("{out}.2")]));
        }
        if after.is_empty() {
            ok(dir, &["add", images[0].to_str().unwrap(), "--name", &name(0)]);
        }
    }
}

/// Wherever a bit flips: the damage is found and removed, and the images are complete after they are added again.
/// `RELAYER_FLIPS` says how often.
#[test]
fn a_flipped_bit_is_found_and_repaired() {
    let flips = std::env::var("RELAYER_FLIPS").map_or(40, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let images: Vec<String> = [0, 5]
        .iter()
        .map(|version| {
            let image = dir.join(format!("v{version}.tar"));
            fs::write(&image, application(*version).docker_skopeo()).unwrap();
            image.to_str().unwrap().to_owned()
        })
        .collect();
    for image in &images {
        ok(dir, &["add", image, "--level", "1"]);
    }
    let (store_dir, saved) = (dir.join("store"), dir.join("saved"));
    // A process that was killed leaves what it wrote in the log of RocksDB.
    let log = files(&store_dir).into_iter().find(|f| f.extension().is_some_and(|e| e == "log"));
    assert!(log.is_none(), "all is in files with checksums: {log:?}");
    tool::copy_folder(&store_dir, &saved);
    let kinds: Vec<PathBuf> = files(&store_dir);
    let name = |f: &Path| f.strip_prefix(&store_dir).unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = kinds.iter().map(|f| name(f)).collect();
    for kind in ["format", "packs/", "records/", "index/CURRENT", "index/MANIFEST", ".sst"] {
        assert!(names.iter().any(|n| n.contains(kind)), "{kind}: {names:?}");
    }
    let mut random = Random(11);
    for flip in 0..flips {
        let file = &kinds[flip % kinds.len()];
        let name = name(file);
        let mut bytes = fs::read(file).unwrap();
        let (at, bit) = if flip < 8 * kinds.len() && name.contains("MANIFEST") {
            // Each bit of the kind of the first record: RocksDB reads on for ever with some.
            (6, (flip / kinds.len()) as u64)
        } else {
            (random.below(bytes.len() as u64), random.below(8))
        };
        bytes[at as usize] ^= 1 << bit;
        fs::write(file, &bytes).unwrap();
        let place = format!("{name}: byte {at}, bit {bit}");
        let out = tool::output(&mut store(dir, &["check", "--json"]));
        assert_eq!(out.status.code(), Some(1), "{place}");
        let found: Value = serde_json::from_slice(&out.stdout).expect(&place);
        let problems = found["checked"]["problems"].as_array().unwrap();
        // A line for what is damaged, perhaps one for a pack that stands on it, one an image.
        assert!((1..=2 + images.len()).contains(&problems.len()), "{place}: {problems:?}");
        // Nothing grows where damage is in the way.
        let size = |dir: &Path| -> u64 {
            files(&dir.join("packs")).iter().map(|f| fs::metadata(f).unwrap().len()).sum()
        };
        let before = size(&store_dir);
        let _ = tool::output(&mut store(dir, &["gc"]));
        assert!(size(&store_dir) <= before, "{place}");
        let repaired = tool::output(&mut store(dir, &["check", "--repair"]));
        let text = String::from_utf8_lossy(&repaired.stdout).into_owned();
        assert!(repaired.status.code().is_some_and(|code| code < 2), "{place}: {text}");
        let lost = !repaired.status.success();
        // Only what is in no other place is lost.
        assert!(!lost || name.starts_with("packs/"), "{place}: {text}");
        if lost {
            for image in &images {
                ok(dir, &["add", image, "--level", "1"]);
            }
        }
        assert!(ok(dir, &["check", "--blobs"]).contains("no damage"), "{place}");
        assert_eq!(json(dir, &["list"])["images"].as_array().unwrap().len(), 2, "{place}");
        fs::remove_dir_all(&store_dir).unwrap();
        tool::copy_folder(&saved, &store_dir);
    }
}

/// However often one image is added, files are few and descriptors suffice.
#[test]
fn many_adds_leave_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = dir.join("i.tar");
    let limited = |args: &[&str]| tool::ok(&mut tool::limited("-n 40", &store(dir, args)));
    for i in 0..40u64 {
        let text = format!("version {i}").repeat(500).into_bytes();
        let layer = layer(&[Item::file("srv/app", text)]);
        fs::write(&image, Image::new(vec![layer]).docker_skopeo()).unwrap();
        limited(&["add", image.to_str().unwrap(), "--name", &format!("app:{i}")]);
    }
    let count = files(&dir.join("store")).len();
    assert!(count < 16, "{:?}", files(&dir.join("store")));
    assert!(limited(&["check", "--blobs"]).contains("no damage"));
    limited(&["rm", "--keep-last", "5"]);
    limited(&["gc"]);
    assert_eq!(digests(dir).len(), 5);
    assert!(limited(&["check", "--blobs"]).contains("no damage"));
}

/// Packs, what they are compressed against and what is read are within --memory, but for what the
/// program itself takes.
#[test]
fn memory_is_what_was_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = dir.join("i.tar");
    let mut random = Random(3);
    let mut parts: Vec<Vec<u8>> = (0..12)
        .map(|_| (0..500_000).flat_map(|_| random.below(1 << 24).to_le_bytes()).collect())
        .collect();
    for version in 0..2 {
        for part in &mut parts {
            // Every chunk is a new one, and much like the one before.
            for at in (0..part.len()).step_by(10_000) {
                part[at] ^= 1 << version;
            }
        }
        let layers = parts.chunks(6).map(|some| {
            let items = some.iter().enumerate().map(|(i, part)| Item::file(format!("p{i}"), part));
            layer(&items.collect::<Vec<_>>())
        });
        fs::write(&image, archive(&Image::new(layers.collect()).oci_files(Codec::Plain))).unwrap();
        let name = format!("app:{version}");
        let image = image.to_str().unwrap();
        let args = ["add", image, "--name", &name, "--memory", "64MiB", "--threads", "4"];
        let Measured { out, peak, .. } = tool::measured(&mut store(dir, &args));
        assert!(out.status.success(), "{}", tool::said(&out));
        assert!(peak <= 128 << 20, "version {version}: {} MiB", peak >> 20);
    }
    for args in [["check", "--memory", "64MiB"], ["gc", "--memory", "64MiB"]] {
        let Measured { out, peak, .. } = tool::measured(&mut store(dir, &args));
        assert!(out.status.success(), "{}", tool::said(&out));
        assert!(peak <= 128 << 20, "{args:?}: {} MiB", peak >> 20);
    }
}
