//! The folder of downloaded blobs: what is in it is not downloaded again, and what is damaged is.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use super::super::registry::{Fault, Faults, On, Profile, TestRegistry};
use super::super::tool;
use super::*;

/// A registry with an image, and a folder for a cache.
fn prepared(files: &Files) -> (TestRegistry, String, tempfile::TempDir) {
    let registry = TestRegistry::start(Profile::plain());
    registry.add_image("app", "v1", files);
    let reference = registry.reference("app:v1");
    (registry, reference, tempfile::tempdir().unwrap())
}

/// A process with the cache in a folder.
fn client(registry: &TestRegistry, dir: &Path) -> Client {
    Client::with(registry, Cache::open(dir, ROOM).unwrap(), |_| {})
}

/// Requests for blobs and manifests.
fn gets(registry: &TestRegistry) -> Vec<String> {
    let log = registry.log();
    registry.clear_log();
    let gets = log.iter().filter(|e| e.method == "GET" && e.target != "/v2/");
    gets.map(|e| e.target.clone()).collect()
}

#[test]
fn a_second_pull_asks_only_whether_the_tag_has_changed() {
    let files = usual();
    let (registry, reference, dir) = prepared(&files);
    let wanted = (root(&files), blobs(&files));
    assert_eq!(client(&registry, dir.path()).pull(&reference, None).unwrap(), wanted);
    registry.clear_log();
    assert_eq!(client(&registry, dir.path()).pull(&reference, None).unwrap(), wanted);
    let log: Vec<_> = registry.log().iter().map(Exchange::line).collect();
    assert_eq!(log, ["GET /v2/ 200", "HEAD /v2/app/manifests/v1 200"]);
    // A blob that another image shares is not downloaded either.
    let next = of_layers(&[(1, 3_000), (3, 200_000), (4, 100)]).oci_files(Codec::Plain);
    registry.add_image("app", "v2", &next);
    registry.clear_log();
    client(&registry, dir.path()).pull(&registry.reference("app:v2"), None).unwrap();
    assert_eq!(gets(&registry).len(), 3, "a manifest, a config and a layer");
}

#[test]
fn what_is_damaged_in_the_cache_is_downloaded_again() {
    let files = usual();
    let wanted = (root(&files), blobs(&files));
    for (name, bytes) in &wanted.1 {
        let (registry, reference, dir) = prepared(&files);
        let path = dir.path().join("blobs").join(name.replace(':', "/"));
        let flipped = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damages = [flipped(0), flipped(bytes.len() - 1), bytes[1..].to_vec(), Vec::new()];
        client(&registry, dir.path()).pull(&reference, None).unwrap();
        for damage in damages {
            gets(&registry);
            fs::write(&path, damage).unwrap();
            assert_eq!(client(&registry, dir.path()).pull(&reference, None).unwrap(), wanted);
            let gets = gets(&registry);
            assert!(
                !gets.is_empty() && gets.iter().all(|target| target.contains(name)),
                "{gets:?}"
            );
            assert_eq!(fs::read(&path).unwrap(), *bytes);
        }
    }
}

