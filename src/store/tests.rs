//! Damaged and crafted values, concurrent processes and failing reads: nothing may panic, hang or return
//! wrong bytes.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{FileEnd, State};
use super::record::{BlobRecipe, BlobRecord};
use super::table::SCHEMA;
use super::{AddOptions, AddedImage, CheckOptions, CheckReport, Packing, RemoveOptions, Store};
use crate::base::database::Db;
use crate::base::error::{ErrorKind, Result};
use crate::base::progress::{Progress, Silent};
use crate::format::tar::{EntryKind, Metadata, Writer};
use crate::model::content::{Budget, ReadAt, WindowBudget};
use crate::model::digest::Digest;
use crate::model::fileset::{Mtime, Xattrs};
use crate::model::oci::{Annotations, Config};
use crate::transport::Transport;
use crate::transport::bundle::Bundle;
use crate::transport::image::{Image, LayerBlob, Opened};

fn layer(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    let xattrs = Xattrs::new();
    for (path, bytes) in files {
        let kind = EntryKind::File { size: bytes.len() as u64, sparse: None };
        let (path, mtime) = (path.as_bytes(), Mtime::default());
        let m = Metadata { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: &xattrs };
        let mut file = tar.file(&m).unwrap();
        file.write_all(bytes).unwrap();
        file.finish().unwrap();
    }
    tar.finish().unwrap()
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn image(version: u64) -> Opened {
    let mut large = noise(1, 900_000);
    large[500_000..500_100].copy_from_slice(&noise(version, 100));
    let tar = layer(&[("a/large", large), ("b", noise(2, 5000)), ("c", vec![version as u8; 700])]);
    let diff_id = Digest::of(&tar);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let config_bytes = config.into_bytes();
    let config = Config::parse(&config_bytes).unwrap();
    let source = Arc::new(tar);
    let windows = WindowBudget::new(0);
    let blob =
        LayerBlob::undescribed("layer 1".into(), diff_id, source, u64::MAX, &windows).unwrap();
    Opened {
        images: vec![Image {
            manifest: None,
            annotations: Annotations::new(),
            descriptor_annotations: Annotations::new(),
            platform: config.platform(),
            config_bytes,
            config,
            layers: vec![blob],
        }],
        index: None,
        names: vec![format!("app:v{version}")],
        transport: Transport::DockerArchive,
        notes: Vec::new(),
    }
}

/// Adds an image under its names.
fn add(store: &Store, opened: &Opened, now: u64, progress: &dyn Progress) -> Result<AddedImage> {
    let options = AddOptions { packing: packing(), max_size: 1 << 24, now };
    let bundle = Bundle::unchanged(opened)?;
    store.add(&bundle, &opened.images, options, &Budget::new(1 << 24, None), progress)
}

fn filled(dir: &Path) -> Store {
    let budget = Budget::new(1 << 24, None);
    let store = Store::open(dir, &budget).unwrap();
    for version in 0..3 {
        add(&store, &image(version), version, &Silent).unwrap();
    }
    store
}

/// Rebuilds every blob of every image, which gives the right bytes or an error.
fn build_all(store: &Store) -> Result<()> {
    for (_, image) in store.image_records()? {
        for digest in &image.blobs {
            let record = store.blob(digest)?;
            let made = store.build_blob(digest, &record, 1, Vec::new())?;
            assert_eq!(Digest::of(&made), *digest);
        }
    }
    Ok(())
}

fn check(store: &Store, blobs: bool) -> Result<CheckReport> {
    let mut checked = CheckReport::default();
    let options = CheckOptions { blobs, repair: false };
    store.check_all(options, &mut checked, &Silent).map(|()| checked)
}

fn packing() -> Packing {
    Packing::new(1, 1 << 28, 2)
}

fn remove(store: &Store, name: &str) {
    store.remove(&RemoveOptions { names: vec![name.into()], ..RemoveOptions::default() }).unwrap();
}

#[test]
fn a_later_version_is_stored_as_its_difference() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    build_all(&store).unwrap();
    let packs = store.headers().unwrap();
    assert!(packs[0].1.frame_bytes > 900_000 && packs[0].1.depth == 0);
    // Only a hundred bytes of a chunk of noise are new.
    assert!(packs[1].1.frame_bytes < 3000 && packs[1].1.depth == 1, "{}", packs[1].1.frame_bytes);
    let images = store.image_records().unwrap();
    let recipes = images[1].1.blobs.iter().map(|d| store.blob(d).unwrap().recipe);
    assert_eq!(recipes.filter(|r| matches!(r, BlobRecipe::Compressed { .. })).count(), 1);
    // And it stands alone once the pack that it was compressed against is removed.
    remove(&store, "v0");
    drop(store);
    let budget = Budget::new(1 << 24, None);
    Store::collect_garbage(dir.path(), packing(), &budget, &Silent).unwrap();
    let store = Store::open_read(dir.path(), &budget).unwrap();
    build_all(&store).unwrap();
    let checked = check(&store, true).unwrap();
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
}

