//! The files that are merged by record, and those that are derived from others.

use std::collections::{BTreeMap, BTreeSet};

use super::Judge;
use super::records::{self, RecordFormat, fields, members};
use crate::model::fileset::{base_name, parent};
use crate::plan::analyze::{APK_INSTALLED, DPKG_STATUS};

/// Files that a tool derives from others, with the command that does so, or that nothing depends on. A
/// name that ends with `/` stands for all that is in a folder, `*` for any text before it.
const DERIVED: [(&str, &str); 27] = [
    ("etc/ld.so.cache", "ldconfig"),
    ("etc/ssl/certs/java/cacerts", "update-ca-certificates -f"),
    ("*/icon-theme.cache", "update-icon-caches"),
    ("usr/share/mime/mime.cache", "update-mime-database /usr/share/mime"),
    ("usr/share/glib-2.0/schemas/gschemas.compiled", "glib-compile-schemas"),
    ("usr/share/applications/mimeinfo.cache", "update-desktop-database"),
    ("usr/lib/locale/locale-archive", "locale-gen"),
    ("usr/share/info/dir", "update-info-dir"),
    ("var/cache/man/", "mandb"),
    ("var/cache/fontconfig/", "fc-cache"),
    ("var/cache/ldconfig/aux-cache", ""),
    ("var/cache/apt/", ""),
    ("var/lib/apt/lists/", ""),
    ("etc/machine-id", ""),
    ("var/lib/dbus/machine-id", ""),
    ("etc/group-", ""),
    ("etc/gshadow-", ""),
    ("etc/passwd-", ""),
    ("etc/shadow-", ""),
    ("etc/subgid-", ""),
    ("etc/subuid-", ""),
    ("var/lib/dpkg/status-old", ""),
    ("var/lib/dpkg/diversions-old", ""),
    ("var/lib/dpkg/statoverride-old", ""),
    ("var/cache/debconf/config.dat-old", ""),
    ("var/cache/debconf/templates.dat-old", ""),
    ("var/log/", ""),
];

/// Returns the command that derives the file at `path` from others; it is empty for backups, downloads
/// and logs, which nothing depends on.
pub(super) fn derived(path: &[u8]) -> Option<&'static str> {
    let is = |name: &str| match name.strip_prefix('*') {
        Some(end) => path.ends_with(end.as_bytes()),
        None if name.ends_with('/') => path.starts_with(name.as_bytes()),
        None => path == name.as_bytes(),
    };
    DERIVED.iter().find(|(name, _)| is(name)).map(|(_, command)| *command)
}

/// Returns whether a derived file is made from the file at `path`.
pub(super) fn is_input(derived: &[u8], path: &[u8]) -> bool {
    let below = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
    match derived {
        b"etc/ld.so.cache" => {
            path.starts_with(b"etc/ld.so.conf") || base_name(path).windows(3).any(|w| w == b".so")
        }
        b"usr/lib/locale/locale-archive" => below(b"usr/share/i18n") || path == b"etc/locale.gen",
        b"etc/ssl/certs/java/cacerts" => below(b"etc/ssl/certs"),
        _ if derived.starts_with(b"var/cache/man") => below(b"usr/share/man"),
        _ if derived.starts_with(b"var/cache/fontconfig") => below(b"usr/share/fonts"),
        _ => parent(derived).is_some_and(below),
    }
}

/// Returns how the file at `path` consists of records, if it is known.
pub(super) fn format(path: &[u8]) -> Option<RecordFormat> {
    const LINES: RecordFormat =
        RecordFormat { end: b"\n", key: whole, merge: |_, _, _| None, id: |_| None };
    let users = |id: fn(&[u8]) -> Option<&[u8]>, merge| {
        Some(RecordFormat { end: b"\n", key: name, merge, id })
    };
    if APK_INSTALLED.contains(&path) {
        return Some(RecordFormat { end: b"\n\n", key: apk_package, ..LINES });
    }
    match path {
        DPKG_STATUS => Some(RecordFormat { end: b"\n\n", key: package, merge: hold, id: |_| None }),
        b"var/cache/debconf/config.dat"
        | b"var/cache/debconf/templates.dat"
        | b"var/cache/debconf/passwords.dat" => {
            Some(RecordFormat { end: b"\n\n", key: question, merge: paragraph, id: |_| None })
        }
        b"var/lib/apt/extended_states" => {
            Some(RecordFormat { end: b"\n\n", key: package_of_apt, merge: paragraph, id: |_| None })
        }
        b"etc/ssl/certs/ca-certificates.crt" => {
            Some(RecordFormat { end: b"-----END CERTIFICATE-----\n", ..LINES })
        }
        b"var/lib/dpkg/statoverride" => Some(RecordFormat { key: last_word, ..LINES }),
        b"etc/apk/world"
        | b"etc/shells"
        | b"etc/ca-certificates.conf"
        | b"lib/apk/db/triggers"
        | b"var/lib/dpkg/triggers/File"
        | b"var/lib/dpkg/triggers/Unincorp" => Some(LINES),
        b"etc/passwd" | b"etc/group" => users(third, user),
        b"etc/shadow" => users(|_| None, password),
        b"etc/gshadow" => users(|_| None, user),
        b"etc/subuid" | b"etc/subgid" => users(second, |_, _, _| None),
        _ => None,
    }
}

