//! Progress of long stages.

/// A receiver of progress. The terminal's progress bars are one implementation, [`Silent`] another.
///
/// Methods are called from several threads at once.
pub trait Progress: Sync {
    /// Begins a stage, which will process `bytes` bytes; 0 if that is not known, or the stage waits for
    /// [transfers](super::transfers::Transfers), which have a progress of their own.
    fn begin(&self, stage: &str, bytes: u64);
    /// Reports that `bytes` more bytes are done.
    fn advance(&self, bytes: u64);
    /// Ends the stage.
    fn end(&self);
    /// Shows a message to the user that is not an error.
    fn note(&self, text: &str);
}

/// Discards all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}
