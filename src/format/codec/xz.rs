//! xz, for archives that someone compressed. Layers can't use it, since there is no media type for it.

use std::io::{self, Read};
use std::sync::Arc;

use lzma_rust2::XzReader;

use super::decoding_error;
use crate::base::error::Result;
use crate::base::limits::MAX_XZ_MEMORY;
use crate::model::content::{WindowBudget, WindowReservation};

/// The magic number of xz.
pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";

pub(super) struct XzDecoder<R: Read> {
    inner: XzReader<R>,
    _window: WindowReservation,
}

impl<R: Read> XzDecoder<R> {
    pub(super) fn new(inner: R, windows: &Arc<WindowBudget>) -> Result<Self> {
        let memory = windows.max_window().min(MAX_XZ_MEMORY);
        let inner = XzReader::new_mem_limit(inner, true, (memory >> 10) as u32);
        Ok(Self { inner, _window: windows.reserve(memory)? })
    }
}

impl<R: Read> Read for XzDecoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|e| decoding_error(e, "xz"))
    }
}
