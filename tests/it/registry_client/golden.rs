//! The requests of a small push and pull, for each kind of registry: `requests.txt`, which
//! `RELAYER_BLESS=1` writes.

use std::fmt::Write;
use std::path::PathBuf;

use super::super::registry::TestRegistry;
use super::table::{profiles, start};
use super::*;

/// An artifact with one blob, so that requests have an order.
fn artifact() -> Files {
    const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
    let blob = noise(7, 60_000);
    let mut files = Files::new();
    let mut add = |media_type: &str, bytes: Vec<u8>| {
        let name = digest(&bytes);
        let d = serde_json::json!({"mediaType": media_type, "digest": name, "size": bytes.len()});
        files.push((format!("blobs/{}", name.replace(':', "/")), bytes));
        d
    };
    let blob = add("application/octet-stream", blob);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": KIND, "artifactType": "x/y", "config": blob, "layers": [blob],
    });
    let manifest = add(KIND, manifest.to_string().into_bytes());
    image::finish_layout(&[manifest], &mut files);
    files
}

/// The log with names in place of numbers.
fn lines(registry: &TestRegistry, files: &Files) -> String {
    let mut text = String::new();
    let root = root(files);
    for e in registry.log() {
        let host = if e.elsewhere { "elsewhere" } else { "" };
        let mut target = e.target.replace(&root, "MANIFEST");
        for digest in blobs(files).keys() {
            target = target.replace(digest, "BLOB");
        }
        let mut parts: Vec<&str> = target.split('/').collect();
        for (i, part) in parts.clone().into_iter().enumerate() {
            let is_id = part.starts_with("upload-") || parts[..i].last() == Some(&"cdn");
            if is_id {
                // The state of an upload stays, the signature of a redirect does not.
                let query = part.split_once('?').map_or("", |(_, query)| query);
                let digest = query.contains("digest=BLOB");
                parts[i] = if digest { "ID?digest=BLOB" } else { "ID" };
            }
        }
        let auth = e.authorization().map_or("", |value| value.split(' ').next().unwrap());
        let sent = e.header("content-range").or_else(|| e.header("range")).unwrap_or_default();
        let _ = writeln!(text, "{} {host}{} {auth} {sent} {}", e.method, parts.join("/"), e.status);
    }
    registry.clear_log();
    let mut tidy: Vec<String> = Vec::new();
    for line in text.lines() {
        tidy.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    tidy.join("\n") + "\n"
}

#[test]
fn the_requests_of_a_push_and_a_pull_are_known() {
    let files = artifact();
    let mut text = String::new();
    for (name, profile) in profiles() {
        let registry = start(profile);
        let reference = registry.reference("app:v1");
        Client::new(&registry).push(&files, &reference, &[]).unwrap();
        let _ = write!(text, "# {name}: push\n{}\n", lines(&registry, &files));
        let client = Client::with(&registry, Cache::default(), |o| o.sizes.range = 1 << 20);
        client.pull(&reference, None).unwrap();
        let _ = write!(text, "# {name}: pull\n{}\n", lines(&registry, &files));
    }
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/registry_client/requests.txt");
    if std::env::var_os("RELAYER_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    for (line, known) in text.lines().zip(known.lines()) {
        assert_eq!(line, known, "RELAYER_BLESS=1 writes what is sent now");
    }
    assert_eq!(text.len(), known.len());
}
