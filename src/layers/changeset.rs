//! The changeset of a layer: what it does, entry by entry.

use crate::model::fileset::{Inode, InodeKind};

/// One change of a layer. Paths have no leading slash and no empty, `.` or `..` part; that of the root
/// is empty.
#[derive(Debug, Clone)]
pub struct Change {
    /// The path that it changes.
    pub path: Box<[u8]>,
    /// What it does there.
    pub kind: ChangeKind,
}

/// What a layer does at a path
/// ([layer.md](https://github.com/opencontainers/image-spec/blob/main/layer.md)).
#[derive(Debug, Clone)]
pub enum ChangeKind {
    /// Adds an inode.
    Add(Inode),
    /// Adds another name for `target`. The inode gets this `metadata`, as clients apply the link's own
    /// header; the kind in it is ignored.
    Link {
        /// Path of the other name.
        target: Box<[u8]>,
        /// Metadata.
        metadata: Inode,
    },
    /// Removes what lower layers have at the path.
    Whiteout,
    /// Removes what lower layers have below the path.
    Opaque,
    /// Adds a file that is not visible at its path; hard links of the same layer name it.
    Unnamed(Inode),
}

/// Gives an inode the metadata in a hard link's own header. Clients only add: an attribute that the
/// header lacks stays, except capabilities when the owner changes, since chown(2) drops them. For
/// symlinks they set owner and attributes, not mode and time.
pub(crate) fn set_by_link(inode: &mut Inode, like: &Inode) {
    let own = |new: u32, old: u32| if new == NO_ID { old } else { new };
    let owner = (own(like.uid, inode.uid), own(like.gid, inode.gid));
    let mut xattrs = inode.xattrs.take().map(|x| *x).unwrap_or_default();
    if !matches!(inode.kind, InodeKind::Symlink { .. }) {
        (inode.mode, inode.mtime) = (like.mode, like.mtime);
    }
    if owner != (inode.uid, inode.gid) {
        xattrs.retain(|(name, _)| **name != *b"security.capability");
    }
    (inode.uid, inode.gid) = owner;
    for (name, value) in like.xattrs.iter().flat_map(|x| x.iter()) {
        match xattrs.binary_search_by(|(old, _)| old.cmp(name)) {
            Ok(at) => xattrs[at].1.clone_from(value),
            Err(at) => xattrs.insert(at, (name.clone(), value.clone())),
        }
    }
    inode.xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs));
}

/// The ID that chown(2) takes as "leave unchanged".
pub(super) const NO_ID: u32 = u32::MAX;
