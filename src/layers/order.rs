//! The order of entries in a layer's tar.

use std::cmp::Reverse;

use crate::model::fileset::{FileSet, InodeKind, base_name, parent};

/// Longest extension in bytes. What follows a dot in a longer way is part of a name, as a hash is.
const MAX_EXTENSION: usize = 8;

/// Sorts entries of a file set, given by their positions, for a tar. No position is kept twice.
///
/// What is not a file comes first, in order of path, so that parents come before what they hold. Files follow
/// by likeness, since a compressor sees a few MiB at a time: by kind, the largest first, and by path. Files of
/// one size are often the same, or the same for another module system. Python's are ordered by path alone:
/// a compiled one repeats names and texts of its source.
pub(crate) fn sort(files: &FileSet, positions: &mut Vec<u32>) {
    positions.sort_by_cached_key(|at| {
        let entry = &files.entries()[*at as usize];
        let InodeKind::File(file) = &files.inode(entry).kind else {
            return (false, &[][..], Reverse(0), &[][..], &[][..], *at);
        };
        if let Some((folder, module)) = python_module(&entry.path) {
            return (true, &b"py"[..], Reverse(0), folder, module, *at);
        }
        (true, kind(&entry.path), Reverse(file.size), &[][..], &[][..], *at)
    });
    positions.dedup();
}

/// Returns the extension of a name: what follows its last dot, if it does not begin with it. That of a library
/// stands before its version.
fn kind(path: &[u8]) -> &[u8] {
    let name = base_name(path);
    if name.windows(4).any(|part| part == b".so.") {
        return b"so";
    }
    let dot = name.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0);
    dot.map(|dot| &name[dot + 1..]).filter(|e| e.len() <= MAX_EXTENSION).unwrap_or_default()
}

/// Returns folder and name of the module that a Python file is the source of, or is compiled from
/// ([PEP 3147](https://peps.python.org/pep-3147/)).
fn python_module(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let folder = parent(path)?;
    let name = base_name(path);
    if let Some(module) = name.strip_suffix(b".py") {
        return Some((folder, module));
    }
    let module = name.strip_suffix(b".pyc")?;
    if base_name(folder) != b"__pycache__" {
        return Some((folder, module));
    }
    // Behind a dot stands what it was compiled by.
    Some((parent(folder)?, module.split(|b| *b == b'.').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::{Entry, FileData, Inode, Location, Mtime, display};
    use crate::model::index::{InodeId, SourceId};

    #[test]
    fn kinds_are_extensions() {
        for (path, want) in [
            ("usr/lib/a.js", "js"),
            ("a.tar.gz", "gz"),
            ("libz.so.1", "so"),
            ("libz.so", "so"),
            ("usr.d/README", ""),
            (".profile", ""),
            ("a.", ""),
            ("x.0123456789abcdef", ""),
        ] {
            assert_eq!(kind(path.as_bytes()), want.as_bytes(), "{path}");
        }
    }

    /// Returns the names of files, given by path and size, in the order of a tar. Directories have no size.
    fn sorted(items: &[(&str, Option<u64>)]) -> Vec<String> {
        let inode = |size: &Option<u64>| Inode {
            kind: match *size {
                Some(size) => InodeKind::File(FileData {
                    size,
                    hash: [0; 32],
                    location: Location::Span { source: SourceId::new(0), offset: 0 },
                }),
                None => InodeKind::Dir,
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: None,
        };
        let entry = |i: usize| Entry { path: items[i].0.as_bytes().into(), inode: InodeId::new(i) };
        let entries = (0..items.len()).map(entry).collect();
        let inodes = items.iter().map(|(_, size)| inode(size)).collect();
        let files = FileSet::new(entries, inodes).unwrap();
        let mut positions: Vec<u32> = (0..items.len() as u32).rev().chain([0]).collect();
        sort(&files, &mut positions);
        let name = |at: &u32| display(&files.entries()[*at as usize].path);
        positions.iter().map(name).collect()
    }

    #[test]
    fn folders_come_first_and_like_files_are_together() {
        let items = [
            ("a", None),
            ("a/big.js", Some(900)),
            ("a/libx.so.1", Some(5)),
            ("a/same.js", Some(7)),
            ("b", None),
            ("b/libx.so", Some(5)),
            ("b/same.js", Some(7)),
        ];
        let want =
            ["/a", "/b", "/a/big.js", "/a/same.js", "/b/same.js", "/a/libx.so.1", "/b/libx.so"];
        assert_eq!(sorted(&items), want);
    }

    #[test]
    fn compiled_python_is_beside_its_source() {
        let items = [
            ("p", None),
            ("p/__pycache__", None),
            ("p/__pycache__/a.cpython-311.opt-1.pyc", Some(1)),
            ("p/__pycache__/b.cpython-311.pyc", Some(900)),
            ("p/a.py", Some(2)),
            ("p/b.py", Some(9)),
            ("p/c.pyc", Some(3)),
        ];
        let files = sorted(&items).split_off(2);
        let want = [
            "/p/__pycache__/a.cpython-311.opt-1.pyc",
            "/p/a.py",
            "/p/__pycache__/b.cpython-311.pyc",
            "/p/b.py",
            "/p/c.pyc",
        ];
        assert_eq!(files, want);
    }
}
