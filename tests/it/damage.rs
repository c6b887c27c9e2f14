//! Bad input gives one clear error that names the place, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::image::{self, Codec, Image, Item, add_index, digest, finish_layout, layer, small};
use super::tool;

/// A test's folder: inputs in `in`, outputs in `out`, temporary files in `tmp`.
pub struct Case {
    dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Case {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, args: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file as input; the output goes to `out/o.tar`.
    pub fn file(mut self, bytes: &[u8]) -> Self {
        let path = self.path("in/i.tar");
        fs::write(&path, bytes).unwrap();
        self.args = vec![path.display().to_string()];
        self
    }

    /// A layout as input.
    pub fn layout(mut self, files: &[(String, Vec<u8>)]) -> Self {
        image::write_files(&self.path("in/layout"), files);
        self.args = vec![format!("oci:{}", self.path("in/layout").display())];
        self
    }

    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// Runs split and checks how it fails.
    pub fn fails(self, name: &str, fragment: &str) {
        let out = self.path("out/o.tar");
        let dest = self.args.iter().any(|a| a == "-o");
        let mut words = self.args.clone();
        if !dest {
            words.extend(["-o".into(), out.display().to_string()]);
        }
        let before = names(&self.path("out"));
        let begin = Instant::now();
        // 2 GB of address space: nothing here may need more, whatever it claims to hold.
        let mut command = tool::relayer();
        command.args(["split", "--threads", "2"]).args(&words).env("TMPDIR", self.path("tmp"));
        let result = tool::output(&mut tool::limited("-v 1953125", &command));
        let errors = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(tool::FAILED), "{name}: {errors}");
        assert!(!errors.contains("panicked"), "{name}: {errors}");
        let lines: Vec<_> = errors.lines().filter(|l| l.starts_with(tool::ERROR)).collect();
        assert_eq!(lines.len(), 1, "{name}: {errors}");
        assert!(lines[0].contains(fragment), "{name}: {errors:?} has no {fragment:?}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{name} took {:?}", begin.elapsed());
        // A layout's folder stays, with nothing in it.
        let _ = fs::remove_dir(self.path("out/layout"));
        assert_eq!(names(&self.path("out")), before, "{name}: something is left");
        assert!(names(&self.path("tmp")).is_empty(), "{name}: temporary files are left");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An image whose one layer is these bytes.
pub fn of_layer(bytes: Vec<u8>) -> Vec<u8> {
    Image::new(vec![bytes]).docker_skopeo()
}

/// Changes one document of a layout; its digest changes with it when `follow` is set.
fn edit(files: &mut [(String, Vec<u8>)], is: impl Fn(&Value) -> bool, change: impl Fn(&mut Value)) {
    for (_, bytes) in files.iter_mut() {
        if let Ok(mut value) = serde_json::from_slice::<Value>(bytes)
            && is(&value)
        {
            change(&mut value);
            *bytes = value.to_string().into_bytes();
        }
    }
    // Names follow contents, from the config up.
    for _ in 0..3 {
        let mut renamed = Vec::new();
        for (name, bytes) in files.iter_mut().filter(|(n, _)| n.starts_with("blobs/")) {
            let new = format!("blobs/sha256/{}", &digest(bytes)[7..]);
            if *name != new {
                renamed.push((name[13..].to_owned(), new[13..].to_owned(), bytes.len()));
                *name = new;
            }
        }
        for (old, new, size) in renamed {
            for (_, bytes) in files.iter_mut() {
                let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { continue };
                let mut touched = false;
                for_descriptors(&mut value, &mut |d| {
                    if d["digest"] == format!("sha256:{old}") {
                        d["digest"] = format!("sha256:{new}").into();
                        d["size"] = size.into();
                        touched = true;
                    }
                });
                if touched {
                    *bytes = value.to_string().into_bytes();
                }
            }
        }
    }
}

fn for_descriptors(value: &mut Value, act: &mut dyn FnMut(&mut Value)) {
    if value.get("digest").is_some() {
        act(value);
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|v| for_descriptors(v, act)),
        Value::Array(list) => list.iter_mut().for_each(|v| for_descriptors(v, act)),
        _ => {}
    }
}

fn is_manifest(v: &Value) -> bool {
    v.get("layers").is_some()
}

fn is_config(v: &Value) -> bool {
    v.get("rootfs").is_some()
}

fn is_root(v: &Value) -> bool {
    v.get("manifests").is_some()
}

#[test]
fn a_cut_off_archive_is_an_error_wherever_it_is_cut() {
    for bytes in [small().docker_legacy(), image::archive(&small().oci_files(Codec::Gzip))] {
        for i in 0..12 {
            // An archive is whole without its last two blocks, and without padding before them.
            let cut = (bytes.len() - 3072) * (2 * i + 1) / 24;
            Case::new().file(&bytes[..cut]).fails(&format!("cut at {cut}"), "reading ");
        }
    }
    for codec in [Codec::Gzip, Codec::Zstd] {
        let bytes = codec.encode(&small().docker_skopeo()).0;
        for part in [3, 30, 99] {
            let cut = bytes.len() * part / 100;
            Case::new().file(&bytes[..cut]).fails("compressed archive", "cut off");
        }
    }
}

#[test]
fn broken_layouts_are_refused() {
    let good = || small().oci_files(Codec::Gzip);
    let blob = |files: &[(String, Vec<u8>)], is: &dyn Fn(&[u8]) -> bool| {
        files.iter().position(|(n, b)| n.starts_with("blobs/") && is(b)).unwrap()
    };
    let gzip: &dyn Fn(&[u8]) -> bool = &|b| b.starts_with(&[0x1f, 0x8b]);
    let json: &dyn Fn(&[u8]) -> bool = &|b| b.starts_with(b"{");
    let case = |files: &[(String, Vec<u8>)], name: &str, fragment: &str| {
        Case::new().layout(files).fails(name, fragment);
    };
    let mut f = good();
    let at = blob(&f, gzip);
    let last = f[at].1.len() - 1;
    f[at].1[last] ^= 1;
    case(&f, "a layer with a flipped bit", "layer ");
    let mut f = good();
    let at = blob(&f, json);
    let last = f[at].1.len() - 2;
    f[at].1[last] ^= 1;
    case(&f, "a document with a flipped bit", "digest sha256:");
    let mut f = good();
    let at = blob(&f, gzip);
    f[at].1.push(0);
    case(&f, "a layer of another size", "states ");
    let mut f = good();
    let at = blob(&f, gzip);
    f.remove(at);
    case(&f, "a missing layer", "missing");
    let mut f = good();
    edit(&mut f, is_manifest, |m| m["layers"].as_array_mut().unwrap().truncate(1));
    case(&f, "fewer layers than diff IDs", "1 layer, but its config has 2 diff IDs");
    let mut f = good();
    edit(&mut f, is_config, |c| c["rootfs"]["diff_ids"][0] = digest(b"other").into());
    case(&f, "a wrong diff ID", "diff ID");
    let mut f = good();
    edit(&mut f, is_config, |c| c["rootfs"] = Value::Null);
    case(&f, "a config without layers", "rootfs.diff_ids");
    let mut f = good();
    edit(&mut f, is_manifest, |m| {
        m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    });
    case(&f, "an artifact", "not a container image");
    let mut f = good();
    edit(&mut f, is_manifest, |m| m["config"] = "none".into());
    case(&f, "a manifest of another shape", "manifest");
    for (media_type, fragment) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("text/plain", "not that of an image layer"),
    ] {
        let mut f = good();
        edit(&mut f, is_manifest, |m| m["layers"][1]["mediaType"] = media_type.into());
        case(&f, media_type, fragment);
    }
    let mut f = good();
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    edit(&mut f, is_manifest, |m| m["layers"][0]["mediaType"] = kind.into());
    let at = blob(&f, gzip);
    f.remove(at);
    case(&f, "a foreign layer elsewhere", "foreign");
    let mut f = good();
    edit(&mut f, is_root, |r| r["manifests"][0]["mediaType"] = "text/plain".into());
    case(&f, "a root of another type", "neither a manifest nor an index");
    let mut f = good();
    edit(&mut f, is_root, |r| r["manifests"][0]["digest"] = "md5:00".into());
    case(&f, "another digest algorithm", "md5");
    let mut f = good();
    edit(&mut f, is_root, |r| r["manifests"] = json!([]));
    case(&f, "no image", "lists no image");
    let mut f = good();
    edit(&mut f, is_root, |r| {
        let mut other = r["manifests"][0].clone();
        other["digest"] = digest(b"x").into();
        other["annotations"] = json!({"org.opencontainers.image.ref.name": "v2"});
        r["manifests"].as_array_mut().unwrap().push(other);
    });
    case(&f, "several images and no tag", "several images");
    let mut f = good();
    f.retain(|(n, _)| n != "index.json");
    case(&f, "no index.json", "index.json");
    let mut f = good();
    f.iter_mut().find(|(n, _)| n == "index.json").unwrap().1 = b"{".to_vec();
    case(&f, "broken index.json", "index.json is not valid");
    let mut f = good();
    f.iter_mut().find(|(n, _)| n == "index.json").unwrap().1 = vec![b' '; 9 << 20];
    case(&f, "a huge index.json", "limit");
}

