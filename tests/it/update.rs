//! `split --previous`: chains of versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::fidelity::edge;
use super::image::{Codec, Image, Item, digest, layer, noise};
use super::model::{Random, Stack, Taste, seed};
use super::tool;

/// Splits an image into a layout folder, on top of another one if there is.
pub fn split(image: &Path, previous: Option<&Path>, out: &Path, options: &[&str]) -> Value {
    let mut command = tool::relayer();
    command.arg("split").arg(format!("oci:{}", image.display()));
    command.arg("-o").arg(format!("oci:{}:x", out.display())).args(["--json", "--force"]);
    if let Some(previous) = previous {
        command.arg("--previous").arg(format!("oci:{}", previous.display()));
    }
    serde_json::from_str(&tool::ok(command.args(options))).unwrap()
}

fn digests(report: &Value, kept: bool) -> Vec<&str> {
    let layers = report["images"][0]["layers"].as_array().unwrap().iter();
    layers.filter(|l| l["kept"] == kept).map(|l| l["digest"].as_str().unwrap()).collect()
}

/// What umoci makes of a result must be what it makes of the input, with the times of the previous
/// result where nothing else differs, unless `exact`.
fn judge(old: &Path, new: &Path, got: &Path, exact: bool, what: &str) {
    let script = "import sys, tree\n\
                  old, new, got = (tree.tree(p) for p in sys.argv[1:4])\n\
                  want = new if sys.argv[4:] else tree.carried(old, new)\n\
                  d = tree.differences(want, got)\nprint('\\n'.join(d[:20]))\nsys.exit(bool(d))";
    let mut paths = vec![old, new, got];
    if exact {
        paths.push(Path::new("exact"));
    }
    let out = tool::python(script, &paths);
    assert!(
        out.status.success(),
        "{what}:\n{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

fn stated_time(version: u64) -> u64 {
    1_600_000_000 + 1000 * version
}

/// Some versions of an image, each with all times moved.
fn versions(random: &mut Random) -> Vec<Image> {
    let mut all = Vec::new();
    for version in 0..4 {
        if random.below(3) == 0 {
            all.push(edge());
            continue;
        }
        let mut s = Stack::new(random, Taste::Careful);
        for item in s.layers.iter_mut().flatten() {
            item.mtime = stated_time(version).to_string();
        }
        all.push(s.image(false, random));
    }
    all
}

/// Gives directories the time of their version where umoci, taking something out of them by a
/// marker, has left the time at which it did so.
pub fn restore_times(dir: &Path, since: SystemTime, version: u64) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            restore_times(&entry.path(), since, version);
            let moved = entry.metadata().unwrap().modified().unwrap();
            if (since..=SystemTime::now()).contains(&moved) {
                let stated = SystemTime::UNIX_EPOCH + Duration::from_secs(stated_time(version));
                fs::File::open(entry.path()).unwrap().set_modified(stated).unwrap();
            }
        }
    }
}

#[test]
fn every_step_of_a_chain_is_what_umoci_unpacks() {
    if !tool::needs("umoci, python3, gzip, zstd, root") {
        return;
    }
    let (seed, begin) = (seed(), SystemTime::now());
    for chain in 0..6 {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: String| dir.path().join(name);
        let random = &mut Random(seed.wrapping_add(chain));
        let exact = chain % 3 == 2;
        let mut options = vec!["--target", ["1", "3", "8"][random.below(3)]];
        let mut before: Option<(PathBuf, PathBuf)> = None;
        for (i, image) in versions(random).into_iter().enumerate() {
            let what =
                format!("RELAYER_SEED={}, version {i}, {options:?}", seed.wrapping_add(chain));
            let codec = [Codec::Plain, Codec::Gzip, Codec::Zstd][i % 3];
            let input = at(format!("in{i}"));
            image.write_layout(&input, codec);
            let out = at(format!("out{i}"));
            let previous = before.as_ref().map(|(layout, _)| layout.as_path());
            split(&input, previous, &out, &options);
            if i == 0 {
                let limits = ["0%", "19%", "100%"][random.below(3)];
                options.extend(["--max-dead", limits]);
                options.extend(if exact { &["--exact"][..] } else { &[] });
            }
            for name in ["a", "b"] {
                fs::create_dir_all(at(format!("{name}{i}"))).unwrap();
            }
            let want = tool::unpack(&input, &at(format!("a{i}")));
            restore_times(&want, begin, i as u64);
            let got = tool::unpack(&out, &at(format!("b{i}")));
            match &before {
                None => tool::same_tree(&want, &got, &what),
                Some((_, old)) => judge(old, &want, &got, exact, &what),
            }
            let a = format!("oci:{}", input.display());
            let b = format!("oci:{}", out.display());
            tool::ok(tool::relayer().args(["verify", &a, &b, "--allow", "carried-mtimes"]));
            // The first of some chains is not relayer's.
            let foreign = i == 0 && chain % 2 == 1;
            before = Some(if foreign { (input, want) } else { (out, got) });
        }
    }
}

