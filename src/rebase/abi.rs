//! Programs and libraries of an image that a new base leaves without a library, a version of symbols, a loader,
//! or the interpreter of a script.
//!
//! What a file needs is looked up as [ld.so(8)](https://man7.org/linux/man-pages/man8/ld.so.8.html) does, in the
//! image that the file is from and in the result. Only what was there in the first and is not in the second
//! counts: a plugin whose program provides its symbols, or a library in `LD_LIBRARY_PATH`, is no news.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;

use serde::Serialize;

use super::linkage::{self, CodeForm, Linkage};
use crate::base::error::{Context, Error, Result};
use crate::base::limits::{MAX_ELF_LOOKUPS, MAX_TEXT};
use crate::base::text::escape;
use crate::model::fileset::{FileData, InodeKind, base_name, display, join, parent};
use crate::model::index::InodeId;
use crate::model::rootfs::Rootfs;

/// Where programs are found without a `PATH`, or with that of most images.
const PROGRAM_DIRS: [&[u8]; 6] =
    [b"usr/local/sbin", b"usr/local/bin", b"usr/sbin", b"usr/bin", b"sbin", b"bin"];
/// The folders of glibc and musl. Libraries of another form are passed over, so all of them are searched.
const LIBRARY_DIRS: [&[u8]; 7] =
    [b"lib64", b"usr/lib64", b"lib", b"usr/lib", b"usr/local/lib", b"lib32", b"libx32"];
/// Depth up to which files of `ld.so.conf` include others.
const MAX_INCLUDES: usize = 8;

/// What kind of thing a file needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NeedKind {
    /// A library.
    Library,
    /// A version of the symbols of a library.
    Version,
    /// The loader of a program, or the program that runs a script.
    Interpreter,
}

/// A program, library or script that needs what is no longer there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Missing {
    /// Its path.
    pub path: String,
    /// What kind of thing is missing.
    pub need: NeedKind,
    /// Name of the library or interpreter.
    pub name: String,
    /// Version of symbols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Path of the library or interpreter in the image that the file is from.
    pub was: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, name, was, .. } = self;
        match (&self.version, self.need) {
            (Some(version), _) => {
                write!(f, "{path} needs version {version} of {name}, which {was} had")
            }
            (None, NeedKind::Interpreter) => write!(f, "{path} is run by {name}, which was {was}"),
            (None, _) => write!(f, "{path} needs {name}, which was {was}"),
        }
    }
}

