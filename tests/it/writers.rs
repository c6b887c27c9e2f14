//! Several writers of one layout, kills and signals: nothing is lost, nothing is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::image::{self, Image, Item};
use super::tool::{self, relayer, run};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for (name, image) in [("a", image::small()), ("b", other())] {
            fs::write(place.path(name), image.docker_legacy()).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A command that writes an image into a layout under a tag.
    fn command(&self, command: &str, image: &str, tag: &str) -> Command {
        let (image, to) = (self.at(image), format!("oci:{}:{tag}", self.at("l")));
        let mut relayer = relayer();
        relayer.args([command, &image]);
        if command != "copy" {
            relayer.arg("-o");
        }
        relayer.arg(to).stdout(Stdio::null()).stderr(Stdio::piped());
        relayer
    }

    fn layout(&self) -> PathBuf {
        self.path("l")
    }

    fn blobs(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.layout().join("blobs/sha256")).unwrap();
        all.map(|e| e.unwrap().path()).collect()
    }

    /// Every blob of every tag is there and whole, and nothing else.
    fn holds(&self, tags: &[&str]) {
        for tag in tags {
            let from = format!("oci:{}:{tag}", self.at("l"));
            tool::manifest(&from);
        }
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(self.layout().join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), tags.len(), "{index}");
        for blob in self.blobs() {
            let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(image::digest(&fs::read(&blob).unwrap()), format!("sha256:{name}"));
        }
        assert_eq!(names(&self.layout()), ["blobs", "index.json", "oci-layout"]);
    }
}

fn other() -> Image {
    Image::new(vec![image::layer(&[Item::file("etc/other", "another image")])])
}

/// An image whose last layer has not the bytes that its config states.
fn damaged() -> Vec<u8> {
    let layer = image::layer(&[Item::file("etc/third", "a third image")]);
    let mut bytes = Image::new(vec![layer]).docker_legacy();
    let at = bytes.windows(13).position(|w| w == b"a third image").unwrap();
    bytes[at] ^= 1;
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).unwrap();
    let mut all: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn finish(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn ok(child: Child) {
    assert_eq!(finish(child).0, Some(0));
}

/// Waits until a command says that it waits for another writer.
fn waits(child: &mut Child) {
    use std::io::{BufRead, BufReader};
    let mut line = String::new();
    let mut stderr = BufReader::with_capacity(1, child.stderr.as_mut().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("waiting for another process that writes to"), "{line}");
}

#[test]
fn what_somebody_adds_meanwhile_stays() {
    let p = Place::new();
    tool::ok(&mut p.command("copy", "a", "first"));
    let lock = File::open(p.layout()).unwrap();
    lock.lock().unwrap();
    let mut waiting = p.command("copy", "b", "second").spawn().unwrap();
    waits(&mut waiting);
    let index = p.layout().join("index.json");
    let text = fs::read_to_string(&index).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut added = value["manifests"][0].clone();
    added["annotations"]["org.opencontainers.image.ref.name"] = "third".into();
    value["manifests"].as_array_mut().unwrap().push(added);
    fs::write(&index, value.to_string()).unwrap();
    drop(lock);
    ok(waiting);
    p.holds(&["first", "second", "third"]);
    // A name that somebody took meanwhile is not taken away.
    let lock = File::open(p.layout()).unwrap();
    lock.lock().unwrap();
    let mut waiting = p.command("split", "b", "fourth").spawn().unwrap();
    waits(&mut waiting);
    let text = fs::read_to_string(&index).unwrap().replace("third", "fourth");
    fs::write(&index, text).unwrap();
    drop(lock);
    let (code, text) = finish(waiting);
    assert_eq!(code, Some(tool::FAILED));
    assert!(text.contains("an image fourth already exists"), "{text}");
    p.holds(&["first", "second", "fourth"]);
}

#[test]
fn writers_of_one_new_layout_lose_nothing_to_one_another() {
    let p = Place::new();
    fs::write(p.path("damaged"), damaged()).unwrap();
    for _ in 0..5 {
        let _ = fs::remove_dir_all(p.layout());
        let good =
            [("copy", "a", "1"), ("split", "a", "2"), ("copy", "b", "3"), ("flatten", "b", "4")];
        let start = |(command, image, tag): (&str, &str, &str)| {
            p.command(command, image, tag).spawn().unwrap()
        };
        let bad: Vec<_> = (5..8).map(|i| start(("copy", "damaged", &i.to_string()))).collect();
        let good: Vec<_> = good.into_iter().map(start).collect();
        good.into_iter().for_each(ok);
        assert!(bad.into_iter().all(|child| finish(child).0 == Some(tool::FAILED)));
        p.holds(&["1", "2", "3", "4"]);
    }
}

#[test]
fn the_folder_of_a_layout_stays_whoever_fails_in_it() {
    let p = Place::new();
    fs::write(p.path("damaged"), damaged()).unwrap();
    // Made by the command that fails, or there before; skopeo may be about to write into either.
    for _ in 0..2 {
        assert_eq!(
            finish(p.command("copy", "damaged", "x").spawn().unwrap()).0,
            Some(tool::FAILED)
        );
        assert!(names(&p.layout()).is_empty());
    }
    tool::ok(&mut p.command("copy", "a", "x"));
    p.holds(&["x"]);
}

#[test]
fn a_blob_that_lies_there_is_read_before_it_is_counted_on() {
    for command in ["copy", "split", "flatten"] {
        for damage in 0..4 {
            let p = Place::new();
            tool::ok(&mut p.command(command, "a", "first"));
            for blob in p.blobs() {
                let mut bytes = fs::read(&blob).unwrap();
                let middle = bytes.len() / 2;
                match damage {
                    0 => bytes[middle] ^= 1,
                    1 => bytes.truncate(middle),
                    2 => bytes.fill(0),
                    _ => {
                        fs::remove_file(&blob).unwrap();
                        std::os::unix::fs::symlink("nowhere", &blob).unwrap();
                        continue;
                    }
                }
                fs::write(&blob, bytes).unwrap();
            }
            tool::ok(&mut p.command(command, "a", "second"));
            p.holds(&["first", "second"]);
        }
    }
}

#[test]
fn what_a_killed_command_leaves_is_in_nobodys_way() {
    let p = Place::new();
    tool::ok(&mut p.command("split", "a", "x"));
    let blobs = p.blobs();
    let whole = fs::read(p.layout().join("index.json")).unwrap();
    let stale = |dir: &Path| fs::write(dir.join(".relayer-aB3dE6.tmp"), "half").unwrap();
    // In the order that things are written in, killed a step later each time.
    for step in 0..4 {
        if step < 3 {
            fs::remove_file(p.layout().join("index.json")).unwrap();
        }
        if step < 2 {
            blobs.iter().skip(step * 2).for_each(|blob| fs::remove_file(blob).unwrap());
        }
        if step == 0 {
            fs::remove_dir_all(p.layout().join("blobs")).unwrap();
            fs::remove_file(p.layout().join("oci-layout")).unwrap();
        }
        stale(&p.layout());
        let force: &[&str] = if step == 3 { &["--force"] } else { &[] };
        tool::ok(p.command("split", "a", "x").args(force));
        p.holds(&["x"]);
        assert_eq!(fs::read(p.layout().join("index.json")).unwrap(), whole);
        assert_eq!(p.blobs().len(), blobs.len());
    }
    // Beside a file; what lives or only looks similar stays.
    stale(p.dir.path());
    let living = p.path(".relayer-living.tmp");
    let lock = File::create(&living).unwrap();
    lock.lock().unwrap();
    fs::write(p.path(".relayer-config"), "").unwrap();
    run(env!("CARGO_BIN_EXE_relayer"), &["copy", &p.at("a"), &p.at("out")]);
    let hidden: Vec<_> = names(p.dir.path()).into_iter().filter(|n| n.starts_with('.')).collect();
    assert_eq!(hidden, [".relayer-config", ".relayer-living.tmp"]);
}

/// Whether this process ignores a signal, as shells start it in the background: its children do too.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn signals_end_a_command_that_waits_unless_they_are_ignored() {
    let p = Place::new();
    tool::ok(&mut p.command("copy", "a", "first"));
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP")] {
        if is_ignored(signal) {
            continue;
        }
        let lock = File::open(p.layout()).unwrap();
        lock.lock().unwrap();
        let mut waiting = p.command("copy", "b", "second").spawn().unwrap();
        waits(&mut waiting);
        kill_process(Pid::from_child(&waiting), signal).unwrap();
        let (code, text) = finish(waiting);
        assert_eq!(code, Some(128 + signal.as_raw()));
        assert!(text.contains(&format!("{}ended by SIG{name}", tool::ERROR)), "{text}");
        drop(lock);
        p.holds(&["first"]);
    }
    let lock = File::open(p.layout()).unwrap();
    lock.lock().unwrap();
    let to = format!("oci:{}:second", p.at("l"));
    let mut patient = Command::new("/bin/sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_relayer")])
        .args(["copy", &p.at("b"), &to])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    waits(&mut patient);
    kill_process(Pid::from_child(&patient), Signal::HUP).unwrap();
    drop(lock);
    ok(patient);
    p.holds(&["first", "second"]);
}

