//! Sizes as values of options with a default, which help shows as a person would write it.

use std::fmt;
use std::str::FromStr;

use crate::base::byte_size::ByteSize;
use crate::base::error::Error;

/// A number of bytes, written as `512MiB`. [`ByteSize`] would round it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().map(|size: ByteSize| Self(size.0))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trailing_zeros() {
            30..64 => write!(f, "{}GiB", self.0 >> 30),
            20..30 => write!(f, "{}MiB", self.0 >> 20),
            10..20 => write!(f, "{}KiB", self.0 >> 10),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_as_the_same_size() {
        let sizes = [(0, "0"), (1000, "1000"), (3 << 10, "3KiB"), (512 << 20, "512MiB")];
        for (size, text) in sizes.into_iter().chain([(1 << 40, "1024GiB")]) {
            assert_eq!(Size(size).to_string(), text);
            assert_eq!(text.parse::<Size>().unwrap().0, size);
        }
    }
}
