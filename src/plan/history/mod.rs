//! Rates of change, learned from earlier images.
//!
//! A history holds the identity of each component and file of each image, and counts what changed
//! between consecutive images of a sequence. The counts of components with the same name in all
//! sequences are added up: what changes often in one image does in another.
//!
//! To know: [`Snapshot`], the identities in an image; `History`, the database, which needs the feature
//! `store`; [`Rates`], what the planner takes.

#[cfg(feature = "store")]
mod db;

#[cfg(feature = "store")]
pub use db::{AddedSnapshot, ComponentRate, History};

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::error::{Error, Result};
use crate::model::fileset::{FileSet, Inode, InodeKind};
use crate::plan::analyze::{Analysis, ComponentKind, Learned};

/// Counts of changes, by name of the component.
pub type Rates = BTreeMap<String, Learned>;

/// The identities in an image: BLAKE3 hashes of everything except times and where contents are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Kind and identity of each component.
    pub components: BTreeMap<String, (ComponentKind, [u8; 32])>,
    /// Identity of each file. Directories are left out.
    pub files: BTreeMap<Box<[u8]>, [u8; 32]>,
}

impl Snapshot {
    /// Computes the snapshot of a file set and its components.
    pub fn new(files: &FileSet, analysis: &Analysis) -> Self {
        let mut hashers = vec![blake3::Hasher::new(); analysis.components.len()];
        let mut list = BTreeMap::new();
        for entry in files.entries() {
            let inode = files.inode(entry);
            let identity = identity(inode);
            let hasher = &mut hashers[analysis.owner[entry.inode.index()].index()];
            hasher.update(&(entry.path.len() as u64).to_le_bytes());
            hasher.update(&entry.path).update(&identity);
            if !matches!(inode.kind, InodeKind::Dir) {
                list.insert(entry.path.clone(), identity);
            }
        }
        let components = analysis.components.iter().zip(hashers).map(|(component, hasher)| {
            (component.name.clone(), (component.kind, hasher.finalize().into()))
        });
        Self { components: components.collect(), files: list }
    }

    /// Returns the identity of the whole image.
    pub fn identity(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (name, (_, identity)) in &self.components {
            hasher.update(name.as_bytes()).update(&[0]).update(identity);
        }
        hasher.finalize().into()
    }
}

/// Returns the identity of an inode: a hash of everything except its time and where its contents are
/// stored.
fn identity(inode: &Inode) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(inode.kind.word().as_bytes()).update(&[0]);
    for number in [inode.mode, inode.uid, inode.gid] {
        hasher.update(&number.to_le_bytes());
    }
    for (name, value) in inode.xattrs.iter().flat_map(|x| x.iter()) {
        for bytes in [name, value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    match &inode.kind {
        InodeKind::File(file) => hasher.update(&file.hash),
        InodeKind::Symlink { target } => hasher.update(target),
        InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
            hasher.update(&major.to_le_bytes()).update(&minor.to_le_bytes())
        }
        InodeKind::Dir | InodeKind::Fifo => &mut hasher,
    };
    hasher.finalize().into()
}

/// Returns a short digest of rates, to tell whether two plans used the same ones.
pub fn digest(rates: &Rates) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, Learned { seen, changed }) in rates {
        hasher.update(name.as_bytes()).update(&[0]);
        hasher.update(&seen.to_le_bytes()).update(&changed.to_le_bytes());
    }
    crate::model::digest::hex(&hasher.finalize().as_bytes()[..8])
}

/// Returns the default folder of a history, in the user's data folder.
///
/// # Errors
/// If the user has no home folder.
pub fn default_dir() -> Result<PathBuf> {
    data_dir("history")
}

/// Returns a folder in relayer's part of the user's data folder: `$XDG_DATA_HOME/relayer/<name>`, or
/// `~/.local/share/relayer/<name>`.
pub(crate) fn data_dir(name: &str) -> Result<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = named("XDG_DATA_HOME").filter(|p| p.is_absolute());
    let data = data.or_else(|| Some(named("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        Error::not_found(format!(
            "the user has no home folder; name a folder for the {name} with --{name}"
        ))
    })?;
    Ok(data.join("relayer").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::analyze::{analyze, fixture::Fixture};

    #[test]
    fn identities_are_of_content_and_not_of_times() {
        let snapshot = |content: &str, edit: &dyn Fn(&mut Inode)| {
            let mut rootfs = Fixture::default().file("srv/a/x", content).file("etc/y", "1").build();
            let files = &mut rootfs.files;
            let at = files.position(b"srv/a/x").unwrap();
            edit(files.inode_mut(files.entries()[at].inode));
            let analysis = analyze(&rootfs, &[]).unwrap();
            Snapshot::new(&rootfs.files, &analysis)
        };
        let base = snapshot("1", &|_| ());
        assert_eq!(base, snapshot("1", &|i| i.mtime.secs = 99));
        for other in [snapshot("2", &|_| ()), snapshot("1", &|i| i.mode = 0)] {
            assert_ne!(base.identity(), other.identity());
            assert_ne!(base.components["dir:srv/a"], other.components["dir:srv/a"]);
            assert_eq!(base.components["dir:etc"], other.components["dir:etc"]);
            assert_eq!(base.files.iter().filter(|(p, id)| other.files[*p] != **id).count(), 1);
        }
    }
}
