//! Options of `split`, and the annotations that record them on an image.

use std::sync::Arc;

use crate::base::defaults;
use crate::base::limits::ENCODERS_SHARE;
use crate::base::threads;
use crate::format::codec::Compression;
use crate::model::content::Budget;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::Annotations;
use crate::plan::analyze::ChurnRule;
use crate::plan::history::{self, Rates};
use crate::plan::update;
use crate::plan::{PlanOptions, Target};
use crate::simulate::Profile;

/// Annotation with the digest of the source image's config, which does not depend on how that image
/// is stored.
pub const SOURCE: &str = "io.relayer.source";
/// Annotation with the version of relayer that wrote the image.
pub const VERSION: &str = "io.relayer.version";
/// Annotation with the options of the plan; on a layer, with the layer's label.
pub const PLAN: &str = "io.relayer.plan";
/// Prefix of the history entries that relayer writes.
pub(super) const HISTORY: &str = "relayer split: ";

/// Returns the compression that relayer used for an image's layers, according to the manifest's
/// annotations.
pub fn noted_compression(annotations: &Annotations) -> Option<Compression> {
    let mut words = annotations.get(PLAN)?.split(' ');
    Compression::parse(words.find_map(|word| word.strip_prefix("compression="))?).ok()
}

/// Options of [`split`](super::split).
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// Number or size of the layers.
    pub target: Target,
    /// Client, link and machine whose pulls are simulated.
    pub profile: Option<&'static Profile>,
    /// Codec and level.
    pub compression: Compression,
    /// Rule for modification times.
    pub mtime: MtimePolicy,
    /// Rates of change that the user states.
    pub churn: Vec<ChurnRule>,
    /// Rates of change learned from earlier images.
    pub history: Rates,
    /// Options for updating a previous image.
    pub update: update::UpdateOptions,
    /// Without a previous image: whether the result will be one.
    pub for_updates: bool,
    /// Leave out logs and caches.
    pub drop_noise: bool,
    /// Plan only: nothing is encoded, and the bundle is empty.
    pub dry_run: bool,
    /// Number of threads.
    pub threads: usize,
    /// Memory for file contents, in bytes; the file index is not included.
    pub memory: u64,
    /// Maximum uncompressed size of an image, in bytes.
    pub max_size: u64,
}

impl Default for SplitOptions {
    /// zstd layers, times preserved, one thread per core, and the values of [`defaults`].
    fn default() -> Self {
        Self {
            target: Target::AtMost(defaults::LAYERS),
            profile: None,
            compression: Compression::Zstd { level: defaults::ZSTD_LEVEL, window_log: None },
            mtime: MtimePolicy::Preserve,
            churn: Vec::new(),
            history: Rates::new(),
            update: update::UpdateOptions::default(),
            for_updates: false,
            drop_noise: false,
            dry_run: false,
            threads: threads::cores(),
            memory: defaults::MEMORY,
            max_size: defaults::MAX_SIZE,
        }
    }
}

impl SplitOptions {
    /// Returns the number of threads for encoding. Their buffers must leave the rest of the memory to
    /// the spools.
    pub(super) fn encoding_threads(&self, memory: u64) -> usize {
        let affordable = memory / ENCODERS_SHARE.1 * ENCODERS_SHARE.0
            / (2 * self.compression.memory_per_worker());
        self.threads.clamp(1, (affordable as usize).max(1))
    }

    /// Returns the memory budget, with the encoders' buffers reserved.
    pub fn budget(&self) -> Arc<Budget> {
        let each = 2 * self.compression.memory_per_worker();
        let encoders = self.encoding_threads(self.memory) as u64 * each;
        Budget::with_reserved(self.memory, encoders, None)
    }

    /// Returns the options of the plan of a whole image.
    pub(super) fn planning(&self) -> PlanOptions<'static> {
        PlanOptions { for_updates: self.for_updates, ..PlanOptions::new(self.target) }
    }

    /// Returns the value of the annotation [`PLAN`] for an image.
    pub(super) fn describe(&self) -> String {
        let target = match self.target {
            Target::Layers(n) | Target::Pull { layers: Some(n), .. } => Some(format!("target={n}")),
            Target::AtMost(_) => Some("target=auto".to_owned()),
            Target::Size(bytes) => Some(format!("layer-size={bytes}")),
            Target::Pull { layers: None, .. } => None,
        };
        let mut words: Vec<String> = target.into_iter().collect();
        if let Target::Pull { profile, .. } = self.target {
            words.push(format!("profile={}", profile.name));
        }
        words
            .extend([format!("compression={}", self.compression), format!("mtime={}", self.mtime)]);
        words.extend(self.churn.iter().map(|rule| format!("churn={rule}")));
        if !self.history.is_empty() {
            words.push(format!("history={}", history::digest(&self.history)));
        }
        if self.for_updates {
            words.push("for-updates".into());
        }
        if self.drop_noise {
            words.push("drop-noise".into());
        }
        words.join(" ")
    }
}