/// An application of several parts; `version` changes one of them, and every time.
pub fn application(version: usize) -> Image {
    let mut items: Vec<Item> =
        ["srv/", "srv/node_modules/", "opt/", "var/", "var/log/"].map(Item::dir).to_vec();
    for part in 0..8 {
        let dir = format!("srv/node_modules/p{part}");
        items.push(Item::dir(format!("{dir}/")));
        items.push(Item::file(format!("{dir}/package.json"), "{}"));
        let changed = if part < version { 100 * version } else { 0 };
        items.push(Item::file(format!("{dir}/index.js"), noise(part + changed, 300_000)));
    }
    items.push(Item::file("var/log/build.log", version.to_string()));
    items.push(Item::file("opt/empty", ""));
    if version == 0 {
        items.push(Item::file("opt/secret.key", noise(99, 2000)));
    }
    let items: Vec<Item> =
        items.into_iter().map(|i| i.mtime(&(1_700_000_000 + version).to_string())).collect();
    Image::new(vec![layer(&items)])
}

pub fn write(dir: &Path, version: usize) -> PathBuf {
    let path = dir.join(format!("v{version}"));
    application(version).write_layout(&path, Codec::Gzip);
    path
}

#[test]
fn an_image_on_top_of_itself_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let image = write(dir.path(), 0);
    let first = split(&image, None, &at("first"), &[]);
    let again = split(&image, Some(&at("first")), &at("again"), &[]);
    assert_eq!(first["digest"], again["digest"]);
    assert!(digests(&again, false).is_empty());
    // The result is its own next version too, and so is an image that relayer did not make.
    let result = split(&at("first"), Some(&at("first")), &at("result"), &[]);
    assert_eq!(first["digest"], result["digest"]);
    let foreign = split(&image, Some(&image), &at("foreign"), &[]);
    assert!(digests(&foreign, false).is_empty());
    let index: Value =
        serde_json::from_slice(&fs::read(image.join("index.json")).unwrap()).unwrap();
    assert_eq!(foreign["digest"], index["manifests"][0]["digest"]);
}

#[test]
fn layers_are_kept_byte_for_byte_and_nothing_depends_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (old, new) = (write(dir.path(), 0), write(dir.path(), 2));
    let first = split(&old, None, &at("first"), &["--target", "6"]);
    let mut all = Vec::new();
    for threads in ["1", "2", "7"] {
        let out = at(&format!("t{threads}"));
        all.push(split(&new, Some(&at("first")), &out, &["--threads", threads]));
    }
    assert_eq!(all[0]["digest"], all[1]["digest"]);
    assert_eq!(all[0]["digest"], all[2]["digest"]);
    let kept = digests(&all[0], true);
    assert!(kept.len() >= 3, "{kept:?}");
    let before = digests(&first, false);
    // In their order.
    let places: Vec<_> = kept.iter().map(|d| before.iter().position(|b| b == d).unwrap()).collect();
    assert!(places.is_sorted());
    for digest in &kept {
        let blob = |layout: &str| fs::read(at(layout).join("blobs").join(digest.replace(':', "/")));
        assert_eq!(blob("first").unwrap(), blob("t1").unwrap());
    }
    // Two parts of eight changed; times did everywhere.
    let update = &all[0]["images"][0]["update"];
    let bytes = |field: &str| update[field].as_u64().unwrap();
    assert!(bytes("set_bytes") < bytes("total_bytes") / 2, "{update}");
    assert!(bytes("dead_bytes") * 5 <= bytes("total_bytes"), "{update}");
    assert!(update["carried_over"]["files"].as_u64().unwrap() > 10, "{update}");
    // A dry run says the same and writes nothing.
    let mut dry = tool::relayer();
    dry.arg("split").arg(format!("oci:{}", new.display()));
    dry.arg("--previous").arg(format!("oci:{}", at("first").display()));
    let dry: Value = serde_json::from_str(&tool::ok(dry.args(["--dry-run", "--json"]))).unwrap();
    let verdicts = |report: &Value| report["images"][0]["update"]["previous"].clone();
    assert_eq!(verdicts(&dry), verdicts(&all[0]));
    assert!(!dir.path().join("v2.relayer.tar").exists());
}

