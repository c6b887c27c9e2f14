//! Checks of the merged package databases: what packages need, what they break, and the files that they
//! list.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::databases::value;
use super::owners::{name, text};
use super::records::split;
use super::{Judge, MergeItem, Reason};
use crate::base::error::Result;
use crate::base::limits::{MAX_LOOKUPS, MAX_TEXTS};
use crate::model::fileset::{FileSet, base_name, display, join, parent, parts};
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{APK_INSTALLED, DPKG_INFO, DPKG_STATUS};

/// A package and what it lacks or breaks.
type Problems = BTreeSet<(String, String)>;

/// Finds packages whose needs were met in the image or in the new base, and are not in the result.
///
/// # Errors
/// If a database can't be read.
pub(super) fn check(
    merged: &Rootfs,
    [app, new]: [&Rootfs; 2],
    judge: &mut Judge<'_>,
) -> Result<()> {
    let mut left = MAX_TEXTS;
    let databases = [(DPKG_STATUS, dpkg_problems as fn(&[u8]) -> Problems)];
    let databases =
        databases.into_iter().chain(APK_INSTALLED.map(|path| (path, apk_problems as _)));
    for (path, problems) in databases {
        let mut of = |rootfs: &Rootfs| -> Result<Problems> {
            let text = text(rootfs, path, &mut left)?;
            Ok(text.map_or_else(Problems::new, |text| problems(&text)))
        };
        let (found, before) = (of(merged)?, [of(app)?, of(new)?]);
        for problem in found.iter().filter(|p| !before.iter().any(|all| all.contains(p))) {
            let item = MergeItem::Record(path.into(), format!("{}: {}", problem.0, problem.1));
            judge.decide(item, Reason::Dependency);
        }
    }
    judge.notes.extend(missing_files(merged, [app, new], &mut left)?);
    Ok(())
}

/// Returns a note on files that a package lists and that the result lacks, although the image or the new
/// base with this list has them.
fn missing_files(merged: &Rootfs, sides: [&Rootfs; 2], left: &mut u64) -> Result<Option<String>> {
    let (mut missing, mut first) = (0_u64, None);
    let mut lookups = MAX_LOOKUPS;
    for entry in merged.files.below(DPKG_INFO) {
        let Some(package) = base_name(&entry.path).strip_suffix(b".list") else { continue };
        let kind = &merged.files.inode(entry).kind;
        let with_list =
            |side: &&&Rootfs| side.files.get(&entry.path).is_some_and(|i| i.kind.same(kind));
        let with_list: Vec<_> = sides.iter().filter(with_list).collect();
        let Some(list) = text(merged, &entry.path, left)? else { continue };
        for path in list.split(|b| *b == b'\n').filter(|path| !path.is_empty()) {
            let mut has = |rootfs: &Rootfs| exists(&rootfs.files, path, &mut lookups);
            if !has(merged) && !with_list.is_empty() && with_list.iter().all(|side| has(side)) {
                missing += 1;
                first.get_or_insert_with(|| (name(package), path.to_vec()));
            }
        }
    }
    Ok(first.map(|(package, path)| {
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        format!(
            "files that packages list and the result lacks: {}, such as {} of {package}; `dpkg --verify` lists all",
            missing,
            display(path)
        )
    }))
}

/// Returns whether a path exists, whose folders may be links. Without lookups left, it counts as missing.
fn exists(files: &FileSet, path: &[u8], lookups: &mut u64) -> bool {
    let path: Vec<_> = parts(path).filter(|part| *part != b".").collect();
    let path = path.join(&b'/');
    let through_links = || {
        let dir = files.resolve_within(parent(&path)?, lookups)?;
        files.get(&join(&dir, base_name(&path)))
    };
    path.is_empty() || files.get(&path).or_else(through_links).is_some()
}

/// What satisfies dependencies: names with a version, or without one.
type Provided<'a> = BTreeMap<&'a [u8], Vec<(&'a [u8], Option<&'a [u8]>)>>;

fn paragraphs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(text, b"\n\n")
}

fn list<'a>(paragraph: &'a [u8], field: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let text = value(paragraph, field).unwrap_or_default();
    text.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// A relation and a version: `>=` and `2.36`.
type Versions<'a> = (&'a [u8], &'a [u8]);

