//! The registry judged by others: skopeo can use it, and docker-registry answers the same.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::by_hand::{Client, Got};
use super::*;
use crate::image::{self, Codec};
use crate::{pulls, tool};

#[test]
fn skopeo_can_push_to_every_profile_and_pull_the_same() {
    if !tool::needs("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let files = image::small().oci_files(Codec::Gzip);
    image::write_files(&dir.path().join("in"), &files);
    for (name, profile) in Profile::all() {
        let registry = TestRegistry::start(profile);
        registry.create_repo("some/app");
        let reference = registry.reference("some/app:v1");
        fs::write(at("auth.json"), registry.auth_file()).unwrap();
        let copy = |args: &[&str]| {
            let file = at("auth.json");
            let all = [&["copy", "-q", "--authfile", &file], args].concat();
            tool::run("skopeo", &all);
        };
        copy(&["--dest-tls-verify=false", &format!("oci:{}", at("in")), &reference]);
        let judge = TestRegistry::start(Profile::plain());
        judge.add_image("some/app", "v1", &files);
        assert_eq!(registry.manifest("some/app", "v1"), judge.manifest("some/app", "v1"), "{name}");
        assert_eq!(registry.blobs("some/app"), judge.blobs("some/app"), "{name}");
        let out = format!("oci:{}:v1", at(name));
        copy(&["--src-tls-verify=false", &reference, &out]);
        for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert!(fs::read(dir.path().join(name).join(path)).unwrap() == *bytes, "{name} {path}");
        }
        // It sends chunked bodies, and asks for gzip.
        let violations: Vec<_> = registry.violations();
        let known = ["no Content-Length", "another encoding"];
        let is_ours = |v: &&String| !known.iter().any(|k| v.ends_with(k));
        assert_eq!(violations.iter().find(is_ours), None, "{name}");
    }
}

