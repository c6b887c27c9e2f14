//! Names and tags: which image of several a command takes, and which names are written.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::documents::{
    MANIFEST, NAME, Place, REF, add_json, documents, for_platform, named, one, roots,
};
use super::image::{Codec, Image, add_index, archive, digest, finish_layout, small, write_files};
use super::tool;

#[test]
fn images_are_chosen_by_digest_and_place() {
    let p = Place::new();
    let mut files = Vec::new();
    let (a, b) = (for_platform("amd64", &mut files), for_platform("s390x", &mut files));
    let nested = add_index(&[for_platform("arm64", &mut files)], &mut files);
    let strip = |mut d: Value| {
        d.as_object_mut().unwrap().remove("platform");
        d
    };
    finish_layout(&[strip(a.clone()), strip(b.clone()), nested], &mut files);
    write_files(&p.at("L"), &files);
    let (a, b) = (a["digest"].as_str().unwrap(), b["digest"].as_str().unwrap());
    let deep = for_platform("arm64", &mut Vec::new());
    let deep = deep["digest"].as_str().unwrap();
    p.refused(&["split", "oci:L", "-o", "o.tar"], &[a, b, "oci:DIR@sha256:"]);
    for (name, arch) in [
        (format!("oci:L@{b}"), "s390x"),
        (format!("oci:L:@{a}"), "amd64"),
        (format!("oci:L:{b}"), "s390x"),
        (format!("oci:L@{deep}"), "arm64"),
        ("oci:L:@1".into(), "s390x"),
    ] {
        p.ok(&["split", &name, "-f", "-o", "oci:o:v1"]);
        assert_eq!(documents(&p.at("o")).1["architecture"], arch, "{name}");
    }
    p.refused(&["split", "oci:L:@7", "-o", "o.tar"], &["no entry @7"]);
    p.refused(&["split", &format!("oci:L@{}", digest(b"?")), "-o", "o.tar"], &[a]);
}

#[test]
fn a_shared_tag_is_refused_and_a_full_name_is_not() {
    let p = Place::new();
    let (a, b) = (one("amd64"), one("arm64"));
    let config = |i: &Image| serde_json::to_vec(&i.config).unwrap();
    let manifest = json!([
        {"Config": "a.json", "RepoTags": ["one:v1"], "Layers": ["a.tar"]},
        {"Config": "b.json", "RepoTags": ["two:v1"], "Layers": ["b.tar"]},
    ]);
    let files = [
        ("a.json".into(), config(&a)),
        ("b.json".into(), config(&b)),
        ("a.tar".into(), a.layers[0].clone()),
        ("b.tar".into(), b.layers[0].clone()),
        ("manifest.json".into(), manifest.to_string().into_bytes()),
    ];
    fs::write(p.at("i.tar"), archive(&files)).unwrap();
    p.refused(&["split", "docker-archive:i.tar:v1", "-o", "o.tar"], &["one:v1", "two:v1"]);
    p.ok(&["split", "docker-archive:i.tar:two:v1", "-o", "oci:o:v1"]);
    assert_eq!(documents(&p.at("o")).1["architecture"], "arm64");
    let mut files = Vec::new();
    let roots = ["one", "two"].map(|name| {
        let mut d = one(name).oci_blobs(Codec::Plain, &mut files);
        d["annotations"] = json!({REF: "v1", NAME: format!("docker.io/library/{name}:v1")});
        d
    });
    finish_layout(&roots, &mut files);
    write_files(&p.at("L"), &files);
    p.refused(&["split", "oci:L:v1", "-o", "o.tar"], &["one:v1", "two:v1"]);
    p.ok(&["split", "oci:L:two:v1", "-o", "o.tar"]);
}

/// The files of an archive.
fn archive_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(fs::File::open(path).unwrap());
    let files = tar.entries().unwrap().map(|entry| {
        let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    });
    files.collect()
}

/// All names in an archive.
pub fn archive_names(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (name, bytes) in archive_files(path) {
        if name == "manifest.json" {
            let items: Value = serde_json::from_slice(&bytes).unwrap();
            let all = items.as_array().unwrap().iter();
            let tags = all.filter_map(|i| i["RepoTags"].as_array()).flatten();
            found.extend(tags.map(|t| t.as_str().unwrap().to_owned()));
        } else if name == "index.json" {
            let index: Value = serde_json::from_slice(&bytes).unwrap();
            for d in index["manifests"].as_array().unwrap() {
                let name = |key: &str| d["annotations"][key].as_str().map(str::to_owned);
                found.extend([REF, NAME].into_iter().filter_map(name));
            }
        }
    }
    found
}