/// Returns the name in `libc6:any (>= 2.36)`, and the relation and version.
fn relation(text: &[u8]) -> (&[u8], Option<Versions<'_>>) {
    let (name, rest) = match text.iter().position(|b| *b == b'(') {
        Some(at) => (text[..at].trim_ascii(), text[at + 1..].trim_ascii()),
        None => (text, &b""[..]),
    };
    let name = name.split(|b| *b == b':').next().unwrap_or(name);
    let rest = rest.strip_suffix(b")").unwrap_or(rest).trim_ascii();
    let end = rest.iter().position(|b| !b"<>=".contains(b)).unwrap_or(rest.len());
    let versioned = (!rest.is_empty()).then(|| (&rest[..end], rest[end..].trim_ascii()));
    (name, versioned)
}

fn holds(version: &[u8], (relation, wanted): Versions<'_>) -> bool {
    let order = compare(version, wanted);
    match relation {
        b"<<" => order.is_lt(),
        b"<=" | b"<" => order.is_le(),
        b">>" => order.is_gt(),
        b">=" | b">" => order.is_ge(),
        _ => order.is_eq(),
    }
}

/// Returns what installed packages of dpkg lack or break.
fn dpkg_problems(status: &[u8]) -> Problems {
    let installed =
        |p: &&[u8]| value(p, b"Status:").is_some_and(|status| status.ends_with(b" installed"));
    let all: Vec<&[u8]> = paragraphs(status).filter(installed).collect();
    let mut provided = Provided::new();
    for paragraph in &all {
        let package = value(paragraph, b"Package:").unwrap_or_default();
        let version = value(paragraph, b"Version:");
        provided.entry(package).or_default().push((package, version));
        for item in list(paragraph, b"Provides:") {
            let (name, versioned) = relation(item);
            let version = versioned.map(|(_, version)| version);
            provided.entry(name).or_default().push((package, version));
        }
    }
    // Beyond that many comparisons, everything counts as met, and nothing as broken.
    let left = Cell::new(MAX_LOOKUPS);
    let is_met = |item: &[u8], except: Option<&[u8]>| {
        let (name, versioned) = relation(item);
        let found = provided.get(name).map(Vec::as_slice).unwrap_or_default();
        left.set(left.get().saturating_sub(found.len() as u64));
        if left.get() == 0 {
            return except.is_none();
        }
        found.iter().filter(|(package, _)| Some(*package) != except).any(|(_, version)| {
            versioned.is_none_or(|wanted| version.is_some_and(|version| holds(version, wanted)))
        })
    };
    let mut problems = Problems::new();
    for paragraph in &all {
        let package = value(paragraph, b"Package:").unwrap_or_default();
        for field in [&b"Depends:"[..], b"Pre-Depends:"] {
            for item in list(paragraph, field) {
                let mut choices = item.split(|b| *b == b'|').map(<[u8]>::trim_ascii);
                if !choices.any(|choice| is_met(choice, None)) {
                    problems.insert((name(package), format!("needs {}", item.escape_ascii())));
                }
            }
        }
        for field in [&b"Conflicts:"[..], b"Breaks:"] {
            for item in list(paragraph, field).filter(|item| is_met(item, Some(package))) {
                problems.insert((name(package), format!("breaks {}", item.escape_ascii())));
            }
        }
    }
    problems
}

/// Returns what packages of apk lack. Their versions are not compared.
fn apk_problems(installed: &[u8]) -> Problems {
    let words = |paragraph, field| {
        let text: &[u8] = value(paragraph, field).unwrap_or_default();
        text.split(|b| *b == b' ').filter(|word| !word.is_empty())
    };
    let bare = |word: &[u8]| -> Vec<u8> {
        word.split(|b| b"<>=~@".contains(b)).next().unwrap_or_default().to_vec()
    };
    let mut provided = BTreeSet::new();
    for paragraph in paragraphs(installed) {
        provided.extend(value(paragraph, b"P:").map(<[u8]>::to_vec));
        provided.extend(words(paragraph, b"p:").map(bare));
        // Files satisfy `/bin/sh` too.
        let mut dir = &b""[..];
        for line in paragraph.split(|b| *b == b'\n') {
            match line.get(..2) {
                Some(b"F:") => dir = &line[2..],
                Some(b"R:") => {
                    provided.insert([b"/", dir, b"/", &line[2..]].concat());
                }
                _ => {}
            }
        }
    }
    let mut problems = Problems::new();
    for paragraph in paragraphs(installed) {
        let package = value(paragraph, b"P:").unwrap_or_default();
        for word in words(paragraph, b"D:") {
            let (text, wanted) = match word.strip_prefix(b"!") {
                Some(word) => (format!("breaks {}", word.escape_ascii()), (word, true)),
                None => (format!("needs {}", word.escape_ascii()), (word, false)),
            };
            if provided.contains(&bare(wanted.0)) == wanted.1 {
                problems.insert((name(package), text));
            }
        }
    }
    problems
}

