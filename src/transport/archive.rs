//! Index of a tar archive that holds an image: member names and the location of their bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::files::{Documents, Files};
use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_MEMBER_NAMES, MAX_MEMBERS, MAX_SYMLINKS};
use crate::format::tar::{EntryKind, Reader};
use crate::model::content::{Region, Source, SourceReader};
use crate::model::fileset::{self, display};

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// A symbolic or hard link with its target, relative to the archive's root. Older archives of
    /// Docker share layers through symlinks.
    Link(Vec<u8>),
}

/// The members of an archive. Building the index skips their bytes.
pub(super) struct Archive {
    source: Source,
    members: BTreeMap<Vec<u8>, Member>,
    documents: Documents,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl Archive {
    /// Indexes the archive by its headers.
    ///
    /// # Errors
    /// If it is not a complete tar archive, or exceeds a limit.
    pub(super) fn open(source: Source) -> Result<Self> {
        let (mut members, mut bytes) = (BTreeMap::new(), 0);
        let mut reader = Reader::new(SourceReader::all(source.as_ref()));
        while let Some(entry) = reader.next_entry()? {
            let name = clean(&entry.path, b"");
            let member = match entry.kind {
                EntryKind::File { size, sparse: None } => {
                    Member::File { offset: entry.data_offset, size }
                }
                EntryKind::Symlink { target } => {
                    let dir = fileset::parent(&name).unwrap_or_default();
                    Member::Link(clean(&target, if target.starts_with(b"/") { b"" } else { dir }))
                }
                EntryKind::HardLink { target } => Member::Link(clean(&target, b"")),
                _ => continue,
            };
            if members.len() >= MAX_MEMBERS {
                return Err(Error::limit(format!(
                    "more than {MAX_MEMBERS} files; this is not an image archive"
                )));
            }
            bytes += name.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
            if bytes > MAX_MEMBER_NAMES {
                return Err(Error::limit(format!(
                    "names of more than {MAX_MEMBER_NAMES} bytes; this is not an image archive"
                )));
            }
            // As when unpacking, a later member replaces an earlier one of the same name.
            members.insert(name, member);
        }
        Ok(Self { source, members, documents: Documents::default() })
    }

    /// Returns the names of the members, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.members.keys().map(|name| display(name))
    }
}

impl Archive {
    /// Returns the path behind `path` if a folder in it is a symlink.
    fn behind_link(&self, path: &[u8]) -> Option<Vec<u8>> {
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        slashes.into_iter().find_map(|at| match self.members.get(&path[..at]) {
            Some(Member::Link(target)) => Some(clean(&path[at..], target)),
            _ => None,
        })
    }
}

impl Files for Archive {
    fn get(&self, name: &str) -> Result<Option<Source>> {
        let mut at = clean(name.as_bytes(), b"");
        for _ in 0..MAX_SYMLINKS {
            match self.members.get(&at) {
                None => match self.behind_link(&at) {
                    Some(path) => at = path,
                    None => return Ok(None),
                },
                Some(Member::Link(target)) => at.clone_from(target),
                Some(Member::File { offset, size }) => {
                    let region = Region::new(Arc::clone(&self.source), *offset, *size);
                    return Ok(Some(Arc::new(region)));
                }
            }
        }
        Err(Error::malformed(format!("{name}: the archive has a loop of links")))
    }

    fn documents(&self) -> Option<&Documents> {
        Some(&self.documents)
    }
}

/// Returns a path relative to the archive's root with `.` and `..` resolved; it can't leave the root.
pub(super) fn clean(path: &[u8], dir: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in fileset::parts(dir).chain(fileset::parts(path)) {
        if part == b".." {
            kept.pop();
        } else {
            kept.push(part);
        }
    }
    kept.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(b"./blobs//sha256/x", b""), b"blobs/sha256/x");
        assert_eq!(clean(b"../b/layer.tar", b"a"), b"b/layer.tar");
        assert_eq!(clean(b"../../../etc", b"a"), b"etc");
    }
}
