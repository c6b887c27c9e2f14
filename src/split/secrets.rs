//! Secrets that the new image no longer contains but layers of the previous image still hold: files
//! that the user names, and files that look like secrets.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::model::content::Contents;
use crate::model::fileset::{FileData, FileSet, InodeKind};
use crate::model::path_pattern::PathPattern;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{Analysis, ComponentKind};
use crate::plan::update::{DeadFile, OldLayer, PurgeMatch, find_following_parent, purge_match};
use crate::secrets::{Patterns, ScanItem, is_public};
use crate::split::report::LostSecret;

/// What the patterns of `--purge` matched, over the images of all platforms.
pub(super) struct Purge<'a> {
    patterns: &'a [PathPattern],
    matches: Vec<PurgeMatch>,
    images_left: usize,
}

impl<'a> Purge<'a> {
    pub(super) fn new(patterns: &'a [PathPattern], images: usize) -> Self {
        Self { patterns, matches: vec![PurgeMatch::Nothing; patterns.len()], images_left: images }
    }

    /// Records what the patterns match in one image.
    pub(super) fn record(&mut self, new: &FileSet, previous: &[OldLayer], dead: &[DeadFile]) {
        for (all, pattern) in self.matches.iter_mut().zip(self.patterns) {
            let here = purge_match(pattern, new, previous, dead);
            if here > *all {
                *all = here;
            }
        }
    }

    /// Ends one image. After the last one, returns notes on patterns that removed nothing.
    ///
    /// # Errors
    /// After the last image, if a pattern matched nothing at all, which suggests a typing error.
    pub(super) fn end_of_image(&mut self) -> Result<Vec<String>> {
        self.images_left -= 1;
        let mut notes = Vec::new();
        if self.images_left > 0 {
            return Ok(notes);
        }
        for (matched, pattern) in self.matches.iter().zip(self.patterns) {
            match matched {
                PurgeMatch::Purged => {}
                PurgeMatch::Shown(path) => notes.push(format!(
                    "--purge {pattern} only matches files that the new image still contains, such as \
                     {path}; they are not removed"
                )),
                PurgeMatch::Nothing => {
                    return Err(Error::not_found(format!(
                        "--purge {pattern} matches nothing in the previous image or the new one; check \
                         the spelling: a name such as id_rsa matches in any folder, a path such as \
                         /root/.ssh starts at the root, and ** matches any number of folders"
                    )));
                }
            }
        }
        Ok(notes)
    }
}

/// The new image's files, contents and components.
pub(super) struct NewContents<'a> {
    pub(super) rootfs: &'a Rootfs,
    pub(super) analysis: &'a Analysis,
}

