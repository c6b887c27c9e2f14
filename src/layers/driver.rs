//! Extended attributes in which storage drivers keep their own state. They get into layers when
//! somebody packs a driver's folder as it is on disk. They are not content: on a directory that other
//! layers contain too, they change which files of those layers clients show. So relayer never writes
//! them.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::base::limits::{MAX_XATTR_NAME, MAX_XATTR_VALUE};
use crate::format::tar::{EntryKind, TarEntry};
use crate::model::fileset::Xattrs;

/// The meaning of an entry's attributes for overlayfs
/// (<https://docs.kernel.org/filesystems/overlayfs.html>). docker and podman set them where overlayfs
/// finds them; containerd and umoci do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An ordinary entry.
    None,
    /// A directory that hides the contents that lower layers have there.
    Opaque,
    /// A whiteout, which hides what lower layers have there.
    Whiteout,
}

/// Names of storage drivers' attributes, with the number of entries that have each.
#[derive(Debug, Default)]
pub(crate) struct Attributes(BTreeMap<Box<[u8]>, u64>);

/// Whether an attribute belongs to a storage driver: overlayfs as root and as user, fuse-overlayfs, and
/// the attribute in which containers/storage records owners that it can't set. The attributes of an
/// overlay mounted inside a container are escaped by the overlay below it. They have no effect, and
/// count as content.
fn is_driver_attribute(name: &[u8]) -> bool {
    let below = |prefix: &[u8]| name.strip_prefix(prefix);
    [&b"trusted.overlay."[..], b"user.overlay."]
        .into_iter()
        .filter_map(below)
        .any(|rest| !rest.starts_with(b"overlay."))
        || below(b"user.fuseoverlayfs.").or(below(b"security.fuseoverlayfs.")).is_some()
        || name == b"user.containers.override_stat"
}

impl Attributes {
    /// Returns an entry's attributes without those of storage drivers, and the meaning of the latter,
    /// which are counted in `self`.
    ///
    /// # Errors
    /// If an attribute is too long for Linux.
    pub(super) fn take(&mut self, entry: &TarEntry) -> Result<(Xattrs, Meaning)> {
        let mut meaning = Meaning::None;
        let mut kept = Xattrs::new();
        for (name, value) in &entry.xattrs {
            if name.is_empty() || name.len() > MAX_XATTR_NAME || value.len() > MAX_XATTR_VALUE {
                return Err(Error::malformed(format!(
                    "an extended attribute has a name of {} bytes and a value of {} bytes; Linux \
                     allows names of 1 to {MAX_XATTR_NAME} bytes and values of up to {MAX_XATTR_VALUE} bytes",
                    name.len(),
                    value.len()
                )));
            }
            if !is_driver_attribute(name) {
                kept.push((name.clone(), value.clone()));
                continue;
            }
            *self.0.entry(name.clone()).or_default() += 1;
            match (&**name, &entry.kind) {
                (b"trusted.overlay.opaque", EntryKind::Dir) if **value == *b"y" => {
                    meaning = Meaning::Opaque;
                }
                (b"trusted.overlay.whiteout", EntryKind::File { size: 0, .. }) => {
                    meaning = Meaning::Whiteout;
                }
                _ => {}
            }
        }
        Ok((kept, meaning))
    }

