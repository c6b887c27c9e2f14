//! Any bytes as a tar archive, encoded as zstd:chunked: what our reader takes must come back from
//! the frames, and from the table of contents with the tar-split where there is one.

#![no_main]

#[path = "../../src/format/codec/chunked/check.rs"]
mod check;

use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;
use relayer::format::codec::{Compression, Encoder, decode};
use relayer::model::digest::Digest;
use relayer::format::tar::{Reader, Streaming};

const TOOLS: check::Tools = check::Tools {
    decode: |bytes| {
        let mut out = Vec::new();
        decode(bytes, &relayer::model::content::WindowBudget::new(1 << 30))
            .unwrap()
            .1
            .read_to_end(&mut out)
            .unwrap();
        out
    },
    sha256: |bytes| Digest::of(bytes).to_string(),
};

fn readable(tar: &[u8]) -> bool {
    let mut reader = Reader::new(Streaming::new(tar));
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fuzz_target!(|tar: &[u8]| {
    let compression = Compression::Chunked { level: 1 };
    let mut encoder = Encoder::new(Vec::new(), &compression, 1, tar.len() as u64).unwrap();
    let done = encoder.write_all(tar).map_err(Into::into).and_then(|()| encoder.finish());
    assert_eq!(done.is_ok(), readable(tar));
    if let Ok((blob, annotations)) = done {
        check::check(tar, &blob, &annotations, &TOOLS);
    }
});