#[test]
fn purging_takes_a_secret_out_of_every_layer() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (old, new) = (write(dir.path(), 0), write(dir.path(), 1));
    split(&old, None, &at("first"), &["--target", "3"]);
    let report = split(&new, Some(&at("first")), &at("kept"), &["--max-dead", "100%"]);
    let deleted = report["images"][0]["update"]["deleted"].as_array().unwrap();
    assert!(deleted.iter().any(|d| d["path"] == "/opt/secret.key"), "{deleted:?}");
    let options = ["--max-dead", "100%", "--purge", "**/*.key"];
    let report = split(&new, Some(&at("first")), &at("purged"), &options);
    let update = &report["images"][0]["update"];
    assert!(update["deleted"].as_array().unwrap().is_empty(), "{update}");
    let verdicts = update["previous"].as_array().unwrap();
    assert_eq!(verdicts.iter().filter(|l| l["verdict"] == "purged").count(), 1, "{update}");
    let images = [new, at("purged")].map(|dir| format!("oci:{}", dir.display()));
    let verify =
        |more: &[&str]| tool::output(tool::relayer().arg("verify").args(&images).args(more));
    let strict = verify(&[]);
    assert_eq!(strict.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&strict.stdout).contains("--allow carried-mtimes"));
    assert!(verify(&["--allow", "carried-mtimes"]).status.success());
}

#[test]
fn limits_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let first = write(dir.path(), 0);
    let mut previous = at("r0");
    split(&first, None, &previous, &["--target", "6"]);
    for version in 1..8 {
        let (new, out) = (write(dir.path(), version), at(&format!("r{version}")));
        let options = ["--max-layers", "7", "--max-dead", "10"];
        let report = split(&new, Some(&previous), &out, &options);
        let image = &report["images"][0];
        assert!(image["layers"].as_array().unwrap().len() <= 7, "version {version}");
        let update = &image["update"];
        let bytes = |field: &str| update[field].as_f64().unwrap();
        assert!(bytes("dead_bytes") <= 0.11 * bytes("total_bytes"), "version {version}: {update}");
        previous = out;
    }
}

#[test]
fn a_first_build_needs_no_previous_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), 0);
    let out = dir.path().join("out.tar");
    let run = |more: &[&str]| {
        let mut command = tool::relayer();
        command.arg("split").arg(&image).arg("-o").arg(&out).args([
            "-f",
            "--previous",
            "nowhere.tar",
        ]);
        tool::output(command.args(["--client", "docker", "--purge", "/nothing"]).args(more))
    };
    assert_eq!(run(&[]).status.code(), Some(tool::FAILED));
    let first = run(&["--previous-if-exists"]);
    let text = tool::said(&first);
    assert!(first.status.success() && text.contains("this is the first split"), "{text}");
    // The second build keeps what the first has.
    let second = dir.path().join("second.tar");
    tool::split(&[
        image.to_str().unwrap(),
        "-o",
        second.to_str().unwrap(),
        "--previous",
        out.to_str().unwrap(),
    ]);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&second).unwrap());
    // One that exists but can't be used is an error all the same.
    std::fs::write(dir.path().join("bad.tar"), "text").unwrap();
    let mut command = tool::relayer();
    command.arg("split").arg(&image).arg("-o").arg(dir.path().join("x.tar"));
    command.arg("--previous").arg(dir.path().join("bad.tar")).arg("--previous-if-exists");
    assert!(!tool::output(&mut command).status.success());
}

#[test]
fn the_layers_of_a_previous_result_are_verified() {
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), 0);
    let layout = dir.path().join("p");
    tool::split(&[image.to_str().unwrap(), "-o", &format!("oci:{}:x", layout.display())]);
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let store = |descriptor: &mut Value, value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        descriptor["digest"] = digest(&bytes).into();
        descriptor["size"] = bytes.len().into();
        fs::write(blob(descriptor["digest"].as_str().unwrap()), bytes).unwrap();
    };
    let mut index = read(&layout.join("index.json"));
    let root = &mut index["manifests"][0];
    let mut manifest = read(&blob(root["digest"].as_str().unwrap()));
    assert!(manifest["annotations"].to_string().contains("relayer"));
    let mut config = read(&blob(manifest["config"]["digest"].as_str().unwrap()));
    config["rootfs"]["diff_ids"][1] = digest(b"another").into();
    store(&mut manifest["config"], &config);
    store(root, &manifest);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let mut command = tool::relayer();
    command.arg("split").arg(&image).arg("--previous").arg(format!("oci:{}", layout.display()));
    let out = tool::output(command.arg("-o").arg(dir.path().join("x.tar")));
    let text = tool::said(&out);
    assert!(!out.status.success() && text.contains("the config states diff ID"), "{text}");
}

