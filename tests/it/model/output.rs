//! What relayer wrote, read by code that takes nothing but the one form it promises.

use std::collections::BTreeSet;
use std::io::Read;

use relayer::model::content::Source;
use relayer::model::digest::Digest;
use relayer::transport::bundle::Bundle;
use serde_json::Value;

use super::spec::{Tree, is_below, marker, parent};
use super::view::View;
use crate::image::{Item, digest};

pub fn bytes(source: &Source) -> Vec<u8> {
    let mut all = vec![0; source.size() as usize];
    source.read_exact_at(&mut all, 0).unwrap();
    all
}

/// A blob, whose digest is verified.
fn blob(bundle: &Bundle, descriptor: &Value) -> Vec<u8> {
    let stated = descriptor["digest"].as_str().unwrap();
    let found = bytes(&bundle.blobs[&stated.parse::<Digest>().unwrap()].source);
    assert_eq!(digest(&found), stated);
    assert_eq!(descriptor["size"], found.len());
    found
}

/// The layers' tars; digests, diff IDs and sizes must be right.
pub fn tars(bundle: &Bundle) -> Vec<Vec<u8>> {
    let root = bundle.root.as_ref().unwrap().digest.to_string();
    let manifest = bytes(&bundle.blobs[&root.parse::<Digest>().unwrap()].source);
    assert_eq!(digest(&manifest), root);
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config: Value = serde_json::from_slice(&blob(bundle, &manifest["config"])).unwrap();
    let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), ids.len());
    let history = config["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(|h| h["empty_layer"] != true).count(), ids.len());
    let plain = |(descriptor, id): (&Value, &Value)| {
        let blob = blob(bundle, descriptor);
        let mut tar = Vec::new();
        match descriptor["mediaType"].as_str().unwrap().rsplit(['.', '+']).next().unwrap() {
            "gzip" => {
                flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
            }
            "zstd" => tar = zstd::decode_all(&blob[..]).unwrap(),
            _ => tar = blob,
        }
        assert_eq!(digest(&tar), *id);
        tar
    };
    layers.iter().zip(ids).map(plain).collect()
}

/// The entries of a layer that relayer wrote.
pub fn items(mut tar: &[u8]) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    loop {
        let (head, rest) = tar.split_at(512);
        if head.iter().all(|b| *b == 0) {
            assert!(rest == [0; 512], "the end is two blocks of zeros");
            return items;
        }
        let text = |from: usize, to: usize| -> Vec<u8> {
            head[from..to].split(|b| *b == 0).next().unwrap().to_vec()
        };
        let number = |from: usize, to: usize| -> u64 {
            let (digits, end) = head[from..to].split_at(to - from - 1);
            assert_eq!(end, [0]);
            u64::from_str_radix(std::str::from_utf8(digits).unwrap(), 8).unwrap()
        };
        let sum: u64 = head
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum();
        assert_eq!(number(148, 156), sum, "checksum");
        assert_eq!(&head[257..265], b"ustar\x0000");
        assert!(head[265..329].iter().chain(&head[500..]).all(|b| *b == 0), "no names of owners");
        let record = |key: &str| records.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let size = record("size")
            .map_or_else(|| number(124, 136), |v| String::from_utf8(v).unwrap().parse().unwrap())
            as usize;
        let data = rest[..size].to_vec();
        tar = &rest[size.next_multiple_of(512)..];
        assert!(rest[size..size.next_multiple_of(512)].iter().all(|b| *b == 0), "padding");
        if head[156] == b'x' {
            assert!(records.is_empty());
            records = pax(&data);
            assert!(!records.is_empty());
            continue;
        }
        let (prefix, name) = (text(345, 500), text(0, 100));
        let short = if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() };
        let id = |key: &str, from: usize| {
            record(key).map_or_else(
                || number(from, from + 8),
                |v| String::from_utf8(v).unwrap().parse().unwrap(),
            )
        };
        let mtime = record("mtime")
            .map_or_else(|| number(136, 148).to_string(), |v| String::from_utf8(v).unwrap());
        let xattr = |(k, v): &(String, Vec<u8>)| {
            k.strip_prefix("SCHILY.xattr.").map(|k| (k.to_owned(), v.clone()))
        };
        items.push(Item {
            path: record("path").unwrap_or(short),
            kind: head[156],
            mode: number(100, 108) as u32,
            owner: (id("uid", 108), id("gid", 116)),
            mtime,
            xattrs: records.iter().filter_map(xattr).collect(),
            link: record("linkpath").unwrap_or_else(|| text(157, 257)),
            device: (number(329, 337) as u32, number(337, 345) as u32),
            data,
        });
        let known = |k: &str| {
            ["path", "linkpath", "size", "uid", "gid", "mtime"].contains(&k)
                || k.starts_with("SCHILY.xattr.")
        };
        assert!(records.iter().all(|(k, _)| known(k)), "{records:?}");
        records.clear();
    }
}

