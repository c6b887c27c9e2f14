//! The repository itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders by level: each may use those of lower levels, and itself.
const LEVELS: [&[&str]; 12] = [
    &["base"],
    &["model"],
    &["format"],
    &["transport", "simulate"],
    &["layers"],
    &["plan"],
    &["secrets", "compare"],
    &["split", "edit"],
    &["bench", "delta", "inspect", "rebase", "store"],
    &["page"],
    &["cli"],
    &["main"],
];

pub(crate) fn root() -> &'static Path {
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

/// Names and texts of all files below a folder.
fn texts(folder: &str) -> Vec<(String, String)> {
    let (dir, mut found) = (root().join(folder), Vec::new());
    files(&dir, &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|p| (name(p), fs::read_to_string(p).unwrap())).collect()
}

/// A file's code: no comments, and nothing that only tests have.
fn code(text: &str) -> String {
    let mut lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    let mut code = String::new();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        // As rustfmt has it, an item ends at its own indent.
        let end = line.replace("#[cfg(test)]", "}");
        let first = lines.find(|l| !l.trim_start().starts_with("#[")).unwrap_or_default();
        if !first.ends_with([';', '}', ',']) {
            lines.find(|l| *l == end);
        }
    }
    code
}

/// All paths that a tree of `use` names.
fn flatten(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, list)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        found.push(format!("{prefix}{path}"));
        return;
    };
    let (prefix, mut depth, mut from) = (format!("{prefix}{}", head.trim()), 0, 0);
    let list = list.trim_end().strip_suffix('}').unwrap();
    for (i, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !list[from..i].trim().is_empty() {
                    flatten(&prefix, list[from..i].trim(), found);
                }
                from = i + 1;
            }
            _ => {}
        }
    }
}

/// The module that a file is: `plan/mod.rs` is `plan`, `plan/cuts.rs` is `plan::cuts`.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// Which modules each module imports from. What a folder's own `mod.rs` has is the folder's
/// vocabulary: that its files use it is no import.
fn imports() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let is_test = |path: &str| path.split(['/', '.']).any(|p| p == "tests" || p == "testing");
    let files: Vec<_> = texts("src").into_iter().filter(|(path, _)| !is_test(path)).collect();
    let modules: BTreeSet<_> = files.iter().map(|(path, _)| module(path)).collect();
    let mut imports = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| path != "lib.rs") {
        let (own, code) = (module(path), code(text));
        let (mut paths, mut rest) = (Vec::new(), String::new());
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            let tree = line.split_once("use ").filter(|(before, tree)| {
                let before = before.trim();
                let begins = before.is_empty() || before == "pub" || before.starts_with("pub(");
                // A line of a message may begin with that word too.
                begins && (tree.contains("::") || tree.starts_with('{') || tree.ends_with(';'))
            });
            let Some((_, tree)) = tree else {
                rest.push_str(line);
                rest.push('\n');
                continue;
            };
            let mut tree = tree.to_owned();
            while !tree.ends_with(';') {
                tree.push_str(lines.next().unwrap().trim());
            }
            flatten("", tree.trim_end_matches(';'), &mut paths);
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        paths.extend(rest.split(|c| !is_path(c)).filter(|p| p.contains("::")).map(str::to_owned));
        let found: &mut BTreeSet<Vec<String>> = imports.entry(own.clone()).or_default();
        for path in paths {
            let mut parts = path.split("::").map(str::to_owned).peekable();
            let mut to = match parts.peek().map(String::as_str) {
                Some("crate") => Vec::new(),
                Some("super" | "self") => own.clone(),
                // A child, if it is one.
                Some(first) if modules.contains(&[&own[..], &[first.to_owned()]].concat()) => {
                    own.clone()
                }
                _ => continue,
            };
            for part in parts {
                match part.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(to.pop()),
                    _ => to.push(part),
                }
            }
            while !to.is_empty() && !modules.contains(&to) {
                to.pop();
            }
            if !to.is_empty() && to != own && !own.starts_with(&to) {
                found.insert(to);
            }
        }
    }
    imports
}

