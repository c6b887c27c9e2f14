//! Folders that are not layouts: `dir:` of skopeo, and unpacked archives of `docker save`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::image::{self, Codec, add_index, archive, finish_layout, small, write_files};
use super::tool::{self, relayer, run, said};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(place.path("img.tar"), small().docker_oci(Codec::Gzip)).unwrap();
        let mut files = Vec::new();
        let mut images = [small(), small()];
        images[1].config["architecture"] = json!("arm64");
        let listed: Vec<Value> =
            images.iter().map(|image| image.oci_blobs(Codec::Zstd, &mut files)).collect();
        let root = add_index(&listed, &mut files);
        finish_layout(&[root], &mut files);
        fs::write(place.path("index.tar"), archive(&files)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Command {
        let mut command = relayer();
        command.args(args).current_dir(&self.dir);
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        tool::ok(&mut self.run(args))
    }

    fn fails(&self, args: &[&str], words: &str) {
        let out = tool::output(&mut self.run(args));
        assert!(
            out.status.code() == Some(tool::FAILED) && said(&out).contains(words),
            "{}",
            said(&out)
        );
    }
}

/// The files of a folder with their bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let all = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let file =
        |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    let mut all: Vec<_> = all.map(file).collect();
    all.sort();
    all
}

#[test]
fn a_folder_of_skopeo_is_written_and_read_back_unchanged() {
    let p = Place::new();
    for input in ["img.tar", "index.tar"] {
        p.ok(&["copy", "-q", input, "dir:out", "-f"]);
        p.ok(&["copy", "-q", "dir:out", "oci:back:x", "-f"]);
        p.ok(&["copy", "-q", input, "oci:direct:x", "-f"]);
        let digest = |dir: &str| -> Value {
            let index = fs::read(p.path(dir).join("index.json")).unwrap();
            serde_json::from_slice::<Value>(&index).unwrap()["manifests"][0]["digest"].clone()
        };
        assert_eq!(digest("back"), digest("direct"), "{input}");
        // Each file has the digest that its name states, and nothing is left of the image before.
        let mut count = 0;
        for (name, bytes) in files(&p.path("out")) {
            let hex = name.trim_end_matches(".manifest.json");
            if hex.len() == 64 {
                assert_eq!(image::digest(&bytes), format!("sha256:{hex}"));
                count += 1;
            }
        }
        assert_eq!(count, if input == "img.tar" { 3 } else { 2 + 2 + 2 }, "{input}");
        p.ok(&["verify", "-q", "--platform", "linux/amd64", input, "out"]);
    }
}

#[test]
fn skopeo_and_relayer_read_each_others_folders() {
    if !tool::needs("skopeo") {
        return;
    }
    let p = Place::new();
    for (input, all) in [("img.tar", &[][..]), ("index.tar", &["--all"][..])] {
        let source = format!("oci-archive:{}", p.path(input).display());
        let at = |name: &str| format!("dir:{}", p.path(&format!("{input}.{name}")).display());
        run("skopeo", &[&["copy", "-q"], all, &[&source, &at("theirs")]].concat());
        p.ok(&["copy", "-q", input, &at("ours")]);
        let [ours, theirs] =
            ["ours", "theirs"].map(|name| files(&p.path(&format!("{input}.{name}"))));
        assert!(ours == theirs, "{input}");
        for name in ["ours", "theirs"] {
            let copy = format!("oci:{}:x", p.path(&format!("{input}.{name}.oci")).display());
            run("skopeo", &[&["copy", "-q"], all, &[&at(name), &copy]].concat());
            p.ok(&["verify", "-q", "--platform", "linux/amd64", &at(name), &copy]);
        }
    }
}

