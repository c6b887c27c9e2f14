//! Checking a store: reads every chunk, verifies every hash and follows every reference. Repair
//! removes what is damaged, so that images that are added later do not share damaged data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::encoding::{ChunkRuns, PackHeader};
use super::files::{self, State};
use super::gc::TableKey;
use super::marks::ChunkSet;
use super::record::{BlobRecord, LayerRecord, key, number_of};
use super::repair;
use super::table::{SCHEMA, Store};
use crate::base::error::{Context, Error, ErrorKind, Result};
use crate::base::progress::Progress;
use crate::base::text::count;
use crate::model::content::Budget;
use crate::model::digest::Digest;

/// Options of [`Store::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Rebuild every blob as well, and verify its digest.
    pub blobs: bool,
    /// Remove what is damaged.
    pub repair: bool,
}

/// The result of a check.
#[derive(Debug, Default, Serialize)]
pub struct CheckReport {
    /// Number of chunks that were read and verified.
    pub chunks: u64,
    /// Their size in bytes, uncompressed.
    pub chunk_bytes: u64,
    /// Bytes of them that no image uses; `gc` removes them.
    pub unused_bytes: u64,
    /// Number of images that were checked.
    pub images: u64,
    /// Number of blobs that were rebuilt and whose digests were verified.
    pub blobs: u64,
    /// Problems: a line for each damaged pack or file, and for each image that is incomplete because
    /// of it.
    pub problems: Vec<String>,
    /// Repairs that were made, a line each.
    pub repaired: Vec<String>,
    /// Number of incomplete images. Adding one again completes it.
    pub incomplete: u64,
}

/// Damage, by what has to be removed.
struct Damage {
    /// Numbers of the first chunks of damaged packs.
    packs: BTreeSet<u64>,
    /// Chunks that exist and are intact.
    intact: ChunkSet,
    records: bool,
    names: Vec<TableKey>,
    layers: BTreeSet<Digest>,
    /// Each with the problem.
    blobs: BTreeMap<Digest, String>,
}

impl Store {
    /// Checks the store in `dir`. Packs that were read are cached on `budget`. Runs on the current
    /// rayon pool.
    ///
    /// # Errors
    /// If the store does not exist or can't be read, or another process writes to it during a repair.
    /// Damage is no error: it is listed in the report.
    pub fn check(
        dir: &Path,
        options: CheckOptions,
        budget: &Arc<Budget>,
        progress: &dyn Progress,
    ) -> Result<CheckReport> {
        let open = || -> Result<Self> {
            let store = if options.repair { Self::open_existing } else { Self::open_read };
            let store = store(dir, budget)?;
            store.db.verify()?;
            Ok(store)
        };
        let mut checked = CheckReport::default();
        let store = match open() {
            Err(e) if e.kind() == ErrorKind::Malformed => {
                checked.problems.push(finding(&e));
                if !options.repair {
                    return Ok(checked);
                }
                checked.repaired.push(repair::rebuild_index(dir)?);
                open()?
            }
            store => store?,
        };
        store.check_all(options, &mut checked, progress)?;
        Ok(checked)
    }

