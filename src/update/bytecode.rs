//! Python's compiled files, as far as they note the time of their source.

use crate::fileset::{base_name, parent};

/// Bytes of the longest header.
pub(super) const HEADER: usize = 16;

/// What a compiled file says of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The low 32 bits of its modification time in seconds, at this offset in the header.
    Mtime { mtime: u32, at: usize },
    /// A hash of its content, or nothing: times don't matter.
    None,
    /// A form that is not known.
    Unknown,
}

impl Stamp {
    /// Reads the beginning of a file. The forms by magic number are in
    /// `Lib/importlib/_bootstrap_external.py` of Python; the newest one is PEP 552.
    pub(super) fn read(head: &[u8]) -> Self {
        let Some(header) = head.first_chunk::<HEADER>() else { return Self::Unknown };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let magic = u16::from_le_bytes([header[0], header[1]]);
        if &header[2..4] != b"\r\n" {
            return Self::Unknown;
        }
        match magic {
            3392..4000 if word(4) & 1 == 1 => Self::None,
            3392..4000 if word(4) == 0 => Self::Mtime { mtime: word(8), at: 8 },
            // Python 2, and 3 before 3.7; from 3.3 on the source's size follows.
            20121..=62211 | 3000..3392 => Self::Mtime { mtime: word(4), at: 4 },
            _ => Self::Unknown,
        }
    }
}

/// Path of the source that a compiled file stands for (PEP 3147, and the older place beside it);
/// `None` for other files.
pub(super) fn source_of(path: &[u8]) -> Option<Vec<u8>> {
    let name = base_name(path);
    let stem = name.strip_suffix(b".pyc").or(name.strip_suffix(b".pyo"))?;
    let dir = parent(path)?;
    let (dir, stem) = if base_name(dir) == b"__pycache__" {
        (parent(dir)?, stem.split(|b| *b == b'.').next()?)
    } else {
        (dir, stem)
    };
    let mut source = dir.to_vec();
    if !source.is_empty() {
        source.push(b'/');
    }
    source.extend_from_slice(stem);
    source.extend_from_slice(b".py");
    Some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_found() {
        for (path, want) in [
            (&b"a/__pycache__/x.cpython-311.pyc"[..], Some(&b"a/x.py"[..])),
            (b"a/__pycache__/x.cpython-311.opt-1.pyc", Some(b"a/x.py")),
            (b"__pycache__/x.cpython-311.pyc", Some(b"x.py")),
            (b"a/x.pyc", Some(b"a/x.py")),
            (b"a/x.pyo", Some(b"a/x.py")),
            (b"a/x.py", None),
        ] {
            assert_eq!(source_of(path).as_deref(), want, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn headers_of_every_age_are_read() {
        let head = |magic: u16, words: [u32; 3]| {
            let mut head = magic.to_le_bytes().to_vec();
            head.extend(b"\r\n");
            for w in words {
                head.extend(w.to_le_bytes());
            }
            Stamp::read(&head)
        };
        assert_eq!(head(3495, [0, 7, 9]), Stamp::Mtime { mtime: 7, at: 8 });
        assert_eq!(head(3495, [1, 7, 9]), Stamp::None);
        assert_eq!(head(3495, [3, 7, 9]), Stamp::None);
        assert_eq!(head(3495, [4, 7, 9]), Stamp::Unknown);
        assert_eq!(head(3379, [7, 9, 0]), Stamp::Mtime { mtime: 7, at: 4 });
        assert_eq!(head(62211, [7, 9, 0]), Stamp::Mtime { mtime: 7, at: 4 });
        assert_eq!(head(112, [0, 7, 9]), Stamp::Unknown);
        assert_eq!(Stamp::read(b"short"), Stamp::Unknown);
    }
}
