//! Reads the headers of frames and blocks of a zstd blob, to find out what a client needs to decode it
//! ([RFC 8878 §3.1](https://www.rfc-editor.org/rfc/rfc8878#section-3.1)). Blocks state their size, so
//! nothing is decompressed.

use crate::model::content::ReadAt;

/// The frames of a blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FrameSummary {
    /// Number of frames with content.
    pub(crate) content: u64,
    /// Number of skippable frames.
    pub(crate) skippable: u64,
    /// Size of the largest window in bytes.
    pub(crate) window: u64,
}

/// Counts the frames of a blob that was decoded successfully before. Stops at the first invalid header.
pub(crate) fn frames(blob: &dyn ReadAt) -> FrameSummary {
    let mut found = FrameSummary::default();
    let mut headers = Headers { blob, page: Vec::new(), start: 0 };
    let mut at = 0;
    while let Some(next) = frame(&mut headers, at, &mut found) {
        at = next;
    }
    found
}

/// Reads a blob in small pages, since headers may be next to each other or far apart.
struct Headers<'a> {
    blob: &'a dyn ReadAt,
    page: Vec<u8>,
    start: u64,
}

impl Headers<'_> {
    /// Returns `max_bytes` bytes from offset `at`, or fewer at the end of the blob.
    fn bytes(&mut self, at: u64, max_bytes: usize) -> Option<&[u8]> {
        let left = self.blob.size().checked_sub(at)?;
        let end = at + left.min(max_bytes as u64);
        if at < self.start || end > self.start + self.page.len() as u64 {
            self.page.resize(left.min(1 << 12) as usize, 0);
            self.start = at;
            self.blob.read_exact_at(&mut self.page, at).ok()?;
        }
        self.page.get((at - self.start) as usize..(end - self.start) as usize)
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A frame with content.
    Content {
        /// Size of the header in bytes.
        bytes: u64,
        /// Size of the window in bytes.
        window: u64,
        checksum: bool,
    },
    /// A skippable frame, with its size in bytes including the header.
    Skippable(u64),
}

impl Head {
    /// Maximum size of the header of a frame with content, in bytes.
    pub(super) const MAX_BYTES: usize = 18;

    /// Parses a header. Returns `None` if it is invalid or incomplete.
    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let number = |at: usize, bytes: usize| {
            let mut number = [0; 8];
            number[..bytes].copy_from_slice(head.get(at..at + bytes)?);
            Some(u64::from_le_bytes(number))
        };
        let magic = number(0, 4)?;
        if magic & !15 == 0x184d_2a50 {
            return Some(Self::Skippable(8 + number(4, 4)?));
        }
        if magic != 0xfd2f_b528 {
            return None;
        }
        let flags = number(4, 1)?;
        let (single, checksum) = ((flags >> 5 & 1) as usize, flags >> 2 & 1 == 1);
        let dictionary = [0, 1, 2, 4][(flags & 3) as usize];
        let size_bytes = match flags >> 6 {
            0 => single,
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let descriptor = number(5, 1)?;
        let at = 6 - single + dictionary;
        let size = number(at, size_bytes)? + if size_bytes == 2 { 256 } else { 0 };
        let base = 1 << (10 + (descriptor >> 3));
        let window = if single == 1 { size } else { base + base / 8 * (descriptor & 7) };
        Some(Self::Content { bytes: (at + size_bytes) as u64, window, checksum })
    }
}

/// Counts one frame. Returns the offset of its end.
fn frame(blob: &mut Headers<'_>, start: u64, found: &mut FrameSummary) -> Option<u64> {
    let (bytes, checksum) = match Head::parse(blob.bytes(start, Head::MAX_BYTES)?)? {
        Head::Skippable(bytes) => {
            found.skippable += 1;
            return start.checked_add(bytes);
        }
        Head::Content { bytes, window, checksum } => {
            found.window = found.window.max(window);
            (bytes, checksum)
        }
    };
    found.content += 1;
    let mut at = start + bytes;
    loop {
        let [a, b, c] = *blob.bytes(at, 3)?.first_chunk()?;
        let header = u64::from(u32::from_le_bytes([a, b, c, 0]));
        let bytes = if header >> 1 & 3 == 1 { 1 } else { header >> 3 };
        at += 3 + bytes;
        if header & 1 == 1 {
            return Some(at + if checksum { 4 } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use zstd::zstd_safe::CParameter;

    use super::*;

    fn encode(plain: &[u8], set: &[CParameter]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        for p in set {
            encoder.set_parameter(*p).unwrap();
        }
        std::io::Write::write_all(&mut encoder, plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn frames_are_counted_and_their_windows_measured() {
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise.resize(2 << 20, 7);
        let wide = encode(&noise, &[CParameter::WindowLog(24), CParameter::ChecksumFlag(true)]);
        let narrow = encode(&noise, &[CParameter::WindowLog(17)]);
        let small = zstd::bulk::compress(&[1; 300], 1).unwrap();
        let skip = b"\x5f\x2a\x4d\x18\x04\0\0\0skip".to_vec();
        let blob = [&skip[..], &narrow, &wide, &skip, &small].concat();
        assert_eq!(frames(&blob), FrameSummary { content: 3, skippable: 2, window: 1 << 24 });
        assert_eq!(frames(&small), FrameSummary { content: 1, skippable: 0, window: 300 });
        assert_eq!(frames(&narrow).window, 1 << 17);
        assert_eq!(frames(&blob[..blob.len() - 1].to_vec()).content, 3);
        assert_eq!(frames(&b"no frame".to_vec()), FrameSummary::default());
    }
}
