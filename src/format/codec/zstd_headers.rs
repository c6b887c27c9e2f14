//! What a client must be able to do to decode a zstd blob, read from the headers of its frames and
//! blocks ([RFC 8878 §3.1](https://www.rfc-editor.org/rfc/rfc8878#section-3.1)). Nothing is
//! decompressed: blocks say how long they are.

use crate::model::content::ReadAt;

/// The frames of a blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Frames with content.
    pub(crate) content: u64,
    /// Frames without, which decoders pass over.
    pub(crate) skippable: u64,
    /// Bytes of the largest window.
    pub(crate) window: u64,
}

/// Counts the frames of a blob that has been decoded before; what can't be followed ends the count.
pub(crate) fn frames(blob: &dyn ReadAt) -> Frames {
    let mut found = Frames::default();
    let mut headers = Headers { blob, page: Vec::new(), start: 0 };
    let mut at = 0;
    while let Some(next) = frame(&mut headers, at, &mut found) {
        at = next;
    }
    found
}

/// The blob, read by small pages: headers may lie next to each other, or far apart.
struct Headers<'a> {
    blob: &'a dyn ReadAt,
    page: Vec<u8>,
    start: u64,
}

impl Headers<'_> {
    /// So many bytes from `at` on; fewer where the blob ends.
    fn bytes(&mut self, at: u64, most: usize) -> Option<&[u8]> {
        let left = self.blob.size().checked_sub(at)?;
        let end = at + left.min(most as u64);
        if at < self.start || end > self.start + self.page.len() as u64 {
            self.page.resize(left.min(1 << 12) as usize, 0);
            self.start = at;
            self.blob.read_exact_at(&mut self.page, at).ok()?;
        }
        self.page.get((at - self.start) as usize..(end - self.start) as usize)
    }
}

/// What the first bytes of a frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Content, behind a header of `bytes` bytes.
    Content {
        bytes: u64,
        /// Bytes that a decoder must hold of what it has decoded.
        window: u64,
        checksum: bool,
    },
    /// So many bytes that decoders pass over, header included.
    Skippable(u64),
}

impl Head {
    /// The longest header of a frame with content.
    pub(super) const MOST: usize = 18;

    /// Reads a header; `None` when there is none, or not all of it.
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

/// Follows one frame; gives where it ends.
fn frame(blob: &mut Headers<'_>, start: u64, found: &mut Frames) -> Option<u64> {
    let (bytes, checksum) = match Head::parse(blob.bytes(start, Head::MOST)?)? {
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
        assert_eq!(frames(&blob), Frames { content: 3, skippable: 2, window: 1 << 24 });
        assert_eq!(frames(&small), Frames { content: 1, skippable: 0, window: 300 });
        assert_eq!(frames(&narrow).window, 1 << 17);
        assert_eq!(frames(&blob[..blob.len() - 1].to_vec()).content, 3);
        assert_eq!(frames(&b"no frame".to_vec()), Frames::default());
    }
}
