//! Running relayer and the tools that judge it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

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
    command.output().unwrap_or_else(|e| {
        panic!("{}: {e}; install it with tests/run.sh", command.get_program().display())
    })
}

/// Everything that a terminal could get.
pub fn said(out: &Output) -> String {
    [&out.stdout[..], &out.stderr].map(String::from_utf8_lossy).concat()
}

/// Runs relayer, which must succeed.
pub fn split(args: &[&str]) -> String {
    ok(relayer().arg("split").args(args))
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
