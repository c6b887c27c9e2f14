//! Analysis: which files change together, and how often.
//!
//! Every inode is assigned to one component. Claims are made in a fixed order and the first wins: files
//! that every build writes, files that a package database lists, then files in folders of a known shape.
//! The same file set always gives the same components, wherever its bytes are.
//!
//! A database that can't be parsed claims nothing and adds a note; it never stops a split.

mod alpm;
mod apk;
mod churn;
mod dpkg;
mod estimate;
#[cfg(test)]
pub(crate) mod fixture;
mod folders;
mod jar;
mod npm;
mod python;
mod rpm;
mod state;
mod version;
mod xattrs;

pub(crate) use apk::DATABASES as APK_INSTALLED;
pub use churn::ChurnRule;
pub(crate) use dpkg::{INFO as DPKG_INFO, STATUS as DPKG_STATUS};
pub(crate) use estimate::{HEADER_BYTES, estimate};
pub(crate) use rpm::{FOLDERS as RPM_FOLDERS, times as rpm_times};
pub(crate) use state::drop_noise;

use std::collections::BTreeMap;
use std::ops::Index;

use crate::base::error::{Error, Result, if_valid};
use crate::base::limits::{MAX_COMPONENT, MAX_LOOKUPS, MAX_NOTES, MAX_PATH, MAX_TEXT, MAX_TEXTS};
use crate::base::text::count;
use crate::model::fileset::{
    Entry, Inode, InodeKind, Mtime, base_name, display, join, parent, parts, printable,
};
use crate::model::index::{InodeId, index_type};
use crate::model::rootfs::Rootfs;

/// The kind of a component, ordered by stability: the kind that changes least comes first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentKind {
    /// A package of the operating system (dpkg, apk, rpm, alpm).
    OsPackage,
    /// Files of the system's folders that no package owns.
    System,
    /// A package of a language (Python, npm, jars).
    LanguagePackage,
    /// One file of 1 MiB or more that no package owns.
    BigFile,
    /// Files of the application.
    Application,
    /// Package databases, caches and logs, whose content differs on every build.
    State,
}

/// A set of files that change together.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// Name, such as `deb:openssl`, `python:numpy`, `npm:react`, `file:opt/model.bin` or
    /// `dir:srv/app`; unique within an analysis.
    pub name: String,
    /// Kind of component.
    pub kind: ComponentKind,
    /// Expected changes per release if stated by `--churn` or `user.update-interval`; otherwise the
    /// kind's default applies.
    pub churn: Option<f64>,
    /// Whether its version tells of frequent releases.
    pub rapid: bool,
    /// Changes counted in earlier images; zero by default.
    pub learned: Learned,
}

/// How often a component was seen to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Learned {
    /// Number of releases that contained it and had a predecessor that contained it too.
    pub seen: u64,
    /// Number of those releases in which it differed from the predecessor.
    pub changed: u64,
}

index_type! {
    /// Position of a component in its [`Analysis`].
    ComponentId
}

/// The components of a file set.
#[derive(Debug, Clone, Default)]
pub struct Analysis {
    /// The components, sorted by name; each owns at least one inode.
    pub components: Vec<Component>,
    /// The component that owns each inode of the file set.
    pub owner: Vec<ComponentId>,
    /// Notes for the user, such as a database that could not be read or a rule that matched nothing.
    pub notes: Vec<String>,
}

impl Analysis {
    /// Returns the component that owns an inode.
    pub(crate) fn owner_of(&self, inode: InodeId) -> &Component {
        &self[self.owner[inode.index()]]
    }
}

impl Index<ComponentId> for Analysis {
    type Output = Component;

    fn index(&self, id: ComponentId) -> &Component {
        &self.components[id.index()]
    }
}

/// The components of a file set and the expected compressed size of each inode: what plans are made from.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The components.
    pub analysis: Analysis,
    /// Expected compressed bytes of each inode.
    pub estimates: Vec<u64>,
}

/// Finds the components of a file set. `churn` has the rates of change that the user states.
///
/// # Errors
/// If the system fails to read a file; package databases that are not valid give notes instead.
pub fn analyze(rootfs: &Rootfs, churn: &[ChurnRule]) -> Result<Analysis> {
    let mut claims = Claims::new(rootfs);
    xattrs::claim(&mut claims);
    state::claim(&mut claims);
    dpkg::claim(&mut claims);
    apk::claim(&mut claims);
    rpm::claim(&mut claims);
    alpm::claim(&mut claims);
    python::claim(&mut claims);
    npm::claim(&mut claims);
    jar::claim(&mut claims);
    python::claim_bytecode(&mut claims);
    folders::claim(&mut claims);
    churn::apply(&mut claims, churn);
    claims.finish()
}

/// The installation of a package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Installation {
    /// Its files are older, unless they were changed since.
    pub(crate) time: Mtime,
    /// The file that was written then.
    pub(crate) record: Option<InodeId>,
}

