//! Inputs that ask for more than there is: each ends in bounded memory and time with one clear message,
//! and leaves nothing behind. docs/LIMITS.md has the bounds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use super::image::{
    self, Codec, Image, Item, add_index, block, finish_layout, layer, padded, pax_record,
};
use super::tool::{self, Measured, said};

/// Beside `--memory`, the program and all that is not counted may take so much.
const BESIDE: u64 = 64 << 20;

struct Run {
    status: i32,
    peak: u64,
    seconds: f64,
    errors: String,
    left: Vec<String>,
}

/// Runs relayer on an input below `dir`, and measures.
fn run(dir: &Path, args: &[&str]) -> Run {
    for name in ["out", "tmp"] {
        let _ = fs::remove_dir_all(dir.join(name));
        fs::create_dir(dir.join(name)).unwrap();
    }
    let mut command = tool::relayer();
    command.args(args).current_dir(dir).env("TMPDIR", dir.join("tmp"));
    let Measured { out, peak, seconds } = tool::measured(&mut command);
    let left = ["out", "tmp"].into_iter().flat_map(|name| fs::read_dir(dir.join(name)).unwrap());
    Run {
        status: out.status.code().unwrap(),
        peak,
        seconds,
        errors: String::from_utf8_lossy(&out.stderr).into_owned(),
        left: left.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect(),
    }
}

