//! A real registry with TLS and a login: every command reads from it, and what is pushed is what stock
//! clients pull, and the other way round.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::clients::{Client, Server, expect_run, runnable, start};
use super::tool;

const USER: &str = "user";
const PASSWORD: &str = "pa:ss";
/// Both in base64.
const AUTH: &str = "dXNlcjpwYTpzcw==";
/// The password as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2y$05$no.k4EzSHdg8jtX8Rct3K.Yxv7cfAxaaA1XpkBnKJxmhxd2qG8/3i\n";

struct Registry {
    _server: Server,
    /// `localhost:PORT`.
    host: String,
    /// Has the certificate of the authority.
    certs: String,
    authfile: String,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("localhost:{port}");
        fs::create_dir(at("certs")).unwrap();
        let openssl = |args: &[&str]| tool::run("openssl", args);
        let (key, request) = (at("server.key"), at("server.csr"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &at("ca.key"),
            "-out",
            &at("certs/ca.crt"),
            "-days",
            "2",
            "-subj",
            "/CN=authority",
        ]);
        openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            "/CN=localhost",
        ]);
        fs::write(at("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
            .unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &at("certs/ca.crt"),
            "-CAkey",
            &at("ca.key"),
            "-CAcreateserial",
            "-out",
            &at("server.crt"),
            "-days",
            "2",
            "-extfile",
            &at("names"),
        ]);
        fs::write(at("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: {host:?}, tls: {{certificate: {}, key: {key}}}}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("registry"),
            at("server.crt"),
            at("htpasswd")
        );
        fs::write(at("registry.yml"), config).unwrap();
        let auths = json!({ "auths": { &host: { "auth": AUTH } } });
        fs::write(at("config.json"), auths.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.args(["serve", &at("registry.yml")]);
        let server =
            start(&mut command, &dir.join("registry.log"), || TcpStream::connect(&host).is_ok());
        Self { _server: server, certs: at("certs"), authfile: at("config.json"), host }
    }

    fn image(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.host)
    }

    /// relayer, logged in.
    fn relayer(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = tool::relayer();
        command.args(args).args(["--authfile", &self.authfile, "--cert-dir", &self.certs]);
        command.env("XDG_CACHE_HOME", dir.join("cache"));
        command
    }
}

fn registry() -> (tempfile::TempDir, Registry) {
    // Overlay mounts want a disk below them.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("in.tar"), runnable().docker_skopeo()).unwrap();
    let registry = Registry::start(dir.path());
    (dir, registry)
}

#[test]
fn every_command_reads_from_a_registry() {
    if !tool::needs("docker-registry, openssl, busybox") {
        return;
    }
    let (dir, registry) = registry();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (build, v1, v2) = (
        registry.image("team/app:build"),
        registry.image("team/app:v1"),
        registry.image("team/app:v2"),
    );
    let run = |args: &[&str]| tool::ok(&mut registry.relayer(dir.path(), args));
    run(&["copy", &at("in.tar"), &build]);
    run(&[
        "split",
        &build,
        "-o",
        &v1,
        "--previous",
        &v1,
        "--previous-if-exists",
        "--client",
        "docker",
    ]);
    run(&["split", &build, "-o", &v2, "--previous", &v1]);
    run(&["verify", &at("in.tar"), &v1]);
    run(&["flatten", &v1, "-o", &registry.image("flat/app:v1")]);
    run(&["verify", &v2, &registry.image("flat/app:v1")]);
    let inspected: Value = serde_json::from_str(&run(&["inspect", "--json", &v1])).unwrap();
    assert!(inspected.to_string().contains("relayer split"), "{inspected}");
    run(&["diff", &v1, &v2]);
    run(&["bench", &v1, "--layers", "1", "--compression", "zstd:1"]);
    run(&["report", &v1, "-o", &at("page.html")]);
    run(&["delta", &v1, &build, "-o", &at("d.rld")]);
    run(&["apply", &v1, &at("d.rld"), "-o", &registry.image("team/applied:v1")]);
    run(&["verify", &build, &registry.image("team/applied:v1")]);
    run(&["copy", &v2, &registry.image("elsewhere/app:v2")]);
    for to in ["team/app:edited", "edited/app:v2"] {
        let args = ["edit", &v2, "-o", &registry.image(to), "--env", "EDITED=1", "--json"];
        let edited: Value = serde_json::from_str(&run(&args)).unwrap();
        let push = &edited["push"];
        // Only the config: the layers are there, or taken from the other repository.
        assert!(push["sent"].as_u64() <= Some(1), "{push}");
        assert!(push["sent_bytes"].as_u64() < Some(3000), "{push}");
        run(&["verify", &v2, &registry.image(to)]);
    }
    run(&["split", &build, "-o", &registry.image("based/app:v1"), "--base", &build]);
    run(&["verify", &build, &registry.image("based/app:v1")]);
    #[cfg(feature = "store")]
    {
        run(&["store", "add", "--store", &at("store"), &v1]);
        run(&["history", "add", "--history", &at("history"), &v1]);
    }
    // Without a login or the certificate nothing is told but the way out.
    for (missing, way) in [("--authfile", "docker login"), ("--cert-dir", "--cert-dir DIR")] {
        let mut command = tool::relayer();
        command.args(["inspect", &v1]).env("HOME", dir.path().join("nobody"));
        for (option, value) in [("--authfile", &registry.authfile), ("--cert-dir", &registry.certs)]
        {
            if option != missing {
                command.args([option, value]);
            }
        }
        let out = tool::output(&mut command);
        assert!(!out.status.success() && tool::said(&out).contains(way), "{}", tool::said(&out));
        assert!(!tool::said(&out).contains(PASSWORD));
    }
}

