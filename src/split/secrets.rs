//! Secrets that the new image no longer has and layers of the previous one still hold: those that
//! the user names, and those that look like it.

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::analyze::Analysis;
use crate::content::Contents;
use crate::error::{Error, Result};
use crate::fileset::{FileSet, Kind};
use crate::flatten::Flattened;
use crate::pattern::PathPattern;
use crate::progress::Progress;
use crate::report::LostSecret;
use crate::secrets::{Patterns, scan_file};
use crate::update::{Dead, Met, OldLayer, at, met};

/// What the patterns of `--purge` met, in the images of all platforms.
pub(super) struct Purge<'a> {
    patterns: &'a [PathPattern],
    met: Vec<Met>,
    images_left: usize,
}

impl<'a> Purge<'a> {
    pub(super) fn new(patterns: &'a [PathPattern], images: usize) -> Self {
        Self { patterns, met: vec![Met::Nothing; patterns.len()], images_left: images }
    }

    /// Notes what the patterns meet in one image.
    pub(super) fn meet(&mut self, new: &FileSet, previous: &[OldLayer], dead: &[Dead]) {
        for (all, pattern) in self.met.iter_mut().zip(self.patterns) {
            let here = met(pattern, new, previous, dead);
            if here > *all {
                *all = here;
            }
        }
    }

    /// What is to be said once no image is left.
    ///
    /// # Errors
    /// When a pattern met nothing at all: it was meant for something.
    pub(super) fn end_of_image(&mut self) -> Result<Vec<String>> {
        self.images_left -= 1;
        let mut notes = Vec::new();
        for (met, pattern) in self.met.iter().zip(self.patterns).filter(|_| self.images_left == 0) {
            match met {
                Met::Gone => {}
                Met::Shown(path) => notes.push(format!(
                    "--purge {pattern} only matches what is still in the new image, such as {path}, \
                     and stays there"
                )),
                Met::Nothing => {
                    return Err(Error::not_found(format!(
                        "--purge {pattern} matches nothing in the previous image nor in the new one; \
                         check how it is spelt: a name as id_rsa is found in any folder, a path as \
                         /root/.ssh from the root on, and ** stands for any folders"
                    )));
                }
            }
        }
        Ok(notes)
    }
}

/// The new image.
pub(super) struct New<'a> {
    pub(super) files: &'a FileSet,
    pub(super) contents: &'a Contents,
    pub(super) analysis: &'a Analysis,
}

/// The likely secrets among dead files, whose content is in `old`, by layer and path. What the new image
/// shows somewhere is not lost. Where it has another file at the path, with a secret of the same sort
/// in it, that is renewed and everybody who has the image has it. Runs on the current rayon pool.
pub(super) fn lost(
    new: &New<'_>,
    dead: &[Dead],
    old: &Contents,
    progress: &dyn Progress,
) -> Result<Vec<LostSecret>> {
    let shown = new.files.inodes().iter().filter_map(|inode| match &inode.kind {
        Kind::File(file) => Some(&file.hash),
        _ => None,
    });
    let shown: BTreeSet<&[u8; 32]> = shown.collect();
    let gone = |d: &&Dead| d.file.as_ref().is_some_and(|f| !shown.contains(&f.hash));
    let gone: Vec<&Dead> = dead.iter().filter(gone).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let patterns = Patterns::new()?;
    progress.begin("scan", gone.iter().map(|d| d.bytes).sum());
    let one = |d: &&Dead| {
        let found = new.lost(d, old, &patterns);
        progress.advance(d.bytes);
        found
    };
    let found: Result<Vec<Vec<LostSecret>>> = gone.par_iter().map(one).collect();
    progress.end();
    let mut found = found?.concat();
    found.sort();
    found.dedup();
    Ok(found)
}

impl<'a> New<'a> {
    pub(super) fn of(flat: &'a Flattened, analysis: &'a Analysis) -> Self {
        Self { files: &flat.files, contents: &flat.contents, analysis }
    }

    fn lost(&self, dead: &Dead, old: &Contents, patterns: &Patterns) -> Result<Vec<LostSecret>> {
        let Some(file) = &dead.file else { return Ok(Vec::new()) };
        let Self { files, contents, analysis } = *self;
        let owner = files.position(&dead.path).map(|i| {
            let owner = analysis.owner[files.entries()[i].inode as usize];
            analysis.components[owner as usize].kind
        });
        let mut found = scan_file(&dead.path, file, owner, dead.deleted, old, patterns)?;
        if let Some(Kind::File(now)) = at(files, &dead.path).map(|inode| &inode.kind)
            && !found.is_empty()
        {
            let renewed = scan_file(&dead.path, now, owner, false, contents, patterns)?;
            found.retain(|s| !renewed.iter().any(|r| r.rule == s.rule));
        }
        let lost = |s: crate::secrets::Secret| LostSecret {
            layer: dead.layer + 1,
            path: s.path,
            rule: s.rule,
        };
        Ok(found.into_iter().map(lost).collect())
    }
}
