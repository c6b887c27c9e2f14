//! Files other than images, which may go to standard output, and what is said when something was
//! written.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::{Global, Outcome, json, lines_printable, print};
use crate::error::{Context, Error, Result};
use crate::transport::{Reference, write};

/// Whether a file is standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Checks that a file can be written, before any work begins.
pub(super) fn check(path: &Path, force: bool, inputs: &[&Reference]) -> Result<()> {
    if !is_standard(path) {
        return write::check_file(path, force, inputs);
    }
    if io::stdout().is_terminal() {
        return Err(Error::refused(
            "standard output is a terminal; redirect it, or name a file with -o",
        ));
    }
    Ok(())
}

/// Writes a file.
pub(super) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if !is_standard(path) {
        return write::file(path, fill);
    }
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    fill(&mut out).and_then(|()| Ok(out.flush()?)).context(|| "writing to standard output")
}

/// Says what was done, as JSON or for people: on standard output, unless that `is_taken` by what
/// was made.
pub(super) fn tell(
    global: &Global,
    is_taken: bool,
    value: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<Outcome> {
    let text = match (global.json, global.quiet) {
        (true, _) => json(value)?,
        (false, true) => return Ok(Outcome::Done),
        (false, false) => lines_printable(&text()).into_bytes(),
    };
    if is_taken {
        io::stderr().write_all(&text)?;
        return Ok(Outcome::Done);
    }
    print(&text)
}
