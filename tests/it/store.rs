//! `relayer store`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::documents::{blobs, rich_index};
use super::fidelity::edge;
use super::image::{Codec, Image, Item, archive, digest, finish_layout, layer, write_files};
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

/// White space, attestations and artifacts too; and an index that differs in one of these is another
/// image. All images of a layout are added at once.
#[test]
fn an_index_comes_out_with_everything_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut files = Vec::new();
    let mut first = rich_index(&mut files);
    let name = first["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let name = format!("blobs/sha256/{name}");
    let mut bytes = files.iter().find(|(path, _)| *path == name).unwrap().1.clone();
    bytes.push(b'\n');
    let mut second = first.clone();
    second["digest"] = digest(&bytes).into();
    second["size"] = bytes.len().into();
    files.push((digest(&bytes).replace("sha256:", "blobs/sha256/"), bytes));
    for (d, name) in [(&mut first, "app:1"), (&mut second, "app:2")] {
        d["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
    }
    finish_layout(&[first.clone(), second.clone()], &mut files);
    write_files(&dir.join("in"), &files);
    let added = json(dir, &["add", &at("in")]);
    assert_eq!(added["images"].as_array().unwrap().len(), 2);
    let list = json(dir, &["list"])["images"].clone();
    for (i, (d, name)) in [(first, "app:1"), (second, "app:2")].iter().enumerate() {
        assert_eq!((&list[i]["digest"], &list[i]["names"][0]), (&d["digest"], &(*name).into()));
        let (copied, out) = (at(&format!("copied{i}")), at(&format!("out{i}")));
        let from = format!("{}:{name}", at("in"));
        tool::ok(tool::relayer().args(["copy", "-q", &from, &format!("oci:{copied}:x")]));
        ok(dir, &["extract", "-q", name, "-o", &format!("oci:{out}:x")]);
        assert_eq!(blobs(Path::new(&copied)), blobs(Path::new(&out)), "{name}");
        assert_eq!(
            fs::read(format!("{copied}/index.json")).unwrap(),
            fs::read(format!("{out}/index.json")).unwrap()
        );
    }
    assert!(ok(dir, &["check", "--blobs"]).contains("no damage"));
    // A bare tag has the repository of its file.
    let small = at("web.tar");
    application(1).write_layout(Path::new(&at("web")), Codec::Gzip);
    tool::ok(tool::relayer().args([
        "copy",
        "-q",
        &at("web"),
        &format!("oci-archive:{small}:latest"),
    ]));
    ok(dir, &["add", &small]);
    assert!(ok(dir, &["list"]).contains("web:latest"));
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
    assert_eq!(list[1]["former"], serde_json::json!(["app:v1"]));
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

/// All files of a folder with something in them.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Wherever a bit flips: it is found, taken out, and the images are whole when they are added again.
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
    tool::run("cp", &["-a", store_dir.to_str().unwrap(), saved.to_str().unwrap()]);
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
        tool::run("cp", &["-a", saved.to_str().unwrap(), store_dir.to_str().unwrap()]);
    }
}

/// However often one image is added, files are few and descriptors suffice.
#[test]
fn many_adds_leave_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = dir.join("i.tar");
    let limited = |args: &[&str]| {
        let inner = store(dir, args);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]).arg(inner.get_program());
        command.args(inner.get_args());
        for (key, value) in inner.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        tool::ok(&mut command)
    };
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

/// The most memory that a command had.
fn peak(command: &Command) -> u64 {
    const SCRIPT: &str = "import os, subprocess, sys\n\
        p = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
        _, status, usage = os.wait4(p.pid, 0)\n\
        print(status, usage.ru_maxrss * 1024)";
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(command.get_program()).args(command.get_args());
    let said = tool::ok(&mut python);
    let (status, bytes) = said.trim().split_once(' ').unwrap();
    assert_eq!(status, "0");
    bytes.parse().unwrap()
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
        let peak = peak(&store(dir, &args));
        assert!(peak <= 128 << 20, "version {version}: {} MiB", peak >> 20);
    }
    for args in [["check", "--memory", "64MiB"], ["gc", "--memory", "64MiB"]] {
        let peak = peak(&store(dir, &args));
        assert!(peak <= 128 << 20, "{args:?}: {} MiB", peak >> 20);
    }
}

