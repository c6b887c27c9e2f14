//! rpm: the SQLite database of Fedora, RHEL 9 and SUSE.
//!
//! Each row is a package: a header blob as in a package file, but without the magic number. It is an
//! index of tags (<https://rpm-software-management.github.io/rpm/manual/format_header.html>). All
//! numbers are big endian. The component is the source package.

use std::io::{Read, Write};

use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{Claims, ComponentKind, Owner};
use crate::base::error::{Error, Result};
use crate::base::limits::{
    MAX_PACKAGES, MAX_PATH, MAX_RPM_DATABASE, MAX_RPM_FOLDERS, MAX_RPM_HEADER, MAX_SQLITE_HEAP,
    MAX_SQLITE_PROGRAM, MAX_SQLITE_STEPS, MAX_TEXT,
};
use crate::base::temporary::TemporaryFolder;
use crate::base::text::count;
use crate::model::fileset::{Inode, InodeKind};
use crate::model::rootfs::Rootfs;

/// Folders that may contain the database.
pub(crate) const FOLDERS: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];

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
            if claims.rootfs.files.position(&path(old)).is_some() {
                claims.note(
                    &path(old),
                    "is an rpm database in an old format that relayer can't read; files are grouped by \
                     folder",
                );
            }
        }
        let database = path("rpmdb.sqlite");
        if claims.rootfs.files.position(&database).is_none() {
            continue;
        }
        let mut broken = 0;
        let read = headers(claims.rootfs, folder, &mut |header| {
            broken += u64::from(claim_package(claims, header).is_none());
        });
        if let Err(e) = read {
            claims.broken(&database, "can't be read completely", e);
        }
        if broken > 0 {
            claims.note(&database, &format!("has {}", count(broken, "malformed package entry")));
        }
    }
}

/// Calls `take` with each header blob. For this, the database and its write-ahead log are copied to
/// temporary files.
fn headers(rootfs: &Rootfs, folder: &str, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let dir = TemporaryFolder::new()?;
    let mut size = 0;
    for name in ["rpmdb.sqlite", "rpmdb.sqlite-wal"] {
        let found = rootfs.files.get(format!("{folder}/{name}").as_bytes());
        let Some(Inode { kind: InodeKind::File(file), .. }) = found else { continue };
        if file.size > MAX_RPM_DATABASE {
            return Err(Error::limit(format!(
                "it has {} bytes, more than the limit of {MAX_RPM_DATABASE}",
                file.size
            )));
        }
        size += file.size;
        let mut out = std::fs::File::create(dir.path().join(name))?;
        std::io::copy(&mut rootfs.contents.open(file).take(MAX_RPM_DATABASE), &mut out)?;
        out.flush()?;
    }
    let mut connection = connect(&dir.path().join("rpmdb.sqlite")).map_err(sql)?;
    let mut steps = 0;
    let watch = move || {
        steps += 1;
        steps > MAX_SQLITE_STEPS / STEP
    };
    connection.progress_handler(STEP as i32, Some(watch)).map_err(sql)?;
    if !is_plain(&connection).map_err(sql)? {
        return Err(Error::malformed("it has no table Packages with a column blob"));
    }
    let mut query = connection.prepare("SELECT blob FROM Packages").map_err(sql)?;
    let mut rows = query.query([]).map_err(sql)?;
    let (mut count, mut left) = (0, size);
    while let Some(row) = rows.next().map_err(sql)? {
        count += 1;
        if count > MAX_PACKAGES {
            return Err(Error::limit(format!("it has more than {MAX_PACKAGES} packages")));
        }
        let header = row.get_ref(0).map_err(sql)?.as_blob().unwrap_or_default();
        // In a crafted database rows share pages, so its size alone does not limit the output.
        left = left
            .checked_sub(header.len() as u64)
            .ok_or_else(|| Error::malformed("its entries have more bytes than the file"))?;
        take(header);
    }
    Ok(())
}

/// Number of SQLite instructions between two checks of the limit.
const STEP: u64 = 10_000;

#[expect(clippy::needless_pass_by_value, reason = "used with `map_err`")]
fn sql(e: rusqlite::Error) -> Error {
    Error::malformed(format!("SQLite: {e}"))
}

/// Opens an untrusted database. Its schema comes with the image, so nothing in it may run code or take
/// unbounded memory.
fn connect(path: &std::path::Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_RPM_HEADER as i32)?;
    connection.set_limit(Limit::SQLITE_LIMIT_VDBE_OP, MAX_SQLITE_PROGRAM)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.pragma_update(None, "hard_heap_limit", MAX_SQLITE_HEAP)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Whether `Packages` is an ordinary table that contains the blobs. A view, a virtual table or a
/// generated column would be a program supplied by the image.
fn is_plain(connection: &Connection) -> rusqlite::Result<bool> {
    // This asks SQLite how it parsed the schema, instead of trusting the schema's own text.
    let table = "SELECT 1 FROM pragma_table_list('Packages') \
                 WHERE schema = 'main' AND type = 'table'";
    let column = "SELECT 1 FROM pragma_table_xinfo('Packages') WHERE name = 'blob' AND hidden = 0";
    let is = |query| connection.query_row(query, [], |_| Ok(())).optional();
    Ok(is(table)?.is_some() && is(column)?.is_some())
}

fn claim_package(claims: &mut Claims<'_>, blob: &[u8]) -> Option<()> {
    let header = Header::parse(blob)?;
    let name = match header.strings(SOURCE_RPM).and_then(|mut s| s.next()) {
        Some(source) => source_name(source),
        None => header.strings(NAME)?.next()?,
    };
    let mut package = Owner::new("rpm", name, ComponentKind::OsPackage)?;
    for path in header.paths() {
        let (dir, name) = path?;
        claims.claim_listed(dir, name, &mut package);
    }
    Some(())
}

