//! Images go into docker, podman and containerd and come out of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::clients::Client;
use super::image::{Codec, add_index, archive, finish_layout, small};
use super::tool::{self, relayer, said};

/// Writes an image, and an index of images for two platforms.
fn prepare() -> tempfile::TempDir {
    // Overlay mounts want a disk below them.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("img.tar"), small().docker_oci(Codec::Gzip)).unwrap();
    let (mut files, mut images) = (Vec::new(), [small(), small()]);
    images[1].config["architecture"] = json!("arm64");
    let listed: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut d = image.oci_blobs(Codec::Gzip, &mut files);
            d["platform"] = json!({"os": "linux", "architecture": image.config["architecture"]});
            d
        })
        .collect();
    let root = add_index(&listed, &mut files);
    finish_layout(&[root], &mut files);
    fs::write(dir.path().join("index.tar"), archive(&files)).unwrap();
    dir
}

fn fails(command: &mut Command, words: &str) {
    let out = tool::output(command);
    assert!(
        out.status.code() == Some(tool::FAILED) && said(&out).contains(words),
        "{}",
        said(&out)
    );
}

/// Images go in and out under `prefix`, and `command` runs relayer so that it finds the client.
fn goes_in_and_out(dir: &Path, prefix: &str, command: &dyn Fn() -> Command) {
    let run = |args: &[&str]| {
        let mut command = command();
        command.args(args).current_dir(dir);
        command
    };
    let name = |name: &str| format!("{prefix}{name}");
    tool::ok(&mut run(&["copy", "-q", "img.tar", &name("example.com/team/app:v1")]));
    tool::ok(&mut run(&["verify", "-q", "img.tar", &name("example.com/team/app:v1")]));
    tool::ok(&mut run(&["split", "-q", &name("example.com/team/app:v1"), "-o", &name("new")]));
    tool::ok(&mut run(&["inspect", "-q", &name("new")]));
    tool::ok(&mut run(&["copy", "-q", &name("new:latest"), "new.tar"]));
    tool::ok(&mut run(&["verify", "-q", "img.tar", "new.tar"]));
    let names = super::names::archive_names(&dir.join("new.tar"));
    let known = |name: &String| name == "latest" || name.ends_with("new:latest");
    assert!(names.len() > 1 && names.iter().all(known), "{names:?}");
    tool::ok(&mut run(&["copy", "-q", "index.tar", &name("many:v1")]));
    tool::ok(&mut run(&[
        "verify",
        "-q",
        "--platform",
        "linux/amd64",
        "index.tar",
        &name("many:v1"),
    ]));
    fails(&mut run(&["inspect", &name("none:v1")]), "none:v1");
    // A damaged image is not loaded.
    let mut damaged = fs::read(dir.join("img.tar")).unwrap();
    let at = damaged.windows(2).position(|w| w == [0x1f, 0x8b]).unwrap() + 40;
    damaged[at] ^= 1;
    fs::write(dir.join("damaged.tar"), damaged).unwrap();
    fails(&mut run(&["copy", "damaged.tar", &name("damaged:v1")]), "digest");
    fails(&mut run(&["inspect", &name("damaged:v1")]), "damaged:v1");
}

#[test]
fn docker_takes_and_gives_images() {
    if !tool::needs("docker, dockerd, root") {
        return;
    }
    let dir = prepare();
    let docker = Client::docker(dir.path());
    let host = format!("unix://{}", dir.path().join("d.sock").display());
    let command = || {
        let mut command = relayer();
        command.env("DOCKER_HOST", &host);
        command
    };
    goes_in_and_out(dir.path(), "docker-daemon:", &command);
    let id = docker.ok(&["images", "-q", "--no-trunc", "new"]);
    tool::ok(command().args(["inspect", &format!("docker-daemon:{}", id.trim())]));
    let all = docker.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert!(all.contains("example.com/team/app:v1") && !all.contains("damaged"), "{all}");
}

#[test]
fn containerd_takes_and_gives_images() {
    if !tool::needs("containerd, ctr, root") {
        return;
    }
    let dir = prepare();
    let ctr = Client::containerd(dir.path());
    let command = || {
        let mut command = relayer();
        command.env("CONTAINERD_ADDRESS", dir.path().join("c.sock"));
        command.env("CONTAINERD_NAMESPACE", "mine");
        command
    };
    goes_in_and_out(dir.path(), "containerd:", &command);
    let all = ctr.ok(&["-n", "mine", "images", "ls", "-q"]);
    assert_eq!(
        all.lines().collect::<Vec<_>>(),
        ["docker.io/library/many:v1", "docker.io/library/new:latest", "example.com/team/app:v1"]
    );
    // All platforms of an index are there.
    tool::ok(&mut ctr.command(&[
        "-n",
        "mine",
        "images",
        "export",
        "--all-platforms",
        dir.path().join("all.tar").to_str().unwrap(),
        "docker.io/library/many:v1",
    ]));
    tool::ok(relayer().current_dir(&dir).args([
        "verify",
        "-q",
        "--platform",
        "linux/arm64",
        "index.tar",
        "all.tar",
    ]));
}

/// Writes a program into a folder that is searched first.
fn install(dir: &Path, name: &str, script: &str) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    // Another process writes it: ours may be starting programs on other threads, which would hold it
    // open, and Linux does not run what is open for writing.
    let write = format!("cat > bin/{name} <<'E'\n#!/bin/sh\n{script}\nE\nchmod +x bin/{name}");
    tool::ok(Command::new("sh").args(["-c", &write]).current_dir(dir));
}

