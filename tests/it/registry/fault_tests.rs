//! The faults of the registry, by requests that are written by hand.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::by_hand::Client;
use super::*;

/// A registry with one blob of 100 kB, whose path and bytes it gives.
fn registry(faults: Faults) -> (TestRegistry, String, Vec<u8>) {
    let registry = TestRegistry::start(Profile::plain());
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/v2/r/blobs/{}", registry.put_blob("r", &bytes));
    registry.set_faults(faults);
    (registry, path, bytes)
}

/// All that a connection gives after one request, and the error that ends it.
fn raw(registry: &TestRegistry, path: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut client = Client::new(registry.host());
    let stream = client.stream.get_mut();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).err().map(|e| e.kind());
    (got, error)
}

fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    &answer[end + 4..]
}

#[test]
fn answers_can_be_reset_truncated_wrong_or_too_long() {
    let get = |fault| {
        let (registry, path, bytes) = registry(Faults::none().then(On::BlobGet, fault));
        let (got, error) = raw(&registry, &path);
        let entry = registry.log().pop().unwrap();
        assert_eq!(entry.fault, Some(fault));
        // The next one is as it should be.
        assert_eq!(body(&raw(&registry, &path).0), bytes, "after {fault:?}");
        (got, error, bytes, entry.sent)
    };
    let (_, error, _, sent) = get(Fault::ResetResponse(70_000));
    assert_eq!((error, sent), (Some(ErrorKind::ConnectionReset), 70_000));
    let (got, error, _, _) = get(Fault::LostAnswer);
    assert_eq!((got.len(), error), (0, Some(ErrorKind::ConnectionReset)));
    let (got, error, bytes, sent) = get(Fault::Truncate(100_010));
    assert_eq!((body(&got), error, sent), (&bytes[..10], None, 10));
    assert!(String::from_utf8_lossy(&got).contains("Content-Length: 100000\r\n"));
    let (got, _, mut bytes, _) = get(Fault::WrongByte(5));
    bytes[5] ^= 1;
    assert!(body(&got) == bytes);
    let (got, _, bytes, _) = get(Fault::TooLong);
    assert_eq!(body(&got).len(), bytes.len() + (1 << 20));
    let (got, _, bytes, _) = get(Fault::Slow(100));
    assert!(body(&got) == bytes);
    assert!(get(Fault::Garbage).0.starts_with(b"\x16"));
    assert!(get(Fault::HugeHeaders).0.len() > 1 << 20);
    let text = get(Fault::WrongContentRange).0;
    assert!(String::from_utf8_lossy(&text[..300]).contains("Content-Range: bytes 1-100000/100001"));
    let (got, error, bytes, _) = get(Fault::Close);
    assert!(error.is_none() && body(&got) == bytes);
    assert!(get(Fault::Redirect).0.starts_with(b"HTTP/1.1 307 "));
}

#[test]
fn locations_can_be_wrong() {
    let faults = Faults::none().then(On::UploadPost, Fault::WrongLocation("file:///x"));
    let (registry, path, _) =
        registry(faults.then(On::BlobGet, Fault::RedirectTo("http://169.254.169.254/")));
    let mut client = Client::new(registry.host());
    assert_eq!(client.open("r"), "file:///x");
    let got = client.get(&path);
    assert_eq!((got.status, got.header("Location")), (307, "http://169.254.169.254/"));
}

