//! What people see of a transfer: bars on a terminal, warnings of the registry.

use std::path::Path;
use std::process::Output;

use super::*;
use crate::registry::{Fault, Faults, On, Profile};
use crate::tool;

/// Runs a command at a terminal, which has no size.
const AT_TERMINAL: &str = "\
import os, pty, sys
os.environ['TERM'] = 'xterm'
sys.exit(os.waitstatus_to_exitcode(pty.spawn([os.fsdecode(arg) for arg in sys.argv[1:]])))";

fn at_terminal(dir: &Path, args: &[&str]) -> Output {
    let (binary, cache) = (env!("CARGO_BIN_EXE_relayer"), dir.join("cache"));
    let args = std::iter::once(&binary).chain(args).map(Path::new);
    let args: Vec<_> = args.chain([Path::new("--cache"), &cache]).collect();
    tool::python(AT_TERMINAL, &args)
}

/// Text without the sequences that move a cursor or set colours.
fn plain(out: &Output) -> String {
    let mut text = String::new();
    let said = tool::said(out);
    let mut chars = said.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // `ESC [`, numbers, and the letter that ends them.
            let _ = chars.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else {
            text.push(c);
        }
    }
    text
}

#[test]
fn a_terminal_shows_each_blob_of_a_push_and_of_a_pull() {
    if !tool::needs("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = of_layers(&[(1, 300_000), (2, 400_000), (3, 500_000)]).oci_files(Codec::Plain);
    image::write_files(&dir.path().join("in"), &files);
    let registry = TestRegistry::start(Profile::plain());
    let name = registry.reference("app:v1");
    let from = format!("oci:{}", dir.path().join("in").display());
    let to = format!("oci:{}", dir.path().join("out").display());
    // Each waits in the middle for longer than it takes to draw.
    let stalls = |on| Faults::none().times(on, 0, 10, Fault::Stall(100_000, 700));
    let layers: Vec<_> = blobs(&files).into_iter().filter(|(_, b)| b.len() > 100_000).collect();
    assert_eq!(layers.len(), 3);
    for (way, on, from, to) in
        [("upload", On::UploadPut, &from, &name), ("download", On::BlobGet, &name, &to)]
    {
        registry.set_faults(stalls(on));
        let out = at_terminal(dir.path(), &["copy", from, to]);
        let text = plain(&out);
        assert!(out.status.success(), "{text}");
        let host = registry.host();
        assert!(text.contains(&format!("/4 {host}/app:v1")), "{way}: {text}");
        for (digest, bytes) in &layers {
            let short = &digest["sha256:".len()..][..12];
            let row = text.split(['\r', '\n']).find(|row| row.contains(short));
            let row = row.unwrap_or_else(|| panic!("{way} of {short} is not shown: {text}"));
            let total = format!("of {:.1} kB,", bytes.len() as f64 / 1e3);
            assert!(row.contains(&total) && row.contains("/s"), "{way}: {row}");
        }
        // What is there need not be transferred, and has no bar.
        let out = at_terminal(dir.path(), &["copy", "--force", from, to]);
        let text = plain(&out);
        assert!(out.status.success(), "{text}");
        for (digest, _) in &layers {
            let short = &digest["sha256:".len()..][..12];
            assert!(!text.contains(&format!("  {short}")), "{way} of {short} is shown: {text}");
        }
        for option in ["-q", "--json"] {
            let out = at_terminal(dir.path(), &["copy", "--force", from, to, option]);
            assert!(!tool::said(&out).contains("load "), "{option}: {}", tool::said(&out));
        }
    }
}

#[test]
fn a_warning_of_a_registry_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let files = usual();
    image::write_files(&dir.path().join("in"), &files);
    let warning = Some(r#"goes away on \"Monday\""#);
    let registry = TestRegistry::start(Profile { warning, ..Profile::plain() });
    let name = registry.reference("app:v1");
    let copy = |option: &str| {
        let mut relayer = tool::relayer();
        relayer.args(["copy", "in", &name, "--cache-size", "0", option]).current_dir(dir.path());
        let out = tool::output(&mut relayer);
        assert!(out.status.success(), "{}", tool::said(&out));
        String::from_utf8(out.stderr).unwrap()
    };
    let host = registry.host();
    assert_eq!(copy("-v"), format!("note: {host} warns: goes away on \"Monday\"\n"));
    assert_eq!(copy("-q"), "");
}
