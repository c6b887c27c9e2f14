//! What the command line says when it is used as other tools are, and its exit statuses.

use std::fs;
use std::process::{Output, Stdio};

use super::image::{self, Codec, Image, Item, layer};
use super::tool::{self, ERROR, FAILED, relayer};

/// A folder with images, a delta, and files that are neither.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let one = |text: &str| Image::new(vec![layer(&[Item::file("a", text)])]);
    fs::write(at("a.tar"), one("first").docker_new()).unwrap();
    fs::write(at("b.tar"), one("second").docker_new()).unwrap();
    fs::write(at("notes.txt"), "what to do\n".repeat(100)).unwrap();
    fs::write(at("empty.tar"), "").unwrap();
    for args in [
        &["split", "a.tar", "-o", "old.tar"][..],
        &["split", "b.tar", "-o", "new.tar"],
        &["delta", "old.tar", "new.tar", "-o", "new.delta"],
    ] {
        tool::ok(relayer().args(args).current_dir(&dir));
    }
    dir
}

fn run(dir: &tempfile::TempDir, args: &[&str]) -> Output {
    tool::output(relayer().args(args).current_dir(dir).env("XDG_DATA_HOME", dir.path()))
}

#[test]
fn what_beginners_write_is_answered_with_what_to_write() {
    let dir = folder();
    let before = fs::read_dir(&dir).unwrap().count();
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["split", "ghcr.io/foo/bar:latest"],
            FAILED,
            "docker://ghcr.io/foo/bar:latest in its registry",
        ),
        (&["inspect", "ubuntu"], FAILED, "docker-daemon:ubuntu in docker"),
        (&["split", "https://ghcr.io/foo/bar"], FAILED, "is named docker://ghcr.io/foo/bar"),
        (&["inspect", "docker:ghcr.io/foo/bar"], FAILED, "is named docker://ghcr.io/foo/bar"),
        (&["split", "a.tar", "-o", "new-folder/"], 2, "write oci:new-folder for an OCI layout"),
        (&["split", "a.tar", "-o", "x.tar.gz"], 2, "should not end with .gz; use .tar"),
        (
            &["split", "new.delta", "-o", "x.tar"],
            FAILED,
            "this is a delta, not an image; `relayer apply",
        ),
        (&["inspect", "notes.txt"], FAILED, "this is text, not a tar archive"),
        (&["inspect", "empty.tar"], FAILED, "is empty; `docker save`"),
        (
            &["apply", "new.delta", "old.tar", "-o", "x.tar"],
            FAILED,
            "`relayer apply old.tar new.delta`",
        ),
        (&["apply", "old.tar", "a.tar", "-o", "x.tar"], FAILED, "this is not a delta"),
        (&["split", "-", "-o", "x.tar"], FAILED, "standard input is empty; did the command"),
        (&["split", "a.tar", "--target", "1000"], 2, "can have 1 to 125 layers, since docker"),
        (
            &["apply", "a.tar", "d", "-o", "x", "--tag", "x"],
            2,
            "the tag is part of the name: oci:DIR:TAG",
        ),
        (&["copy", "a.tar", "oci:x", "-t", "x"], 2, "the tag is part of the name: oci:DIR:TAG"),
        (&["split", "a.tar", "x.tar"], 2, "the output is named with -o"),
        (&["split", "a.tar", "--layer-size", "10"], 2, "this is 10 bytes; did you mean 10MB?"),
        (&["man", "stroe"], FAILED, "there is no command stroe; `relayer --help` lists all"),
    ];
    for (args, status, text) in cases {
        let out = run(&dir, args);
        let errors = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(*status), "{args:?}: {errors}");
        // Wrong usage is told as the parser of arguments does.
        let start = if *status == 2 { "error: " } else { ERROR };
        assert!(errors.starts_with(start) && errors.contains(text), "{args:?}: {errors}");
        assert!(*status == 2 || errors.lines().count() == 1, "{args:?}: {errors}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), before);
    // What is small on purpose has a unit.
    let small = run(&dir, &["split", "a.tar", "--layer-size", "10B", "--dry-run", "-q"]);
    assert!(small.status.success(), "{}", tool::said(&small));
}

