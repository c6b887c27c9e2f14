//! The table of contents: the metadata of every entry, and the positions of the files' chunks.
//!
//! Clients use it instead of the tar. They compare it with the headers in the tar-split, field by
//! field, as Go's `archive/tar` reads them. So a layer gets a table only if both are certain to agree:
//! see [`Toc::entry`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;

use super::frames::Frame;
use super::packed::{Packed, base64};
use crate::base::error::Result;
use crate::format::tar::{self, EntryKind};
use crate::model::digest::Digest;
use crate::model::fileset::Mtime;
use crate::model::mtime::rfc3339;

/// A row. Its names are those of `FileMetadata` in containers/storage
/// (`pkg/chunked/internal/minimal/compression.go`). As there, zero values are left out.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TocRow {
    r#type: &'static str,
    name: String,
    #[serde(skip_serializing_if = "none")]
    link_name: String,
    #[serde(skip_serializing_if = "none")]
    mode: i64,
    #[serde(skip_serializing_if = "none")]
    size: u64,
    #[serde(skip_serializing_if = "none")]
    uid: u32,
    #[serde(skip_serializing_if = "none")]
    gid: u32,
    #[serde(rename = "modtime", skip_serializing_if = "none")]
    modified: String,
    #[serde(rename = "accesstime", skip_serializing_if = "none")]
    accessed: String,
    #[serde(rename = "changetime", skip_serializing_if = "none")]
    changed: String,
    #[serde(skip_serializing_if = "none")]
    dev_major: i64,
    #[serde(skip_serializing_if = "none")]
    dev_minor: i64,
    #[serde(skip_serializing_if = "none")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "none")]
    offset: u64,
    #[serde(skip_serializing_if = "none")]
    end_offset: u64,
    #[serde(skip_serializing_if = "none")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "none")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "none")]
    chunk_digest: Option<Digest>,
    #[serde(skip_serializing_if = "none")]
    chunk_type: &'static str,
}

fn none<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TocRow {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// A written chunk of a file.
pub(super) struct Placed {
    pub(super) frame: Frame,
    pub(super) bytes: u64,
    pub(super) hole: bool,
}

pub(super) struct Toc {
    out: Packed,
    rows: u64,
    /// Hashes of the names so far.
    names: BTreeSet<[u8; 16]>,
}

impl Toc {
    pub(super) fn new(level: i32) -> Result<Self> {
        let mut out = Packed::new(level)?;
        out.write_all(br#"{"version":1,"entries":["#)?;
        Ok(Self { out, rows: 0, names: BTreeSet::new() })
    }

    /// Returns the row of an entry, without its data. Returns `None` if clients would see a difference
    /// from the headers: for text that is not UTF-8, times that JSON can't express, and several names of
    /// one path (tar-split allows each path once).
    pub(super) fn entry(&mut self, entry: &tar::TarEntry, head: &[u8]) -> Option<TocRow> {
        let detail = tar::detail(head, entry)?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let name = text(&entry.path)?;
        let parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
        let parts: Vec<&str> = parts.collect();
        let hash = blake3::hash(parts.join("/").as_bytes());
        if parts.contains(&"..") || !self.names.insert(*hash.as_bytes().first_chunk()?) {
            return None;
        }
        let (r#type, link) = match &entry.kind {
            EntryKind::File { .. } => ("reg", None),
            EntryKind::HardLink { target } => ("hardlink", Some(target)),
            EntryKind::Symlink { target } => ("symlink", Some(target)),
            EntryKind::Dir => ("dir", None),
            EntryKind::Fifo => ("fifo", None),
            EntryKind::CharDevice { .. } => ("char", None),
            EntryKind::BlockDevice { .. } => ("block", None),
        };
        let xattr = |x: &(Box<[u8]>, Box<[u8]>)| Some((text(&x.0)?, base64(&x.1)));
        let other = |time: Option<Mtime>| time.map_or(Some(String::new()), rfc3339);
        Some(TocRow {
            r#type,
            name,
            link_name: link.map_or(Some(String::new()), |l| text(l))?,
            mode: detail.mode,
            size: if let EntryKind::File { size, .. } = entry.kind { size } else { 0 },
            uid: entry.uid,
            gid: entry.gid,
            modified: rfc3339(entry.mtime)?,
            accessed: other(detail.accessed)?,
            changed: other(detail.changed)?,
            dev_major: detail.device.0,
            dev_minor: detail.device.1,
            xattrs: entry.xattrs.iter().map(xattr).collect::<Option<_>>()?,
            ..TocRow::default()
        })
    }

    /// Adds the row of an entry, and one for each chunk after the first. The last row states where the
    /// file ends. Otherwise readers would use all frames up to the next file.
    pub(super) fn add(
        &mut self,
        mut row: TocRow,
        digest: Option<Digest>,
        chunks: &[Placed],
    ) -> Result<()> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return self.row(&row);
        };
        let chunk = |row: &mut TocRow, chunk: &Placed| {
            row.offset = chunk.frame.start;
            row.chunk_size = chunk.bytes;
            row.chunk_digest = chunk.frame.digest;
            row.chunk_type = if chunk.hole { "zeros" } else { "" };
        };
        row.digest = digest;
        row.offset = first.frame.start;
        row.end_offset = last.frame.end;
        if chunks.len() > 1 {
            chunk(&mut row, first);
        }
        self.row(&row)?;
        let mut next = TocRow { r#type: "chunk", name: row.name, ..TocRow::default() };
        let mut at = first.bytes;
        for (i, placed) in chunks.iter().enumerate().skip(1) {
            chunk(&mut next, placed);
            next.chunk_offset = at;
            next.end_offset = if i + 1 == chunks.len() { last.frame.end } else { 0 };
            self.row(&next)?;
            at += placed.bytes;
        }
        Ok(())
    }

    fn row(&mut self, row: &TocRow) -> Result<()> {
        if self.rows > 0 {
            self.out.write_all(b",")?;
        }
        self.rows += 1;
        Ok(serde_json::to_writer(&mut self.out, row).map_err(io::Error::from)?)
    }

    /// Returns the frame, and the size of the text in bytes.
    pub(super) fn finish(mut self, tar_split: Digest) -> io::Result<(Vec<u8>, u64)> {
        write!(self.out, r#"],"tarSplitDigest":"{tar_split}"}}"#)?;
        self.out.finish()
    }
}