    pub(super) fn check_all(
        &self,
        options: CheckOptions,
        checked: &mut CheckReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        let packs = self.headers()?;
        let mut damage = Damage {
            packs: BTreeSet::new(),
            intact: ChunkSet::new(self.limit()),
            records: false,
            names: Vec::new(),
            layers: BTreeSet::new(),
            blobs: BTreeMap::new(),
        };
        damage.records = self.check_records(checked)?;
        self.check_packs(&packs, checked, &mut damage, progress)?;
        self.check_names(&packs, checked, &mut damage)?;
        self.check_blobs(options.blobs, checked, &mut damage, progress)?;
        let (mut marks, mut used) = (ChunkSet::new(self.limit()), BTreeSet::new());
        for (_, image) in self.image_records()? {
            checked.images += 1;
            used.extend(image.blobs.iter().copied());
            let mut bad = Vec::new();
            for digest in &image.blobs {
                match self.known_blob(digest) {
                    Ok(Some(record)) if !damage.blobs.contains_key(digest) => {
                        record.recipe.chunks().into_iter().for_each(|c| marks.add_all(c));
                        if let Some(diff_id) = record.recipe.diff_id() {
                            let layer = self.layer(diff_id)?;
                            self.layer_chunks(&layer, &mut |c| marks.add_all(c))?;
                        }
                    }
                    Err(e) if !is_damage(&e) => return Err(e),
                    _ => bad.push(digest),
                }
            }
            if bad.is_empty() {
                continue;
            }
            checked.incomplete += 1;
            let missing = format!("blob {} is missing", bad[0]);
            checked.problems.push(format!(
                "image {} can't be extracted: damaged or missing are {} of {}: {}; {}add it again",
                image.label(),
                bad.len(),
                count(image.blobs.len() as u64, "blob"),
                damage.blobs.get(bad[0]).unwrap_or(&missing),
                if options.repair { "" } else { "after `relayer store check --repair`, " }
            ));
        }
        // An image that is added later would share it. A damaged pack was reported already.
        if damage.packs.is_empty() {
            let unused = damage.blobs.iter().filter(|(digest, _)| !used.contains(digest));
            checked.problems.extend(unused.map(|(_, why)| format!("{why}; no image uses it")));
        }
        for (first, header) in &packs {
            let unused =
                (*first..).zip(&header.chunks).filter(|(number, _)| !marks.contains(*number));
            checked.unused_bytes += unused.map(|(_, (bytes, _))| u64::from(*bytes)).sum::<u64>();
        }
        if options.repair {
            self.repair(&packs, &damage, checked)?;
        }
        Ok(())
    }

    /// Returns whether records are damaged.
    fn check_records(&self, checked: &mut CheckReport) -> Result<bool> {
        let records = self.state().records;
        let (_, bad) = files::replay(&self.dir, records, &mut |_, _, _| ())?;
        if bad > 0 {
            let name = files::StoreFolder::Records.name(records.file);
            if let Some(now) = self.db.reopened()?
                && let Some(state) = now.json::<State>("state", b"")?
                && state.records.file != records.file
            {
                return Err(self.db.changed(&format!("{name} is missing")));
            }
            checked.problems.push(format!(
                "{name}: {}, whose contents the index still has",
                count(bad, "damaged record")
            ));
        }
        Ok(bad > 0)
    }

    fn check_packs(
        &self,
        packs: &[(u64, PackHeader)],
        checked: &mut CheckReport,
        damage: &mut Damage,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.begin("check", packs.iter().map(|(_, header)| header.frame_bytes).sum());
        // In batches, so that packs that the next ones refer to stay cached.
        for some in packs.chunks(4 * rayon::current_num_threads()) {
            let read: Vec<Result<()>> = some
                .par_iter()
                .with_max_len(1)
                .map(|(first, header)| self.check_pack(*first, header))
                .collect();
            for ((first, header), result) in some.iter().zip(read) {
                progress.advance(header.frame_bytes);
                if let Err(e) = result {
                    if !is_damage(&e) {
                        return Err(e);
                    }
                    let below = header.references.numbers().find_map(|number| {
                        let (other, _) = &packs[pack_of(packs, number)?];
                        damage.packs.contains(other).then_some(*other)
                    });
                    damage.packs.insert(*first);
                    checked.problems.push(match below {
                        Some(other) => {
                            format!("pack {first} can't be decompressed without pack {other}")
                        }
                        None => finding(&e),
                    });
                    continue;
                }
                for (number, (bytes, _)) in (*first..).zip(&header.chunks) {
                    if *bytes > 0 {
                        damage.intact.add(number);
                        checked.chunks += 1;
                        checked.chunk_bytes += u64::from(*bytes);
                    }
                }
            }
        }
        progress.end();
        Ok(())
    }

    /// Decodes a pack, which verifies the hashes of its chunks.
    fn check_pack(&self, first: u64, header: &PackHeader) -> Result<()> {
        let live = (first..).zip(&header.chunks).find(|(_, c)| c.0 > 0);
        live.map_or(Ok(()), |(number, _)| self.packs.get(&self.db, number).map(drop))
    }

