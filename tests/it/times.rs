//! Times that other files remember: judged by the tools that look at them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::image::{Codec, Image};
use super::tool;
use super::update::split;

/// An image of a folder's content, below that folder's own path.
fn pack(root: &Path, out: &Path) {
    let relative = root.strip_prefix("/").unwrap();
    let tar = tool::output(
        Command::new("tar").args(["-cf", "-", "--format=pax", "-C", "/"]).arg(relative),
    );
    assert!(tar.status.success());
    Image::new(vec![tar.stdout]).write_layout(out, Codec::Plain);
}

fn held(report: &Value) -> &Value {
    &report["images"][0]["held"]
}

fn verify(a: &Path, b: &Path) -> std::process::Output {
    let images = [a, b].map(|dir| format!("oci:{}", dir.display()));
    tool::output(tool::relayer().arg("verify").args(images).args(["--allow", "carried-mtimes"]))
}

/// A jar and its archive of classes, made anew with another time of the jar.
fn java(app: &Path, build: i64) {
    fs::create_dir_all(app).unwrap();
    let run = |program: &str, args: &[&str]| {
        tool::ok(Command::new(program).args(args).current_dir(app));
    };
    fs::write(
        app.join("App.java"),
        "public class App { public static void main(String[] a) { System.out.println(\"hello\"); } }",
    )
    .unwrap();
    if !app.join("app.jar").exists() {
        run("javac", &["-d", "classes", "App.java"]);
        run("jar", &["cf", "app.jar", "-C", "classes", "."]);
    }
    run("touch", &["-d", &format!("@{build}"), "app.jar"]);
    let jar = app.join("app.jar").display().to_string();
    let _ = fs::remove_file(app.join("app.jsa"));
    let archive = format!("-XX:ArchiveClassesAtExit={}", app.join("app.jsa").display());
    run("java", &[&archive, "-cp", &jar, "App"]);
}

/// Puts what a client would have in the place of `app`, and starts Java with the archive of
/// classes; it refuses when that can't be used.
fn starts(layout: &Path, app: &Path, work: &Path) -> bool {
    fs::create_dir_all(work).unwrap();
    let root = tool::unpack(layout, work);
    let _ = fs::remove_dir_all(app);
    let from = root.join(app.strip_prefix("/").unwrap());
    tool::ok(Command::new("cp").arg("-a").arg(from).arg(app));
    let archive = format!("-XX:SharedArchiveFile={}", app.join("app.jsa").display());
    let jar = app.join("app.jar").display().to_string();
    let out = tool::output(Command::new("java").args(["-Xshare:on", &archive, "-cp", &jar, "App"]));
    out.status.success() && out.stdout == b"hello\n"
}

#[test]
fn java_takes_its_archive_of_classes_whatever_changes_times() {
    if !tool::needs("java, javac, jar, tar, touch, cp, umoci, python3, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let app = at("app");
    java(&app, 1_760_000_000);
    pack(&app, &at("v1"));
    java(&app, 1_761_000_000);
    pack(&app, &at("v2"));
    split(&at("v1"), None, &at("one"), &[]);
    let cases: [(&str, Option<PathBuf>, &[&str]); 6] = [
        ("carried", Some(at("one")), &[]),
        ("zero", None, &["--mtime", "zero"]),
        ("clamp", None, &["--mtime", "clamp:2001-01-01"]),
        ("stable", None, &["--mtime", "stable"]),
        ("both", Some(at("one")), &["--mtime", "zero"]),
        ("both stable", Some(at("one")), &["--mtime", "stable"]),
    ];
    for (name, previous, options) in cases {
        let report = split(&at("v2"), previous.as_deref(), &at(name), options);
        assert_eq!(held(&report)["by"]["JVM archives"], 1, "{name}: {report}");
        assert!(starts(&at(name), &app, &at("work")), "{name}");
        if options.is_empty() {
            assert!(verify(&at("v2"), &at(name)).status.success());
        }
    }
    // An image that took over the jar's time has a broken archive, and differs.
    let old = tool::ok(Command::new("touch").arg("-d@1760000000").arg(app.join("app.jar")));
    assert!(old.is_empty());
    pack(&app, &at("broken"));
    let out = verify(&at("v2"), &at("broken"));
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("app.jar: mtime"), "{text}");
    assert!(text.contains("other files record: JVM archives (1)"), "{text}");
    assert!(!starts(&at("broken"), &app, &at("work")));
}

