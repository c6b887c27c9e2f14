//! What clients download from a real registry is what `relayer diff` says. `RELAYER_SEQUENCE` may
//! name three layout folders, old to new, to take instead of small images.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::clients::{Client, Server, start};
use super::tool;
use super::update::{split, write};

pub struct Registry {
    _server: Server,
    pub address: String,
    log: std::path::PathBuf,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Registry {
    pub fn start(dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address:?}}}\n",
            dir.join("registry").display()
        );
        fs::write(dir.join("registry.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("registry.yml"));
        let log = dir.join("registry.log");
        let ready = || std::net::TcpStream::connect(&address).is_ok();
        let server = start(&mut command, &log, ready);
        Self { _server: server, address, log }
    }

    /// Bytes of layers that clients were given since the log had so many lines; and its lines now.
    pub fn given(&self, since: usize, configs: &[String]) -> (u64, usize) {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let bytes = lines[since..].iter().filter_map(|l| {
            let uri = l["http.request.uri"].as_str()?;
            let blob = l["http.request.method"] == "GET" && uri.contains("/blobs/sha256:");
            let config = configs.iter().any(|c| uri.contains(c.as_str()));
            (blob && !config).then(|| l["http.response.written"].as_u64())?
        });
        (bytes.sum(), lines.len())
    }

    /// How it has answered since the log had so many lines.
    pub fn answers(&self, since: usize) -> Vec<u64> {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).skip(since);
        lines.filter_map(|l| l["http.response.status"].as_u64()).collect()
    }
}

/// A sequence in the registry under a name, one codec for all.
struct Sequence {
    name: &'static str,
    layouts: Vec<String>,
    configs: Vec<String>,
}

fn sequence(dir: &Path, registry: &Registry, name: &'static str, codec: &str) -> Sequence {
    let mut s = Sequence { name, layouts: Vec::new(), configs: Vec::new() };
    let given = std::env::var("RELAYER_SEQUENCE").unwrap_or_default();
    let given: Vec<&str> = given.split_whitespace().collect();
    for version in 0..3 {
        let image = given.get(version).map_or_else(|| write(dir, 2 * version), Into::into);
        let out = dir.join(format!("{name}{version}"));
        let previous = version.checked_sub(1).map(|v| dir.join(format!("{name}{v}")));
        let mut options = vec!["--compression", codec, "--target", "6"];
        if version > 0 {
            // Little room for what is dead, so that layers in the middle are given up.
            options.extend(["--max-dead", "4%", "--client", "podman"]);
        }
        let report = split(&image, previous.as_deref(), &out, &options);
        s.configs.push(report["images"][0]["config"].as_str().unwrap().to_owned());
        s.layouts.push(format!("oci:{}:x", out.display()));
        let to = format!("docker://{}/{name}:v{version}", registry.address);
        let from = s.layouts[version].as_str();
        tool::run(
            "skopeo",
            &["copy", "-q", "--preserve-digests", "--dest-tls-verify=false", from, &to],
        );
    }
    s
}

/// What a client should load at each step, by this model, and what it does.
fn compare(
    registry: &Registry,
    s: &Sequence,
    model: &str,
    client: &str,
    mut pull: impl FnMut(&str, usize),
) {
    let mut diff = tool::relayer();
    let diff: Value =
        serde_json::from_str(&tool::ok(diff.args(["diff", "--json"]).args(&s.layouts))).unwrap();
    let mut at = registry.given(0, &[]).1;
    for version in 0..3 {
        pull(&format!("{}/{}:v{version}", registry.address, s.name), version);
        let (bytes, now) = registry.given(at, &s.configs);
        at = now;
        let step = version.saturating_sub(1);
        let loads = &diff["steps"][step]["diff"]["loads"];
        if version > 0 {
            println!("{client}, step {version}: {bytes} bytes; {loads}");
            assert_eq!(loads[model]["bytes"].as_u64(), Some(bytes), "{client} at step {version}");
            assert!(bytes > 0, "{client}: {loads}");
        }
    }
    let total = &diff["total"];
    assert_ne!(total["chain"]["bytes"], total["digest"]["bytes"], "the models must differ here");
}

#[test]
fn clients_download_what_diff_says() {
    if !tool::needs("docker-registry, skopeo, podman, containerd, ctr, docker, dockerd, root") {
        return;
    }
    // Overlay mounts want a disk below them.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let registry = Registry::start(dir.path());
    let zstd = sequence(dir.path(), &registry, "zstd", "zstd");
    let gzip = sequence(dir.path(), &registry, "gzip", "gzip");

    compare(&registry, &zstd, "digest", "skopeo", |image, version| {
        let to = format!("oci:{}:v{version}", at("skopeo"));
        let from = format!("docker://{image}");
        tool::run("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &to]);
    });

    let podman = Client::podman(dir.path());
    compare(&registry, &zstd, "diff_id", "podman", |image, _| {
        podman.ok(&["pull", "-q", "--tls-verify=false", image]);
    });

    let ctr = Client::containerd(dir.path());
    compare(&registry, &zstd, "digest", "containerd", |image, _| {
        ctr.ok(&["image", "pull", "--plain-http", image]);
    });
    drop(ctr);

    let docker = Client::docker(dir.path());
    compare(&registry, &gzip, "chain", "docker", |image, _| {
        docker.ok(&["pull", "-q", image]);
    });
}

#[test]
fn a_profile_shapes_layers_the_same_way_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), 0);
    let mut digests = Vec::new();
    for (i, threads) in ["1", "3"].into_iter().enumerate() {
        let out = dir.path().join(format!("out{i}"));
        let options = ["--profile", "containerd-2", "--threads", threads];
        let report = split(&image, None, &out, &options);
        super::cli::is_documented(&report);
        let pull = &report["images"][0]["pull"];
        assert_eq!(pull["profile"], "containerd-2");
        let seconds = |side: &str, what: &str| pull[side][what].as_f64().unwrap();
        assert!(seconds("after", "seconds") <= seconds("before", "seconds"), "{pull}");
        // Sums of the same times in another order differ in their last bits.
        assert!(seconds("after", "bound") <= seconds("after", "seconds") * (1.0 + 1e-9), "{pull}");
        digests.push(report["digest"].clone());
        // What it was made for is noted, and a result that is split again is itself.
        let again = dir.path().join(format!("again{i}"));
        assert_eq!(split(&out, None, &again, &options)["digest"], report["digest"]);
    }
    assert_eq!(digests[0], digests[1]);
    let plain = split(&image, None, &dir.path().join("plain"), &[]);
    assert!(plain["images"][0]["pull"].is_null());
    let out = tool::relayer().args(["split", "x.tar", "--profile", "nerdctl"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}
