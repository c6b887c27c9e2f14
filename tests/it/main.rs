//! Tests of the command as users have it, judged by tools that are not ours.

#![expect(unreachable_pub, reason = "one test program, whose modules share helpers")]

mod cli;
mod clients;
mod damage;
mod determinism;
mod fidelity;
mod image;
mod model;
mod tidy;
mod tool;
