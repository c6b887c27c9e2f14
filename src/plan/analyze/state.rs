//! Files that differ on every build even if nothing else does.
//!
//! They are assigned to no package, because they would change the digest of its layer on every build.
//! They are few and small, and go into the top layer.

use super::{Claims, ComponentKind};
use crate::base::error::Result;
use crate::model::fileset::{Entry, FileSet, InodeKind, base_name, parent};

/// Folders, and what they are.
const FOLDERS: [(&[u8], &str); 13] = [
    (b"var/lib/dpkg", "databases"),
    (b"var/lib/apt", "databases"),
    (b"lib/apk/db", "databases"),
    (b"usr/lib/apk/db", "databases"),
    (b"var/lib/rpm", "databases"),
    (b"usr/lib/sysimage/rpm", "databases"),
    (b"usr/lib/sysimage/libdnf5", "databases"),
    (b"var/lib/dnf", "databases"),
    (b"var/lib/yum", "databases"),
    (b"var/lib/zypp", "databases"),
    (b"var/lib/pacman", "databases"),
    (b"var/cache", "caches"),
    (b"var/log", "logs"),
];

/// Single files: the linker's cache depends on the order of installation, the backups of `useradd` and
/// `shadow` contain the day of a change, Java's certificates that of their import, and keys are random.
const FILES: [&[u8]; 13] = [
    b"etc/ld.so.cache",
    b"etc/passwd-",
    b"etc/group-",
    b"etc/shadow",
    b"etc/shadow-",
    b"etc/gshadow-",
    b"etc/machine-id",
    b"etc/.pwd.lock",
    b"etc/ssl/certs/java/cacerts",
    b"etc/ssl/certs/ssl-cert-snakeoil.pem",
    b"etc/ssl/private/ssl-cert-snakeoil.key",
    b"var/lib/dbus/machine-id",
    b"var/lib/systemd/random-seed",
];

/// Names of files in folders of a name. A `*` at the start of the folder's name stands for any bytes.
const IN_FOLDERS: [(&[u8], &[&[u8]]); 10] = [
    // The order of RECORD varies, and uv records times.
    (b"*.dist-info", &[b"RECORD", b"uv_cache.json"]),
    // Lists of all installed packages. pnpm records when it last looked for unused ones.
    (
        b"node_modules",
        &[
            b".package-lock.json",
            b".yarn-integrity",
            b".yarn-state.yml",
            b".modules.yaml",
            b".pnpm-workspace-state.json",
            b".pnpm-workspace-state-v1.json",
        ],
    ),
    (b".pnpm", &[b"lock.yaml"]),
    (b"pnpm", &[b"pnpm-state.json"]),
    // `installed.php` has the commit of the application.
    (b"composer", &[b"installed.json", b"installed.php"]),
    // The dates of all installations.
    (b"conda-meta", &[b"history"]),
    // When the cache was last looked at.
    (b"go-build", &[b"trim.txt"]),
    (b".cargo", &[b".global-cache"]),
    (b"cargo", &[b".global-cache"]),
    // Times and numbers of inodes.
    (b".git", &[b"index"]),
];

/// Names of files in any folder, where `*` stands for any bytes: Maven's notes on downloads have dates,
/// logs of compiled gems the names of temporary folders, Perl's list of modules and wget's of hosts
/// dates, and keys of hosts are random.
const ANYWHERE: [&[u8]; 9] = [
    b"_remote.repositories",
    b"resolver-status.properties",
    b"*.lastUpdated",
    b"gem_make.out",
    b"mkmf.log",
    b"perllocal.pod",
    b".wget-hsts",
    b"ssh_host_*_key",
    b"ssh_host_*_key.pub",
];

