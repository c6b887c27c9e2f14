//! `relayer store`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::fidelity::edge;
use super::image::{Codec, archive, digest};
use super::tool;
use super::update::{application, write};

fn store(dir: &Path, args: &[&str]) -> Command {
    let mut command = tool::relayer();
    command.arg("store").arg("--store").arg(dir.join("store")).args(args);
    command
}

fn ok(dir: &Path, args: &[&str]) -> String {
    tool::ok(&mut store(dir, args))
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, &[args, &["--json"]].concat())).unwrap()
}

/// The manifest that skopeo sees, after it has verified and copied every blob.
fn manifest(image: &str, work: &Path) -> String {
    let to = work.join("copied");
    let _ = fs::remove_dir_all(&to);
    tool::run("skopeo", &["copy", "-q", image, &format!("dir:{}", to.display())]);
    tool::run("skopeo", &["inspect", "--raw", image])
}

#[test]
fn every_image_comes_out_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut images: Vec<(String, bool)> = Vec::new();
    for (i, image) in [application(0), application(3), edge()].iter().enumerate() {
        // Codec::Gzip is of a level that relayer does not try.
        for codec in [Codec::Plain, Codec::Gzip, Codec::GzipMembers, Codec::Zstd, Codec::ZstdFrames]
        {
            let name = at(&format!("i{i}-{}.tar", images.len()));
            fs::write(&name, archive(&image.oci_files(codec))).unwrap();
            images.push((name, false));
        }
        let docker = at(&format!("docker{i}.tar"));
        fs::write(&docker, image.docker_skopeo()).unwrap();
        for args in [
            &["--compression", "zstd"][..],
            &["--compression", "gzip"],
            &["--compression", "none"],
            &["--compression", "zstd", "--level", "7", "--long", "24"],
            &["--compression", "gzip", "--level", "9"],
            &["--compression", "zstd:chunked"],
        ] {
            let name = at(&format!("r{i}-{}.tar", images.len()));
            tool::split(&[&[docker.as_str(), "-o", &name, "--target", "3"], args].concat());
            images.push((name, true));
        }
        for format in ["gzip", "zstd"] {
            let name = at(&format!("s{i}-{format}.tar"));
            let to = format!("oci-archive:{name}");
            let from = format!("docker-archive:{docker}");
            let args = ["copy", "-q", "--dest-compress-format", format, &from, &to];
            tool::run("skopeo", &args);
            images.push((name, false));
        }
    }
    for (i, (image, ours)) in images.iter().enumerate() {
        let added = json(dir, &["add", image, "--name", &format!("x:{i}"), "--level", "1"]);
        let added = &added["images"][0]["added"];
        if *ours {
            assert_eq!(added["kept"], 0, "{image}: {added}");
        }
    }
    assert!(ok(dir, &["check", "--blobs"]).contains("no damage"));
    for (i, (image, _)) in images.iter().enumerate() {
        let out = at("out.tar");
        ok(dir, &["extract", &format!("x:{i}"), "-f", "-o", &out]);
        let (a, b) = (format!("oci-archive:{image}"), format!("oci-archive:{out}"));
        assert_eq!(manifest(&a, dir), manifest(&b, dir), "{image}");
    }
    // By a transport of its own it is as good as any image.
    let stored = format!("store:{}:x:5", at("store"));
    tool::ok(tool::relayer().args(["verify", &stored, &images[5].0]));
    tool::split(&[&stored, "-o", &at("again.tar"), "--target", "3"]);
    let (delta, applied) = (at("delta"), at("applied.tar"));
    tool::ok(tool::relayer().args(["delta", &stored, &images[17].0, "-o", &delta]));
    tool::ok(tool::relayer().args(["apply", &stored, &delta, "-o", &applied]));
    tool::ok(tool::relayer().args(["verify", &applied, &images[17].0]));
    let text = tool::output(tool::relayer().args(["copy", &images[0].0, &stored]));
    assert!(String::from_utf8_lossy(&text.stderr).contains("relayer store add"));
}

/// Names are no part of an image.
#[test]
fn an_image_of_several_names_keeps_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    application(0).write_layout(Path::new(&at("in")), Codec::Gzip);
    ok(dir, &["add", &at("in"), "--name", "app:1", "--name", "v1"]);
    ok(dir, &["add", &at("in"), "--name", "other:2"]);
    let want = manifest(&format!("oci:{}", at("in")), dir);
    for (i, name) in ["app:1", "v1", "other:2"].iter().enumerate() {
        let out = at(&format!("out{i}.tar"));
        ok(dir, &["extract", name, "-o", &out]);
        assert_eq!(manifest(&format!("oci-archive:{out}"), dir), want, "{name}");
    }
    // Nor are they in a layout: both tags are of one image.
    for tag in ["a", "b"] {
        let out = format!("oci:{}:{tag}", at("two"));
        tool::ok(tool::relayer().args(["copy", &at("in"), &out]));
    }
    tool::ok(tool::relayer().args(["copy", &at("two"), &at("one.tar")]));
    assert_eq!(manifest(&format!("oci-archive:{}", at("one.tar")), dir), want);
}

