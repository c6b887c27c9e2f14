//! `relayer delta` and `relayer apply`.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::fidelity::edge;
use super::image::{Codec, Image, Item, layer};
use super::tool;
use super::update::{application, split};

fn delta(old: &str, new: &str, out: &str) -> Output {
    tool::output(tool::relayer().args(["delta", old, new, "-o", out, "--level", "3"]))
}

fn apply(old: &str, delta: &str, out: &str) -> Output {
    tool::output(tool::relayer().args(["apply", old, delta, "-o", out]))
}

fn ok(out: Output) -> String {
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{errors}");
    errors
}

/// The same manifest, which names everything else by digest.
fn same_image(a: &str, b: &str) {
    let manifest = |image: &str| tool::manifest(&format!("oci-archive:{image}"));
    assert_eq!(manifest(a), manifest(b), "{a} and {b} differ");
    tool::ok(tool::relayer().args(["verify", a, b]));
}

#[test]
fn what_relayer_wrote_comes_out_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (i, image) in [application(0), application(3), edge()].iter().enumerate() {
        fs::write(at(&format!("v{i}.tar")), image.docker_skopeo()).unwrap();
    }
    for codec in [
        &["--compression", "zstd"][..],
        &["--compression", "zstd:chunked"],
        &["--compression", "gzip"],
        &["--compression", "none"],
        &["--compression", "zstd", "--level", "7", "--long", "24"],
    ] {
        for (i, target) in ["3", "5", "2"].iter().enumerate() {
            let args = [
                &at(&format!("v{i}.tar")),
                "-f",
                "-o",
                &at(&format!("r{i}.tar")),
                "--target",
                target,
            ];
            tool::split(&[&args, codec].concat());
        }
        for (old, new) in [
            ("r0.tar", "r1.tar"),
            ("r1.tar", "r2.tar"),
            ("r2.tar", "r0.tar"),
            ("v0.tar", "r1.tar"),
            ("r1.tar", "r1.tar"),
        ] {
            for name in ["d", "out.tar"] {
                let _ = fs::remove_file(at(name));
            }
            ok(delta(&at(old), &at(new), &at("d")));
            ok(apply(&at(old), &at("d"), &at("out.tar")));
            same_image(&at(new), &at("out.tar"));
            let (small, whole) =
                (fs::metadata(at("d")).unwrap().len(), fs::metadata(at(new)).unwrap().len());
            // v0 to v3 is three parts of eight.
            let share = if new == "r1.tar" { 2 } else { 1 };
            assert!(small * share < whole, "{old} to {new}, {codec:?}: {small} of {whole}");
        }
    }
}

/// Gzip of skopeo is compressed again as skopeo did.
#[test]
fn what_skopeo_wrote_comes_out_byte_for_byte() {
    if !tool::needs("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (i, image) in [application(0), application(2), edge()].iter().enumerate() {
        fs::write(at("docker.tar"), image.docker_skopeo()).unwrap();
        let (from, to) = (at("docker.tar"), at(&format!("v{i}.tar")));
        let (from, to) = (format!("docker-archive:{from}"), format!("oci-archive:{to}"));
        tool::run("skopeo", &["copy", "-q", &from, &to]);
    }
    for (old, new) in [("v0.tar", "v1.tar"), ("v1.tar", "v2.tar")] {
        for name in ["d", "out.tar"] {
            let _ = fs::remove_file(at(name));
        }
        let notes = ok(delta(&at(old), &at(new), &at("d")));
        assert!(notes.is_empty(), "{notes}");
        for threads in ["1", "5"] {
            let args = ["delta", &at(old), &at(new), "-o", &at("t"), "-f", "--threads", threads];
            tool::ok(tool::relayer().args(args).args(["--level", "3"]));
            assert!(fs::read(at("t")).unwrap() == fs::read(at("d")).unwrap(), "{threads} threads");
        }
        ok(apply(&at(old), &at("d"), &at("out.tar")));
        same_image(&at(new), &at("out.tar"));
    }
}

#[test]
fn a_layer_that_occurs_again_costs_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("old.tar"), super::image::small().docker_skopeo()).unwrap();
    let size = |times: usize| {
        let one = layer(&[Item::file("noise", super::chunked::noise(300_000, 9))]);
        let new = at(&format!("new{times}.tar"));
        let files = Image::new(vec![one; times]).oci_files(Codec::Gzip);
        fs::write(&new, super::image::archive(&files)).unwrap();
        let (delta_file, out) = (at(&format!("d{times}")), at(&format!("out{times}.tar")));
        ok(delta(&at("old.tar"), &new, &delta_file));
        ok(apply(&at("old.tar"), &delta_file, &out));
        same_image(&new, &out);
        fs::metadata(delta_file).unwrap().len()
    };
    let (once, often) = (size(1), size(4));
    assert!(often < once + 1000, "{once} and {often}");
}