/// Runs relayer with the programs of a folder.
fn with_programs(dir: &Path) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut command = relayer();
    command.env("PATH", format!("{}:{path}", dir.join("bin").display())).current_dir(dir);
    command
}

#[test]
fn podman_takes_and_gives_images() {
    if !tool::needs("podman, root") {
        return;
    }
    let dir = prepare();
    let podman = Client::podman(dir.path());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let line = format!(
        "exec /usr/bin/podman --root {} --runroot {} --tmpdir {} \"$@\"",
        at("root"),
        at("run"),
        at("tmp")
    );
    install(dir.path(), "podman", &line);
    let command = || with_programs(dir.path());
    goes_in_and_out(dir.path(), "containers-storage:", &command);
    let all = podman.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    for name in ["example.com/team/app:v1", "docker.io/library/new:latest"] {
        assert!(all.contains(name), "{all}");
    }
    assert!(!all.contains("damaged"), "{all}");
    // Fields that only docker's format has stay.
    let mut image = small();
    image.config["config"]["Healthcheck"] = json!({"Test": ["CMD", "true"]});
    fs::write(at("docker.tar"), image.docker_legacy()).unwrap();
    podman.ok(&["load", "-q", "-i", &at("docker.tar")]);
    tool::ok(command().args(["copy", "-q", "containers-storage:example/app:v1", "health.tar"]));
    let config = tool::config(&format!("docker-archive:{}", at("health.tar")));
    assert!(config.contains("Healthcheck"), "{config}");
}

#[test]
fn programs_that_fail_or_are_missing_end_the_command_with_their_words() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("img.tar"), small().docker_oci(Codec::Gzip)).unwrap();
    let noise: Vec<u8> =
        (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let large = super::image::layer(&[super::image::Item::file("noise", noise)]);
    fs::write(dir.path().join("large.tar"), super::image::Image::new(vec![large]).docker_new())
        .unwrap();
    let read = ["copy", "-q", "containerd:app", "out.tar"];
    let write = ["copy", "-q", "large.tar", "containerd:app"];
    let run = |args: &[&str]| {
        let mut command = with_programs(dir.path());
        command.args(args);
        command
    };
    for args in [&read, &write] {
        fails(
            relayer().args(args).current_dir(&dir).env("PATH", "bin:/nowhere"),
            "ctr is in no folder of PATH; install it",
        );
    }
    // It fails at once; after a part of the archive; and after all of it.
    install(dir.path(), "ctr", "printf 'line\\033[31m one\\nline two\\n' >&2; exit 3");
    for args in [&read, &write] {
        fails(&mut run(args), "exit status: 3: line\\u{1b}[31m one; line two");
    }
    install(dir.path(), "ctr", "head -c 5000 img.tar; echo no more >&2; exit 1");
    fails(
        &mut run(&read),
        "running `ctr images export -- - docker.io/library/app:latest`: it failed with exit status: 1: no more",
    );
    install(dir.path(), "ctr", "cat img.tar; kill -9 $$");
    fails(&mut run(&read), "signal: 9");
    install(dir.path(), "ctr", "head -c 5000 >/dev/null; echo enough >&2; exit 4");
    fails(&mut run(&write), "exit status: 4: enough");
    install(dir.path(), "ctr", "cat >/dev/null; echo no space >&2; exit 5");
    fails(&mut run(&write), "exit status: 5: no space");
    install(dir.path(), "ctr", "exit 0");
    fails(&mut run(&write), "it ended before it had read the image");
    // Messages without end are read and bounded, and so is the image.
    install(dir.path(), "ctr", "yes message >&2 & yes=$!; sleep 1; cat img.tar; kill $yes; exit 6");
    let out = tool::output(&mut run(&read));
    assert!(said(&out).contains("exit status: 6") && said(&out).len() < 2000, "{}", said(&out));
    install(dir.path(), "ctr", "exec cat /dev/zero");
    fails(run(&read).args(["--max-size", "10MB"]), "--max-size allows more");
    // A process that keeps the pipes open is not waited for.
    install(dir.path(), "ctr", "sleep 100 & echo $! > pid; cat img.tar");
    tool::ok(&mut run(&read));
    fs::remove_file(dir.path().join("out.tar")).unwrap();
    let stop = || tool::run("kill", &[fs::read_to_string(dir.path().join("pid")).unwrap().trim()]);
    stop();
    install(dir.path(), "ctr", "sleep 100 & echo $! > pid; cat > got.tar");
    tool::ok(&mut run(&write));
    stop();
    tool::ok(run(&["verify", "-q", "large.tar", "got.tar"]).env("PATH", "/nowhere"));
    // It gets no end of an image that turns out to be damaged.
    let mut damaged = fs::read(dir.path().join("img.tar")).unwrap();
    let at = damaged.windows(2).position(|w| w == [0x1f, 0x8b]).unwrap() + 40;
    damaged[at] ^= 1;
    fs::write(dir.path().join("damaged.tar"), damaged).unwrap();
    fails(&mut run(&["copy", "damaged.tar", "containerd:app"]), "digest");
    stop();
    fails(&mut run(&["inspect", "got.tar"]), "reading got.tar");
}