/// Returns what files of the result need and had in the image or in the new base, whichever they are from, but
/// do not have in the result; sorted.
///
/// # Errors
/// If a file can't be read, or files need so much that looking for it has no end.
pub(super) fn missing(app: &Rootfs, new: &Rootfs, result: &Rootfs) -> Result<Vec<Missing>> {
    let mut sides = [View::new(app)?, View::new(new)?];
    let mut result = View::new(result)?;
    let mut all = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for entry in result.rootfs.files.entries() {
        // Other names of a file have the same needs.
        if result.file(entry.inode).is_none() || !seen.insert(entry.inode) {
            continue;
        }
        let reading = || format!("looking for what {} needs", display(&entry.path));
        let needs = result.needs(&entry.path, entry.inode).with_context(reading)?;
        for lacking in needs.into_iter().filter(|needed| needed.found.is_none()) {
            for side in &mut sides {
                let Some(own) = side.same_file(&entry.path, &result, entry.inode) else { continue };
                let before = side.needs(&entry.path, own).with_context(reading)?;
                let was = before.into_iter().find(|needed| needed.is_same(&lacking));
                if let Some(was) = was.and_then(|was| was.found) {
                    all.insert(lacking.missing(&entry.path, &was));
                    break;
                }
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// What a file needs.
struct Needed {
    need: NeedKind,
    name: Vec<u8>,
    version: Option<Vec<u8>>,
    /// Path where it is.
    found: Option<Vec<u8>>,
}

impl Needed {
    fn is_same(&self, other: &Self) -> bool {
        (self.need, &self.name, &self.version) == (other.need, &other.name, &other.version)
    }

    fn missing(&self, path: &[u8], was: &[u8]) -> Missing {
        let text = |bytes: &[u8]| escape(&String::from_utf8_lossy(bytes), &[]).into_owned();
        Missing {
            path: display(path),
            need: self.need,
            name: text(&self.name),
            version: self.version.as_deref().map(text),
            was: display(was),
        }
    }
}

/// A regular file: its path without links, and its inode.
type Found = (Vec<u8>, InodeId);

/// An image in which files look for what they need.
struct View<'a> {
    rootfs: &'a Rootfs,
    /// Folders of `/etc/ld.so.conf`, then those of loaders.
    dirs: Vec<Vec<u8>>,
    read: HashMap<InodeId, Option<Rc<Linkage>>>,
    /// Libraries in the folders above, by name and form.
    libraries: HashMap<(Vec<u8>, CodeForm), Option<Found>>,
    /// Paths that may still be looked up: a hostile image has many files with many needs.
    lookups: u64,
}

impl<'a> View<'a> {
    fn new(rootfs: &'a Rootfs) -> Result<Self> {
        let mut dirs = Vec::new();
        configured(rootfs, b"etc/ld.so.conf", MAX_INCLUDES, &mut BTreeSet::new(), &mut dirs)?;
        dirs.extend(LIBRARY_DIRS.map(<[u8]>::to_vec));
        // The loader of Debian has the folder of its architecture built in.
        for lib in ["lib", "usr/lib"] {
            let Some(lib) = rootfs.files.resolve(lib.as_bytes()) else { continue };
            for entry in rootfs.files.below(&lib) {
                let name = &entry.path[lib.len() + 1..];
                if memchr::memmem::find(name, b"-linux-").is_some() && !name.contains(&b'/') {
                    dirs.push(entry.path.to_vec());
                }
            }
        }
        let (read, libraries) = (HashMap::new(), HashMap::new());
        Ok(Self { rootfs, dirs, read, libraries, lookups: MAX_ELF_LOOKUPS })
    }

    /// Returns the regular file that a path leads to.
    fn regular(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let files = &self.rootfs.files;
        let found = files.resolve_within(path, &mut self.lookups);
        if self.lookups == 0 {
            return Err(Error::limit("programs need more libraries than are looked for"));
        }
        let found = found.and_then(|path| {
            let inode = files.id(&path)?;
            Some((path, inode))
        });
        Ok(found.filter(|found| self.file(found.1).is_some()))
    }

    fn file(&self, inode: InodeId) -> Option<&'a FileData> {
        match &self.rootfs.files[inode].kind {
            InodeKind::File(file) => Some(file),
            _ => None,
        }
    }

    /// Returns the inode at a path if it has the same content as one of another image.
    fn same_file(&self, path: &[u8], other: &View<'_>, inode: InodeId) -> Option<InodeId> {
        let own = self.rootfs.files.id(path)?;
        let (file, other) = (self.file(own)?, other.file(inode)?);
        ((file.size, file.hash) == (other.size, other.hash)).then_some(own)
    }

    fn linkage(&mut self, inode: InodeId) -> Result<Option<Rc<Linkage>>> {
        if let Some(known) = self.read.get(&inode) {
            return Ok(known.clone());
        }
        let read = match self.file(inode) {
            Some(file) => linkage::read(&self.rootfs.contents, file)?.map(Rc::new),
            None => None,
        };
        self.read.insert(inode, read.clone());
        Ok(read)
    }

    /// Returns all that a file needs.
    fn needs(&mut self, path: &[u8], inode: InodeId) -> Result<Vec<Needed>> {
        let Some(linkage) = self.linkage(inode)? else { return self.script(inode) };
        let mut needs = Vec::new();
        if let Some(loader) = &linkage.interpreter {
            let found = self.regular(loader)?.map(|found| found.0);
            let (need, name) = (NeedKind::Interpreter, loader.clone());
            needs.push(Needed { need, name, version: None, found });
        }
        for name in &linkage.needed {
            let found = self.library(path, &linkage, name)?;
            let library = found.as_ref().map(|found| self.linkage(found.1)).transpose()?.flatten();
            for (_, version) in linkage.versions.iter().filter(|(of, _)| of == name) {
                // A library without any versions is accepted, and one that is missing is so as a whole.
                let has = library
                    .as_ref()
                    .is_none_or(|l| l.defined.is_empty() || l.defined.contains(version));
                needs.push(Needed {
                    need: NeedKind::Version,
                    name: name.clone(),
                    version: Some(version.clone()),
                    found: has.then(|| found.clone().unwrap_or_default().0),
                });
            }
            let (need, name) = (NeedKind::Library, name.clone());
            needs.push(Needed { need, name, version: None, found: found.map(|found| found.0) });
        }
        Ok(needs)
    }

    /// Returns the program that runs a script.
    fn script(&mut self, inode: InodeId) -> Result<Vec<Needed>> {
        let is_executable = self.rootfs.files[inode].mode & 0o111 != 0;
        let Some(file) = self.file(inode).filter(|_| is_executable) else { return Ok(Vec::new()) };
        let words = linkage::script(&self.rootfs.contents, file)?.unwrap_or_default();
        let Some((program, arguments)) = words.split_first() else { return Ok(Vec::new()) };
        let found = self.regular(program)?.map(|found| found.0);
        let need = NeedKind::Interpreter;
        let mut needs = vec![Needed { need, name: program.clone(), version: None, found }];
        // What `env` runs comes after its options and variables.
        let name = arguments.iter().find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
        if let Some(name) = name.filter(|_| base_name(program) == b"env") {
            let mut found = None;
            for dir in PROGRAM_DIRS {
                found = found.or(self.regular(&join(dir, name))?.map(|found| found.0));
            }
            needs.push(Needed { need, name: name.clone(), version: None, found });
        }
        Ok(needs)
    }

    /// Returns the library that a file at `path` would load.
    fn library(&mut self, path: &[u8], linkage: &Linkage, name: &[u8]) -> Result<Option<Found>> {
        let origin = parent(path).unwrap_or_default();
        if name.contains(&b'/') {
            let Some(path) = expanded(name, origin) else { return Ok(None) };
            return self.of_form(&path, linkage.form);
        }
        for dir in linkage.search.split(|b| *b == b':') {
            let Some(dir) = expanded(dir, origin).filter(|dir| !dir.is_empty()) else { continue };
            let found = self.of_form(&join(&dir, name), linkage.form)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let key = (name.to_vec(), linkage.form);
        if let Some(known) = self.libraries.get(&key) {
            return Ok(known.clone());
        }
        let mut found = None;
        for at in 0..self.dirs.len() {
            found = self.of_form(&join(&self.dirs[at], name), linkage.form)?;
            if found.is_some() {
                break;
            }
        }
        self.libraries.insert(key, found.clone());
        Ok(found)
    }

    /// Returns the library at a path if it has that form.
    fn of_form(&mut self, path: &[u8], form: CodeForm) -> Result<Option<Found>> {
        let Some(found) = self.regular(path)? else { return Ok(None) };
        let linkage = self.linkage(found.1)?;
        Ok(linkage.is_some_and(|linkage| linkage.form == form).then_some(found))
    }
}

/// Returns a folder with the file's own folder for `$ORIGIN`; `None` if it has another variable.
fn expanded(dir: &[u8], origin: &[u8]) -> Option<Vec<u8>> {
    for name in [&b"$ORIGIN"[..], b"${ORIGIN}"] {
        if let Some(rest) = dir.strip_prefix(name) {
            return (!rest.contains(&b'$')).then(|| [b"/", origin, rest].concat());
        }
    }
    (!dir.contains(&b'$')).then(|| dir.to_vec())
}

/// Adds the folders that a file of `ld.so.conf` and those that it includes name, each file once.
fn configured(
    rootfs: &Rootfs,
    path: &[u8],
    depth: usize,
    seen: &mut BTreeSet<Vec<u8>>,
    dirs: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let Some(path) = rootfs.files.resolve(path) else { return Ok(()) };
    let Some(InodeKind::File(file)) = rootfs.files.get(&path).map(|inode| &inode.kind) else {
        return Ok(());
    };
    if !seen.insert(path.clone()) {
        return Ok(());
    }
    let reading = || format!("reading {}", display(&path));
    let text = rootfs.contents.read(file, MAX_TEXT).with_context(reading)?;
    for line in text.split(|b| *b == b'\n') {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default();
        let separates = |b: &u8| b.is_ascii_whitespace() || matches!(b, b':' | b',');
        let mut words = line.split(separates).filter(|word| !word.is_empty()).peekable();
        if words.next_if_eq(&&b"include"[..]).is_none() {
            dirs.extend(words.map(<[u8]>::to_vec));
            continue;
        }
        for pattern in words.filter(|_| depth > 0) {
            let pattern =
                pattern.strip_prefix(b"/").map_or_else(|| join(b"etc", pattern), <[u8]>::to_vec);
            let folder = parent(&pattern).unwrap_or_default();
            for entry in rootfs.files.below(folder) {
                if is_like(&entry.path, &pattern) {
                    configured(rootfs, &entry.path, depth - 1, seen, dirs)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether a path is the pattern, in which `*` in the last part stands for any text.
fn is_like(path: &[u8], pattern: &[u8]) -> bool {
    match memchr::memchr(b'*', pattern) {
        None => path == pattern,
        Some(at) => {
            let (before, after) = (&pattern[..at], &pattern[at + 1..]);
            let rest = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            rest.is_some_and(|rest| !rest.contains(&b'/'))
        }
    }
}

#[cfg(test)]
mod tests;