    /// Whether there are no such attributes.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a note on the attributes that are left out of these layers, if there are any.
    pub(crate) fn note<'a>(layers: impl IntoIterator<Item = &'a Self>) -> Option<String> {
        /// Maximum number of names in the note.
        const SHOWN: usize = 6;
        let mut all: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (name, count) in layers.into_iter().flat_map(|layer| &layer.0) {
            *all.entry(name).or_default() += count;
        }
        if all.is_empty() {
            return None;
        }
        let line = |(name, count): (&&[u8], &u64)| {
            let name = name[..name.len().min(60)].escape_ascii();
            format!("{name} on {count} {}", if *count == 1 { "entry" } else { "entries" })
        };
        let mut shown: Vec<String> = all.iter().take(SHOWN).map(line).collect();
        if all.len() > SHOWN {
            shown.push(format!("{} more", all.len() - SHOWN));
        }
        let mut text = shown.join(", ");
        let refers = |name: &[u8]| name.ends_with(b".redirect") || name.ends_with(b".metacopy");
        if all.keys().any(|name| refers(name)) {
            text += "; references to lower layers by redirect and metacopy are not followed";
        }
        Some(format!("attributes of storage drivers are left out: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fileset::Mtime;

    fn entry(kind: EntryKind, xattrs: &[(&str, &[u8])]) -> TarEntry {
        let xattr = |(k, v): &(&str, &[u8])| (k.as_bytes().into(), (*v).into());
        let xattrs = xattrs.iter().map(xattr).collect();
        let path = b"d".to_vec();
        let mtime = Mtime::default();
        TarEntry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime,
            xattrs,
            header_offset: 0,
            data_offset: 0,
            stored: 0,
        }
    }

    #[test]
    fn attributes_of_drivers_are_not_content() {
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.origin",
            "user.overlay.opaque",
            "user.fuseoverlayfs.opaque",
            "security.fuseoverlayfs.override_stat",
            "user.containers.override_stat",
        ] {
            assert!(is_driver_attribute(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.overlay.opaque",
            "user.overlay.overlay.opaque",
            "trusted.overlays",
            "user.a",
            "security.capability",
            "user.containers.other",
            "trusted.overlay",
        ] {
            assert!(!is_driver_attribute(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn overlayfs_follows_a_mark_where_it_looks_for_it() {
        let file = |size| EntryKind::File { size, sparse: None };
        let meaning = |kind, name: &str, value: &[u8]| {
            Attributes::default().take(&entry(kind, &[(name, value)])).unwrap().1
        };
        assert_eq!(meaning(EntryKind::Dir, "trusted.overlay.opaque", b"y"), Meaning::Opaque);
        assert_eq!(meaning(EntryKind::Dir, "trusted.overlay.opaque", b"x"), Meaning::None);
        assert_eq!(meaning(file(0), "trusted.overlay.opaque", b"y"), Meaning::None);
        assert_eq!(meaning(EntryKind::Dir, "user.overlay.opaque", b"y"), Meaning::None);
        assert_eq!(meaning(file(0), "trusted.overlay.whiteout", b""), Meaning::Whiteout);
        assert_eq!(meaning(file(1), "trusted.overlay.whiteout", b""), Meaning::None);
    }

    #[test]
    fn attributes_left_out_are_counted_and_noted() {
        let mut found = [Attributes::default(), Attributes::default()];
        assert_eq!(Attributes::note(&found), None);
        let marked = entry(EntryKind::Dir, &[("trusted.overlay.opaque", b"y"), ("user.a", b"1")]);
        for attributes in &mut found {
            let (kept, _) = attributes.take(&marked).unwrap();
            assert_eq!(kept, [(b"user.a"[..].into(), b"1"[..].into())]);
        }
        let note = Attributes::note(&found).unwrap();
        assert!(note.ends_with("left out: trusted.overlay.opaque on 2 entries"), "{note}");
        let moved = entry(EntryKind::Dir, &[("trusted.overlay.redirect", b"/x")]);
        found[0].take(&moved).unwrap();
        assert!(Attributes::note(&found).unwrap().contains("redirect on 1 entry; references to"));
    }

    #[test]
    fn attributes_too_long_for_linux_are_refused() {
        let long = format!("user.{}", "n".repeat(251));
        for (name, value) in [("", vec![]), (&*long, vec![]), ("user.a", vec![0; (1 << 16) + 1])] {
            let broken = entry(EntryKind::Dir, &[(name, &value)]);
            assert!(Attributes::default().take(&broken).is_err(), "{name}");
        }
    }
}