#[test]
fn images_are_kept_by_repository_and_taken_out_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for version in 0..6 {
        let image = dir.join(format!("v{version}.tar"));
        fs::write(&image, application(version).docker_skopeo()).unwrap();
        let name = if version % 2 == 0 { "web:latest" } else { "db:latest" };
        let tag = format!("reg.example/{}:{version}", if version % 2 == 0 { "web" } else { "db" });
        ok(dir, &["add", image.to_str().unwrap(), "--name", name, "--name", &tag, "--level", "1"]);
    }
    let list = json(dir, &["list"])["images"].clone();
    let of = |i: usize| (list[i]["names"][0].clone(), list[i]["former"].clone());
    assert_eq!(of(0), ("reg.example/web:0".into(), serde_json::json!(["web:latest"])));
    assert_eq!(of(5), ("db:latest".into(), serde_json::json!([])));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(list[5]["added"][0].as_u64().unwrap().abs_diff(now) < 3600);
    for (wanted, index) in
        [("web", 4), ("web:latest", 4), ("docker.io/library/db:latest", 5), ("3", 3)]
    {
        let out = json(dir, &["rm", "--dry-run", wanted]);
        assert_eq!(out["removed"][0]["digest"], list[index]["digest"], "{wanted}");
    }
    let both = tool::output(&mut store(dir, &["extract", "latest", "-o", "x.tar"]));
    let text = String::from_utf8_lossy(&both.stderr).into_owned();
    assert!(text.contains("several images are called \"latest\""), "{text}");
    assert!(text.contains("web:latest, db:latest") && !text.contains("web:0"), "{text}");
    let would = json(dir, &["rm", "--keep-last", "1", "--dry-run"]);
    assert_eq!((would["removed"].as_array().unwrap().len(), digests(dir).len()), (4, 6));
    ok(dir, &["rm", "reg.example/web", "--keep-last", "2"]);
    assert_eq!(digests(dir).len(), 5);
    ok(dir, &["rm", "--keep-last", "1"]);
    assert_eq!(json(dir, &["list"])["images"], serde_json::json!([list[4], list[5]]));
    let none = tool::output(&mut store(dir, &["rm", "nothing", "--keep-last", "1"]));
    assert!(String::from_utf8_lossy(&none.stderr).contains("reg.example/db"));
}

/// As docker does when it loads such an archive: both are kept, and the last has the name.
#[test]
fn images_of_one_name_in_one_archive_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (mut files, mut items) = (Vec::new(), Vec::new());
    let (mut layout, mut roots) = (Vec::new(), Vec::new());
    for version in 0..3 {
        let image = application(version);
        for (name, bytes) in image.docker(Codec::Plain, "HEX.json", "DIFF.tar") {
            if name == "manifest.json" {
                let mut item: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
                item[0]["RepoTags"] = serde_json::json!(["app:1"]);
                items.append(&mut item);
            } else if files.iter().all(|(other, _)| *other != name) {
                files.push((name, bytes));
            }
        }
        let mut root = image.oci_blobs(Codec::Gzip, &mut layout);
        let name = if version == 1 { "docker.io/library/app:1" } else { "app:1" };
        root["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        roots.push(root);
    }
    files.push(("manifest.json".into(), Value::from(items).to_string().into_bytes()));
    fs::write(at("docker.tar"), archive(&files)).unwrap();
    finish_layout(&roots, &mut layout);
    write_files(Path::new(&at("layout")), &layout);
    for (image, count) in [("docker.tar", 3), ("layout", 6)] {
        let added = tool::output(&mut store(dir, &["add", &at(image)]));
        let text = String::from_utf8_lossy(&added.stderr).into_owned();
        assert!(added.status.success(), "{text}");
        assert!(text.contains("app:1 was the name of "), "{text}");
        let list = json(dir, &["list"])["images"].clone();
        assert_eq!(list.as_array().unwrap().len(), count);
        for (i, image) in list.as_array().unwrap().iter().enumerate() {
            assert_eq!(image["names"].as_array().unwrap().len(), usize::from(i + 1 == count));
            ok(dir, &["extract", image["digest"].as_str().unwrap(), "-f", "-o", &at("out.tar")]);
        }
    }
}

#[test]
fn one_file_comes_out_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let layer = layer(&[
        Item::dir("etc"),
        Item::file("etc/real", "what it says\n"),
        Item::symlink("etc/link", "/etc/real"),
    ]);
    let image = dir.join("i.tar");
    fs::write(&image, Image::new(vec![layer]).docker_skopeo()).unwrap();
    ok(dir, &["add", image.to_str().unwrap(), "--name", "app:1"]);
    for path in ["/etc/real", "etc/real", "etc/link", "/etc/../etc/link"] {
        assert_eq!(ok(dir, &["cat", "app:1", path]), "what it says\n", "{path}");
    }
    for (path, what) in [("etc", "it is a directory"), ("etc/none", "no such file")] {
        let out = tool::output(&mut store(dir, &["cat", "app:1", path]));
        assert!(String::from_utf8_lossy(&out.stderr).contains(what));
    }
}

#[test]
fn stores_histories_and_other_folders_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = write(dir, 0);
    let image = image.to_str().unwrap();
    let (history, other, old) = (dir.join("history"), dir.join("other"), dir.join("old"));
    ok(dir, &["add", image]);
    tool::ok(tool::relayer().args(["history", "add", image, "--history"]).arg(&history));
    for folder in [&other, &old] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(other.join("letter"), "dear").unwrap();
    fs::write(old.join("CURRENT"), "MANIFEST-000001\n").unwrap();
    for (command, option, folder, what) in [
        (
            "store",
            "--store",
            &history,
            "this is a history, not a store; `relayer history` reads it",
        ),
        ("history", "--history", &dir.join("store"), "this is a store, not a history"),
        ("store", "--store", &other, "the folder holds other files and no store"),
        ("history", "--history", &other, "the folder holds other files and no history"),
        ("store", "--store", &old, "was written by another version of relayer"),
    ] {
        let out = tool::output(tool::relayer().args([command, "add", image, option]).arg(folder));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && text.contains(what), "{text}");
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
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
        assert!(text.contains("another relayer process is writing"), "{text}");
    }
    assert_eq!(digests(dir).len(), 1);
    ok(dir, &["check"]);
    let bytes = archive(&application(1).oci_files(Codec::Gzip));
    first.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(digests(dir).len(), 2);
}
