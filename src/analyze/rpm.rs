//! rpm: the SQLite database of Fedora, RHEL 9 and SUSE.
//!
//! A row a package, each a header blob as in a package file without its magic: an index of tags
//! (<https://rpm-software-management.github.io/rpm/manual/format_header.html>), all numbers big
//! endian. The component is the source package.

use std::io::{Read, Write};

use rusqlite::{Connection, OpenFlags};

use super::{Claims, ComponentKind};
use crate::content::Contents;
use crate::error::{Error, Result};
use crate::fileset::{FileSet, Inode, Kind};

/// Where its database lies.
pub const FOLDERS: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];
/// A full workstation's database has some 200 MB.
const MAX_DATABASE: u64 = 1 << 30;

const NAME: u32 = 1000;
const FILE_MTIMES: u32 = 1034;
const SOURCE_RPM: u32 = 1044;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;

pub(super) fn claim(claims: &mut Claims<'_>) {
    for folder in FOLDERS {
        let path = |name: &str| format!("{folder}/{name}").into_bytes();
        for old in ["Packages", "Packages.db"] {
            if claims.set.position(&path(old)).is_some() {
                claims.note(
                    &path(old),
                    "is an rpm database of an old format, which is not read: its files are \
                     grouped by folder",
                );
            }
        }
        let database = path("rpmdb.sqlite");
        if claims.set.position(&database).is_none() {
            continue;
        }
        match headers(claims.set, claims.contents, folder) {
            Err(e) => claims.note(&database, &format!("is passed over: {e}")),
            Ok(headers) => {
                let mut broken = 0;
                for header in headers {
                    broken += usize::from(claim_package(claims, &header).is_none());
                }
                if broken > 0 {
                    claims.note(&database, &format!("has {broken} entries that can't be read"));
                }
            }
        }
    }
}

/// All header blobs. The database is copied out, with what is still in its write-ahead log.
fn headers(set: &FileSet, contents: &Contents, folder: &str) -> Result<Vec<Vec<u8>>> {
    let dir = tempfile::tempdir()?;
    for name in ["rpmdb.sqlite", "rpmdb.sqlite-wal"] {
        let found = set.get(format!("{folder}/{name}").as_bytes());
        let Some(Inode { kind: Kind::File(file), .. }) = found else { continue };
        if file.size > MAX_DATABASE {
            return Err(Error::limit(format!("{} bytes are too many", file.size)));
        }
        let mut out = std::fs::File::create(dir.path().join(name))?;
        std::io::copy(&mut contents.open(file).take(MAX_DATABASE), &mut out)?;
        out.flush()?;
    }
    let sql = |e: rusqlite::Error| Error::malformed(format!("SQLite: {e}"));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(dir.path().join("rpmdb.sqlite"), flags).map_err(sql)?;
    // The schema comes with the image: nothing in it may run.
    connection.pragma_update(None, "trusted_schema", false).map_err(sql)?;
    connection.pragma_update(None, "query_only", true).map_err(sql)?;
    let mut query = connection.prepare("SELECT blob FROM Packages").map_err(sql)?;
    let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0)).map_err(sql)?;
    rows.collect::<Result<_, _>>().map_err(sql)
}

fn claim_package(claims: &mut Claims<'_>, blob: &[u8]) -> Option<()> {
    let header = Header::parse(blob)?;
    let name = match header.strings(SOURCE_RPM).and_then(|mut s| s.next()) {
        Some(source) => source_name(source),
        None => header.strings(NAME)?.next()?,
    };
    let component = claims
        .component(format!("rpm:{}", String::from_utf8_lossy(name)), ComponentKind::OsPackage);
    for path in header.paths() {
        claims.claim_listed(&path?, component);
    }
    Some(())
}

/// The times that the database in `folder` remembers of files, by path.
pub fn times(set: &FileSet, contents: &Contents, folder: &str) -> Result<Vec<(Vec<u8>, u32)>> {
    let mut all = Vec::new();
    for blob in headers(set, contents, folder)? {
        let Some(header) = Header::parse(&blob) else { continue };
        let Some(times) = header.numbers(FILE_MTIMES) else { continue };
        all.extend(header.paths().zip(times).filter_map(|(path, time)| Some((path?, time))));
    }
    Ok(all)
}

/// `bash-5.2.15-3.fc38.src.rpm` is of `bash`: version and release have no dashes.
fn source_name(file: &[u8]) -> &[u8] {
    let mut dashes = file.iter().enumerate().rev().filter(|(_, b)| **b == b'-');
    dashes.nth(1).map_or(file, |(at, _)| &file[..at])
}

