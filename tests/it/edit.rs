//! Edits of configs and annotations: what changes, what stays, and what other tools read afterwards.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::clients::{Client, runnable};
use super::documents::{
    INDEX, MANIFEST, Place, REF, add_json, blob, blobs, documents, named, read_json, rich_index,
    roots,
};
use super::image::{Codec, Image, Item, finish_layout, layer, small, write_files};
use super::registry::{Profile, TestRegistry};
use super::tool;

/// Every option, with a value.
const ALL: &[&str] = &[
    "--env",
    "MODE=fast=1",
    "--env",
    "OLD-",
    "--label",
    "tier=web",
    "--label",
    "gone-",
    "--entrypoint",
    r#"["/bin/sh","-c"]"#,
    "--cmd",
    r#"["echo edited"]"#,
    "--user",
    "65534:65534",
    "--workdir",
    "/data",
    "--expose",
    "8080",
    "--expose",
    "53/udp",
    "--volume",
    "/data",
    "--stop-signal",
    "SIGQUIT",
    "--healthcheck",
    "--interval=30s --retries=2 CMD test -e /data",
    "--created",
    "2025-10-01T12:00:00Z",
];

/// What they make of a config.
fn expected(mut config: Value) -> Value {
    config["created"] = "2025-10-01T12:00:00Z".into();
    let inner = &mut config["config"];
    inner["Env"] = json!(["PATH=/bin", "MODE=fast=1"]);
    inner["Labels"] = json!({"kept": "yes", "tier": "web"});
    inner["Entrypoint"] = json!(["/bin/sh", "-c"]);
    inner["Cmd"] = json!(["echo edited"]);
    inner["User"] = "65534:65534".into();
    inner["WorkingDir"] = "/data".into();
    inner["ExposedPorts"] = json!({"8080/tcp": {}, "53/udp": {}});
    inner["Volumes"]["/data"] = json!({});
    inner["StopSignal"] = "SIGQUIT".into();
    inner["Healthcheck"] = json!({
        "Test": ["CMD-SHELL", "test -e /data"], "Interval": 30_000_000_000_u64, "Retries": 2,
    });
    config
}

/// An image that runs, with fields to keep and to remove.
fn rich(mut image: Image) -> Image {
    image.config["config"]["Env"] = json!(["OLD=1", "PATH=/bin"]);
    image.config["config"]["Labels"] = json!({"gone": "", "kept": "yes"});
    image.config["x.unknown"] = json!({"b": 1.50, "a": null});
    image
}

fn edit(p: &Place, from: &str, to: &str, options: &[&str]) -> String {
    p.ok(&[&["edit", from, "-o", to, "-f"], options].concat())
}

/// The layers of a layout's only image, with their bytes.
fn layers(layout: &Path) -> Vec<(Value, Vec<u8>)> {
    let (manifest, _) = documents(layout);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|d| (d.clone(), fs::read(blob(layout, d)).unwrap())).collect()
}

