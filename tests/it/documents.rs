//! Documents, names and copies: what other tools write in indexes, manifests and configs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::image::{
    Codec, Image, Item, add_index, digest, finish_layout, layer, small, write_files,
};
use super::tool::{self, relayer};

pub const REF: &str = "org.opencontainers.image.ref.name";
pub const NAME: &str = "io.containerd.image.name";

pub type Files = Vec<(String, Vec<u8>)>;
type Edit = fn(&mut Value);

pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs relayer in the folder.
    pub fn run(&self, args: &[&str]) -> Output {
        tool::output(relayer().args(args).current_dir(self.0.path()))
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {said}");
        said
    }

    pub fn refused(&self, args: &[&str], words: &[&str]) {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(tool::FAILED), "{args:?}: {said}");
        assert!(
            words.iter().all(|w| said.contains(w)),
            "{args:?}: {said:?} lacks one of {words:?}"
        );
    }
}

/// An image of one file, for an architecture.
pub fn one(arch: &str) -> Image {
    let mut image = Image::new(vec![layer(&[Item::file("arch", arch)])]);
    image.config["architecture"] = arch.into();
    image
}

pub fn for_platform(arch: &str, files: &mut Files) -> Value {
    let mut d = one(arch).oci_blobs(Codec::Gzip, files);
    d["platform"] = json!({"os": "linux", "architecture": arch});
    d
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn roots(layout: &Path) -> Vec<Value> {
    read_json(&layout.join("index.json"))["manifests"].as_array().unwrap().clone()
}

pub fn blob(layout: &Path, d: &Value) -> PathBuf {
    layout.join("blobs").join(d["digest"].as_str().unwrap().replace(':', "/"))
}

/// The first image's manifest and config.
pub fn documents(layout: &Path) -> (Value, Value) {
    let mut d = roots(layout)[0].clone();
    loop {
        let document = read_json(&blob(layout, &d));
        if let Some(first) = document["manifests"].get(0) {
            d = first.clone();
        } else {
            let config = read_json(&blob(layout, &document["config"]));
            return (document, config);
        }
    }
}

pub fn add_json(value: &Value, kind: &str, files: &mut Files) -> Value {
    let bytes = serde_json::to_vec_pretty(value).unwrap();
    let d = json!({"mediaType": kind, "digest": digest(&bytes), "size": bytes.len()});
    files.push((format!("blobs/sha256/{}", &digest(&bytes)[7..]), bytes));
    d
}

pub fn blobs(layout: &Path) -> Vec<(String, Vec<u8>)> {
    let list = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap());
    let mut all: Vec<_> =
        list.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
    all.sort();
    all
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An index with white space and unknown fields, an attestation, an artifact and a platform that is
/// missing, all of it nested once more.
pub fn rich_index(files: &mut Files) -> Value {
    let (amd64, arm64) = (for_platform("amd64", files), for_platform("arm64", files));
    let mut attestation = small().oci_blobs(Codec::Plain, files);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": amd64["digest"],
    });
    let chart = json!({"x": 1});
    let chart = add_json(&chart, "application/vnd.cncf.helm.config.v1+json", files);
    let artifact = json!({"schemaVersion": 2, "config": chart, "layers": []});
    let artifact = add_json(&artifact, MANIFEST, files);
    let missing = json!({
        "mediaType": MANIFEST, "digest": digest(b"s390x"), "size": 5,
        "platform": {"os": "linux", "architecture": "s390x"},
    });
    let other = json!({"mediaType": MANIFEST, "digest": format!("sha512:{:0128}", 0), "size": 5});
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/x",
        "manifests": [amd64, arm64, attestation, artifact, missing, other],
        "annotations": {"a": "b"}, "z": null,
    });
    let inner = add_json(&index, INDEX, files);
    add_json(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}), INDEX, files)
}

pub fn named(mut d: Value, annotations: Value) -> Value {
    d["annotations"] = annotations;
    d
}

