//! What went into a store comes out again.

use std::fs;
use std::path::Path;

use super::super::documents::{blobs, rich_index};
use super::super::fidelity::edge;
use super::super::image::{Codec, archive, digest, finish_layout, write_files};
use super::super::tool::{self, manifest};
use super::super::update::application;
use super::{json, ok};

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
        let formats = if tool::needs("skopeo") { &["gzip", "zstd"][..] } else { &[] };
        for format in formats {
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
        assert_eq!(manifest(&a), manifest(&b), "{image}");
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
    let want = manifest(&format!("oci:{}", at("in")));
    for (i, name) in ["app:1", "v1", "other:2"].iter().enumerate() {
        let out = at(&format!("out{i}.tar"));
        ok(dir, &["extract", name, "-o", &out]);
        assert_eq!(manifest(&format!("oci-archive:{out}")), want, "{name}");
    }
    // Nor are they in a layout: both tags are of one image.
    for tag in ["a", "b"] {
        let out = format!("oci:{}:{tag}", at("two"));
        tool::ok(tool::relayer().args(["copy", &at("in"), &out]));
    }
    tool::ok(tool::relayer().args(["copy", &at("two"), &at("one.tar")]));
    assert_eq!(manifest(&format!("oci-archive:{}", at("one.tar"))), want);
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
    let config = |path: &Path| tool::config(&format!("docker-archive:{}", path.display()));
    assert_eq!(digest(config(&image).as_bytes()), digest(config(&out).as_bytes()));
}
