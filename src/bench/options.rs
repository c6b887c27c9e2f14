//! What is measured of an image.

use super::stream;
use crate::base::defaults;
use crate::base::error::Result;
use crate::base::limits::BENCH_SHARE;
use crate::base::progress::Progress;
use crate::format::codec::Compression;

/// Compressions measured by default.
const COMPRESSIONS: [&str; 8] = [
    "gzip:6",
    "gzip:9",
    "zstd:1",
    "zstd:3:long=21",
    "zstd:3",
    "zstd:3:long=27",
    "zstd:9",
    "zstd:19",
];
/// The one of them that is measured at every number of layers, and whose sizes others are estimated by:
/// the default of `split`.
pub(super) const USUAL: Compression =
    Compression::Zstd { level: defaults::ZSTD_LEVEL, window_log: None };

/// Options of a measurement.
#[derive(Debug, Clone)]
pub struct MatrixOptions {
    /// The compressions, each with the numbers of layers to measure it with.
    pub rows: Vec<(Compression, Vec<u32>)>,
    /// Number of layers at which all of them are compared.
    pub compared_at: u32,
    /// Number of bytes of files to measure with, fewer for slow compressions; the whole image if it has
    /// no more.
    pub sample: u64,
}

impl MatrixOptions {
    /// Creates options that measure only the compression of `split` with every number of layers, and all
    /// others with the one at which they are compared.
    ///
    /// # Errors
    /// If a compression is not valid.
    pub(crate) fn usual(
        compressions: &[&str],
        layers: &[u32],
        compared_at: u32,
        sample: u64,
    ) -> Result<Self> {
        let row = |text: &&str| {
            let compression = Compression::parse(text)?;
            let all = compression == USUAL;
            Ok((compression, if all { layers.to_vec() } else { vec![compared_at] }))
        };
        let rows = compressions.iter().map(row).collect::<Result<_>>()?;
        Ok(Self { rows, compared_at, sample })
    }

    /// Creates options for the given compressions and numbers of layers, or the defaults if a list is
    /// empty. Of the default compressions, only that of `split` is measured with every number of layers.
    ///
    /// # Errors
    /// If a compression is not valid.
    pub fn new(compressions: &[Compression], layers: &[u32], sample: u64) -> Result<Self> {
        let layers = if layers.is_empty() { &defaults::BENCH_LAYERS[..] } else { layers };
        let usual = Some(defaults::LAYERS).filter(|n| layers.contains(n));
        let compared_at = usual.or(layers.first().copied()).unwrap_or(defaults::LAYERS);
        if compressions.is_empty() {
            return Self::usual(&COMPRESSIONS, layers, compared_at, sample);
        }
        let rows = compressions.iter().map(|c| (*c, layers.to_vec())).collect();
        Ok(Self { rows, compared_at, sample })
    }

    /// Returns what to measure with compressors of at most `memory` bytes, and notes what is left out. The usual
    /// compression is always measured, since others are estimated by it.
    pub(super) fn affordable(
        &self,
        memory: u64,
        progress: &dyn Progress,
    ) -> Vec<&(Compression, Vec<u32>)> {
        let fits = |(compression, _): &&(Compression, Vec<u32>)| {
            let bytes = stream::memory(compression);
            let fits = bytes <= memory || *compression == USUAL;
            if !fits {
                let needed = bytes.saturating_mul(BENCH_SHARE.1).div_ceil(BENCH_SHARE.0 << 20);
                progress.note(&format!(
                    "{compression} was not measured, since it takes more memory; --memory \
                     {needed}MiB allows it"
                ));
            }
            fits
        };
        self.rows.iter().filter(fits).collect()
    }
}
