//! What `split` is asked for, and how that is noted on an image.

use std::sync::Arc;

use crate::base::defaults;
use crate::base::limits::ENCODERS_SHARE;
use crate::base::threads;
use crate::format::codec::Compression;
use crate::layers::encode;
use crate::model::content::Budget;
use crate::model::mtime::MtimePolicy;
use crate::model::oci::Annotations;
use crate::plan::Target;
use crate::plan::analyze::ChurnRule;
use crate::plan::history::{self, Rates};
use crate::plan::update;
use crate::simulate::Profile;

/// Digest of the config of the image that was split: the same for every way to store it.
pub const SOURCE: &str = "io.relayer.source";
/// Version of relayer that wrote an image.
pub const VERSION: &str = "io.relayer.version";
/// The options that the plan was made with; on a layer, what is in it.
pub const PLAN: &str = "io.relayer.plan";
/// How our own lines in an image's history begin.
pub(super) const HISTORY: &str = "relayer split: ";

/// How relayer compressed an image's layers, from the manifest's annotations.
pub fn noted_compression(annotations: &Annotations) -> Option<Compression> {
    let mut words = annotations.get(PLAN)?.split(' ');
    Compression::parse(words.find_map(|word| word.strip_prefix("compression="))?).ok()
}

/// What to do with an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many layers, or how large.
    pub target: Target,
    /// Whose pulls are to be simulated.
    pub profile: Option<&'static Profile>,
    /// Codec and level.
    pub compression: Compression,
    /// What becomes of modification times.
    pub mtime: MtimePolicy,
    /// Rates stated by hand.
    pub churn: Vec<ChurnRule>,
    /// What earlier images tell.
    pub history: Rates,
    /// How to update a previous image.
    pub update: update::UpdateOptions,
    /// Leave out logs and caches.
    pub drop_noise: bool,
    /// Plan only: nothing is encoded, and the bundle is empty.
    pub dry_run: bool,
    /// Threads to use.
    pub threads: usize,
    /// Memory to use for contents, in bytes, beside the file index.
    pub memory: u64,
    /// The image may expand to so many bytes.
    pub max_size: u64,
}

impl Default for Options {
    /// zstd layers, times preserved, one thread per core, and the values of [`defaults`].
    fn default() -> Self {
        Self {
            target: Target::Layers(defaults::LAYERS),
            profile: None,
            compression: Compression::Zstd { level: 3, window_log: None },
            mtime: MtimePolicy::Preserve,
            churn: Vec::new(),
            history: Rates::new(),
            update: update::UpdateOptions::default(),
            drop_noise: false,
            dry_run: false,
            threads: threads::cores(),
            memory: defaults::MEMORY,
            max_size: defaults::MAX_SIZE,
        }
    }
}

impl Options {
    /// Threads for encoding: what they hold must leave the rest of the memory to the spools.
    pub(super) fn encoding_threads(&self, memory: u64) -> usize {
        let affordable =
            memory / ENCODERS_SHARE.1 * ENCODERS_SHARE.0 / (2 * encode::MEMORY_PER_WORKER);
        self.threads.clamp(1, (affordable as usize).max(1))
    }

    /// The memory, less what encoders will hold.
    pub fn budget(&self) -> Arc<Budget> {
        let encoders = self.encoding_threads(self.memory) as u64 * 2 * encode::MEMORY_PER_WORKER;
        Budget::with_reserved(self.memory, encoders, None)
    }

    /// As it is noted on the image.
    pub(super) fn describe(&self) -> String {
        let target = match self.target {
            Target::Layers(n) | Target::Pull { layers: Some(n), .. } => Some(format!("target={n}")),
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
        if self.drop_noise {
            words.push("drop-noise".into());
        }
        words.join(" ")
    }
}
