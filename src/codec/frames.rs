//! What a client must be able to do to decode a zstd blob, read from the headers of its frames and
//! blocks ([RFC 8878 §3.1](https://www.rfc-editor.org/rfc/rfc8878#section-3.1)). Nothing is
//! decompressed: blocks say how long they are.

use crate::content::ReadAt;

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
    /// Little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self, at: u64) -> Option<u64> {
        let end = at.checked_add(N as u64).filter(|end| *end <= self.blob.size())?;
        if at < self.start || end > self.start + self.page.len() as u64 {
            self.page.resize((self.blob.size() - at).min(1 << 12) as usize, 0);
            self.start = at;
            self.blob.read_exact_at(&mut self.page, at).ok()?;
        }
        let from = (at - self.start) as usize;
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.page[from..from + N]);
        Some(u64::from_le_bytes(bytes))
    }
}

/// Follows one frame; gives where it ends.
fn frame(blob: &mut Headers<'_>, start: u64, found: &mut Frames) -> Option<u64> {
    let magic = blob.number::<4>(start)?;
    if magic & !15 == 0x184d_2a50 {
        found.skippable += 1;
        return Some(start + 8 + blob.number::<4>(start + 4)?);
    }
    if magic != 0xfd2f_b528 {
        return None;
    }
    let flags = blob.number::<1>(start + 4)?;
    let (single, checksum) = (flags >> 5 & 1, flags >> 2 & 1);
    let dictionary = [0, 1, 2, 4][(flags & 3) as usize];
    let size_bytes = match flags >> 6 {
        0 => single,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = start + 5;
    let window = blob.number::<1>(at)?;
    at += 1 - single + dictionary;
    let content = match size_bytes {
        0 => 0,
        1 => blob.number::<1>(at)?,
        2 => blob.number::<2>(at)? + 256,
        4 => blob.number::<4>(at)?,
        _ => blob.number::<8>(at)?,
    };
    at += size_bytes;
    let base = 1 << (10 + (window >> 3));
    let window = if single == 1 { content } else { base + base / 8 * (window & 7) };
    found.content += 1;
    found.window = found.window.max(window);
    loop {
        let header = blob.number::<3>(at)?;
        let bytes = if header >> 1 & 3 == 1 { 1 } else { header >> 3 };
        at += 3 + bytes;
        if header & 1 == 1 {
            return Some(at + 4 * checksum);
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
