//! What the command line promises.

use std::fs;

use serde_json::Value;

use super::image::{self, Codec, Image, Item, layer};
use super::tool::{self, relayer};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(place.at("img.tar"), image::small().docker_legacy()).unwrap();
        place
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let list = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn wrong_usage_is_status_2_and_help_is_0() {
    let p = Place::new();
    let img = p.at("img.tar");
    let wrong: [&[&str]; 20] = [
        &[],
        &["frobnicate"],
        &["split"],
        &["split", &img, "--target", "0"],
        &["split", &img, "--target", "126"],
        &["split", &img, "--target", "3", "--layer-size", "5MB"],
        &["split", &img, "--compression", "lzma"],
        &["split", &img, "--churn", "nonsense"],
        &["split", &img, "--mtime", "yesterday"],
        &["split", "containers-storage:Alpine"],
        &["split", &img, "-o", "docker-daemon:app:-x"],
        &["split", &img, "-o", "docker-archive:x.tar:V1"],
        &["split", &img, "--level", "99"],
        &["split", &img, "--long", "31"],
        &["split", &img, "--compression", "gzip", "--long", "20"],
        &["flatten", &img, "--compression", "none", "--level", "3"],
        &["split", &img, "--layer-size", "0"],
        &["split", &img, "--threads", "513"],
        &["verify", "-", "-"],
        &["apply", "docker-archive:-", "-", "-o", "x"],
    ];
    for args in wrong {
        let out = tool::output(relayer().args(args));
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(!out.stderr.is_empty());
    }
    for args in [&["--help"][..], &["split", "--help"], &["--version"]] {
        let out = tool::output(relayer().args(args));
        assert!(out.status.success() && !out.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(p.names(), ["img.tar"]);
}

#[test]
fn all_options_take_the_same_names_of_clients() {
    let options: [(&[&str], &str); 4] = [
        (&["split", "none.tar", "--profile"], "soci]"),
        (&["split", "none.tar", "--previous", "none.tar", "--client"], "soci]"),
        (&["bench", "none.tar", "--client"], "soci]"),
        (&["inspect", "none.tar", "--client"], "soci, bootc, lambda, ecr, ghcr]"),
    ];
    let shared = "docker-20.10, docker, containerd, containerd-2, ctr, eks, podman, skopeo, ";
    for (args, rest) in options {
        let run = |client: &str| tool::output(relayer().args(args).arg(client));
        for client in shared.trim_end_matches(", ").split(", ") {
            // It ends where it does not find the image.
            assert_eq!(run(client).status.code(), Some(tool::FAILED), "{args:?} {client}");
        }
        let unknown = run("nerdctl");
        assert_eq!(unknown.status.code(), Some(2), "{args:?}");
        let errors = String::from_utf8(unknown.stderr).unwrap();
        assert!(errors.contains(&format!("{shared}{rest}")), "{args:?}: {errors}");
    }
}

#[test]
fn all_images_of_a_command_share_its_memory() {
    let p = Place::new();
    let name = "x".repeat(230);
    for version in ["a", "b"] {
        let items: Vec<Item> =
            (0..35_000).map(|i| Item::file(format!("{version}{i} {name}"), "")).collect();
        fs::write(p.at(version), Image::new(vec![layer(&items)]).docker_new()).unwrap();
    }
    let run = |args: &[&str]| tool::output(relayer().current_dir(&p.dir).args(args));
    for one in [&["inspect", "a"][..], &["inspect", "b"]] {
        let out = run(&[one, &["--memory", "64MiB", "-q"]].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    for two in [["verify", "a", "b"], ["diff", "a", "b"]] {
        let out = run(&[&two[..], &["--memory", "64MiB", "-q"]].concat());
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(errors.contains("a larger --memory allows more"), "{two:?}: {errors}");
        let out = run(&[&two[..], &["--memory", "256MiB", "-q"]].concat());
        assert!(out.stderr.is_empty(), "{two:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn the_output_lies_beside_the_input_and_is_not_replaced_unasked() {
    let p = Place::new();
    let text = tool::split(&[&p.at("img.tar")]);
    assert!(text.contains("wrote ") && text.contains("img.relayer.tar"), "{text}");
    assert_eq!(p.names(), ["img.relayer.tar", "img.tar"]);
    let before = fs::read(p.at("img.relayer.tar")).unwrap();
    let out = tool::output(relayer().args(["split", &p.at("img.tar"), "--target", "2"]));
    assert_eq!(out.status.code(), Some(tool::FAILED));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--force"));
    assert_eq!(fs::read(p.at("img.relayer.tar")).unwrap(), before);
    tool::split(&[&p.at("img.tar"), "--target", "2", "--force"]);
    assert_ne!(fs::read(p.at("img.relayer.tar")).unwrap(), before);
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_plan() {
    let p = Place::new();
    let report = tool::split(&[&p.at("img.tar"), "--dry-run", "--json", "--target", "3"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["images"][0]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(report["output"], Value::Null);
    assert_eq!(p.names(), ["img.tar"]);
    tool::split(&[&p.at("img.tar"), "--dry-run"]);
}

/// Names of all fields in a document.
fn field_names(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            found.push(k.clone());
            field_names(v, found);
        }),
        Value::Array(list) => list.iter().for_each(|v| field_names(v, found)),
        _ => {}
    }
}

/// docs/JSON.md names every field.
pub fn is_documented(report: &Value) {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/JSON.md")).unwrap();
    let mut found = Vec::new();
    field_names(report, &mut found);
    for name in found {
        assert!(docs.contains(&format!("`{name}`")), "docs/JSON.md has no `{name}`");
    }
}

#[test]
fn json_is_all_there_is_on_standard_output_and_has_the_facts() {
    let p = Place::new();
    let out = tool::output(relayer().args(["split", &p.at("img.tar"), "--json", "-v"]));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let image = &report["images"][0];
    assert_eq!(report["schema"], 1);
    assert_eq!(image["platform"], "linux/amd64");
    assert_eq!(image["hidden"]["files"], 2);
    assert_eq!(image["hidden"]["whiteouts"], 1);
    assert_eq!(image["files"]["files"], 30);
    let size = fs::metadata(p.at("img.relayer.tar")).unwrap().len();
    assert!(image["after"]["blob_bytes"].as_u64().unwrap() < size);
    is_documented(&report);
}

#[test]
fn pipes_go_in_and_out() {
    let p = Place::new();
    let input = fs::File::open(p.at("img.tar")).unwrap();
    let out = tool::output(relayer().args(["split", "-"]).stdin(input));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::write(p.at("piped.tar"), &out.stdout).unwrap();
    tool::split(&[&p.at("img.tar")]);
    assert_eq!(out.stdout, fs::read(p.at("img.relayer.tar")).unwrap());
    tool::ok(relayer().args(["verify", &p.at("img.tar"), &p.at("piped.tar")]));
}

#[test]
fn what_was_done_is_said_beside_an_archive_on_standard_output() {
    let p = Place::new();
    let said = |more: &[&str]| {
        let img = p.at("img.tar");
        let out = tool::output(relayer().args(["split", &img, "-o", "-"]).args(more));
        assert!(out.status.success() && !out.stdout.is_empty());
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(said(&[]).contains("wrote -"));
    assert!(said(&["--quiet"]).is_empty());
    assert_eq!(serde_json::from_str::<Value>(&said(&["--json"])).unwrap()["output"], "-");
}

#[test]
fn no_command_overwrites_what_it_reads() {
    let p = Place::new();
    let (a, b, d) = (p.at("img.tar"), p.at("b.tar"), p.at("d"));
    fs::copy(&a, &b).unwrap();
    image::small().write_layout(&p.dir.path().join("layout"), Codec::Gzip);
    let (layout, index) = (p.at("layout"), p.at("layout/index.json"));
    tool::ok(relayer().args(["delta", &a, &b, "-o", &d]));
    let state = || [&a, &b, &d, &index].map(|name| fs::read(name).unwrap());
    let before = state();
    for args in [
        &["delta", &a, &b, "-o", &a][..],
        &["delta", &a, &b, "-o", &b],
        &["delta", &layout, &b, "-o", &index],
        &["report", &a, &b, "-o", &a],
        &["apply", &a, &d, "-o", &d],
        &["apply", &a, &d, "-o", &a],
    ] {
        let out = tool::output(relayer().args(args).arg("-f"));
        assert_eq!(out.status.code(), Some(tool::FAILED), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("never overwritten"), "{args:?}");
    }
    assert!(state() == before);
}

#[test]
fn first_mistakes_are_told_the_way_out() {
    let p = Place::new();
    let img = p.at("img.tar");
    for (args, words) in [
        (&["split", "alpine:latest"][..], "docker-daemon:alpine:latest in docker"),
        (&["inspect", "reg:5000/a/b"], "docker://reg:5000/a/b in its registry"),
        (&["split", "a.tar"], "No such file"),
        (&["split", "containers-storage:a:1"], "name the output with -o"),
        (&["split", &img, "-o", &p.at("none/a.tar")], "none does not exist"),
        (&["delta", &img, &img, "-o", &p.at("none/d")], "none does not exist"),
        (&["diff", "-", "-"], "can be read only once"),
    ] {
        let out = tool::output(relayer().current_dir(&p.dir).args(args));
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && text.contains(words), "{args:?}: {text}");
    }
}

#[test]
fn a_docker_archive_is_planned_in_gzip_and_takes_a_bare_name_for_a_repository() {
    let p = Place::new();
    let (img, out) = (p.at("img.tar"), format!("docker-archive:{}:v1", p.at("x.tar")));
    let dry = tool::output(relayer().args(["split", &img, "-o", &out, "--dry-run"]));
    assert!(dry.status.success() && dry.stderr.is_empty(), "{dry:?}");
    tool::split(&[&img, "-o", &out]);
    assert_eq!(super::names::archive_names(std::path::Path::new(&p.at("x.tar"))), ["v1:latest"]);
}

#[test]
fn completions_and_the_manual_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        let script = tool::ok(relayer().args(["completions", shell]));
        assert!(script.contains("layer-size"), "{shell}");
    }
    assert!(tool::ok(relayer().arg("man")).contains(".TH relayer"));
    let page = tool::ok(relayer().args(["man", "split"]));
    assert!(page.contains(".TH relayer-split 1") && page.contains("layer\\-size"), "{page}");
    assert!(!tool::output(relayer().args(["man", "splot"])).status.success());
}

#[test]
fn no_colour_codes_are_written_to_pipes() {
    let p = Place::new();
    for args in [&["--help"][..], &["split", &p.at("img.tar"), "-v"], &["split"]] {
        let out = tool::output(relayer().args(args).env("NO_COLOR", "1"));
        assert!(!out.stdout.contains(&0x1b) && !out.stderr.contains(&0x1b), "{args:?}");
    }
}

#[test]
fn a_layout_keeps_its_other_tags() {
    let p = Place::new();
    let layout = p.at("layout");
    for tag in ["one", "two", "one"] {
        let n = if tag == "one" { "1" } else { "2" };
        tool::split(&[
            &p.at("img.tar"),
            "-o",
            &format!("oci:{layout}:{tag}"),
            "--target",
            n,
            "--force",
        ]);
    }
    let index: Value =
        serde_json::from_slice(&fs::read(format!("{layout}/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    for tag in ["one", "two"] {
        tool::ok(relayer().args(["verify", &p.at("img.tar"), &format!("oci:{layout}:{tag}")]));
    }
    // A tag moves when that is asked for only, and never away from what is read.
    let before = fs::read(format!("{layout}/index.json")).unwrap();
    let refused = |source: &str, to: &str, force: &[&str], why: &str| {
        let out = tool::output(relayer().args(["split", source, "-o", to]).args(force));
        assert_eq!(out.status.code(), Some(tool::FAILED));
        assert!(String::from_utf8_lossy(&out.stderr).contains(why), "{to}: {out:?}");
        assert_eq!(fs::read(format!("{layout}/index.json")).unwrap(), before);
    };
    let one = format!("oci:{layout}:one");
    refused(&p.at("img.tar"), &one, &[], "an image one already exists");
    refused(&one, &one, &["--force"], "never overwritten");
    tool::split(&[&one, "-o", &format!("oci:{layout}:two"), "--force"]);
    // An image of several tags is the input under each of them.
    let twin = p.at("twin");
    for tag in ["a", "b"] {
        tool::ok(relayer().args(["copy", &one, &format!("oci:{twin}:{tag}")]));
    }
    let out = tool::output(relayer().args(["split", &twin, "-o", &format!("oci:{twin}:b"), "-f"]));
    assert!(String::from_utf8_lossy(&out.stderr).contains("never overwritten"), "{out:?}");
    // skopeo looks for the whole text behind the path.
    let named = format!("oci:{layout}:db:v1");
    tool::split(&[&p.at("img.tar"), "-o", &named]);
    tool::manifest(&named);
    tool::ok(relayer().args(["verify", &named, &one]));
}

#[test]
fn copies_keep_every_blob() {
    let p = Place::new();
    image::small().write_layout(&p.dir.path().join("a"), Codec::ZstdFrames);
    let steps = [
        ("a", format!("oci-archive:{}", p.at("b.tar"))),
        ("b.tar", p.at("c.tar")),
        ("c.tar", format!("oci:{}:again", p.at("d"))),
    ];
    let mut digests = Vec::new();
    for (from, to) in &steps {
        let report = tool::ok(relayer().args(["copy", &p.at(from), to, "--json"]));
        let report: Value = serde_json::from_str(&report).unwrap();
        digests.push(report["digest"].as_str().unwrap().to_owned());
    }
    assert!(digests.windows(2).all(|w| w[0] == w[1]), "{digests:?}");
    let blobs = |dir: &str| {
        let list = fs::read_dir(p.at(&format!("{dir}/blobs/sha256"))).unwrap();
        let mut names: Vec<_> = list.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(blobs("a"), blobs("d"));
    // A docker-archive has no manifest, but its config and layers stay.
    tool::ok(relayer().args(["copy", &p.at("img.tar"), &format!("oci:{}:x", p.at("e"))]));
    tool::ok(relayer().args(["verify", &p.at("img.tar"), &format!("oci:{}", p.at("e"))]));
}

/// An index of two platforms inside another index, with an attestation.
fn multi(p: &Place) -> String {
    let mut files = Vec::new();
    let mut manifests = Vec::new();
    for arch in ["amd64", "arm64"] {
        let mut image = Image::new(vec![layer(&[Item::dir("a/"), Item::file("a/arch", arch)])]);
        image.config["architecture"] = arch.into();
        let mut d = image.oci_blobs(Codec::Gzip, &mut files);
        d["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
        d["annotations"] = serde_json::json!({"note": arch});
        manifests.push(d);
    }
    let mut attestation = image::small().oci_blobs(Codec::Plain, &mut files);
    attestation["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown"});
    manifests.push(attestation);
    let inner = image::add_index(&manifests, &mut files);
    let mut outer = image::add_index(&[inner], &mut files);
    outer["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "v1"});
    image::finish_layout(&[outer], &mut files);
    image::write_files(&p.dir.path().join("multi"), &files);
    format!("oci:{}:v1", p.at("multi"))
}

#[test]
fn an_index_stays_one_and_a_platform_can_be_picked() {
    let p = Place::new();
    let source = multi(&p);
    let out = format!("oci:{}:v1", p.at("out"));
    let done = tool::output(relayer().args(["split", &source, "-o", &out]));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stderr).contains("attestation"));
    let index: Value = serde_json::from_str(&tool::manifest(&out)).unwrap();
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].clone())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(index["manifests"][1]["annotations"]["note"], "arm64");
    tool::ok(relayer().args(["verify", &source, &out]));
    let one = p.at("arm.tar");
    tool::split(&[&source, "--platform", "linux/arm64", "-o", &one]);
    let config: Value = serde_json::from_str(&tool::config(&format!("oci-archive:{one}"))).unwrap();
    assert_eq!(config["architecture"], "arm64");
}

#[test]
fn sizes_and_rates_shape_the_plan() {
    let p = Place::new();
    let noise = |seed: u8| {
        let mut out = vec![0; 300_000];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    };
    let mut items = vec![Item::dir("srv/")];
    items.extend((0..10).map(|i| Item::file(format!("srv/{i}"), noise(i))));
    fs::write(p.at("img.tar"), Image::new(vec![layer(&items)]).docker_skopeo()).unwrap();
    let plan = |args: &[&str]| -> Value {
        let image = p.at("img.tar");
        let args = [&[&*image, "--dry-run", "--json"], args].concat();
        serde_json::from_str(&tool::split(&args)).unwrap()
    };
    let report = plan(&["--layer-size", "650kB"]);
    let layers = report["images"][0]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    assert!(layers.iter().all(|l| l["estimate"].as_u64().unwrap() <= 650_000));
    assert_eq!(report["images"][0]["notes"], serde_json::json!([]));
    // A file is larger than that.
    let report = plan(&["--layer-size", "200kB"]);
    let notes = report["images"][0]["notes"].to_string();
    assert!(notes.contains("larger than --layer-size 200.0 kB: 10,"), "{notes}");
    assert!(notes.contains("a file cannot be split"), "{notes}");
    // Nothing of it is changed: all is kept.
    let whole = p.at("whole.tar");
    tool::split(&[&p.at("img.tar"), "-o", &whole]);
    let report = plan(&["--previous", &whole, "--target", "2"]);
    let notes = report["images"][0]["notes"].to_string();
    assert!(notes.contains("--target has no effect"), "{notes}");
    let report = plan(&["--target", "2", "--churn", "/srv/7=0.0001"]);
    let lowest = report["images"][0]["layers"][0]["components"].as_array().unwrap();
    assert!(lowest.iter().any(|c| c["name"] == "churn:/srv/7"), "{lowest:?}");
}

#[cfg(not(feature = "store"))]
#[test]
fn what_needs_the_database_says_so() {
    let p = Place::new();
    for args in [&["history", "show"][..], &["split", &p.at("img.tar"), "--history", "x"]] {
        let out = tool::output(relayer().args(args));
        assert_eq!(out.status.code(), Some(tool::FAILED));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(text.contains("--features store"), "{text}");
    }
}
