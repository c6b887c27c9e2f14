//! A signal ends a push at once, and the registry is told that nothing more will come.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::image::{self, Codec};
use super::registry::{Fault, Faults, On, Profile, TestRegistry};
use super::tool;

#[test]
fn a_push_that_is_interrupted_leaves_no_upload_open() {
    let registry = TestRegistry::start(Profile::distribution3());
    registry.set_faults(Faults::none().times(On::UploadPut, 0, 100, Fault::Stall(0, 6_000)));
    let dir = tempfile::tempdir().unwrap();
    let authfile = dir.path().join("auth.json");
    std::fs::write(&authfile, registry.auth_file()).unwrap();
    image::write_files(&dir.path().join("in"), &image::small().oci_files(Codec::Gzip));
    let mut command = tool::relayer();
    command.args(["copy", "in", &registry.reference("some/app:v1"), "--authfile"]).arg(authfile);
    let child = command
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while registry.open_uploads() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(20), "no upload begins");
        std::thread::sleep(Duration::from_millis(20));
    }
    // So that the bodies are on their way.
    std::thread::sleep(Duration::from_millis(200));
    let interrupted = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", tool::said(&out));
    assert!(interrupted.elapsed() < Duration::from_secs(3), "{:?}", interrupted.elapsed());
    assert_eq!(registry.open_uploads(), 0, "{:#?}", registry.log());
    assert!(registry.tags("some/app").is_empty());
}
