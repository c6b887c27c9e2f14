//! Two images beside each other: whether they hold the same files, and what an update costs.
//!
//! Imports what lies below `plan`, and `plan`. To know: [`verify::verify`] and [`diff::diff`].

pub mod diff;
pub mod verify;
