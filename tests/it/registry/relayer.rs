//! The command as a client of the registry: pushes to every profile and pulls the same, with and without
//! faults.

use std::path::Path;
use std::process::Output;

use super::*;
use crate::image::{self, Codec};
use crate::model::seed;
use crate::tool;

fn copy(registry: &TestRegistry, dir: &Path, from: &str, to: &str) -> Output {
    let authfile = dir.join("auth.json");
    std::fs::write(&authfile, registry.auth_file()).unwrap();
    let out = tool::output(
        tool::relayer()
            .args(["copy", from, to, "--cache-size", "0", "--authfile"])
            .arg(authfile)
            .current_dir(dir),
    );
    for secret in registry.tokens().into_iter().chain([registry.password()]) {
        assert!(!tool::said(&out).contains(&secret), "a secret is printed");
    }
    out
}

/// Pushes an image and pulls it. If faults are fatal, either may fail, with nothing written, and is then
/// repeated without faults.
fn there_and_back(registry: &TestRegistry, is_fatal: bool, what: &str) {
    let dir = tempfile::tempdir().unwrap();
    let files = image::small().oci_files(Codec::Gzip);
    image::write_files(&dir.path().join("in"), &files);
    registry.create_repo("some/app");
    let reference = registry.reference("some/app:v1");
    for (from, to) in [("in", &*reference), (&reference, "oci:out")] {
        let mut out = copy(registry, dir.path(), from, to);
        if is_fatal && !out.status.success() {
            assert_eq!(out.status.code(), Some(tool::FAILED), "{what}: {}", tool::said(&out));
            let left = std::fs::read_dir(dir.path().join("out")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{what}: {}", tool::said(&out));
            registry.set_faults(Faults::none());
            out = copy(registry, dir.path(), from, to);
        }
        let exchanges = registry.log();
        let log: Vec<_> = exchanges.iter().map(|e| format!("{} {:?}", e.line(), e.fault)).collect();
        assert!(out.status.success(), "{what}: {}\n{log:#?}", tool::said(&out));
    }
    let expected = TestRegistry::start(Profile::plain());
    expected.add_image("some/app", "v1", &files);
    assert_eq!(registry.manifest("some/app", "v1"), expected.manifest("some/app", "v1"), "{what}");
    assert_eq!(registry.blobs("some/app"), expected.blobs("some/app"), "{what}");
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
        let copied = std::fs::read(dir.path().join("out").join(path)).unwrap();
        assert!(copied == *bytes, "{what}: {path}");
    }
    // Where a wrong URL leads is not the client's fault.
    assert!(is_fatal || registry.violations().is_empty(), "{what}: {:?}", registry.violations());
}

/// The same with the faults of some seeds at once, as each waits most of the time.
fn with_faults(faults: impl Fn(u64) -> Faults + Sync, is_fatal: bool) {
    let (first, faults) = (seed(), &faults);
    std::thread::scope(|scope| {
        for seed in first..first + tool::count(40, 8) {
            scope.spawn(move || {
                let profiles = Profile::all();
                let (name, profile) = &profiles[seed as usize % profiles.len()];
                let registry = TestRegistry::start(profile.clone());
                registry.set_faults(faults(seed).stalling(1));
                there_and_back(&registry, is_fatal, &format!("{name}, seed {seed}"));
            });
        }
    });
}

#[test]
fn relayer_can_push_to_every_profile_and_pull_the_same() {
    for (name, profile) in Profile::all() {
        there_and_back(&TestRegistry::start(profile), false, name);
    }
}

#[test]
fn relayer_survives_faults() {
    with_faults(Faults::from_seed, false);
}

#[test]
fn relayer_is_not_misled_by_hostile_answers() {
    with_faults(Faults::hostile, true);
}
