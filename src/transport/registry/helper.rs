//! Credential helpers: programs `docker-credential-NAME` that keep passwords.
//!
//! The protocol is that of `docker-credential-helpers` (`client/client.go`): `get` has the server on its
//! standard input and answers with JSON on its standard output. If it fails, it prints a message there.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::credentials::{Credentials, Secret};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::MAX_HELPER_OUTPUT;
use crate::base::program::{Running, drain, find, set_nonblocking};

/// What a helper prints if it has no credentials (`credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Time between looks at a helper that runs. Most take longer to start.
const PAUSE: Duration = Duration::from_millis(5);

/// The answer of a helper. Go ignores the case of keys, so some helpers write them in lower case.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "Username", alias = "username", default)]
    user: String,
    #[serde(rename = "Secret", alias = "secret", default)]
    secret: Option<Secret>,
}

/// Asks the helper `docker-credential-NAME` in one of the folders of `search`, a value of `PATH`, for the
/// credentials of a server. Returns `None` if it has none.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::base::error::ErrorKind::NotFound) if it is not installed; others if
/// it fails, or does not answer within `limit`.
pub(super) fn ask(
    name: &str,
    server: &str,
    search: Option<&OsStr>,
    limit: Duration,
) -> Result<Option<Credentials>> {
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(Error::malformed(format!("{name:?} is not the name of a credential helper")));
    }
    let program = format!("docker-credential-{name}");
    let place = || format!("asking {program} for the credentials of {server}");
    let file = find(&program, search).ok_or_else(|| {
        Error::not_found("it is in no folder of PATH; install it, or log in with --authfile FILE")
            .context(place())
    })?;
    answer(&run(file.into(), server, limit).with_context(place)?).with_context(place)
}

/// What a helper printed.
struct Output {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// Runs a helper to its end. Its pipes are read without waiting, because a process that it started can
/// keep them open.
fn run(file: OsString, server: &str, limit: Duration) -> Result<Output> {
    let mut command = Command::new(file);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = Running(command.spawn()?);
    let (stdin, out, err) = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(mut stdin), Some(mut out), Some(mut err)) = (stdin, out, err) else {
        return Err(Error::malformed("its pipes are missing"));
    };
    set_nonblocking(&out)?;
    set_nonblocking(&err)?;
    // It fits into the pipe. A helper that does not read it fails in its own words.
    let _ = stdin.write_all(server.as_bytes());
    drop(stdin);
    let mut output = Output { status: ExitStatus::default(), out: Vec::new(), err: Vec::new() };
    loop {
        // Asked before the last reading, which then sees all that it wrote.
        let ended = child.0.try_wait()?;
        keep_begin(&mut out, &mut output.out)?;
        keep_begin(&mut err, &mut output.err)?;
        if output.out.len() > MAX_HELPER_OUTPUT {
            return Err(Error::limit(format!("it printed more than {MAX_HELPER_OUTPUT} bytes")));
        }
        if let Some(status) = ended {
            return Ok(Output { status, ..output });
        }
        if start.elapsed() >= limit {
            return Err(Error::limit(format!(
                "it did not answer within {} s and was stopped; run it by hand to see why, or log in \
                 with --authfile FILE",
                limit.as_secs()
            )));
        }
        sleep(PAUSE);
    }
}

