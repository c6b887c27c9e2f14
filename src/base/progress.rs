//! How far a long stage is, told to whoever wants to show it.

/// Receives progress. The terminal's bars are one implementation, [`Silent`] another.
///
/// Methods are called from several threads at once.
pub trait Progress: Sync {
    /// A stage begins: what it does, and how many bytes it will go through.
    fn begin(&self, stage: &str, bytes: u64);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The stage is over.
    fn end(&self);
    /// Something a user should know that is no error.
    fn note(&self, text: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}
