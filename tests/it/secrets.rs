//! Deleted secrets in the layers that `split --previous` could keep.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use super::cli::is_documented;
use super::image::{self, Codec, Image, Item, layer};
use super::tool;
use super::update::application;

fn key(body: &str) -> String {
    let body = format!("MC4CAQAwBQYDK2VwBCIEI{body}NTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC");
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

fn token() -> String {
    format!("//r/:_authToken=npm_{}\n", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX")
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes an image whose second layer has these files, and one that is worth to be kept.
    fn image(&self, name: &str, files: &[(&str, &str)]) {
        let mut items = vec![Item::file("bulk", application(0).layers.remove(0))];
        items.extend(files.iter().map(|(path, text)| Item::file(path, text)));
        let lower = application(1).layers.remove(0);
        Image::new(vec![lower, layer(&items)]).write_layout(&self.at(name), Codec::Gzip);
    }

    /// Splits `new` on top of `old`, where only what must go goes.
    fn split(&self, options: &[&str]) -> Output {
        let name = |name: &str| format!("oci:{}", self.at(name).display());
        let mut command = tool::relayer();
        command.args(["split", &name("new"), "--previous", &name("old"), "--force", "--json"]);
        command.args(["-o", &format!("{}:x", name("out")), "--max-dead", "100%", "--beta", "0"]);
        tool::output(command.args(options))
    }

    fn report(&self, options: &[&str]) -> (Value, String) {
        let out = self.split(options);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        is_documented(&report);
        (report["images"][0]["update"].clone(), said)
    }

    /// Likely secrets in the result, deleted ones too.
    fn inspect(&self) -> Vec<String> {
        let image = format!("oci:{}", self.at("out").display());
        let found = tool::ok(tool::relayer().args(["inspect", &image, "--json"]));
        let found: Value = serde_json::from_str(&found).unwrap();
        let secrets = found["images"][0]["secrets"].as_array().unwrap().iter();
        secrets.map(|s| s["path"].as_str().unwrap().to_owned()).collect()
    }
}

fn place(old: &[(&str, &str)], new: &[(&str, &str)]) -> Place {
    let place = Place { dir: tempfile::tempdir().unwrap() };
    place.image("old", old);
    place.image("new", new);
    place
}

fn verdicts(update: &Value) -> Vec<&str> {
    let layers = update["previous"].as_array().unwrap().iter();
    layers.map(|l| l["verdict"].as_str().unwrap()).collect()
}

#[test]
fn a_layer_with_a_deleted_secret_is_dropped() {
    let key = key("");
    let p = place(&[("root/.ssh/id_rsa", &key), ("srv/a", "a")], &[("srv/a", "a")]);
    let (update, said) = p.report(&[]);
    assert_eq!(verdicts(&update), ["kept", "secret"]);
    let lost = &update["secrets"];
    assert_eq!(lost.as_array().unwrap().len(), 1, "{update}");
    let facts = [&lost[0]["layer"], &lost[0]["path"], &lost[0]["rule"]];
    assert_eq!(facts, [&Value::from(2), &"/root/.ssh/id_rsa".into(), &"private-key".into()]);
    assert!(said.contains("layer 2") && said.contains("/root/.ssh/id_rsa (private-key)"), "{said}");
    assert!(said.contains("--keep-secrets") && !said.contains("NTuctv5E1h"), "{said}");
    assert!(p.inspect().is_empty());
    // Who wants to keep it can.
    let (update, said) = p.report(&["--keep-secrets"]);
    assert_eq!((verdicts(&update), said.as_str()), (vec!["kept", "kept"], ""));
    assert_eq!(p.inspect(), ["/root/.ssh/id_rsa"]);
}

#[test]
fn only_what_is_gone_counts_as_deleted() {
    let (old, new, login) = (key(""), key("Q"), token());
    let app = ("srv/a", "a");
    for (before, now, secret) in [
        // It moved, and is there still.
        (&[("root/key", old.as_str()), app][..], &[("srv/key", old.as_str()), app][..], false),
        // Another one took its place: everybody has that.
        (&[("root/key", &old), app], &[("root/key", &new), app], false),
        // It stays.
        (&[("root/key", &old), app], &[("root/key", &old), app, ("srv/b", "b")], false),
        // The file stays, without it.
        (&[("root/.npmrc", &login), app], &[("root/.npmrc", "color=true\n"), app], true),
        (&[("root/key", &old), app], &[("root/key", ""), app], true),
        // No secret.
        (&[("root/notes", "long ago"), app], &[app], false),
        // Packages are public.
        (&[("usr/lib/python3/site-packages/x/key.pem", &old), app], &[app], false),
    ] {
        let p = place(before, now);
        let (update, said) = p.report(&[]);
        let want = if secret { "secret" } else { "kept" };
        assert_eq!(verdicts(&update), ["kept", want], "{before:?} {now:?} {said}");
    }
}

#[test]
fn an_image_that_hides_a_secret_is_not_kept_as_it_is() {
    let p = Place { dir: tempfile::tempdir().unwrap() };
    let lower = layer(&[Item::dir("root/"), Item::file("root/key", key("")), Item::file("a", "a")]);
    let image = Image::new(vec![lower, layer(&[Item::whiteout("root/key")])]);
    for name in ["old", "new"] {
        image.write_layout(&p.at(name), Codec::Zstd);
    }
    let (update, _) = p.report(&[]);
    assert_eq!(verdicts(&update)[0], "secret");
    assert!(p.inspect().is_empty());
}

#[test]
fn a_name_is_purged_in_any_folder() {
    let p = place(&[("root/.ssh/id_rsa", "hidden well"), ("srv/a", "a")], &[("srv/a", "a")]);
    assert_eq!(verdicts(&p.report(&[]).0), ["kept", "kept"]);
    for pattern in ["id_rsa", ".ssh", ".ssh/", "id_*", "/root/.ssh", "**/id_rsa", "root/*/id_rsa"] {
        let (update, said) = p.report(&["--purge", pattern]);
        assert_eq!(verdicts(&update), ["kept", "purged"], "{pattern}");
        assert!(said.is_empty(), "{said}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error() {
    let p = place(&[("root/.ssh/id_rsa", "hidden well"), ("srv/a", "a")], &[("srv/a", "a")]);
    for pattern in ["id_dsa", "/id_rsa", "ssh/id_rsa", "root/*"] {
        let out = p.split(&["--purge", "id_rsa", "--purge", pattern]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(tool::FAILED), "{pattern}: {said}");
        let words = format!("--purge {pattern} matches nothing");
        assert!(said.contains(&words) && said.contains("check the spelling"), "{said}");
        assert!(!p.at("out").exists(), "{pattern}");
    }
    // What the new image still has can't be purged, and that is said.
    let (update, said) = p.report(&["--purge", "srv/a"]);
    assert_eq!(verdicts(&update), ["kept", "kept"]);
    assert!(said.contains("that the new image still contains, such as /srv/a"), "{said}");
}

#[test]
fn a_pattern_may_be_for_one_platform_of_several() {
    let p = Place { dir: tempfile::tempdir().unwrap() };
    let write = |name: &str, secret_in: &str| {
        let mut files = Vec::new();
        let manifests = ["amd64", "arm64"].map(|arch| {
            let mut items = vec![Item::file("a", arch)];
            if arch == secret_in {
                items.push(Item::file("id_rsa", "hidden well"));
            }
            let mut image = Image::new(vec![layer(&items), layer(&[Item::file("b", arch)])]);
            image.config["architecture"] = arch.into();
            let mut d = image.oci_blobs(Codec::Gzip, &mut files);
            d["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
            d
        });
        let root = image::add_index(&manifests, &mut files);
        image::finish_layout(&[root], &mut files);
        image::write_files(Path::new(&p.at(name)), &files);
    };
    write("new", "");
    for arch in ["amd64", "arm64"] {
        write("old", arch);
        assert!(p.split(&["--purge", "id_rsa"]).status.success(), "{arch}");
        assert_eq!(p.split(&["--purge", "id_dsa"]).status.code(), Some(tool::FAILED), "{arch}");
        std::fs::remove_dir_all(p.at("old")).unwrap();
    }
}