    /// Checks that all entries of the index refer to intact chunks, and hashes to the right ones.
    /// Entries that refer to chunks of a damaged pack are removed with it and are no problem of their
    /// own.
    fn check_names(
        &self,
        packs: &[(u64, PackHeader)],
        checked: &mut CheckReport,
        damage: &mut Damage,
    ) -> Result<()> {
        let known = |number: u64| {
            let (first, header) = &packs[pack_of(packs, number)?];
            let (bytes, hash) = header.chunks.get((number - first) as usize)?;
            (*bytes > 0).then_some((*first, hash))
        };
        for table in ["chunks", "files", "paths"] {
            let mut wrong = 0;
            for entry in self.db.with_prefix(table, b"")? {
                let (key, value) = entry?;
                let chunks = if table == "chunks" {
                    let number = number_of(&value).ok();
                    let same = |n: &u64| known(*n).is_some_and(|(_, hash)| hash[..] == *key);
                    number.filter(same).map(|number| ChunkRuns(vec![(number, 1)]))
                } else {
                    ChunkRuns::parse(&value, self.limit())
                };
                let Some(chunks) = chunks else {
                    wrong += 1;
                    damage.names.push((table, key));
                    continue;
                };
                let mut lost = chunks.numbers().filter(|n| !damage.intact.contains(*n)).peekable();
                if lost.peek().is_some() {
                    let in_damaged = |n| known(n).is_some_and(|(p, _)| damage.packs.contains(&p));
                    wrong += u64::from(!lost.all(in_damaged));
                    damage.names.push((table, key));
                }
            }
            if wrong > 0 {
                checked.problems.push(format!(
                    "the index: {} of {table} with missing or wrong chunks",
                    count(wrong, "entry")
                ));
            }
        }
        Ok(())
    }

    /// Follows every layer and blob to its chunks, and verifies the digests of documents and tars.
    /// With `rebuild`, also rebuilds the blobs and verifies their digests.
    fn check_blobs(
        &self,
        rebuild: bool,
        checked: &mut CheckReport,
        damage: &mut Damage,
        progress: &dyn Progress,
    ) -> Result<()> {
        for item in self.db.with_prefix("layers", b"")? {
            let (key, value) = item?;
            let Some(diff_id) = digest_of(&key) else { continue };
            let layer: Result<LayerRecord> = self.db.parse(&value);
            let mut whole = true;
            let mut each = |chunks: &ChunkRuns| whole &= all_intact(chunks, &damage.intact);
            let read = layer.and_then(|layer| {
                each(&layer.steps);
                each(&layer.headers);
                self.layer_chunks(&layer, &mut each)
            });
            match read {
                Ok(()) if whole => {}
                Err(e) if !is_damage(&e) => return Err(e),
                _ => {
                    damage.layers.insert(diff_id);
                }
            }
        }
        let mut whole = Vec::new();
        for item in self.db.with_prefix("blobs", b"")? {
            let Some(digest) = digest_of(&item?.0) else { continue };
            match self.check_blob(&digest, damage) {
                Ok(record) => whole.push((digest, record)),
                Err(e) if !is_damage(&e) => return Err(e),
                Err(e) => drop(damage.blobs.insert(digest, finding(&e))),
            }
        }
        progress.begin("verify", whole.iter().map(|(_, record)| record.bytes).sum());
        let one = |(digest, record): &(Digest, BlobRecord)| {
            let result = self.check_contents(digest, record, rebuild);
            progress.advance(record.bytes);
            result
        };
        // Encoders have their own threads, and memory for each.
        let results: Vec<Result<()>> = if rebuild {
            whole.iter().map(one).collect()
        } else {
            whole.par_iter().with_max_len(1).map(one).collect()
        };
        progress.end();
        for ((digest, _), result) in whole.into_iter().zip(results) {
            match result {
                Ok(()) => checked.blobs += u64::from(rebuild),
                Err(e) if !is_damage(&e) => return Err(e),
                Err(e) => drop(damage.blobs.insert(digest, finding(&e))),
            }
        }
        Ok(())
    }

