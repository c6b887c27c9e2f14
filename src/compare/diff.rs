//! Changes from one image to the next, and what clients download as a result.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::error::Result;
use crate::layers::flatten::LayerStats;
use crate::model::fileset::{Entry, FileSet, Inode, InodeKind};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;
use crate::plan::analyze::{Analysis, analyze};
use crate::plan::recorded_times;
use crate::simulate::{Identity, Reuse, needs};

/// An image to compare.
#[derive(Debug)]
pub struct ComparedImage {
    /// The final file set.
    files: FileSet,
    /// Its components.
    analysis: Analysis,
    /// The layers, lowest first.
    layers: Vec<LayerStats>,
    /// Hashes of compiled Python files without the times that they record.
    timeless: BTreeMap<InodeId, [u8; 32]>,
}

impl ComparedImage {
    /// Prepares an image for comparisons.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn new(rootfs: Rootfs, layers: Vec<LayerStats>) -> Result<Self> {
        let analysis = analyze(&rootfs, &[])?;
        let timeless = recorded_times::timeless(&rootfs)?;
        Ok(Self { files: rootfs.files, analysis, layers, timeless })
    }

    /// Returns the hash of a compiled Python file without the time that it records.
    fn timeless(&self, inode: InodeId) -> Option<&[u8; 32]> {
        self.timeless.get(&inode)
    }
}

/// Number of files and their bytes. A hard-link group counts once; symlinks and devices count without
/// bytes; directories don't count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Number of files.
    pub files: u64,
    /// Bytes in them; for removed files those of the old image.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, inode: &Inode) {
        self.files += 1;
        if let InodeKind::File(file) = &inode.kind {
            self.bytes += file.size;
        }
    }
}

/// Files by kind of change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// The path is new.
    pub added: Tally,
    /// The path no longer exists.
    pub removed: Tally,
    /// The type or content differs.
    pub changed: Tally,
    /// The same content with another mode, owner, extended attributes or hard links.
    pub metadata: Tally,
    /// Only times differ: the modification time, or in compiled Python that of the source.
    pub mtime: Tally,
    /// Nothing differs.
    pub same: Tally,
}

/// Changes of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentChanges {
    /// Its name.
    pub name: String,
    /// The changes of its files.
    #[serde(flatten)]
    pub changes: Changes,
}

/// Work of a client that has the old image to get the new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Number of layers to download.
    pub layers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the tars to unpack: all above the first layer that differs.
    pub unpacked: u64,
}

/// Work of clients, by how they recognise layers that they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Loads {
    /// By chain ID: dockerd, and containerd that discards unpacked layers (EKS and GKE nodes).
    pub chain: Load,
    /// By blob digest: containerd that keeps blobs, Docker with containerd's store.
    pub digest: Load,
    /// By diff ID: podman, CRI-O.
    pub diff_id: Load,
    /// Without the old image.
    pub cold: Load,
}

impl Loads {
    /// Returns the work of clients that recognise layers in this way.
    pub fn by(&self, reuse: Reuse) -> Load {
        match reuse {
            Reuse::Chain => self.chain,
            Reuse::Digest => self.digest,
            Reuse::DiffId => self.diff_id,
        }
    }
}

/// The difference of two images.
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// Changes of all files.
    pub files: Changes,
    /// Components with more changes than times, those with most changed and added bytes first.
    pub components: Vec<ComponentChanges>,
    /// Work of clients.
    pub loads: Loads,
}

/// Compares two images.
pub fn diff(old: &ComparedImage, new: &ComparedImage) -> Diff {
    let mut all = Changes::default();
    let mut components: BTreeMap<&str, Changes> = BTreeMap::new();
    let (old_leaders, new_leaders) = (leaders(&old.files), leaders(&new.files));
    for (i, entry) in new.files.entries().iter().enumerate() {
        let inode = new.files.inode(entry);
        if new_leaders[entry.inode.index()] != i || matches!(inode.kind, InodeKind::Dir) {
            continue;
        }
        let before = old.files.position(&entry.path);
        let before = before.map(|at| &old.files.entries()[at]);
        for changes in [&mut all, components.entry(component(new, entry)).or_default()] {
            let Some(before) = before else {
                changes.added.add(inode);
                continue;
            };
            let was = old.files.inode(before);
            let linked = old_leaders[before.inode.index()];
            let group = old.files.entries()[linked].path == entry.path;
            let timeless = new.timeless(entry.inode);
            let restamped = timeless.is_some() && timeless == old.timeless(before.inode);
            let same = was.kind.same(&inode.kind);
            let tally = if !same && !restamped {
                &mut changes.changed
            } else if !was.same_metadata(inode) || !group {
                &mut changes.metadata
            } else if !same || was.mtime != inode.mtime {
                &mut changes.mtime
            } else {
                &mut changes.same
            };
            tally.add(inode);
        }
    }
    for (i, entry) in old.files.entries().iter().enumerate() {
        let inode = old.files.inode(entry);
        let leads = old_leaders[entry.inode.index()] == i && !matches!(inode.kind, InodeKind::Dir);
        if leads && new.files.position(&entry.path).is_none() {
            all.removed.add(inode);
            components.entry(component(old, entry)).or_default().removed.add(inode);
        }
    }
    let changed = |c: &Changes| c.changed.bytes + c.added.bytes + c.metadata.bytes;
    let mut components: Vec<_> = components
        .into_iter()
        .filter(|(_, c)| [c.added, c.removed, c.changed, c.metadata].iter().any(|t| t.files > 0))
        .map(|(name, changes)| ComponentChanges { name: name.to_owned(), changes })
        .collect();
    // The sort is stable: components with equal bytes stay sorted by name.
    components.sort_by_key(|c| std::cmp::Reverse(changed(&c.changes)));
    Diff { files: all, components, loads: loads(&old.layers, &new.layers) }
}

