//! Running relayer and the tools that judge it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

#[path = "../../src/base/testing/needs.rs"]
mod needs;

pub(crate) use needs::{count, needs};

/// The status of a command that failed.
pub const FAILED: i32 = 1;

/// How the line of an error begins.
pub const ERROR: &str = "relayer: ";

/// The binary under test.
pub fn relayer() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_relayer"));
    // Temporary files are watched for in the test's own folder.
    c.env_remove("SOURCE_DATE_EPOCH");
    c
}

/// Runs a tool and gives its standard output; a missing or failing one fails the test.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    ok(Command::new(program).args(args))
}

/// Runs a command that must succeed.
pub fn ok(command: &mut Command) -> String {
    let out = output(command);
    assert!(
        out.status.success(),
        "{command:?} failed\n{}\n{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs a command whatever comes of it.
pub fn output(command: &mut Command) -> Output {
    let started = command.output();
    started.unwrap_or_else(|e| panic!("starting {}: {e}", command.get_program().display()))
}

/// Everything that a terminal could get.
pub fn said(out: &Output) -> String {
    [&out.stdout[..], &out.stderr].map(String::from_utf8_lossy).concat()
}

/// Runs relayer, which must succeed.
pub fn split(args: &[&str]) -> String {
    ok(relayer().arg("split").args(args))
}

/// A command with a limit that `ulimit` of sh sets: `-n 40`.
pub fn limited(limit: &str, inner: &Command) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}

/// What a command took.
pub struct Measured {
    pub out: Output,
    /// The most memory, in bytes.
    pub peak: u64,
    /// Of all cores: a machine may have others to serve.
    pub seconds: f64,
}

/// Runs a command and watches it in /proc, whose numbers end with the process: the last
/// millisecond is not seen.
pub fn measured(command: &mut Command) -> Measured {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (proc, begin) = (PathBuf::from(format!("/proc/{}", child.id())), Instant::now());
    let id = rustix::process::Pid::from_child(&child);
    let waiting = std::thread::spawn(move || child.wait_with_output().unwrap());
    let (mut peak, mut ticks) = (0, 0);
    while !waiting.is_finished() {
        if begin.elapsed() > Duration::from_secs(300) {
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        }
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kib) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = kib.parse::<u64>().unwrap() << 10;
        }
        // User and system time are the 14th and 15th fields; the second ends with the last bracket.
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        if let Some((_, fields)) = stat.rsplit_once(") ") {
            let times = fields.split(' ').skip(11).take(2);
            ticks = times.map(|field| field.parse::<u64>().unwrap()).sum();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Measured { out: waiting.join().unwrap(), peak, seconds: ticks as f64 / 100.0 }
}

/// Makes a named pipe.
pub fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Copies a folder.
#[cfg(feature = "store")]
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The manifest or index of an image, whose blobs skopeo verifies and copies; where no tools may
/// run, relayer does.
pub fn manifest(image: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("copied").to_str().unwrap().to_owned();
    if needs("skopeo") {
        run("skopeo", &["copy", "-q", image, &format!("dir:{to}")]);
        return run("skopeo", &["inspect", "--raw", image]);
    }
    ok(relayer().args(["copy", "-q", image, &format!("oci:{to}:x")]));
    let index: Value =
        serde_json::from_slice(&fs::read(format!("{to}/index.json")).unwrap()).unwrap();
    document(&to, &index["manifests"][0])
}

/// The config of an image, from where [`manifest`] has it.
pub fn config(image: &str) -> String {
    if needs("skopeo") {
        return run("skopeo", &["inspect", "--config", "--raw", image]);
    }
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("copied").to_str().unwrap().to_owned();
    ok(relayer().args(["copy", "-q", image, &format!("oci:{to}:x")]));
    let manifest: Value = serde_json::from_str(&manifest(&format!("oci:{to}:x"))).unwrap();
    document(&to, &manifest["config"])
}

/// The text of a blob of a layout.
fn document(layout: &str, descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
    fs::read_to_string(format!("{layout}/blobs/{digest}")).unwrap()
}

/// Runs a piece of Python with tests/ on its path.
pub fn python(script: &str, args: &[&Path]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut python = Command::new("python3");
    // What is imported is compiled, as where nobody says otherwise.
    python.arg("-c").arg(script).args(args).env_remove("PYTHONDONTWRITEBYTECODE");
    output(python.env("PYTHONPATH", path))
}

/// Unpacks a layout's image by umoci, after gzip or zstd have decompressed its layers, and gives
/// its rootfs.
pub fn unpack(layout: &Path, work: &Path) -> std::path::PathBuf {
    let (plain, bundle) = (work.join("plain"), work.join("bundle"));
    let _ = std::fs::remove_dir_all(&plain);
    let _ = std::fs::remove_dir_all(&bundle);
    let script = "import sys, corpus; corpus.plain_layout(sys.argv[1], sys.argv[2])";
    let out = python(script, &[layout, &plain]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let image = format!("{}:x", plain.display());
    run("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
    bundle.join("rootfs")
}

/// Two unpacked trees must be equal in everything.
pub fn same_tree(a: &Path, b: &Path, what: &str) {
    let script = "import sys, tree\nd = tree.differences(tree.tree(sys.argv[1]), tree.tree(sys.argv[2]))\nprint('\\n'.join(d[:20]))\nsys.exit(bool(d))";
    let out = python(script, &[a, b]);
    assert!(
        out.status.success(),
        "{what}:\n{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}