/// A header's index and data.
struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(blob: &'a [u8]) -> Option<Self> {
        let entries = be32(blob, 0)? as usize;
        let bytes = be32(blob, 4)? as usize;
        let index = blob.get(8..8usize.checked_add(entries.checked_mul(16)?)?)?;
        let data = blob.get(8 + index.len()..)?.get(..bytes)?;
        Some(Self { index, data })
    }

    /// Type, count and data of a tag.
    fn find(&self, tag: u32) -> Option<(u32, usize, &'a [u8])> {
        let entry = self.index.chunks_exact(16).find(|e| be32(e, 0) == Some(tag))?;
        let data = self.data.get(be32(entry, 8)? as usize..)?;
        Some((be32(entry, 4)?, be32(entry, 12)? as usize, data))
    }

    /// All paths of a package, of which one without files has none; `None` for one whose folder is
    /// not there.
    fn paths(&self) -> impl Iterator<Item = Option<Vec<u8>>> + use<'a> {
        let dirs: Vec<&[u8]> = self.strings(DIR_NAMES).into_iter().flatten().collect();
        let indexes = self.numbers(DIR_INDEXES).into_iter().flatten();
        let names = self.strings(BASE_NAMES).into_iter().flatten();
        names.zip(indexes).map(move |(name, index)| {
            let dir = dirs.get(index as usize)?;
            Some([dir, name].concat())
        })
    }

    /// Strings (types 6, 8 and 9); fewer than stated when the data ends.
    fn strings(&self, tag: u32) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let (kind, count, data) = self.find(tag)?;
        // The last piece is what follows the last NUL and no string.
        let mut left = data.split(|b| *b == 0);
        matches!(kind, 6 | 8 | 9).then(|| std::iter::from_fn(move || left.next()).take(count))
    }

    /// 32-bit numbers (type 4).
    fn numbers(&self, tag: u32) -> Option<impl Iterator<Item = u32> + use<'a>> {
        let (kind, count, data) = self.find(tag)?;
        (kind == 4).then(|| data.chunks_exact(4).take(count).filter_map(|n| be32(n, 0)))
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    /// A header of string arrays and number arrays.
    fn header(strings: &[(u32, &[&str])], numbers: &[(u32, &[u32])]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        let mut entry = |tag: u32, kind: u32, count: usize, at: usize| {
            for n in [tag, kind, at as u32, count as u32] {
                index.extend_from_slice(&n.to_be_bytes());
            }
        };
        for (tag, list) in strings {
            entry(*tag, 8, list.len(), data.len());
            for s in *list {
                data.extend_from_slice(s.as_bytes());
                data.push(0);
            }
        }
        for (tag, list) in numbers {
            entry(*tag, 4, list.len(), data.len());
            list.iter().for_each(|n| data.extend_from_slice(&n.to_be_bytes()));
        }
        let mut out = ((index.len() / 16) as u32).to_be_bytes().to_vec();
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(&index);
        out.extend_from_slice(&data);
        out
    }

    fn database(blobs: &[Vec<u8>]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let c = Connection::open(&path).unwrap();
        c.execute_batch("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
            .unwrap();
        for blob in blobs {
            c.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).unwrap();
        }
        drop(c);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn files_belong_to_the_source_package() {
        let bash = header(
            &[
                (NAME, &["bash"]),
                (SOURCE_RPM, &["bash-completion-5.2.15-3.fc38.src.rpm"]),
                (BASE_NAMES, &["bash", "README"]),
                (DIR_NAMES, &["/bin/", "/usr/share/doc/"]),
            ],
            &[(DIR_INDEXES, &[0, 1])],
        );
        let broken = [&bash[..6], &u32::MAX.to_be_bytes()].concat();
        let mut wild = bash.clone();
        wild[0..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let lost = header(
            &[(NAME, &["x"]), (BASE_NAMES, &["a"]), (DIR_NAMES, &["/"])],
            &[(DIR_INDEXES, &[7])],
        );
        let (owners, notes) = Fixture::default()
            .file("usr/lib/sysimage/rpm/rpmdb.sqlite", database(&[bash, broken, wild, lost]))
            .symlink("bin", "usr/bin")
            .file("usr/bin/bash", "x")
            .file("usr/share/doc/README", "x")
            .owners(&[]);
        for path in ["usr/bin/bash", "usr/share/doc/README"] {
            assert!(owners.contains(&format!("{path}=rpm:bash-completion")), "{owners:?}");
        }
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("3 entries"), "{notes:?}");
    }

    #[test]
    fn times_of_files_are_read() {
        let strings: [(u32, &[&str]); 3] =
            [(NAME, &["x"]), (BASE_NAMES, &["a", "b"]), (DIR_NAMES, &["/bin/", "/etc/"])];
        let numbers: [(u32, &[u32]); 2] =
            [(DIR_INDEXES, &[0, 1]), (FILE_MTIMES, &[1_700_000_000, 7])];
        let empty = header(&[(NAME, &["no-files"])], &[]);
        let database = database(&[header(&strings, &numbers), empty]);
        let fixture = Fixture::default().file("var/lib/rpm/rpmdb.sqlite", database);
        let (set, contents) = fixture.build();
        let times = times(&set, &contents, FOLDERS[0]).unwrap();
        assert_eq!(times, [(b"/bin/a".to_vec(), 1_700_000_000), (b"/etc/b".to_vec(), 7)]);
    }

    #[test]
    fn a_database_that_cannot_be_read_is_noted() {
        let (_, notes) = Fixture::default()
            .file("var/lib/rpm/rpmdb.sqlite", "this is no database, but it is long enough")
            .file("var/lib/rpm/Packages", "x")
            .owners(&[]);
        assert_eq!(notes.len(), 2, "{notes:?}");
    }
}
