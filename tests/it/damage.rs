//! Bad input gives one clear error that names the place, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::image::{
    self, Codec, Image, Item, add_index, block, digest, finish_layout, layer, padded, pax_record,
    small,
};
use super::tool;

/// A test's folder: inputs in `in`, outputs in `out`, temporary files in `tmp`.
struct Case {
    dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, args: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file as input; the output goes to `out/o.tar`.
    fn file(mut self, bytes: &[u8]) -> Self {
        let path = self.path("in/i.tar");
        fs::write(&path, bytes).unwrap();
        self.args = vec![path.display().to_string()];
        self
    }

    /// A layout as input.
    fn layout(mut self, files: &[(String, Vec<u8>)]) -> Self {
        image::write_files(&self.path("in/layout"), files);
        self.args = vec![format!("oci:{}", self.path("in/layout").display())];
        self
    }

    fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// Runs split and checks how it fails.
    fn fails(self, name: &str, fragment: &str) {
        let out = self.path("out/o.tar");
        let dest = self.args.iter().any(|a| a == "-o");
        let mut words = self.args.clone();
        if !dest {
            words.extend(["-o".into(), out.display().to_string()]);
        }
        let before = names(&self.path("out"));
        let begin = Instant::now();
        // 2 GB of address space: nothing here may need more, whatever it claims to hold.
        let mut command = Command::new("prlimit");
        command.args(["--as=2000000000", env!("CARGO_BIN_EXE_relayer"), "split", "--threads", "2"]);
        let result = tool::output(command.args(&words).env("TMPDIR", self.path("tmp")));
        let errors = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(1), "{name}: {errors}");
        assert!(!errors.contains("panicked"), "{name}: {errors}");
        let lines: Vec<_> = errors.lines().filter(|l| l.starts_with("relayer: ")).collect();
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
fn of_layer(bytes: Vec<u8>) -> Vec<u8> {
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
    case(&f, "fewer layers than diff IDs", "1 layers, its config 2 diff IDs");
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
    case(&f, "an artifact", "no container image");
    let mut f = good();
    edit(&mut f, is_manifest, |m| m["config"] = "none".into());
    case(&f, "a manifest of another shape", "manifest");
    for (media_type, fragment) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("text/plain", "no image layer"),
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
    case(&f, "a root of another type", "neither manifest nor index");
    let mut f = good();
    edit(&mut f, is_root, |r| r["manifests"][0]["digest"] = "md5:00".into());
    case(&f, "another digest algorithm", "md5");
    let mut f = good();
    edit(&mut f, is_root, |r| r["manifests"] = json!([]));
    case(&f, "no image", "names no image");
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
    Case::new().layout(&files).fails("indexes in indexes", "inside one another");
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
        ("empty", vec![], "no image"),
        ("zeros", vec![0; 10240], "no image"),
        ("another archive", image::archive(&[("readme".into(), b"x".to_vec())]), "readme"),
        ("no JSON", manifest("nonsense"), "manifest.json is not valid"),
        ("no images", manifest("[]"), "names no image"),
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
            "no tar archive",
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

/// A file entry whose header says what it likes.
fn lying(size: u64, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    [block(b"f", b'0', size, change), vec![0; 2048]].concat()
}

fn special(kind: u8, data: &[u8]) -> Vec<u8> {
    [block(b"special", kind, data.len() as u64, |_| ()), padded(data.to_vec())].concat()
}

#[test]
fn layers_that_lie_are_refused() {
    let entry = || Item::file("f", "x").bytes();
    let with_pax = |data: &[u8]| [special(b'x', data), entry(), vec![0; 1024]].concat();
    let mut bad_checksum = layer(&[Item::dir("d/"), Item::file("d/f", "x")]);
    bad_checksum[512 + 3] ^= 1;
    let mut zero_block = layer(&[Item::file("a", ""), Item::file("b", ""), Item::file("c", "")]);
    zero_block[512..1024].fill(0);
    let deep = |parts: usize| vec!["a"; parts].join("/");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a bad checksum", bad_checksum, "tar entry at byte 512"),
        ("a block of zeros within", zero_block, "single block of zeros"),
        ("a PAX record too long", with_pax(b"99 path=x\n"), "stated length"),
        ("a PAX record without a length", with_pax(b"path=x\n"), "stated length"),
        ("a PAX size that is no number", with_pax(&pax_record(b"size", b"many")), "no number"),
        (
            "a PAX size beyond the archive",
            with_pax(&pax_record(b"size", b"8000000000000000000")),
            "cut off",
        ),
        ("a negative PAX size", with_pax(&pax_record(b"size", b"-1")), "negative"),
        ("a user ID that is no number", with_pax(&pax_record(b"uid", b"root")), "uid=root"),
        ("a symlink to nothing", layer(&[Item::symlink("a", "")]), "/a (tar entry at byte 0)"),
        ("a NUL in a PAX path", with_pax(&pax_record(b"path", b"a\0b")), "NUL"),
        (
            "a long name of a gigabyte",
            lying(1 << 30, |h| h.set_entry_type(tar::EntryType::GNULongName)),
            "limit",
        ),
        (
            "a size of exabytes",
            lying(0, |h| {
                h.as_mut_bytes()[124..136]
                    .copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
            }),
            "byte 0",
        ),
        (
            "a size with the sign bit",
            lying(0, |h| h.as_mut_bytes()[124..136].fill(0xff)),
            "negative size",
        ),
        (
            "a size that is no number",
            lying(0, |h| h.as_mut_bytes()[124..136].copy_from_slice(b"zzzzzzzzzzz\0")),
            "size",
        ),
        ("a size beyond the archive", lying(1 << 40, |_| ()), "cut off"),
        ("an unknown type", layer(&[Item::new("odd", b'7')]), "/odd"),
        ("a path that goes up", layer(&[Item::file("../x", "x")]), "`..`"),
        ("a path that goes up within", layer(&[Item::file("a/../../x", "x")]), "`..`"),
        (
            "a hard link that goes up",
            layer(&[Item::link("x", "../../etc/passwd")]),
            "hard link target",
        ),
        (
            "a hard link to nothing",
            layer(&[Item::link("x", "nothing")]),
            "/nothing, which is not there",
        ),
        ("a hard link to itself", layer(&[Item::link("x", "x")]), "not there"),
        (
            "a hard link to a directory",
            layer(&[Item::dir("d/"), Item::link("x", "d")]),
            "directory",
        ),
        ("a whiteout of ..", layer(&[Item::file("a/.wh...", "")]), "names nothing"),
        ("a whiteout of nothing", layer(&[Item::file(".wh.", "")]), "names nothing"),
        ("a name below a whiteout", layer(&[Item::file(".wh.a/b", "")]), "below a whiteout"),
        ("an entry below a file", layer(&[Item::file("a", ""), Item::file("a/b", "")]), "below /a"),
        (
            "a loop of symlinks",
            layer(&[Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/x", "")]),
            "loop",
        ),
        ("a root that is a file", layer(&[Item::file("./", "x")]), "root"),
        ("a name that is too long", with_pax(&pax_record(b"path", &[b'n'; 256])), "255"),
        ("a path that is too long", layer(&[Item::file(deep(20_000), "")]), "4,095"),
        ("a symlink that is too long", layer(&[Item::symlink("a", deep(2049))]), "4,095"),
        (
            "a path that symlinks make too long",
            layer(&[
                Item::symlink("s", deep(1500)),
                Item::symlink("t", ["s", &deep(500)].join("/")),
                Item::file("t/x", ""),
                Item::symlink("u", ["t", &deep(500)].join("/")),
                Item::file("u/x", ""),
            ]),
            "4,095",
        ),
        (
            "a sparse map of exabytes",
            with_pax(
                &[
                    pax_record(b"GNU.sparse.map", b"0,1"),
                    pax_record(b"GNU.sparse.numblocks", b"1"),
                    pax_record(b"GNU.sparse.size", b"9000000000000000000"),
                ]
                .concat(),
            ),
            "--max-size",
        ),
        (
            "a sparse map that overlaps",
            with_pax(
                &[
                    pax_record(b"GNU.sparse.map", b"0,1,0,1"),
                    pax_record(b"GNU.sparse.numblocks", b"2"),
                    pax_record(b"GNU.sparse.size", b"9"),
                ]
                .concat(),
            ),
            "overlap",
        ),
        ("xz", [&b"\xfd7zXZ\0"[..], &[0; 600]].concat(), "xz"),
        ("bytes that are no tar", vec![b'x'; 5000], "checksum"),
    ];
    assert!(cases.len() > 30);
    for (name, bytes, fragment) in cases {
        Case::new().file(&of_layer(bytes)).fails(name, fragment);
    }
}

#[test]
fn bombs_are_stopped_early() {
    let zeros = [block(b"zeros", b'0', 3 << 30, |_| ())].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &zeros).unwrap();
    let chunk = vec![0; 16 << 20];
    for _ in 0..64 {
        std::io::Write::write_all(&mut gzip, &chunk).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let image = Image::new(vec![b"stands for what the bomb unfolds to".to_vec()]);
    let archive = image.docker_skopeo();
    // The same archive with the bomb in the layer's place.
    let config = image.config.to_string();
    let name = format!("{}.json", &digest(config.as_bytes())[7..]);
    let manifest = json!([{"Config": name, "RepoTags": [], "Layers": ["bomb.tar"]}]).to_string();
    let files = [
        (name, config.into_bytes()),
        ("bomb.tar".into(), bomb),
        ("manifest.json".into(), manifest.into_bytes()),
    ];
    assert!(archive.len() < 1 << 20);
    Case::new()
        .file(&image::archive(&files))
        .with(&["--max-size", "100MB"])
        .fails("a bomb", "--max-size");
    // An archive that is one, as a whole.
    let archive = image::archive(&[("manifest.json".into(), vec![0; 50 << 20])]);
    let bomb = Codec::Zstd.encode(&archive).0;
    Case::new().file(&bomb).with(&["--max-size", "10MB"]).fails("an archive bomb", "--max-size");
}

#[test]
fn a_million_entries_are_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Item::dir("d/").bytes();
    for i in 0..1_000_000 {
        bytes.extend(block(format!("d/{i:07}").as_bytes(), b'0', 0, |_| ()));
    }
    bytes.extend([0; 1024]);
    let input = dir.path().join("i.tar");
    fs::write(&input, Image::new(vec![bytes]).docker_skopeo()).unwrap();
    let out = tool::output(Command::new("prlimit").args([
        "--as=2000000000",
        env!("CARGO_BIN_EXE_relayer"),
        "split",
        "--threads",
        "2",
        input.to_str().unwrap(),
    ]));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
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
    c.with(&["-o", &layout]).fails("a folder with other things", "no OCI layout");
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