/// Reads what is in a pipe, and keeps one byte more of it than a helper may print.
fn keep_begin(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<()> {
    drain(pipe, MAX_HELPER_OUTPUT / 4096 + 1, |bytes| {
        let room = (MAX_HELPER_OUTPUT + 1).saturating_sub(into.len());
        into.extend_from_slice(&bytes[..bytes.len().min(room)]);
    })
}

/// Returns the credentials in a helper's output.
fn answer(output: &Output) -> Result<Option<Credentials>> {
    let parsed = serde_json::from_slice::<Answer>(&output.out).ok();
    if output.status.success() {
        let Some(Answer { user, secret }) = parsed else {
            return Err(Error::malformed("its answer is not JSON with a Username and a Secret"));
        };
        let secret = secret.filter(|secret| !secret.expose().is_empty());
        return Ok(match secret {
            Some(token) if user == "<token>" => Some(Credentials::IdentityToken(token)),
            None if user.is_empty() => None,
            secret => {
                let password = secret.unwrap_or_else(|| Secret::new(""));
                Some(Credentials::Basic { user, password })
            }
        });
    }
    let message = String::from_utf8_lossy(&output.out);
    if message.trim() == NOT_FOUND {
        return Ok(None);
    }
    // What looks like an answer is not a message.
    let message = if message.contains('{') { "" } else { message.trim() };
    let mut text = format!("{message} {}", String::from_utf8_lossy(&output.err).trim());
    if let Some(secret) = parsed.and_then(|answer| answer.secret)
        && !secret.expose().is_empty()
    {
        text = text.replace(secret.expose(), "***");
    }
    Err(Error::refused(format!("it failed with {}: {}", output.status, text.trim())))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::base::testing::tool;

    /// Writes a helper into a folder. Another process writes it: ours may be starting programs on other
    /// threads, which would hold it open, and Linux does not run what is open for writing.
    pub(in super::super) fn install(folder: &Path, name: &str, script: &str) {
        let file = format!("docker-credential-{name}");
        let write = format!("cat > {file} && chmod +x {file}");
        tool("sh", &["-c", &write], folder, format!("#!/bin/sh\n{script}\n").as_bytes());
    }

    /// Runs a script as a helper.
    fn run_script(script: &str) -> Result<Option<Credentials>> {
        run_for(Duration::from_secs(60), script)
    }

    fn run_for(limit: Duration, script: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "test", script);
        ask("test", "reg.io", Some(dir.path().as_os_str()), limit)
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: Secret::new(password) }
    }

    #[test]
    fn helpers_get_the_server_and_answer_with_json() {
        let echo =
            r#"test "$1" = get && printf '{"ServerURL":"","Username":"u","Secret":"%s"}' $(cat)"#;
        assert_eq!(run_script(echo).unwrap(), Some(basic("u", "reg.io")));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        let expected = Some(Credentials::IdentityToken(Secret::new("t")));
        assert_eq!(run_script(token).unwrap(), expected);
        let lower = r#"echo '{"username":"u","secret":"p"}'"#;
        assert_eq!(run_script(lower).unwrap(), Some(basic("u", "p")));
        let none = "echo credentials not found in native keychain; exit 1";
        assert_eq!(run_script(none).unwrap(), None);
        assert_eq!(run_script(r#"echo '{"Username":"","Secret":""}'"#).unwrap(), None);
    }

    #[test]
    fn failures_are_told_without_secrets() {
        let text = |script: &str| run_script(script).unwrap_err().to_string();
        let e = text("echo no vault; printf 'line\\033[31m' >&2; exit 3");
        assert!(
            e.starts_with("asking docker-credential-test for the credentials of reg.io"),
            "{e}"
        );
        assert!(e.contains("exit status: 3: no vault line\\u{1b}[31m"), "{e}");
        let e = text(r#"echo '{"Username":"u","Secret":"hunter2"}'; echo got hunter2 >&2; exit 1"#);
        assert!(e.contains("got ***") && !e.contains("hunter"), "{e}");
        let e = text("echo hunter2");
        assert!(e.contains("not JSON") && !e.contains("hunter"), "{e}");
        let e = text(r#"echo '{"Username":"u","Secret":["hunter2"]}'"#);
        assert!(e.contains("not JSON") && !e.contains("hunter"), "{e}");
        assert!(text("kill -9 $$").contains("signal: 9"));
    }

    #[test]
    fn a_helper_that_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let start = Instant::now();
        let script = format!("echo $$ > {}; exec sleep 60", pid.display());
        let e = run_for(Duration::from_secs(1), &script).unwrap_err().to_string();
        assert!(e.contains("docker-credential-test") && e.contains("within 1 s"), "{e}");
        assert!(start.elapsed() < Duration::from_secs(20));
        // Also reaped.
        let pid = fs::read_to_string(pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn a_pipe_that_stays_open_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let start = Instant::now();
        let answer = r#"echo '{"Username":"u","Secret":"p"}'"#;
        let script = format!("sleep 60 & echo $! > {}; {answer}", pid.display());
        assert_eq!(run_script(&script).unwrap(), Some(basic("u", "p")));
        assert!(start.elapsed() < Duration::from_secs(20));
        tool("kill", &[fs::read_to_string(pid).unwrap().trim()], dir.path(), b"");
    }

    #[test]
    fn output_is_bounded() {
        let e = run_script("exec cat /dev/zero").unwrap_err().to_string();
        assert!(e.contains("more than 65536 bytes"), "{e}");
        let chatty = r#"head -c 1000000 /dev/zero >&2; echo '{"Username":"u","Secret":"p"}'"#;
        assert_eq!(run_script(chatty).unwrap(), Some(basic("u", "p")));
        let script = "head -c 60000 /dev/zero | tr '\\0' p";
        let long = format!(r#"printf '{{"Username":"u","Secret":"%s"}}' $({script})"#);
        assert_eq!(run_script(&long).unwrap(), Some(basic("u", &"p".repeat(60_000))));
    }

    #[test]
    fn only_programs_in_absolute_folders_are_run() {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(1);
        let path = Some(dir.path().as_os_str());
        let e = ask("none", "reg.io", path, limit).unwrap_err();
        assert_eq!(e.kind(), crate::base::error::ErrorKind::NotFound);
        assert!(e.to_string().contains("docker-credential-none"), "{e}");
        for name in ["", "../x", "a/b", "a\0"] {
            let e = ask(name, "reg.io", path, limit).unwrap_err();
            assert!(e.to_string().contains("not the name"), "{e}");
        }
        fs::write(dir.path().join("docker-credential-x"), "#!/bin/sh").unwrap();
        assert!(find("docker-credential-x", path).is_none(), "not executable");
        install(dir.path(), "y", "exit 1");
        assert!(find("docker-credential-y", path).is_some());
        assert!(find("sh", Some(OsStr::new("bin::."))).is_none());
        assert!(find("sh", None).is_none());
    }
}
