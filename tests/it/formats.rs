//! Files in the formats of this release and earlier ones (tests/formats) can still be read.

use std::path::{Path, PathBuf};

use super::image::digest;
use super::tool::{self, relayer};

/// The manifests of both versions of the image.
#[cfg(feature = "store")]
const V1: &str = "sha256:733928a0f1c5b2c1bf2179cc138db1977256c4782783ef9a11cc9910bb4bca41";
const V2: &str = "sha256:212cc57a4b0a1f4f74f46ce2b3923ea40a307ea7b377c8a77b206e19b1cbe9e4";

fn formats(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

fn manifest_digest(archive: &Path) -> String {
    digest(tool::manifest(&format!("oci-archive:{}", archive.display())).as_bytes())
}

#[test]
fn delta_1_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (old, out) = (formats("delta-1/v1.tar"), dir.path().join("out.tar"));
    let mut apply = relayer();
    apply.arg("apply").arg(&old).arg(formats("delta-1/v1-v2.delta")).arg("-o").arg(&out);
    tool::ok(&mut apply);
    assert_eq!(manifest_digest(&out), V2);
}

#[cfg(feature = "store")]
#[test]
fn store_2_is_read_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    tool::copy_folder(&formats("store-2"), &store);
    let run =
        |args: &[&str]| tool::ok(relayer().arg("store").arg("--store").arg(&store).args(args));
    assert!(run(&["check", "--blobs"]).contains("no damage"));
    for (name, want) in [("example/app:v1", V1), ("example/app:v2", V2)] {
        let out = dir.path().join("out.tar");
        run(&["extract", name, "-f", "-o", out.to_str().unwrap()]);
        assert_eq!(manifest_digest(&out), want);
    }
    // What is written today stands beside what was there.
    run(&["rm", "example/app:v2"]);
    run(&["gc"]);
    run(&["add", formats("delta-1/v1.tar").to_str().unwrap(), "--name", "again"]);
    assert!(run(&["check", "--blobs"]).contains("no damage"));
}

#[test]
fn chunked_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let layout = formats("chunked-1");
    let image = format!("oci:{}", layout.display());
    tool::ok(relayer().args(["verify", &image]).arg(formats("delta-1/v1.tar")));
    // Layers that are kept keep what clients load them in pieces by.
    let out = format!("oci:{}:x", dir.path().join("out").display());
    tool::split(&[&image, "--previous", &image, "-o", &out, "--compression", "zstd:chunked"]);
    assert_eq!(tool::manifest(&out), tool::manifest(&image));
    if tool::needs("python3, zstd") {
        let script = "import sys, chunked; chunked.main(sys.argv[1], [])";
        let out = tool::python(script, &[&layout]);
        assert_eq!(String::from_utf8_lossy(&out.stdout).split(' ').next(), Some("1"), "{out:?}");
    }
}
