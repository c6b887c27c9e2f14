//! Reads a layer like a client that loads it in pieces. Tests and the fuzzer use it. It is written from
//! the description of the format, and shares no code with the encoder.

use std::collections::BTreeMap;

use serde_json::Value;

/// Functions that the caller supplies.
pub(super) struct Tools {
    /// Decompresses zstd frames.
    pub(super) decode: fn(&[u8]) -> Vec<u8>,
    /// Returns the `sha256:…` digest of bytes.
    pub(super) sha256: fn(&[u8]) -> String,
}

/// Checks that the frames of `blob` are the tar, that the table of contents leads to every file, and that
/// tar-split and files rebuild the tar. Returns the rows of the table, or none if there is no table.
pub(super) fn check(
    tar: &[u8],
    blob: &[u8],
    annotations: &BTreeMap<String, String>,
    tools: &Tools,
) -> Vec<Value> {
    assert!((tools.decode)(blob) == tar, "the frames are not the tar");
    if annotations.is_empty() {
        return Vec::new();
    }
    let stated = |key: &str| &annotations[&format!("io.github.containers.zstd-chunked.{key}")];
    let numbers = |key: &str| -> Vec<u64> {
        stated(key).split(':').map(|n| n.parse().expect("a number")).collect()
    };
    let (toc_at, split_at) = (numbers("manifest-position"), numbers("tarsplit-position"));
    let positions = [&toc_at[..], &split_at].concat();
    let footer = &blob[blob.len() - 72..];
    let footer_head = [0x50, 0x2a, 0x4d, 0x18, 64, 0, 0, 0];
    assert_eq!((&footer[..8], &footer[64..]), (&footer_head[..], &b"GNUlInUx"[..]));
    let words = footer[8..64].chunks(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight")));
    assert_eq!(words.collect::<Vec<_>>(), positions);
    assert_eq!(toc_at[3], 1);

    let skippable = |at: &[u64]| -> (&[u8], Vec<u8>) {
        let (start, bytes) = (at[0] as usize, at[1] as usize);
        let head = &blob[start - 8..start];
        assert_eq!(head[..4], footer_head[..4]);
        assert_eq!(head[4..], (bytes as u32).to_le_bytes());
        let frame = &blob[start..start + bytes];
        let text = (tools.decode)(frame);
        assert_eq!(text.len() as u64, at[2]);
        (frame, text)
    };
    let (toc, text) = skippable(&toc_at);
    assert_eq!(&(tools.sha256)(toc), stated("manifest-checksum"));
    let toc: Value = serde_json::from_slice(&text).expect("the TOC is JSON");
    assert_eq!(toc["version"], 1);
    let (split, lines) = skippable(&split_at);
    assert_eq!(toc["tarSplitDigest"], (tools.sha256)(split));
    let rows = toc["entries"].as_array().expect("entries");
    let files = files(blob, rows, toc_at[0] - 8, tools);

    let mut again = Vec::new();
    let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    for (position, line) in lines.enumerate() {
        let line: Value = serde_json::from_slice(line).expect("a line of tar-split is JSON");
        assert_eq!(line["position"], position);
        match (&line["type"], &line["payload"]) {
            (Value::Number(n), Value::String(payload)) if n.as_u64() == Some(2) => {
                again.extend(base64(payload));
            }
            (_, payload) => {
                let file = &files[line["name"].as_str().expect("a name")];
                assert_eq!(line["size"].as_u64().unwrap_or(0), file.len() as u64);
                assert_eq!(payload.is_null(), file.is_empty());
                again.extend(file);
            }
        }
    }
    assert!(again == tar, "the tar-split gives another tar");
    rows.clone()
}

/// Returns the data of every entry, from its chunks.
fn files(blob: &[u8], rows: &[Value], end: u64, tools: &Tools) -> BTreeMap<String, Vec<u8>> {
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(0);
    let mut files = BTreeMap::new();
    let mut rest = rows;
    while let Some(row) = rest.first() {
        let more = rest[1..].iter().take_while(|r| r["type"] == "chunk").count();
        let (group, after) = rest.split_at(1 + more);
        rest = after;
        let mut data = Vec::new();
        for (i, chunk) in group.iter().enumerate().filter(|_| number(row, "size") > 0) {
            assert_eq!(chunk["name"], row["name"]);
            assert_eq!(number(chunk, "chunkOffset"), data.len() as u64);
            let next = group.get(i + 1).map_or(number(row, "endOffset"), |r| number(r, "offset"));
            assert!(next <= end);
            let plain = (tools.decode)(&blob[number(chunk, "offset") as usize..next as usize]);
            if more > 0 {
                assert_eq!(number(chunk, "chunkSize"), plain.len() as u64);
                assert_eq!(chunk["chunkDigest"], (tools.sha256)(&plain));
            }
            if chunk["chunkType"] == "zeros" {
                assert!(plain.iter().all(|b| *b == 0));
            }
            data.extend(plain);
        }
        assert_eq!(number(row, "size"), data.len() as u64);
        let last = group.last().expect("at least the first");
        assert_eq!(number(last, "endOffset"), number(row, "endOffset"));
        if !data.is_empty() {
            assert_eq!(row["digest"], (tools.sha256)(&data));
        }
        let name = row["name"].as_str().expect("a name").to_owned();
        assert!(files.insert(name, data).is_none(), "a name comes twice");
    }
    files
}

fn base64(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.chars().filter_map(|c| digits.find(c)) {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}