#[test]
fn a_docker_archive_keeps_its_config_and_layers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (image, out) = (dir.join("i.tar"), dir.join("o.tar"));
    fs::write(&image, edge().docker_skopeo()).unwrap();
    ok(dir, &["add", image.to_str().unwrap()]);
    ok(dir, &["extract", "-o", &format!("docker-archive:{}", out.display())]);
    let config = |path: &Path| {
        let image = format!("docker-archive:{}", path.display());
        tool::run("skopeo", &["inspect", "--config", "--raw", &image])
    };
    assert_eq!(digest(config(&image).as_bytes()), digest(config(&out).as_bytes()));
}

#[test]
fn what_images_share_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for version in 0..4 {
        let image = dir.join(format!("v{version}.tar"));
        fs::write(&image, application(version).docker_skopeo()).unwrap();
        ok(dir, &["add", image.to_str().unwrap(), "--name", &format!("app:v{version}")]);
    }
    let stats = &json(dir, &["stats"])["stats"];
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    // Eight parts of 300 kB; of the later versions 1, 2 and 3 are new.
    let whole = number(&stats["images"][0], "unique_chunk_bytes");
    assert!(number(stats, "unique_chunk_bytes") < whole * 15 / 8);
    assert!(number(stats, "disk_bytes") < whole * 15 / 8);
    assert!((600_000..700_000).contains(&number(&stats["images"][2], "new_chunk_bytes")));
    // Whatever has a name keeps it; names move.
    let image = dir.join("v0.tar");
    let again = json(dir, &["add", image.to_str().unwrap(), "--name", "app:v1"]);
    assert_eq!(again["images"][0]["added"]["known"], true);
    let moved = &again["images"][0]["added"]["moved"];
    assert_eq!((&moved[0][0], moved[0][1].is_string()), (&"app:v1".into(), true));
    let list = json(dir, &["list"])["images"].clone();
    assert_eq!(list[0]["names"], serde_json::json!(["app:v1", "app:v0"]));
    assert_eq!(list[1]["names"], serde_json::json!([]));
    let v1 = list[1]["digest"].as_str().unwrap().to_owned();
    for name in [v1.as_str(), "v2", "app:v3"] {
        ok(dir, &["rm", name]);
    }
    ok(dir, &["gc"]);
    let after = &json(dir, &["stats"])["stats"];
    assert!(number(after, "pack_bytes") < whole * 11 / 10, "{after}");
    assert_eq!(number(after, "unused_bytes"), 0);
    assert!(ok(dir, &["check", "--blobs"]).contains("no damage"));
    for (args, what) in [
        (["extract", "v3", "-o", "x.tar"], "the store has no \"v3\"; there is app:v1"),
        (["add", "nowhere.tar", "--level", "3"], "reading nowhere.tar: No such file"),
    ] {
        let out = tool::output(&mut store(dir, &args));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && text.contains(what), "{text}");
    }
}

/// Numbers that look random; the seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn digests(dir: &Path) -> Vec<String> {
    let list = json(dir, &["list"]);
    let digest = |image: &Value| image["digest"].as_str().unwrap().to_owned();
    list["images"].as_array().unwrap().iter().map(digest).collect()
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

/// `RELAYER_FLIPS` says how often.
#[test]
fn a_flipped_bit_is_found() {
    let flips = std::env::var("RELAYER_FLIPS").map_or(120, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for version in [0, 5] {
        let image = dir.join(format!("v{version}.tar"));
        fs::write(&image, application(version).docker_skopeo()).unwrap();
        ok(dir, &["add", image.to_str().unwrap(), "--level", "1"]);
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.join("store")).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| fs::metadata(f).unwrap().len() > 0);
    files.sort();
    let mut random = Random(11);
    for flip in 0..flips {
        let file = &files[flip % files.len()];
        let name = file.file_name().unwrap().to_str().unwrap();
        let whole = fs::read(file).unwrap();
        let mut bytes = whole.clone();
        let (at, bit) = if flip < 8 * files.len() && name.starts_with("MANIFEST") {
            // Each bit of the kind of the first record: RocksDB reads on for ever with some.
            (6, (flip / files.len()) as u64)
        } else {
            (random.below(bytes.len() as u64), random.below(8))
        };
        bytes[at as usize] ^= 1 << bit;
        fs::write(file, &bytes).unwrap();
        let out = tool::output(&mut store(dir, &["check"]));
        fs::write(file, &whole).unwrap();
        // RocksDB's notes to people, and settings that it takes from us.
        let idle = ["OPTIONS", "IDENTITY"].iter().any(|n| name.starts_with(n));
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(idle || !out.status.success(), "{name}: byte {at}, bit {bit}\n{text}");
        if out.status.success() {
            continue;
        }
        assert!(text.contains("damaged") || text.contains("orruption"), "{name}: {text}");
    }
    assert!(ok(dir, &["check", "--blobs"]).contains("no damage"));
}

#[test]
fn one_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = write(dir, 0);
    let image = image.to_str().unwrap();
    let missing = tool::output(&mut store(dir, &["list"]));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("relayer store add"));
    ok(dir, &["add", image]);
    // It has the lock while it waits for its image.
    let mut first =
        store(dir, &["add", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    for args in [&["add", image][..], &["gc"], &["rm", "v0"]] {
        let second = tool::output(&mut store(dir, args));
        assert_eq!(second.status.code(), Some(1));
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(text.contains("another relayer is writing"), "{text}");
    }
    assert_eq!(digests(dir).len(), 1);
    ok(dir, &["check"]);
    let bytes = archive(&application(1).oci_files(Codec::Gzip));
    first.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(digests(dir).len(), 2);
}
