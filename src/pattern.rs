//! Globs on paths, as options take them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::error::{Error, Result};

/// A glob on paths of an image. `*` stays within a folder, `**` does not; without `*`, `?` or
/// `[` it also covers all that lies below.
#[derive(Debug, Clone)]
pub struct PathPattern {
    text: String,
    /// None for a plain path.
    glob: Option<GlobMatcher>,
}

impl PathPattern {
    /// Whether it matches a path without leading slash.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.glob {
            Some(glob) => glob.is_match(OsStr::from_bytes(path)),
            None => path
                .strip_prefix(self.text.trim_matches('/').as_bytes())
                .is_some_and(|below| below.is_empty() || below[0] == b'/'),
        }
    }
}

impl FromStr for PathPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = !text.contains(['*', '?', '[', '{', '\\']);
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Err(Error::malformed(format!("{text:?} is no pattern of paths")));
        }
        let glob = if plain { None } else { Some(glob_matcher(trimmed, true)?) };
        Ok(Self { text: text.to_owned(), glob })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Compiles a glob; with `paths` its `*` does not match `/`.
pub(crate) fn glob_matcher(glob: &str, paths: bool) -> Result<GlobMatcher> {
    let built = GlobBuilder::new(glob).literal_separator(paths).build();
    built
        .map(|glob| glob.compile_matcher())
        .map_err(|e| Error::malformed(format!("{glob:?} is no glob: {e}")))
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
        assert!("/".parse::<PathPattern>().is_err() && "[".parse::<PathPattern>().is_err());
    }
}