/// Waits until no thread downloads any more for a client that is gone.
fn wait_for_others(dir: &Path) {
    for path in list(&dir.join("partial")) {
        // One that is complete is moved.
        let Ok(file) = fs::File::open(path) else { continue };
        for _ in 0..1_000 {
            if file.try_lock().is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The files of a folder.
fn list(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn what_is_damaged_of_a_download_is_downloaded_again() {
    let files = usual();
    let wanted = (root(&files), blobs(&files));
    let (registry, reference, dir) = prepared(&files);
    let (large, bytes) = wanted.1.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    // The registry breaks off for good, and what has come is kept.
    let reset = Fault::ResetResponse(10_000);
    registry.set_faults(Faults::none().times(On::BlobGet, 0, 1_000, reset).only(large));
    client(&registry, dir.path()).pull(&reference, None).unwrap_err();
    registry.set_faults(Faults::none());
    wait_for_others(dir.path());
    let part = dir.path().join("partial").join(&large["sha256:".len()..]);
    let note = part.with_extension("bytes");
    let noted = fs::read_to_string(&note).unwrap();
    let mut half = fs::read(&part).unwrap();
    let had: u64 = noted.split(' ').skip(1).map(|n| n.parse::<u64>().unwrap()).sum();
    assert!(had > bytes.len() as u64 / 4 && half.len() == bytes.len(), "{noted}");
    let check = |half: &[u8], note_text: &str| {
        fs::write(&part, half).unwrap();
        fs::write(&note, note_text).unwrap();
        for file in list(&dir.path().join("blobs/sha256")) {
            fs::remove_file(file).unwrap();
        }
        registry.clear_log();
        assert_eq!(client(&registry, dir.path()).pull(&reference, None).unwrap(), wanted);
        assert_eq!(list(&dir.path().join("partial")), [""; 0].map(PathBuf::from));
        let large =
            registry.log().into_iter().filter(|e| e.method == "GET" && e.target.contains(large));
        large.map(|e| e.sent).sum::<u64>()
    };
    let all = bytes.len() as u64;
    let resumed = check(&half, &noted);
    assert_eq!(resumed, all - had, "{noted}");
    half[5] ^= 1;
    // First what is missing, then all.
    assert_eq!(check(&half, &noted), resumed + all);
    assert_eq!(check(&half, "16384 1 2 3"), all);
    assert_eq!(check(&half[1..], &noted), all);
}

#[test]
fn a_killed_pull_goes_on_where_it_stopped() {
    const MIB: u64 = 1 << 20;
    let files = of_layers(&[(5, 40 << 20)]).oci_files(Codec::Plain);
    let (registry, reference, dir) = prepared(&files);
    // Pieces of 16, 16 and 8 MiB get no further than 9, 9 and 1.
    let stall = Fault::Stall(9 * MIB, 60_000);
    let blobs = blobs(&files);
    let (large, bytes) = blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    registry.set_faults(Faults::none().times(On::BlobGet, 0, 3, stall).only(large));
    let pull = || {
        let mut command = tool::relayer();
        command.args(["copy", &reference, "oci:out", "--quiet", "--cache", "cache"]);
        command.current_dir(dir.path());
        command
    };
    let mut child = pull().stderr(Stdio::null()).spawn().unwrap();
    let note = dir.path().join("cache/partial").join(&large["sha256:".len()..]);
    let noted = || {
        let text = fs::read_to_string(note.with_extension("bytes")).unwrap_or_default();
        text.split(' ').skip(1).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>()
    };
    let begin = Instant::now();
    while noted() < 12 * MIB && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let had = noted();
    assert!(had >= 12 * MIB, "{had}");
    registry.clear_log();
    tool::ok(&mut pull());
    let log = registry.log();
    let again: u64 = log.iter().filter(|e| e.target.contains(large)).map(|e| e.sent).sum();
    assert_eq!(again, bytes.len() as u64 - had);
    for (name, bytes) in &blobs {
        let path = dir.path().join("out/blobs").join(name.replace(':', "/"));
        assert!(fs::read(path).unwrap() == *bytes);
    }
}

#[test]
fn the_cache_is_pruned() {
    let files = usual();
    let (_registry, reference, dir) = prepared(&files);
    let run = |args: &[&str]| {
        let mut command = tool::relayer();
        command.args(args).args(["--cache", "cache"]).current_dir(dir.path());
        tool::ok(&mut command)
    };
    run(&["copy", "-q", &reference, "oci:out"]);
    let kept = || list(&dir.path().join("cache/blobs/sha256")).len();
    assert_eq!(kept(), 5);
    fs::write(dir.path().join("cache/partial/0123"), "left").unwrap();
    let said = run(&["cache", "prune", "--keep", "10GB"]);
    assert!(said.starts_with("removed 0 blobs (0 B), kept 5 blobs ("), "{said}");
    assert_eq!(list(&dir.path().join("cache/partial")).len(), 0);
    let said = run(&["cache", "prune", "--keep", "100KB"]);
    assert!(said.starts_with("removed ") && kept() < 5, "{said}");
    let said = run(&["cache", "prune"]);
    assert!(said.ends_with(", kept 0 blobs (0 B)\n") && kept() == 0, "{said}");
    // Beyond its limit the cache keeps nothing, and the image is right all the same.
    run(&["copy", "-q", &reference, "oci:again", "--cache-size", "1KB"]);
    assert!(kept() <= 2);
}

#[test]
fn bytes_of_another_digest_are_kept_nowhere() {
    let files = usual();
    for large in [false, true] {
        let (registry, reference, dir) = prepared(&files);
        let blobs = blobs(&files);
        let sized = |b: &&String| (blobs[*b].len() > 100_000) == large && *b != &root(&files);
        let wrong = blobs.keys().find(sized).unwrap();
        registry.set_faults(Faults::none().then(On::BlobGet, Fault::WrongByte(100)).only(wrong));
        let e = client(&registry, dir.path()).pull(&reference, None).unwrap_err().to_string();
        assert!(e.contains("the registry sent bytes with digest"), "{e}");
        assert!(!dir.path().join("blobs").join(wrong.replace(':', "/")).exists());
        assert!(!dir.path().join("partial").join(&wrong["sha256:".len()..]).exists());
        client(&registry, dir.path()).pull(&reference, None).unwrap();
    }
}
