//! Detection of likely secrets in an image: in its files, in hidden files of lower layers, and in its
//! config and history. A finding is reported by its place, never by its value.
//!
//! A file is checked by its name (`names`: credentials where clients store them) and, if it is text, by
//! its content (`patterns`). Files of packages are ignored, since everybody can download them. So are
//! keys below folders for tests and examples; there only credentials where clients store them count.
//!
//! Imports `base`, `model`, `layers` and `plan`. To know: [`Patterns`], the compiled rules; `ScanItem`, a
//! content to scan.

mod addresses;
mod config;
mod names;
mod patterns;

pub(crate) use config::{config_note, redact, scan_config};
pub(crate) use patterns::Patterns;

use std::io::Read;

use rayon::prelude::*;
use serde::Serialize;

use crate::base::error::{Context, Result};
use crate::base::limits::{MAX_LOGIN_FILE, MAX_SCANNED, MAX_SECRET_PLACES};
use crate::base::progress::Progress;
use crate::base::read::read_some;
use crate::layers::hidden::{HiddenFile, How};
use crate::model::content::Contents;
use crate::model::fileset::{FileData, FileSet, InodeKind, display, parent, parts};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{Analysis, ComponentKind};
use patterns::{Hit, REACH};

/// A likely secret. All places of one rule in one file are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LikelySecret {
    /// What sort of secret it is: `private-key`, `npm-token`.
    pub rule: &'static str,
    /// Path of the file, or place in the config: `config.Env PASSWORD`, `history 3`.
    pub path: String,
    /// Number of the layer that holds the file, from 1; `None` in the config.
    pub layer: Option<usize>,
    /// Number of the layer that hides the file; `None` when the image shows it.
    pub hidden_by: Option<usize>,
    /// Line of the first place, from 1; `None` in binary files and in the config.
    pub line: Option<u64>,
    /// Byte of the first place, from 0, in the file or in the text of the config.
    pub offset: u64,
    /// Bytes of the secret in the first place.
    pub length: u64,
    /// How many places there are; a thousand in one file are not counted further.
    pub places: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// Files that were read, hidden ones too.
    pub files: u64,
    /// Bytes that were looked through.
    pub bytes: u64,
    /// Files that are not text; only their names were looked at.
    pub binary: u64,
    /// Files of packages, which were passed over.
    pub public: u64,
    /// Files in folders of tests and examples; only their names were looked at.
    pub samples: u64,
    /// Files larger than docs/LIMITS.md allows, read so far and no further.
    pub cut: u64,
}

/// Bytes that are looked at together.
const WINDOW: usize = 1 << 20;
/// Bytes before a secret that decide whether it is one.
const BEFORE: usize = 1 << 10;
/// A file with a NUL in as many first bytes is binary, as git and grep have it.
const HEAD: usize = 8000;

/// A file to be looked at.
pub(crate) struct ScanItem<'a> {
    /// Its paths.
    pub(crate) names: Vec<&'a [u8]>,
    /// Its content.
    pub(crate) file: &'a FileData,
    /// Number of the layer that hides it.
    pub(crate) hidden_by: Option<usize>,
    /// Whether somebody deleted it.
    pub(crate) deleted: bool,
}

/// Looks through the files that an image shows and those that it hides. Runs on the current rayon
/// pool.
pub(crate) fn scan(
    rootfs: &Rootfs,
    analysis: &Analysis,
    hidden: &[HiddenFile],
    patterns: &Patterns,
    progress: &dyn Progress,
) -> Result<(Vec<LikelySecret>, Scanned)> {
    let (items, public) = items(&rootfs.files, analysis, hidden);
    progress.begin("scan", items.iter().map(|item| item.file.size).sum());
    let found: Vec<Result<(Vec<LikelySecret>, Scanned)>> = items
        .par_iter()
        .map(|item| {
            let found = item.scan(patterns, &rootfs.contents);
            progress.advance(item.file.size);
            found
        })
        .collect();
    progress.end();
    let mut scanned = Scanned { public, ..Scanned::default() };
    let mut secrets = Vec::new();
    for one in found {
        let (found, counts) = one?;
        secrets.extend(found);
        scanned.files += counts.files;
        scanned.bytes += counts.bytes;
        scanned.binary += counts.binary;
        scanned.cut += counts.cut;
        scanned.samples += counts.samples;
    }
    // What the image shows first: it is in every container.
    let key = |s: &LikelySecret| (s.hidden_by.is_some(), s.path.clone(), s.layer, s.rule, s.offset);
    secrets.sort_by_cached_key(key);
    Ok((secrets, scanned))
}

