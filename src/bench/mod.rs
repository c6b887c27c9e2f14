//! What an image comes to under each compression and number of layers, how long clients take to
//! pull it, and what its updates cost.

mod matrix;
mod sample;
mod updates;

pub use matrix::{Cell, Matrix, Options, Row, Sizes, measure};
pub use updates::{Step, updates};
