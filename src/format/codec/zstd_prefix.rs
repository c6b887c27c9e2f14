//! Single zstd frames that are compressed against a reference prefix: chunks, and changed parts of files.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, get_error_name};

use crate::base::error::{Error, Result};

/// Compresses against a reference prefix. A window of 2^`window_log` bytes must hold both. They must not
/// be parts of one buffer: if the prefix ends where `plain` begins, zstd's output differs
/// (`ZSTD_c_deterministicRefPrefix`). Tables have 2^`table_log` entries, or the size of the level.
pub(crate) fn compress(
    plain: &[u8],
    reference: &[u8],
    level: i32,
    window_log: u32,
    table_log: Option<u32>,
) -> Result<Vec<u8>> {
    let mut context = CCtx::create();
    let failed = |code| Error::malformed(format!("compressing failed: {}", get_error_name(code)));
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(failed)?;
    if let Some(log) = table_log {
        context.set_parameter(CParameter::HashLog(log)).map_err(failed)?;
        context.set_parameter(CParameter::ChainLog(log)).map_err(failed)?;
    }
    if !reference.is_empty() {
        context.set_parameter(CParameter::WindowLog(window_log)).map_err(failed)?;
        context.set_parameter(CParameter::EnableLongDistanceMatching(true)).map_err(failed)?;
    }
    context.ref_prefix(reference).map_err(failed)?;
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
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
