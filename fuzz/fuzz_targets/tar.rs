//! Any bytes as a tar archive: the reader must end without panic, and what it gives must survive
//! being written and read again.

#![no_main]

use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use relayer::format::tar::{TarEntry, EntryKind, Metadata, Reader, Streaming, Writer};

/// Entries with their dense data; `None` where the archive ends in an error.
fn read(bytes: &[u8]) -> Option<Vec<(TarEntry, Vec<u8>)>> {
    let mut reader = Reader::new(Streaming::new(bytes));
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        assert!(entry.data_offset >= entry.header_offset + 512);
        let mut data = Vec::new();
        reader.data().read_to_end(&mut data).ok()?;
        assert_eq!(data.len() as u64, entry.stored);
        if let EntryKind::File { size, sparse: Some(runs) } = &entry.kind {
            let ends = runs.iter().map(|(offset, length)| offset + length);
            assert!(ends.max().unwrap_or(0) <= *size);
            assert_eq!(runs.iter().map(|r| r.1).sum::<u64>(), entry.stored);
        }
        all.push((entry, data));
    }
    Some(all)
}

fuzz_target!(|bytes: &[u8]| {
    let Some(entries) = read(bytes) else { return };
    let mut writer = Writer::new(Vec::new());
    let mut written = Vec::new();
    for (entry, data) in &entries {
        let kind = match &entry.kind {
            EntryKind::File { .. } => EntryKind::File { size: entry.stored, sparse: None },
            kind => kind.clone(),
        };
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let m = Metadata {
            path,
            kind: kind.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        let Ok(mut file) = writer.file(&m) else { return };
        file.write_all(data).unwrap();
        file.finish().unwrap();
        written.push((path.to_vec(), kind, entry));
    }
    let again = read(&writer.finish().unwrap()).expect("what we write can be read");
    assert_eq!(again.len(), written.len());
    for ((found, data), ((path, kind, entry), (_, old))) in
        again.iter().zip(written.iter().zip(&entries))
    {
        let found_path = match kind {
            EntryKind::Dir => found.path.strip_suffix(b"/").unwrap_or(&found.path),
            _ => &found.path,
        };
        // The root is written as ".".
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        assert_eq!(found_path, path);
        assert_eq!(&found.kind, kind);
        assert_eq!((found.mode, found.uid, found.gid), (entry.mode, entry.uid, entry.gid));
        assert_eq!((found.mtime, &found.xattrs), (entry.mtime, &entry.xattrs));
        assert_eq!(data, old);
    }
});
