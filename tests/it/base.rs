//! `split --base`: the layers of the base stay byte for byte, and what is above is the difference.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::clients::Client;
use super::documents::{INDEX, Place, REF, add_json, blob, documents, named, read_json, roots};
use super::fidelity::edge;
use super::image::{Codec, Image, Item, finish_layout, layer, noise, write_files};
use super::model::{Random, Stack, Taste, seed};
use super::registry::{Profile, TestRegistry};
use super::tool;
use super::update::restore_times;

/// The layers of a base; another version has other contents in one file.
pub fn base(version: usize) -> Vec<Vec<u8>> {
    let system: Vec<Item> = ["usr/", "usr/lib/", "etc/", "var/", "var/tmp/"]
        .map(Item::dir)
        .into_iter()
        .chain((0..6).map(|i| Item::file(format!("usr/lib/lib{i}"), noise(i, 200_000))))
        .chain([Item::file("usr/lib/libssl", noise(100 + version, 200_000))])
        .chain([Item::file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")])
        .chain([Item::file("var/tmp/left", noise(50, 30_000))])
        .collect();
    let packages = [Item::dir("etc/"), Item::file("etc/os-release", format!("V={version}\n"))];
    vec![layer(&system), layer(&packages)]
}

/// An image on a base: it adds files, deletes one of the base, overwrites one, and changes the mode of
/// another.
pub fn app(on: usize, version: usize) -> Image {
    let mut items = vec![
        Item::dir("etc/"),
        Item::file(
            "etc/passwd",
            format!("root:x:0:0::/root:/bin/sh\napp:x:{version}:1::/:/bin/sh\n"),
        ),
        Item::dir("var/tmp/"),
        Item::whiteout("var/tmp/left"),
        Item::dir("usr/lib/"),
        Item::file("usr/lib/lib1", noise(1, 200_000)).mode(0o755),
        Item::dir("srv/"),
    ];
    for i in 0..8 {
        let changed = if i < version { 1000 * version } else { 0 };
        items.push(Item::file(format!("srv/part{i}"), noise(500 + i + changed, 300_000)));
    }
    Image::new([base(on), vec![layer(&items[..4]), layer(&items[4..])]].concat())
}

pub fn digests(layout: &Path) -> Vec<String> {
    let (manifest, _) = documents(layout);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|d| d["digest"].as_str().unwrap().to_owned()).collect()
}

fn split(p: &Place, args: &[&str]) -> Value {
    let out = p.run(&[&["split", "--json", "-f"], args].concat());
    assert!(out.status.success(), "{args:?}: {}", tool::said(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The bytes of the files above the base.
fn above(report: &Value) -> u64 {
    let layers = report["images"][0]["layers"].as_array().unwrap();
    layers[2..].iter().map(|l| l["bytes"].as_u64().unwrap()).sum()
}

#[test]
fn the_blobs_of_the_base_are_used() {
    let p = Place::new();
    Image::new(base(1)).write_layout(&p.at("base"), Codec::Gzip);
    // It has the same layers, but plain.
    fs::write(p.at("app.tar"), app(1, 0).docker_skopeo()).unwrap();
    let args = ["app.tar", "-o", "oci:out:v1", "--base", "oci:base", "--target", "3"];
    let report = split(&p, &args);
    let (ours, theirs) = (digests(&p.at("out")), digests(&p.at("base")));
    assert_eq!((&ours[..2], ours.len()), (&theirs[..], 5));
    for digest in &theirs {
        let of = |layout: &str| fs::read(p.at(layout).join("blobs").join(digest.replace(':', "/")));
        assert_eq!(of("out").unwrap(), of("base").unwrap());
    }
    p.ok(&["verify", "app.tar", "oci:out:v1"]);
    let (manifest, config) = documents(&p.at("out"));
    let base_digest = &roots(&p.at("base"))[0]["digest"];
    assert_eq!(manifest["annotations"]["org.opencontainers.image.base.digest"], *base_digest);
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().unwrap()[..2],
        app(1, 0).config["rootfs"]["diff_ids"].as_array().unwrap()[..2]
    );
    // What is dead in the base is told: a deleted file, one with another mode, one with other contents.
    let told = &report["images"][0]["base"];
    assert_eq!((&told["layers"], &told["digest"]), (&json!(2), base_digest));
    assert_eq!(told["deleted"][0]["path"], "/var/tmp/left");
    assert!(told["dead_bytes"].as_u64().unwrap() > 200_000, "{told}");
    let said = tool::said(&p.run(&["split", "app.tar", "-f", "-o", "x.tar", "--base", "base"]));
    assert!(said.contains("2 layers") && said.contains("/var/tmp/left"), "{said}");
    // Nothing of the base is written again.
    assert!(above(&report) < 8 * 300_000 + 210_000, "{report}");
    // The same from its own layers, for any number of threads, and again from the result.
    p.ok(&["copy", "app.tar", "oci:in:v1"]);
    for (threads, out) in [("1", "a"), ("3", "b")] {
        let out = format!("oci:{out}:v1");
        split(&p, &["oci:in:v1", "-o", &out, "--base", "2", "--threads", threads]);
    }
    assert_eq!(digests(&p.at("a")), digests(&p.at("b")));
    split(&p, &["oci:out:v1", "-o", "oci:again:v1", "--base", "oci:base", "--target", "3"]);
    assert_eq!(roots(&p.at("again")), roots(&p.at("out")));
    // An image that adds nothing is its base.
    let report = split(&p, &["oci:base", "-o", "oci:same:v1", "--base", "oci:base"]);
    assert_eq!(report["images"][0]["layers"].as_array().unwrap().len(), 2);
    for mtime in ["zero", "stable", "clamp:@5"] {
        let args = ["app.tar", "-o", "oci:t:v1", "--base", "base", "--mtime", mtime];
        let report = split(&p, &args);
        assert_eq!(digests(&p.at("t"))[..2], theirs[..], "{mtime}");
        assert!(above(&report) < 8 * 300_000 + 210_000, "{mtime}: {report}");
    }
    let many: Vec<Item> = (0..80).map(|i| Item::file(format!("f{i}"), noise(i, 4000))).collect();
    let many = Image::new([base(1), vec![layer(&many)]].concat());
    fs::write(p.at("many.tar"), many.docker_skopeo()).unwrap();
    let report = split(&p, &["many.tar", "--dry-run", "--base", "2", "--target", "70"]);
    assert_eq!(report["images"][0]["layers"].as_array().unwrap().len(), 72);
    split(&p, &["app.tar", "-o", "docker-archive:d.tar", "--base", "base", "--drop-noise"]);
}

#[test]
fn a_base_that_is_not_there_is_refused() {
    let p = Place::new();
    Image::new(base(1)).write_layout(&p.at("base"), Codec::Gzip);
    Image::new(base(2)).write_layout(&p.at("other"), Codec::Gzip);
    app(1, 0).write_layout(&p.at("app"), Codec::Gzip);
    app(1, 5).write_layout(&p.at("sibling"), Codec::Gzip);
    p.refused(&["split", "app", "-o", "x.tar", "--base", "other"], &["another version"]);
    p.refused(&["split", "app", "-o", "x.tar", "--base", "9"], &["has 4 layers"]);
    let said = p.ok(&["split", "app", "-o", "oci:x:v1", "--base", "sibling"]);
    assert!(said.contains("only 2 of the 4 layers"), "{said}");
    assert!(!documents(&p.at("x")).0.to_string().contains("image.base."));
    for args in [&["--base", "0"][..], &["--bases", "f"], &["--base", "-"]] {
        let out = p.run(&[&["split", "app", "-o", "y.tar"], args].concat());
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", tool::said(&out));
    }
    fs::write(p.at("list"), "# bases\noci:other\n\noci:base\n").unwrap();
    p.refused(&["split", "app", "-o", "y.tar", "--base", "base", "--bases", "list"], &["auto"]);
    split(&p, &["app", "-o", "oci:auto:v1", "--base", "auto", "--bases", "list"]);
    assert_eq!(digests(&p.at("auto"))[..2], digests(&p.at("base"))[..]);
    fs::write(p.at("list"), "other\n").unwrap();
    let said = p.ok(&["split", "app", "-o", "oci:none:v1", "--base", "auto", "--bases", "list"]);
    assert!(said.contains("found no base"), "{said}");
}

#[test]
fn updates_stay_on_the_base() {
    let p = Place::new();
    for (name, image) in [
        ("base1", Image::new(base(1))),
        ("base2", Image::new(base(2))),
        ("v1", app(1, 0)),
        ("v2", app(1, 1)),
        ("v3", app(2, 1)),
    ] {
        image.write_layout(&p.at(name), Codec::Gzip);
    }
    split(&p, &["v1", "-o", "oci:o1:x", "--base", "base1"]);
    let previous = ["--previous", "oci:o1:x", "--base", "base1"];
    split(&p, &[&["v1", "-o", "oci:same:x"], &previous[..]].concat());
    assert_eq!(roots(&p.at("same")), roots(&p.at("o1")));
    let report = split(&p, &[&["v2", "-o", "oci:o2:x"], &previous[..]].concat());
    let update = &report["images"][0]["update"];
    assert_eq!(digests(&p.at("o2"))[..2], digests(&p.at("base1"))[..]);
    assert!(update["set_bytes"].as_u64().unwrap() < 700_000, "{update}");
    p.ok(&["verify", "v2", "oci:o2:x", "--allow", "carried-mtimes"]);
    // The base moves on: its new layers are there, those of the old one are gone, and layers above stay.
    let report = split(&p, &["v3", "-o", "oci:o3:x", "--previous", "oci:o2:x", "--base", "base2"]);
    let (before, after) = (digests(&p.at("o2")), digests(&p.at("o3")));
    assert_eq!(after[..2], digests(&p.at("base2"))[..]);
    assert!(!after.contains(&before[0]), "{before:?} {after:?}");
    let kept = after[2..].iter().filter(|d| before.contains(d)).count();
    assert!(kept > 0, "{report}");
    p.ok(&["verify", "v3", "oci:o3:x", "--allow", "carried-mtimes"]);
    // Clients with the previous image don't have the new base.
    let update = &report["images"][0]["update"];
    assert!(update["set_bytes"].as_u64().unwrap() > 7 * 200_000, "{update}");
    assert_eq!(update["previous"].as_array().unwrap().len(), before.len());
}

#[test]
fn every_platform_has_its_base() {
    let p = Place::new();
    let index = |name: &str, of: &dyn Fn(usize) -> Image| {
        let mut files = Vec::new();
        let manifests: Vec<Value> = [(1, "amd64"), (2, "arm64")]
            .map(|(version, arch)| {
                let mut image = of(version);
                image.config["architecture"] = arch.into();
                let mut d = image.oci_blobs(Codec::Gzip, &mut files);
                d["platform"] = json!({"os": "linux", "architecture": arch});
                d
            })
            .to_vec();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = add_json(&index, INDEX, &mut files);
        finish_layout(&[named(index, json!({REF: "v1"}))], &mut files);
        write_files(&p.at(name), &files);
    };
    index("base", &|version| Image::new(base(version)));
    index("app", &|version| app(version, 0));
    split(&p, &["app", "-o", "oci:o:v1", "--base", "base"]);
    p.ok(&["verify", "app", "oci:o:v1"]);
    let manifests = |name: &str| -> Vec<Value> {
        let index = read_json(&blob(&p.at(name), &roots(&p.at(name))[0]));
        let list = index["manifests"].as_array().unwrap().clone();
        list.iter().map(|d| read_json(&blob(&p.at(name), d))).collect()
    };
    for (new, base) in manifests("o").iter().zip(manifests("base")) {
        for i in 0..2 {
            assert_eq!(new["layers"][i]["digest"], base["layers"][i]["digest"]);
        }
    }
}

#[test]
fn umoci_unpacks_the_same_above_any_base() {
    if !tool::needs("umoci, python3, gzip, zstd, root") {
        return;
    }
    let (seed, begin) = (seed(), SystemTime::now());
    for run in 0..tool::count(24, 8) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        let random = &mut Random(seed.wrapping_add(run));
        let mut image = edge();
        if run > 0 {
            let mut s = Stack::new(random, Taste::Careful);
            for item in s.layers.iter_mut().flatten() {
                item.mtime = "1600000000".into();
            }
            image = s.image(false, random);
        }
        image.write_layout(&at("in"), [Codec::Plain, Codec::Gzip, Codec::Zstd][run as usize % 3]);
        let input = format!("oci:{}", at("in").display());
        for name in ["a", "b"] {
            fs::create_dir(at(name)).unwrap();
        }
        let want = tool::unpack(&at("in"), &at("a"));
        restore_times(&want, begin, 0);
        for n in 1..=image.layers.len() {
            let what = format!("RELAYER_SEED={}, base {n}", seed.wrapping_add(run));
            let out = format!("oci:{}:x", at("out").display());
            tool::split(&[&input, "-o", &out, "-f", "--base", &n.to_string(), "--target", "3"]);
            let (ours, theirs) = (digests(&at("out")), digests(&at("in")));
            assert_eq!(ours[..n], theirs[..n], "{what}");
            let got = tool::unpack(&at("out"), &at("b"));
            if run > 0 {
                restore_times(&got, begin, 0);
            }
            tool::same_tree(&want, &got, &what);
            tool::ok(tool::relayer().args(["verify", &input, &out]));
        }
    }
}

#[test]
fn the_base_is_found_and_mounted_in_a_registry() {
    let registry = TestRegistry::start(Profile::plain());
    let p = Place::new();
    fs::write(p.at("auth.json"), registry.auth_file()).unwrap();
    let on = Image::new(base(1)).oci_files(Codec::Gzip);
    let digest_of_base = registry.add_image("library/base", "v1", &on);
    registry.create_repo("team/app");
    let mut image = app(1, 0);
    image.config["config"]["Labels"] = json!({
        "org.opencontainers.image.base.name": registry.reference("library/base:v1").replace("docker://", ""),
        "org.opencontainers.image.base.digest": digest_of_base,
    });
    fs::write(p.at("app.tar"), image.docker_skopeo()).unwrap();
    let named = registry.reference("library/base:v1");
    for (base, tag) in [("auto", "v1"), (&named, "v2")] {
        registry.clear_log();
        let to = registry.reference(&format!("team/app:{tag}"));
        let args = ["app.tar", "-o", &to, "--base", base, "--authfile", "auth.json"];
        let report = split(&p, &[&args[..], &["--cache-size", "0"]].concat());
        let told = &report["images"][0]["base"];
        assert_eq!((&told["layers"], &told["digest"]), (&json!(2), &json!(digest_of_base)));
        let (_, manifest) = registry.manifest("team/app", tag).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let name = manifest["annotations"]["org.opencontainers.image.base.name"].as_str().unwrap();
        assert_eq!(format!("docker://{name}"), named);
        if base != "auto" {
            assert!(report["push"]["existed"].as_u64().unwrap() >= 2, "{report}");
        }
        // Nothing of the base was downloaded if it need not be uploaded.
        let got = registry.log();
        let blobs = got.iter().filter(|e| e.method == "GET" && e.sent > 100_000).count();
        assert!(base == "auto" || blobs == 0, "{blobs}");
    }
}

#[test]
fn a_node_with_the_base_does_not_pull_it_again() {
    if !tool::needs("podman, containerd, ctr, docker, dockerd, root") {
        return;
    }
    let registry = TestRegistry::start(Profile::plain());
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // The name that docker reads.
    fs::write(at("config.json"), registry.auth_file()).unwrap();
    let on = Image::new(base(1)).oci_files(Codec::Gzip);
    registry.add_image("library/base", "v1", &on);
    registry.create_repo("team/app");
    for version in [0, 1] {
        fs::write(at("app.tar"), app(1, version).docker_skopeo()).unwrap();
        let mut command = tool::relayer();
        command.args(["split", &at("app.tar"), "--base", &registry.reference("library/base:v1")]);
        command.args(["-o", &registry.reference(&format!("team/app:v{version}"))]);
        // Docker of Debian reads no zstd.
        command.args(["--compression", "gzip", "--cache-size", "0"]);
        tool::ok(command.args(["--authfile", &at("config.json")]));
    }
    let (_, manifest) = registry.manifest("library/base", "v1").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let layers: Vec<&str> = layers.iter().map(|l| l["digest"].as_str().unwrap()).collect();
    let login = format!("{}:{}", registry.user(), registry.password());
    let (podman, docker, containerd) =
        (Client::podman(dir.path()), Client::docker(dir.path()), Client::containerd(dir.path()));
    let name = |image: &str| registry.reference(image).replace("docker://", "");
    let pull = |client: &str, image: &str| {
        let (image, auth) = (name(image), at("config.json"));
        match client {
            "podman" => {
                podman.ok(&["pull", "-q", "--tls-verify=false", "--authfile", &auth, &image])
            }
            "docker" => {
                let config = dir.path().to_str().unwrap();
                tool::ok(docker.command(&["--config", config]).args(["pull", "-q", &image]))
            }
            _ => {
                let options = ["--plain-http", "--snapshotter", "native", "--user", &login];
                containerd.ok(&[&["images", "pull"], &options[..], &[&image]].concat())
            }
        };
    };
    let check = |client: &str, first: &str, second: &str| {
        pull(client, first);
        registry.clear_log();
        pull(client, second);
        let log = registry.log();
        let got: Vec<_> = log.iter().filter(|e| e.method == "GET").collect();
        let again = got.iter().find(|e| layers.iter().any(|digest| e.target.contains(digest)));
        assert!(again.is_none(), "{client} with {first}: {again:?}");
        assert!(got.iter().any(|e| e.sent > 100_000));
    };
    for client in ["podman", "docker", "containerd"] {
        // A node that has the base, and one that has another image on it.
        check(client, "library/base:v1", "team/app:v1");
        match client {
            "podman" => podman.ok(&["rmi", "-a", "-f"]),
            "docker" => docker.ok(&["rmi", "-f", &name("library/base:v1"), &name("team/app:v1")]),
            _ => {
                let images = [name("library/base:v1"), name("team/app:v1")];
                containerd.ok(&["images", "rm", "--sync", &images[0], &images[1]])
            }
        };
        check(client, "team/app:v0", "team/app:v1");
    }
}