/// The files to look at, and how many are passed over.
fn items<'a>(
    set: &'a FileSet,
    analysis: &Analysis,
    hidden: &'a [HiddenFile],
) -> (Vec<ScanItem<'a>>, u64) {
    let kind = |inode: InodeId| analysis.owner_of(inode).kind;
    let mut public = 0;
    let mut items = Vec::new();
    let mut add = |item: ScanItem<'a>, owner| {
        if item.names.iter().all(|name| is_public(name, owner)) {
            public += 1;
        } else {
            items.push(item);
        }
    };
    let entries = set.entries();
    for (id, names) in set.names().into_iter().enumerate() {
        let id = InodeId::new(id);
        if let InodeKind::File(file) = &set[id].kind
            && file.size > 0
        {
            let names = names.iter().map(|i| &*entries[*i as usize].path).collect();
            let item = ScanItem { names, file, hidden_by: None, deleted: false };
            add(item, Some(kind(id)));
        }
    }
    for h in hidden.iter().filter(|h| h.file.size > 0) {
        // What a package has at the path today, an older version of it had there before.
        let owner = set.position(&h.path).map(|i| kind(entries[i].inode));
        let deleted = h.how != How::Overwritten;
        let by = Some(h.by.number());
        add(ScanItem { names: vec![&h.path], file: &h.file, hidden_by: by, deleted }, owner);
    }
    (items, public)
}

/// Folders that packages fill, at any depth.
const PUBLIC_PARTS: [&[u8]; 5] =
    [b"node_modules", b"site-packages", b"dist-packages", b"gems", b"rustlib"];

/// Folders that packages fill.
const PUBLIC_TREES: [&[u8]; 14] = [
    b"bin",
    b"lib",
    b"lib32",
    b"lib64",
    b"sbin",
    b"usr/bin",
    b"usr/games",
    b"usr/include",
    b"usr/lib",
    b"usr/lib32",
    b"usr/lib64",
    b"usr/libexec",
    b"usr/sbin",
    b"usr/local/go",
];

/// Folders of tests and examples, at any depth.
const SAMPLE_PARTS: [&[u8]; 8] = [
    b"test",
    b"tests",
    b"testing",
    b"testdata",
    b"__tests__",
    b"fixtures",
    b"example",
    b"examples",
];

/// The names of the folders that a path lies in.
fn folders(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    parts(parent(path).unwrap_or_default())
}

fn is_sample(path: &[u8]) -> bool {
    folders(path).any(|dir| SAMPLE_PARTS.contains(&dir))
}

/// Whether everybody can have what is at a path anyway.
pub(crate) fn is_public(path: &[u8], owner: Option<ComponentKind>) -> bool {
    let in_etc = path.starts_with(b"etc/");
    match owner {
        Some(ComponentKind::LanguagePackage) => return true,
        // Settings come with packages, but are edited.
        Some(ComponentKind::OsPackage) if !in_etc => return true,
        _ => {}
    }
    let within = |tree: &&[u8]| path.strip_prefix(*tree).is_some_and(|r| r.starts_with(b"/"));
    let shared = path.starts_with(b"usr/share/") && !path.starts_with(b"usr/share/nginx/");
    shared
        || PUBLIC_TREES.iter().any(within)
        || path.starts_with(b"usr/local/lib/python")
        || folders(path).any(|dir| PUBLIC_PARTS.contains(&dir))
}

