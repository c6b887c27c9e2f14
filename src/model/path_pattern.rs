//! Glob patterns for paths, as used in options.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::base::error::{Error, Result};
use crate::model::fileset::{base_name, parts};

/// A glob pattern for paths of an image. `*` does not match `/`, `**` does. A pattern without `*`, `?`
/// or `[` also matches everything below the path. A pattern without `/`, except at its end, matches in
/// any folder, as in [`.gitignore`](https://git-scm.com/docs/gitignore#_pattern_format).
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    /// Whether it is a name, which matches in any folder.
    anywhere: bool,
    /// The compiled glob; `None` for a plain path or name.
    glob: Option<GlobMatcher>,
}

impl PathPattern {
    /// Whether it matches a path without leading slash.
    pub fn matches(&self, path: &[u8]) -> bool {
        let plain = self.text.trim_matches('/').as_bytes();
        match (&self.glob, self.anywhere) {
            (Some(glob), true) => glob.is_match(OsStr::from_bytes(base_name(path))),
            (Some(glob), false) => glob.is_match(OsStr::from_bytes(path)),
            (None, true) => parts(path).any(|part| part == plain),
            (None, false) => {
                path.strip_prefix(plain).is_some_and(|below| below.is_empty() || below[0] == b'/')
            }
        }
    }
}

impl FromStr for PathPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = !text.contains(['*', '?', '[', '{', '\\']);
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Err(Error::malformed(format!("{text:?} is not a path pattern")));
        }
        let glob = if plain { None } else { Some(glob_matcher(trimmed, true)?) };
        let anywhere = !text.trim_end_matches('/').contains('/');
        Ok(Self { text: text.to_owned(), anywhere, glob })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Compiles a glob; with `paths`, its `*` does not match `/`.
pub(crate) fn glob_matcher(glob: &str, paths: bool) -> Result<GlobMatcher> {
    let built = GlobBuilder::new(glob).literal_separator(paths).build();
    built
        .map(|glob| glob.compile_matcher())
        .map_err(|e| Error::malformed(format!("{glob:?} is not a valid glob: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_covers_all_below_it() {
        let p: PathPattern = "/etc/keys".parse().unwrap();
        assert!(p.matches(b"etc/keys") && p.matches(b"etc/keys/a/b") && !p.matches(b"etc/keys2"));
        let p: PathPattern = "**/*.pem".parse().unwrap();
        assert!(p.matches(b"a/b/c.pem") && p.matches(b"c.pem") && !p.matches(b"c.pem/x"));
        let p: PathPattern = "/a/*.pem".parse().unwrap();
        assert!(p.matches(b"a/c.pem") && !p.matches(b"a/b/c.pem"));
        for text in ["a/data,zzz", "a/da}ta", "a/b]", "a/!b"] {
            let p: PathPattern = text.parse().unwrap();
            assert!(p.matches(text.as_bytes()) && !p.matches(b"a/data"), "{text}");
        }
        let p: PathPattern = "id_rsa".parse().unwrap();
        assert!(p.matches(b"id_rsa") && p.matches(b"root/.ssh/id_rsa") && p.matches(b"id_rsa/x"));
        assert!(!p.matches(b"root/id_rsa.pub") && !p.matches(b"my_id_rsa"));
        let p: PathPattern = ".ssh/".parse().unwrap();
        assert!(p.matches(b"root/.ssh/id_rsa") && !p.matches(b"root/.sshrc"));
        let p: PathPattern = "*.pem".parse().unwrap();
        assert!(p.matches(b"c.pem") && p.matches(b"a/b/c.pem") && !p.matches(b"c.pem/x"));
        let p: PathPattern = "/id_rsa".parse().unwrap();
        assert!(p.matches(b"id_rsa") && !p.matches(b"root/id_rsa"));
        assert!("/".parse::<PathPattern>().is_err() && "[".parse::<PathPattern>().is_err());
    }
}
