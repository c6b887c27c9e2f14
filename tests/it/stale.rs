//! Fields, labels and annotations about layers that are dropped, and those that still hold.

use std::fs;

use serde_json::{Value, json};

use super::documents::{
    Files, INDEX, MANIFEST, Place, REF, add_json, blob, blobs, documents, for_platform, named,
    read_json, roots,
};
use super::image::{
    Codec, Image, Item, add_index, digest, finish_layout, layer, small, write_files,
};

#[test]
fn what_describes_old_layers_goes_and_is_told() {
    let p = Place::new();
    let names = ["a", "b", "c"];
    // Not in relayer's order, so that no layer stays.
    let two = |n: &str| [format!("{n}2"), format!("{n}1")].map(|n| Item::file(&n, n.repeat(5000)));
    let layers = names.map(|n| layer(&two(n)));
    let mut image = Image::new(layers.to_vec());
    let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    image.config["moby.buildkit.cache.v0"] = "eyJsYXllciI6MH0=".into();
    image.config["moby.buildkit.buildinfo.v1"] = "kept".into();
    image.config["config"]["Labels"] = json!({
        "ostree.final-diffid": ids[1], "ostree.commit": "0".repeat(64),
        "io.buildpacks.lifecycle.metadata": json!({"app": [{"sha": ids[2]}]}).to_string(),
        "io.buildpacks.rebasable": "true", "io.buildpacks.build.metadata": "{}",
        "org.opencontainers.image.base.digest": digest(b"base"),
        "com.example.layer": format!("it is {}.", ids[0]), "maintainer": "me",
    });
    let mut files = Vec::new();
    let mut d = image.oci_blobs(Codec::Gzip, &mut files);
    let (name, bytes) = files.pop().unwrap();
    assert!(name.ends_with(&d["digest"].as_str().unwrap()[7..]));
    let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let blob = manifest["layers"][0]["digest"].clone();
    manifest["annotations"] = json!({
        "org.opencontainers.image.base.name": "debian", "com.amazon.soci.index-digest": "x",
        "com.example.blob": blob, "kept": "yes",
    });
    d = add_json(&manifest, MANIFEST, &mut files);
    finish_layout(&[named(d, json!({REF: "v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    let gone = [
        "moby.buildkit.cache.v0",
        "ostree.final-diffid",
        "io.buildpacks.lifecycle.metadata",
        "io.buildpacks.rebasable",
        "org.opencontainers.image.base.digest",
        "org.opencontainers.image.base.name",
        "com.example.layer",
        "com.amazon.soci.index-digest",
        "com.example.blob",
    ];
    let kept = [
        "moby.buildkit.buildinfo.v1",
        "ostree.commit",
        "maintainer",
        "io.buildpacks.build.metadata",
        "kept",
    ];
    for command in ["split", "flatten"] {
        let args = [command, "oci:L:v1", "-f", "-o", "oci:o:v1"];
        let said = p.ok(&args);
        let out = p.run(&[&args[..], &["--json"]].concat());
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let notes = report["images"][0]["notes"].to_string();
        let dry = p.run(&[&args[..], &["--dry-run", "--json"]].concat());
        let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
        assert_eq!(dry["images"][0]["notes"].to_string(), notes);
        let (manifest, config) = documents(&p.at("o"));
        let text = format!("{manifest}{config}");
        for key in gone {
            assert!(notes.contains(key) && said.contains(key), "{command}: {key}: {said}");
            assert!(!text.contains(key), "{command}: {key}: {text}");
        }
        for key in kept {
            assert!(text.contains(key), "{command}: {key}: {text}");
        }
    }
    // A label that names a layer of the result stays with it, and a copy changes nothing.
    let diff_id = documents(&p.at("o")).1["rootfs"]["diff_ids"][0].clone();
    let mut image = Image::new(vec![layer(&two("a"))]);
    image.config["config"]["Labels"] = json!({"ostree.final-diffid": diff_id});
    fs::write(p.at("i.tar"), image.docker_skopeo()).unwrap();
    p.ok(&["flatten", "i.tar", "-o", "oci:f:v1"]);
    assert!(!documents(&p.at("f")).1.to_string().contains("final-diffid"));
    let own = documents(&p.at("f")).1["rootfs"]["diff_ids"][0].clone();
    image.config["config"]["Labels"] = json!({"ostree.final-diffid": own});
    fs::write(p.at("i.tar"), image.docker_skopeo()).unwrap();
    let said = p.ok(&["flatten", "i.tar", "-f", "-o", "oci:f:v1"]);
    assert!(documents(&p.at("f")).1.to_string().contains("final-diffid"), "{said}");
    p.ok(&["copy", "oci:L:v1", "oci:M:v1"]);
    assert_eq!(blobs(&p.at("L")), blobs(&p.at("M")));
}

#[test]
fn an_index_keeps_what_still_holds_of_its_images() {
    let p = Place::new();
    let mut files = Vec::new();
    let two = [for_platform("amd64", &mut files), for_platform("arm64", &mut files)];
    finish_layout(&[named(add_index(&two, &mut files), json!({REF: "v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    p.ok(&["split", "oci:L:v1", "-o", "oci:o:v1"]);
    let index = |tag: &str| {
        let root = roots(&p.at("o")).into_iter().find(|d| d["annotations"][REF] == tag).unwrap();
        read_json(&blob(&p.at("o"), &root))
    };
    let [amd64, arm64] = [0, 1].map(|i| index("v1")["manifests"][i].clone());
    let manifest = read_json(&blob(&p.at("o"), &amd64));
    let config = read_json(&blob(&p.at("o"), &manifest["config"]));
    // What split leaves of the index of two images on top of those, and says of it.
    let split = |images: [&Value; 2], annotations: &Value, mut files: Files| {
        let all = blobs(&p.at("o")).into_iter();
        files.extend(all.map(|(name, bytes)| (format!("blobs/sha256/{name}"), bytes)));
        let index_of = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": images, "annotations": annotations,
        });
        let d = named(add_json(&index_of, INDEX, &mut files), json!({REF: "v2"}));
        finish_layout(&[d], &mut files);
        write_files(&p.at("N"), &files);
        let args =
            ["split", "oci:N:v2", "--previous", "oci:o:v1", "-f", "-o", "oci:o:v2", "--json"];
        let notes = |more: &[&str]| {
            let out = p.run(&[&args[..], more].concat());
            let report: Value = serde_json::from_slice(&out.stdout).unwrap();
            [0, 1].map(|i| report["images"][i]["notes"].clone())
        };
        let said = notes(&["--dry-run"]);
        assert_eq!(said, notes(&[]));
        (index("v2"), said.map(|notes| notes.to_string()))
    };
    // One that stays, and one whose layer is another; not in relayer's order.
    let new = layer(&[Item::file("b", "b"), Item::file("a", "a")]);
    let mut image = Image::new(vec![new.clone()]);
    image.config["architecture"] = "arm64".into();
    let mut files = Vec::new();
    let mut d = image.oci_blobs(Codec::Gzip, &mut files);
    d["platform"] = arm64["platform"].clone();
    d = named(d, json!({"com.amazon.soci.x": "y"}));
    let annotations = json!({
        "com.example.kept": config["rootfs"]["diff_ids"][0], "com.example.gone": digest(&new),
        "com.example.blob": manifest["layers"][0]["digest"], "a": "b",
        "org.opencontainers.image.base.name": "debian",
    });
    let (after, notes) = split([&amd64, &d], &annotations, files);
    let kept: Vec<_> = after["annotations"].as_object().unwrap().keys().collect();
    assert_eq!(kept, ["a", "com.example.blob", "com.example.kept"]);
    assert!(notes[0].contains("com.example.gone, annotation org.opencontainers.image.base.name"));
    assert!(notes[1].contains("com.amazon.soci.x"), "{notes:?}");
    // Another manifest of the same layers.
    let mut other = manifest.clone();
    other["annotations"]["x"] = "y".into();
    let mut files = Vec::new();
    let mut d = add_json(&other, MANIFEST, &mut files);
    d["platform"] = amd64["platform"].clone();
    let (after, _) = split([&d, &arm64], &annotations, files);
    assert_ne!(after["manifests"][0]["digest"], amd64["digest"]);
    assert_eq!(after["annotations"], annotations);
}

#[test]
fn an_unchanged_update_is_unchanged_with_or_without_stale_fields() {
    let p = Place::new();
    let mut image = small();
    image.config["config"]["Labels"] =
        json!({"ostree.final-diffid": digest(&image.layers[0]), "a": "b"});
    fs::write(p.at("i.tar"), image.docker_skopeo()).unwrap();
    p.ok(&["split", "i.tar", "-o", "oci:o:v1"]);
    p.ok(&["split", "i.tar", "--previous", "oci:o:v1", "-o", "oci:o:v2"]);
    let roots = roots(&p.at("o"));
    assert_eq!(roots[0]["digest"], roots[1]["digest"]);
}