/// Returns the paths and modification times that the database in `folder` records.
///
/// # Errors
/// If the database can't be read.
pub(crate) fn times(rootfs: &Rootfs, folder: &str) -> Result<Vec<(Vec<u8>, u32)>> {
    let (mut all, mut left) = (Vec::new(), MAX_TEXT as usize);
    headers(rootfs, folder, &mut |header| {
        let Some(header) = Header::parse(header) else { return };
        let Some(times) = header.numbers(FILE_MTIMES) else { return };
        for (path, time) in header.paths().zip(times) {
            let Some((dir, name)) = path.filter(|(dir, name)| dir.len() + name.len() <= MAX_PATH)
            else {
                continue;
            };
            // Stop when the paths exceed the limit: such a database is not useful.
            let Some(rest) = left.checked_sub(dir.len() + name.len()) else { return };
            left = rest;
            all.push(([dir, name].concat(), time));
        }
    })?;
    Ok(all)
}

/// Returns `bash` for `bash-5.2.15-3.fc38.src.rpm`. Version and release contain no dashes.
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

    /// Returns the type, count and data of a tag.
    fn find(&self, tag: u32) -> Option<(u32, usize, &'a [u8])> {
        let entry = self.index.chunks_exact(16).find(|e| be32(e, 0) == Some(tag))?;
        let data = self.data.get(be32(entry, 8)? as usize..)?;
        Some((be32(entry, 4)?, be32(entry, 12)? as usize, data))
    }

    /// Returns the folder and name of each file of a package. `None` for a file whose folder is missing.
    fn paths(&self) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> + use<'a> {
        let dirs = self.strings(DIR_NAMES).into_iter().flatten();
        let dirs: Vec<&[u8]> = dirs.take(MAX_RPM_FOLDERS).collect();
        let indexes = self.numbers(DIR_INDEXES).into_iter().flatten();
        let names = self.strings(BASE_NAMES).into_iter().flatten();
        names.zip(indexes).map(move |(name, index)| {
            let dir = dirs.get(index as usize)?;
            Some((*dir, name))
        })
    }

    /// Returns the strings of a tag (types 6, 8 and 9), or fewer than stated if the data ends.
    fn strings(&self, tag: u32) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let (kind, count, data) = self.find(tag)?;
        // The last piece follows the last NUL, and is not a string.
        let mut left = data.split(|b| *b == 0);
        matches!(kind, 6 | 8 | 9).then(|| std::iter::from_fn(move || left.next()).take(count))
    }

    /// Returns the 32-bit numbers of a tag (type 4).
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
    use crate::base::testing::cpu_seconds;

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
        assert!(notes[0].contains("3 malformed package entries"), "{notes:?}");
    }

    /// Schemas that would make SQLite run forever or use unlimited memory.
    #[test]
    fn a_database_can_run_nothing() {
        const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
        let made = |sql: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let c = Connection::open(&path).unwrap();
            c.execute_batch(sql).unwrap();
            drop(c);
            std::fs::read(path).unwrap()
        };
        let view = format!("CREATE VIEW Packages AS {ENDLESS} SELECT x'00' AS blob FROM c");
        let rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300000)";
        for (sql, why) in [
            (view.clone(), "no table Packages"),
            // A view that claims to be a table.
            (
                format!(
                    "{view}; PRAGMA writable_schema = 1; \
                     UPDATE sqlite_schema SET type = 'table', rootpage = 2"
                ),
                "SQLite: ",
            ),
            (
                "CREATE TABLE Packages (x, blob AS (hex(zeroblob(8000000)))); \
                 INSERT INTO Packages (x) VALUES (1)"
                    .into(),
                "no table Packages",
            ),
            ("CREATE VIRTUAL TABLE Packages USING fts5(blob)".into(), "no table Packages"),
            (
                format!(
                    "CREATE TABLE Packages (blob); INSERT INTO Packages {rows} SELECT x'' FROM c"
                ),
                "more than 200000 packages",
            ),
            (
                "CREATE TABLE Packages (blob); INSERT INTO Packages VALUES (zeroblob(17000000))"
                    .into(),
                "too big",
            ),
        ] {
            let begin = cpu_seconds();
            let (_, notes) =
                Fixture::default().file("var/lib/rpm/rpmdb.sqlite", made(&sql)).owners(&[]);
            assert!(notes[0].contains(why), "{sql}: {notes:?}");
            assert!(cpu_seconds() - begin < 20, "{sql}");
        }
    }

    #[test]
    fn joining_paths_takes_time_linear_in_the_database() {
        let names: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let long = "d".repeat(4_000_000);
        let one = header(
            &[(NAME, &["x"]), (BASE_NAMES, &names), (DIR_NAMES, &[&long])],
            &[(DIR_INDEXES, &vec![0; names.len()])],
        );
        let begin = cpu_seconds();
        Fixture::default().file("var/lib/rpm/rpmdb.sqlite", database(&[one])).owners(&[]);
        assert!(cpu_seconds() - begin < 10);
    }

    #[test]
    fn times_of_files_are_read() {
        let strings: [(u32, &[&str]); 3] =
            [(NAME, &["x"]), (BASE_NAMES, &["a", "b"]), (DIR_NAMES, &["/bin/", "/etc/"])];
        let numbers: [(u32, &[u32]); 2] =
            [(DIR_INDEXES, &[0, 1]), (FILE_MTIMES, &[1_700_000_000, 7])];
        let empty = header(&[(NAME, &["no-files"])], &[]);
        let database = database(&[header(&strings, &numbers), empty]);
        let rootfs = Fixture::default().file("var/lib/rpm/rpmdb.sqlite", database).build();
        let times = times(&rootfs, FOLDERS[0]).unwrap();
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