#[test]
fn indexes_can_not_go_round_or_too_deep() {
    let mut files = Vec::new();
    let mut d = small().oci_blobs(Codec::Plain, &mut files);
    for _ in 0..10 {
        d = add_index(&[d], &mut files);
    }
    finish_layout(&[d], &mut files);
    Case::new().layout(&files).fails("indexes in indexes", "nested more than 8 deep");
    // An index that names itself can't have the digest it names.
    let kind = "application/vnd.oci.image.index.v1+json";
    let own = json!({"mediaType": kind, "digest": digest(b"self"), "size": 0});
    let text = json!({"schemaVersion": 2, "manifests": [own]}).to_string();
    let own = json!({"mediaType": kind, "digest": digest(b"self"), "size": text.len()});
    let mut files = vec![(format!("blobs/sha256/{}", &digest(b"self")[7..]), text.into_bytes())];
    finish_layout(&[own], &mut files);
    Case::new().layout(&files).fails("an index of itself", "digest");
}

#[test]
fn broken_docker_archives_are_refused() {
    let manifest = |text: &str| image::archive(&[("manifest.json".into(), text.into())]);
    for (name, bytes, fragment) in [
        ("empty", vec![], "not an image archive"),
        ("zeros", vec![0; 10240], "not an image archive"),
        ("another archive", image::archive(&[("readme".into(), b"x".to_vec())]), "readme"),
        ("no JSON", manifest("nonsense"), "manifest.json is not valid"),
        ("no images", manifest("[]"), "lists no image"),
        (
            "no config",
            manifest(r#"[{"Config":"x.json","RepoTags":null,"Layers":[]}]"#),
            "config is missing",
        ),
        (
            "two images",
            manifest(
                r#"[{"Config":"a","RepoTags":["a:1"],"Layers":[]},{"Config":"b","RepoTags":["b:2"],"Layers":[]}]"#,
            ),
            "a:1, b:2",
        ),
        (
            "text",
            b"this is no archive at all, but it is longer than a block".repeat(20),
            "not a tar archive",
        ),
    ] {
        Case::new().file(&bytes).fails(name, fragment);
    }
    let mut image = small();
    image.config["rootfs"]["diff_ids"][1] = digest(b"x").into();
    Case::new().file(&image.docker_skopeo()).fails("a wrong diff ID", "diff ID");
    let bytes = small().docker_skopeo();
    let link = [Item::symlink("manifest.json", "other"), Item::symlink("other", "manifest.json")];
    Case::new().file(&layer(&link)).fails("a loop of links", "loop");
    let mut c = Case::new().file(&bytes);
    c.args[0] = format!("docker-archive:{}:nothing:v9", c.args[0]);
    c.fails("an unknown tag", "example/app:v1");
    Case::new()
        .file(&bytes)
        .with(&["--platform", "linux/s390x"])
        .fails("an unknown platform", "linux/amd64");
    let mut c = Case::new().file(&bytes);
    c.args[0] = c.path("in").display().to_string();
    c.fails("a folder that is no layout", "index.json");
    let mut c = Case::new().file(&bytes);
    c.args[0] = c.path("in/nothing.tar").display().to_string();
    c.fails("a file that is not there", "nothing.tar");
}

#[test]
fn targets_that_can_not_be_written_are_told_before_work_begins() {
    let bytes = small().docker_skopeo();
    let new = || Case::new().file(&bytes);
    let c = new();
    let input = c.args[0].clone();
    c.with(&["-o", &input, "--force"]).fails("output is the input", "never overwritten");
    let c = new();
    let link = c.path("in/link.tar");
    std::os::unix::fs::symlink(c.path("in/i.tar"), &link).unwrap();
    let link = link.display().to_string();
    c.with(&["-o", &link, "--force"]).fails("output is a link to the input", "never overwritten");
    let c = new();
    fs::write(c.path("out/there.tar"), "precious").unwrap();
    let there = c.path("out/there.tar").display().to_string();
    c.with(&["-o", &there]).fails("output exists", "--force");
    let c = new();
    let folder = c.path("out").display().to_string();
    c.with(&["-o", &folder]).fails("output is a folder", "folder");
    let c = new();
    let nowhere = c.path("out/no/such/o.tar").display().to_string();
    c.with(&["-o", &nowhere]).fails("no such folder", "no/such");
    let c = new();
    fs::write(c.path("out/x"), "no layout").unwrap();
    let layout = format!("oci:{}", c.path("out").display());
    c.with(&["-o", &layout]).fails("a folder with other things", "not an OCI layout");
}

/// Unmounts when the test ends, however it ends.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_or_read_only_disk_leaves_nothing() {
    if !tool::needs("mount, umount, root") {
        return;
    }
    let noise = {
        let mut out = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    };
    let bytes = of_layer(layer(&[Item::file("noise", noise)]));
    for (options, fragment) in [("size=1m", "No space left"), ("ro", "Read-only file system")] {
        let c = Case::new().file(&bytes);
        let out = c.path("out");
        tool::run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", out.to_str().unwrap()]);
        let _mount = Mount(out.clone());
        c.fails(options, fragment);
        // And a layout, file by file.
        let c = Case { dir: tempfile::tempdir().unwrap(), args: Vec::new() };
        for name in ["in", "tmp"] {
            fs::create_dir(c.path(name)).unwrap();
        }
        std::os::unix::fs::symlink(&out, c.path("out")).unwrap();
        let layout = format!("oci:{}/layout:x", out.display());
        c.file(&bytes).with(&["-o", &layout]).fails(&format!("layout {options}"), fragment);
    }
    // The folder for temporary files is full.
    let c = Case::new().file(&bytes);
    let tmp = c.path("tmp");
    tool::run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp.to_str().unwrap()]);
    let _mount = Mount(tmp);
    c.with(&["--memory", "1MiB"]).fails("full TMPDIR", "TMPDIR");
}