/// Compares versions as dpkg does: deb-version(7).
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let pairs = parts_of(a).into_iter().zip(parts_of(b));
    pairs.map(|(a, b)| compare_part(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Returns the epoch, the version and the revision, which are empty if they are missing.
fn parts_of(version: &[u8]) -> [&[u8]; 3] {
    let (epoch, rest) = match version.iter().position(|b| *b == b':') {
        Some(at) => (&version[..at], &version[at + 1..]),
        None => (&b""[..], version),
    };
    match rest.iter().rposition(|b| *b == b'-') {
        Some(at) => [epoch, &rest[..at], &rest[at + 1..]],
        None => [epoch, rest, b""],
    }
}

/// Compares in turn texts without digits and numbers.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    // A tilde sorts before the end, letters before all other characters.
    let weight = |c: Option<&u8>| match c {
        None => 0,
        Some(b'~') => -1,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    };
    let digits = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
    while !a.is_empty() || !b.is_empty() {
        while a.first().is_some_and(|c| !c.is_ascii_digit())
            || b.first().is_some_and(|c| !c.is_ascii_digit())
        {
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => {
                    (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
                }
                order => return order,
            }
        }
        let ((number_a, rest_a), (number_b, rest_b)) =
            (a.split_at(digits(a)), b.split_at(digits(b)));
        let [number_a, number_b] = [number_a, number_b].map(|number| {
            let zeros = number.iter().take_while(|c| **c == b'0').count();
            &number[zeros..]
        });
        let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::analyze::fixture::Fixture;

    #[test]
    fn versions_are_ordered_as_by_dpkg() {
        let ordered = [
            "1~~",
            "1~~a",
            "1~",
            "1",
            "1.0-1",
            "1.0-1+deb12u1",
            "1.0-2",
            "1.0a",
            "1.0+b",
            "1.2",
            "1.10",
            "0:2",
            "1:0.1",
            "10:0",
        ];
        for pair in ordered.windows(2) {
            assert!(compare(pair[0].as_bytes(), pair[1].as_bytes()).is_lt(), "{pair:?}");
            assert!(compare(pair[1].as_bytes(), pair[0].as_bytes()).is_gt(), "{pair:?}");
        }
        assert!(compare(b"0:1.00", b"1.0").is_eq() && compare(b"", b":").is_eq());
    }

    fn problems(status: &str) -> Vec<String> {
        dpkg_problems(status.as_bytes())
            .into_iter()
            .map(|(p, text)| format!("{p} {text}"))
            .collect()
    }

    #[test]
    fn needs_are_met_by_versions_choices_and_what_is_provided() {
        let on = "Status: install ok installed\n";
        let base = format!(
            "Package: libc6\n{on}Version: 2.36-9\nProvides: libc (= 2.36), virtual\n\nPackage: old\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        );
        let with =
            |fields: &str| problems(&format!("{base}Package: a\n{on}Version: 1\n{fields}\n\n"));
        for met in [
            "Depends: libc6 (>= 2.36), libc (>= 2), none | virtual, libc6:any",
            "Breaks: libc6 (<< 2.36), a (<< 5), old",
        ] {
            assert!(with(met).is_empty(), "{met}: {:?}", with(met));
        }
        assert_eq!(with("Pre-Depends: libc6 (>= 2.37)"), ["a needs libc6 (>= 2.37)"]);
        assert_eq!(with("Depends: virtual (>= 1), old"), ["a needs old", "a needs virtual (>= 1)"]);
        assert_eq!(with("Conflicts: libc"), ["a breaks libc"]);
        let apk = b"P:musl\np:so:libc.musl.so.1=1\nF:bin\nR:sh\n\nP:a\nD:so:libc.musl.so.1 musl>=1 /bin/sh !b so:libssl.so.3\n\n";
        let found: Vec<_> = apk_problems(apk).into_iter().collect();
        assert_eq!(found, [("a".into(), "needs so:libssl.so.3".into())]);
    }

    #[test]
    fn files_that_a_package_lists_must_be_there() {
        let set = |file: &str| {
            Fixture::default()
                .file("var/lib/dpkg/info/a.list", "/.\n/bin/a\n")
                .file(file, "x")
                .symlink("bin", "usr/bin")
                .build()
        };
        let (with, without) = (set("usr/bin/a"), set("usr/bin/b"));
        let mut left = MAX_TEXTS;
        let mut note = |merged, sides| missing_files(merged, sides, &mut left).unwrap();
        assert_eq!(note(&with, [&with, &without]), None);
        assert_eq!(note(&without, [&without, &with]), None);
        assert!(note(&without, [&with, &with]).unwrap().contains("/bin/a of a"));
    }
}
