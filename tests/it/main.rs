//! Tests of the command as users have it, judged by tools that are not ours.

#![expect(unreachable_pub, reason = "one test program, whose modules share helpers")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "that is how a test fails")]
#![expect(clippy::too_many_lines, reason = "tables of cases are long")]
#![expect(clippy::print_stdout, reason = "seeds and reasons are for whoever reads the log")]
#![expect(clippy::needless_pass_by_value, clippy::format_collect, reason = "plain over fast")]

mod archives;
mod base;
mod bounds;
mod changed;
mod chunked;
mod ci;
mod cli;
mod clients;
mod commands;
mod daemons;
mod damage;
mod damaged_layers;
mod delta;
mod determinism;
mod documents;
mod edit;
mod fake_docker;
mod fidelity;
mod folders;
mod formats;
mod headers;
#[cfg(feature = "store")]
mod history;
mod hostile_names;
mod image;
mod inspect;
mod interrupted;
mod limits;
mod messages;
mod model;
mod names;
mod overlay;
mod page;
mod people;
mod pipelines;
mod pulls;
mod real_registry;
mod rebase;
mod recode;
mod registry;
mod registry_client;
mod secrets;
mod stable;
mod stale;
mod step;
#[cfg(feature = "store")]
mod store;
mod streams;
mod tidy;
mod times;
mod tool;
mod update;
mod writers;
