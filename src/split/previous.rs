//! The previous image: read, compared, and what is kept of it.

use std::sync::Arc;

use super::assemble::same_but_layers;
use super::secrets::{self, Purge};
use super::{Options, PLAN};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::format::codec::Format;
use crate::layers::Limits;
use crate::layers::changeset::{Change, What};
use crate::layers::flatten::{self, Flattened};
use crate::model::content::{Budget, Contents, Source};
use crate::model::digest::Digest;
use crate::model::fileset::{FileSet, Inode, Kind};
use crate::model::oci::{self, Descriptor, Manifest, Platform};
use crate::plan::Plan;
use crate::plan::recorded_times::Held;
use crate::plan::update::{self, Evened, OldLayer, Update, Verdict};
use crate::simulate;
use crate::split::report::{self, LayerReport, LostSecret, UpdateReport};
use crate::transport::image::{Image, Opened};

/// The image of `opened` that the one at `at` in `images` is the next version of.
pub(super) fn of_platform<'a>(
    opened: &'a Opened,
    images: &[Image],
    at: usize,
) -> Option<&'a Image> {
    let here: Vec<_> = images.iter().map(|i| i.platform.clone()).collect();
    let there: Vec<_> = opened.images.iter().map(|i| i.platform.clone()).collect();
    Platform::counterpart(&here, at, &there).map(|at| &opened.images[at])
}

/// A layer of the previous image that is kept.
pub(super) struct Kept {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) label: String,
    pub(super) source: Source,
    tar_bytes: u64,
    files: u64,
    bytes: u64,
    entries: u64,
    live: u64,
}

/// The previous image.
pub(super) struct Previous<'a> {
    pub(super) image: &'a Image,
    /// Its layers; their changesets go once the decision is made.
    layers: Vec<OldLayer>,
    digests: Vec<Digest>,
    tar_bytes: Vec<u64>,
    files: FileSet,
    contents: Contents,
    evened: Evened,
    held: Held,
    secrets: Vec<LostSecret>,
    kept: Vec<Kept>,
    update: Option<Update>,
    labels: Vec<String>,
    manifest: Option<Manifest>,
    /// What the index takes is counted as long as it lives.
    _limits: Limits,
}

impl<'a> Previous<'a> {
    /// Reads the previous image and evens out the new one against it.
    pub(super) fn read(
        image: &'a Image,
        new: &mut Flattened,
        options: &Options,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        // What is gone is looked through for secrets.
        let contents = (!options.update.keep_secrets).then_some(budget);
        let limits = Limits::new(options.max_size, &image.layers, budget);
        let read = flatten::read(&image.layers, contents, &limits, progress)?;
        let changes = |l: &crate::layers::read::LayerContent| l.changes.clone();
        let named = image.layers.iter().map(|l| l.name.as_str());
        let (files, _) = flatten::apply(named.zip(read.iter().map(changes)))?;
        let (evened, held) = if options.update.exact {
            Default::default()
        } else {
            let Flattened { files: now, contents, .. } = new;
            update::even_out(now, contents, budget, &files, options.mtime)?
        };
        let manifest = image.manifest.as_ref();
        let manifest = manifest.and_then(|m| oci::parse(m, "the manifest").ok());
        Ok(Self {
            image,
            contents: Contents::new(read.iter().map(|l| Arc::clone(&l.source)).collect()),
            digests: read.iter().map(|l| l.digest).collect(),
            tar_bytes: read.iter().map(|l| l.tar_bytes).collect(),
            labels: labels(image, manifest.as_ref()),
            manifest,
            layers: read
                .into_iter()
                .zip(&image.layers)
                .map(|(read, layer)| OldLayer {
                    name: layer.name.clone(),
                    barred: !read.driver.is_empty(),
                    changes: read.changes,
                    blob_bytes: layer.source.size(),
                })
                .collect(),
            files,
            _limits: limits,
            evened,
            held,
            secrets: Vec::new(),
            kept: Vec::new(),
            update: None,
        })
    }