/// Merges the texts of a file that is known; returns `None` for others.
pub(super) fn merge(path: &[u8], texts: [&[u8]; 3], judge: &mut Judge<'_>) -> Option<Vec<u8>> {
    records::merge(&format(path)?, path, texts, judge)
}

fn whole(line: &[u8]) -> Option<Vec<u8>> {
    (!line.is_empty()).then(|| line.to_vec())
}

fn column(line: &[u8], i: usize) -> Option<&[u8]> {
    line.split(|b| *b == b':').nth(i).filter(|text| !text.is_empty())
}

fn name(line: &[u8]) -> Option<Vec<u8>> {
    column(line, 0).map(<[u8]>::to_vec)
}

fn second(line: &[u8]) -> Option<&[u8]> {
    column(line, 1)
}

fn third(line: &[u8]) -> Option<&[u8]> {
    column(line, 2)
}

fn last_word(line: &[u8]) -> Option<Vec<u8>> {
    line.rsplit(|b| *b == b' ').next().map(<[u8]>::to_vec)
}

/// Returns the value of a field of a paragraph.
pub(super) fn value<'a>(paragraph: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    let mut lines = paragraph.split(|b| *b == b'\n');
    lines.find_map(|line| line.strip_prefix(field)).map(<[u8]>::trim_ascii)
}

/// Returns name and architecture: a package may be installed for several. NUL sorts them as dpkg does.
fn package(paragraph: &[u8]) -> Option<Vec<u8>> {
    let name = value(paragraph, b"Package:")?;
    let multi = value(paragraph, b"Multi-Arch:") == Some(b"same");
    match value(paragraph, b"Architecture:").filter(|_| multi) {
        Some(architecture) => Some([name, architecture].join(&b'\0')),
        None => Some(name.to_vec()),
    }
}

fn package_of_apt(paragraph: &[u8]) -> Option<Vec<u8>> {
    Some([value(paragraph, b"Package:")?, value(paragraph, b"Architecture:")?].join(&b'\0'))
}

fn apk_package(paragraph: &[u8]) -> Option<Vec<u8>> {
    value(paragraph, b"P:").map(<[u8]>::to_vec)
}

/// Returns the name of a question of debconf, or of its template.
fn question(paragraph: &[u8]) -> Option<Vec<u8>> {
    value(paragraph, b"Name:").map(<[u8]>::to_vec)
}

/// Merges two changes of a paragraph by field. `Owners` is a list of packages.
fn paragraph(old: &[u8], app: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let sides = [old, app, new].map(fields_of);
    let maps = sides.each_ref().map(|side| side.iter().copied().collect::<BTreeMap<_, _>>());
    let mut seen = BTreeSet::new();
    let mut merged = Vec::new();
    for (name, _) in [2, 1, 0].iter().flat_map(|side| &sides[*side]) {
        if !seen.insert(*name) {
            continue;
        }
        let texts = maps.each_ref().map(|side| side.get(name).copied());
        match super::three_way(&texts[0], &texts[1], &texts[2]) {
            Some(super::Side::App) => merged.extend(texts[1].map(<[u8]>::to_vec)),
            Some(super::Side::Base) => merged.extend(texts[2].map(<[u8]>::to_vec)),
            None if *name == b"Owners" => {
                let lists = texts.map(|text| {
                    let list = text.and_then(|t| t.strip_prefix(b"Owners:")).unwrap_or_default();
                    list.split(|b| *b == b',')
                        .map(<[u8]>::trim_ascii)
                        .collect::<Vec<_>>()
                        .join(&b',')
                });
                let all = members([&lists[0], &lists[1], &lists[2]]);
                let all = all.split(|b| *b == b',').collect::<Vec<_>>().join(&b", "[..]);
                merged.push([&b"Owners: "[..], &all].concat());
            }
            None => return None,
        }
    }
    Some(merged.join(&b'\n'))
}