impl ScanItem<'_> {
    /// Looks through the file.
    pub(crate) fn scan(
        &self,
        patterns: &Patterns,
        contents: &Contents,
    ) -> Result<(Vec<LikelySecret>, Scanned)> {
        self.find(patterns, contents)
            .with_context(|| format!("looking for secrets in {}", display(self.names[0])))
    }

    fn find(
        &self,
        patterns: &Patterns,
        contents: &Contents,
    ) -> Result<(Vec<LikelySecret>, Scanned)> {
        let mut hits: Vec<(Hit, u64)> = Vec::new();
        let mut unread = None;
        if self.file.size <= MAX_LOGIN_FILE {
            let mut rules: Vec<_> = self.names.iter().flat_map(|n| names::rules_for(n)).collect();
            rules.sort_unstable();
            rules.dedup();
            if !rules.is_empty() {
                let text = contents.read(self.file, MAX_LOGIN_FILE)?;
                for rule in &rules {
                    hits.extend(names::look(*rule, &text).into_iter().map(|hit| (hit, 0)));
                }
                unread = names::unread_login(&rules, &text).filter(|_| self.deleted);
            }
        }
        let mut scanned = Scanned { files: 1, bytes: self.file.size, ..Scanned::default() };
        let text = if self.names.iter().all(|name| is_sample(name)) {
            (scanned.samples, scanned.bytes) = (1, 0);
            self.is_text(contents)?
        } else {
            self.read_text(patterns, contents, &mut hits, &mut scanned)?
        };
        if hits.is_empty() {
            hits.extend(unread.map(|hit| (hit, 0)));
        }
        // Named files come first, so that what two rules find is called after its file.
        hits.sort_by_key(|(hit, base)| base + hit.at.start as u64);
        let mut end = 0;
        let mut kept: Vec<(Hit, std::ops::Range<u64>)> = Vec::new();
        for (hit, base) in hits {
            let at = base + hit.at.start as u64..base + hit.at.end as u64;
            if at.start >= end {
                end = at.end;
                kept.push((hit, at));
            }
        }
        kept.sort_by_key(|(hit, _)| hit.rule);
        let mut secrets: Vec<LikelySecret> = Vec::new();
        for (hit, at) in kept {
            if let Some(last) = secrets.last_mut().filter(|s| s.rule == hit.rule) {
                last.places += 1;
                continue;
            }
            let line = text.then(|| self.line(contents, at.start)).transpose()?;
            secrets.push(LikelySecret {
                rule: hit.rule,
                path: display(self.names[0]),
                layer: Some(self.file.location.source().index() + 1),
                hidden_by: self.hidden_by,
                line,
                offset: at.start,
                length: at.end - at.start,
                places: 1,
            });
        }
        Ok((secrets, scanned))
    }

    fn is_text(&self, contents: &Contents) -> Result<bool> {
        let mut head = vec![0; self.file.size.min(HEAD as u64) as usize];
        contents.read_at(self.file, &mut head, 0)?;
        Ok(memchr::memchr(0, &head).is_none())
    }

    /// Looks for patterns, window by window, if the file is text; tells whether it is.
    fn read_text(
        &self,
        patterns: &Patterns,
        contents: &Contents,
        hits: &mut Vec<(Hit, u64)>,
        scanned: &mut Scanned,
    ) -> Result<bool> {
        if !self.is_text(contents)? {
            (scanned.binary, scanned.bytes) = (1, 0);
            return Ok(false);
        }
        let size = self.file.size.min(MAX_SCANNED);
        (scanned.cut, scanned.bytes) = (u64::from(self.file.size > size), size);
        let mut window = vec![0; size.min(WINDOW as u64) as usize];
        let mut at = 0;
        loop {
            let n = (size - at).min(WINDOW as u64) as usize;
            contents.read_at(self.file, &mut window[..n], at)?;
            let last = at + n as u64 == size;
            // What begins near the end may go on behind it: the next window begins with that, and
            // with the bytes before, which decide whether it is a secret.
            let end = if last { n } else { n - REACH };
            let found = patterns.find(&window[..n]).into_iter();
            let found = found.chain(addresses::of_services(&window[..n]));
            let begun = if at == 0 { 0 } else { BEFORE };
            let found = found.filter(|hit| (begun..end).contains(&hit.at.start));
            hits.extend(found.map(|hit| (hit, at)));
            if last || hits.len() >= MAX_SECRET_PLACES {
                hits.truncate(MAX_SECRET_PLACES);
                return Ok(true);
            }
            at += (end - BEFORE) as u64;
        }
    }

    /// The line that a byte is in, from 1.
    fn line(&self, contents: &Contents, offset: u64) -> Result<u64> {
        let mut before = contents.open(self.file).take(offset);
        let mut buf = vec![0; offset.min(1 << 16) as usize];
        let mut line = 1;
        loop {
            let n = read_some(&mut before, &mut buf)?;
            if n == 0 {
                return Ok(line);
            }
            line += memchr::memchr_iter(b'\n', &buf[..n]).count() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::fileset::Location;
    use crate::model::index::SourceId;

    fn key() -> String {
        let body = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    fn scan_one(path: &str, bytes: Vec<u8>) -> (Vec<LikelySecret>, Scanned) {
        let location = Location::Span { source: SourceId::new(0), offset: 0 };
        let hash = *blake3::hash(&bytes).as_bytes();
        let file = FileData { size: bytes.len() as u64, hash, location };
        let contents = Contents::new(vec![Arc::new(bytes)]);
        let item = ScanItem {
            names: vec![path.as_bytes()],
            file: &file,
            hidden_by: Some(2),
            deleted: true,
        };
        item.scan(&Patterns::new().unwrap(), &contents).unwrap()
    }

    #[test]
    fn a_key_is_found_wherever_a_window_ends() {
        for near in [0, 1, 100, REACH - 1, REACH, REACH + 1] {
            for end in [WINDOW, 2 * WINDOW - REACH - 1] {
                let mut text = vec![b'\n'; end - near];
                text.extend_from_slice(key().as_bytes());
                text.resize(3 * WINDOW, b' ');
                let (found, scanned) = scan_one("app/notes", text);
                let [secret] = &found[..] else { panic!("{near} before {end}: {found:?}") };
                assert_eq!(secret.offset, (end - near) as u64);
                assert_eq!(secret.line, Some((end - near) as u64 + 1));
                assert_eq!((secret.places, secret.length), (1, key().len() as u64 - 1));
                assert_eq!(scanned.bytes, 3 * WINDOW as u64);
            }
        }
    }

    #[test]
    fn a_file_full_of_keys_ends_soon() {
        let heads = "-----BEGIN PRIVATE KEY-----".repeat(1 << 17);
        assert_eq!(scan_one("app/heads", heads.into_bytes()).0, []);
        let tokens = format!("AKIA{}\n", "Z3MPLEKEY4TEST5Q").repeat(1 << 17);
        let (found, _) = scan_one("app/tokens", tokens.into_bytes());
        assert_eq!((found.len(), found[0].places), (1, MAX_SECRET_PLACES as u64));
    }

    #[test]
    fn binary_files_go_by_their_name_alone() {
        let text = format!("\0{}", key()).into_bytes();
        let (found, scanned) = scan_one("app/prog", text.clone());
        assert_eq!((found.len(), scanned.binary), (0, 1));
        let (found, _) = scan_one("app/id.p12", text);
        assert_eq!((found[0].rule, found[0].line), ("key-store", None));
    }

    #[test]
    fn what_two_rules_find_is_one_secret() {
        let token = format!("//r/:_authToken=npm_{}\n", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX");
        let (found, _) = scan_one("root/.npmrc", format!("{token}{token}").into_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rule, found[0].places, found[0].line), ("npm-token", 2, Some(1)));
    }

    #[test]
    fn a_deleted_login_that_nothing_can_be_read_in_is_reported() {
        let found = |path, text: &str| {
            scan_one(path, text.as_bytes().to_vec()).0.first().map(|secret| secret.rule)
        };
        assert_eq!(found("root/.npmrc", "; what is this?\n"), Some("deleted-login"));
        assert_eq!(found("root/.npmrc", "//r/:_authToken=${NPM_TOKEN}\n"), None);
        assert_eq!(found("root/.npmrc", "\n"), None);
        assert_eq!(found("root/notes", "; what is this?\n"), None);
    }

    #[test]
    fn keys_of_tests_are_none_but_logins_are() {
        assert_eq!(scan_one("app/tests/data/key.pem", key().into_bytes()).0, []);
        assert_eq!(scan_one("app/test/.env", b"A=1\nTOKEN=abcdef99".to_vec()).0[0].line, Some(2));
        assert_eq!(scan_one("app/contest/key.pem", key().into_bytes()).0.len(), 1);
    }

    #[test]
    fn what_everybody_has_is_passed_over() {
        for path in [
            "usr/lib/python3.11/test/key.pem",
            "app/node_modules/x/.npmrc",
            "usr/share/doc/x/key.pem",
            "usr/local/lib/python3.12/x.pem",
        ] {
            assert!(is_public(path.as_bytes(), None), "{path}");
        }
        for path in [
            "root/.ssh/id_rsa",
            "usr/src/app/.env",
            "usr/local/etc/key.pem",
            "usr/share/nginx/html/.env",
            "test",
            "etc/ssl/private/key.pem",
        ] {
            assert!(!is_public(path.as_bytes(), None), "{path}");
        }
        assert!(is_public(b"opt/x", Some(ComponentKind::OsPackage)));
        assert!(!is_public(b"etc/x", Some(ComponentKind::OsPackage)));
    }
}
