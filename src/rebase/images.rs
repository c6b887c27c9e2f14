//! The rebase of opened images: their layers are read, and configs and file sets are merged.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Conflict, KeepRule, Missing, Outdated, abi, config, files};
use crate::base::error::{Context, Error, Result};
use crate::base::progress::Progress;
use crate::layers::Limits;
use crate::layers::flatten::{self, Flattened, Keep};
use crate::model::content::{BlobSink, Budget};
use crate::model::rootfs::Rootfs;
use crate::split::report::ImageReport;
use crate::split::{self, Base, BaseLayers, SplitOptions};
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, Opened};

/// The bases between which images are moved.
#[derive(Debug, Clone, Copy)]
pub struct Bases<'a> {
    /// The base on which the images were built.
    pub old: &'a Opened,
    /// The base on which they are to be.
    pub new: &'a Opened,
    /// The name of the new base in a registry.
    pub name: Option<&'a str>,
}

/// The merge of one image.
#[derive(Debug)]
pub struct ImageMerge {
    /// Its platform.
    pub platform: String,
    /// What no rule decides.
    pub conflicts: Vec<Conflict>,
    /// How many conflicts the rules decided.
    pub decided: usize,
    /// What files need and no longer have; empty if there are conflicts.
    pub missing: Vec<Missing>,
    /// What was assumed, for the user.
    pub notes: Vec<String>,
    /// Files that may be made from files that the new base changed.
    pub outdated: Vec<Outdated>,
}

/// Images after the merge with a new base.
#[derive(Debug)]
pub struct Rebase<'a> {
    /// The merge of each image.
    pub merges: Vec<ImageMerge>,
    /// Positions of the rules that decided nothing.
    pub unused: Vec<usize>,
    opened: Opened,
    bases: Vec<Option<Base<'a>>>,
    /// The merged files of each image, as long as there are no conflicts.
    files: Vec<(Flattened, BaseLayers)>,
    /// Hold the new bases' share of the memory budget.
    limits: Vec<Limits>,
}

impl<'a> Rebase<'a> {
    /// Merges every image of `opened` with the new base. Nothing is written yet.
    ///
    /// # Errors
    /// If a base has no image for a platform, or an image can't be read or is for another system.
    pub fn merge(
        opened: Opened,
        bases: Bases<'a>,
        keep: &[KeepRule],
        options: &SplitOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut all = Self {
            merges: Vec::new(),
            unused: Vec::new(),
            bases: Vec::new(),
            files: Vec::new(),
            limits: Vec::new(),
            opened,
        };
        let mut used = BTreeSet::new();
        for at in 0..all.opened.images.len() {
            let platform = all.opened.images[at].platform.clone();
            let of = |base: &'a Opened, option: &str| {
                base.counterpart(&all.opened.images, at).ok_or_else(|| {
                    Error::not_found(format!(
                        "{option} has no image for {platform}; select a platform with --platform"
                    ))
                })
            };
            let (old, new) = (of(bases.old, "--from")?, of(bases.new, "--to")?);
            let reader = Reader { keep, options, budget, progress };
            let merged = reader
                .image(&mut all, at, old, new, &mut used)
                .with_context(|| format!("image {platform}"))?;
            all.merges.push(merged);
            let name = bases.name.map(str::to_owned);
            all.bases.push(Some(Base { layers: new.layers.len(), image: Some(new), name }));
        }
        all.unused = (0..keep.len()).filter(|rule| !used.contains(rule)).collect();
        Ok(all)
    }

    /// Returns the number of conflicts that no rule decides.
    pub fn conflicts(&self) -> usize {
        self.merges.iter().map(|merge| merge.conflicts.len()).sum()
    }

    /// Returns the number of conflicts that rules decided.
    pub fn decided(&self) -> usize {
        self.merges.iter().map(|merge| merge.decided).sum()
    }

    /// Splits what is above the new base.
    ///
    /// # Errors
    /// If there are conflicts, and those of [`split::split`].
    pub fn split(
        self,
        options: &SplitOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
        sink: &dyn BlobSink,
    ) -> Result<(Bundle, Vec<ImageReport>)> {
        if self.conflicts() > 0 {
            return Err(Error::refused("there are conflicts"));
        }
        let Self { opened, bases, files, limits, .. } = self;
        let made = split::split_files(&opened, &bases, files, options, budget, progress, sink);
        drop(limits);
        made
    }
}

/// What the merge of each image needs.
struct Reader<'a> {
    keep: &'a [KeepRule],
    options: &'a SplitOptions,
    budget: &'a Arc<Budget>,
    progress: &'a dyn Progress,
}

impl Reader<'_> {
    /// Merges the image at a position, and keeps its files for the split.
    fn image(
        &self,
        all: &mut Rebase<'_>,
        at: usize,
        old: &Image,
        new: &Image,
        used: &mut BTreeSet<usize>,
    ) -> Result<ImageMerge> {
        let image = &mut all.opened.images[at];
        if image.platform.os == "windows" {
            return Err(Error::unsupported("the layers of Windows images can't be merged"));
        }
        let config = config::merge(&old.config, &image.config, &new.config, self.keep)?;
        let read = self.read(image)?;
        let n = old.layers.len();
        let pairs = old.layers.iter().zip(&image.layers);
        let shares = n <= image.layers.len() && pairs.clone().all(|(a, b)| a.diff_id == b.diff_id);
        // The image has the layers of the old base itself, unless it was squashed or the like.
        let old_read = if shares { None } else { Some(self.read(old)?) };
        let ancestor: Rootfs = match &old_read {
            None => read.lowest(n)?,
            Some(read) => read.lowest(n)?,
        };
        let mut flat = read.flatten()?;
        let read = self.read(new)?;
        let base = Base { layers: new.layers.len(), image: None, name: None };
        let layers = BaseLayers::new(&base, new, &read)?;
        let below = read.flatten()?;
        let merged = files::merge(&ancestor, &flat.rootfs, &below.rootfs, self.keep)?;
        let notes = [config.notes, flat.notes.clone(), merged.notes].concat();
        used.extend(config.used.iter().chain(&merged.used));
        let missing = match &merged.value {
            Some(result) => abi::missing(&flat.rootfs, &below.rootfs, result)?,
            None => Vec::new(),
        };
        let mut conflicts = config.conflicts;
        conflicts.extend(merged.conflicts);
        if let (Some(config), Some(rootfs)) = (config.value, merged.value) {
            image.config = config;
            flat.rootfs = rootfs;
            all.files.push((flat, layers));
            all.limits.push(below.limits);
        }
        let (platform, decided) = (image.platform.to_string(), config.decided + merged.decided);
        Ok(ImageMerge { platform, conflicts, decided, notes, outdated: merged.outdated, missing })
    }

    fn read<'b>(&self, image: &'b Image) -> Result<flatten::ReadLayers<'b>> {
        let Self { options, budget, progress, .. } = *self;
        flatten::read(&image.layers, Keep::Contents, options.max_size, budget, progress)
    }
}