#[test]
fn the_exit_status_says_what_became_of_a_command() {
    let dir = folder();
    image::write_files(&dir.path().join("in"), &image::small().oci_files(Codec::Gzip));
    let mut commands: Vec<(&[&str], i32)> = vec![
        (&["split", "a.tar", "-o", "1"], 0),
        (&["split", "none.tar"], FAILED),
        (&["flatten", "a.tar", "-o", "2"], 0),
        (&["flatten", "none.tar"], FAILED),
        (&["inspect", "a.tar"], 0),
        (&["inspect", "a.tar", "--fail-on", "depth=0"], 1),
        (&["inspect", "none.tar"], FAILED),
        (&["verify", "a.tar", "a.tar"], 0),
        (&["verify", "a.tar", "b.tar"], 1),
        (&["verify", "a.tar", "none.tar"], FAILED),
        (&["diff", "a.tar", "b.tar"], 0),
        (&["diff", "a.tar", "none.tar"], FAILED),
        (&["bench", "a.tar"], 0),
        (&["bench", "none.tar"], FAILED),
        (&["report", "a.tar", "-o", "3"], 0),
        (&["report", "none.tar", "-o", "4"], FAILED),
        (&["delta", "old.tar", "new.tar", "-o", "5"], 0),
        (&["delta", "old.tar", "none.tar", "-o", "6"], FAILED),
        (&["apply", "old.tar", "new.delta", "-o", "7"], 0),
        (&["apply", "old.tar", "none.delta", "-o", "8"], FAILED),
        (&["copy", "in", "oci:9"], 0),
        (&["copy", "none.tar", "oci:10"], FAILED),
        (&["cache", "prune", "--cache", "c"], 0),
        (&["cache", "prune", "--cache", "a.tar"], FAILED),
        (&["completions", "bash"], 0),
        (&["man", "split"], 0),
        (&["man", "none"], FAILED),
    ];
    if cfg!(feature = "store") {
        commands.extend::<[(&[&str], i32); 17]>([
            (&["history", "add", "a.tar", "b.tar"], 0),
            (&["history", "add", "none.tar"], FAILED),
            (&["history", "show"], 0),
            (&["history", "show", "--history", "none"], FAILED),
            (&["store", "add", "a.tar", "--name", "app:v1"], 0),
            (&["store", "add", "none.tar"], FAILED),
            (&["store", "list"], 0),
            (&["store", "stats"], 0),
            (&["store", "extract", "app:v1", "-o", "11"], 0),
            (&["store", "extract", "none", "-o", "12"], FAILED),
            (&["store", "cat", "app:v1", "a"], 0),
            (&["store", "cat", "app:v1", "none"], FAILED),
            (&["store", "check"], 0),
            (&["store", "rm", "none"], FAILED),
            (&["store", "rm", "app:v1"], 0),
            (&["store", "gc"], 0),
            (&["store", "list", "--store", "a.tar"], FAILED),
        ]);
    }
    for (args, status) in commands {
        let out = run(&dir, args);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {}", tool::said(&out));
        let wrong = run(&dir, &[args, &["--frobnicate"]].concat());
        assert_eq!(wrong.status.code(), Some(2), "{args:?}: {}", tool::said(&wrong));
    }
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let dir = folder();
    let red = &format!("\u{1b}[1;31m{}\u{1b}[0m ", ERROR.trim_end());
    for (args, is_coloured) in [
        (&["inspect", "none.tar"][..], false),
        (&["inspect", "none.tar", "--color", "auto"], false),
        (&["inspect", "none.tar", "--color", "always"], true),
        (&["--color=always", "inspect", "none.tar", "--color=never"], false),
    ] {
        let out = run(&dir, args);
        let errors = String::from_utf8(out.stderr).unwrap();
        assert_eq!(errors.starts_with(red), is_coloured, "{args:?}: {errors}");
        assert_eq!(errors.contains('\u{1b}'), is_coloured, "{args:?}: {errors}");
    }
    // Wrong usage too.
    let out = run(&dir, &["--color", "always", "split"]);
    assert!(String::from_utf8(out.stderr).unwrap().contains("\u{1b}["));
    if !tool::needs("script") {
        return;
    }
    for (variable, is_coloured) in [("", true), ("NO_COLOR=1", false)] {
        let line = format!("{variable} {} inspect none.tar", env!("CARGO_BIN_EXE_relayer"));
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        let out = tool::output(script.stdin(Stdio::null()).current_dir(&dir));
        assert_eq!(tool::said(&out).contains(red), is_coloured, "{variable}: {}", tool::said(&out));
    }
}

#[test]
fn shells_complete_paths_clients_and_limits() {
    let script = tool::ok(relayer().args(["completions", "bash"]));
    for values in [
        "docker-20.10 docker containerd",
        "secret client waste=20% size=500MB",
        "auto always never",
    ] {
        assert!(script.contains(values), "{values}");
    }
    let script = tool::ok(relayer().args(["completions", "zsh"]));
    for line in
        [":image -- Read this image:_files'", ":SIZE:_default", "authfile=[Read credentials"]
    {
        assert!(script.contains(line), "{line}");
    }
    assert!(script.contains(":DIR:_files -/"));
}

#[test]
fn manual_pages_of_all_levels_have_examples() {
    let dir = folder();
    for page in [&["man"][..], &["man", "split"], &["man", "cache", "prune"]] {
        let out = run(&dir, page);
        let text = String::from_utf8(out.stdout).unwrap();
        for section in [".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
            assert!(text.contains(section), "{page:?}: {text}");
        }
    }
    let prune = run(&dir, &["man", "cache", "prune"]);
    assert!(String::from_utf8(prune.stdout).unwrap().contains("relayer\\-cache\\-prune"));
}
