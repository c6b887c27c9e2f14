//! `--compression zstd:chunked`: read in pieces by code that is not relayer's, and by podman.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::clients::{Client, expect_run, podman_run, runnable};
use super::fidelity::edge;
use super::image::{Codec, Image, Item, digest, layer};
use super::pulls::Registry;
use super::tool;
use super::update::{application, split, write};

const CHUNKED: [&str; 2] = ["--compression", "zstd:chunked"];

/// What tests/chunked.py found: layers with a table of contents, rows, chunks and holes.
fn check(layout: &Path, old_names: bool) -> Vec<usize> {
    let script = "import sys, chunked; chunked.main(sys.argv[1], sys.argv[2:])";
    let mut args = vec![layout];
    args.extend(old_names.then_some(Path::new("old")));
    let out = tool::python(script, &args);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{}: {errors}", layout.display());
    let numbers = String::from_utf8(out.stdout).unwrap();
    numbers.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// The descriptors of a layout's layers.
fn layers(layout: &Path) -> Vec<Value> {
    let json =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    json(layout.join("blobs").join(digest))["layers"].as_array().unwrap().clone()
}

pub fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

#[test]
fn tables_of_contents_say_what_tarfile_reads() {
    if !tool::needs("python3, zstd, umoci, root") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let holes = [&noise(100_000, 1)[..], &vec![0; 3_000_000], &noise(300_000, 2)].concat();
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(90));
    let items = [
        Item::dir("opt/"),
        Item::file("opt/holes", holes),
        Item::link("opt/linked", "opt/holes"),
        Item::file("opt/empty", ""),
        Item::file("opt/old", "x").mtime("-1.5"),
        Item::file("opt/mine", "x").owner(2_000_000_000, 7).mode(0o6755).xattr("user.a", b"b"),
        Item::symlink("opt/soft", "é".repeat(60)),
        Item { device: (7, 300), ..Item::new("opt/loop", b'4') },
        Item::new("opt/fifo", b'6'),
        Item::dir(format!("{}/", "d".repeat(90))),
        Item::file(long, "x"),
    ];
    Image::new(vec![layer(&items)]).write_layout(&at("in"), Codec::Gzip);
    split(&at("in"), None, &at("out"), &[&CHUNKED[..], &["--target", "2"]].concat());
    let found = check(&at("out"), false);
    let chunks_and_holes = (found[2] > 4, found[3]);
    assert_eq!((found[0], chunks_and_holes), (2, (true, 3)), "{found:?}");

    // Names that are not UTF-8 have no place in JSON: such a layer is plain zstd.
    edge().write_layout(&at("edge"), Codec::Gzip);
    split(&at("edge"), None, &at("edged"), &[&CHUNKED[..], &["--target", "6"]].concat());
    let found = check(&at("edged"), false);
    assert!((1..6).contains(&found[0]), "{found:?}");
    let same = [("in", "out"), ("edge", "edged")];
    for (input, output) in same {
        for name in [input, output] {
            fs::create_dir(at(&format!("{name}.d"))).unwrap();
        }
        let trees = [input, output].map(|n| tool::unpack(&at(n), &at(&format!("{n}.d"))));
        tool::same_tree(&trees[0], &trees[1], output);
    }
}

#[test]
fn splitting_again_and_keeping_layers_keep_what_clients_need() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (old, new) = (write(dir.path(), 0), write(dir.path(), 2));
    let options = [&CHUNKED[..], &["--target", "6"]].concat();
    let first = split(&old, None, &at("first"), &options);
    let again = split(&at("first"), None, &at("again"), &options);
    assert_eq!(first["digest"], again["digest"]);
    let threads = split(&old, None, &at("t"), &[&options[..], &["--threads", "1"]].concat());
    assert_eq!(first["digest"], threads["digest"]);
    let second = split(&new, Some(&at("first")), &at("second"), &options);
    let kept =
        second["images"][0]["layers"].as_array().unwrap().iter().filter(|l| l["kept"] == true);
    assert!(kept.count() >= 2, "{second}");
    let old = layers(&at("first"));
    for layer in layers(&at("second")) {
        let before = old.iter().find(|l| l["digest"] == layer["digest"]);
        assert!(before.is_none_or(|before| *before == layer), "{layer}");
    }
    if tool::needs("python3, zstd") {
        assert_eq!(check(&at("second"), false)[0], layers(&at("second")).len());
    }
    let named = |name: &str| format!("oci:{}", at(name).display());
    tool::ok(tool::relayer().args(["copy", &named("second"), &format!("{}:x", named("copy"))]));
    assert_eq!(layers(&at("copy")), layers(&at("second")));
}

