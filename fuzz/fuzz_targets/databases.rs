//! Any bytes as what says which packages are installed: dpkg's, apk's and rpm's databases, one header
//! of rpm's, and a Python RECORD. Analysis, and times that databases remember, must end without panic,
//! and every file has an owner.

#![no_main]

use std::io::Write;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use relayer::plan::analyze::analyze;
use relayer::model::content::Budget;
use relayer::model::digest::Digest;
use relayer::model::fileset::{Mtime, Xattrs};
use relayer::layers::flatten::{self, Keep};
use relayer::model::mtime::MtimePolicy;
use relayer::base::progress::Silent;
use relayer::plan::recorded_times;
use relayer::format::tar::{EntryKind, Metadata, Writer};
use relayer::transport::image::LayerBlob;

const MAX: u64 = 64 << 20;

/// An rpm database with one package, written by SQLite.
fn database(header: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let db = rusqlite::Connection::open(file.path()).unwrap();
    db.pragma_update(None, "synchronous", false).unwrap();
    db.pragma_update(None, "journal_mode", "off").unwrap();
    db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)", ()).unwrap();
    db.execute("INSERT INTO Packages (blob) VALUES (?1)", (header,)).unwrap();
    drop(db);
    std::fs::read(file.path()).unwrap()
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut tar, xattrs) = (Writer::new(Vec::new()), Xattrs::new());
    for (path, bytes) in files {
        let kind = EntryKind::File { size: bytes.len() as u64, sparse: None };
        let (path, mtime) = (path.as_bytes(), Mtime { secs: 100, nanos: 0 });
        let metadata = Metadata { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: &xattrs };
        let mut file = tar.file(&metadata).unwrap();
        file.write_all(bytes).unwrap();
        file.finish().unwrap();
    }
    tar.finish().unwrap()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    // What stands before the first NUL, and behind it.
    let nul = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (first, second) = (&bytes[..nul], bytes.get(nul + 1..).unwrap_or_default());
    let made;
    let mut files: Vec<(&str, &[u8])> = match which % 6 {
        0 => vec![("var/lib/dpkg/status", first), ("var/lib/dpkg/info/p.list", second)],
        1 => vec![("var/lib/dpkg/status.d/p", first), ("var/lib/dpkg/status.d/p.md5sums", second)],
        2 => vec![("lib/apk/db/installed", bytes)],
        3 => vec![("usr/lib/python3/site-packages/p-1.dist-info/RECORD", bytes)],
        4 => vec![("var/lib/rpm/rpmdb.sqlite", bytes)],
        _ => {
            made = database(bytes);
            vec![("var/lib/rpm/rpmdb.sqlite", &made)]
        }
    };
    files.extend([("usr/bin/p", &b"x"[..]), ("usr/lib/python3/site-packages/p/a.py", b"x")]);
    let tar = layer(&files);
    let source = Arc::new(tar.clone());
    let budget = Budget::new(MAX, None);
    let blob =
        LayerBlob::undescribed("layer".into(), Digest::of(&tar), source, MAX, budget.windows())
            .unwrap();
    let layers = [blob];
    let read = flatten::read(&layers, Keep::Contents, MAX, &budget, &Silent).unwrap();
    let mut flat = read.flatten().unwrap();
    let analysis = analyze(&flat.rootfs, &[]).unwrap();
    assert_eq!(analysis.owner.len(), flat.rootfs.files.inodes().len());
    assert!(analysis.owner.iter().all(|owner| owner.index() < analysis.components.len()));
    recorded_times::apply(MtimePolicy::Zero, &mut flat.rootfs, &budget).unwrap();
});
