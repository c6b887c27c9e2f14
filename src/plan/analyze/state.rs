//! Files that differ on every build even if nothing else does.
//!
//! They are assigned to no package, because they would change the digest of its layer on every build.
//! They are few and small, and go into the top layer.

use super::{Claims, ComponentKind};
use crate::base::error::Result;
use crate::model::fileset::{Entry, FileSet, InodeKind, base_name, parent};

/// Folders, and what they are.
const FOLDERS: [(&[u8], &str); 10] = [
    (b"var/lib/dpkg", "databases"),
    (b"var/lib/apt", "databases"),
    (b"lib/apk/db", "databases"),
    (b"usr/lib/apk/db", "databases"),
    (b"var/lib/rpm", "databases"),
    (b"usr/lib/sysimage/rpm", "databases"),
    (b"usr/lib/sysimage/libdnf5", "databases"),
    (b"var/lib/pacman", "databases"),
    (b"var/cache", "caches"),
    (b"var/log", "logs"),
];

/// Single files: the linker's cache depends on the order of installation, the backups of `useradd` and
/// `shadow` contain the day of a change.
const FILES: [&[u8]; 8] = [
    b"etc/ld.so.cache",
    b"etc/passwd-",
    b"etc/group-",
    b"etc/shadow",
    b"etc/shadow-",
    b"etc/gshadow-",
    b"etc/machine-id",
    b"etc/.pwd.lock",
];

/// Files in folders of Python packages: the order of RECORD varies, and uv records times.
const PYTHON: [&[u8]; 2] = [b"RECORD", b"uv_cache.json"];
/// npm's list of installed packages.
const NPM: &[u8] = b".package-lock.json";

/// Of those, folders and names of what nobody misses: `--drop-noise`.
const NOISE_FOLDERS: [&[u8]; 2] = [b"var/log", b"var/cache"];
const NOISE_FILES: [&[u8]; 1] = [b"uv_cache.json"];

/// Removes logs and caches from a file set and returns their number. Directories stay.
///
/// # Errors
/// None for a valid file set.
pub(crate) fn drop_noise(set: &mut FileSet) -> Result<u64> {
    let noise = |entry: &Entry| {
        let below = |dir: &&[u8]| {
            entry.path.strip_prefix(*dir).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        NOISE_FOLDERS.iter().any(below)
            || (NOISE_FILES.contains(&base_name(&entry.path))
                && base_name(parent(&entry.path).unwrap_or_default()).ends_with(b".dist-info"))
    };
    let before = set.entries().len();
    let set_now = std::mem::take(set);
    *set = set_now.without(|e, inode| matches!(inode.kind, InodeKind::File(_)) && noise(e))?;
    Ok((before - set.entries().len()) as u64)
}

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for (dir, what) in FOLDERS {
        let below = set.below(dir);
        if below.is_empty() {
            continue;
        }
        let component = claims.component(format!("state:{what}"), ComponentKind::State);
        for entry in below {
            claims.claim(entry, component);
        }
    }
    let component = claims.component("state:databases", ComponentKind::State);
    for path in FILES {
        if let Some(i) = set.position(path) {
            claims.claim(&set.entries()[i], component);
        }
    }
    for entry in set.entries() {
        let name = base_name(&entry.path);
        let dir = base_name(parent(&entry.path).unwrap_or_default());
        if (dir.ends_with(b".dist-info") && PYTHON.contains(&name))
            || (dir == b"node_modules" && name == NPM)
        {
            claims.claim(entry, component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    #[test]
    fn logs_and_caches_can_go() {
        let mut set = Fixture::default()
            .file("var/log/apt/history.log", "x")
            .file("var/logs", "x")
            .file("var/lib/dpkg/status", "x")
            .file("v/a-1.dist-info/uv_cache.json", "x")
            .file("v/a-1.dist-info/RECORD", "x")
            .build()
            .files;
        assert_eq!(super::drop_noise(&mut set).unwrap(), 2);
        assert!(set.get(b"var/log/apt").is_some() && set.get(b"var/logs").is_some());
        assert!(set.get(b"var/log/apt/history.log").is_none());
        assert!(set.get(b"v/a-1.dist-info/RECORD").is_some());
    }

    #[test]
    fn what_every_build_writes_is_state() {
        let (owners, _) = Fixture::default()
            .file("var/log/apt/history.log", "x")
            .file("etc/ld.so.cache", "x")
            .file("etc/hosts", "x")
            .file("opt/v/site-packages/a-1.dist-info/RECORD", "x")
            .file("srv/node_modules/.package-lock.json", "x")
            .owners(&[]);
        assert_eq!(
            owners,
            [
                "etc/hosts=dir:etc",
                "etc/ld.so.cache=state:databases",
                "opt/v/site-packages/a-1.dist-info/RECORD=state:databases",
                "srv/node_modules/.package-lock.json=state:databases",
                "var/log/apt/history.log=state:logs",
            ]
        );
    }
}