/// Returns the fields of a paragraph by name. Lines that begin with a blank belong to the one before.
fn fields_of(paragraph: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < paragraph.len() {
        let mut end = start;
        loop {
            end +=
                paragraph[end..].iter().position(|b| *b == b'\n').unwrap_or(paragraph.len() - end);
            match paragraph.get(end + 1) {
                Some(b' ' | b'\t') => end += 1,
                _ => break,
            }
        }
        let text = &paragraph[start..end];
        let name = text.split(|b| *b == b':').next().unwrap_or_default();
        found.push((name, text));
        start = end + 1;
    }
    found
}

/// Merges two changes of a package if one of them is about its status only, as that of `apt-mark hold`.
fn hold(old: &[u8], app: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    const STATUS: &[u8] = b"Status:";
    let is_status = |line: &[u8]| line.starts_with(STATUS);
    let rest = |text: &[u8]| {
        text.split(|b| *b == b'\n')
            .filter(|l| !is_status(l))
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    let texts = [old, app, new];
    let [old_rest, app_rest, new_rest] = texts.map(rest);
    let [old_status, app_status, new_status] = texts.map(|text| value(text, STATUS));
    let side = super::three_way(&old_rest, &app_rest, &new_rest)?;
    let status = super::three_way(&old_status, &app_status, &new_status)?;
    let (body, status) = (
        if side == super::Side::App { app } else { new },
        if status == super::Side::App { app_status } else { new_status },
    );
    let lines = body.split(|b| *b == b'\n').map(|line| match status {
        Some(status) if is_status(line) => [STATUS, status].join(&b' '),
        _ => line.to_vec(),
    });
    Some(lines.collect::<Vec<_>>().join(&b'\n'))
}

/// Merges two changes of a user or a group: the last field of four is a list of members.
fn user(old: &[u8], app: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let columns = new.split(|b| *b == b':').count();
    fields(b':', [old, app, new], |i, texts| (columns == 4 && i == 3).then(|| members(texts)))
}

/// Merges two changes of a password: the newer date counts.
fn password(old: &[u8], app: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let day = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    fields(b':', [old, app, new], |i, [_, app, new]| {
        let (a, n) = (day(app)?, day(new)?);
        (i == 2).then(|| if a > n { app.to_vec() } else { new.to_vec() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebase::KeepRule;

    fn merged(path: &str, texts: [&str; 3], keep: &[&str]) -> (String, Vec<String>) {
        let keep: Vec<KeepRule> = keep.iter().map(|rule| rule.parse().unwrap()).collect();
        let mut judge = Judge::new(&keep);
        let text = merge(path.as_bytes(), texts.map(str::as_bytes), &mut judge).unwrap();
        let said = judge.conflicts.iter().map(|c| format!("{}: {}", c.subject, c.reason)).collect();
        (String::from_utf8(text).unwrap(), said)
    }

    #[test]
    fn packages_are_merged_by_name_and_architecture() {
        let old = "Package: a\nStatus: ok\nVersion: 1\n\nPackage: c\nVersion: 1\n\nPackage: d\nVersion: 1\n\n";
        let app = "Package: a\nStatus: hold\nVersion: 1\n\nPackage: b\nMulti-Arch: same\nArchitecture: amd64\n\nPackage: b\nMulti-Arch: same\nArchitecture: i386\n\nPackage: c\nVersion: 1\n\n";
        let new = "Package: a\nStatus: ok\nVersion: 2\n\nPackage: c\nVersion: 2\n\nPackage: d\nVersion: 1\n\nPackage: e\nVersion: 1\n\n";
        let want = "Package: a\nStatus: hold\nVersion: 2\n\nPackage: b\nMulti-Arch: same\nArchitecture: amd64\n\nPackage: b\nMulti-Arch: same\nArchitecture: i386\n\nPackage: c\nVersion: 2\n\nPackage: e\nVersion: 1\n\n";
        assert_eq!(merged("var/lib/dpkg/status", [old, app, new], &[]), (want.into(), vec![]));
        // A change of nothing keeps each byte.
        assert_eq!(merged("var/lib/dpkg/status", [old, old, new], &[]).0, new);
        assert_eq!(merged("var/lib/dpkg/status", [old, app, old], &[]).0, app);
    }

    #[test]
    fn a_package_that_both_updated_is_a_conflict() {
        let text = |v: u8| format!("P:musl\nV:{v}\n\nP:zlib\nV:1\n\n");
        let texts = [text(1), text(2), text(3)];
        let texts = [&*texts[0], &texts[1], &texts[2]];
        let (_, said) = merged("lib/apk/db/installed", texts, &[]);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("/lib/apk/db/installed (musl): the image and"), "{said:?}");
        assert_eq!(merged("lib/apk/db/installed", texts, &["app"]), (text(2), vec![]));
    }

    #[test]
    fn questions_of_debconf_are_merged_by_field() {
        let old = "Name: a/x\nTemplate: a/x\nOwners: a, b\n\n";
        let app = "Name: a/x\nTemplate: a/x\nOwners: a, b, app\n\nName: z/y\nOwners: app\n\n";
        let new = "Name: a/x\nTemplate: a/x\nOwners: a, new\nVariables:\n x = 1\n y = 2\n\n";
        let want = "Name: a/x\nTemplate: a/x\nOwners: a, new, app\nVariables:\n x = 1\n y = 2\n\nName: z/y\nOwners: app\n\n";
        let path = "var/cache/debconf/config.dat";
        assert_eq!(merged(path, [old, app, new], &[]), (want.into(), vec![]));
        let values = ["Name: q\nValue: 1\n\n", "Name: q\nValue: 2\n\n", "Name: q\nValue: 3\n\n"];
        assert_eq!(merged(path, values, &[]).1.len(), 1);
    }

    #[test]
    fn users_groups_and_passwords_are_merged_by_field() {
        let old = "root:x:0:\nadm:x:4:a\n";
        let app = "root:x:0:\nadm:x:4:a,app\napp:x:1000:\n";
        let new = "root:x:0:\nadm:x:4:a,new\nnew:x:998:\n";
        let want = "root:x:0:\nadm:x:4:a,new,app\nnew:x:998:\napp:x:1000:\n";
        assert_eq!(merged("etc/group", [old, app, new], &[]), (want.into(), vec![]));
        let passwords = ["r:*:1:0\n", "r:$5$x:3:0\n", "r:*:2:0\n"];
        assert_eq!(merged("etc/shadow", passwords, &[]), ("r:$5$x:3:0\n".into(), vec![]));
        let shells =
            ["r:x:0:0::/root:/bin/sh\n", "r:x:0:0::/root:/bin/a\n", "r:x:0:0::/root:/bin/b\n"];
        assert_eq!(merged("etc/passwd", shells, &[]).1.len(), 1);
    }

    #[test]
    fn two_names_with_one_id_are_a_conflict() {
        let old = "root:x:0:0\ntoor:x:0:0\n";
        let app = "root:x:0:0\ntoor:x:0:0\napp:x:999:999\nalias:x:999:1\n";
        let new = "root:x:0:0\ntoor:x:0:0\nnew:x:999:999\n";
        let (_, said) = merged("etc/passwd", [old, app, new], &[]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("(app): it gets the same ID"), "{said:?}");
        assert_eq!(merged("etc/passwd", [old, app, old], &[]), (app.into(), vec![]));
    }

    #[test]
    fn texts_that_are_not_such_lists_are_not_merged() {
        let mut judge = Judge::new(&[]);
        let mut none = |path: &str, text: &str| {
            merge(path.as_bytes(), [b"", text.as_bytes(), b""], &mut judge).is_none()
        };
        assert!(none("etc/passwd", "a:x:1\na:x:2\n") && none("etc/passwd", "\n"));
        assert!(none("var/lib/dpkg/status", "no package\n\n") && none("etc/other", "a\n"));
    }

    #[test]
    fn derived_files_are_known_with_their_commands() {
        assert_eq!(derived(b"etc/ld.so.cache"), Some("ldconfig"));
        assert_eq!(derived(b"var/log/apt/history.log"), Some(""));
        assert_eq!(derived(b"etc/ld.so.conf"), None);
    }
}
