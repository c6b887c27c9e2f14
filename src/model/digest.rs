//! SHA-256 digests as OCI writes them, and readers and writers that compute them on the way.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::base::error::Error;

/// The SHA-256 of some bytes: a blob's digest, a diff ID, an image ID.
///
/// Written `sha256:` and 64 lower-case hex digits, as the image spec's
/// [descriptor](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests) says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest that these bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

/// Lower-case hex digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let Some(digits) = s.strip_prefix("sha256:") else {
            return Err(match s.split_once(':') {
                Some((algorithm, _)) => Error::unsupported(format!(
                    "digest algorithm {algorithm:?} is not supported, only sha256 is"
                )),
                None => Error::malformed(format!("{s:?} is not a digest")),
            });
        };
        let bad = || Error::malformed(format!("{s:?} is not sha256: and 64 lower-case hex digits"));
        if digits.len() != 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Passes bytes through to a reader or writer, counting and hashing them.
#[derive(Debug)]
pub struct Hashing<T> {
    inner: T,
    sha: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    /// Starts at zero bytes.
    pub fn new(inner: T) -> Self {
        Self { inner, sha: Sha256::new(), bytes: 0 }
    }

    /// Bytes that went through so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The inner reader or writer, the digest and the number of the bytes that went through.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest(self.sha.finalize().into()), self.bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.sha.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.sha.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        let d: Digest = EMPTY.parse().unwrap();
        assert_eq!(d, Digest::of(b""));
        assert_eq!(d.to_string(), EMPTY);
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in ["", "sha256:", "sha512:00", "e3b0", &EMPTY.to_uppercase(), &EMPTY[..70]] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashing_sees_what_passes() {
        let mut h = Hashing::new(Vec::new());
        h.write_all(b"abc").unwrap();
        let (inner, digest, bytes) = h.finish();
        assert_eq!((inner.as_slice(), digest, bytes), (&b"abc"[..], Digest::of(b"abc"), 3));
    }
}
