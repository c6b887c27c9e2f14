//! Any bytes as the index, the manifest or the config of a layout whose digests fit: opening,
//! reading and copying must end without panic.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use relayer::model::content::Budget;
use relayer::model::digest::Digest;
use relayer::model::fileset::{Mtime, Xattrs};
use relayer::model::oci::{Config, Index, Manifest, parse, to_json};
use relayer::base::progress::Silent;
use relayer::split::{self, SplitOptions};
use relayer::format::tar::{EntryKind, Metadata, Writer};
use relayer::transport::bundle::Bundle;
use relayer::transport::open::open_archive;
use relayer::transport::write::{Form, write_archive};

const MAX: u64 = 64 << 20;

fn descriptor(kind: &str, bytes: &[u8]) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
        Digest::of(bytes),
        bytes.len()
    )
}

fn archive(files: &[(String, &[u8])]) -> Vec<u8> {
    let (mut tar, xattrs) = (Writer::new(Vec::new()), Xattrs::new());
    for (path, bytes) in files {
        let kind = EntryKind::File { size: bytes.len() as u64, sparse: None };
        let (path, mtime) = (path.as_bytes(), Mtime::default());
        let metadata = Metadata { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: &xattrs };
        let mut file = tar.file(&metadata).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        file.finish().unwrap();
    }
    tar.finish().unwrap()
}

/// What is read must be written so that it reads the same.
fn comes_back(which: u8, bytes: &[u8]) {
    let again = |json: Vec<u8>, read: fn(&[u8]) -> Option<Vec<u8>>| {
        assert_eq!(read(&json), Some(json), "not what was written");
    };
    let read: fn(&[u8]) -> Option<Vec<u8>> = match which {
        0 => |bytes| to_json(&parse::<Index>(bytes, "it").ok()?).ok(),
        1 => |bytes| to_json(&parse::<Manifest>(bytes, "it").ok()?).ok(),
        _ => |bytes| Config::parse(bytes).ok()?.to_bytes().ok(),
    };
    if let Some(json) = read(bytes) {
        again(json, read);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, any)) = bytes.split_first() else { return };
    let which = which % 4;
    comes_back(which.min(2), any);
    // A layer without entries.
    let layer = [0; 1024];
    let good = format!(r#"{{"os":"linux","rootfs":{{"diff_ids":["{}"]}}}}"#, Digest::of(&layer));
    let config = if which >= 2 { any } else { good.as_bytes() };
    let (of_config, of_layer) =
        (descriptor("config.v1+json", config), descriptor("layer.v1.tar", &layer));
    let good = format!(r#"{{"schemaVersion":2,"config":{of_config},"layers":[{of_layer}]}}"#);
    let manifest = if which == 1 { any } else { good.as_bytes() };
    let of_manifest = descriptor("manifest.v1+json", manifest);
    let good = format!(r#"{{"schemaVersion":2,"manifests":[{of_manifest}]}}"#);
    let index = if which == 0 { any } else { good.as_bytes() };
    let listed = br#"[{"Config":"config.json","RepoTags":["a:b"],"Layers":["layer.tar"]}]"#;
    let mut files = vec![("index.json".to_owned(), index)];
    for bytes in [config, manifest, &layer] {
        files.push((format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes));
    }
    if which == 3 {
        files = vec![("manifest.json".into(), listed), ("config.json".into(), config)];
        files.push(("layer.tar".into(), &layer));
    }
    let budget = Budget::new(MAX, None);
    let Ok(opened) = open_archive(Arc::new(archive(&files)), None, None, None, &budget, MAX) else {
        return;
    };
    let write = |bundle: &Bundle| {
        let out = std::io::sink();
        let _ = write_archive(bundle, &bundle.names, None, Form::Universal, out, &Silent);
    };
    if let Ok(bundle) = Bundle::unchanged(&opened) {
        write(&bundle);
    }
    let options = SplitOptions { threads: 1, memory: MAX, max_size: MAX, ..SplitOptions::default() };
    if let Ok((bundle, _)) = split::split(&opened, None, &options, &budget, &Silent) {
        write(&bundle);
    }
});
