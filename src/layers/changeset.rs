//! What a layer does, entry by entry: its changeset.

use crate::model::fileset::{Inode, Kind};

/// One line of a layer's changeset. Paths have no leading slash and no empty, `.` or `..` part;
/// the root's is empty.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is about.
    pub path: Box<[u8]>,
    /// What happens there.
    pub what: What,
}

/// What a layer does at a path
/// ([layer.md](https://github.com/opencontainers/image-spec/blob/main/layer.md)).
#[derive(Debug, Clone)]
pub enum What {
    /// Something new is there.
    Put(Inode),
    /// Another name for `target`; the inode takes the metadata of `like`, as clients apply the
    /// link's own header. The kind of `like` means nothing.
    Link {
        /// Path of the other name.
        target: Box<[u8]>,
        /// Metadata.
        like: Inode,
    },
    /// What lower layers have there is gone.
    Whiteout,
    /// What lower layers have below there is gone.
    Opaque,
    /// A file that nobody sees at its path; hard links of the same layer name it.
    Unnamed(Inode),
}

/// Gives an inode the metadata that a hard link's own header has. Clients only ever set: an
/// attribute that the header lacks stays, but for capabilities when the owner becomes another,
/// since chown(2) drops them. Of symlinks they set the owner and attributes, not mode and time.
pub(crate) fn set_by_link(inode: &mut Inode, like: &Inode) {
    let own = |new: u32, old: u32| if new == NO_ID { old } else { new };
    let owner = (own(like.uid, inode.uid), own(like.gid, inode.gid));
    let mut xattrs = inode.xattrs.take().map(|x| *x).unwrap_or_default();
    if !matches!(inode.kind, Kind::Symlink { .. }) {
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

/// To chown(2) this is no user or group: it leaves what is there.
pub(super) const NO_ID: u32 = u32::MAX;