#[test]
fn what_others_wrote_comes_out_with_the_same_content() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("old.tar"), application(0).docker_legacy()).unwrap();
    edge().write_layout(&dir.path().join("gzip"), Codec::GzipMembers);
    application(1).write_layout(&dir.path().join("zstd"), Codec::ZstdFrames);
    for (old, new) in [("old.tar", "gzip"), ("gzip", "zstd"), ("zstd", "gzip")] {
        for name in ["d", "out.tar"] {
            let _ = fs::remove_file(at(name));
        }
        let notes = ok(delta(&at(old), &at(new), &at("d")));
        // The delta has the corrections that reproduce gzip.
        let other = notes.contains("can't reproduce the compressed bytes");
        assert_eq!(other, new == "zstd", "{notes}");
        ok(apply(&at(old), &at("d"), &at("out.tar")));
        tool::ok(tool::relayer().args(["verify", &at(new), &at("out.tar")]));
        tool::manifest(&format!("oci-archive:{}", at("out.tar")));
    }
}

#[test]
fn a_wrong_image_or_a_damaged_delta_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let small = |text: &str| {
        let items = [
            Item::dir("etc/"),
            Item::file("etc/a", text.repeat(2000)),
            Item::file("etc/b", "b".repeat(900)),
        ];
        Image::new(vec![layer(&items)]).docker_skopeo()
    };
    for (name, text) in [("a.tar", "one "), ("b.tar", "two "), ("c.tar", "six ")] {
        fs::write(at(name), small(text)).unwrap();
    }
    tool::split(&[&at("b.tar"), "-o", &at("new.tar")]);
    ok(delta(&at("a.tar"), &at("new.tar"), &at("d")));
    let refused = |old: &str, delta: &str, word: &str| {
        let out = apply(&at(old), delta, &at("out.tar"));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(tool::FAILED), "{text}");
        assert!(text.contains(word), "{word}: {text}");
        assert!(!Path::new(&at("out.tar")).exists());
    };
    refused("c.tar", &at("d"), "is not the image that");
    refused("a.tar", &at("b.tar"), "not a delta");
    let good = fs::read(at("d")).unwrap();
    for i in 0..good.len() {
        if i > 60 && i % 7 > 0 {
            continue;
        }
        let mut bad = good.clone();
        bad[i] ^= 0x10;
        fs::write(at("bad"), bad).unwrap();
        refused("a.tar", &at("bad"), "");
    }
    for cut in (0..good.len()).step_by(9) {
        fs::write(at("bad"), &good[..cut]).unwrap();
        refused("a.tar", &at("bad"), "");
    }
    // The undamaged delta works, and nothing is overwritten without --force.
    ok(apply(&at("a.tar"), &at("d"), &at("out.tar")));
    same_image(&at("new.tar"), &at("out.tar"));
    assert_eq!(apply(&at("a.tar"), &at("d"), &at("out.tar")).status.code(), Some(tool::FAILED));
    assert_eq!(delta(&at("a.tar"), &at("new.tar"), &at("d")).status.code(), Some(tool::FAILED));
}

#[test]
fn a_delta_goes_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for version in [0, 1] {
        fs::write(at(&format!("v{version}.tar")), application(version).docker_skopeo()).unwrap();
    }
    let made = delta(&at("v0.tar"), &at("v1.tar"), "-");
    fs::write(at("d"), &made.stdout).unwrap();
    assert!(ok(made).contains("wrote -"));
    let pipe = fs::File::open(at("d")).unwrap();
    let applied = tool::output(
        tool::relayer().args(["apply", &at("v0.tar"), "-", "-o", &at("out.tar")]).stdin(pipe),
    );
    ok(applied);
    tool::ok(tool::relayer().args(["verify", &at("v1.tar"), &at("out.tar")]));
}

#[test]
fn a_delta_follows_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for version in [0, 2] {
        application(version).write_layout(&at(&format!("v{version}")), Codec::Gzip);
    }
    split(&at("v0"), None, &at("r0"), &["--target", "6"]);
    split(&at("v2"), Some(&at("r0")), &at("r2"), &[]);
    let text = |name: &str| format!("oci:{}", at(name).display());
    ok(delta(&text("r0"), &text("r2"), at("d").to_str().unwrap()));
    ok(apply(&text("r0"), at("d").to_str().unwrap(), &format!("oci:{}:x", at("out").display())));
    let index = |name: &str| fs::read(at(name).join("index.json")).unwrap();
    assert_eq!(index("r2"), index("out"));
}