fn pax(mut data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    while !data.is_empty() {
        let digits = data.iter().position(|b| *b == b' ').unwrap();
        let length: usize = std::str::from_utf8(&data[..digits]).unwrap().parse().unwrap();
        let record = data[digits + 1..length].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|b| *b == b'=').unwrap();
        let key = String::from_utf8(record[..equals].to_vec()).unwrap();
        assert!(
            records.last().is_none_or(|(last, _)| *last < key),
            "records are sorted, none twice"
        );
        records.push((key, record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    records
}

/// Checks what is promised of each layer, and gives what they become.
pub fn view(tars: &[Vec<u8>]) -> Result<View, String> {
    let layers: Vec<Vec<Item>> = tars.iter().map(|tar| items(tar)).collect();
    for (i, layer) in layers.iter().enumerate() {
        well_formed(layer).map_err(|e| format!("layer {}: {e}", i + 1))?;
    }
    Ok(Tree::of(&layers)?.view())
}

/// No path twice, directories above each entry, hard links to what the layer has; files and their links last, and
/// before them all else in order of path.
fn well_formed(layer: &[Item]) -> Result<(), String> {
    let show = |item: &Item| item.path.escape_ascii().to_string();
    let mut dirs: BTreeSet<&[u8]> = BTreeSet::from([&b""[..]]);
    let mut files: BTreeSet<&[u8]> = BTreeSet::new();
    let plain = |item: &'_ Item| -> Vec<u8> {
        if item.path == b"./" {
            return Vec::new();
        }
        item.path.strip_suffix(b"/").unwrap_or(&item.path).to_vec()
    };
    let paths: Vec<Vec<u8>> = layer.iter().map(plain).collect();
    let is_file = |i: usize| layer[i].kind == b'0' && marker(&paths[i]).is_none();
    let first_file = (0..layer.len()).find(|i| is_file(*i)).unwrap_or(layer.len());
    for (i, item) in layer.iter().enumerate() {
        let path = &paths[i];
        let in_order = match i {
            0 => true,
            _ if i < first_file => paths[i - 1] < *path,
            _ => is_file(i) || item.kind == b'1',
        };
        if !in_order {
            return Err(format!("{} is out of order", show(item)));
        }
        if dirs.contains(&path[..]) && !path.is_empty() || files.contains(&path[..]) {
            return Err(format!("{} is there twice", show(item)));
        }
        if !path.is_empty() && !dirs.contains(parent(path)) {
            return Err(format!("{} has no directory", show(item)));
        }
        if item.kind == b'5' {
            dirs.insert(path);
        } else {
            files.insert(path);
        }
        if item.kind == b'1' && !files.contains(&item.link[..]) {
            return Err(format!("{} links to what the layer does not have before it", show(item)));
        }
        if item.xattrs.iter().any(|(name, _)| name.starts_with("trusted.overlay.")) {
            return Err(format!("{} has an attribute of a storage driver", show(item)));
        }
        if let Some((hidden, opaque)) = marker(path)
            && (opaque || paths.iter().any(|p| *p == hidden || is_below(p, &hidden)))
        {
            return Err(format!("{} hides what its layer has", show(item)));
        }
    }
    Ok(())
}
