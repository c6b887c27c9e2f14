//! Measurements of an image: size and speed of each compression at each number of layers, simulated
//! pulls, and the cost of updates.
//!
//! May import `split` and everything below it. Types to know: [`Subject`], an image that was read once;
//! [`Matrix`], its sizes and speeds; and [`UpdateSequence`], several versions of an image.

mod matrix;
mod options;
mod pulls;
mod sample;
mod stream;
mod subject;
mod updates;

pub use matrix::{Cell, Matrix, MatrixRow, Sizes, measure, speed};
pub use options::MatrixOptions;
pub use pulls::{CLIENTS, ColdPulls, PulledForm, cold_pulls, forms};
pub use subject::{Subject, budget};
pub use updates::{Forms, Step, UPDATE_COLUMNS, UpdatePulls, UpdateSequence};
