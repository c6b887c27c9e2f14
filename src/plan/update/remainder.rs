//! Computes what new layers must contain on top of the kept ones.

use crate::model::fileset::{FileSet, InodeKind, parent};
use crate::model::index::InodeId;

/// The difference between two file sets, in terms of layer entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remainder {
    /// For each inode of the new file set, whether it must be written.
    pub(super) write: Vec<bool>,
    /// Paths to remove, in order; nothing below them is listed.
    pub(super) whiteouts: Vec<Box<[u8]>>,
}

impl Remainder {
    /// Returns whether there is no difference.
    pub(super) fn is_empty(&self) -> bool {
        self.whiteouts.is_empty() && !self.write.contains(&true)
    }
}

/// Returns for each inode of `new` whether `base` has it under the same names.
pub(crate) fn unchanged(base: &FileSet, new: &FileSet) -> Vec<bool> {
    let base_counts = base.link_counts();
    let names = new.names();
    let stays = |id: usize| {
        let inode = &new.inodes()[id];
        let mut counterpart: Option<InodeId> = None;
        let all = names[id].iter().all(|name| {
            let at = base.position(&new.entries()[*name as usize].path);
            let Some(at) = at.map(|at| base.entries()[at].inode) else { return false };
            *counterpart.get_or_insert(at) == at
        });
        let Some(counterpart) = counterpart else { return false };
        all && base_counts[counterpart.index()] as usize == names[id].len()
            && base[counterpart].same(inode)
    };
    (0..names.len()).map(stays).collect()
}

/// Returns what turns `base` into `new`.
pub(super) fn remainder(base: &FileSet, new: &FileSet) -> Remainder {
    let mut write: Vec<bool> = unchanged(base, new).into_iter().map(|stays| !stays).collect();
    // The parents of everything that is written are written with it.
    let mut brought = vec![false; new.entries().len()];
    for entry in new.entries().iter().rev() {
        if write[entry.inode.index()] {
            let mut up = parent(&entry.path);
            while let Some(at) = up.and_then(|path| new.position(path)) {
                if std::mem::replace(&mut brought[at], true) {
                    break;
                }
                up = parent(&new.entries()[at].path);
            }
        }
    }
    for (entry, brought) in new.entries().iter().zip(brought) {
        if brought {
            write[entry.inode.index()] = false;
        }
    }
    let is_dir = |path: &[u8]| {
        path.is_empty() || new.get(path).is_some_and(|inode| matches!(inode.kind, InodeKind::Dir))
    };
    let gone = base.entries().iter().filter(|e| {
        // Nothing more is needed below something that is removed or becomes a file.
        new.position(&e.path).is_none() && parent(&e.path).is_some_and(is_dir)
    });
    Remainder { write, whiteouts: gone.map(|e| e.path.clone()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::{Entry, Inode, Mtime};

    /// `path` or `path=kind` with d, l for directory and symlink, p for a pipe; the mode after it.
    fn set(items: &[&str]) -> FileSet {
        let (mut entries, mut inodes) = (Vec::new(), Vec::new());
        for item in items {
            let (path, what) = item.split_once('=').unwrap();
            let kind = match what.as_bytes()[0] {
                b'd' => InodeKind::Dir,
                b'l' => InodeKind::Symlink { target: b"x"[..].into() },
                _ => InodeKind::Fifo,
            };
            let mode = what[1..].parse().unwrap_or(0);
            entries.push(Entry { path: path.as_bytes().into(), inode: InodeId::new(inodes.len()) });
            let mtime = Mtime::default();
            inodes.push(Inode { kind, mode, uid: 0, gid: 0, mtime, xattrs: None });
        }
        FileSet::new(entries, inodes).unwrap()
    }

    fn of(base: &[&str], new: &[&str]) -> (Vec<String>, Vec<String>) {
        let new = set(new);
        let rest = remainder(&set(base), &new);
        let text = |p: &[u8]| String::from_utf8(p.to_vec()).unwrap();
        let written = new.entries().iter().filter(|e| rest.write[e.inode.index()]);
        (written.map(|e| text(&e.path)).collect(), rest.whiteouts.iter().map(|p| text(p)).collect())
    }

    #[test]
    fn only_differences_are_written() {
        let (write, gone) = of(
            &["a=d", "a/x=p", "a/y=p", "b=d", "b/c=d", "b/c/z=p", "d=d", "d/e=p"],
            &["a=d", "a/x=p1", "b=d7", "b/n=p", "d=p"],
        );
        // b comes along with b/n, d/e goes with d.
        assert_eq!(write, ["a/x", "b/n", "d"]);
        assert_eq!(gone, ["a/y", "b/c"]);
    }

    #[test]
    fn another_hard_link_group_is_a_difference() {
        // Files that are the same in all but which names share an inode.
        let linked = |groups: [&str; 2]| {
            let all = groups.iter().enumerate();
            let mut names: Vec<_> =
                all.flat_map(|(i, group)| group.split(' ').map(move |name| (name, i))).collect();
            names.sort_unstable();
            let entry = |(name, i): (&str, usize)| Entry {
                path: name.as_bytes().into(),
                inode: InodeId::new(i),
            };
            let one = set(&["x=p"]).inodes()[0].clone();
            FileSet::new(names.into_iter().map(entry).collect(), vec![one; 2]).unwrap()
        };
        let write = |base, new| remainder(&linked(base), &linked(new)).write;
        assert_eq!(write(["x z", "y"], ["x z", "y"]), [false, false]);
        assert_eq!(write(["x z", "y"], ["x y", "z"]), [true, true]);
    }

    #[test]
    fn a_directory_that_changed_alone_is_written() {
        assert_eq!(of(&["a=d", "a/x=p"], &["a=d1", "a/x=p"]).0, ["a"]);
        assert_eq!(of(&["a=d", "a/x=p"], &["a=d", "a/x=p"]), (vec![], vec![]));
    }
}
