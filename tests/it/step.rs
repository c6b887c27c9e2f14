//! `split --previous`: single steps in which a layer says more than its paths do.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::image::{self, Codec, Image, Item, layer};
use super::tool;
use super::update::split;

fn noise(seed: u8, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// A file that makes its layer worth keeping.
fn bulk() -> Item {
    Item::file("bulk", noise(1, 400_000))
}

fn verify(a: &Path, b: &Path, options: &[&str]) {
    let names = [a, b].map(|p| format!("oci:{}", p.display()));
    tool::ok(tool::relayer().arg("verify").args(names).args(options));
}

fn write(dir: &Path, name: &str, layers: &[&[Item]]) {
    let layers = layers.iter().map(|items| layer(items)).collect();
    Image::new(layers).write_layout(&dir.join(name), Codec::Gzip);
}

/// Splits `old` into `first`, and `new` on top of that into `out`, which must hold what `new`
/// does. Gives what is said of the last.
fn step(dir: &Path, old: &[Item], new: &[Item], first: &[&str], then: &[&str]) -> Value {
    let at = |name: &str| dir.join(name);
    write(dir, "old", &[old]);
    write(dir, "new", &[new]);
    split(&at("old"), None, &at("first"), first);
    let then = [&["--max-dead", "100%"], then].concat();
    let mut report = split(&at("new"), Some(&at("first")), &at("out"), &then);
    verify(&at("new"), &at("out"), &["--allow", "carried-mtimes"]);
    report["images"][0].take()
}

fn verdicts(image: &Value) -> Vec<&str> {
    let layers = image["update"]["previous"].as_array().unwrap();
    layers.iter().map(|l| l["verdict"].as_str().unwrap()).collect()
}

#[test]
fn the_longest_name_is_whited_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let long = Item::file(format!("d/{}", "n".repeat(255)), "x");
    let new = [bulk(), Item::dir("d/")];
    let old = [&new[..], &[long]].concat();
    let image = step(dir.path(), &old, &new, &["--target", "1"], &[]);
    assert_eq!(verdicts(&image), ["kept"]);
    if !tool::needs("umoci, python3, root") {
        return;
    }
    for name in ["a", "b"] {
        fs::create_dir(at(name)).unwrap();
    }
    let want = tool::unpack(&at("new"), &at("a"));
    tool::same_tree(&want, &tool::unpack(&at("out"), &at("b")), "umoci");
}

#[test]
fn attributes_of_the_root_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = Item::dir("./").mode(0o700);
    step(dir.path(), &[root.clone(), bulk()], &[bulk()], &[], &[]);
    step(dir.path(), &[bulk()], &[root, bulk()], &[], &[]);
}

#[test]
fn a_secret_is_purged_by_the_name_of_a_hard_link() {
    let dir = tempfile::tempdir().unwrap();
    let secret = noise(2, 2000);
    let old = [bulk(), Item::file("a", &secret), Item::link("b.key", "a")];
    let new = [bulk(), Item::file("b.key", "public")];
    let image = step(dir.path(), &old, &new, &["--target", "1"], &[]);
    assert_eq!(verdicts(&image), ["kept"]);
    let image = step(dir.path(), &old, &new, &["--target", "1"], &["--purge", "**/*.key"]);
    assert_eq!(verdicts(&image), ["purged"]);
    // The same where the link is in a layer above: the bytes are in the lower one.
    let at = |name: &str| dir.path().join(name);
    write(dir.path(), "two", &[&old[..2], &old[2..]]);
    let options = ["--max-dead", "100%", "--purge", "**/*.key"];
    let report = split(&at("new"), Some(&at("two")), &at("purged"), &options);
    assert_eq!(verdicts(&report["images"][0]), ["purged", "purged"]);
    // A link whose file is still there is not dead.
    let image = step(dir.path(), &old, &old, &["--target", "1"], &["--purge", "**/*.key"]);
    assert_eq!(verdicts(&image), ["kept"]);
}

