//! Checking a store: every byte is read, every hash computed, every name followed.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use super::gc::{Marks, count};
use super::record::{BlobRecord, PackHeader, Runs, number_of};
use super::table::Store;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::progress::Progress;

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct Checked {
    /// Chunks that were read and hashed.
    pub chunks: u64,
    /// Their bytes, before compression.
    pub chunk_bytes: u64,
    /// Of these, bytes that no image uses: `gc` takes them out.
    pub unused_bytes: u64,
    /// Images that were followed to their chunks.
    pub images: u64,
    /// Blobs that were made and whose digests were verified.
    pub blobs: u64,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl Store {
    /// Reads and hashes every chunk, follows every image to its chunks, and verifies the digests of
    /// its documents and uncompressed layers; with `blobs`, compresses those too and verifies the
    /// digests of the blobs. Damage is listed and is no error.
    pub fn check(&self, blobs: bool, progress: &dyn Progress) -> Result<Checked> {
        let mut checked = Checked::default();
        let packs = self.headers()?;
        let chunks = count(&packs);
        let mut whole = Marks::new(chunks);
        progress.begin("check", packs.iter().map(|(_, header)| header.frame).sum());
        // Batches keep the packs that the next ones refer to in memory.
        for some in packs.chunks(4 * rayon::current_num_threads()) {
            let read: Vec<Result<()>> =
                some.par_iter().map(|(first, header)| self.check_pack(*first, header)).collect();
            for ((first, header), result) in some.iter().zip(read) {
                progress.advance(header.frame);
                if let Err(e) = result {
                    checked.problems.push(e.to_string());
                    continue;
                }
                for (number, (bytes, _)) in (*first..).zip(&header.chunks) {
                    if *bytes > 0 {
                        whole.add(number);
                        checked.chunks += 1;
                        checked.chunk_bytes += u64::from(*bytes);
                    }
                }
            }
        }
        progress.end();
        self.check_names(&packs, &whole, &mut checked)?;
        let mut marks = Marks::new(chunks);
        let (images, mut broken, mut sound) = (self.images()?, BTreeMap::new(), Vec::new());
        for digest in images.iter().flat_map(|(_, i)| &i.blobs).collect::<BTreeSet<_>>() {
            match self.check_blob(digest, &whole, &mut marks) {
                Ok(record) => sound.push((*digest, record)),
                Err(e) => drop(broken.insert(*digest, e.to_string())),
            }
        }
        progress.begin("verify", sound.iter().map(|(_, record)| record.bytes).sum());
        let one = |(digest, record): &(Digest, BlobRecord)| {
            let result = self.check_contents(digest, record, blobs);
            progress.advance(record.bytes);
            result
        };
        // Encoders have threads of their own, and memory for each.
        let results: Vec<Result<()>> = if blobs {
            sound.iter().map(one).collect()
        } else {
            sound.par_iter().with_max_len(1).map(one).collect()
        };
        progress.end();
        for ((digest, _), result) in sound.iter().zip(results) {
            match result {
                Ok(()) => checked.blobs += u64::from(blobs),
                Err(e) => drop(broken.insert(*digest, e.to_string())),
            }
        }
        for (_, image) in images {
            checked.images += 1;
            let name = image.names.first().cloned().unwrap_or_else(|| image.root.digest.short());
            let problems = image.blobs.iter().filter_map(|digest| broken.get(digest));
            checked.problems.extend(problems.map(|e| {
                format!(
                    "image {name} can't be extracted: {e}; take it out with `relayer store rm` \
                     and `relayer store gc`, and add it again"
                )
            }));
        }
        for (first, header) in &packs {
            let unused = (*first..).zip(&header.chunks).filter(|(number, _)| !marks.has(*number));
            checked.unused_bytes += unused.map(|(_, (bytes, _))| u64::from(*bytes)).sum::<u64>();
        }
        Ok(checked)
    }

    /// Decodes a pack, which verifies its hashes.
    fn check_pack(&self, first: u64, header: &PackHeader) -> Result<()> {
        let live = (first..).zip(&header.chunks).find(|(_, c)| c.0 > 0);
        live.map_or(Ok(()), |(number, _)| self.packs.of(&self.db, number).map(drop))
    }

    /// Whatever names chunks must name whole ones, and a hash the chunk that has it.
    fn check_names(
        &self,
        packs: &[(u64, PackHeader)],
        whole: &Marks,
        checked: &mut Checked,
    ) -> Result<()> {
        let hash = |number: u64| {
            let (first, header) = packs[..packs.partition_point(|p| p.0 <= number)].last()?;
            header.chunks.get((number - first) as usize).map(|(_, hash)| hash)
        };
        for table in ["chunks", "files", "paths"] {
            for entry in self.db.below(table, b"")? {
                let chunks = entry.and_then(|(key, value)| {
                    if table != "chunks" {
                        let damaged = || self.db.damaged("an entry makes no sense");
                        return Runs::parse(&value, count(packs)).ok_or_else(damaged);
                    }
                    let number = number_of(&value)?;
                    let same = hash(number).is_some_and(|hash| hash[..] == *key);
                    let other = || self.db.damaged(&format!("chunk {number} has another hash"));
                    if same { Ok(Runs(vec![(number, 1)])) } else { Err(other()) }
                });
                let fine = chunks.and_then(|chunks| self.all_whole(&chunks, whole));
                if let Err(e) = fine {
                    checked.problems.push(format!("table {table}: {e}"));
                }
            }
        }
        Ok(())
    }

    fn all_whole(&self, chunks: &Runs, whole: &Marks) -> Result<()> {
        match chunks.numbers().find(|number| !whole.has(*number)) {
            Some(number) => Err(self.db.damaged(&format!("chunk {number} is missing or damaged"))),
            None => Ok(()),
        }
    }

    /// Follows a blob to its chunks.
    fn check_blob(&self, digest: &Digest, whole: &Marks, used: &mut Marks) -> Result<BlobRecord> {
        let record = self.blob(digest)?;
        let mut problem: Option<Error> = None;
        let mut each = |chunks: &Runs| {
            used.add_all(chunks);
            if let Err(e) = self.all_whole(chunks, whole) {
                problem.get_or_insert(e);
            }
        };
        record.made.chunks().into_iter().for_each(&mut each);
        if let Some(diff_id) = record.made.diff_id() {
            self.layer_chunks(&self.layer(diff_id)?, &mut each)?;
        }
        match problem {
            Some(e) => Err(e.context(format!("blob {digest}"))),
            None => Ok(record),
        }
    }

    /// Makes a blob, or only what it is compressed from unless `blobs` is set.
    fn check_contents(&self, digest: &Digest, record: &BlobRecord, blobs: bool) -> Result<()> {
        match record.made.diff_id() {
            Some(diff_id) if !blobs => {
                self.verify_tar(diff_id, &self.layer(diff_id)?).context(|| format!("blob {digest}"))
            }
            _ => {
                let workers = rayon::current_num_threads() as u32;
                self.make(digest, record, workers, std::io::sink()).map(drop)
            }
        }
    }
}