/// Returns the likely secrets among dead files, whose content is in `old`, sorted by layer and path.
/// Content that the new image still contains at any path is not lost. A file is not lost either if the
/// new image has a file with the same sort of secret at its path: that secret was renewed, and
/// everybody who has the image has the new one. Runs on the current rayon pool.
pub(super) fn lost(
    new: &NewContents<'_>,
    dead: &[DeadFile],
    old: &Contents,
    progress: &dyn Progress,
) -> Result<Vec<LostSecret>> {
    let shown = new.rootfs.files.inodes().iter().filter_map(|inode| match &inode.kind {
        InodeKind::File(file) => Some(&file.hash),
        _ => None,
    });
    let shown: BTreeSet<&[u8; 32]> = shown.collect();
    let gone = |d: &&DeadFile| {
        d.file.as_ref().is_some_and(|f| !shown.contains(&f.hash))
            && !is_public(&d.path, new.owner(&d.path))
    };
    let gone: Vec<&DeadFile> = dead.iter().filter(gone).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let patterns = Patterns::new()?;
    let mut before = ByContent::new();
    for d in &gone {
        if let Some(file) = &d.file {
            add(&mut before, file, &d.path, d.deleted);
        }
    }
    let before = rules(before, old, &patterns, progress)?;
    let rules_of = |d: &DeadFile| d.file.as_ref().and_then(|file| before.get(&file.hash));
    let now = |d: &DeadFile| match &find_following_parent(&new.rootfs.files, &d.path)?.kind {
        InodeKind::File(file) => Some(file),
        _ => None,
    };
    let mut after = ByContent::new();
    for d in gone.iter().filter(|d| rules_of(d).is_some()) {
        if let Some(file) = now(d) {
            add(&mut after, file, &d.path, false);
        }
    }
    let after = rules(after, &new.rootfs.contents, &patterns, progress)?;
    let mut found = Vec::new();
    for d in gone {
        let renewed = now(d).and_then(|file| after.get(&file.hash));
        for rule in rules_of(d).into_iter().flatten() {
            if renewed.is_none_or(|renewed| !renewed.contains(rule)) {
                found.push(LostSecret { layer: d.layer + 1, path: d.path(), rule });
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Files to scan, each content once, with all its names.
type ByContent<'a> = BTreeMap<&'a [u8; 32], ScanItem<'a>>;

fn add<'a>(all: &mut ByContent<'a>, file: &'a FileData, path: &'a [u8], deleted: bool) {
    if file.size > 0 {
        let new = || ScanItem { names: Vec::new(), file, hidden_by: None, deleted: false };
        let item = all.entry(&file.hash).or_insert_with(new);
        item.names.push(path);
        item.deleted |= deleted;
    }
}

/// Scans each content, and returns the rules that it matches, for contents that match any.
fn rules<'a>(
    all: ByContent<'a>,
    contents: &Contents,
    patterns: &Patterns,
    progress: &dyn Progress,
) -> Result<BTreeMap<&'a [u8; 32], BTreeSet<&'static str>>> {
    if all.is_empty() {
        return Ok(BTreeMap::new());
    }
    let one = |(hash, item): (&'a [u8; 32], ScanItem<'a>)| {
        let found = item.scan(patterns, contents);
        progress.advance(item.file.size);
        let rules: BTreeSet<_> = found?.0.iter().map(|secret| secret.rule).collect();
        Ok((!rules.is_empty()).then_some((hash, rules)))
    };
    progress.begin("scan", all.values().map(|item| item.file.size).sum());
    let found: Result<Vec<_>> = all.into_par_iter().map(one).collect();
    progress.end();
    Ok(found?.into_iter().flatten().collect())
}

impl NewContents<'_> {
    /// Returns the kind of component that owns a path.
    fn owner(&self, path: &[u8]) -> Option<ComponentKind> {
        let entry = &self.rootfs.files.entries()[self.rootfs.files.position(path)?];
        Some(self.analysis.owner_of(entry.inode).kind)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::fileset::Location;
    use crate::model::index::SourceId;

    #[derive(Default)]
    struct Read(AtomicU64);

    impl Progress for Read {
        fn begin(&self, _: &str, _: u64) {}
        fn end(&self) {}
        fn note(&self, _: &str) {}

        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_content_is_read_once_whatever_its_names() {
        let token = format!("npm_{}\n", "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX").into_bytes();
        let file = FileData {
            size: token.len() as u64,
            hash: *blake3::hash(&token).as_bytes(),
            location: Location::Span { source: SourceId::new(0), offset: 0 },
        };
        let dead = |i: usize| DeadFile {
            path: format!("srv/{i}").into_bytes().into(),
            bytes: if i == 0 { file.size } else { 0 },
            layer: i % 2,
            deleted: true,
            file: Some(file.clone()),
        };
        let dead: Vec<_> = (0..10).map(dead).collect();
        let rootfs = Rootfs::default();
        let new = NewContents { rootfs: &rootfs, analysis: &Analysis::default() };
        let (old, read) = (Contents::new(vec![Arc::new(token)]), Read::default());
        let found = lost(&new, &dead, &old, &read).unwrap();
        assert_eq!(read.0.into_inner(), file.size);
        let places: Vec<_> = found.iter().map(|s| (s.layer, s.path.as_str(), s.rule)).collect();
        assert_eq!((places.len(), places[0]), (10, (1, "/srv/0", "npm-token")));
    }
}