    /// Decides what is kept, and gives the plan of the new layers.
    pub(super) fn decide(
        &mut self,
        now: &secrets::New<'_>,
        estimates: &[u64],
        purge: &mut Purge<'_>,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Plan> {
        let (files, analysis) = (now.files, now.analysis);
        let dead = update::dead(files, &self.layers);
        purge.meet(files, &self.layers, &dead);
        let old = std::mem::take(&mut self.contents);
        if !options.update.keep_secrets {
            self.secrets = secrets::lost(now, &dead, &old, progress)?;
        }
        drop(old);
        let secret = self.secrets.iter().map(|s| s.layer - 1);
        let new = update::New { files, analysis, estimates, target: options.target };
        let mut update =
            update::update(new, &self.files, &self.layers, dead, secret, &options.update)?;
        for (i, fate) in update.fates.iter().enumerate() {
            if fate.verdict != Verdict::Kept {
                continue;
            }
            let layer = &self.image.layers[i];
            let kind = Format::of(layer.source.as_ref())?.media_type();
            let mut descriptor = Descriptor::new(kind, self.digests[i], layer.source.size());
            // zstd:chunked needs what the descriptor says of the blob.
            let noted = self.manifest.as_ref().and_then(|m| m.layers.get(i));
            let noted = noted.filter(|noted| noted.digest == descriptor.digest);
            let mut annotations = noted.and_then(|d| d.annotations.clone()).unwrap_or_default();
            annotations.insert(PLAN.to_owned(), self.labels[i].clone());
            descriptor.annotations = Some(annotations);
            let (files, bytes) = count(&self.layers[i].changes);
            self.kept.push(Kept {
                descriptor,
                diff_id: layer.diff_id,
                label: self.labels[i].clone(),
                source: Arc::clone(&layer.source),
                tar_bytes: self.tar_bytes[i],
                files,
                bytes,
                entries: self.layers[i].changes.len() as u64,
                live: fate.live,
            });
        }
        // The index of the old layers can be as large as that of the new image.
        self.layers.iter_mut().for_each(|l| l.changes = Vec::new());
        self.files = FileSet::default();
        let plan = std::mem::take(&mut update.plan);
        self.update = Some(update);
        Ok(plan)
    }

    /// The layers that are kept, lowest first.
    pub(super) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// What was not evened out because other files remember it.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Whether the new image is the previous one.
    pub(super) fn is_unchanged(&self, image: &Image, plan: &Plan) -> bool {
        plan.layers.is_empty()
            && self.kept.len() == self.image.layers.len()
            && same_but_layers(image, self.image)
    }

    /// What was decided. `layers` are those of the new image.
    pub(super) fn report(&self, layers: &[LayerReport]) -> UpdateReport {
        let fates = self.update.iter().flat_map(|u| &u.fates).zip(&self.labels);
        let dead = self.update.iter().flat_map(|u| &u.dead);
        report::update(fates, dead, self.evened, self.secrets.clone(), layers)
    }

    /// What is said of layers that are given up for secrets.
    pub(super) fn notes(&self) -> Vec<String> {
        const NAMED: usize = 5;
        let layers = self.secrets.chunk_by(|a, b| a.layer == b.layer);
        let note = |secrets: &[LostSecret]| {
            let named = secrets.iter().take(NAMED).map(|s| format!("{} ({})", s.path, s.rule));
            let more = secrets.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "layer {} of the previous image is given up: it holds deleted files that are likely \
                 secrets: {}{more}; --keep-secrets keeps such layers",
                secrets[0].layer,
                named.collect::<Vec<_>>().join(", ")
            )
        };
        layers.map(note).collect()
    }
}

impl Kept {
    /// As a pull sees it.
    pub(super) fn pulled(&self) -> simulate::Layer {
        self.report().pulled(simulate::Compression::of(&self.descriptor.media_type))
    }

    /// Its row.
    pub(super) fn report(&self) -> LayerReport {
        LayerReport {
            label: self.label.clone(),
            kept: true,
            files: self.files,
            bytes: self.bytes,
            entries: self.entries,
            estimate: self.descriptor.size,
            live: Some(self.live),
            churn: None,
            tar_bytes: Some(self.tar_bytes),
            blob_bytes: Some(self.descriptor.size),
            diff_id: Some(self.diff_id),
            digest: Some(self.descriptor.digest),
            components: Vec::new(),
        }
    }
}

/// Regular files in a layer, and their bytes.
fn count(changes: &[Change]) -> (u64, u64) {
    let sizes = changes.iter().filter_map(|c| match &c.what {
        What::Put(Inode { kind: Kind::File(file), .. }) => Some(file.size),
        _ => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

/// What is in each layer: as we noted it, else the command that made it.
fn labels(image: &Image, manifest: Option<&Manifest>) -> Vec<String> {
    /// Commands can be long.
    const MOST: usize = 80;
    let history = image.config.layer_history();
    let label = |i: usize| {
        let noted = manifest.and_then(|m| m.layers.get(i)?.annotation(PLAN));
        let made = || history.get(i).map(|by| by.split_whitespace().collect::<Vec<_>>().join(" "));
        let text = noted.map(str::to_owned).or_else(made).unwrap_or_default();
        match text.char_indices().nth(MOST) {
            _ if text.is_empty() => "unknown".to_owned(),
            Some((end, _)) if noted.is_none() => format!("{}…", &text[..end]),
            _ => text,
        }
    };
    (0..image.layers.len()).map(label).collect()
}