    /// Checks that everything a blob is rebuilt from exists.
    fn check_blob(&self, digest: &Digest, damage: &Damage) -> Result<BlobRecord> {
        let record = self.blob(digest)?;
        let lost = |what: String| Err(Error::malformed(format!("blob {digest}: {what}")));
        if record.recipe.chunks().is_some_and(|c| !all_intact(c, &damage.intact)) {
            return lost("part of it was in a damaged pack".into());
        }
        if let Some(diff_id) = record.recipe.diff_id() {
            if damage.layers.contains(diff_id) {
                return lost(format!("part of layer {diff_id} was in a damaged pack"));
            }
            self.layer(diff_id)?;
        }
        Ok(record)
    }

    /// Rebuilds a blob, or with `rebuild` unset reads only its tar.
    fn check_contents(&self, digest: &Digest, record: &BlobRecord, rebuild: bool) -> Result<()> {
        match record.recipe.diff_id() {
            Some(diff_id) if !rebuild => self
                .verify_tar(diff_id, &self.layer(diff_id)?)
                .with_context(|| format!("blob {digest}")),
            _ => {
                let workers = rayon::current_num_threads() as u32;
                self.build_blob(digest, record, workers, std::io::sink()).map(drop)
            }
        }
    }

    /// Removes everything damaged, references before what they refer to, so that there is never a
    /// dangling one.
    fn repair(
        &self,
        packs: &[(u64, PackHeader)],
        damage: &Damage,
        checked: &mut CheckReport,
    ) -> Result<()> {
        let boxed = |d: &Digest| -> Box<[u8]> { d.as_bytes()[..].into() };
        let blobs = damage.blobs.keys().map(|d| ("blobs", boxed(d)));
        let layers = damage.layers.iter().map(|d| ("layers", boxed(d)));
        let names = damage.names.iter().cloned();
        self.delete(&blobs.chain(layers).chain(names).collect::<Vec<_>>())?;
        let bad: Vec<TableKey> =
            damage.packs.iter().map(|first| ("packs", key(*first)[..].into())).collect();
        self.delete(&bad)?;
        let mut done: BTreeMap<&str, usize> = BTreeMap::new();
        done.insert("packs", damage.packs.len());
        done.insert("layers", damage.layers.len());
        done.insert("blobs", damage.blobs.len());
        done.insert("entries of the index", damage.names.len());
        for (what, count) in done.into_iter().filter(|(_, count)| *count > 0) {
            checked.repaired.push(format!("removed {count} {what}"));
        }
        // If a chunk exists twice, its hash now refers to the other copy.
        let mut batch = self.batch();
        for (first, header) in packs.iter().filter(|(first, _)| !damage.packs.contains(first)) {
            for (number, (bytes, hash)) in (*first..).zip(&header.chunks) {
                if *bytes > 0 && self.db.get("chunks", hash)?.is_none() {
                    batch.put("chunks", hash, &key(number))?;
                }
            }
        }
        batch.write(true)?;
        if damage.records {
            self.rewrite_records()?;
            checked.repaired.push("rewrote the records".into());
        }
        self.db.flush_and_merge()
    }
}

/// Returns the position of the pack that has or would have a chunk.
fn pack_of(packs: &[(u64, PackHeader)], number: u64) -> Option<usize> {
    packs.partition_point(|pack| pack.0 <= number).checked_sub(1)
}

fn all_intact(chunks: &ChunkRuns, whole: &ChunkSet) -> bool {
    chunks.numbers().all(|number| whole.contains(number))
}

/// Formats an error without the repair hint, which is printed once for all problems.
fn finding(e: &Error) -> String {
    e.to_string().replace(&format!("; {}", SCHEMA.repair_hint), "")
}

/// Returns whether an error means damage, rather than a failure to read.
pub(super) fn is_damage(e: &Error) -> bool {
    e.io_kind().is_none()
        && matches!(e.kind(), ErrorKind::Malformed | ErrorKind::Mismatch | ErrorKind::NotFound)
}

fn digest_of(key: &[u8]) -> Option<Digest> {
    key.try_into().ok().map(Digest::from_bytes)
}