#[test]
fn a_folder_is_replaced_with_force_only_and_others_are_not_touched() {
    let p = Place::new();
    p.ok(&["copy", "-q", "img.tar", "dir:out"]);
    let before = files(&p.path("out"));
    p.fails(&["copy", "index.tar", "dir:out"], "--force replaces it");
    p.fails(&["split", "dir:out", "-o", "dir:out", "-f"], "never overwritten");
    p.fails(&["split", "img.tar", "-o", "out", "-f"], "this is a folder");
    fs::write(p.path("out/signature-1"), "of the image that is there").unwrap();
    fs::write(p.path("out/notes"), "of a person").unwrap();
    // What fails leaves the image that was there.
    let mut damaged = fs::read(p.path("index.tar")).unwrap();
    let at = damaged.windows(4).rposition(|w| w == *b"\x28\xb5\x2f\xfd").unwrap() + 40;
    damaged[at] ^= 1;
    fs::write(p.path("damaged.tar"), damaged).unwrap();
    p.fails(&["copy", "damaged.tar", "dir:out", "-f"], "digest");
    p.fails(&["copy", "damaged.tar", "dir:new"], "digest");
    let kept: Vec<_> = files(&p.path("out")).into_iter().filter(|f| before.contains(f)).collect();
    assert!(kept == before);
    assert!(files(&p.path("new")).is_empty());
    p.ok(&["copy", "-q", "index.tar", "dir:out", "-f"]);
    assert!(!p.path("out/signature-1").exists() && p.path("out/notes").exists());
    fs::create_dir(p.path("other")).unwrap();
    fs::write(p.path("other/manifest.json"), "{}").unwrap();
    p.fails(&["copy", "img.tar", "dir:other", "-f"], "already exists");
    assert_eq!(files(&p.path("other")).len(), 1);
}

#[test]
fn damaged_folders_are_errors() {
    let p = Place::new();
    p.ok(&["copy", "-q", "img.tar", "dir:out"]);
    let manifest = fs::read(p.path("out/manifest.json")).unwrap();
    let write = |bytes: &[u8]| fs::write(p.path("out/manifest.json"), bytes).unwrap();
    write(br#"{"schemaVersion":1,"fsLayers":[]}"#);
    p.fails(&["inspect", "dir:out"], "schema 1");
    write(b"{");
    p.fails(&["inspect", "out"], "the manifest");
    write(&manifest);
    let (blob, _) = files(&p.path("out")).into_iter().find(|(name, _)| name.len() == 64).unwrap();
    fs::remove_file(p.path("out").join(blob)).unwrap();
    p.fails(&["inspect", "dir:out"], "the blob is missing");
    p.fails(&["inspect", "dir:none"], "No such file");
    p.fails(&["inspect", "dir:img.tar"], "this is a file");
}

#[test]
fn an_unpacked_archive_is_read_as_what_it_was() {
    let p = Place::new();
    let image = small();
    for (name, bytes) in [("new", image.docker_new()), ("old", image.docker_legacy())] {
        tar::Archive::new(&bytes[..]).unpack(p.path(name)).unwrap();
        p.ok(&["verify", "-q", name, "img.tar"]);
        p.ok(&["split", "-q", name, "-f"]);
        p.ok(&["verify", "-q", &format!("{name}.relayer.tar"), "img.tar"]);
    }
    p.fails(&["inspect", "docker-archive:old"], "this is a folder");
    p.fails(&["split", "old", "-o", "old/manifest.json", "-f"], "never overwritten");
}

#[test]
fn the_names_in_an_unpacked_archive_do_not_lead_out_of_it() {
    let p = Place::new();
    let docker = |config: &str, layer: &str| {
        let mut files = small().docker(Codec::Plain, "c.json", layer);
        let list = json!([{"Config": config, "RepoTags": ["app:v1"], "Layers": [layer]}]);
        files.last_mut().unwrap().1 = list.to_string().into_bytes();
        files
    };
    let outside = small().config_bytes();
    fs::write(p.path("c.json"), &outside).unwrap();
    for (name, config) in [("dots", "../c.json"), ("absolute", p.path("c.json").to_str().unwrap())]
    {
        let mut files = docker(config, "l.tar");
        files.remove(0);
        write_files(&p.path(name), &files);
        p.fails(&["inspect", name], "the config is missing");
    }
    let files = docker("link.json", "l.tar");
    write_files(&p.path("link"), &files);
    std::os::unix::fs::symlink("../c.json", p.path("link/link.json")).unwrap();
    p.fails(&["inspect", "link"], "leads out of the folder");
}
