//! Reading the small files that configure access to registries.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_CONFIG_FILE, MAX_HOST};

/// Looks up an environment variable, as [`std::env::var_os`] does.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Returns the path in an environment variable; an empty one counts as unset.
pub(super) fn path(env: Environment<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Reads a file, or returns `None` if there is none.
///
/// # Errors
/// If the file can't be read or has more than [`MAX_CONFIG_FILE`] bytes. They don't name the file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        // A part of the path is a file: then there is none below it either.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_FILE {
        return Err(Error::limit(format!("it has more than {MAX_CONFIG_FILE} bytes")));
    }
    Ok(Some(bytes))
}

/// Checks that a `host[:port]` can be a part of a path and a line of text.
///
/// # Errors
/// If it has other characters than a host may have, or is too long.
pub(super) fn check_host(host: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if host.is_empty() || host.len() > MAX_HOST || !host.chars().all(allowed) || host.contains("..")
    {
        return Err(Error::malformed(format!(
            "{host:?} is not a valid registry; write HOST or HOST:PORT"
        )));
    }
    if host == "." {
        return Err(Error::malformed("\".\" is not a valid registry; write HOST or HOST:PORT"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_none_and_a_huge_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        assert!(read(&file).unwrap().is_none());
        std::fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"x");
        assert!(read(&file.join("below")).unwrap().is_none());
        assert!(read(dir.path()).is_err());
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("1048576"));
    }

    #[test]
    fn a_host_stays_in_its_folder_and_on_its_line() {
        for good in ["localhost:5000", "a-b.example.com", "[::1]:5000", "my_host"] {
            check_host(good).unwrap();
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\nb", "a b", "a\0", "ü.de", "a..b"] {
            assert!(check_host(bad).is_err(), "{bad:?}");
        }
        assert!(check_host(&"a".repeat(MAX_HOST + 1)).is_err());
    }
}