#[test]
fn a_file_behind_a_symlink_is_not_dead() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let lower = [
        Item::symlink("lib", "usr/lib"),
        Item::symlink("top", "/"),
        Item::dir("usr/"),
        Item::dir("usr/lib/"),
    ];
    let upper = [
        bulk(),
        Item::file("lib/x", "kept"),
        Item::file("lib/gone", "x"),
        Item::file("lib/other", "x"),
        Item::file("top/y", "kept"),
    ];
    write(dir.path(), "old", &[&lower, &upper]);
    let whiteout = [Item::whiteout("usr/lib/gone"), Item::file("usr/lib/other", "new")];
    write(dir.path(), "new", &[&lower, &upper, &whiteout]);
    let options = ["--max-dead", "100%", "--purge", "lib/x", "--purge", "top/y"];
    let report = split(&at("new"), Some(&at("old")), &at("out"), &options);
    let update = &report["images"][0]["update"];
    assert_eq!(verdicts(&report["images"][0]), ["kept", "kept"]);
    let deleted: Vec<_> =
        update["deleted"].as_array().unwrap().iter().map(|d| d["path"].clone()).collect();
    assert_eq!(deleted, ["/lib/gone"], "{update}");
    verify(&at("new"), &at("out"), &[]);
}

#[test]
fn images_of_one_platform_are_taken_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let manifests: Vec<Value> = ["amd64", "arm64", "amd64"]
        .iter()
        .enumerate()
        .map(|(i, arch)| {
            let file = Item::file("number", i.to_string());
            let mut image = Image::new(vec![layer(&[bulk(), file])]);
            image.config["architecture"] = (*arch).into();
            let mut d = image.oci_blobs(Codec::Gzip, &mut files);
            d["platform"] = json!({"os": "linux", "architecture": arch});
            d
        })
        .collect();
    let mut index = image::add_index(&manifests, &mut files);
    index["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
    image::finish_layout(&[index], &mut files);
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    image::write_files(&input, &files);
    verify(&input, &input, &[]);
    let report = split(&input, Some(&input), &out, &[]);
    for (i, image) in report["images"].as_array().unwrap().iter().enumerate() {
        assert_eq!(image["manifest"], manifests[i]["digest"], "image {i}");
    }
}

#[test]
fn there_are_never_more_layers_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let files = |seed: u8| -> Vec<Item> {
        (0..8).map(|i| Item::file(format!("f{i}"), noise(seed + i, 100_000))).collect()
    };
    let count = |image: &Value| image["layers"].as_array().unwrap().len();
    // Nothing is worth keeping.
    for target in [&["--target", "8"][..], &["--layer-size", "100kB"]] {
        let options = [target, &["--max-layers", "3"]].concat();
        let image = step(dir.path(), &files(10), &files(20), &[], &options);
        assert!(verdicts(&image).iter().all(|v| *v != "kept"));
        assert_eq!(count(&image), 3, "{options:?}");
    }
    // All is, and something goes.
    let (old, mut new) = (files(10), files(10));
    new.pop();
    let options = ["--max-layers", "4", "--beta", "0"];
    let image = step(dir.path(), &old, &new, &["--target", "4"], &options);
    assert!(count(&image) <= 4, "{image}");
}

#[test]
fn times_are_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Python 3.11: magic, flags, time and size of the source.
    let compiled = |stamp: u32| {
        [&3495u16.to_le_bytes()[..], b"\r\n\0\0\0\0", &stamp.to_le_bytes(), b"\x01\0\0\0code"]
            .concat()
    };
    let version = |source: u32, other: u32| {
        vec![
            bulk().mtime(&other.to_string()),
            Item::dir("p/").mtime(&other.to_string()),
            Item::file("p/x.py", "x").mtime(&source.to_string()),
            Item::file("p/x.pyc", compiled(source)).mtime(&other.to_string()),
        ]
    };
    write(dir.path(), "old", &[&version(80, 2000)]);
    write(dir.path(), "new", &[&version(90, 3000)]);
    split(&at("old"), None, &at("first"), &[]);
    let on_top = |options: &[&str]| split(&at("new"), Some(&at("first")), &at("out"), options);
    for policy in ["zero", "clamp:@1000"] {
        on_top(&["--mtime", policy]);
        split(&at("new"), None, &at("alone"), &["--mtime", policy]);
        verify(&at("alone"), &at("out"), &[]);
    }
    // What the policy allows is still carried over.
    let report = on_top(&["--mtime", "clamp:@2500"]);
    let image = &report["images"][0];
    assert_eq!(image["update"]["carried_over"]["bytecode"], 1, "{image}");
    assert_eq!(image["held"]["restamped"], 0, "{image}");
    assert!(verdicts(image).iter().all(|v| *v == "kept"), "{image}");
}
