//! Registries that mean harm: what they send ends in bounded time and memory, with one clear message.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::Instant;

use serde_json::json;

use super::super::registry::{Fault, Faults, On, Profile, TestRegistry};
use super::super::tool::{self, Measured, said};
use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// More than the program takes by itself.
const MEMORY: u64 = 96 << 20;

/// A pull that must fail in a short time.
fn fails(registry: &TestRegistry, name: &str, what: &str) -> String {
    let client = Client::with(registry, Cache::default(), |options| {
        options.retry.attempts = 3;
        options.timeouts.stall = Duration::from_millis(300);
    });
    let begin = Instant::now();
    let e = client.pull(&registry.reference(name), None).unwrap_err().to_string();
    assert!(begin.elapsed() < Duration::from_secs(20), "{what}: {:?}", begin.elapsed());
    assert!(e.len() < 2_000 && e.lines().count() == 1, "{what}: {e}");
    assert!(!e.contains(|c: char| c.is_control()), "{what}: {e:?}");
    e
}

/// A registry with the usual image.
fn usual_registry() -> TestRegistry {
    let registry = TestRegistry::start(Profile::plain());
    registry.add_image("app", "v1", &usual());
    registry
}

#[test]
fn answers_without_end_are_cut_off() {
    let cases = [
        (Fault::Endless, On::ManifestGet, "larger than the limit"),
        (Fault::Endless, On::BlobGet, ""),
        (Fault::TooLong, On::BlobGet, ""),
        (Fault::HugeHeaders, On::ManifestHead, ""),
        (Fault::HugeHeaders, On::ManifestGet, ""),
        (Fault::HugeHeaders, On::BlobGet, ""),
        (Fault::Garbage, On::ManifestGet, ""),
        (Fault::Garbage, On::BlobGet, ""),
        // 2 ms a byte: the next byte always comes before the time for a read is over.
        (Fault::Slow(1 << 30), On::ManifestGet, "too slow"),
        (Fault::Slow(1 << 30), On::BlobGet, "too slow"),
    ];
    for (fault, on, message) in cases {
        let registry = usual_registry();
        registry.set_faults(Faults::none().times(on, 0, 1_000, fault));
        let what = format!("{fault:?} of {on:?}");
        // The blob comes before what is too much.
        if on == On::BlobGet && matches!(fault, Fault::Endless | Fault::TooLong) {
            let pulled = Client::new(&registry).pull(&registry.reference("app:v1"), None).unwrap();
            assert_eq!(pulled.1, blobs(&usual()), "{what}");
        } else {
            let e = fails(&registry, "app:v1", &what);
            assert!(e.contains(message), "{what}: {e}");
        }
        let sent = registry.bytes().1;
        assert!(sent < 120 << 20, "{what}: {sent} bytes were read");
        drop(registry);
    }
}

#[test]
fn an_answer_without_end_takes_no_memory() {
    for on in [On::ManifestGet, On::BlobGet, On::Tags] {
        let registry = usual_registry();
        registry.set_faults(Faults::none().times(on, 0, 1_000, Fault::Endless));
        let dir = tempfile::tempdir().unwrap();
        let name = registry.reference(if on == On::Tags { "app:none" } else { "app:v1" });
        let mut command = tool::relayer();
        command.args(["copy", &name, "oci:out", "--cache-size", "0"]).current_dir(dir.path());
        let Measured { out, peak, seconds } = tool::measured(&mut command);
        assert!(peak < MEMORY && seconds < 20.0, "{on:?}: {peak} {seconds} {}", said(&out));
        assert_eq!(out.status.success(), on == On::BlobGet, "{on:?}: {}", said(&out));
    }
}

#[test]
fn documents_have_limits() {
    let registry = TestRegistry::start(Profile::plain());
    let long = json!({"schemaVersion": 2, "mediaType": MANIFEST, "x": "x".repeat(9 << 20)});
    registry.put_manifest("app", "long", MANIFEST, long.to_string().as_bytes());
    let e = fails(&registry, "app:long", "a long manifest");
    assert!(e.contains("larger than the limit"), "{e}");
    // Each index has the one before.
    let inner = registry.add_image("app", "deep", &usual());
    let bytes = registry.manifest("app", "deep").unwrap().1;
    let mut d = json!({"mediaType": MANIFEST, "digest": inner, "size": bytes.len()});
    for _ in 0..100 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [d]}).to_string();
        let digest = registry.put_manifest("app", "deep", INDEX, index.as_bytes());
        d = json!({"mediaType": INDEX, "digest": digest, "size": index.len()});
    }
    let e = fails(&registry, "app:deep", "deep indexes");
    assert!(e.contains("nested more than"), "{e}");
    assert!(registry.log().len() < 30);
    for (what, bytes) in
        [("text", &b"no JSON"[..]), ("list", b"[]"), ("nothing", b""), ("null", b"null")]
    {
        registry.put_manifest("app", what, MANIFEST, bytes);
        fails(&registry, &format!("app:{what}"), what);
    }
}

