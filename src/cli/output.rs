//! Standard output: files other than images, JSON, and text for people.
//!
//! A file or JSON document that is cut off is an error, even if its reader closed the pipe. Text for
//! people is not: a reader that closes the pipe has seen enough. The exit status says what a command
//! found in any case.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::table::paragraphs;
use super::{Global, Outcome, terminal};
use crate::base::error::{Context, Error, Result};
use crate::base::text::{escape, escape_json};
use crate::transport::{Reference, write};

/// Returns whether `path` stands for standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Checks that a file can be written, before any work begins.
///
/// # Errors
/// If it can't be written, already exists without `force`, or standard output is a terminal.
pub(super) fn check(path: &Path, force: bool, inputs: &[&Reference]) -> Result<()> {
    if !is_standard(path) {
        return write::check_file(path, force, inputs);
    }
    if io::stdout().is_terminal() {
        return Err(Error::refused(
            "standard output is a terminal; redirect it or name a file with -o",
        ));
    }
    Ok(())
}

/// Writes a file, or to standard output if that is what `path` stands for.
///
/// # Errors
/// Those of `fill` and of writing.
pub(super) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if !is_standard(path) {
        return write::file(path, fill);
    }
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    fill(&mut out).and_then(|()| Ok(out.flush()?)).with_context(|| STDOUT)
}

/// Prints the result of a command: `value` with `--json`, nothing with `--quiet`, else `text`. It
/// goes to standard output, or to standard error if standard output `is_taken` by a file.
///
/// # Errors
/// If it can't be written.
pub(super) fn print_result<T: serde::Serialize>(
    global: &Global,
    is_taken: bool,
    value: impl FnOnce() -> T,
    text: impl FnOnce() -> String,
) -> Result<Outcome> {
    let mut out: Box<dyn Write> =
        if is_taken { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let printed = match (global.json, global.quiet) {
        (true, _) => write_all(&mut out, &json(&value())?),
        (false, true) => Ok(()),
        (false, false) => {
            let text = lines_printable(&text());
            let text = match terminal::columns() {
                Some(width) if !global.verbose => paragraphs(&text, width),
                _ => text,
            };
            ignore_closed(write_all(&mut out, text.as_bytes()))
        }
    };
    printed.with_context(|| if is_taken { "writing to standard error" } else { STDOUT })?;
    Ok(Outcome::Done)
}

/// Prints a line on what was done so far, unless `--json` or `--quiet` is given.
///
/// # Errors
/// If it can't be written.
#[cfg(feature = "store")]
pub(super) fn print_step(global: &Global, text: impl FnOnce() -> String) -> Result<()> {
    if !global.json {
        print_result(global, false, || (), text)?;
    }
    Ok(())
}

const STDOUT: &str = "writing to standard output";

/// Prints a document that is of no use without its end.
///
/// # Errors
/// If it can't be written, also because its reader closed the pipe.
pub(super) fn print_document(bytes: &[u8]) -> Result<Outcome> {
    write_all(&mut io::stdout(), bytes).map_err(not_printed)?;
    Ok(Outcome::Done)
}

/// Escapes everything in `text` that a terminal would interpret, except line ends.
fn lines_printable(text: &str) -> String {
    escape(text, &['\n']).into_owned()
}

/// Ignores the error of a pipe whose reader closed it.
pub(super) fn ignore_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Returns the error of output that was lost.
pub(super) fn not_printed(e: io::Error) -> Error {
    Error::from(e).context(STDOUT)
}

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Formats a value as JSON with a line end.
fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    Ok(format!("{}\n", escape_json(&text)).into_bytes())
}