#[test]
fn a_delta_that_can_not_make_a_blob_again_makes_no_promise_of_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let named = |name: &str| format!("oci:{}", at(name).display());
    let options = [&CHUNKED[..], &["--level", "5", "--target", "3"]].concat();
    for version in 0..2 {
        let input = write(dir.path(), version);
        split(&input, None, &at(&format!("s{version}")), &options);
    }
    // Nobody knows any longer how it was compressed.
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &str| at("s1").join("blobs").join(digest.replace(':', "/"));
    let mut index = read(at("s1/index.json"));
    let mut manifest = read(blob(index["manifests"][0]["digest"].as_str().unwrap()));
    manifest["annotations"].as_object_mut().unwrap().remove("io.relayer.plan").unwrap();
    let bytes = serde_json::to_vec(&manifest).unwrap();
    fs::write(blob(&digest(&bytes)), &bytes).unwrap();
    index["manifests"][0]["digest"] = digest(&bytes).into();
    index["manifests"][0]["size"] = bytes.len().into();
    fs::write(at("s1/index.json"), serde_json::to_vec(&index).unwrap()).unwrap();

    let (delta, out) = (at("delta"), format!("{}:x", named("out")));
    let delta = delta.to_str().unwrap();
    tool::ok(tool::relayer().args(["delta", &named("s0"), &named("s1"), "-o", delta]));
    tool::ok(tool::relayer().args(["apply", &named("s0"), delta, "-o", &out]));
    tool::ok(tool::relayer().args(["verify", &named("s1"), &named("out")]));
    let (known, made) = (layers(&at("s0")), layers(&at("out")));
    let fresh: Vec<_> =
        made.iter().filter(|l| known.iter().all(|k| k["digest"] != l["digest"])).collect();
    assert!(!fresh.is_empty());
    for layer in fresh {
        let notes = layer["annotations"].as_object().unwrap();
        assert!(notes.keys().all(|key| key == "io.relayer.plan"), "{layer}");
    }
    if tool::needs("python3, zstd") {
        check(&at("out"), false);
    }
}

/// containers/storage 1.43 looks for `ModTime` where its own writer writes `modtime`, and so loses
/// the times of all that it loads in pieces.
fn same_but_times(want: &Path, got: &Path, what: &str) {
    let script = "import sys, tree\n\
                  a, b = (tree.tree(p) for p in sys.argv[1:3])\n\
                  for e in [*a.values(), *b.values()]: e[6] = 0\n\
                  d = tree.differences(a, b)\nprint('\\n'.join(d[:20]))\nsys.exit(bool(d))";
    let out = tool::python(script, &[want, got]);
    assert!(out.status.success(), "{what}:\n{}", String::from_utf8_lossy(&out.stdout));
}

/// Debian's podman heeds the annotations by the names they had before containers/storage 1.44.
#[test]
fn podman_loads_the_chunks_that_it_lacks() {
    if !tool::needs("python3, zstd, docker-registry, skopeo, umoci, podman, root") {
        return;
    }
    // Overlay mounts want a disk below them.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let registry = Registry::start(dir.path());
    let podman = Client::chunked_podman(dir.path());
    let mut seen = 0;
    for version in 0..2u8 {
        let mut data = noise(5_000_000, 7);
        // Bytes are inserted in the middle of the file.
        data.splice(2_000_000..2_000_000, vec![version; usize::from(version) * 5]);
        let big = layer(&[Item::dir("big/"), Item::file("big/file", data)]);
        let base = runnable();
        let layers = [base.layers, application(usize::from(version)).layers, vec![big]].concat();
        let mut image = Image::new(layers);
        image.config["config"] = base.config["config"].clone();
        let (input, name) = (at(&format!("in{version}")), format!("v{version}"));
        image.write_layout(&input, Codec::Gzip);
        split(&input, None, &at(&name), &[&CHUNKED[..], &["--target", "3"]].concat());
        assert_eq!(check(&at(&name), true)[0], 3);
        let image = format!("{}/chunked:{name}", registry.address);
        let (from, to) = (format!("oci:{}:x", at(&name).display()), format!("docker://{image}"));
        let push = ["copy", "-q", "--preserve-digests", "--dest-tls-verify=false", &from, &to];
        tool::run("skopeo", &push);

        seen = registry.given(seen, &[]).1;
        podman.ok(&["pull", "-q", "--tls-verify=false", &image]);
        let (bytes, now) = registry.given(seen, &[]);
        let layers = self::layers(&at(&name));
        let all: u64 = layers.iter().map(|l| l["size"].as_u64().unwrap()).sum();
        println!("{name}: {bytes} of {all} bytes");
        assert!(registry.answers(seen).contains(&206), "{name}: no range was asked for");
        assert!(
            if version == 0 { bytes * 10 > all * 9 } else { bytes * 5 < all },
            "{bytes} of {all}"
        );
        seen = now;

        let mounted = podman.ok(&["image", "mount", &image]);
        fs::create_dir(at(&format!("u{version}"))).unwrap();
        let want = tool::unpack(&input, &at(&format!("u{version}")));
        same_but_times(&want, Path::new(mounted.trim()), &name);
        let ran = tool::run("chroot", &[mounted.trim(), "/bin/busybox", "cat", "/data/3"]);
        assert_eq!(ran, "from above\n");
        podman.ok(&["image", "umount", &image]);
        expect_run(podman_run(&podman, &image), "podman");
    }
}
