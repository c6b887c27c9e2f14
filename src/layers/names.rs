//! Normalises the paths of a layer, and interprets names that begin with `.wh.`.

use super::changeset::{Change, ChangeKind};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_NAME, MAX_PATH};
use crate::model::fileset::{base_name, join, parent, parts};

/// Normalises a path as clients do: `./`, double and leading slashes are ignored, and `..` is resolved
/// lexically, without following symlinks.
///
/// # Errors
/// If `..` leads out of the root, or a name or path is longer than Linux allows. For a whiteout, the
/// length of the hidden name counts, since clients create no file with the whiteout's own name.
pub(super) fn clean(path: &[u8]) -> Result<Box<[u8]>> {
    let mut kept: Vec<u8> = Vec::with_capacity(path.len());
    for part in parts(path) {
        if part == b".." {
            let up = parent(&kept)
                .ok_or_else(|| Error::malformed("the path leaves the root by `..`"))?;
            kept.truncate(up.len());
            continue;
        }
        let name = part.strip_prefix(b".wh.").unwrap_or(part);
        if name.len() > MAX_NAME {
            return Err(Error::malformed(format!(
                "a name in the path is longer than the {MAX_NAME} bytes that Linux allows"
            )));
        }
        if kept.len() + usize::from(!kept.is_empty()) + name.len() > MAX_PATH {
            return Err(Error::malformed(format!(
                "the path is longer than the {MAX_PATH} bytes that Linux allows"
            )));
        }
        if !kept.is_empty() {
            kept.push(b'/');
        }
        kept.extend_from_slice(part);
    }
    Ok(kept.into_boxed_slice())
}

/// The meaning of a path with regard to `.wh.`.
pub(super) enum Marker {
    /// An ordinary name.
    No,
    /// A path that clients ignore.
    Ignored,
    /// A file of AUFS that only hard links refer to.
    Unnamed,
    /// A whiteout.
    Change(Change),
}

/// Returns the meaning of a path with regard to `.wh.`.
///
/// # Errors
/// If a whiteout hides no valid name, or is used as a directory.
pub(super) fn marker(path: &[u8]) -> Result<Marker> {
    if !parts(path).any(|part| part.starts_with(b".wh.")) {
        return Ok(Marker::No);
    }
    // AUFS kept its own files under such names. Docker skips them, except those that hard links of the
    // layer refer to (moby, pkg/archive/diff.go: WhiteoutMetaPrefix, WhiteoutLinkDir).
    let name = base_name(path);
    let dir = path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default();
    if name != b".wh..wh..opq" && parts(path).any(|part| part.starts_with(b".wh..wh.")) {
        let linked = dir == b".wh..wh.plnk";
        return Ok(if linked { Marker::Unnamed } else { Marker::Ignored });
    }
    if parts(dir).any(|part| part.starts_with(b".wh.")) {
        return Err(Error::malformed("a directory in the path is a whiteout"));
    }
    if name == b".wh..wh..opq" {
        return Ok(Marker::Change(Change { path: dir.into(), kind: ChangeKind::Opaque }));
    }
    let hidden = &name[b".wh.".len()..];
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(Error::malformed("the whiteout hides no valid name"));
    }
    let path = join(dir, hidden).into();
    Ok(Marker::Change(Change { path, kind: ChangeKind::Whiteout }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_invalid_ones_refused() {
        assert_eq!(&*clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(&*clean(b"/etc").unwrap(), b"etc");
        assert_eq!(&*clean(b"./").unwrap(), b"");
        assert_eq!(&*clean(b"a/../b/c/d/../../e").unwrap(), b"b/e");
        assert_eq!(&*clean(b"a/..").unwrap(), b"");
        assert!(clean(b"../b").is_err() && clean(b"a/../../b").is_err() && clean(b"/..").is_err());
        assert!(clean(&[b'n'; 256]).is_err());
        assert!(clean(&[b'n'; 255]).is_ok());
        // Clients never create a file with a whiteout's name.
        assert!(clean(&[b".wh.", &[b'n'; 255][..]].concat()).is_ok());
        assert!(clean(&[b".wh.", &[b'n'; 256][..]].concat()).is_err());
        let deep = |n: usize, name: &[u8]| [&b"a/".repeat(n)[..], name].concat();
        assert_eq!(clean(&deep(2047, b"a")).unwrap().len(), 4095);
        assert!(clean(&deep(2047, b".wh.a")).is_ok());
        assert!(clean(&deep(2047, b"aa")).is_err() && clean(&deep(20_000, b"a")).is_err());
    }

    #[test]
    fn whiteouts_are_distinguished_from_names() {
        let read = |p: &[u8]| match marker(p) {
            Ok(Marker::No) => "a name".to_owned(),
            Ok(Marker::Ignored) => "nothing".to_owned(),
            Ok(Marker::Unnamed) => "a file without a name".to_owned(),
            Ok(Marker::Change(c)) => format!("{:?} of {}", c.kind, c.path.escape_ascii()),
            Err(_) => "an error".to_owned(),
        };
        for (path, want) in [
            (&b"a/b"[..], "a name"),
            (b"a/wh..x", "a name"),
            (b"a/.wh.b", "Whiteout of a/b"),
            (b".wh.b", "Whiteout of b"),
            (b"a/.wh..wh..opq", "Opaque of a"),
            (b".wh..wh..opq", "Opaque of "),
            (b".wh..wh.plnk/1.2", "a file without a name"),
            (b".wh..wh.plnk", "nothing"),
            (b".wh..wh.aufs", "nothing"),
            (b"a/.wh..wh.orph/1.2", "nothing"),
            (b"a/.wh.", "an error"),
            (b".wh...", "an error"),
            (b"a/.wh..", "an error"),
            (b".wh.a/b", "an error"),
        ] {
            assert_eq!(read(path), want, "{}", path.escape_ascii());
        }
    }
}
