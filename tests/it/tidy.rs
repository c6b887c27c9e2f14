//! The repository itself.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by level: each may use those of lower levels, and its own.
const LEVELS: &[(&str, u32)] = &[
    ("text", 0),
    ("threads", 3),
    ("error", 1),
    ("testing", 0),
    ("limits", 0),
    ("db", 2),
    ("number", 0),
    ("range", 0),
    ("digest", 2),
    ("chunk", 2),
    ("temporary", 2),
    ("size", 2),
    ("progress", 2),
    ("fileset", 2),
    ("pull", 3),
    ("content", 3),
    ("mtime", 3),
    ("pattern", 3),
    ("oci", 3),
    ("tar", 4),
    ("codec", 5),
    ("recompress", 6),
    ("recode", 6),
    ("transport", 6),
    ("layer", 7),
    ("flatten", 8),
    ("analyze", 9),
    ("secrets", 10),
    ("plan", 10),
    ("recorded_times", 10),
    ("update", 11),
    ("encode", 11),
    ("verify", 3),
    ("report", 12),
    ("diff", 12),
    ("history", 12),
    ("split", 13),
    ("bench", 14),
    ("page", 15),
    ("inspect", 13),
    ("delta", 14),
    ("store", 14),
    ("cli", 16),
    ("main", 17),
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
