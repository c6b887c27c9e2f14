//! The final file set is what umoci makes of the input, whatever is in it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::image::{Codec, Image, Item, layer};
use super::tool;

/// Everything awkward that a layer may hold.
pub fn edge() -> Image {
    let deep = |n: usize| {
        (0..n).map(|i| format!("a-rather-long-folder-name-{i:03}")).collect::<Vec<_>>().join("/")
    };
    let noise = |n: usize, seed: u8| {
        let mut out = vec![0; n];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    };
    let capability =
        b"\x01\x00\x00\x02\x0a\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let mut base = vec![
        Item::dir("./").mode(0o755),
        Item::dir("opt/"),
        Item::dir("etc/"),
        Item::file("./etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        Item::dir("bin/"),
        Item::file("bin/ping", noise(3000, 1)).mode(0o755).xattr("security.capability", capability),
        Item::link("bin/ping6", "bin/ping").mode(0o755).xattr("security.capability", capability),
        Item::file("bin/su", "x").mode(0o4755),
        Item::file("bin/wall", "x").mode(0o2755),
        Item::dir("tmp/").mode(0o1777),
        Item::file("opt/none", "x").mode(0),
        Item::file("opt/ids", "x").owner(2_000_000_000, 1_999_999_999),
        Item::file("opt/xattr", "x")
            .xattr("user.bin", b"\x00\x0a=\xff\x0a")
            .xattr("user.text", "é".as_bytes()),
        Item::file("opt/old", "x").mtime("-86400"),
        Item::file("opt/before", "x").mtime("-1.5"),
        Item::file("opt/future", "x").mtime("4102444800"),
        Item::file("opt/fraction", "x").mtime("981173106.123456789"),
        Item::file("opt/empty", ""),
        Item::dir("opt/e/"),
        Item::dir("opt/e/a/"),
        Item::dir("opt/e/a/b/"),
        Item::new("opt/fifo", b'6'),
        Item { device: (1, 3), ..Item::new("opt/null", b'3') },
        Item { device: (7, 300), ..Item::new("opt/loop", b'4') },
        Item::symlink("opt/abs", "/etc/passwd"),
        Item::symlink("opt/dangling", "../../nowhere"),
        Item::symlink("opt/self", "self"),
        Item::symlink("opt/longtarget", "x".repeat(300)),
        Item::symlink("lib", "usr/lib"),
        Item::dir("usr/"),
        Item::dir("usr/lib/"),
        // Groups: one loses its first name, one has a name rewritten.
        Item::file("opt/h1", noise(40_000, 2)),
        Item::link("opt/h2", "opt/h1"),
        Item::link("opt/zz-h3", "./opt/h2"),
        Item::file("opt/k1", "k"),
        Item::link("opt/k2", "/opt/k1"),
        Item::link("opt/k3", "opt/k1"),
        // To be hidden, each in its own way.
        Item::dir("root/").mode(0o700),
        Item::file("root/key", "RELAYER-TEST-SECRET-1"),
        Item::file("etc/token", "RELAYER-TEST-SECRET-2"),
        Item::dir("opt/opq/"),
        Item::file("opt/opq/old", "RELAYER-TEST-SECRET-3"),
        Item::dir("opt/opq/sub/"),
        Item::file("opt/opq/sub/old", "x"),
        Item::file("opt/swap-f", "x"),
        Item::dir("opt/swap-d/"),
        Item::file("opt/swap-d/in", "x"),
        Item::symlink("opt/swap-l", "/etc"),
        Item::dir("opt/again/"),
        Item::file("opt/again/x", "first"),
        Item::file("opt/meta", noise(2000, 3)),
        Item::file("opt/twice", "first"),
        Item::file("opt/twice", "second"),
    ];
    let names: [&[u8]; 12] = [
        &[b'n'; 255],
        "Ünïcødé-日本語-🦀".as_bytes(),
        b"caf\xe9.txt",
        b"new\nline",
        b"back\\slash",
        b" blanks ",
        b"-dash",
        b"quote'\"$(x)",
        b"CASE",
        b"case",
        b"wh..x",
        b"tab\t",
    ];
    base.push(Item::dir("names/"));
    for name in names {
        base.push(Item::file([b"names/", name].concat(), name));
    }
    let mut at = String::new();
    for part in deep(30).split('/') {
        at = format!("{at}{part}/");
        base.push(Item::dir(&at));
    }
    base.push(Item::file(format!("{at}deep"), "deep"));
    base.push(Item::symlink(format!("{at}link"), "deep"));
    base.push(Item::link(format!("{at}hard"), format!("{at}deep")));
    let second = [
        Item::whiteout("opt/h1"),
        Item::whiteout("root/key"),
        Item::dir("root/").mode(0o750),
        Item::file("etc/token", "redacted"),
        Item::file("opt/k3", "rewritten"),
        // The marker comes after what it must not hide.
        Item::dir("opt/opq/"),
        Item::file("opt/opq/new", "x"),
        Item::opaque("opt/opq"),
        Item::dir("opt/swap-f/"),
        Item::file("opt/swap-f/now", "x"),
        Item::file("opt/swap-d", "now a file"),
        // A folder in the place of a link; its markers must not reach behind the link.
        Item::dir("opt/swap-l/"),
        Item::opaque("opt/swap-l"),
        Item::file("opt/swap-l/d", "x"),
        Item::whiteout("opt/again"),
        Item::file("opt/meta", noise(2000, 3)).mode(0o600).owner(33, 33).mtime("5"),
        Item::file("lib/libx.so", "through a link"),
    ];
    let third = [
        Item::dir("opt/again/"),
        Item::file("opt/again/y", "second"),
        Item::link("opt/late-link", "bin/su").mode(0o4755),
        Item::dir("opt/").mode(0o711).owner(5, 6).mtime("1234567890.000000001"),
    ];
    let mut image = Image::new(vec![layer(&base), layer(&second), layer(&[]), layer(&third)]);
    image.config["config"]["Labels"] = serde_json::json!({"a": "", "b": "ü"});
    image
}