/// Splits what lies in `in` with the default memory and with little. `fragments` are of the errors
/// that are to come, empty where it is to be split.
fn check(name: &str, dir: &Path, input: &str, fragments: [&str; 2]) {
    for (memory, fragment) in [512u64, 64].into_iter().zip(fragments) {
        let size = format!("{memory}MiB");
        let args = ["split", input, "-o", "out/o.tar", "-q", "--threads", "2", "--memory", &size];
        let run = run(dir, &args);
        let what =
            format!("{name}, {size}: {:.1} s, {} MiB, {}", run.seconds, run.peak >> 20, run.errors);
        println!("{what}");
        assert_eq!(run.status, if fragment.is_empty() { 0 } else { tool::FAILED }, "{what}");
        assert!(run.peak <= (memory << 20) + BESIDE, "{what}");
        assert!(run.seconds <= 60.0, "{what}");
        assert!(run.errors.len() <= 2000, "{what}");
        assert!(run.errors.contains(fragment), "{what} has no {fragment:?}");
        if fragment.is_empty() {
            assert_eq!(run.left, ["o.tar"], "{what}");
        } else {
            assert_eq!(run.errors.lines().count(), 1, "{what}");
            assert!(run.left.is_empty(), "{what}: {:?}", run.left);
        }
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// As [`check`], of an image of one gzip layer.
fn of_layer(name: &str, tar: Vec<u8>, fragments: [&str; 2]) {
    let dir = folder();
    Image::new(vec![tar]).write_layout(&dir.path().join("in"), Codec::Gzip);
    check(name, dir.path(), "oci:in", fragments);
}

/// Entries that repeat one extended header, and the end.
fn repeated(records: &[(&[u8], &[u8])], kind: u8, count: usize) -> Vec<u8> {
    let text: Vec<u8> = records.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
    let head = [block(b"x", b'x', text.len() as u64, |_| {}), padded(text)].concat();
    let mut tar = Vec::new();
    for i in 0..count {
        tar.extend_from_slice(&head);
        tar.extend_from_slice(&block(format!("f{i:07}").as_bytes(), kind, 0, |_| {}));
    }
    tar.extend([0; 1024]);
    tar
}

const INDEX: &str = "more than 384 MiB of memory";
const SMALL_INDEX: &str = "more than 64 MiB of memory";

#[test]
fn attributes_links_and_paths_are_counted_by_their_bytes() {
    // As large as Linux allows.
    let value = vec![b'v'; 65_536];
    let names: Vec<String> = (0..15).map(|i| format!("SCHILY.xattr.user.{i:02}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_bytes(), &value[..])).collect();
    let tar = repeated(&all, b'0', 300);
    of_layer("attributes", tar, [INDEX, SMALL_INDEX]);
    let tar = repeated(&[(b"linkpath", &[b't'; 4095])], b'2', 60_000);
    of_layer("link targets", tar, [INDEX, SMALL_INDEX]);
    let mut tar = Vec::new();
    let deep = [&[b'd'; 200][..]; 20].join(&b'/');
    for i in 0..40_000 {
        let text = pax_record(b"path", &[&deep[..], format!("/f{i}").as_bytes()].concat());
        tar.extend(block(b"x", b'x', text.len() as u64, |_| {}));
        tar.extend(padded(text));
        tar.extend(block(b"f", b'0', 0, |_| {}));
    }
    of_layer("paths", tar, [INDEX, SMALL_INDEX]);
}

#[test]
fn maps_of_sparse_files_are_counted_by_their_bytes() {
    const RUNS: usize = 1 << 20;
    let mut text = format!("{RUNS}\n").into_bytes();
    (0..RUNS).for_each(|i| text.extend_from_slice(format!("{}\n1\n", i * 2).as_bytes()));
    let mut data = padded(text);
    data.resize(data.len() + RUNS, b'x');
    let mut tar = Vec::new();
    for i in 0..30 {
        let records = [
            pax_record(b"GNU.sparse.major", b"1"),
            pax_record(b"GNU.sparse.minor", b"0"),
            pax_record(b"GNU.sparse.name", format!("f{i}").as_bytes()),
            pax_record(b"GNU.sparse.realsize", (RUNS * 2).to_string().as_bytes()),
        ]
        .concat();
        tar.extend(block(b"x", b'x', records.len() as u64, |_| {}));
        tar.extend(padded(records));
        tar.extend(block(b"f", b'0', data.len() as u64, |_| {}));
        tar.extend_from_slice(&data);
    }
    of_layer("sparse maps", tar, [INDEX, SMALL_INDEX]);
}

#[test]
fn a_million_entries_fit_in_the_default() {
    let mut tar = Vec::new();
    for i in 0..1_000_000 {
        tar.extend(block(format!("d{:03}/f{i:06}", i % 1000).as_bytes(), b'0', 0, |_| {}));
    }
    of_layer("entries", tar, ["", SMALL_INDEX]);
}

#[test]
fn a_hundred_thousand_components_are_planned_in_time() {
    let mut tar = Vec::new();
    for i in 0..100_000 {
        let path = format!("app/node_modules/x{i}/package.json");
        tar.extend(Item::file(path, format!("{{\"name\":\"x{i}\"}}")).bytes());
    }
    let dir = folder();
    Image::new(vec![tar]).write_layout(&dir.path().join("in"), Codec::Gzip);
    check("components", dir.path(), "oci:in", ["", SMALL_INDEX]);
}

/// A zstd frame of `blocks` blocks of 128 KiB that repeat a byte, with a window of 2^`log` bytes.
fn frame(log: u8, first: &[u8], blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    let mut header = |last: u32, kind: u32, size: u32, bytes: &[u8]| {
        frame.extend_from_slice(&(size << 3 | kind << 1 | last).to_le_bytes()[..3]);
        frame.extend_from_slice(bytes);
    };
    header(0, 0, first.len() as u32, first);
    (0..blocks).for_each(|_| header(0, 1, 1 << 17, &[0]));
    header(1, 0, 0, &[]);
    frame
}

/// A layout whose layers are these zstd blobs.
fn zstd_layout(dir: &Path, layers: &[(Vec<u8>, Vec<u8>)]) {
    let image = Image::new(layers.iter().map(|(tar, _)| tar.clone()).collect());
    let mut files = image.oci_files(Codec::Plain);
    let mut renamed: Vec<(String, String, usize)> = Vec::new();
    for (tar, blob) in layers {
        let (old, new) = (image::digest(tar), image::digest(blob));
        files.retain(|(name, _)| !name.ends_with(&old[7..]));
        files.push((format!("blobs/sha256/{}", &new[7..]), blob.clone()));
        renamed.push((old, new, blob.len()));
    }
    // The manifest, then what names it.
    for _ in 0..2 {
        let mut next = Vec::new();
        for (name, bytes) in &mut files {
            let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
                continue;
            };
            let mut changed = false;
            for list in ["layers", "manifests"] {
                for d in value[list].as_array_mut().into_iter().flatten() {
                    let found = renamed.iter().find(|(old, ..)| d["digest"] == *old);
                    if let Some((_, new, size)) = found {
                        (d["digest"], d["size"]) = (json!(new), json!(size));
                        if list == "layers" {
                            d["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
                        }
                        changed = true;
                    }
                }
            }
            if changed {
                let old = image::digest(bytes);
                *bytes = value.to_string().into_bytes();
                if name.starts_with("blobs/") {
                    let new = image::digest(bytes);
                    *name = format!("blobs/sha256/{}", &new[7..]);
                    next.push((old, new, bytes.len()));
                }
            }
        }
        renamed = next;
    }
    image::write_files(dir, &files);
}

#[test]
fn layers_unfold_to_no_more_than_a_ratio_allows() {
    let dir = folder();
    // 16 GB of 490 kB; the digest need not be right, since nobody gets that far.
    let blob = frame(17, &block(b"zeros", b'0', 16 << 30, |_| {}), 122_000);
    zstd_layout(&dir.path().join("in"), &[(layer(&[]), blob)]);
    check("ratio", dir.path(), "oci:in", ["more than 1100 times"; 2]);
}

#[test]
fn a_delta_of_large_files_takes_no_more_than_the_memory() {
    let dir = folder();
    // Programs are patched, data is compressed against its previous version.
    let image = |version: u8| {
        let file = |name: &str, magic: &[u8], bytes: usize| {
            let mut content = [magic, &super::chunked::noise(bytes, name.as_bytes()[0])].concat();
            content.iter_mut().skip(99).step_by(5000).for_each(|byte| *byte ^= version);
            Item::file(name, content)
        };
        let programs = ["a", "b", "c"].map(|name| file(name, b"\x7fELF", 12 << 20));
        let data = ["d", "e", "f"].map(|name| file(name, b"data", 15 << 20));
        Image::new(vec![layer(&[programs, data].concat())])
    };
    image(0).write_layout(&dir.path().join("old"), Codec::Gzip);
    image(9).write_layout(&dir.path().join("new"), Codec::Gzip);
    let mut all = Vec::new();
    for (memory, threads) in [("100MiB", "2"), ("100MiB", "3"), ("512MiB", "1")] {
        let limits = ["-q", "--level", "3", "--memory", memory, "--threads", threads];
        let made = run(
            dir.path(),
            &[&["delta", "oci:old", "oci:new", "-o", "out/d"], &limits[..]].concat(),
        );
        println!("{memory}, {threads}: {} MiB, {} s", made.peak >> 20, made.seconds);
        assert_eq!(made.status, 0, "{}", made.errors);
        let bytes: u64 = memory.trim_end_matches("MiB").parse().unwrap();
        assert!(made.peak <= (bytes << 20) + BESIDE, "{} MiB", made.peak >> 20);
        all.push(fs::read(dir.path().join("out/d")).unwrap());
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "the bytes depend on memory or threads");
}

#[test]
fn windows_of_decoders_are_within_the_memory() {
    let layers: Vec<_> = (0..4)
        .map(|i| {
            let mut tar = block(format!("f{i}").as_bytes(), b'0', 300 << 17, |_| {});
            let blob = frame(27, &tar, 300);
            tar.resize(512 + (300 << 17), 0);
            (tar, blob)
        })
        .collect();
    let dir = folder();
    zstd_layout(&dir.path().join("in"), &layers);
    check("windows", dir.path(), "oci:in", ["", "--memory 512MiB allows it"]);
    // A hint can be followed.
    assert_eq!(run(dir.path(), &["inspect", "oci:in", "--memory", "512MiB"]).status, 0);
    // Layers that are read for their digest alone.
    let (tars, blobs): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let mut files = Image::new(tars).docker(Codec::Plain, "HEX.json", "DIFF.tar");
    for ((_, bytes), blob) in files[1..].iter_mut().zip(blobs) {
        *bytes = blob;
    }
    fs::write(dir.path().join("i.tar"), image::archive(&files)).unwrap();
    let copy = |memory: &str| {
        let args = ["copy", "i.tar", "oci:out/o:v1", "-q", "--threads", "2", "--memory", memory];
        run(dir.path(), &args)
    };
    let small = copy("64MiB");
    assert!(small.errors.contains("--memory 512MiB allows it"), "{}", small.errors);
    assert!(small.peak <= (64 << 20) + BESIDE, "{}", small.peak);
    let large = copy("512MiB");
    assert_eq!(large.status, 0, "{}", large.errors);
}

#[test]
fn documents_that_name_one_another_are_read_so_often_only() {
    let image = image::small();
    let mut files = Vec::new();
    let mut root = image.oci_blobs(Codec::Plain, &mut files);
    for _ in 0..7 {
        root = add_index(&vec![root; 60], &mut files);
    }
    finish_layout(&[root], &mut files);
    let dir = folder();
    image::write_files(&dir.path().join("in"), &files);
    let run = run(dir.path(), &["split", "oci:in", "-o", "out/o.tar", "-q"]);
    assert!(run.seconds < 60.0 && run.peak < 128 << 20, "{} s, {}", run.seconds, run.peak);
    assert!(run.status == 0 || run.errors.contains("indexes"), "{}", run.errors);
    // Small texts of many values.
    let mut image = image::small();
    image.config["deep"] = vec![json!([]); 2_600_000].into();
    image.write_layout(&dir.path().join("values"), Codec::Plain);
    check("values", dir.path(), "oci:values", ["more than 500000 JSON values"; 2]);
}

#[test]
fn pipes_and_devices_are_not_opened_where_files_should_be() {
    let dir = folder();
    let path = dir.path().join("in");
    image::small().write_layout(&path, Codec::Gzip);
    let mut names = vec!["index.json".to_owned()];
    for entry in fs::read_dir(path.join("blobs/sha256")).unwrap() {
        names.push(format!("blobs/sha256/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    for name in names {
        let file = path.join(&name);
        let kept = fs::read(&file).unwrap();
        let make: [&dyn Fn(); 4] = [
            &|| tool::fifo(&file),
            &|| symlink("/dev/zero", &file).unwrap(),
            &|| symlink("/dev/tty", &file).unwrap(),
            &|| fs::create_dir(&file).unwrap(),
        ];
        for make in make {
            fs::remove_file(&file).unwrap();
            make();
            let run = run(dir.path(), &["split", "oci:in", "-o", "out/o.tar", "-q"]);
            assert!(run.status == tool::FAILED && run.seconds < 10.0, "{name}: {}", run.errors);
            assert!(run.errors.contains("not a regular file"), "{name}: {}", run.errors);
            let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
            fs::write(&file, &kept).unwrap();
        }
    }
    let run = run(dir.path(), &["split", "/dev/zero", "-o", "out/o.tar", "-q"]);
    assert!(
        run.status == tool::FAILED && run.errors.contains("a device, not an image"),
        "{}",
        run.errors
    );
}

#[test]
fn what_names_hold_never_makes_a_message_long() {
    let long = "x".repeat(1_000_000);
    let dir = folder();
    let list = json!([{"Config": long, "RepoTags": [long], "Layers": [long]}]).to_string();
    let files = [("manifest.json".to_owned(), list.into_bytes())];
    fs::write(dir.path().join("i.tar"), image::archive(&files)).unwrap();
    for args in [["split", "i.tar"], ["inspect", "i.tar:none"], ["copy", "i.tar"]] {
        let run = run(
            dir.path(),
            &[&args[..], &["-q"], &["out/o.tar"][..usize::from(args[0] == "copy")]].concat(),
        );
        assert!(
            run.status == tool::FAILED && run.errors.len() < 2000,
            "{args:?}: {}",
            run.errors.len()
        );
        assert_eq!(run.errors.lines().count(), 1);
    }
}

/// Splits the small image with a limit of the process, not as root, for whom some don't count.
fn limited(limits: &[&str], args: &[&str]) -> (PathBuf, tempfile::TempDir, Output) {
    let dir = folder();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut state = 1u64;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let image =
        Image::new(vec![layer(&[Item::file("a", &noise[..1_500_000]), Item::file("b", &noise)])]);
    fs::write(dir.path().join("i.tar"), image.docker_skopeo()).unwrap();
    // Where nobody else can look.
    let bin = dir.path().join("relayer");
    fs::copy(env!("CARGO_BIN_EXE_relayer"), &bin).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65533", "--regid=65533", "--clear-groups", "prlimit"]).args(limits);
    command.arg(&bin).args(["split", "i.tar", "-o", "o.tar", "-q"]).args(args);
    let out = tool::output(command.current_dir(dir.path()).env("TMPDIR", dir.path()));
    (dir.path().join("o.tar"), dir, out)
}

#[test]
fn where_there_are_few_threads_fewer_do_the_work() {
    if !tool::needs("setpriv, prlimit, root") {
        return;
    }
    for threads in ["1", "2", "4", "12", "40"] {
        for compression in ["zstd", "gzip", "zstd:chunked"] {
            let args = ["--threads", "8", "--compression", compression];
            let (made, _dir, out) = limited(&[&format!("--nproc={threads}")], &args);
            let said = said(&out);
            assert!(!said.contains("panicked"), "{threads}: {said}");
            match out.status.code() {
                Some(0) => assert!(made.exists()),
                Some(tool::FAILED) => {
                    assert!(said.contains("ulimit -u") && said.lines().count() == 1, "{said}");
                }
                other => panic!("{threads} threads, {compression}: {other:?} {said}"),
            }
        }
    }
}

#[test]
fn a_file_that_must_not_grow_is_an_error() {
    if !tool::needs("setpriv, prlimit, root") {
        return;
    }
    let (made, dir, out) = limited(&["--fsize=1000000"], &[]);
    assert!(
        out.status.code() == Some(tool::FAILED) && said(&out).contains("File too large"),
        "{}",
        said(&out)
    );
    assert!(!made.exists());
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "the image and the program");
}