#[test]
fn imports_go_one_way() {
    let level = |module: &[String]| {
        let found = LEVELS.iter().position(|level| level.contains(&&*module[0]));
        found.unwrap_or_else(|| panic!("{} has no level in tests/it/tidy.rs", module[0]))
    };
    let mut imports = imports();
    for (own, used) in &imports {
        for used in used.iter().filter(|used| used[0] != own[0]) {
            let (own_name, used_name) = (own.join("::"), used.join("::"));
            assert!(level(used) < level(own), "{own_name} imports {used_name}, which is not below");
        }
    }
    // What imports nothing that is left is in no circle.
    while let Some(done) = {
        let free = imports.iter().find(|(_, used)| !used.iter().any(|u| imports.contains_key(u)));
        free.map(|(own, _)| own.clone())
    } {
        imports.remove(&done);
    }
    // What is left is in one, or leads to one; what nobody left imports is not in it.
    while let Some(above) = {
        let used: BTreeSet<_> = imports.values().flatten().collect();
        imports.keys().find(|own| !used.contains(own)).cloned()
    } {
        imports.remove(&above);
    }
    let circle: Vec<_> = imports.keys().map(|own| own.join("::")).collect();
    assert!(circle.is_empty(), "circles of imports among {}", circle.join(", "));
}

#[test]
fn files_are_short_and_finished() {
    for folder in ["src", "tests", "benches", "fuzz/fuzz_targets"] {
        for (path, text) in texts(folder) {
            let lines = text.lines().count();
            assert!(lines <= 500, "{folder}/{path} has {lines} lines");
            let is_this = folder == "tests" && path == "it/tidy.rs";
            for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"] {
                assert!(is_this || !text.contains(word), "{folder}/{path}: {word}");
            }
            let rust = Path::new(&path).extension().is_some_and(|e| e == "rs");
            let documented = text.starts_with("//!") || !rust;
            assert!(documented, "{folder}/{path} does not say what it is");
        }
    }
}

#[test]
fn functions_are_short() {
    for (path, text) in texts("src").into_iter().filter(|(path, _)| !path.contains("tests")) {
        let code = code(&text);
        let lines: Vec<&str> = code.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let words = line.trim_start();
            let is_function = words.starts_with("fn ")
                || words.starts_with("pub") && words.contains(" fn ") && !words.ends_with(';');
            if is_function {
                // As rustfmt has it, a function ends at its own indent.
                let end = format!("{}}}", &line[..line.len() - words.len()]);
                let length = lines[i..].iter().position(|l| *l == end).map_or(1, |n| n + 1);
                assert!(length <= 80, "{path}: {words} has {length} lines");
            }
        }
    }
}

/// A type that the whole crate can see shares its name with no other that leaves its file.
#[test]
fn types_have_names_of_their_own() {
    let mut places: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for (path, text) in texts("src") {
        for line in code(&text).lines().map(str::trim_start).filter(|l| l.starts_with("pub")) {
            let (scope, item) = line.split_once(' ').unwrap();
            let mut words = item.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let (Some("struct" | "enum" | "trait" | "type"), Some(name)) =
                (words.next(), words.next())
            {
                let everywhere = matches!(scope, "pub" | "pub(crate)");
                places.entry(name.to_owned()).or_default().push((path.clone(), everywhere));
            }
        }
    }
    places.retain(|_, of| of.len() > 1 && of.iter().any(|(_, everywhere)| *everywhere));
    assert!(places.is_empty(), "types of one name: {places:?}");
}

#[test]
fn the_changelog_knows_the_version() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.contains(concat!("## ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn no_document_names_a_file_that_is_not_there() {
    let mut found = ["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)).to_vec();
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

/// Whether a source declares an item of this name.
fn declares(text: &str, name: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "type", "const", "mod"];
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_').peekable();
    while let Some(word) = words.next() {
        if kinds.contains(&word) && words.peek() == Some(&name) {
            return true;
        }
    }
    false
}

#[test]
fn the_architecture_names_what_exists() {
    let doc = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let sources = texts("src");
    let mut found = 0;
    for name in doc.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '\n'])) {
        if let Some((scope, item)) = name.rsplit_once("::") {
            let scope = scope.rsplit("::").next().unwrap();
            let known = sources.iter().any(|(path, text)| {
                (path.split(['/', '.']).any(|part| part == scope) || declares(text, scope))
                    && declares(text, item)
            });
            assert!(known, "docs/ARCHITECTURE.md: `{name}`");
            found += 1;
        } else if name.contains('/') && name.strip_suffix(".rs").is_some() {
            assert!(root().join(name).exists(), "docs/ARCHITECTURE.md: `{name}`");
            found += 1;
        }
    }
    assert!(found > 30, "only {found} names were recognised");
}