fn layout_of(source: &str, out: &Path, args: &[&str]) -> Value {
    let _ = fs::remove_dir_all(out);
    let dest = format!("oci:{}:x", out.display());
    let args = [&[source, "-o", &dest, "--json"], args].concat();
    serde_json::from_str(&tool::split(&args)).unwrap()
}

fn config_of(layout: &Path) -> Value {
    let json = |path: String| -> Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let blob = |d: &Value| format!("blobs/{}", d["digest"].as_str().unwrap().replace(':', "/"));
    let manifest = json(blob(&json("index.json".into())["manifests"][0]));
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    json(blob(&manifest["config"]))
}

#[test]
fn umoci_unpacks_the_same_from_every_output() {
    if !tool::needs("umoci, python3, gzip, zstd, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let image = edge();
    fs::write(at("in.tar"), image.docker_legacy()).unwrap();
    image.write_layout(&at("in"), Codec::Gzip);
    let want = at("want");
    fs::create_dir(&want).unwrap();
    let want = tool::unpack(&at("in"), &want);
    let work = at("work");
    fs::create_dir(&work).unwrap();
    let archive = at("in.tar");
    let layout = format!("oci:{}", at("in").display());
    for target in ["1", "3", "8", "40"] {
        for codec in ["zstd", "gzip", "none"] {
            for source in [archive.to_str().unwrap(), &layout] {
                let what = format!("--target {target} --compression {codec} of {source}");
                let report =
                    layout_of(source, &at("out"), &["--target", target, "--compression", codec]);
                let layers = report["images"][0]["layers"].as_array().unwrap().len();
                assert!(layers.to_string() == target || target == "40", "{what}: {layers} layers");
                let got = tool::unpack(&at("out"), &work);
                tool::same_tree(&want, &got, &what);
                for entry in fs::read_dir(work.join("plain/blobs/sha256")).unwrap() {
                    let bytes = fs::read(entry.unwrap().path()).unwrap();
                    let secret = b"RELAYER-TEST-SECRET";
                    assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{what}: a secret");
                }
            }
        }
    }
}

#[test]
fn the_config_is_kept_but_for_layers_and_history() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.tar");
    let image = edge();
    fs::write(&input, image.docker_skopeo()).unwrap();
    let out = dir.path().join("out");
    layout_of(input.to_str().unwrap(), &out, &["--target", "3"]);
    let (mut new, mut old) = (config_of(&out), image.config.clone());
    let ids = new["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert_eq!(ids, 3);
    let history = new["history"].as_array().unwrap().clone();
    let empty = |line: &&Value| line["empty_layer"] == Value::Bool(true);
    assert_eq!(history.iter().filter(|l| !empty(l)).count(), ids);
    // The old lines come first, all of them without a layer.
    let before = old["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(empty).count(), before.len());
    for (a, b) in before.iter().zip(&history) {
        assert_eq!(a["created_by"], b["created_by"]);
    }
    for config in [&mut new, &mut old] {
        config["history"] = Value::Null;
        config["rootfs"]["diff_ids"] = Value::Null;
    }
    // With the order of its fields and its numbers as they were.
    assert_eq!(new.to_string(), old.to_string());
}

#[test]
fn splitting_a_result_again_gives_that_result() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.tar");
    fs::write(&input, edge().docker_skopeo()).unwrap();
    let once = layout_of(input.to_str().unwrap(), &dir.path().join("once"), &[]);
    let source = format!("oci:{}:x", dir.path().join("once").display());
    let twice = layout_of(&source, &dir.path().join("twice"), &[]);
    assert_eq!(once["digest"], twice["digest"]);
}

#[test]
fn verify_sees_what_changed_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("in.tar"), edge().docker_legacy()).unwrap();
    tool::split(&[&at("in.tar"), "-o", &at("out.tar")]);
    tool::ok(tool::relayer().args(["verify", &at("in.tar"), &at("out.tar")]));
    tool::split(&[&at("in.tar"), "-o", &at("zero.tar"), "--mtime", "zero"]);
    let out = tool::output(tool::relayer().args(["verify", &at("in.tar"), &at("zero.tar")]));
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("mtime") && !text.contains("mode"), "{text}");
}