#[test]
fn each_pack_is_read_once_whatever_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    for memory in [0, 1 << 30] {
        let store = Store::open_read(dir.path(), &Budget::new(memory, None)).unwrap();
        let packs = store.headers().unwrap().len();
        assert!(packs >= 3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| build_all(&store).unwrap());
            }
        });
        assert_eq!(store.packs.reads.into_inner(), packs);
    }
}

#[test]
fn no_room_to_keep_packs_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let budget = Budget::new(0, Some(dir.path().join("missing")));
    let store = Store::open_read(dir.path(), &budget).unwrap();
    build_all(&store).unwrap();
    let checked = check(&store, true).unwrap();
    assert!(checked.problems.is_empty() && checked.blobs > 0, "{:?}", checked.problems);
}

fn put(store: &Store, digest: &Digest, record: &BlobRecord) {
    let mut batch = store.batch();
    batch.put_json("blobs", digest.as_bytes(), record).unwrap();
    batch.write(false).unwrap();
}

#[test]
fn a_blob_of_other_bytes_is_found_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let opened = image(1);
    let layer = opened.images[0].layers[0].digest().unwrap();
    let config = store.blob(&Digest::of(&opened.images[0].config_bytes)).unwrap();
    put(&store, &layer, &config);
    for blobs in [false, true] {
        let problems = check(&store, blobs).unwrap().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("image app:v1 can't be extracted: "), "{problems:?}");
        assert!(problems[0].contains(&layer.to_string()), "{problems:?}");
    }
    remove(&store, "v1");
    let problems = check(&store, false).unwrap().problems;
    assert!(problems[0].ends_with("; no image uses it"), "{problems:?}");
    assert!(problems.len() == 1 && problems[0].contains(&layer.to_string()), "{problems:?}");
    add(&store, &opened, 9, &Silent).unwrap();
    build_all(&store).unwrap();
    assert!(check(&store, true).unwrap().problems.is_empty());
}

/// A source that returns other bytes once they are being stored, like a failing disk.
struct FailingDisk {
    bytes: Vec<u8>,
    at: usize,
    stored: AtomicBool,
}

