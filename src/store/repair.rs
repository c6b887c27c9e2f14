//! Rebuilding the index from packs and records.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::encoding::{PackHeader, PackLocation};
use super::entry;
use super::files::{self, FileEnd, RecordWriter, State, StoreFolder};
use super::record::{ImageRecord, key};
use super::table::{SCHEMA, index_keys};
use crate::base::database::Db;
use crate::base::error::{Context, Error, Result};
use crate::base::text::count;

/// Number of entries that are written together.
const BATCH: usize = 10_000;

/// Rebuilds the index of the store in `dir`. Returns what was found, for the user.
pub(super) fn rebuild_index(dir: &Path) -> Result<String> {
    if StoreFolder::Packs.list(dir)?.is_empty() && StoreFolder::Records.list(dir)?.is_empty() {
        return Err(Error::malformed(format!(
            "{} has neither packs nor records to rebuild the index from",
            dir.display()
        )));
    }
    let mut said = String::new();
    Db::rebuild(SCHEMA, dir, |db| {
        let packs = packs(dir)?;
        let (records, next, damaged) = records(dir)?;
        let images = records.keys().filter(|(table, _)| *table == "images").count();
        let packs_found = count(packs.len() as u64, "pack");
        said = format!("rebuilt the index: {packs_found}, {}", count(images as u64, "image"));
        if damaged > 0 {
            let records = count(damaged, "damaged record");
            let _ = write!(said, "; the contents of {records} are lost");
        }
        let last = |folder: StoreFolder| -> Result<u64> {
            Ok(folder.list(dir)?.last().map_or(0, |(number, _)| *number))
        };
        let ends = packs.iter().map(|(first, header)| first + header.chunks.len() as u64);
        let new = |file: u64| FileEnd { file: file + 1, end: 0 };
        let mut state = State {
            next: ends.max().unwrap_or(0).max(next),
            packs: new(last(StoreFolder::Packs)?),
            records: new(last(StoreFolder::Records)?),
        };
        fill(dir, db, &packs, &records, &mut state)
    })?;
    Ok(said)
}

/// The newest recorded values, by table and key.
type Records = BTreeMap<(&'static str, Box<[u8]>), Box<[u8]>>;

fn fill(
    dir: &Path,
    db: &Db,
    packs: &[(u64, PackHeader)],
    records: &Records,
    state: &mut State,
) -> Result<()> {
    for (first, header) in packs {
        let mut batch = db.batch();
        batch.put("packs", &key(*first), &header.to_value())?;
        for (number, (bytes, hash)) in (*first..).zip(&header.chunks) {
            if *bytes > 0 {
                batch.put("chunks", hash, &key(number))?;
            }
        }
        batch.write(false)?;
    }
    let mut batch = db.batch();
    let mut recorded = RecordWriter::new(dir, state);
    for (i, ((table, key), value)) in records.iter().enumerate() {
        batch.put(table, key, value)?;
        recorded.put(table, key, value)?;
        if *table == "images" {
            let image: ImageRecord = db.parse(value)?;
            for name in index_keys(&image) {
                batch.put("names", &name, key)?;
            }
        }
        if i % BATCH == BATCH - 1 {
            std::mem::replace(&mut batch, db.batch()).write(false)?;
        }
    }
    recorded.finish()?;
    batch.put_json("state", b"", state)?;
    batch.write(true)
}

/// Returns the packs of all files; if there are several versions of one, the newest. A pack whose
/// references are missing was removed before, and is left out.
fn packs(dir: &Path) -> Result<Vec<(u64, PackHeader)>> {
    let mut found = BTreeMap::new();
    for (file, _) in StoreFolder::Packs.list(dir)? {
        let path = StoreFolder::Packs.path(dir, file);
        // Damaged entries were reported already, or will be when a chunk of theirs is missing.
        entry::scan(&path, u64::MAX, &mut |_, entry| {
            let place = PackLocation { file, offset: entry.offset };
            if let Some((first, header)) = PackHeader::parse_head(&entry.head, place) {
                found.insert(first, header);
            }
        })
        .with_context(|| format!("reading {}", path.display()))?;
    }
    let mut packs: Vec<(u64, PackHeader)> = Vec::new();
    for (first, header) in found {
        let there = |number: u64| {
            let at = packs.partition_point(|(first, _)| *first <= number);
            let Some((first, header)) = at.checked_sub(1).map(|at| &packs[at]) else {
                return false;
            };
            header.chunks.get((number - first) as usize).is_some_and(|(bytes, _)| *bytes > 0)
        };
        let above = packs.last().is_none_or(|(f, h)| f + h.chunks.len() as u64 <= first);
        if above && header.references.numbers().all(there) {
            packs.push((first, header));
        }
    }
    Ok(packs)
}

/// Returns the recorded values, the next chunk number, and the number of damaged records. If a rewrite
/// of the records was interrupted there are two files, and the newer one has a part of what the older
/// one has.
fn records(dir: &Path) -> Result<(Records, u64, u64)> {
    let (mut records, mut next, mut damaged) = (Records::new(), 0, 0);
    for (file, end) in StoreFolder::Records.list(dir)? {
        let (limit, bad) = files::replay(dir, FileEnd { file, end }, &mut |table, key, value| {
            let key = (table, key.into());
            match value {
                Some(value) => records.insert(key, value.into()),
                None => records.remove(&key),
            };
        })?;
        next = next.max(limit);
        damaged += bad;
    }
    Ok((records, next, damaged))
}
