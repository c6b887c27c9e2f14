//! What an image comes to under each compression and number of layers, how long clients take to
//! pull it, and what its updates cost.

mod matrix;
mod pulls;
mod sample;
mod subject;
mod updates;

pub use matrix::{Cell, Matrix, Options, Row, Sizes, measure};
pub use pulls::{ColdPulls, Form, cold_pulls, forms};
pub use subject::Subject;
pub use updates::{Forms, Sequence, Step, UpdatePulls};
