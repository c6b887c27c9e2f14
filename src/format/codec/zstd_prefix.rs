//! Single zstd frames that are compressed against a reference prefix: chunks, and changed parts of files.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, compress_bound, get_error_name};

use super::zstd_levels::{BESIDE, Level};
use crate::base::error::{Error, Result};

/// How [`compress`] does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// The level of zstd.
    pub(crate) level: i32,
    /// Log2 of a window that holds the prefix and the bytes.
    pub(crate) window_log: u32,
    /// Log2 of the entries of zstd's tables, if those of the level are too large.
    pub(crate) table_log: Option<u32>,
    /// Log2 of the entries of the table of long matches, if that of the level is too large.
    pub(crate) long_table_log: Option<u32>,
}

/// What zstd says.
fn failed(code: usize) -> Error {
    Error::malformed(format!("compressing failed: {}", get_error_name(code)))
}

impl Parameters {
    /// Returns parameters with the tables of the level.
    pub(crate) fn of(level: i32, window_log: u32) -> Self {
        Self { level, window_log, table_log: None, long_table_log: None }
    }

    /// Returns a compressor.
    fn context(self, reference: &[u8]) -> Result<CCtx<'_>> {
        let mut context = CCtx::create();
        let mut set = |parameter| context.set_parameter(parameter).map(drop).map_err(failed);
        set(CParameter::CompressionLevel(self.level))?;
        if let Some(log) = self.table_log {
            set(CParameter::HashLog(log))?;
            set(CParameter::ChainLog(log))?;
        }
        if !reference.is_empty() {
            set(CParameter::WindowLog(self.window_log))?;
            set(CParameter::EnableLongDistanceMatching(true))?;
            if let Some(log) = self.long_table_log {
                set(CParameter::LdmHashLog(log))?;
            }
        }
        context.ref_prefix(reference).map_err(failed)?;
        Ok(context)
    }

    /// Returns how many bytes of memory it takes at most to compress `plain` bytes against `reference`
    /// bytes, those and the frame included.
    pub(crate) fn memory(self, plain: u64, reference: u64) -> u64 {
        let (level, bytes) = (Level::of(self.level), plain + reference);
        let window = if reference > 0 { self.window_log } else { level.window };
        let window = window.min(bytes.max(1 << 10).next_power_of_two().ilog2());
        let long = level.long_table(window, self.long_table_log);
        let tables = level.tables(window, self.table_log) + if reference > 0 { long } else { 0 };
        bytes + compress_bound(plain as usize) as u64 + tables + BESIDE
    }
}

/// Compresses against a reference prefix. The window must hold both. They must not be parts of one
/// buffer: if the prefix ends where `plain` begins, zstd's output differs
/// (`ZSTD_c_deterministicRefPrefix`).
pub(crate) fn compress(plain: &[u8], reference: &[u8], parameters: Parameters) -> Result<Vec<u8>> {
    let mut context = parameters.context(reference)?;
    let mut frame = Vec::with_capacity(compress_bound(plain.len()));
    context.compress2(&mut frame, plain).map_err(failed)?;
    frame.shrink_to_fit();
    Ok(frame)
}

/// Decompresses a frame of [`compress`] to exactly `bytes` bytes. The caller has checked that they are
/// within the limits.
///
/// # Errors
/// If the frame is damaged or expands to another size.
pub(crate) fn decompress(
    frame: &[u8],
    reference: &[u8],
    bytes: u64,
    window_log: u32,
) -> Result<Vec<u8>> {
    let mut context = DCtx::create();
    let failed = |code| Error::malformed(format!("it is damaged ({})", get_error_name(code)));
    context.set_parameter(DParameter::WindowLogMax(window_log + 1)).map_err(failed)?;
    context.ref_prefix(reference).map_err(failed)?;
    let mut plain = Vec::with_capacity(bytes as usize);
    context.decompress(&mut plain, frame).map_err(failed)?;
    if plain.len() as u64 != bytes {
        return Err(Error::malformed(format!("it expands to {} bytes, not {bytes}", plain.len())));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressors_take_no_more_memory_than_is_counted() {
        let bytes: Vec<u8> = (0..3 << 20).map(|i: u32| (i.wrapping_mul(i) >> 11) as u8).collect();
        for level in 1..=22 {
            for (plain, reference) in [(0, 0), (5_000, 0), (5_000, 900_000), (1 << 20, 2 << 20)] {
                for table_log in [None, Some(18)] {
                    // The tables of the highest levels take a second to clear.
                    if level > 19 && reference > 0 && table_log.is_none() {
                        continue;
                    }
                    let long_table_log = table_log;
                    let parameters =
                        Parameters { level, window_log: 26, table_log, long_table_log };
                    let mut context = parameters.context(&bytes[..reference]).unwrap();
                    let plain = &bytes[reference..reference + plain];
                    let mut frame = Vec::with_capacity(compress_bound(plain.len()));
                    context.compress2(&mut frame, plain).unwrap();
                    let [p, r] = [plain.len(), reference].map(|n| n as u64);
                    let taken = (context.sizeof() + frame.capacity()) as u64 + p + r;
                    let counted = parameters.memory(p, r);
                    assert!(taken <= counted, "{level} {p} {r} {table_log:?}: {taken} {counted}");
                }
            }
        }
    }
}
