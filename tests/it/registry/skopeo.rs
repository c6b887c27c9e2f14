//! An independent client can use the registry, whatever its profile.

use std::fs;

use super::*;
use crate::image::{self, Codec};
use crate::tool;

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