/// What a registry answers to many requests, right and wrong.
fn conversation(mut client: Client, host: &str) -> Vec<String> {
    const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
    let mut lines = Vec::new();
    let mut note = |what: &str, got: Got, headers: &[&str]| {
        let error = serde_json::from_slice::<Value>(&got.body).unwrap_or_default();
        let headers = headers.iter().map(|h| got.header(h).replace(host, "HOST"));
        let line =
            [what, &got.status.to_string(), error["errors"][0]["code"].as_str().unwrap_or("")];
        lines
            .push(line.into_iter().map(str::to_owned).chain(headers).collect::<Vec<_>>().join(" "));
        got.header("Location").to_owned()
    };
    let data = [b'x'; 100];
    let name = digest(&data);
    let blob = format!("/v2/r/blobs/{name}");
    note("base", client.get("/v2/"), &[]);
    note("HEAD of none", client.send("HEAD", &blob, &[], b""), &[]);
    note("GET of none", client.get(&blob), &[]);
    note("tags of none", client.get("/v2/r/tags/list"), &[]);
    let path = format!("/v2/r/blobs/uploads/?digest={name}");
    note("single POST", client.send("POST", &path, &[], &data), &["Range", "Content-Length"]);

    let old = client.open("r");
    assert!(old.starts_with("http://") && old.contains("?_state="), "{old}");
    note("status", client.get(&old), &["Range"]);
    let url = note("chunk", client.chunk(&old, 0, &data[..50]), &["Range"]);
    note("chunk by old URL", client.chunk(&old, 50, &data[50..]), &[]);
    note("status by old URL", client.get(&old), &[]);
    note("status", client.get(&url), &["Range"]);
    note("HEAD of upload", client.send("HEAD", &url, &[], b""), &["Range"]);
    note("status without query", client.get(url.split('?').next().unwrap()), &[]);
    note("chunk again", client.chunk(&url, 0, &data[..50]), &["Range"]);
    for (what, at, from) in [("after a gap", 60, 60), ("at its place", 50, 50), ("twice", 0, 0)] {
        let url = client.open("r");
        let url = client.chunk(&url, 0, &data[..50]).header("Location").to_owned();
        let url = note(&format!("chunk {what}"), client.chunk(&url, at, &data[from..]), &["Range"]);
        note("PUT after it", client.finish(&url, &name, b""), &["Location"]);
    }
    let url = client.open("r");
    let path = &url[url.find("/v2/").unwrap()..];
    let mut broken = TcpStream::connect(host).unwrap();
    write!(broken, "PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nxxx")
        .unwrap();
    drop(broken);
    std::thread::sleep(Duration::from_millis(200));
    // Which of two codes it is makes no difference.
    for (what, got) in [("status", client.get(&url)), ("chunk", client.chunk(&url, 0, &data))] {
        note(&format!("{what} after a broken chunk"), Got { body: Vec::new(), ..got }, &[]);
    }
    let url = client.open("r");
    note("wrong bytes", client.finish(&url, &name, b"y"), &[]);
    let url = client.open("r");
    note("no digest", client.send("PUT", &url, &[], &data), &[]);
    note("invalid digest", client.finish(&url, "sha256:abc", &data), &[]);
    let path = format!("{url}&digest={name}");
    note("PUT of elsewhere", client.send("PUT", &path, &[("Content-Range", "7-106")], &data), &[]);
    let url = client.open("r");
    note("cancel", client.send("DELETE", &url, &[], b""), &[]);
    note("cancel again", client.send("DELETE", &url, &[], b""), &[]);
    for from in ["&from=r", "&from=none", ""] {
        let path = format!("/v2/q/blobs/uploads/?mount={name}{from}");
        let got = client.send("POST", &path, &[], b"");
        note(&format!("mount {from}"), got, &["Docker-Content-Digest"]);
    }
    let headers = ["Content-Range", "Content-Length", "Accept-Ranges", "Docker-Content-Digest"];
    note("range", client.send("GET", &blob, &[("Range", "bytes=10-19")], b""), &headers);
    note("DELETE of a blob", client.send("DELETE", &blob, &[], b""), &[]);

    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": KIND,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(),
            "digest": digest(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 100, "digest": name}],
    });
    let manifest = manifest.to_string().into_bytes();
    let by_digest = format!("/v2/r/manifests/{}", digest(&manifest));
    let (by_tag, kind) = ("/v2/r/manifests/v1", [("Content-Type", KIND)]);
    note("manifest too early", client.send("PUT", by_tag, &kind, &manifest), &[]);
    let url = client.open("r");
    client.finish(&url, &digest(config), config);
    let headers = ["Docker-Content-Digest", "Location"];
    note("manifest", client.send("PUT", by_tag, &kind, &manifest), &headers);
    note("manifest by another digest", client.send("PUT", &by_digest, &kind, b"{}"), &[]);
    let docker = [("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")];
    note("manifest of another type", client.send("PUT", by_tag, &docker, &manifest), &[]);
    note("no manifest", client.send("PUT", by_tag, &kind, b"{"), &[]);
    let headers = ["Docker-Content-Digest", "Content-Type", "Content-Length"];
    for (path, method) in [(by_tag, "GET"), (by_tag, "HEAD"), (&by_digest, "GET")] {
        note("without Accept", client.send(method, path, &[], b""), &[]);
        note("with Accept", client.send(method, path, &[("Accept", KIND)], b""), &headers);
    }
    note("unknown tag", client.send("GET", "/v2/r/manifests/v2", &[("Accept", KIND)], b""), &[]);
    note("referrers", client.get(&by_digest.replace("manifests", "referrers")), &[]);
    note("tags without manifests", client.get("/v2/q/tags/list"), &[]);
    client.send("PUT", "/v2/r/manifests/v2", &kind, &manifest);
    let tags = client.get("/v2/r/tags/list?n=1");
    note(&tags.json().to_string(), tags, &["Link"]);
    note("DELETE of a manifest", client.send("DELETE", &by_digest, &[], b""), &[]);
    lines
}

#[test]
fn docker_registry_answers_the_same() {
    if !tool::needs("docker-registry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let real = pulls::Registry::start(dir.path());
    let wanted = conversation(Client::new(&real.address), &real.address);
    let registry = TestRegistry::start(Profile { auth: Auth::None, ..Profile::distribution2() });
    assert_eq!(conversation(Client::new(registry.host()), registry.host()), wanted);
}