/// Returns the position of the first name of each inode.
fn leaders(set: &FileSet) -> Vec<usize> {
    let mut leaders = vec![usize::MAX; set.inodes().len()];
    for (i, e) in set.entries().iter().enumerate().rev() {
        leaders[e.inode.index()] = i;
    }
    leaders
}

fn component<'a>(side: &'a ComparedImage, entry: &Entry) -> &'a str {
    &side.analysis.owner_of(entry.inode).name
}

/// Returns the work of clients that have the old layers to get the new ones.
pub fn loads(old: &[LayerStats], new: &[LayerStats]) -> Loads {
    let identities = |layers: &[LayerStats]| -> Vec<Identity> {
        layers.iter().map(|l| Identity { digest: l.digest, diff_id: l.diff_id }).collect()
    };
    let (old, ids) = (identities(old), identities(new));
    let load = |reuse, old: &[Identity]| {
        let mut load = Load::default();
        for (layer, need) in new.iter().zip(needs(reuse, old, &ids)) {
            load.layers += u64::from(need.download);
            load.bytes += if need.download { layer.blob_bytes } else { 0 };
            load.unpacked += if need.unpack { layer.tar_bytes } else { 0 };
        }
        load
    };
    Loads {
        chain: load(Reuse::Chain, &old),
        digest: load(Reuse::Digest, &old),
        diff_id: load(Reuse::DiffId, &old),
        cold: load(Reuse::Digest, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;
    use crate::model::fileset::Mtime;
    use crate::plan::analyze::fixture::Fixture;

    fn layer(name: &str, bytes: u64) -> LayerStats {
        let diff_id = Digest::of(name.as_bytes());
        LayerStats {
            digest: diff_id,
            diff_id,
            blob_bytes: bytes,
            tar_bytes: 10 * bytes,
            entries: 1,
        }
    }

    #[test]
    fn clients_load_what_they_lack() {
        let stack = |names: &str| -> Vec<LayerStats> {
            names
                .bytes()
                .map(|b| layer(&char::from(b).to_string(), u64::from(b - b'a') + 1))
                .collect()
        };
        let loads = loads(&stack("abcd"), &stack("acdee"));
        assert_eq!(loads.chain, Load { layers: 3, bytes: 3 + 4 + 5, unpacked: 170 });
        assert_eq!(loads.digest, Load { layers: 1, bytes: 5, unpacked: 170 });
        assert_eq!(loads.diff_id, loads.digest);
        assert_eq!(loads.cold, Load { layers: 4, bytes: 1 + 3 + 4 + 5, unpacked: 180 });
    }

    #[test]
    fn files_are_told_apart_by_what_changed() {
        let side = |fixture: Fixture, edit: &dyn Fn(&mut Inode)| {
            let mut rootfs = fixture.build();
            let files = &mut rootfs.files;
            for path in ["a/meta", "a/time"] {
                let at = files.position(path.as_bytes()).unwrap();
                if path == "a/meta" {
                    edit(files.inode_mut(files.entries()[at].inode));
                } else {
                    let id = files.entries()[at].inode;
                    let mode = files[id].mode;
                    edit(files.inode_mut(id));
                    files.inode_mut(id).mode = mode;
                }
            }
            ComparedImage::new(rootfs, Vec::new()).unwrap()
        };
        let compiled = |secs: u8, code: &str| {
            [b"\xa7\x0d\r\n\0\0\0\0", &[secs, 0, 0, 0][..], b"size", code.as_bytes()].concat()
        };
        let base = |secs, code| {
            let base = Fixture::default().file("a/same", "1").file("a/meta", "12");
            let base = base.file("a/time", "123").file("a/t.pyc", compiled(secs, "code"));
            base.file("a/c.pyc", compiled(secs, code))
        };
        let old = side(base(1, "old").file("a/gone", "12345").file("a/new", "1234"), &|_| ());
        let new = side(base(2, "new").file("a/new", "4321").file("b/added", "1"), &|inode| {
            inode.mode = 0o600;
            inode.mtime = Mtime { secs: 5, nanos: 0 };
        });
        let diff = diff(&old, &new);
        let tally = |bytes| Tally { files: 1, bytes };
        let want = Changes {
            added: tally(1),
            removed: tally(5),
            changed: Tally { files: 2, bytes: 4 + 19 },
            metadata: tally(2),
            mtime: Tally { files: 2, bytes: 3 + 20 },
            same: tally(1),
        };
        assert_eq!(diff.files, want);
        let names: Vec<_> = diff.components.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["dir:a", "dir:b"]);
    }
}
