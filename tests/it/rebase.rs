//! `rebase`: the result is what a build on the new base gives, or there are conflicts and no result.

use std::fs;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::base::{app, base, digests};
use super::documents::{INDEX, Place, REF, add_json, documents, named, roots};
use super::image::{Codec, Image, Item, finish_layout, layer, write_files};
use super::registry::{Profile, TestRegistry};
use super::tool;
use super::update::restore_times;

/// Files as `path=text`, `path/` for a directory, `-path` for a whiteout.
fn files(items: &[&str]) -> Vec<u8> {
    let item = |text: &&str| match (text.split_once('='), text.strip_prefix('-')) {
        (Some((path, text)), _) => Item::file(path, text),
        (_, Some(path)) => Item::whiteout(path),
        _ => Item::dir(text),
    };
    layer(&items.iter().map(item).collect::<Vec<_>>())
}

fn of(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// Writes the layouts `old`, `new` and `app`, which is on the old one.
fn images(p: &Place, old: &[&str], app: &[&str], new: &[&str]) {
    Image::new(vec![files(old)]).write_layout(&p.at("old"), Codec::Gzip);
    Image::new(vec![files(new)]).write_layout(&p.at("new"), Codec::Gzip);
    Image::new(vec![files(old), files(app)]).write_layout(&p.at("app"), Codec::Gzip);
}

/// Runs a rebase; returns the status, what was printed, and notes.
fn rebase(p: &Place, args: &[&str]) -> (Option<i32>, Value, String) {
    let all = [&["rebase", "app", "--from", "old", "--to", "new", "--json"], args].concat();
    let out = p.run(&all);
    let notes = String::from_utf8_lossy(&out.stderr).into_owned();
    (out.status.code(), serde_json::from_slice(&out.stdout).unwrap_or_default(), notes)
}

#[test]
fn the_result_is_what_a_build_on_the_new_base_gives() {
    let p = Place::new();
    Image::new(base(1)).write_layout(&p.at("old"), Codec::Gzip);
    Image::new(base(2)).write_layout(&p.at("new"), Codec::Gzip);
    let mut image = app(1, 1);
    image.config["config"]["Env"] = json!(["PATH=/srv", "V=1"]);
    image.write_layout(&p.at("app"), Codec::Gzip);
    app(2, 1).write_layout(&p.at("want"), Codec::Gzip);
    let (status, report, notes) = rebase(&p, &["-o", "oci:out", "--tag", "v9", "--target", "3"]);
    assert_eq!(status, Some(0), "{notes}");
    p.ok(&["verify", "want", "oci:out:v9"]);
    let (ours, theirs) = (digests(&p.at("out")), digests(&p.at("new")));
    assert_eq!((&ours[..2], ours.len()), (&theirs[..], 5));
    let (manifest, config) = documents(&p.at("out"));
    let of = &manifest["annotations"]["org.opencontainers.image.base.digest"];
    assert_eq!(*of, roots(&p.at("new"))[0]["digest"]);
    assert!(config["config"]["Env"].as_array().unwrap().contains(&json!("V=1")));
    assert_eq!((&report["conflicts"], &report["decided"]), (&json!([]), &json!(0)));
    assert_eq!((&report["from"], &report["to"]), (&json!("old"), &json!("new")));
    // The old base may be squashed, and the image too.
    p.ok(&["split", "old", "-o", "oci:squashed:x", "--target", "1"]);
    p.ok(&["split", "app", "-o", "oci:other:x"]);
    let args = ["--from", "squashed", "--to", "new", "-o", "docker-archive:out.tar:app:v1"];
    p.ok(&[&["rebase", "oci:other:x"], &args[..]].concat());
    p.ok(&["verify", "want", "out.tar"]);
    // Without a change of the base nothing changes; without one of the image it is the new base.
    p.ok(&["rebase", "app", "--from", "old", "--to", "old", "-o", "oci:same:x"]);
    p.ok(&["verify", "app", "oci:same:x"]);
    p.ok(&["rebase", "old", "--from", "old", "--to", "new", "-o", "oci:moved:x"]);
    assert_eq!(digests(&p.at("moved")), theirs);
    let (status, report, _) = rebase(&p, &["--dry-run"]);
    assert_eq!(
        (status, &report["output"], &report["digest"]),
        (Some(0), &Value::Null, &Value::Null)
    );
    let out = p.run(&["rebase", "app", "--from", "old", "--to", "-", "-o", "x"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn programs_that_lack_what_they_need_are_named() {
    let p = Place::new();
    let dirs = ["usr/", "usr/bin/"].map(Item::dir);
    let program = |path: &str, text: &str| Item::file(path, text).mode(0o755);
    let old = [&dirs[..], &[program("usr/bin/py", "1")]].concat();
    let app = [program("usr/bin/a", "#!/usr/bin/py -u\n"), program("usr/bin/b", "#!/usr/bin/py\n")];
    Image::new(vec![layer(&old)]).write_layout(&p.at("old"), Codec::Gzip);
    Image::new(vec![layer(&old), layer(&app)]).write_layout(&p.at("app"), Codec::Gzip);
    Image::new(vec![layer(&dirs)]).write_layout(&p.at("new"), Codec::Gzip);
    let (status, report, notes) = rebase(&p, &["-o", "oci:out:v1"]);
    assert_eq!(status, Some(0), "{notes}");
    let want = json!({"platform": "linux/amd64", "path": "/usr/bin/a", "need": "interpreter",
                      "name": "/usr/bin/py", "version": null, "was": "/usr/bin/py"});
    assert_eq!(
        (&report["missing"][0], &report["missing"][1]["path"]),
        (&want, &json!("/usr/bin/b"))
    );
    let said =
        "no longer there: /usr/bin/a is run by /usr/bin/py, which was /usr/bin/py; so is 1 more";
    assert!(report["images"][0]["notes"].to_string().contains(said), "{report}");
    let same = p.run(&["rebase", "app", "--from", "old", "--to", "old", "--dry-run", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&same.stdout).unwrap()["missing"], json!([]));
}

#[test]
fn conflicts_are_listed_and_nothing_is_written() {
    let p = Place::new();
    let database = |versions: &[(&str, u8)]| {
        let one = |(name, v): &(&str, u8)| format!("Package: {name}\nVersion: {v}\n\n");
        format!("var/lib/dpkg/status={}", versions.iter().map(one).collect::<String>())
    };
    let list = "var/lib/dpkg/info/tls.list=/bin/tls\n";
    let dirs = ["bin/", "etc/", "var/", "var/lib/", "var/lib/dpkg/", "var/lib/dpkg/info/"];
    let version = |text: &[&str], tls: u8, more: &[(&str, u8)]| -> Vec<String> {
        let packages = [more, &[("tls", tls)]].concat();
        let all = dirs.iter().chain(text).map(|t| (*t).to_owned());
        all.chain([database(&packages), list.to_owned(), format!("bin/tls={tls}")]).collect()
    };
    let old = version(&["etc/a=1", "etc/b=1"], 1, &[]);
    let app = version(&["etc/a=2", "-etc/b"], 2, &[("app", 1)]);
    let new = version(&["etc/a=3", "etc/b=\u{1b}[31m"], 3, &[("new", 1)]);
    images(&p, &of(&old), &of(&app), &of(&new));
    let (status, report, _) = rebase(&p, &["-o", "oci:out:v1"]);
    assert_eq!((status, p.at("out").exists(), &report["output"]), (Some(1), false, &Value::Null));
    let told: Vec<_> = report["conflicts"].as_array().unwrap().iter().collect();
    let line = |path: &str, record: Value, package: Value, reason: &str| {
        json!({"platform": "linux/amd64", "field": null, "path": path, "record": record,
               "package": package, "reason": reason})
    };
    let status_file = "/var/lib/dpkg/status";
    assert_eq!(
        told,
        [
            &line("/etc/a", Value::Null, Value::Null, "both-changed"),
            &line("/etc/b", Value::Null, Value::Null, "app-removed"),
            &line("/bin/tls", Value::Null, json!("tls"), "both-changed"),
            &line(status_file, json!("tls"), json!("tls"), "both-changed"),
        ]
    );
    let out = p.run(&["rebase", "app", "--from", "old", "--to", "new", "-o", "out.tar"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("package tls\n  /bin/tls: the image and") && !p.at("out.tar").exists());
    assert!(said.contains("4 conflicts; nothing was written. --keep decides"), "{said}");
    // Rules decide; the last one that matches counts.
    let keep = ["--keep", "app", "--keep", "base=package:tls", "--keep", "base=/etc/b"];
    let none = ["--keep", "base=/nothing", "-o", "oci:out:v1"];
    let (status, report, notes) = rebase(&p, &[&keep[..], &none].concat());
    assert_eq!((status, &report["decided"]), (Some(0), &json!(4)), "{notes}");
    assert!(notes.contains("--keep base=/nothing decided nothing"), "{notes}");
    let want = version(&["etc/a=2", "etc/b=\u{1b}[31m"], 3, &[("app", 1), ("new", 1)]);
    let sorted = database(&[("app", 1), ("new", 1), ("tls", 3)]);
    let want: Vec<_> = of(&want).into_iter().filter(|t| !t.contains("Package")).collect();
    Image::new(vec![files(&[&want[..], &[&sorted]].concat())])
        .write_layout(&p.at("want"), Codec::Gzip);
    p.ok(&["verify", "want", "oci:out:v1"]);
    for wrong in ["old", "app=", "app=package:", "base=config:"] {
        assert_eq!(rebase(&p, &["--keep", wrong, "-o", "x"]).0, Some(2), "{wrong}");
    }
}

#[test]
fn configs_are_merged_and_their_conflicts_listed() {
    let p = Place::new();
    images(&p, &["a=1"], &["b=1"], &["a=2"]);
    let write = |name: &str, layers: Vec<Vec<u8>>, env: &[&str], user: &str| {
        let mut image = Image::new(layers);
        image.config["config"] = json!({"Env": env, "User": user});
        image.write_layout(&p.at(name), Codec::Gzip);
    };
    write("old", vec![files(&["a=1"])], &["PATH=/bin", "V=1"], "");
    write("app", vec![files(&["a=1"]), files(&["b=1"])], &["PATH=/app:/bin", "V=1"], "app");
    write("new", vec![files(&["a=2"])], &["PATH=/sbin:/bin", "V=2"], "new");
    let (status, report, _) = rebase(&p, &["-o", "oci:out:v1"]);
    assert_eq!((status, &report["conflicts"][0]["field"]), (Some(1), &json!("User")));
    let (status, _, notes) = rebase(&p, &["-o", "oci:out:v1", "--keep", "app=config:User"]);
    assert_eq!(status, Some(0), "{notes}");
    assert!(notes.contains("config:Env.PATH"), "{notes}");
    let config = &documents(&p.at("out")).1["config"];
    assert_eq!(config["Env"], json!(["PATH=/app:/sbin:/bin", "V=2"]));
    assert_eq!(config["User"], "app");
}

#[test]
fn every_platform_is_moved_to_its_base() {
    let p = Place::new();
    let index = |name: &str, platforms: &[&str], of: &dyn Fn(usize) -> Image| {
        let mut files = Vec::new();
        let one = |(i, arch): (usize, &&str)| {
            let mut image = of(i);
            image.config["architecture"] = (*arch).into();
            let mut d = image.oci_blobs(Codec::Gzip, &mut files);
            d["platform"] = json!({"os": "linux", "architecture": arch});
            d
        };
        let manifests: Vec<Value> = platforms.iter().enumerate().map(one).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = add_json(&index, INDEX, &mut files);
        finish_layout(&[named(index, json!({REF: "v1"}))], &mut files);
        write_files(&p.at(name), &files);
    };
    let both = ["amd64", "arm64"];
    index("old", &both, &|i| Image::new(base(10 + i)));
    index("new", &both, &|i| Image::new(base(20 + i)));
    index("one", &both[..1], &|_| Image::new(base(20)));
    index("app", &both, &|i| app(10 + i, 1));
    index("want", &both, &|i| app(20 + i, 1));
    let (status, report, notes) = rebase(&p, &["-o", "oci:out:v1"]);
    assert_eq!((status, report["images"].as_array().unwrap().len()), (Some(0), 2), "{notes}");
    p.ok(&["verify", "want", "oci:out:v1"]);
    let args = ["rebase", "app", "--from", "old", "--to"];
    p.refused(&[&args[..], &["one", "-o", "x"]].concat(), &["--to has no image for linux/arm64"]);
    p.ok(&[&args[..], &["one", "-o", "oci:y:v1", "--platform", "linux/amd64"]].concat());
    // A conflict on one platform is one of all.
    index("new", &both, &|i| {
        let user = if i == 0 { "" } else { "app:x:7:7::/:/bin/sh\n" };
        let users = format!("root:x:0:0::/root:/bin/sh\n{user}");
        let etc = [Item::dir("etc/"), Item::file("etc/passwd", users)];
        Image::new([base(20 + i), vec![layer(&etc)]].concat())
    });
    let (status, report, _) = rebase(&p, &["-o", "oci:z:v1"]);
    let conflict = json!({"platform": "linux/arm64", "field": null, "path": "/etc/passwd",
        "record": "app", "package": null, "reason": "both-changed"});
    assert_eq!((status, &report["conflicts"]), (Some(1), &json!([conflict])));
    assert!(!p.at("z").exists());
}

#[test]
fn the_new_base_is_mounted_in_a_registry() {
    let registry = TestRegistry::start(Profile::plain());
    let p = Place::new();
    for (name, version) in [("old", 1), ("new", 2)] {
        let files = Image::new(base(version)).oci_files(Codec::Gzip);
        registry.add_image("library/base", name, &files);
    }
    registry.create_repo("team/app");
    app(1, 1).write_layout(&p.at("app"), Codec::Gzip);
    app(2, 1).write_layout(&p.at("want"), Codec::Gzip);
    let [old, new] = ["old", "new"].map(|tag| registry.reference(&format!("library/base:{tag}")));
    let to = registry.reference("team/app:v1");
    let auth = ["--authfile", "auth.json", "--json"];
    fs::write(p.at("auth.json"), registry.auth_file()).unwrap();
    let args = ["rebase", "app", "--from", &old, "--to", &new, "-o", &to];
    let out = p.run(&[&args[..], &auth].concat());
    assert!(out.status.success(), "{}", tool::said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        report["push"]["existed"].as_u64().unwrap() + report["push"]["mounted"].as_u64().unwrap(),
        2,
        "{report}"
    );
    let (_, manifest) = registry.manifest("team/app", "v1").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let name = manifest["annotations"]["org.opencontainers.image.base.name"].as_str().unwrap();
    assert_eq!(format!("docker://{name}"), new);
    p.ok(&["verify", "want", &to, "--authfile", "auth.json"]);
}

#[test]
fn umoci_unpacks_what_a_build_on_the_new_base_gives() {
    if !tool::needs("umoci, python3, gzip, root") {
        return;
    }
    let begin = SystemTime::now();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    Image::new(base(1)).write_layout(&at("old"), Codec::Gzip);
    Image::new(base(2)).write_layout(&at("new"), Codec::Gzip);
    app(1, 1).write_layout(&at("app"), Codec::Gzip);
    app(2, 1).write_layout(&at("want"), Codec::Gzip);
    let [old, new, app, out] =
        ["old", "new", "app", "out"].map(|name| format!("oci:{}", at(name).display()));
    let mut command = tool::relayer();
    command.args(["rebase", &app, "--from", &old, "--to", &new, "--compression", "gzip"]);
    tool::ok(command.args(["-o", &format!("{out}:x")]));
    let trees = ["want", "out"].map(|name| {
        fs::create_dir(at(&format!("{name}-work"))).unwrap();
        let tree = tool::unpack(&at(name), &at(&format!("{name}-work")));
        restore_times(&tree, begin, 0);
        tree
    });
    tool::same_tree(&trees[0], &trees[1], "rebased");
}
