//! The repository itself.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by level: each may use those of lower levels, and its own.
const LEVELS: &[(&str, u32)] = &[
    ("error", 0),
    ("testing", 0),
    ("db", 1),
    ("number", 0),
    ("range", 0),
    ("digest", 1),
    ("chunk", 1),
    ("size", 1),
    ("progress", 1),
    ("fileset", 1),
    ("pull", 2),
    ("content", 2),
    ("mtime", 2),
    ("pattern", 2),
    ("oci", 2),
    ("tar", 3),
    ("codec", 4),
    ("recompress", 5),
    ("recode", 5),
    ("transport", 5),
    ("layer", 6),
    ("flatten", 7),
    ("analyze", 8),
    ("secrets", 9),
    ("plan", 9),
    ("recorded_times", 9),
    ("update", 10),
    ("encode", 10),
    ("verify", 2),
    ("report", 11),
    ("diff", 11),
    ("history", 11),
    ("split", 12),
    ("bench", 13),
    ("page", 14),
    ("inspect", 12),
    ("delta", 13),
    ("store", 13),
    ("cli", 15),
    ("main", 16),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py" || e == "sh" || e == "md")
        {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|p| (name(p), fs::read_to_string(p).unwrap())).collect()
}

#[test]
fn imports_go_one_way() {
    let level = |module: &str| {
        let found = LEVELS.iter().find(|(name, _)| *name == module);
        found.unwrap_or_else(|| panic!("{module} has no level in tests/it/tidy.rs")).1
    };
    for (path, text) in sources() {
        let own = path.split(['/', '.']).next().unwrap();
        if own == "lib" {
            continue;
        }
        // Tests and links in documentation may go anywhere.
        let code = text.split("#[cfg(test)]").next().unwrap().lines();
        let code: String = code.filter(|l| !l.trim_start().starts_with("//")).collect();
        for (i, _) in code.match_indices("crate::") {
            let used =
                code[i + 7..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            assert!(used == own || level(used) < level(own), "src/{path} uses crate::{used}");
        }
    }
}

#[test]
fn files_are_short_and_finished() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 500, "src/{path} has {lines} lines");
        for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"] {
            assert!(!text.contains(word), "src/{path}: {word}");
        }
        let documented = text.starts_with("//!");
        assert!(documented, "src/{path} does not say what it is");
    }
}

#[test]
fn the_changelog_knows_the_version() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.contains(concat!("## ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn no_document_names_a_file_that_is_not_there() {
    let mut found = vec![root().join("README.md")];
    files(&root().join("docs"), &mut found);
    for doc in found.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(doc).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "`()[],;:".contains(c)) {
            let word = word.trim_end_matches('.');
            let ours = ["src/", "docs/", "tests/", "benches/", "fuzz/", ".ci/"]
                .iter()
                .any(|d| word.starts_with(d));
            if ours && !word.contains(['*', '<', '{']) {
                assert!(root().join(word).exists(), "{} names {word}", doc.display());
            }
        }
    }
}