#[test]
fn every_field_is_set_and_the_others_stay_as_they_are() {
    let p = Place::new();
    let image = rich(small());
    image.write_layout(&p.at("L"), Codec::Gzip);
    fs::write(p.at("legacy.tar"), image.docker_legacy()).unwrap();
    let before = read_json(&blob(&p.at("L"), &documents(&p.at("L")).0["config"]));
    let said = edit(&p, "oci:L", "oci:o:v1", ALL);
    assert!(!said.contains("nothing to remove"), "{said}");
    let config = documents(&p.at("o")).1;
    assert_eq!(config, expected(before.clone()));
    // In their order, and numbers in their form.
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(
        names(&config)
            .iter()
            .filter(|n| *n != "created")
            .eq(names(&before).iter().filter(|n| *n != "created"))
    );
    assert!(config.to_string().contains(r#""x.unknown":{"b":1.5,"a":null}"#), "{config}");
    assert_eq!(layers(&p.at("L")), layers(&p.at("o")));
    // The same from an archive without a manifest, and through every transport that is a file.
    for (from, to) in [
        ("legacy.tar", "oci:a:v1"),
        ("oci:L", "docker-archive:d.tar:app:v1"),
        ("docker-archive:d.tar", "oci:b:v1"),
        ("oci:L", "dir:D"),
        ("dir:D", "oci:c:v1"),
    ] {
        edit(&p, from, to, ALL);
    }
    for layout in ["a", "b", "c"] {
        assert_eq!(documents(&p.at(layout)).1, config, "{layout}");
    }
    assert_eq!(layers(&p.at("c")), layers(&p.at("L")));
    // What is empty is removed, and so is what never was there.
    let remove = ["entrypoint", "cmd", "user", "workdir", "stop-signal", "healthcheck"];
    let remove = remove.map(|name| format!("--{name}="));
    let mut options: Vec<&str> = remove.iter().map(String::as_str).collect();
    options.extend(["--expose", "8080-", "--expose", "53/udp-", "--volume", "/data-"]);
    let said = edit(&p, "oci:o:v1", "oci:r:v1", &[&options[..], &["--env", "OLD-"]].concat());
    assert!(said.contains("nothing to remove: variable OLD"), "{said}");
    let config = documents(&p.at("r")).1;
    assert_eq!(
        config["config"],
        json!({
            "Env": ["PATH=/bin", "MODE=fast=1"], "Labels": {"kept": "yes", "tier": "web"},
            "ExposedPorts": {}, "Volumes": {"/srv": {}},
        })
    );
}

#[test]
fn a_change_of_nothing_keeps_every_byte() {
    let p = Place::new();
    let mut files = Vec::new();
    let root = rich_index(&mut files);
    finish_layout(&[named(root, json!({REF: "v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    p.ok(&["copy", "oci:L:v1", "oci:copy:v1"]);
    // Its documents are pretty-printed.
    let said = edit(&p, "oci:L:v1", "oci:o:v1", &["--env", "NONE-", "--label", "none-"]);
    assert!(said.contains("the same") && said.contains("variable NONE, Labels none"), "{said}");
    assert_eq!(blobs(&p.at("o")), blobs(&p.at("copy")));
    assert_eq!(roots(&p.at("o")), roots(&p.at("copy")));
    edit(&p, "oci:L:v1", "oci:p:v2", &["--env", "LEVEL=7"]);
    edit(&p, "oci:p:v2", "oci:q:v2", &["--env", "LEVEL=7"]);
    assert_eq!(blobs(&p.at("p")), blobs(&p.at("q")));
}

#[test]
fn an_index_stays_whole() {
    let p = Place::new();
    let mut files = Vec::new();
    let root = rich_index(&mut files);
    finish_layout(&[named(root, json!({REF: "v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    let said = edit(&p, "oci:L:v1", "oci:o:v1", &["--env", "LEVEL=7", "--annotation", "a=c"]);
    assert!(said.contains("attestation"), "{said}");
    let at = |layout: &str| {
        let outer = read_json(&blob(&p.at(layout), &roots(&p.at(layout))[0]));
        (outer.clone(), read_json(&blob(&p.at(layout), &outer["manifests"][0])))
    };
    let ((_, old), (outer, new)) = (at("L"), at("o"));
    assert_eq!(outer["annotations"], json!({"a": "c"}));
    assert_eq!(new["annotations"], json!({"a": "c"}));
    assert_eq!((&new["artifactType"], &new["z"]), (&json!("application/x"), &Value::Null));
    let (old, new) = (old["manifests"].as_array().unwrap(), new["manifests"].as_array().unwrap());
    // Without the attestation: amd64, arm64, artifact, missing platform, unknown digest.
    assert_eq!((new.len(), &new[2..]), (5, &old[3..]));
    for (old, new) in old.iter().zip(&new[..2]) {
        assert_eq!(old["platform"], new["platform"]);
        assert_ne!(old["digest"], new["digest"]);
        let manifest = read_json(&blob(&p.at("o"), new));
        assert_eq!(manifest["annotations"], json!({"a": "c"}));
        assert_eq!(manifest["layers"], read_json(&blob(&p.at("L"), old))["layers"]);
        let config = read_json(&blob(&p.at("o"), &manifest["config"]));
        assert!(
            config["config"]["Env"].as_array().unwrap().contains(&json!("LEVEL=7")),
            "{config}"
        );
    }
    // Nothing is written that nothing refers to.
    let (before, after) = (blobs(&p.at("L")).len(), blobs(&p.at("o")).len());
    assert!(after < before, "{before} {after}");
    p.refused(
        &["edit", "oci:L:v1", "-o", "oci:x:v1", "--set-platform", "linux/riscv64"],
        &["--platform"],
    );
    let one = ["--platform", "linux/arm64", "--set-platform", "linux/arm/v7"];
    edit(&p, "oci:L:v1", "oci:x:v1", &one);
    let config = documents(&p.at("x")).1;
    assert_eq!((&config["architecture"], &config["variant"]), (&json!("arm"), &json!("v7")));
}

#[test]
fn secrets_leave_the_config_and_its_history() {
    let p = Place::new();
    let mut image = small();
    image.config["config"]["Env"] = json!(["DB_PASSWORD=hunter22", "A=1"]);
    image.config["container_config"] = json!({"Env": ["DB_PASSWORD=hunter22"], "Cmd": ["/bin/sh", "-c", "#(nop) ENV DB_PASSWORD=hunter22"]});
    image.config["history"] = json!([
        {"created_by": "ENV DB_PASSWORD=hunter22", "empty_layer": true, "author": "me"},
        {"created_by": "COPY . /srv", "comment": "x"},
    ]);
    fs::write(p.at("in.tar"), image.docker_skopeo()).unwrap();
    // The command that shows them names the one that removes them.
    let inspected = tool::said(&p.run(&["inspect", "in.tar"]));
    assert!(inspected.contains("relayer edit"), "{inspected}");
    let said = edit(&p, "in.tar", "oci:a:v1", &["--env", "DB_PASSWORD-"]);
    assert!(said.contains("history 1") && said.contains("--redact-history"), "{said}");
    let said = edit(&p, "in.tar", "oci:b:v1", &["--env", "DB_PASSWORD-", "--redact-history"]);
    assert!(!said.contains("history 1"), "{said}");
    let config = documents(&p.at("b")).1;
    assert!(!config.to_string().contains("hunter22"), "{config}");
    assert_eq!(config["history"][0]["created_by"], "ENV DB_PASSWORD=***");
    assert_eq!(config["history"][1], image.config["history"][1]);
    edit(&p, "in.tar", "oci:c:v1", &["--redact-history=all"]);
    let history = &documents(&p.at("c")).1["history"];
    assert_eq!(*history, json!([{"empty_layer": true}, {}]));
    // Split does the same on its way.
    for command in ["split", "flatten"] {
        let options = ["--env", "DB_PASSWORD-", "--redact-history", "--label", "a=b"];
        p.ok(&[&[command, "in.tar", "-f", "-o", "oci:s:v1"], &options[..]].concat());
        let config = documents(&p.at("s")).1;
        assert!(!config.to_string().contains("hunter22"), "{config}");
        assert_eq!(config["config"]["Labels"]["a"], "b");
    }
}

#[test]
fn wrong_values_are_wrong_usage_and_names_go_where_there_are_some() {
    let p = Place::new();
    fs::write(p.at("in.tar"), small().docker_skopeo()).unwrap();
    for (options, word) in [
        (&[][..], "--env NAME=VALUE"),
        (&["--env", "A"], "KEY-"),
        (&["--cmd", "a b"], r#"["a","b"]"#),
        (&["--user", "a b"], "USER:GROUP"),
        (&["--healthcheck", "x"], "HEALTHCHECK"),
        (&["--tag", "A b"], "valid"),
        (&["--created", "now"], "2025-10-01"),
    ] {
        let out = p.run(&[&["edit", "in.tar", "-o", "out.tar"], options].concat());
        let said = tool::said(&out);
        assert_eq!(out.status.code(), Some(2), "{options:?}: {said}");
        assert!(said.contains(word), "{options:?}: {said}");
        assert!(!p.at("out.tar").exists());
    }
    let named = ["edit", "in.tar", "-o", "oci:o:v1", "--tag", "v2"];
    assert_eq!(p.run(&named).status.code(), Some(2));
    edit(&p, "in.tar", "out.tar", &["--tag", "app:v1", "--tag", "app:latest"]);
    p.ok(&["copy", "out.tar:app:v1", "oci:c:v1"]);
    p.ok(&["inspect", "docker-archive:out.tar:app:latest"]);
    // The tag alone changes no digest.
    p.ok(&["copy", "in.tar", "oci:c:v3"]);
    let digests: Vec<_> = roots(&p.at("c")).iter().map(|d| d["digest"].clone()).collect();
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
    p.ok(&["split", "in.tar", "-o", "s.tar", "--tag", "app:v9"]);
    p.ok(&["copy", "s.tar:app:v9", "oci:c:v4"]);
}

#[test]
fn an_embedded_config_and_the_format_of_docker_are_known() {
    let p = Place::new();
    let mut files = Vec::new();
    small().oci_blobs(Codec::Gzip, &mut files);
    let bytes = files.pop().unwrap().1;
    let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
    manifest["config"]["data"] = "e30=".into();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    manifest["mediaType"] = docker.into();
    manifest["zzz"] = json!({"kept": true});
    let d = add_json(&manifest, docker, &mut files);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [d]});
    let index = add_json(&index, INDEX, &mut files);
    finish_layout(&[named(index, json!({REF: "v1"}))], &mut files);
    write_files(&p.at("L"), &files);
    let said = edit(&p, "oci:L:v1", "oci:o:v1", &["--user", "1", "--annotation", "x=y"]);
    assert!(said.contains("docker's format"), "{said}");
    let (new, config) = documents(&p.at("o"));
    assert_eq!((&new["mediaType"], &new["zzz"]), (&json!(docker), &json!({"kept": true})));
    assert_eq!((&new["config"]["data"], &config["config"]["User"]), (&Value::Null, &json!("1")));
    assert_ne!(MANIFEST, docker);
}

#[test]
fn no_layer_moves_in_a_registry() {
    for elsewhere in [false, true] {
        let registry = TestRegistry::start(Profile::plain());
        let p = Place::new();
        fs::write(p.at("auth.json"), registry.auth_file()).unwrap();
        let big = layer(&[Item::file("big", vec![7; 3_000_000])]);
        let files = Image::new(vec![big]).oci_files(Codec::Plain);
        registry.add_image("team/app", "v1", &files);
        registry.create_repo("team/other");
        let from = registry.reference("team/app:v1");
        let to = registry.reference(if elsewhere { "team/other:v2" } else { "team/app:v2" });
        let args =
            ["edit", &from, "-o", &to, "--env", "LEVEL=7", "--authfile", "auth.json", "--json"];
        let out = p.run(&[&args[..], &["--cache-size", "0"]].concat());
        assert!(out.status.success(), "{}", tool::said(&out));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["push"]["sent"], 1, "{report}");
        let moved: u64 = registry.log().iter().map(|e| e.received + e.sent).sum();
        assert!(moved < 20_000, "{moved} bytes");
        assert!(registry.violations().is_empty(), "{:?}", registry.violations());
    }
}

#[test]
fn stock_tools_read_what_was_set() {
    if !tool::needs("skopeo, podman, docker, dockerd, busybox, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("in.tar"), rich(runnable()).docker_skopeo()).unwrap();
    let edit = |to: &str, more: &[&str]| {
        let mut command = tool::relayer();
        tool::ok(command.args(["edit", &at("in.tar"), "-o", to]).args(ALL).args(more));
    };
    edit(&at("out.tar"), &["--tag", "edited:v1"]);
    edit(&format!("docker-archive:{}:edited:v1", at("docker.tar")), &[]);
    edit(
        &format!("oci:{}:v1", at("o")),
        &["--annotation", "note=x", "--set-platform", "linux/amd64"],
    );
    let wanted = expected(rich(runnable()).config);
    let check = |found: &Value, what: &str| {
        for key in [
            "Env",
            "Labels",
            "Entrypoint",
            "Cmd",
            "User",
            "WorkingDir",
            "ExposedPorts",
            "Volumes",
            "StopSignal",
            "Healthcheck",
        ] {
            assert_eq!(found[key], wanted["config"][key], "{what}: {key}");
        }
    };
    let layout = format!("oci:{}:v1", at("o"));
    let inspect = |args: &[&str]| -> Value {
        serde_json::from_str(&tool::run("skopeo", &[&["inspect"], args].concat())).unwrap()
    };
    let config = inspect(&["--config", "--raw", &layout]);
    check(&config["config"], "skopeo");
    assert_eq!(config["created"], "2025-10-01T12:00:00Z");
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(inspect(&["--raw", &layout])["annotations"], json!({"note": "x"}));

    let podman = Client::podman(dir.path());
    podman.ok(&["load", "-q", "-i", &at("docker.tar")]);
    let found: Value =
        serde_json::from_str(&podman.ok(&["image", "inspect", "localhost/edited:v1"])).unwrap();
    let mut inner = found[0]["Config"].clone();
    // Podman lists the health check beside the config.
    inner["Healthcheck"] = found[0]["Healthcheck"].clone();
    check(&inner, "podman");

    let docker = Client::docker(dir.path());
    docker.ok(&["load", "-q", "-i", &at("out.tar")]);
    let found: Value =
        serde_json::from_str(&docker.ok(&["image", "inspect", "edited:v1"])).unwrap();
    check(&found[0]["Config"], "docker");
    assert_eq!(found[0]["Created"], "2025-10-01T12:00:00Z");
    // From docker, edited, and back to it.
    let mut command: Command = tool::relayer();
    let socket = format!("unix://{}", at("d.sock"));
    command.env("DOCKER_HOST", socket);
    command.args(["edit", "docker-daemon:edited:v1", "-o", "docker-daemon:edited:v2"]);
    tool::ok(command.args(["--label", "round=trip"]));
    let found: Value =
        serde_json::from_str(&docker.ok(&["image", "inspect", "edited:v2"])).unwrap();
    assert_eq!(found[0]["Config"]["Labels"]["round"], "trip");
}
