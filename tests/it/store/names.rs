//! Names of stored images, and which images go first.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::image::{Codec, Image, archive, finish_layout, write_files};
use super::super::tool;
use super::super::update::application;
use super::{digests, json, ok, store};

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
    assert!(text.contains("several images match \"latest\""), "{text}");
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
        assert!(text.contains("the name app:1 was moved from image "), "{text}");
        let list = json(dir, &["list"])["images"].clone();
        assert_eq!(list.as_array().unwrap().len(), count);
        for (i, image) in list.as_array().unwrap().iter().enumerate() {
            assert_eq!(image["names"].as_array().unwrap().len(), usize::from(i + 1 == count));
            ok(dir, &["extract", image["digest"].as_str().unwrap(), "-f", "-o", &at("out.tar")]);
        }
    }
}

/// Documents are counted for each image: a layout may have as many images as an index.
#[test]
fn all_images_of_a_large_layout_are_added() {
    const IMAGES: usize = 600;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut layout, mut roots) = (Vec::new(), Vec::new());
    for i in 0..IMAGES {
        let image = Image::new(vec![archive(&[(format!("f{i}"), vec![b'x'; i])])]);
        let mut root = image.oci_blobs(Codec::Plain, &mut layout);
        root["annotations"] =
            serde_json::json!({"org.opencontainers.image.ref.name": format!("app:{i}")});
        roots.push(root);
    }
    finish_layout(&roots, &mut layout);
    write_files(&dir.join("layout"), &layout);
    ok(dir, &["add", dir.join("layout").to_str().unwrap()]);
    assert_eq!(json(dir, &["list"])["images"].as_array().unwrap().len(), IMAGES);
}
