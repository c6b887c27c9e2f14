//! Each dialect, with nothing that fails: what is sent is what is missing, to the byte.

use super::super::registry::{Mount, Profile, TestRegistry};
use super::*;

/// All profiles, with chunks of a size that tests can send.
pub(super) fn profiles() -> Vec<(&'static str, Profile)> {
    let mut all = Vec::from(Profile::all());
    for (_, profile) in &mut all {
        profile.chunk_min = profile.chunk_min.min(20 << 10);
        profile.chunk_max = profile.chunk_max.min(40 << 10);
    }
    all
}

/// A registry with two empty repositories.
pub(super) fn start(profile: Profile) -> TestRegistry {
    let registry = TestRegistry::start(profile);
    for repo in ["app", "other"] {
        registry.create_repo(repo);
    }
    registry
}

/// Requests that are not about authorization.
fn requests(registry: &TestRegistry) -> Vec<Exchange> {
    let mut log = registry.log();
    log.retain(|e| !matches!(e.status, 401 | 403) && !e.target.starts_with("/token"));
    registry.clear_log();
    log
}

fn count(log: &[Exchange], method: &str, part: &str) -> usize {
    log.iter().filter(|e| e.method == method && e.target.contains(part)).count()
}

#[test]
fn what_is_pushed_can_be_pulled() {
    for (name, profile) in profiles() {
        let registry = start(profile);
        let (files, reference) = (usual(), registry.reference("app:v1"));
        let stats = Client::new(&registry).push(&files, &reference, &[]).unwrap();
        let wanted = (root(&files), blobs(&files));
        assert_eq!(tagged(&registry, "app", "v1").unwrap(), wanted, "{name}");
        let log = requests(&registry);
        assert_eq!(received(&log), total(&wanted.1), "{name}");
        let layers = total(&wanted.1) - wanted.1[&wanted.0].len() as u64;
        assert_eq!((stats.sent, stats.sent_bytes, stats.manifests), (4, layers, 1), "{name}");
        assert_eq!(registry.open_uploads(), 0, "{name}");
        let client = Client::new(&registry);
        assert_eq!(client.pull(&reference, None).unwrap(), wanted, "{name}");
        let log = requests(&registry);
        let whole: u64 =
            log.iter().filter(|e| !matches!(e.status, 302 | 307)).map(|e| e.sent).sum();
        // A list in chunks has a frame.
        let lines: Vec<_> = log.iter().map(|e| format!("{} {}", e.line(), e.sent)).collect();
        assert!((total(&wanted.1)..total(&wanted.1) + 200).contains(&whole), "{name}: {lines:#?}");
        // By digest, and by both.
        for by in [format!("app@{}", wanted.0), format!("app:v1@{}", wanted.0)] {
            let pulled = client.pull(&registry.reference(&by), None).unwrap();
            assert_eq!(pulled, wanted, "{name} {by}");
        }
        assert_discreet(&registry, name);
    }
}

#[test]
fn a_push_of_what_is_there_sends_nothing() {
    for (name, profile) in profiles() {
        let registry = start(profile);
        let (files, reference) = (usual(), registry.reference("app:v1"));
        Client::new(&registry).push(&files, &reference, &[]).unwrap();
        requests(&registry);
        let stats = Client::new(&registry).push(&files, &reference, &[]).unwrap();
        assert_eq!((stats.sent, stats.existed, stats.manifests), (0, 4, 0), "{name}");
        let log = requests(&registry);
        assert_eq!(received(&log), 0, "{name}");
        // One upload is begun and cancelled, to know before the work whether it may.
        assert_eq!(count(&log, "POST", ""), 1, "{name}");
        assert_eq!(count(&log, "DELETE", "/uploads/"), 1, "{name}");
        assert_eq!(count(&log, "PUT", "") + count(&log, "PATCH", ""), 0, "{name}");
        assert_eq!(count(&log, "HEAD", "/blobs/"), 4, "{name}");
        assert_eq!(registry.open_uploads(), 0, "{name}");
        // The same under another tag needs the manifest only.
        let stats =
            Client::new(&registry).push(&files, &registry.reference("app:v2"), &[]).unwrap();
        assert_eq!((stats.sent, stats.manifests), (0, 1), "{name}");
        assert_eq!(received(&requests(&registry)), blobs(&files)[&root(&files)].len() as u64);
        assert_discreet(&registry, name);
    }
}

#[test]
fn a_push_of_a_new_version_sends_what_is_new() {
    let old = of_layers(&[(1, 3_000), (2, 50_000), (3, 100_000), (4, 20_000)]);
    let new = of_layers(&[(1, 3_000), (5, 60_000), (3, 100_000), (6, 90_000)]);
    let [old, new] = [old, new].map(|image| image.oci_files(Codec::Gzip));
    let (before, after) = (blobs(&old), blobs(&new));
    let wanted: Blobs = after.into_iter().filter(|(d, _)| !before.contains_key(d)).collect();
    assert_eq!(wanted.len(), 4, "two layers, a config and a manifest");
    for (name, profile) in profiles() {
        let registry = start(profile);
        let reference = registry.reference("app:v1");
        Client::new(&registry).push(&old, &reference, &[]).unwrap();
        requests(&registry);
        Client::new(&registry).push(&new, &reference, &[]).unwrap();
        assert_eq!(received(&requests(&registry)), total(&wanted), "{name}");
        let kept = (root(&new), blobs(&new));
        assert_eq!(tagged(&registry, "app", "v1").unwrap(), kept, "{name}");
        assert_discreet(&registry, name);
    }
}