/// A registry with an image whose layer is said to have another size.
fn of_size(size: &str, bytes: &[u8]) -> TestRegistry {
    let registry = TestRegistry::start(Profile::plain());
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(bytes)]}}).to_string();
    let (layer, c) = (registry.put_blob("app", bytes), registry.put_blob("app", config.as_bytes()));
    let manifest = format!(
        r#"{{"schemaVersion": 2, "mediaType": {MANIFEST:?},
            "config": {{"mediaType": {CONFIG:?}, "digest": {c:?}, "size": {}}},
            "layers": [{{"mediaType": {LAYER:?}, "digest": {layer:?}, "size": {size}}}]}}"#,
        config.len()
    );
    registry.put_manifest("app", "v1", MANIFEST, manifest.as_bytes());
    registry
}

#[test]
fn sizes_are_not_believed() {
    let bytes = layer(&[Item::file("f", noise(1, 10_000))]);
    let real = bytes.len() as u64;
    let sizes = [
        "0".to_owned(),
        "1".to_owned(),
        (real - 1).to_string(),
        (real + 1).to_string(),
        (1u64 << 40).to_string(),
        (1u64 << 50).to_string(),
        (1u64 << 62).to_string(),
        i64::MAX.to_string(),
        (1u64 << 63).to_string(),
        u64::MAX.to_string(),
        "1e400".to_owned(),
        "-1".to_owned(),
    ];
    for size in sizes {
        let registry = of_size(&size, &bytes);
        let e = fails(&registry, "app:v1", &size);
        println!("{size}: {e}");
        let asked = registry.log().iter().filter(|e| e.target.contains("/blobs/")).count();
        assert!(asked <= 30, "{size}: {asked} requests");
        let dir = tempfile::tempdir().unwrap();
        for cache in [&["--cache-size", "0"][..], &["--cache", "cache"]] {
            let mut command = tool::relayer();
            command.args(["copy", &registry.reference("app:v1"), "oci:out"]).args(cache);
            let run = tool::measured(command.current_dir(dir.path()).env("TMPDIR", dir.path()));
            let text = said(&run.out);
            assert!(
                run.out.status.code() == Some(tool::FAILED) && run.peak < MEMORY,
                "{size}: {} {text}",
                run.peak
            );
            assert!(run.seconds < 10.0, "{size}: {} s {text}", run.seconds);
            let used = super::super::tool::run("du", &["-sk", dir.path().to_str().unwrap()]);
            let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
            assert!(used < 1_000, "{size}: {used} KiB of disk");
        }
    }
}

#[test]
fn what_a_registry_says_is_escaped() {
    let registry = usual_registry();
    let manifest = registry.manifest("app", "v1").unwrap().1;
    for tag in ["red\u{1b}[31m", "line\nbreak", "right\u{202e}left", &"x".repeat(100_000)] {
        registry.put_manifest("app", tag, MANIFEST, &manifest);
    }
    let e = fails(&registry, "app:none", "tags");
    assert!(e.contains("red") && !e.contains('\u{202e}'), "{e}");
}

/// A server that gives the same answer to every request.
fn server(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // A connection that begins with TLS has no lines.
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    host
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The message of a pull from a server.
fn message(host: &str) -> String {
    let options = RegistryOptions {
        retry: Retry { attempts: 2, first: Duration::from_millis(1) },
        env: |_| None,
        ..RegistryOptions::default()
    };
    let registries = Arc::new(Registries::new(options, Arc::default()));
    let access = Access { registries, ..Access::new(&Budget::new(ROOM, None), ROOM) };
    let reference: Reference = format!("docker://{host}/app:v1").parse().unwrap();
    let e = Place::at(&reference, &access).unwrap_err().to_string();
    assert!(e.len() < 2_000 && !e.contains(|c: char| c.is_control()), "{e:?}");
    e
}

#[test]
fn challenges_lead_only_to_token_services() {
    for realm in
        ["file:///etc/passwd", "ftp://127.0.0.1/", "/token", "", "javascript:1", "https://"]
    {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n");
        let e = message(&server(answer("401 Unauthorized", &challenge, "")));
        assert!(e.contains("token"), "{realm}: {e}");
    }
    for challenge in
        ["Bearer", "Bearer realm", "Basic realm=\u{1}", "\"", "Bearer realm=\"a", ",,,,"]
    {
        let challenge = format!("WWW-Authenticate: {challenge}\r\n");
        let e = message(&server(answer("401 Unauthorized", &challenge, "")));
        assert!(!e.is_empty());
    }
    let many = "WWW-Authenticate: Bearer realm=\"x\"\r\n".repeat(500);
    message(&server(answer("401 Unauthorized", &many, "")));
}

#[test]
fn messages_of_a_registry_are_shortened_and_escaped() {
    let body = json!({"errors": [{"code": "RED\u{1b}[31m", "message": "x\n".repeat(100_000)}]});
    let e = message(&server(answer("403 Forbidden", "", &body.to_string())));
    assert!(e.contains("RED"), "{e}");
    for body in
        ["\u{1b}[2J\u{0}", "<html>", "{\"errors\":[]}", "{\"errors\":[{}]}", "{\"errors\":5}"]
    {
        message(&server(answer("418 Teapot", "", body)));
    }
    for location in ["http://[", "//", "http://a b/", "http://u:p@h/", "\u{1b}[31m", "gopher://x/"]
    {
        message(&server(answer("307 Temporary", &format!("Location: {location}\r\n"), "")));
    }
}
