//! Stock clients load what relayer writes: skopeo, docker, podman, containerd.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::image::{Image, Item, layer};
use super::tool;

/// An image whose command runs: a static program is the least that a container needs.
pub fn runnable() -> Image {
    let busybox = fs::read("/bin/busybox").unwrap();
    let dirs = ["bin/", "etc/", "dev/", "proc/", "sys/", "tmp/", "data/"];
    let mut items: Vec<Item> = dirs.iter().map(Item::dir).collect();
    items.push(Item::file("bin/busybox", busybox).mode(0o755));
    items.push(Item::symlink("bin/sh", "busybox"));
    items.push(Item::file("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"));
    for i in 0..20 {
        items.push(Item::file(format!("data/{i}"), format!("{i}\n").repeat(5000)));
    }
    let mut image = Image::new(vec![layer(&items), layer(&[Item::file("data/3", "from above\n")])]);
    image.config["config"] = serde_json::json!({
        "Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "cat /data/3 && echo ran"],
    });
    image
}

/// A server that is stopped when the test ends, however it ends.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // TERM first, so that it unmounts what it mounted.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        for _ in 0..50 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn start(command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Server {
    let log_file = File::create(log).unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().unwrap())
        .stderr(log_file)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let server = Server(child);
    let begin = Instant::now();
    while !ready() {
        let text = || fs::read_to_string(log).unwrap_or_default();
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{command:?} did not start:\n{}",
            text()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    server
}

/// A client of a server, as a command to be given arguments.
pub struct Client {
    command: Vec<String>,
    _server: Option<Server>,
}

impl Client {
    fn new(command: &[&str]) -> Self {
        Self { command: command.iter().map(|&w| w.to_owned()).collect(), _server: None }
    }

    fn with_server(mut self, daemon: &mut Command, log: &Path, ready: &str) -> Self {
        let ready = || tool::output(&mut self.command(&[ready])).status.success();
        let server = start(daemon, log, ready);
        Self { _server: Some(server), command: std::mem::take(&mut self.command) }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(args);
        command
    }

    /// Runs it, and it must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        tool::ok(&mut self.command(args))
    }

    pub fn docker(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let socket = format!("unix://{}", at("d.sock"));
        let mut daemon = Command::new("dockerd");
        daemon.args(["--iptables=false", "--bridge=none", "--data-root", &at("docker")]);
        daemon.args(["--exec-root", &at("exec"), "--pidfile", &at("pid"), "-H", &socket]);
        let log = dir.join("docker.log");
        Self::new(&["docker", "-H", &socket]).with_server(&mut daemon, &log, "info")
    }

    pub fn containerd(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            at("containerd"),
            at("state"),
            at("c.sock")
        );
        fs::write(at("containerd.toml"), config).unwrap();
        let mut daemon = Command::new("containerd");
        daemon.args(["-c", &at("containerd.toml")]);
        let log = dir.join("containerd.log");
        Self::new(&["ctr", "-a", &at("c.sock")]).with_server(&mut daemon, &log, "version")
    }

    pub fn podman(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let (root, run, tmp) = (at("root"), at("run"), at("tmp"));
        Self::new(&["podman", "--root", &root, "--runroot", &run, "--tmpdir", &tmp])
    }

    /// It loads layers in pieces.
    pub fn chunked_podman(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n[storage.options]\npull_options = {{enable_partial_images = \"true\"}}\n",
            at("chunked-root"),
            at("chunked-run")
        );
        fs::write(at("storage.conf"), storage).unwrap();
        let storage = format!("CONTAINERS_STORAGE_CONF={}", at("storage.conf"));
        Self::new(&["env", &storage, "podman", "--tmpdir", &at("chunked-tmp")])
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.command.iter().any(|word| word == "podman") {
            // It mounts below its root.
            let _ = self.command(&["system", "reset", "-f"]).output();
        }
    }
}

/// A container should print this; where the kernel or the sandbox forbids containers, say why.
pub fn expect_run(mut command: Command, client: &str) {
    let out = tool::output(&mut command);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() {
        assert_eq!(text, "from above\nran\n", "{client}");
        return;
    }
    let refused = ["permitted", "denied", "cgroup", "mount", "namespace", "rlimit", "RLIMIT"];
    assert!(refused.iter().any(|r| errors.contains(r)), "{client}: {text}{errors}");
    println!("{client} can't run containers here: {errors}");
}

