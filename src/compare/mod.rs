//! Comparison of two images: differences of their file sets, and the cost of an update.
//!
//! May import `plan` and everything below it. To know: [`verify::compare`], which lists every
//! [`Difference`](verify::Difference), and [`diff::diff`], which sums them up as a [`Diff`](diff::Diff).

pub mod diff;
pub mod verify;
