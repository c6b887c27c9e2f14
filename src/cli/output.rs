//! What goes to standard output: files other than images, documents for machines, and what is said
//! to people.
//!
//! A file or document that is cut off there is an error, also where only its reader went away. What
//! is said to people may be lost so: whoever stops reading has seen enough. The exit
//! status says what a command found in any case.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::{Global, Outcome};
use crate::base::error::{Context, Error, Result};
use crate::base::text::{escape, escape_json};
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
    fill(&mut out).and_then(|()| Ok(out.flush()?)).with_context(|| STDOUT)
}

/// Says what was done, as JSON or for people: on standard output, unless that `is_taken` by what
/// was made.
pub(super) fn tell(
    global: &Global,
    is_taken: bool,
    value: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<Outcome> {
    let mut out: Box<dyn Write> =
        if is_taken { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let told = match (global.json, global.quiet) {
        (true, _) => put(&mut out, &json(value)?),
        (false, true) => Ok(()),
        (false, false) => forgive_closed(put(&mut out, lines_printable(&text()).as_bytes())),
    };
    told.with_context(|| if is_taken { "writing to standard error" } else { STDOUT })?;
    Ok(Outcome::Done)
}

const STDOUT: &str = "writing to standard output";

/// Prints a document, which is of no use without its end.
pub(super) fn print(bytes: &[u8]) -> Result<Outcome> {
    put(&mut io::stdout(), bytes).map_err(not_printed)?;
    Ok(Outcome::Done)
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<Outcome> {
    print(&json(value)?)
}

/// Prints what people read.
pub(super) fn say(text: &str) -> Result<Outcome> {
    forgive_closed(put(&mut io::stdout(), lines_printable(text).as_bytes()))
        .map_err(not_printed)?;
    Ok(Outcome::Done)
}

/// A text for people whose lines hold nothing that a terminal obeys.
fn lines_printable(text: &str) -> String {
    escape(text, &['\n']).into_owned()
}

/// Takes it for no error that nobody reads any more.
pub(super) fn forgive_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Why standard output does not have all.
pub(super) fn not_printed(e: io::Error) -> Error {
    Error::from(e).context(STDOUT)
}

fn put(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// A value as JSON, with a line end.
fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    Ok(format!("{}\n", escape_json(&text)).into_bytes())
}