/// Returns the installation that each file of a dpkg or apk package came with. rpm and pacman record
/// the times of files, so they are not needed here.
///
/// # Errors
/// If the system fails to read a file.
pub(crate) fn installations(rootfs: &Rootfs) -> Result<BTreeMap<InodeId, Installation>> {
    let mut claims = Claims::new(rootfs);
    dpkg::claim(&mut claims);
    apk::claim(&mut claims);
    claims.failed.map_or(Ok(claims.installations), Err)
}

/// Marks an inode that no component owns yet.
const UNOWNED: ComponentId = ComponentId::new(u32::MAX as usize);

/// The assignment of inodes to components while it is computed.
struct Claims<'a> {
    rootfs: &'a Rootfs,
    components: Vec<Traits>,
    by_name: BTreeMap<String, ComponentId>,
    owner: Vec<ComponentId>,
    installations: BTreeMap<InodeId, Installation>,
    notes: Vec<String>,
    /// Number of bytes of texts that may still be read.
    texts: u64,
    /// Number of lookups of path parts that may still be made.
    lookups: u64,
    /// Number of notes beyond the maximum.
    more_notes: u64,
    /// The first error of the system, as opposed to invalid data in the image.
    failed: Option<Error>,
}

/// The properties of a component except its name.
#[derive(Clone, Copy)]
struct Traits {
    kind: ComponentKind,
    churn: Option<f64>,
    rapid: bool,
}

/// A component that is created when the first inode is assigned to it.
struct Owner {
    name: String,
    kind: ComponentKind,
    id: Option<ComponentId>,
    installation: Option<Installation>,
}

impl Owner {
    /// Returns the component of a package; `None` if the name is too long to be valid.
    fn new(system: &str, package: &[u8], kind: ComponentKind) -> Option<Self> {
        let name = format!("{system}:{}", String::from_utf8_lossy(package));
        (name.len() <= MAX_COMPONENT).then_some(Self { name, kind, id: None, installation: None })
    }
}

impl<'a> Claims<'a> {
    fn new(rootfs: &'a Rootfs) -> Self {
        Self {
            rootfs,
            components: Vec::new(),
            by_name: BTreeMap::new(),
            owner: vec![UNOWNED; rootfs.files.inodes().len()],
            installations: BTreeMap::new(),
            notes: Vec::new(),
            texts: MAX_TEXTS,
            lookups: MAX_LOOKUPS,
            more_notes: 0,
            failed: None,
        }
    }

    /// Returns the component of this name, which is created if it does not exist.
    fn component(&mut self, name: impl AsRef<str>, kind: ComponentKind) -> ComponentId {
        let next = ComponentId::new(self.components.len());
        let components = &mut self.components;
        *self.by_name.entry(printable(name.as_ref())).or_insert_with(|| {
            components.push(Traits { kind, churn: None, rapid: false });
            next
        })
    }

    fn is_free(&self, entry: &Entry) -> bool {
        self.owner[entry.inode.index()] == UNOWNED
    }

    /// Assigns an entry to a component unless it already has one.
    fn claim(&mut self, entry: &Entry, component: ComponentId) {
        let owner = &mut self.owner[entry.inode.index()];
        if *owner == UNOWNED {
            *owner = component;
        }
    }

    /// Assigns the file that a package database lists as `name` in folder `dir` to a component. The
    /// folder may have become a symlink since (`/bin/sh` for `/usr/bin/sh`).
    fn claim_listed(&mut self, dir: &[u8], name: &[u8], owner: &mut Owner) {
        // Longer paths can't exist, and joining them would cost time for each name.
        if dir.len() + name.len() > 2 * MAX_PATH || !self.afford(1) {
            return;
        }
        let path: Vec<&[u8]> = parts(dir).chain(parts(name)).collect();
        if path.is_empty() || path.contains(&&b".."[..]) {
            return;
        }
        let set = &self.rootfs.files;
        let path = path.join(&b'/');
        let found = set.position(&path).or_else(|| {
            let dir = parent(&path).unwrap_or_default();
            let real = set.resolve_within(dir, &mut self.lookups)?;
            set.position(&join(&real, base_name(&path)))
        });
        if let Some(i) = found {
            self.claim_for(&set.entries()[i], owner);
        }
    }

    /// Notes what the version of a component tells.
    fn versioned(&mut self, component: ComponentId, version: &[u8]) {
        self.components[component.index()].rapid |= version::is_rapid(version);
    }

    /// Subtracts `lookups` from those that are left; returns false if there are fewer.
    fn afford(&mut self, lookups: usize) -> bool {
        let left = self.lookups.checked_sub(lookups as u64);
        self.lookups = left.unwrap_or(0);
        left.is_some()
    }

    /// Assigns an entry to a component, which is created if necessary.
    fn claim_for(&mut self, entry: &Entry, owner: &mut Owner) {
        if self.is_free(entry) {
            let id = owner.id.unwrap_or_else(|| self.component(&owner.name, owner.kind));
            owner.id = Some(id);
            self.claim(entry, id);
            if let Some(installation) = owner.installation {
                self.installations.insert(entry.inode, installation);
            }
        }
    }

