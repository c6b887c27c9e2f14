//! Finds out how a blob was compressed by compressing its content again.

use std::io::{self, Write};
use std::sync::Arc;

use crate::base::error::{Error, Result, if_valid};
use crate::format::codec::{Compression, Encoder, Format};
use crate::model::content::{ReadAt, Source, SourceReader};

/// Returns the compression that turns `tar` of `size` bytes into exactly `blob`, or `None` if relayer
/// has none. `recorded` is the compression that the image's annotations state. It is tried first.
///
/// # Errors
/// If a source can't be read.
pub fn find(
    recorded: Option<Compression>,
    format: Format,
    blob: &Source,
    tar: &dyn ReadAt,
    size: u64,
    workers: u32,
) -> Result<Option<Compression>> {
    let usual: &[&str] = match format {
        Format::Plain => return Ok(Some(Compression::None)),
        Format::Gzip => &["gzip"],
        Format::Zstd => &["zstd", "zstd:chunked"],
    };
    let mut all: Vec<Compression> = recorded.into_iter().collect();
    for name in usual {
        let compression = Compression::new(name, None, None)?;
        all.retain(|other| *other != compression);
        all.push(compression);
    }
    for compression in all {
        let comparer = Comparer { blob: Arc::clone(blob), at: 0, buf: Vec::new() };
        let mut encoder = Encoder::new(comparer, &compression, workers, size)?;
        // The comparer fails at the first difference, which ends the copy early.
        let copied = io::copy(&mut SourceReader::new(tar, 0, size), &mut encoder);
        let finished = copied.map_err(Error::from).and_then(|_| encoder.finish());
        if if_valid(finished)?.is_some_and(|(comparer, _)| comparer.at == blob.size()) {
            return Ok(Some(compression));
        }
    }
    Ok(None)
}

/// A writer that compares its input with a blob and fails at the first difference.
struct Comparer {
    blob: Source,
    at: u64,
    buf: Vec<u8>,
}

impl Write for Comparer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buf.resize(bytes.len(), 0);
        self.blob.read_exact_at(&mut self.buf, self.at)?;
        if self.buf != bytes {
            return Err(Error::mismatch("the blob was compressed in a different way").into());
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_compression_with_identical_output_is_found() {
        let tar: Vec<u8> = (0..3_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for text in ["gzip:6", "gzip:9", "zstd:3", "zstd:7", "zstd:3:long=25", "none"] {
            let compression = Compression::parse(text).unwrap();
            let mut encoder = Encoder::new(Vec::new(), &compression, 2, tar.len() as u64).unwrap();
            encoder.write_all(&tar).unwrap();
            let mut blob = encoder.finish().unwrap().0;
            let format = Format::detect(&blob).unwrap();
            let size = tar.len() as u64;
            let found = |noted, blob: &Vec<u8>| {
                let blob: Source = Arc::new(blob.clone());
                find(noted, format, &blob, &tar, size, 1).unwrap()
            };
            assert_eq!(found(Some(compression), &blob), Some(compression), "{text}");
            let usual = ["gzip:6", "zstd:3", "none"].contains(&text);
            assert_eq!(found(None, &blob).is_some(), usual, "{text}");
            if text != "none" {
                blob.push(0);
                assert_eq!(found(Some(compression), &blob), None, "{text}");
                blob.pop();
                *blob.last_mut().unwrap() ^= 1;
                assert_eq!(found(Some(compression), &blob), None, "{text}");
            }
        }
    }
}