#[test]
fn a_digest_is_written_as_no_name() {
    let p = Place::new();
    let mut files = Vec::new();
    let d = small().oci_blobs(Codec::Plain, &mut files);
    let of = d["digest"].as_str().unwrap();
    for annotations in [
        json!({REF: format!("@{of}"), NAME: format!("docker.io/example/app@{of}")}),
        json!({REF: of, NAME: of}),
        json!({REF: "<none>:<none>"}),
    ] {
        let mut files = files.clone();
        finish_layout(&[named(d.clone(), annotations)], &mut files);
        let _ = fs::remove_dir_all(p.at("L"));
        write_files(&p.at("L"), &files);
        for command in [&["split", "-o"][..], &["copy"]] {
            let args = [&[command[0], "-f", "oci:L"], &command[1..], &["o.tar"]].concat();
            p.ok(&args);
            assert_eq!(archive_names(&p.at("o.tar")), [""; 0]);
        }
        tool::manifest(&format!("docker-archive:{}", p.at("o.tar").display()));
        p.ok(&["split", "-f", &format!("oci:L@{of}"), "-o", "o.tar"]);
    }
}

#[test]
fn all_names_survive_an_archive() {
    let p = Place::new();
    let image = small();
    let mut config = Vec::new();
    serde_json::to_writer(&mut config, &image.config).unwrap();
    let manifest = json!([{
        "Config": "c.json", "RepoTags": ["app:v1", "app:latest", "reg:5000/app:v1"],
        "Layers": ["a.tar", "b.tar"],
    }]);
    let files = [
        ("c.json".into(), config),
        ("a.tar".into(), image.layers[0].clone()),
        ("b.tar".into(), image.layers[1].clone()),
        ("manifest.json".into(), manifest.to_string().into_bytes()),
    ];
    fs::write(p.at("i.tar"), archive(&files)).unwrap();
    let mut input = "i.tar".to_owned();
    for command in ["split", "copy", "flatten"] {
        let output = format!("{command}.tar");
        let args: Vec<&str> = match command {
            "copy" => vec!["copy", &input, &output],
            _ => vec![command, &input, "-o", &output],
        };
        p.ok(&args);
        let names = archive_names(&p.at(&output));
        for name in ["app:v1", "app:latest", "reg:5000/app:v1"] {
            let is = |n: &String| n.trim_start_matches("docker.io/library/") == name;
            assert!(names.iter().any(is), "{command}: {names:?}");
        }
        input = output;
    }
}

#[test]
fn of_several_platforms_amd64_has_the_name() {
    let p = Place::new();
    let mut files = Vec::new();
    let all = [for_platform("arm64", &mut files), for_platform("amd64", &mut files)];
    let root = add_index(&all, &mut files);
    finish_layout(&[named(root, json!({REF: "v1", NAME: "docker.io/library/app:v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    for (command, form) in [("split", ""), ("split", "docker-archive:"), ("copy", "")] {
        let output = format!("{form}o.tar");
        let args: Vec<&str> = match command {
            "copy" => vec!["copy", "-f", "oci:L:v1", &output],
            _ => vec!["split", "-f", "oci:L:v1", "-o", &output],
        };
        let said = p.ok(&args);
        assert!(said.contains("linux/amd64") && said.contains("--platform"), "{said}");
        // The names of each item of manifest.json, by the architecture of its config.
        let files = archive_files(&p.at("o.tar"));
        let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let list = json("manifest.json");
        let names = |arch: &str| {
            let of = |i: &&Value| json(i["Config"].as_str().unwrap())["architecture"] == arch;
            list.as_array().unwrap().iter().find(of).unwrap()["RepoTags"].to_string()
        };
        assert!(names("amd64").contains("app:v1"), "{form}");
        assert_eq!(names("arm64"), "null", "{form}");
        p.ok(&["verify", &output, "oci:L:v1"]);
        p.ok(&["inspect", &output]);
        p.ok(&["verify", "docker-archive:o.tar", "oci:L:v1"]);
        p.ok(&["inspect", "docker-archive:o.tar", "--platform", "linux/arm64/v8"]);
    }
}

#[test]
fn an_image_beside_its_signature_is_the_image() {
    let p = Place::new();
    let mut files = Vec::new();
    let image = one("amd64").oci_blobs(Codec::Gzip, &mut files);
    let payload =
        add_json(&json!({}), "application/vnd.dev.cosign.simplesigning.v1+json", &mut files);
    let config = json!({"rootfs": {"diff_ids": [digest(b"x")]}});
    let config = add_json(&config, "application/vnd.oci.image.config.v1+json", &mut files);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [payload]});
    let signature = add_json(&manifest, MANIFEST, &mut files);
    finish_layout(&[image.clone(), signature.clone()], &mut files);
    write_files(&p.at("L"), &files);
    let said = p.ok(&["split", "oci:L", "-o", "o.tar"]);
    assert!(said.contains(signature["digest"].as_str().unwrap()), "{said}");
    p.ok(&["copy", &format!("oci:L@{}", signature["digest"].as_str().unwrap()), "oci:S:sig"]);
    assert_eq!(roots(&p.at("S"))[0]["digest"], signature["digest"]);
}