    /// Returns a text file of a package system, with symlinks followed. Returns `None` if it does not
    /// exist, and `None` with a note if it is too large or can't be read.
    fn text(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        let left = self.texts;
        let text = self.read(path, MAX_TEXT.min(left))?;
        self.texts -= text.len() as u64;
        Some(text)
    }

    /// Returns the bytes of a file, with symlinks followed. Returns `None` if it does not exist, and
    /// `None` with a note if it is too large or can't be read.
    fn read(&mut self, path: &[u8], limit: u64) -> Option<Vec<u8>> {
        let set = &self.rootfs.files;
        let path = set.resolve(path)?;
        let Inode { kind: InodeKind::File(file), .. } = set.get(&path)? else { return None };
        self.rootfs.contents.read(file, limit).map_err(|e| self.broken(&path, "is ignored", e)).ok()
    }

    /// Adds a note on invalid data in the image, or records an error of the system.
    fn broken(&mut self, path: &[u8], what: &str, e: Error) {
        self.note(path, &format!("{what}: {e}"));
        if let Err(e) = if_valid::<()>(Err(e)) {
            self.failed.get_or_insert(e.context(format!("reading {}", display(path))));
        }
    }

    fn note(&mut self, path: &[u8], what: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(format!("{} {what}", display(path)));
        } else {
            self.more_notes += 1;
        }
    }

    /// Drops components that own nothing, and sorts the others.
    fn finish(mut self) -> Result<Analysis> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        if self.lookups == 0 {
            self.notes.push(format!(
                "its package databases list more than {MAX_LOOKUPS} paths; files of the other paths \
                 are grouped by folder"
            ));
        }
        if self.more_notes > 0 {
            self.notes.push(format!(
                "not shown: {} on package databases",
                count(self.more_notes, "more note")
            ));
        }
        let mut used = vec![false; self.components.len()];
        for owner in &self.owner {
            used[owner.index()] = true;
        }
        let mut new_id = vec![UNOWNED; self.components.len()];
        let mut components = Vec::new();
        for (name, old) in self.by_name {
            if used[old.index()] {
                new_id[old.index()] = ComponentId::new(components.len());
                let Traits { kind, churn, rapid } = self.components[old.index()];
                components.push(Component {
                    name,
                    kind,
                    churn,
                    rapid,
                    learned: Learned::default(),
                });
            }
        }
        for owner in &mut self.owner {
            *owner = new_id[owner.index()];
        }
        Ok(Analysis { components, owner: self.owner, notes: self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::Fixture;
    use super::*;
    use crate::base::testing::cpu_seconds;

    #[test]
    fn attributes_name_components_before_anything_else() {
        let x = vec![
            (b"user.component"[..].into(), b"model"[..].into()),
            (b"user.update-interval"[..].into(), b"yearly"[..].into()),
        ];
        let rootfs =
            Fixture::default().raw_file(b"var/log/m", b"1", Some(x)).file("app/a", "2").build();
        let a = analyze(&rootfs, &[]).unwrap();
        let names: Vec<_> = a.components.iter().map(|c| (c.name.as_str(), c.churn)).collect();
        assert!(names.contains(&("xattr:model", Some(30.0 / 365.0))), "{names:?}");
    }

    #[test]
    fn the_cost_of_package_lists_is_bounded() {
        // Each line would go through all files; each path through forty links of two thousand parts.
        let mut fixture = Fixture::default()
            .file("v/x.egg-info/top_level.txt", "f\n".repeat(4_000_000))
            .file("var/lib/dpkg/status", "Package: a\n")
            .file("var/lib/dpkg/info/a.list", "/l0/x\n".repeat(5_000_000));
        for i in 0..20_000 {
            fixture = fixture.file(&format!("v/f/{i}"), "");
        }
        for i in 0..40 {
            fixture =
                fixture.symlink(&format!("l{i}"), &format!("{}l{}", "v/../".repeat(800), i + 1));
        }
        let begin = cpu_seconds();
        let (owners, notes) = fixture.owners(&[]);
        assert!(cpu_seconds() - begin < 40);
        assert!(notes.iter().any(|n| n.contains("more than 10000000 paths")), "{notes:?}");
        assert!(owners.contains(&"v/f/1=dir:v/f".to_owned()));
    }

    #[test]
    fn components_are_sorted_and_used() {
        let rootfs = Fixture::default().file("b/x", "1").file("a/x", "1").dir("z").build();
        let a = analyze(&rootfs, &[]).unwrap();
        assert!(a.components.windows(2).all(|w| w[0].name < w[1].name));
        for i in (0..a.components.len()).map(ComponentId::new) {
            assert!(a.owner.contains(&i), "{}", a[i].name);
        }
    }
}