#[test]
fn wrong_usage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), 0).display().to_string();
    for (args, status) in [
        (&["--max-dead", "10%"][..], 2),
        (&["--previous", &image, "--max-dead", "120%"], 2),
        (&["--previous", &image, "--client", "rkt"], 2),
        (&["--previous", &image, "--max-layers", "0"], 2),
        (&["--previous", &image, "--purge", "/["], 2),
        (&["--previous", &image, "--beta", "-1"], 2),
        (&["--previous", "nowhere.tar"], tool::FAILED),
    ] {
        let out = tool::output(tool::relayer().args(["split", &image]).args(args));
        assert_eq!(out.status.code(), Some(status), "{args:?}");
        assert!(!out.stderr.is_empty(), "{args:?}");
    }
}

/// Times in an image of compiled Python, as a client unpacks it.
const PYTHON: &str = r#"
import os, shutil, subprocess, sys
root, version = sys.argv[1], int(sys.argv[2])
package = os.path.join(root, "lib/pkg")
os.makedirs(package)
for name in ("__init__", "same", "other", "changed"):
    with open(f"{package}/{name}.py", "w") as f:
        f.write(f"NAME = {name!r}\n" + (f"VERSION = {version}\n" if name == "changed" else ""))
    os.utime(f"{package}/{name}.py", (1700000000 + 10 * version,) * 2)
subprocess.run([sys.executable, "-m", "compileall", "-q", "-s", root, package], check=True)
# One whose source was touched afterwards, and one by hash: neither may come into step by chance.
os.utime(f"{package}/other.py", (1700000005 + 10 * version,) * 2)
"#;

#[test]
fn python_finds_sources_and_compiled_files_in_step() {
    if !tool::needs("python3, tar, umoci, zstd, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: String| dir.path().join(name);
    let mut previous: Option<PathBuf> = None;
    for version in 0..3u8 {
        let (root, input) = (at(format!("root{version}")), at(format!("in{version}")));
        fs::create_dir_all(&root).unwrap();
        let made = tool::python(PYTHON, &[&root, Path::new(&version.to_string())]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tar = tool::output(
            std::process::Command::new("tar")
                .args(["-cf", "-", "--format=pax", "-C"])
                .arg(&root)
                .arg("lib"),
        );
        Image::new(vec![tar.stdout]).write_layout(&input, Codec::Zstd);
        let out = at(format!("out{version}"));
        let report = split(&input, previous.as_deref(), &out, &[]);
        if version > 0 {
            // __init__ and same; other is out of step and changed is another.
            assert_eq!(
                report["images"][0]["update"]["carried_over"]["bytecode"], 2,
                "version {version}"
            );
        }
        fs::create_dir_all(at(format!("u{version}"))).unwrap();
        let rootfs = tool::unpack(&out, &at(format!("u{version}")));
        let imports = "import sys; sys.path.insert(0, sys.argv[1] + '/lib')\n\
                       import pkg, pkg.same, pkg.changed\nprint(pkg.changed.VERSION)";
        let listing = |root: &Path| {
            let script = "import os, sys, tree\nfor p, e in sorted(tree.tree(sys.argv[1]).items()):\n  print(p, e)";
            String::from_utf8(tool::python(script, &[root]).stdout).unwrap()
        };
        let before = listing(&rootfs);
        let ran = tool::python(imports, &[&rootfs]);
        assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), version.to_string());
        assert_eq!(before, listing(&rootfs), "python wrote something anew");
        let other = tool::python(
            "import sys; sys.path.insert(0, sys.argv[1] + '/lib')\nimport pkg.other",
            &[&rootfs],
        );
        assert!(other.status.success());
        assert_ne!(before, listing(&rootfs), "what was out of step must stay so");
        previous = Some(out);
    }
}

#[test]
fn diff_says_what_changed_and_what_it_costs() {
    let dir = tempfile::tempdir().unwrap();
    let layouts: Vec<String> = (0..3).map(|v| write(dir.path(), v).display().to_string()).collect();
    let args = [&["diff"][..], &layouts.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let text = tool::ok(tool::relayer().args(&args));
    for words in ["npm:p0", "only times changed", "by chain ID", "total of 2 steps"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = tool::ok(tool::relayer().args(&args).arg("--json"));
    let diff: Value = serde_json::from_str(&json).unwrap();
    let files = &diff["steps"][0]["diff"]["files"];
    // p0 and the log; the key is gone.
    assert_eq!(files["changed"]["files"], 2, "{files}");
    assert_eq!(files["removed"]["files"], 1, "{files}");
    assert_eq!(files["added"]["files"], 0, "{files}");
    let total = |model: &str| diff["total"][model]["bytes"].as_u64().unwrap();
    let step = |i: usize| diff["steps"][i]["diff"]["loads"]["chain"]["bytes"].as_u64().unwrap();
    assert_eq!(total("chain"), step(0) + step(1));
    super::cli::is_documented(&diff);
}
