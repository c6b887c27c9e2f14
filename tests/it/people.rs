//! What people see: tables that fit their terminal, and sizes that can be compared.

use std::fs;

use serde_json::Value;

use super::image::{Codec, Image, Item, layer, noise};
use super::tool::{self, relayer};

/// Bytes that compress to about their half.
fn text(n: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; n];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise.iter().map(|b| b'a' + b % 16).collect()
}

/// An image with long names, a deleted file and duplicates.
fn image() -> Image {
    let name = |n: usize| format!("srv/{}/file-{n}.bin", "a-folder-with-a-long-name/".repeat(3));
    let files: Vec<_> = (0..8).map(|n| Item::file(name(n), text(300_000, n as u64))).collect();
    let more = [
        Item::file("opt/copy-of-the-first-file-in-another-folder.bin", text(300_000, 0)),
        Item::file("opt/.wh.gone", ""),
    ];
    let first = layer(&[Item::file("opt/gone", text(100_000, 99))]);
    Image::new(vec![first, layer(&files), layer(&more)])
}

/// The image as `docker save` writes it, and as a registry has it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("saved.tar"), image().docker_new()).unwrap();
    image().write_layout(&dir.path().join("pushed"), Codec::Gzip);
    dir
}

fn json(dir: &tempfile::TempDir, args: &[&str]) -> Value {
    let out = tool::ok(relayer().args(args).arg("--json").current_dir(dir));
    serde_json::from_str(&out).unwrap()
}

#[test]
fn an_uncompressed_input_is_compared_by_what_a_push_makes_of_it() {
    let dir = folder();
    let [saved, pushed] = ["saved.tar", "pushed"].map(|image| {
        let report = json(&dir, &["split", image, "--dry-run"]);
        report["images"][0]["before"].clone()
    });
    assert_eq!(saved["compression"], "gzip");
    assert_eq!((&saved["estimated"], &pushed["estimated"]), (&true.into(), &false.into()));
    assert_eq!(pushed["download_bytes"], pushed["blob_bytes"]);
    let bytes = |totals: &Value| totals["download_bytes"].as_u64().unwrap();
    let error = bytes(&saved) as f64 / bytes(&pushed) as f64 - 1.0;
    assert!(error.abs() < 0.1, "{error}: {saved} {pushed}");
    let inspected = json(&dir, &["inspect", "saved.tar"]);
    assert_eq!(inspected["images"][0]["totals"]["download_bytes"], saved["download_bytes"]);
    let said = tool::ok(relayer().args(["split", "saved.tar"]).current_dir(&dir));
    assert!(said.contains("before, as gzip       3  about 1."), "{said}");
    assert!(said.contains("after, as zstd        "), "{said}");
    // What is written without compression will be compressed, too.
    let plain = json(&dir, &["split", "pushed", "-o", "plain.tar", "--compression", "none"]);
    let after = &plain["images"][0]["after"];
    assert_eq!((&after["estimated"], &after["compression"]), (&true.into(), &"gzip".into()));
    assert!(bytes(after) < after["blob_bytes"].as_u64().unwrap(), "{after}");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let dir = folder();
    fs::write(dir.path().join("other.tar"), Image::new(image().layers[1..].to_vec()).docker_new())
        .unwrap();
    for command in [
        &["split", "saved.tar", "--dry-run"][..],
        &["inspect", "saved.tar"],
        &["diff", "pushed", "other.tar"],
        &["verify", "pushed", "saved.tar"],
    ] {
        for columns in [60, 80, 200] {
            let out = relayer()
                .args(command)
                .current_dir(&dir)
                .env("COLUMNS", columns.to_string())
                .output()
                .unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns, "{command:?} {columns}:\n{text}");
            let whole = text.contains("a-folder-with-a-long-name/a-folder-with-a-long-name/");
            if command[0] == "inspect" {
                assert_eq!(whole, columns == 200, "{text}");
            }
        }
    }
}

#[test]
fn differences_are_counted_and_content_comes_before_times() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, changed: bool| {
        let file = |n: usize| {
            let text = if changed && n == 25 { "new" } else { "old" };
            Item { mtime: i64::from(changed).to_string(), ..Item::file(format!("f{n:02}"), text) }
        };
        let files: Vec<_> = (0..30).map(file).collect();
        fs::write(dir.path().join(name), Image::new(vec![layer(&files)]).docker_new()).unwrap();
    };
    write("a.tar", false);
    write("b.tar", true);
    let run = |more: &[&str]| {
        let args = [&["verify", "a.tar", "b.tar"], more].concat();
        let out = tool::output(relayer().args(args).current_dir(&dir));
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stdout).unwrap()
    };
    let text = run(&[]);
    let head = "different          paths\ncontent                1\nmodification time     30\n\n/f25: content: ";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\nand 11 more; -v lists all\n\n31 differences\n"), "{text}");
    assert_eq!(run(&["-v"]).matches(": mtime: ").count(), 30);
    let counts: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(counts["counts"], serde_json::json!({"content": 1, "modification time": 30}));
}

