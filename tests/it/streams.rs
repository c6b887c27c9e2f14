//! Standard output and error that are closed or full: what a command found or made is never lost
//! without a word.

use std::fs::{self, File};
use std::process::{Output, Stdio};

use super::image::{self, Codec};
use super::tool::{self, relayer};
use super::update::application;

/// The writing end of a pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn run(args: &[&str], stdout: Stdio) -> Output {
    tool::output(relayer().args(args).stdout(stdout))
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(place.at("a.tar"), image::small().docker_legacy()).unwrap();
        fs::write(place.at("b.tar"), application(1).docker_skopeo()).unwrap();
        tool::ok(
            relayer()
                .args(["delta", &place.at("a.tar"), &place.at("b.tar")])
                .args(["-o", &place.at("d")]),
        );
        image::small().write_layout(&place.dir.path().join("layout"), Codec::Gzip);
        place
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn only_what_is_said_to_people_may_get_lost() {
    let p = Place::new();
    let (a, b, d, out) = (p.at("a.tar"), p.at("b.tar"), p.at("d"), p.at("out.tar"));
    // What a reader that went away makes of a status; a full disk is always an error.
    for (args, status) in [
        (&["--help"][..], 0),
        (&["split", "--help"], 0),
        (&["--version"], 0),
        (&["verify", &a, &a], 0),
        (&["verify", &a, &b], 1),
        (&["verify", &a, &b, "--json"], tool::FAILED),
        (&["verify", &a, &a, "--json"], tool::FAILED),
        (&["inspect", &a], 0),
        (&["inspect", &a, "--fail-on", "waste=0%"], 1),
        (&["inspect", &a, "--json"], tool::FAILED),
        (&["diff", &a, &b], 0),
        (&["diff", &a, &b, "--json"], tool::FAILED),
        (&["bench", &a], 0),
        (&["bench", &a, "--json"], tool::FAILED),
        (&["split", &a, "-o", &out, "--force"], 0),
        (&["split", &a, "-o", &out, "--force", "--json"], tool::FAILED),
        (&["split", &a, "--dry-run"], 0),
        (&["flatten", &a, "-o", &out, "--force"], 0),
        (&["copy", &a, &out, "--force"], 0),
        (&["apply", &a, &d, "-o", &out, "--force"], 0),
        // What is made goes there.
        (&["split", &a, "-o", "-"], tool::FAILED),
        (&["flatten", &a, "-o", "-", "--quiet"], tool::FAILED),
        (&["copy", &a, "-"], tool::FAILED),
        (&["delta", &a, &b, "-o", "-"], tool::FAILED),
        (&["apply", &a, &d, "-o", "-"], tool::FAILED),
        (&["report", &a, "-o", "-"], tool::FAILED),
        (&["completions", "bash"], tool::FAILED),
        (&["man"], tool::FAILED),
    ] {
        let lost = run(args, closed());
        assert_eq!(lost.status.code(), Some(status), "{args:?}: {lost:?}");
        let lost = run(args, full());
        assert_eq!(lost.status.code(), Some(tool::FAILED), "{args:?}: {lost:?}");
        let text = String::from_utf8(lost.stderr).unwrap();
        assert!(text.contains("No space left on device"), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
    }
}

#[test]
fn a_closed_standard_error_changes_no_status() {
    let p = Place::new();
    let (a, b, out) = (p.at("a.tar"), p.at("b.tar"), p.at("out.tar"));
    for (args, status) in [
        (&["frobnicate"][..], 2),
        (&["split", "nowhere.tar"], tool::FAILED),
        (&["verify", &a, &b], 1),
        (&["inspect", &a, "--fail-on", "waste=0%"], 1),
        (&["split", &a, "-o", "-"], 0),
        // The document goes there.
        (&["split", &a, "-o", "-", "--json"], tool::FAILED),
        // Notes do.
        (&["split", &a, "-o", &out, "--long", "24"], 0),
    ] {
        let done = tool::output(relayer().args(args).stderr(closed()));
        assert_eq!(done.status.code(), Some(status), "{args:?}");
    }
}

#[test]
fn a_cut_off_archive_in_a_named_pipe_is_an_error() {
    let p = Place::new();
    let fifo = p.at("fifo");
    tool::fifo(fifo.as_ref());
    let reader = fifo.clone();
    // More than a pipe holds, so that the writer finds that its reader is gone.
    let reader = std::thread::spawn(move || {
        use std::io::Read as _;
        File::open(reader).unwrap().read_exact(&mut [0; 1000]).unwrap();
    });
    let out = run(&["split", &p.at("b.tar"), "-o", &fifo], Stdio::null());
    reader.join().unwrap();
    assert_eq!(out.status.code(), Some(tool::FAILED), "{out:?}");
}