/// A part of a path, the end of the path, and what such files are. The indexes of package managers'
/// caches have the times of downloads, while their contents stay.
const BELOW: [(&[u8], &[u8], &str); 8] = [
    (b"/_cacache/index-v5/", b"", "caches"),
    (b"/.npm/_logs/", b"", "logs"),
    (b"/.cache/pnpm/metadata", b"", "caches"),
    (b"/pnpm/store/", b"-index.json", "caches"),
    (b"/.cache/go-build/", b"-a", "caches"),
    (b"/.gradle/caches/journal-1/", b"", "caches"),
    (b"/.git/logs/", b"", "logs"),
    (b"/hsperfdata_", b"", "caches"),
];

/// Whether a name is `pattern`, in which one `*` stands for any bytes.
fn is_like(name: &[u8], pattern: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|b| *b == b'*') else { return name == pattern };
    let (start, end) = (&pattern[..star], &pattern[star + 1..]);
    name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
}

/// Returns what a file is that differs on every build, going by its name.
fn volatile(path: &[u8]) -> Option<&'static str> {
    let name = base_name(path);
    let folder = base_name(parent(path).unwrap_or_default());
    let in_folder =
        |(dir, names): &(&[u8], &[&[u8]])| is_like(folder, dir) && names.contains(&name);
    if IN_FOLDERS.iter().any(in_folder) || ANYWHERE.iter().any(|like| is_like(name, like)) {
        return Some("databases");
    }
    let contains = |part: &[u8]| {
        // The path itself has no leading slash.
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        path.starts_with(&part[1..]) || { slashes }.any(|at| path[at..].starts_with(part))
    };
    BELOW.iter().find(|(part, end, _)| path.ends_with(end) && contains(part)).map(|found| found.2)
}

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
        let is_dir = matches!(set.inode(entry).kind, InodeKind::Dir);
        if let Some(what) = volatile(&entry.path).filter(|_| !is_dir) {
            let component = claims.component(format!("state:{what}"), ComponentKind::State);
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

    #[test]
    fn what_two_installations_of_the_same_leave_different_is_state() {
        let noise = [
            "root/.cache/go-build/0a/0a1b-a",
            "root/.cache/go-build/trim.txt",
            "root/.cache/pnpm/metadata-v1.3/registry/express.json",
            "root/.cargo/.global-cache",
            "root/.local/share/pnpm/store/v3/files/04/d1-index.json",
            "root/.local/state/pnpm/pnpm-state.json",
            "root/.m2/repository/org/x/1/_remote.repositories",
            "root/.m2/repository/org/x/1/x-1.pom.lastUpdated",
            "root/.m2/repository/org/x/resolver-status.properties",
            "root/.npm/_cacache/index-v5/0a/1b/2c",
            "root/.npm/_logs/2026-11-26T06_38_10_941Z-debug-0.log",
            "srv/node_modules/.modules.yaml",
            "srv/.git/index",
            "srv/.git/logs/HEAD",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/ssh_host_ed25519_key.pub",
            "etc/ssl/certs/java/cacerts",
        ];
        let content = [
            "root/.cache/go-build/0a/0a1b-d",
            "root/.npm/_cacache/content-v2/sha512/0a/1b",
            "root/.local/share/pnpm/store/v3/files/04/d1",
            "root/.m2/repository/org/x/1/x-1.jar",
            "srv/.git/HEAD",
            "srv/modules.yaml",
            "srv/src/history",
            "srv/composer/installed.txt",
            "etc/ssh/ssh_config",
        ];
        let fixture =
            noise.iter().chain(&content).fold(Fixture::default(), |f, path| f.file(path, path));
        let (owners, _) = fixture.dir("srv/gem_make.out").owners(&[]);
        for path in noise {
            let prefix = format!("{path}=state:");
            assert!(owners.iter().any(|o| o.starts_with(&prefix)), "{path}: {owners:?}");
        }
        for path in content {
            let prefix = format!("{path}=state:");
            assert!(!owners.iter().any(|o| o.starts_with(&prefix)), "{path}: {owners:?}");
        }
    }
}