#[test]
fn copy_keeps_every_byte_of_an_index() {
    let p = Place::new();
    let mut files = Vec::new();
    let root = rich_index(&mut files);
    finish_layout(&[named(root.clone(), json!({REF: "v1", "kept": "x"}))], &mut files);
    write_files(&p.at("L"), &files);
    let said = p.ok(&["copy", "oci:L:v1", "oci:M:v1"]);
    assert!(said.contains("linux/s390x") && said.contains("sha512"), "{said}");
    assert!(!said.contains("attestation"), "{said}");
    assert_eq!(roots(&p.at("M"))[0]["digest"], root["digest"]);
    assert_eq!(roots(&p.at("M"))[0]["annotations"]["kept"], "x");
    assert_eq!(blobs(&p.at("L")), blobs(&p.at("M")));
    // Through an archive, too.
    p.ok(&["copy", "oci:L:v1", "a.tar"]);
    p.ok(&["copy", "a.tar", "oci:N:v1"]);
    assert_eq!(blobs(&p.at("L")), blobs(&p.at("N")));
    // One platform is one manifest, unchanged.
    p.ok(&["copy", "oci:L:v1", "oci:O:v1", "--platform", "arm64"]);
    let arm64 = for_platform("arm64", &mut Vec::new());
    assert_eq!(roots(&p.at("O"))[0]["digest"], arm64["digest"]);
    assert_eq!(blobs(&p.at("O")).len(), 3);
    p.refused(&["copy", "oci:L:v1", "oci:P:v1", "--platform", "linux/386"], &["linux/arm64"]);
    // Split takes the images and says what it leaves.
    let said = p.ok(&["split", "oci:L:v1", "-o", "oci:Q:v1"]);
    for word in ["linux/s390x", "sha512", "artifact", "attestation", "--platform linux/amd64"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn copy_and_inspect_take_what_split_can_not() {
    let p = Place::new();
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let mut files = Vec::new();
        one("amd64").oci_blobs(Codec::Gzip, &mut files);
        let is_manifest = |b: &[u8]| {
            serde_json::from_slice::<Value>(b)
                .is_ok_and(|v| v.get("config").is_some_and(|c| c.get("digest").is_some()))
        };
        let at = files.iter().position(|(_, b)| is_manifest(b)).unwrap();
        let mut manifest: Value = serde_json::from_slice(&files.remove(at).1).unwrap();
        manifest["layers"][0]["mediaType"] = kind.into();
        let foreign = kind.contains("foreign");
        if foreign {
            let name = manifest["layers"][0]["digest"].as_str().unwrap()[7..].to_owned();
            files.retain(|(n, _)| !n.ends_with(&name));
        }
        let root = add_json(&manifest, MANIFEST, &mut files);
        finish_layout(&[named(root.clone(), json!({REF: "v1"}))], &mut files);
        let _ = fs::remove_dir_all(p.at("L"));
        let _ = fs::remove_dir_all(p.at("M"));
        write_files(&p.at("L"), &files);
        p.refused(&["split", "oci:L:v1", "-o", "o.tar"], &["layer 1"]);
        p.refused(&["inspect", "oci:L:v1", "--fail-on", "secret"], &["layer 1"]);
        let shown = p.run(&["inspect", "oci:L:v1"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.status.success() && text.contains(kind), "{text}");
        let json = p.run(&["--json", "inspect", "oci:L:v1"]).stdout;
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["outlines"][0]["manifest"], root["digest"]);
        assert!(json["outlines"][0]["layers"][0]["problem"].is_string());
        p.ok(&["copy", "oci:L:v1", "oci:M:v1"]);
        assert_eq!(roots(&p.at("M"))[0]["digest"], root["digest"], "{kind}");
        assert_eq!(blobs(&p.at("L")), blobs(&p.at("M")), "{kind}");
        p.refused(&["copy", "oci:L:v1", "docker-archive:x.tar"], &["oci:DIR"]);
    }
}

#[test]
fn a_document_of_two_kinds_is_refused() {
    let p = Place::new();
    let mut files = Vec::new();
    let d = small().oci_blobs(Codec::Plain, &mut files);
    let manifest = files.last().unwrap().1.clone();
    let mut both: Value = serde_json::from_slice(&manifest).unwrap();
    both["manifests"] = json!([d]);
    for kind in [MANIFEST, INDEX] {
        let mut files = files.clone();
        both["mediaType"] = kind.into();
        let root = add_json(&both, kind, &mut files);
        finish_layout(&[root], &mut files);
        let _ = fs::remove_dir_all(p.at("L"));
        write_files(&p.at("L"), &files);
        for command in ["split", "copy"] {
            let args: &[&str] = if command == "split" {
                &["split", "oci:L", "-o", "o.tar"]
            } else {
                &["copy", "oci:L", "o.tar"]
            };
            p.refused(args, &["CVE-2021-41190"]);
        }
        p.refused(&["inspect", "oci:L"], &["CVE-2021-41190"]);
    }
}

#[test]
fn foreign_entries_of_a_layout_stay_as_they_are() {
    let p = Place::new();
    let mut files = Vec::new();
    let mut other = small().oci_blobs(Codec::Plain, &mut files);
    other["platform"] =
        json!({"os": "linux", "architecture": "amd64", "features": ["sse4"], "x": {"y": 1.50}});
    other["annotations"] = json!({REF: "other"});
    other["urls"] = Value::Null;
    let odd = json!({"mediaType": "a/b", "digest": "sha512:00", "size": 1, "data": "eA=="});
    finish_layout(&[other.clone(), odd.clone()], &mut files);
    write_files(&p.at("L"), &files);
    fs::write(p.at("i.tar"), one("amd64").docker_skopeo()).unwrap();
    p.ok(&["split", "i.tar", "-o", "oci:L:new"]);
    let roots = roots(&p.at("L"));
    assert_eq!(roots.len(), 3);
    assert_eq!(roots[..2], [other, odd]);
}

#[test]
fn what_podman_ignores_is_told() {
    let p = Place::new();
    let mut image = small();
    image.config["config"]["Healthcheck"] = json!({"Test": ["CMD", "true"]});
    image.config["config"]["OnBuild"] = json!([]);
    fs::write(p.at("i.tar"), image.docker_skopeo()).unwrap();
    let told = |said: &str| said.contains("HEALTHCHECK") && said.contains("docker-archive:");
    assert!(told(&p.ok(&["split", "i.tar", "-o", "a.tar"])));
    assert!(!p.ok(&["split", "i.tar", "-o", "b.tar"]).contains("ONBUILD"));
    assert!(told(&p.ok(&["copy", "i.tar", "oci:c:v1"])));
    assert!(!told(&p.ok(&["split", "i.tar", "-o", "docker-archive:d.tar"])));
    assert!(!told(&p.ok(&["split", "oci:c:v1", "-o", "e.tar"])), "it was in OCI's format before");
    assert_eq!(
        fs::read(p.at("a.tar")).unwrap(),
        fs::read(p.at("b.tar")).unwrap(),
        "a note changes nothing"
    );
}

#[test]
fn json_is_read_as_go_reads_it() {
    let p = Place::new();
    let edits: &[(&str, Edit, Edit)] = &[
        ("no schema version", |m| drop(m.as_object_mut().unwrap().remove("schemaVersion")), |_| ()),
        ("no media type", |m| m["mediaType"] = Value::Null, |_| ()),
        ("nulls", |m| m["layers"][0]["urls"] = Value::Null, |c| c["history"] = Value::Null),
        (
            "config of 2015",
            |m| m["config"]["mediaType"] = "application/octet-stream".into(),
            |_| (),
        ),
        ("config without a type", |m| m["config"]["mediaType"] = Value::Null, |_| ()),
        ("no processor", |_| (), |c| drop(c.as_object_mut().unwrap().remove("architecture"))),
        (
            "null annotations",
            |m| m["annotations"] = json!({"a": null}),
            |c| c["config"] = Value::Null,
        ),
        (
            "a foreign layer that is there",
            |m| {
                m["layers"][0]["mediaType"] =
                    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
            },
            |_| (),
        ),
    ];
    for (name, manifest, config) in edits {
        for platform in [None, Some(json!({})), Some(json!({"os": "linux"})), Some(Value::Null)] {
            let mut image = one("amd64");
            config(&mut image.config);
            let mut files = Vec::new();
            image.oci_blobs(Codec::Gzip, &mut files);
            let mut document: Value = serde_json::from_slice(&files.pop().unwrap().1).unwrap();
            manifest(&mut document);
            let mut d = add_json(&document, MANIFEST, &mut files);
            if let Some(platform) = platform {
                d["platform"] = platform;
            }
            let root = add_index(&[d], &mut files);
            finish_layout(&[root], &mut files);
            let _ = fs::remove_dir_all(p.at("L"));
            write_files(&p.at("L"), &files);
            p.ok(&["split", "oci:L", "-f", "-o", "o.tar"]);
            p.ok(&["verify", "oci:L", "o.tar"]);
            if *name != "no processor" {
                p.ok(&["inspect", "o.tar", "--platform", "linux/x86_64"]);
            }
        }
    }
}

#[test]
fn an_image_of_no_layers_keeps_its_config() {
    let p = Place::new();
    for layers in [json!([]), Value::Null] {
        let mut files = Vec::new();
        let mut config = Image::new(Vec::new()).config;
        config["rootfs"] = json!({"type": "layers"});
        let config = add_json(&config, "application/vnd.oci.image.config.v1+json", &mut files);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let root = add_json(&manifest, MANIFEST, &mut files);
        finish_layout(&[root], &mut files);
        let _ = fs::remove_dir_all(p.at("L"));
        write_files(&p.at("L"), &files);
        p.ok(&["split", "oci:L", "-f", "-o", "oci:o:v1"]);
        p.ok(&["verify", "oci:L", "oci:o:v1"]);
        let (_, config) = documents(&p.at("o"));
        assert_eq!(config["config"]["Env"][0], "B=2");
    }
}

#[test]
fn nothing_from_an_image_reaches_the_terminal_raw() {
    let p = Place::new();
    let odd = "\x1b[31mRED\x07\r\u{9b}2J\u{202e}\n";
    let file = |path: String| Item::file(path, "x".repeat(5000));
    let mut image = Image::new(vec![
        layer(&[
            Item::dir(format!("d{odd}")),
            file(format!("d{odd}/f")),
            file(format!("{odd}.jar")),
        ]),
        layer(&[file(format!("e{odd}"))]),
    ]);
    image.config["history"] = json!([{"created_by": odd}, {"created_by": format!("RUN {odd}")}]);
    image.config["config"]["Labels"] = json!({"com.amazon.soci.\u{1b}": odd});
    image.config["architecture"] = format!("amd64{odd}").into();
    fs::write(p.at("i.tar"), image.docker_skopeo()).unwrap();
    for args in [
        &["split", "-v", "i.tar", "-f", "-o", "o.tar"][..],
        &["split", "i.tar", "--previous", "i.tar", "-f", "-v", "-o", "p.tar"],
        &["flatten", "i.tar", "-f", "-o", "o.tar"],
        &["inspect", "-v", "i.tar"],
        &["diff", "i.tar", "o.tar"],
        &["split", "i.tar", "--platform", "linux/arm64", "-o", "n.tar"],
    ] {
        let out = p.run(args);
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(raw), "{args:?}: {text:?}");
    }
}