impl ReadAt for FailingDisk {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_exact_at(buf, offset)?;
        let at = (self.at as u64).checked_sub(offset).map(|at| at as usize);
        if let Some(byte) = at.and_then(|at| buf.get_mut(at)) {
            *byte ^= u8::from(self.stored.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes.size()
    }
}

impl Progress for FailingDisk {
    fn begin(&self, what: &str, _: u64) {
        self.stored.store(what == "store", Ordering::Relaxed);
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}

#[test]
fn what_reads_back_otherwise_is_not_added() {
    let mut opened = image(1);
    let layer = &opened.images[0].layers[0];
    let mut bytes = vec![0; layer.source.size() as usize];
    layer.source.read_exact_at(&mut bytes, 0).unwrap();
    let end = bytes.len();
    // In a header, in a large file, in a small one, in the end of the tar.
    for at in [0, 20_000, end - 2500, end - 1] {
        let dir = tempfile::tempdir().unwrap();
        let disk =
            Arc::new(FailingDisk { bytes: bytes.clone(), at, stored: AtomicBool::new(false) });
        opened.images[0].layers[0].source = disk.clone();
        let budget = Budget::new(1 << 24, None);
        let store = Store::open(dir.path(), &budget).unwrap();
        let e = add(&store, &opened, 9, &*disk).unwrap_err();
        assert!(e.to_string().contains("the image was not added"), "{at}: {e}");
        assert!(store.image_records().unwrap().is_empty());
        // What is left of the attempt does no harm to the next.
        add(&store, &image(1), 9, &Silent).unwrap();
        build_all(&store).unwrap();
        assert!(check(&store, true).unwrap().problems.is_empty());
    }
}

#[test]
fn an_interrupted_rewrite_of_the_records_loses_nothing() {
    for half in [0, 1, 2] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let records = dir.path().join("records");
        // As when the disk was full, or the process was killed.
        let whole = std::fs::read(records.join("000001")).unwrap();
        std::fs::write(records.join("000002"), &whole[..whole.len() * half / 2]).unwrap();
        std::fs::remove_file(dir.path().join("index/CURRENT")).unwrap();
        let budget = Budget::new(1 << 24, None);
        let options = CheckOptions { blobs: true, repair: true };
        let checked = Store::check(dir.path(), options, &budget, &Silent).unwrap();
        assert_eq!((checked.images, checked.incomplete), (3, 0), "{checked:?}");
        build_all(&Store::open_read(dir.path(), &budget).unwrap()).unwrap();
    }
}

#[test]
fn a_state_that_can_not_be_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 24, None);
    drop(filled(dir.path()));
    let end = FileEnd { file: u64::MAX, end: 0 };
    let far = FileEnd { file: 1, end: u64::MAX };
    for state in [
        State { records: end, ..State::EMPTY },
        State { packs: end, ..State::EMPTY },
        State { packs: far, ..State::EMPTY },
        State { next: u64::MAX, ..State::EMPTY },
    ] {
        let db = Db::open_existing(SCHEMA, dir.path()).unwrap();
        let mut batch = db.batch();
        batch.put_json("state", b"", &state).unwrap();
        batch.write(true).unwrap();
        drop(db);
        let e = Store::open_read(dir.path(), &budget).err().unwrap();
        assert!(e.to_string().contains("exceeds the maximum"), "{e}");
    }
    std::fs::remove_file(dir.path().join("format")).unwrap();
    let options = CheckOptions { blobs: true, repair: true };
    let checked = Store::check(dir.path(), options, &budget, &Silent).unwrap();
    assert_eq!((checked.images, checked.incomplete), (3, 0), "{checked:?}");
}

#[test]
fn files_of_other_names_are_not_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let names = ["18446744073709551615", "+00001", "1", "0000001", "letter"];
    for path in ["packs", "records"].map(|folder| dir.path().join(folder)) {
        for name in names {
            std::fs::write(path.join(name), "dear").unwrap();
        }
    }
    std::fs::remove_file(dir.path().join("index/CURRENT")).unwrap();
    let budget = Budget::new(1 << 24, None);
    let options = CheckOptions { blobs: true, repair: true };
    let checked = Store::check(dir.path(), options, &budget, &Silent).unwrap();
    assert_eq!((checked.images, checked.incomplete), (3, 0), "{checked:?}");
    Store::collect_garbage(dir.path(), packing(), &budget, &Silent).unwrap();
    build_all(&Store::open_read(dir.path(), &budget).unwrap()).unwrap();
    assert!(names.iter().all(|name| dir.path().join("packs").join(name).exists()));
}

/// Creates a folder in the place of a file once the work begins.
struct BlockedPath(std::path::PathBuf);