#[test]
fn a_signal_in_the_midst_of_writing_leaves_nothing() {
    if !tool::needs("strace") {
        return;
    }
    let p = Place::new();
    let out = p.path("out");
    fs::create_dir(&out).unwrap();
    for (call, when) in [("fsync", 1), ("fsync", 3), ("rename", 1), ("rename", 2), ("mkdir", 1)] {
        for (form, signal) in [("oci:", "TERM"), ("", "INT")] {
            let to = format!("{form}{}/x", out.display());
            let inject = format!("inject={call}:signal={signal}:when={when}");
            let trace = format!("trace={call}");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
            strace.arg(env!("CARGO_BIN_EXE_relayer")).args(["copy", &p.at("a"), &to]);
            let code = tool::output(&mut strace).status.code();
            assert!([Some(0), Some(130), Some(143)].contains(&code), "{call} {when}: {code:?}");
            // It may be done before its other thread hears of the signal.
            let mut left = names(&out);
            if code != Some(0) && form == "oci:" {
                // Others may be about to write into the folder; when it has nothing, that is no layout.
                left.retain(|name| !names(&out.join(name)).is_empty());
            }
            if code == Some(0) || !left.is_empty() {
                assert_eq!(left, ["x"], "{call} {when}");
                run(env!("CARGO_BIN_EXE_relayer"), &["verify", &p.at("a"), &to]);
            }
            fs::remove_dir_all(&out).unwrap();
            fs::create_dir(&out).unwrap();
        }
    }
}

#[test]
fn a_full_disk_is_an_error_with_a_way_out() {
    let p = Place::new();
    let mut split = relayer();
    let out = tool::output(split.args(["split", &p.at("a"), "-o", "/dev/full"]));
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(tool::FAILED), "{text}");
    assert!(text.contains("writing /dev/full") && text.contains("free space there"), "{text}");
}