#[test]
fn the_largest_files_and_folders_are_shown() {
    let dir = folder();
    let text = tool::ok(relayer().args(["inspect", "saved.tar", "--tree"]).current_dir(&dir));
    assert!(text.contains("\n/                                      9  "), "{text}");
    assert!(text.contains("\n  srv  "), "{text}");
    assert_eq!(text.matches("/file-").count(), 8 + 1, "{text}");
    let few = tool::ok(relayer().args(["inspect", "saved.tar", "--top", "2"]).current_dir(&dir));
    assert_eq!(few.matches("/file-").count(), 1 + 1, "{few}");
    let report = json(&dir, &["inspect", "saved.tar"]);
    let image = &report["images"][0];
    assert_eq!(image["largest"][0]["bytes"], 300_000);
    assert_eq!(
        (&image["largest"][0]["layer"], &image["folders"][0]["path"]),
        (&3.into(), &"/".into())
    );
    assert_eq!(image["folders"][1]["bytes"], 2_400_000);
}

#[test]
fn a_path_is_explained() {
    let dir = folder();
    let path = "opt/copy-of-the-first-file-in-another-folder.bin";
    let file = &json(&dir, &["explain", "pushed", path])["images"][0];
    assert_eq!(
        (&file["shown"], &file["files"], &file["bytes"]),
        (&"file".into(), &1.into(), &300_000.into())
    );
    assert_eq!(file["components"][0]["name"], "dir:opt");
    let [layer] = &file["layers"].as_array().unwrap()[..] else { panic!("{file}") };
    assert_eq!((&layer["layer"], &layer["what"]), (&3.into(), &"step 2".into()));
    assert_eq!(layer["set_bytes"], layer["chain_bytes"], "nothing lies above it");
    let all = &json(&dir, &["explain", "pushed", "/"])["images"][0];
    let bytes = |key: &str| all["layers"][0][key].as_u64().unwrap();
    assert!(all["files"] == 9 && bytes("chain_bytes") > bytes("set_bytes"), "{all}");
    let text = tool::ok(relayer().args(["explain", "pushed", "/opt/gone"]).current_dir(&dir));
    assert!(text.starts_with("/opt/gone: the image shows nothing here\n"), "{text}");
    assert!(
        text.contains("/opt/gone               deleted  recoverable      1          3  100.0 kB"),
        "{text}"
    );
    let none = tool::output(relayer().args(["explain", "pushed", "/x"]).current_dir(&dir));
    assert!(!none.status.success() && tool::said(&none).contains("no layer has a file at /x"));
}

#[test]
fn what_the_config_still_holds_is_told_after_a_split() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = Image::new(vec![layer(&[Item::file("a", "b")])]);
    image.config["config"]["Env"] = serde_json::json!(["DB_PASSWORD=hunter22-x"]);
    fs::write(dir.path().join("a.tar"), image.docker_new()).unwrap();
    let out = tool::output(relayer().args(["split", "a.tar"]).current_dir(&dir));
    assert!(
        tool::said(&out).contains("secrets: config.Env DB_PASSWORD; everybody"),
        "{}",
        tool::said(&out)
    );
    assert!(!tool::said(&out).contains("hunter22"));
}

#[test]
fn a_small_image_has_few_layers_unless_more_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    // Noise is stored as it is.
    let noise = |n| Item::file(format!("opt/{n}"), noise(n, 1_300_000));
    let write = |name: &str, n| {
        let image = Image::new(vec![layer(&(0..n).map(noise).collect::<Vec<_>>())]);
        fs::write(dir.path().join(name), image.docker_new()).unwrap();
    };
    write("small.tar", 3);
    write("large.tar", 12);
    let layers = |args: &[&str]| {
        let report = json(&dir, &[&["split", "--dry-run"], args].concat());
        let image = &report["images"][0];
        (image["layers"].as_array().unwrap().len(), image["notes"].to_string())
    };
    assert_eq!(layers(&["small.tar"]), (3, "[]".into()));
    assert_eq!(layers(&["large.tar"]).0, 8);
    assert_eq!(layers(&["large.tar", "--target", "12"]).0, 12);
    let (few, note) = layers(&["small.tar", "--target", "8"]);
    assert!(few == 3 && note.contains("--target 8 makes only 3 layers"), "{few} {note}");
    assert_eq!(layers(&["small.tar", "--target", "2"]), (2, "[]".into()));
}