#[test]
fn stock_clients_pull_what_was_pushed_and_push_what_is_read() {
    let tools =
        "docker-registry, openssl, skopeo, podman, containerd, ctr, docker, dockerd, busybox, root";
    if !tool::needs(tools) {
        return;
    }
    let (dir, registry) = registry();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| tool::ok(&mut registry.relayer(dir.path(), args));
    let image = |name: &str| format!("{}/{name}", registry.host);
    for codec in ["zstd", "gzip"] {
        let to = registry.image(&format!("app:{codec}"));
        run(&["split", &at("in.tar"), "-o", &to, "--target", "4", "--compression", codec]);
    }
    let same = |name: &str| run(&["verify", &at("in.tar"), &registry.image(name)]);

    let (src, dest) = (
        ["--src-authfile", &registry.authfile, "--src-cert-dir", &registry.certs],
        ["--dest-authfile", &registry.authfile, "--dest-cert-dir", &registry.certs],
    );
    let from = registry.image("app:zstd");
    let copied = format!("oci:{}:x", at("skopeo"));
    tool::run("skopeo", &[&["copy", "-q"], &src[..], &[&from, &copied]].concat());
    run(&["verify", &at("in.tar"), &copied]);
    let to = registry.image("skopeo:v1");
    tool::run("skopeo", &[&["copy", "-q"], &dest[..], &[&copied, &to]].concat());
    same("skopeo:v1");

    let podman = Client::podman(dir.path());
    let login = ["--authfile", &registry.authfile, "--cert-dir", &registry.certs];
    podman.ok(&[&["pull", "-q"], &login[..], &[&image("app:zstd")]].concat());
    expect_run(podman.command(&["run", "--rm", "--network", "none", &image("app:zstd")]), "podman");
    podman.ok(&[&["push", "-q"], &login[..], &[&image("app:zstd"), &image("podman:v1")]].concat());
    same("podman:v1");

    let containerd = Client::containerd(dir.path());
    // It speaks http to this machine unless told otherwise.
    let host = format!("https://{}", registry.host);
    let hosts = dir.path().join("hosts").join(&registry.host);
    fs::create_dir_all(&hosts).unwrap();
    let toml = format!("server = {host:?}\n[host.{host:?}]\nca = {:?}\n", at("certs/ca.crt"));
    fs::write(hosts.join("hosts.toml"), toml).unwrap();
    let (user, hosts) = (format!("{USER}:{PASSWORD}"), at("hosts"));
    let login = ["--user", &user, "--hosts-dir", &hosts, "--snapshotter", "native"];
    containerd.ok(&[&["images", "pull"], &login[..], &[&image("app:zstd")]].concat());
    containerd.ok(&[
        &["images", "push"],
        &login[..4],
        &[&image("containerd:v1"), &image("app:zstd")],
    ]
    .concat());
    same("containerd:v1");

    let docker = Client::docker(dir.path());
    // It takes any certificate of this machine.
    let config = dir.path().to_str().unwrap();
    let docker = |args: &[&str]| {
        let mut command = docker.command(&["--config", config]);
        tool::ok(command.args(args))
    };
    docker(&["pull", "-q", &image("app:gzip")]);
    docker(&["tag", &image("app:gzip"), &image("docker:v1")]);
    docker(&["push", "-q", &image("docker:v1")]);
    same("docker:v1");
}