#[test]
fn blobs_are_mounted_from_another_repository() {
    let files = usual();
    let all = total(&blobs(&files));
    let manifest = blobs(&files)[&root(&files)].len() as u64;
    let mut cases = profiles();
    for (name, mount) in [("405", Mount::Refused(405)), ("404", Mount::Refused(404))] {
        cases.push((name, Profile { mount, ..Profile::plain() }));
    }
    for (name, profile) in cases {
        let mounts = !matches!(profile.mount, Mount::Off | Mount::Refused(_));
        let registry = start(profile);
        Client::new(&registry).push(&files, &registry.reference("app:v1"), &[]).unwrap();
        requests(&registry);
        let from = format!("{}/app", registry.host());
        let wrong = format!("{}/none", registry.host());
        let away = "elsewhere.example/app";
        let client = Client::new(&registry);
        let to = registry.reference("other:v1");
        // All are asked, whatever their order is.
        let stats = client.push(&files, &to, &[away, &wrong, &from]).unwrap();
        assert_eq!(stats.mounted, if mounts { 4 } else { 0 }, "{name}");
        let log = requests(&registry);
        assert_eq!(received(&log), if mounts { manifest } else { all }, "{name}");
        assert_eq!(tagged(&registry, "other", "v1").unwrap().1, blobs(&files), "{name}");
        assert_eq!(registry.open_uploads(), 0, "{name}");
        assert_discreet(&registry, name);
    }
}

/// An index of two platforms.
fn index() -> Files {
    let (mut files, mut manifests) = (Files::new(), Vec::new());
    for (seed, architecture) in [(10, "amd64"), (11, "arm64")] {
        let mut image = of_layers(&[(1, 3_000), (seed, 40_000)]);
        image.config["architecture"] = architecture.into();
        let mut d = image.oci_blobs(Codec::Gzip, &mut files);
        d["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        manifests.push(d);
    }
    let root = image::add_index(&manifests, &mut files);
    image::finish_layout(&[root], &mut files);
    files
}

#[test]
fn images_of_several_platforms_are_moved_whole_or_by_platform() {
    let files = index();
    let all = blobs(&files);
    for (name, profile) in profiles() {
        let registry = start(profile);
        let reference = registry.reference("app:v1");
        let stats = Client::new(&registry).push(&files, &reference, &[]).unwrap();
        // The lowest layer is the same.
        assert_eq!((stats.sent, stats.manifests), (5, 3), "{name}");
        assert_eq!(received(&requests(&registry)), total(&all), "{name}");
        assert_eq!(tagged(&registry, "app", "v1").unwrap(), (root(&files), all.clone()), "{name}");
        let client = Client::new(&registry);
        let pulled = client.pull(&reference, None).unwrap();
        assert_eq!(pulled, (root(&files), all.clone()), "{name}");
        requests(&registry);
        let client = Client::new(&registry);
        let (one, part) = client.pull(&reference, Some("linux/arm64")).unwrap();
        assert_eq!(part.len(), 4, "{name}");
        assert!(part.iter().all(|(digest, bytes)| all[digest] == *bytes), "{name}");
        let config: Value = part
            .values()
            .find_map(|b| {
                serde_json::from_slice(b).ok().filter(|v: &Value| v["architecture"] == "arm64")
            })
            .unwrap();
        assert_eq!(config["os"], "linux");
        assert_ne!(one, root(&files));
        let log = requests(&registry);
        let gets = count(&log, "GET", "/blobs/") + count(&log, "GET", "/manifests/");
        assert!(gets <= 2 + 3 + 4, "{name}: {gets} requests for one of two platforms");
        let e = client.pull(&reference, Some("linux/s390x")).unwrap_err().to_string();
        assert!(e.contains("the platforms are linux/amd64, linux/arm64"), "{e}");
        assert_discreet(&registry, name);
    }
}

#[test]
fn what_does_not_exist_is_named() {
    for (name, profile) in profiles() {
        let registry = start(profile);
        let client = Client::new(&registry);
        for tag in ["v1", "v2", "v10"] {
            registry.add_image("app", tag, &usual());
        }
        let e = client.pull(&registry.reference("app:v3"), None).unwrap_err().to_string();
        let tags = format!("there is no v3 in {}/app; its tags are v1, v10, v2", registry.host());
        assert!(e.contains(&tags), "{name}: {e}");
        let none = digest(b"none");
        let by_digest = registry.reference(&format!("app@{none}"));
        let e = client.pull(&by_digest, None).unwrap_err().to_string();
        assert!(e.contains(&format!("there is no {none}")), "{name}: {e}");
        let e = client.pull(&registry.reference("gone:v1"), None).unwrap_err().to_string();
        assert!(e.contains("404") && e.contains("no such repository"), "{name}: {e}");
        assert_discreet(&registry, name);
    }
    let registry = start(Profile::ecr());
    let e = Client::new(&registry).push(&usual(), &registry.reference("gone:v1"), &[]);
    let e = e.unwrap_err().to_string();
    assert!(e.contains("The repository with that name does not exist"), "{e}");
    assert_eq!(registry.log().iter().filter(|e| e.method == "PUT").count(), 0);
}
