//! `relayer store`.

mod faults;
mod images;
mod names;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::image::{Codec, Image, Item, archive, layer};
use super::tool;
use super::update::{application, write};

fn store(dir: &Path, args: &[&str]) -> Command {
    let mut command = tool::relayer();
    command.arg("store").arg("--store").arg(dir.join("store")).args(args);
    command
}

fn ok(dir: &Path, args: &[&str]) -> String {
    tool::ok(&mut store(dir, args))
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, &[args, &["--json"]].concat())).unwrap()
}

fn digests(dir: &Path) -> Vec<String> {
    let list = json(dir, &["list"]);
    let digest = |image: &Value| image["digest"].as_str().unwrap().to_owned();
    list["images"].as_array().unwrap().iter().map(digest).collect()
}

/// All files of a folder with something in them.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn what_images_share_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for version in 0..4 {
        let image = dir.join(format!("v{version}.tar"));
        fs::write(&image, application(version).docker_skopeo()).unwrap();
        ok(dir, &["add", image.to_str().unwrap(), "--name", &format!("app:v{version}")]);
    }
    let stats = &json(dir, &["stats"])["stats"];
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    // Eight parts of 300 kB; of the later versions 1, 2 and 3 are new.
    let whole = number(&stats["images"][0], "unique_chunk_bytes");
    assert!(number(stats, "unique_chunk_bytes") < whole * 15 / 8);
    assert!(number(stats, "disk_bytes") < whole * 15 / 8);
    assert!((600_000..700_000).contains(&number(&stats["images"][2], "new_chunk_bytes")));
    // Whatever has a name keeps it; names move.
    let image = dir.join("v0.tar");
    let again = json(dir, &["add", image.to_str().unwrap(), "--name", "app:v1"]);
    assert_eq!(again["images"][0]["added"]["known"], true);
    let moved = &again["images"][0]["added"]["moved"];
    assert_eq!((&moved[0][0], moved[0][1].is_string()), (&"app:v1".into(), true));
    let list = json(dir, &["list"])["images"].clone();
    assert_eq!(list[0]["names"], serde_json::json!(["app:v1", "app:v0"]));
    assert_eq!(list[1]["names"], serde_json::json!([]));
    assert_eq!(list[1]["former"], serde_json::json!(["app:v1"]));
    let v1 = list[1]["digest"].as_str().unwrap().to_owned();
    for name in [v1.as_str(), "v2", "app:v3"] {
        ok(dir, &["rm", name]);
    }
    ok(dir, &["gc"]);
    let after = &json(dir, &["stats"])["stats"];
    assert!(number(after, "pack_bytes") < whole * 11 / 10, "{after}");
    assert_eq!(number(after, "unused_bytes"), 0);
    assert!(ok(dir, &["check", "--blobs"]).contains("no damage"));
    for (args, what) in [
        (["extract", "v3", "-o", "x.tar"], "the store has no image \"v3\"; it has app:v1"),
        (["add", "nowhere.tar", "--level", "3"], "reading nowhere.tar: No such file"),
    ] {
        let out = tool::output(&mut store(dir, &args));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(tool::FAILED) && text.contains(what), "{text}");
    }
}

#[test]
fn one_file_comes_out_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let layer = layer(&[
        Item::dir("etc"),
        Item::file("etc/real", "what it says\n"),
        Item::symlink("etc/link", "/etc/real"),
    ]);
    let image = dir.join("i.tar");
    fs::write(&image, Image::new(vec![layer]).docker_skopeo()).unwrap();
    ok(dir, &["add", image.to_str().unwrap(), "--name", "app:1"]);
    for path in ["/etc/real", "etc/real", "etc/link", "/etc/../etc/link"] {
        assert_eq!(ok(dir, &["cat", "app:1", path]), "what it says\n", "{path}");
    }
    for (path, what) in [("etc", "it is a directory"), ("etc/none", "no such file")] {
        let out = tool::output(&mut store(dir, &["cat", "app:1", path]));
        assert!(String::from_utf8_lossy(&out.stderr).contains(what));
    }
}

#[test]
fn stores_histories_and_other_folders_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = write(dir, 0);
    let image = image.to_str().unwrap();
    let (history, other, old) = (dir.join("history"), dir.join("other"), dir.join("old"));
    ok(dir, &["add", image]);
    tool::ok(tool::relayer().args(["history", "add", image, "--history"]).arg(&history));
    for folder in [&other, &old] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(other.join("letter"), "dear").unwrap();
    fs::write(old.join("CURRENT"), "MANIFEST-000001\n").unwrap();
    for (command, option, folder, what) in [
        (
            "store",
            "--store",
            &history,
            "this is a history, not a store; `relayer history` reads it",
        ),
        ("history", "--history", &dir.join("store"), "this is a store, not a history"),
        ("store", "--store", &other, "the folder holds other files and no store"),
        ("history", "--history", &other, "the folder holds other files and no history"),
        ("store", "--store", &old, "was written by another version of relayer"),
    ] {
        let out = tool::output(tool::relayer().args([command, "add", image, option]).arg(folder));
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(tool::FAILED) && text.contains(what), "{text}");
    }
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn one_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let image = write(dir, 0);
    let image = image.to_str().unwrap();
    let missing = tool::output(&mut store(dir, &["list"]));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("relayer store add"));
    ok(dir, &["add", image]);
    // It has the lock while it waits for its image.
    let mut first =
        store(dir, &["add", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    for args in [&["add", image][..], &["gc"], &["rm", "v0"]] {
        let second = tool::output(&mut store(dir, args));
        assert_eq!(second.status.code(), Some(tool::FAILED));
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(text.contains("another relayer process is writing"), "{text}");
    }
    assert_eq!(digests(dir).len(), 1);
    ok(dir, &["check"]);
    let bytes = archive(&application(1).oci_files(Codec::Gzip));
    first.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(digests(dir).len(), 2);
}