/// Compiled Python in every form that the interpreter writes.
const COMPILE: &str = r#"
import os, py_compile, sys
from py_compile import PycInvalidationMode as Mode
root, time = sys.argv[1], int(sys.argv[2])
os.makedirs(root)
for i in range(40):
    path = f"{root}/m{i}.py"
    with open(path, "w") as f:
        f.write(f"VALUE = {i}\n")
    os.utime(path, (time + i,) * 2)
    modes = [Mode.TIMESTAMP, Mode.CHECKED_HASH, Mode.UNCHECKED_HASH]
    py_compile.compile(path, invalidation_mode=modes[i % 3], doraise=True)
    if i % 2:
        py_compile.compile(path, optimize=1, doraise=True)
    if i % 5 == 0:
        py_compile.compile(path, cfile=f"{root}/m{i}.pyc", doraise=True)
os.utime(f"{root}/m39.py", (time + 999,) * 2)   # out of step
"#;

/// Prints how many compiled files are in step, out of step, and of no matter.
const JUDGE: &str = r#"
import glob, importlib.util, os, sys
count = [0, 0, 0]
for path in sorted(glob.glob(f"{sys.argv[1]}/**/*.pyc", recursive=True)):
    with open(path, "rb") as f:
        head = f.read(16)
    assert head[:4] == importlib.util.MAGIC_NUMBER
    source = importlib.util.source_from_cache(path) if "__pycache__" in path else path[:-1]
    if head[4] & 1:
        count[2] += 1
    else:
        stat = os.stat(source)
        fits = head[8:16] == (int(stat.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + stat.st_size.to_bytes(4, "little")
        count[not fits] += 1
print(*count)
"#;

#[test]
fn python_finds_its_compiled_files_in_step_under_every_rule() {
    if !tool::needs("python3, tar, touch, umoci, root") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let made = tool::python(COMPILE, &[&at("lib"), Path::new("1700000000")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    pack(&at("lib"), &at("in"));
    let judge = |layout: &str| {
        fs::create_dir_all(at("work")).unwrap();
        let root = tool::unpack(&at(layout), &at("work"));
        let lib = root.join(at("lib").strip_prefix("/").unwrap());
        String::from_utf8(tool::python(JUDGE, &[&lib]).stdout).unwrap()
    };
    split(&at("in"), None, &at("plain"), &[]);
    let want = judge("plain");
    // 14 by time and 26 by hash, 20 optimized, 8 beside their source; the last source is newer.
    assert_eq!(want.trim(), "40 2 26");
    for rule in ["zero", "stable", "clamp:2001-01-01", "clamp:@1700000020"] {
        let report = split(&at("in"), None, &at("out"), &["--mtime", rule]);
        assert_eq!(judge("out"), want, "{rule}");
        assert!(held(&report)["restamped"].as_u64().unwrap() > 10, "{report}");
        assert!(verify(&at("in"), &at("out")).status.success(), "{rule}");
        let images = ["in", "out"].map(|name| format!("oci:{}", at(name).display()));
        let exact = ["--allow", &format!("mtime={rule}")];
        tool::ok(tool::relayer().arg("verify").args(images).args(exact));
        // And so it is with a previous image of the same rule, which stays as it is.
        let again = split(&at("in"), Some(&at("out")), &at("again"), &["--mtime", rule]);
        assert_eq!(again["digest"], report["digest"], "{rule}");
    }
    let zero = split(&at("in"), None, &at("out"), &["--mtime", "zero"]);
    assert_eq!(held(&zero)["by"], serde_json::json!({}), "nothing had to be held back");
    // A source that has another time than its compiled file notes makes an image differ.
    tool::ok(Command::new("touch").arg("-d@0").arg(at("lib/m0.py")));
    pack(&at("lib"), &at("broken"));
    let out = verify(&at("in"), &at("broken"));
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).contains("m0.py: mtime"));
}