fn prepare(compression: &str) -> (tempfile::TempDir, String) {
    // Overlay mounts want a disk below them.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let input = dir.path().join("in.tar");
    fs::write(&input, runnable().docker_skopeo()).unwrap();
    let out = dir.path().join("out.tar").to_str().unwrap().to_owned();
    let args = ["--target", "4", "--compression", compression, "-o", &out];
    tool::split(&[&[input.to_str().unwrap()], &args[..]].concat());
    (dir, out)
}

#[test]
fn skopeo_reads_and_copies_every_output() {
    if !tool::needs("skopeo, busybox") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("in.tar"), runnable().docker_skopeo()).unwrap();
    for codec in ["zstd", "zstd:chunked", "gzip", "none"] {
        let split = |dest: &str| {
            tool::split(&[
                &at("in.tar"),
                "-o",
                dest,
                "-f",
                "--target",
                "3",
                "--compression",
                codec,
            ]);
        };
        split(&at("u.tar"));
        split(&format!("oci:{}:v1", at("layout")));
        split(&format!("oci-archive:{}", at("o.tar")));
        split(&format!("docker-archive:{}", at("d.tar")));
        let sources = [
            format!("oci-archive:{}", at("u.tar")),
            format!("docker-archive:{}", at("u.tar")),
            format!("oci:{}:v1", at("layout")),
            format!("oci-archive:{}", at("o.tar")),
            format!("docker-archive:{}", at("d.tar")),
        ];
        for (i, source) in sources.iter().enumerate() {
            let inspect: Value =
                serde_json::from_str(&tool::run("skopeo", &["inspect", source])).unwrap();
            assert_eq!(inspect["Layers"].as_array().unwrap().len(), 3, "{source}");
            assert_eq!(inspect["Os"], "linux");
            let copy = at(&format!("{}{i}", codec.replace(':', "-")));
            tool::run("skopeo", &["copy", "-q", source, &format!("oci:{copy}:x")]);
            let same =
                tool::relayer().args(["verify", &at("in.tar"), &format!("oci:{copy}")]).status();
            assert!(same.unwrap().success(), "{source}");
        }
    }
}

#[test]
fn docker_loads_and_runs_the_gzip_output() {
    if !tool::needs("docker, dockerd, busybox, root") {
        return;
    }
    let (dir, image) = prepare("gzip");
    let docker = Client::docker(dir.path());
    let loaded = docker.ok(&["load", "-i", &image]);
    assert!(loaded.contains("example/app:v1"), "{loaded}");
    let inspect = docker.ok(&["image", "inspect", "example/app:v1"]);
    let inspect: Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(inspect[0]["RootFS"]["Layers"].as_array().unwrap().len(), 4);
    let run = docker.command(&["run", "--rm", "--network", "none", "example/app:v1"]);
    expect_run(run, "docker");
    // What it saves is the same image again.
    let saved = dir.path().join("saved.tar").to_str().unwrap().to_owned();
    docker.ok(&["save", "-o", &saved, "example/app:v1"]);
    tool::ok(tool::relayer().args(["verify", &saved, &image]));
}

#[test]
fn podman_loads_and_runs_the_zstd_output() {
    if !tool::needs("podman, busybox, root") {
        return;
    }
    for codec in ["zstd", "zstd:chunked"] {
        let (dir, image) = prepare(codec);
        runs_in_podman(dir.path(), &image);
    }
}

fn runs_in_podman(dir: &Path, image: &str) {
    let podman = Client::podman(dir);
    let loaded = podman.ok(&["load", "-i", image]);
    assert!(loaded.contains("example/app:v1"), "{loaded}");
    let inspect = podman.ok(&["image", "inspect", "example/app:v1"]);
    let inspect: Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(inspect[0]["RootFS"]["Layers"].as_array().unwrap().len(), 4);
    expect_run(podman_run(&podman, "example/app:v1"), "podman");
}

pub fn podman_run(podman: &Client, image: &str) -> Command {
    let mut run = podman.command(&["run", "--rm", "--network", "none", "--cgroups", "disabled"]);
    run.args(["--ulimit", "host", image]);
    run
}

#[test]
fn containerd_imports_and_runs_the_zstd_output() {
    if !tool::needs("containerd, ctr, busybox, root") {
        return;
    }
    for codec in ["zstd", "zstd:chunked"] {
        let (dir, image) = prepare(codec);
        runs_in_containerd(dir.path(), &image);
    }
}

fn runs_in_containerd(dir: &Path, image: &str) {
    let ctr = Client::containerd(dir);
    ctr.ok(&["image", "import", image]);
    let list = ctr.ok(&["image", "ls", "-q"]);
    assert_eq!(list.trim(), "docker.io/example/app:v1");
    expect_run(ctr.command(&["run", "--rm", list.trim(), "t"]), "ctr");
}
