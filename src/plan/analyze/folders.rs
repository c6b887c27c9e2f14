//! Files that no package owns: each big file is a component, the others are grouped by folder.

use super::{Claims, ComponentKind};
use crate::model::fileset::{InodeKind, parent, parts};

/// Minimum size of a file that is a component by itself.
const BIG: u64 = 1 << 20;

/// Top folders that belong to the operating system. Others count as the application's.
const SYSTEM: [&[u8]; 13] = [
    b"bin", b"boot", b"dev", b"etc", b"lib", b"lib32", b"lib64", b"proc", b"run", b"sbin", b"sys",
    b"usr", b"var",
];

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.entries() {
        if !claims.is_free(entry) {
            continue;
        }
        let component = match &set.inode(entry).kind {
            InodeKind::File(file) if file.size >= BIG => {
                let name = format!("file:{}", String::from_utf8_lossy(&entry.path));
                claims.component(name, ComponentKind::BigFile)
            }
            kind => {
                let dir = match kind {
                    InodeKind::Dir => &entry.path,
                    _ => parent(&entry.path).unwrap_or_default(),
                };
                let (top, system) = top(dir);
                let kind = if system { ComponentKind::System } else { ComponentKind::Application };
                claims.component(format!("dir:{}", String::from_utf8_lossy(&top)), kind)
            }
        };
        claims.claim(entry, component);
    }
}

/// Returns the folder by which a file is grouped, and whether it belongs to the system. The folder is
/// two parts of the path; three below `usr/local` and where virtual environments are (`opt/x/y`), and
/// one for `etc`.
fn top(dir: &[u8]) -> (Vec<u8>, bool) {
    let all: Vec<&[u8]> = parts(dir).collect();
    let system = match all.as_slice() {
        // What is installed by hand (FHS 4.9).
        [b"usr", b"local" | b"src", ..] => false,
        [first, ..] => SYSTEM.contains(first),
        // Links and files in the root itself.
        [] => true,
    };
    let depth = match all.as_slice() {
        [b"etc", ..] => 1,
        [b"usr", b"local" | b"src", ..] | [b"opt" | b"home" | b"srv", ..] => 3,
        _ => 2,
    };
    (all[..all.len().min(depth)].join(&b'/'), system)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn what_is_installed_by_hand_is_not_the_system_s() {
        assert!(top(b"usr/share/man").1);
        assert!(!top(b"usr/local/share/man").1);
    }

    #[test]
    fn big_files_are_components_and_the_others_are_grouped_by_folder() {
        let (owners, _) = Fixture::default()
            .file("opt/model.bin", vec![0; BIG as usize])
            .file("opt/small.bin", vec![0; BIG as usize - 1])
            .file("usr/local/share/man/x", "x")
            .file("usr/share/man/x", "x")
            .file("etc/a/b/c", "x")
            .file("app/a/b/c", "x")
            .file(".dockerenv", "x")
            .owners(&[]);
        assert_eq!(
            owners,
            [
                ".dockerenv=dir:",
                "app/a/b/c=dir:app/a",
                "etc/a/b/c=dir:etc",
                "opt/model.bin=file:opt/model.bin",
                "opt/small.bin=dir:opt",
                "usr/local/share/man/x=dir:usr/local/share",
                "usr/share/man/x=dir:usr/share",
            ]
        );
    }
}
