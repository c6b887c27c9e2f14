//! The command `relayer`: see [`relayer::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    relayer::cli::main()
}