impl Progress for BlockedPath {
    fn begin(&self, _: &str, _: u64) {
        std::fs::create_dir_all(&self.0).unwrap();
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}

#[test]
fn what_is_collected_while_it_is_read_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let budget = Budget::new(1 << 24, None);
    let reader = Store::open_read(dir.path(), &budget).unwrap();
    let store = Store::open(dir.path(), &budget).unwrap();
    for name in ["v0", "v1", "v2"] {
        remove(&store, name);
    }
    drop(store);
    Store::collect_garbage(dir.path(), packing(), &budget, &Silent).unwrap();
    drop(filled(dir.path()));
    for e in [build_all(&reader).unwrap_err(), check(&reader, false).unwrap_err()] {
        let text = e.to_string();
        assert!(e.kind() == ErrorKind::Refused && text.contains("run the command again"), "{text}");
        assert!(!text.contains("damage"), "{text}");
    }
    let again = Store::open_read(dir.path(), &budget).unwrap();
    build_all(&again).unwrap();
    // What is lost is damage.
    again.packs.forget_all();
    std::fs::remove_dir_all(dir.path().join("packs")).unwrap();
    let text = build_all(&again).unwrap_err().to_string();
    assert!(text.contains("the store is damaged: packs/"), "{text}");
    assert!(!check(&again, false).unwrap().problems.is_empty());
}

#[test]
fn a_file_of_packs_that_lost_its_end_is_repaired_and_written_on() {
    for left in [None, Some(0), Some(1000), Some(500_000)] {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path()));
        let path = dir.path().join("packs/000001");
        match left {
            Some(bytes) => File::options().write(true).open(path).unwrap().set_len(bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let budget = Budget::new(1 << 24, None);
        let options = CheckOptions { blobs: true, repair: true };
        let checked = Store::check(dir.path(), options, &budget, &Silent).unwrap();
        assert_eq!(checked.incomplete, 3, "{checked:?}");
        let store = Store::open(dir.path(), &budget).unwrap();
        for version in 0..3 {
            add(&store, &image(version), version, &Silent).unwrap();
        }
        build_all(&store).unwrap();
        assert!(check(&store, true).unwrap().problems.is_empty());
    }
}

#[test]
fn the_first_failure_is_reported_even_if_cleaning_up_fails_too() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let blocked = BlockedPath(dir.path().join("records/000002"));
    let budget = Budget::new(1 << 24, None);
    let e = Store::collect_garbage(dir.path(), packing(), &budget, &blocked).unwrap_err();
    assert!(e.to_string().contains("opening ") && e.io_kind().is_some(), "{e}");
}

#[test]
fn nothing_is_repaired_that_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    std::fs::create_dir(&index).unwrap();
    std::fs::write(index.join("CURRENT"), "of somebody else").unwrap();
    let options = CheckOptions { blobs: false, repair: true };
    let budget = Budget::new(1 << 24, None);
    let e = Store::check(dir.path(), options, &budget, &Silent).unwrap_err();
    assert!(e.to_string().contains("neither packs nor records"), "{e}");
    assert!(index.join("CURRENT").exists());
}

#[test]
fn changed_values_are_found_or_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let tables = ["packs", "chunks", "files", "paths", "layers", "blobs", "images"];
    let mut seed = 3u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % n
    };
    for round in 0..400 {
        let table = tables[round % tables.len()];
        let entries: Vec<_> =
            store.db.with_prefix(table, b"").unwrap().map(Result::unwrap).collect();
        let (key, whole) = &entries[below(entries.len())];
        let mut value = whole.to_vec();
        match below(4) {
            0 => value.truncate(below(value.len().max(1))),
            1 => value.extend_from_slice(&noise(round as u64, below(40))),
            _ => {
                for _ in 0..=below(3) {
                    let at = below(value.len().max(1));
                    if let Some(byte) = value.get_mut(at) {
                        *byte = [0, 1, 127, 255, *byte ^ 1, b'9'][below(6)];
                    }
                }
            }
        }
        let put = |value: &[u8]| {
            let mut batch = store.batch();
            batch.put(table, key, value).unwrap();
            batch.write(false).unwrap();
        };
        put(&value);
        store.packs.forget_all();
        let made = build_all(&store);
        let checked = check(&store, false);
        let _ = (store.list(), store.stats(dir.path()), store.find(Some("v1")));
        // Whatever keeps an image from coming out is named by a check.
        let quiet = checked.is_ok_and(|c| c.problems.is_empty());
        let deep = check(&store, true).is_ok_and(|c| c.problems.is_empty());
        assert!(made.is_ok() || !(quiet && deep), "{table} {key:?}: {made:?}");
        put(whole);
        store.packs.forget_all();
    }
    build_all(&store).unwrap();
}