/// Pushes a blob and a manifest, and fetches both. Stops at the first unexpected answer and gives
/// its status.
fn push_and_pull(registry: &TestRegistry) -> std::io::Result<Result<(), u16>> {
    const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let name = digest(&bytes);
    let mut client = Client::known(registry);
    if let Auth::Bearer(bearer) = &registry.0.site.profile.auth {
        let host = if bearer.elsewhere { registry.other_host() } else { registry.host() };
        client.stream = Client::new(host).stream;
        let scope = "/token?service=test-registry&scope=repository:r:pull,push";
        let got = client.try_send("GET", scope, &[], b"")?;
        if got.status != 200 {
            return Ok(Err(got.status));
        }
        client.authorization = Some(format!("Bearer {}", got.json()["token"].as_str().unwrap()));
        client.stream = Client::new(registry.host()).stream;
    }
    let blob = format!("/v2/r/blobs/{name}");
    let mut got = client.try_send("HEAD", &blob, &[], b"")?;
    if got.status == 404 {
        got = client.try_send("POST", "/v2/r/blobs/uploads/", &[], b"")?;
        if got.status != 202 {
            return Ok(Err(got.status));
        }
        let url = got.header("Location");
        let sign = if url.contains('?') { '&' } else { '?' };
        got = client.try_send("PUT", &format!("{url}{sign}digest={name}"), &[], &bytes)?;
    }
    if !matches!(got.status, 200 | 201) {
        return Ok(Err(got.status));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": KIND, "layers": [{"digest": name}]});
    let headers = [("Content-Type", KIND), ("Accept", KIND)];
    let manifest = manifest.to_string().into_bytes();
    for (method, body, status) in [("PUT", &manifest[..], 201), ("GET", b"", 200)] {
        let got = client.try_send(method, "/v2/r/manifests/v1", &headers, body)?;
        if got.status != status {
            return Ok(Err(got.status));
        }
    }
    got = client.try_send("GET", &blob, &[], b"")?;
    if matches!(got.status, 302 | 307) {
        let mut other = Client::new(registry.other_host());
        got = other.try_send("GET", got.header("Location"), &[], b"")?;
    }
    if got.status == 200 {
        assert!(got.body == bytes);
    }
    Ok(if got.status == 200 { Ok(()) } else { Err(got.status) })
}

#[test]
fn a_client_that_retries_survives_every_seed() {
    let mut failures = 0;
    for seed in 1..=100u64 {
        let profiles = Profile::all();
        let (name, profile) = &profiles[seed as usize % profiles.len()];
        let registry = TestRegistry::start(profile.clone());
        registry.create_repo("r");
        registry.set_faults(Faults::from_seed(seed).stalling(1));
        let mut tries = (0..=Faults::MOST).map(|_| push_and_pull(&registry));
        let failed = tries.position(|t| matches!(t, Ok(Ok(()))));
        failures += failed.unwrap_or_else(|| panic!("{name}, seed {seed}: {:#?}", registry.log()));
        assert_eq!(registry.violations(), [""; 0], "{name}, seed {seed}");
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn a_connection_can_close_without_notice() {
    let (registry, path, _) = registry(Faults::none().then(On::BlobHead, Fault::Close));
    let mut client = Client::new(registry.host());
    let got = client.send("HEAD", &path, &[], b"");
    assert_eq!((got.status, got.header("Connection")), (200, ""));
    client.try_send("HEAD", &path, &[], b"").unwrap_err();
}

#[test]
fn an_endless_answer_ends_when_the_client_closes() {
    let (registry, path, _) = registry(Faults::none().then(On::BlobGet, Fault::Endless));
    let mut client = Client::new(registry.host());
    write!(client.stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut got = vec![0; 1 << 20];
    client.stream.read_exact(&mut got).unwrap();
    assert!(!String::from_utf8_lossy(&got[..500]).contains("Content-Length"));
    drop(client);
    let sent = registry.log()[0].sent;
    assert!((1 << 19..1 << 26).contains(&sent), "{sent}");
}

#[test]
fn stalls_have_the_given_length_and_end_with_the_registry() {
    let faults = Faults::none().then(On::BlobGet, Fault::Stall(3, 0)).stalling(200);
    let (registry, path, _) = registry(faults.then(On::Any, Fault::Stall(0, 60_000)));
    let begin = Instant::now();
    assert_eq!(Client::new(registry.host()).get(&path).body.len(), 100_000);
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert!(registry.log()[0].at.duration_since(begin) < Duration::from_millis(200));
    let mut client = Client::new(registry.host());
    write!(client.stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    drop(registry);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_lost_answer_does_not_undo_the_upload() {
    let faults = Faults::none().then(On::UploadPut, Fault::LostAnswer);
    let (registry, path, _) = registry(faults.then(On::ManifestGet, Fault::Garbage));
    let mut client = Client::new(registry.host());
    let (name, url) = (digest(b"abc"), client.open("r"));
    let range = format!("{url}?digest={name}");
    let got = client.try_send("PUT", &range, &[], b"abc");
    assert_eq!(got.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(registry.blob("r", &name).unwrap(), b"abc");
    assert_eq!(registry.log()[1].status, 0);
    registry.remove_blob("r", &name);
    let mut client = Client::new(registry.host());
    assert_eq!(client.send("HEAD", &path.replace("r/blobs", "q/blobs"), &[], b"").status, 404);
    registry.corrupt_blob("r", &name, b"other");
    assert_eq!(client.get(&format!("/v2/r/blobs/{name}")).body, b"other");
}

#[test]
fn rules_apply_in_order_and_only_to_their_requests() {
    let busy = Fault::Status(429, Some(1));
    let faults =
        Faults::none().times(On::BlobHead, 1, 2, busy).then(On::BlobHead, Fault::Status(502, None));
    let (registry, path, _) = registry(faults.then(On::BlobGet, busy).only("sha256:none"));
    let mut client = Client::new(registry.host());
    let mut head = || client.send("HEAD", &path, &[], b"");
    let first = [head(), head(), head(), head(), head()];
    assert_eq!(first.each_ref().map(|g| g.status), [200, 429, 429, 502, 200]);
    assert_eq!((first[1].header("Retry-After"), first[3].header("Retry-After")), ("1", ""));
    assert_eq!(client.get(&path).status, 200);
    assert_eq!(client.get("/v2/r/blobs/sha256:none").status, 429);
}

#[test]
fn tokens_can_expire_at_any_request() {
    let registry = TestRegistry::start(Profile::ghcr());
    registry.set_faults(Faults::none().times(On::BlobHead, 1, 1, Fault::ExpireTokens));
    let mut client = Client::new(registry.host());
    client.authorization =
        super::by_hand::token(&registry, registry.host(), "&scope=repository:r:pull", false);
    let mut head = || client.send("HEAD", &format!("/v2/r/blobs/{}", digest(b"")), &[], b"").status;
    assert_eq!([head(), head(), head()], [404, 401, 401]);
}

#[test]
fn a_seed_always_gives_the_same_schedule() {
    let text = |faults: Faults| format!("{faults:?}");
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 1..300 {
        let (good, bad) = (Faults::from_seed(seed), Faults::hostile(seed));
        assert_eq!(text(good.clone()), text(Faults::from_seed(seed)));
        assert_ne!(text(good.clone()), text(Faults::from_seed(seed + 1)));
        assert!(good.faults().len().max(bad.faults().len()) <= Faults::MOST);
        assert!(good.faults().iter().all(|f| !f.is_fatal()));
        assert!(bad.faults().iter().any(|f| f.is_fatal()));
        for fault in [good, bad].iter().flat_map(Faults::faults) {
            kinds.insert(format!("{fault:?}").split('(').next().unwrap().to_owned());
        }
    }
    assert_eq!(kinds.len(), 18, "{kinds:?}");
}

#[test]
fn protocol_violations_are_recorded() {
    let (registry, path, _) = registry(Faults::none());
    let mut client = Client::new(registry.host());
    client.get("/v2//r/tags/list");
    client.send("GET", "/v2/r/manifests/x", &[("Range", "bytes=0-1")], b"");
    client.send("GET", &path, &[("Accept-Encoding", "gzip")], b"");
    client.get("/v2/R/tags/list");
    client.get("/v2/r/blobs/sha256:abc");
    client.send("POST", "/v2/r/blobs/uploads/?from=x", &[], b"");
    let stream = client.stream.get_mut();
    write!(stream, "POST /v2/r/blobs/uploads/ HTTP/1.1\r\nHost: h\r\n\r\nwhat\r\n\r\n").unwrap();
    // It ends with a reset, as something is left unread.
    let _ = std::io::copy(stream, &mut std::io::sink());
    let whats = [
        "two slashes",
        "invalid repository name",
        "Range on what is not a blob",
        "asks for a blob in another encoding",
        "invalid repository name",
        "invalid digest",
        "from without mount",
        "no Content-Length",
        "a request that is not HTTP/1.1",
    ];
    let violations = registry.violations();
    assert_eq!(violations.len(), whats.len(), "{violations:#?}");
    for (violation, what) in violations.iter().zip(whats) {
        assert!(violation.ends_with(what), "{violation}");
    }
}
